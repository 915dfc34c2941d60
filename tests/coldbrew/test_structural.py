"""Structural embeddings that workers share out: a step learns from them what it learns from a table
that each holds whole."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from isohop.coldbrew.structural import StructuralEmbeddings
from isohop.engines.checkpoints import load_checkpoint, save_checkpoint
from isohop.engines.workers import Workers
from tests.group import together

ROWS = {"author": 10, "paper": 7, "shelf": 1, "word": 0}
"""Of which three workers do not have equally many."""
PLACES, WIDTH, STEPS, WORKERS = 2, 4, 3, 3
DISPLACED = (STEPS, 1)
"""From which step on all are 0: never, or after the first."""


def a_table() -> StructuralEmbeddings:
    table = StructuralEmbeddings(ROWS, PLACES, WIDTH, sparse=True)
    random = torch.Generator().manual_seed(1)
    for values in table.parameters():
        values.data.normal_(generator=random)
    return table


def asked(step: int, rank: int) -> dict[str, torch.Tensor]:
    """Rows that a worker needs in a step: some that others need too, of a type none, or all."""
    draw = np.random.default_rng([step, rank])
    return {
        name: torch.from_numpy(np.flatnonzero(draw.random(rows) < 0.5))
        for name, rows in ROWS.items()
    }


def loss(table: StructuralEmbeddings, step: int, rank: int) -> torch.Tensor:
    """Different for each row, place and worker."""
    told = [
        (rank + 1) * (place + 1) * (values[:, :1].sin() * values).sum()
        for place, of_place in enumerate(table.take(asked(step, rank)))
        for values in of_place.values()
    ]
    return torch.stack(told).sum()


def learn(table: StructuralEmbeddings, ranks: range, displaced: int) -> None:
    """Step by step; ``displaced``: from which step on all are 0."""
    optimiser = torch.optim.SparseAdam(list(table.parameters()), lr=0.1)
    for step in range(STEPS):
        if step == displaced:
            with torch.no_grad():
                table.displace()
        optimiser.zero_grad(set_to_none=True)
        total = torch.stack([loss(table, step, rank) for rank in ranks]).sum()
        if total.requires_grad:
            total.backward()
        table.give_back()
        optimiser.step()


def _share_out(workers: Workers, at: Path) -> None:
    rank = workers.rank
    for displaced in DISPLACED:
        table = a_table()
        whole = sum(values.numel() for values in table.parameters())
        table.share_out(workers)
        own = sum(values.numel() for values in table.parameters())
        assert own <= whole / WORKERS + PLACES * WIDTH * len(ROWS)
        learn(table, range(rank, rank + 1), displaced)
        with table.whole(), torch.no_grad():
            every = table.take({name: torch.arange(rows) for name, rows in ROWS.items()})
        assert table.learned == any(bool(v.any()) for of in every for v in of.values())
        _keeps(at, workers, table)
        table.unite()
        for of_place, values in zip(table.all_rows(), every, strict=True):
            assert all(torch.equal(of_place[name], values[name]) for name in ROWS)
        save_file(table.state_dict(), at / f"table-{displaced}-{rank}")


def _keeps(at: Path, workers: Workers, table: StructuralEmbeddings) -> None:
    """What each holds of its own comes back to it."""
    state = {"table": table.state_dict()}
    for step in (1, 2):
        if workers.rank == step:  # the others wait: the first one would tell of what is not there
            time.sleep(0.5)
        save_checkpoint(at / "c.safetensors", {}, {"told": "it"}, workers, state, step)
        assert all((at / f"c.{step}.{one}.safetensors").exists() for one in workers.all)
    parts, about = load_checkpoint(at / "c.safetensors", workers)
    assert about == {"told": "it"}
    assert all(torch.equal(v, parts["table"][n]) for n, v in state["table"].items())


def test_workers_that_share_a_table_out_learn_what_one_learns(tmp_path):
    together(_share_out, WORKERS, tmp_path)
    for displaced in DISPLACED:
        alone = a_table()
        learn(alone, range(WORKERS), displaced)
        for rank in range(WORKERS):
            found = load_file(tmp_path / f"table-{displaced}-{rank}")
            for name, values in alone.state_dict().items():
                torch.testing.assert_close(found[name], values.detach(), msg=f"{name} of {rank}")
        assert alone.learned == (displaced == STEPS)
    left = sorted(file.name for file in tmp_path.glob("c.*"))
    assert left == ["c.2.0.safetensors", "c.2.1.safetensors", "c.2.2.safetensors", "c.safetensors"]
