"""What several workers say to each other."""

from __future__ import annotations

from pathlib import Path

from isohop.engines.workers import ALONE, Workers
from tests.group import together


def _agree(workers: Workers, folder: Path) -> None:
    agreed = workers.agreed(0.1 + workers.rank)
    (folder / f"told-{workers.rank}").write_text(repr(agreed), "utf-8")


def test_a_number_that_is_agreed_on_is_the_first_ones(tmp_path):
    together(_agree, 2, tmp_path)
    assert [(tmp_path / f"told-{rank}").read_text("utf-8") for rank in range(2)] == ["0.1", "0.1"]
    assert ALONE.agreed(0.3) == 0.3
