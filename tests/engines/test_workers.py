"""What several workers say to each other."""

from __future__ import annotations

import torch
from torch.multiprocessing.spawn import spawn

from isohop.engines.workers import ALONE, Workers


def _worker(rank: int, meeting: str, told: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    agreed = Workers(rank, 2).agreed(0.1 + rank)
    torch.distributed.destroy_process_group()
    with open(f"{told}-{rank}", "w", encoding="utf-8") as file:
        file.write(repr(agreed))


def test_a_number_that_is_agreed_on_is_the_first_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    spawn(_worker, (str(tmp_path / "meeting"), str(tmp_path / "told")), nprocs=2)
    assert [(tmp_path / f"told-{rank}").read_text("utf-8") for rank in range(2)] == ["0.1", "0.1"]
    assert ALONE.agreed(0.3) == 0.3
