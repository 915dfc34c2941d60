"""Small runs to publish, made without any stage before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def make_entity(
    rows: int = 20,
    dimensions: int = 4,
    seed: int = 0,
    key: Mapping[str, Sequence[Any] | pa.Array] | None = None,
) -> pa.Table:
    """One entity's embeddings as the contract asks for them."""
    generator = np.random.default_rng(seed)
    values = pa.array(generator.normal(size=rows * dimensions).astype(np.float32))
    columns: dict[str, Any] = dict(key) if key is not None else {"code": _codes(rows)}
    return pa.table(
        {
            **columns,
            "node_id": pa.array(np.arange(rows)),
            "embedding": pa.FixedSizeListArray.from_arrays(values, dimensions),
            "source": pa.array(np.where(np.arange(rows) % 4 == 3, "student", "teacher")),
            "confidence": pa.array([None, *[0.5] * (rows - 1)][:rows], pa.float32()),
            "degree": pa.array(generator.integers(0, 9, rows)),
        }
    )


def write_run(embeddings: Path, entities: Mapping[str, pa.Table], files: int = 1) -> Path:
    """Write entities as a run's embeddings, each in some files, sorted by node id."""
    for name, table in entities.items():
        folder = embeddings / name
        folder.mkdir(parents=True)
        size = -(-table.num_rows // files) or 1
        for part in range(files):
            pq.write_table(
                table.slice(part * size, size), folder / f"part-{part}.parquet", row_group_size=64
            )
    return embeddings


def _codes(rows: int) -> list[str]:
    return [f"node {row}" for row in range(rows)]


@pytest.fixture
def entity() -> Callable[..., pa.Table]:
    return make_entity


@pytest.fixture
def run_writer() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """A run of two entities, one keyed by two columns."""
    station = {"origin": ["EWR", "EWR", "JFK"], "hour": pa.array([1, 2, 1], pa.int32())}
    entities = {"airport": make_entity(), "station": make_entity(3, 6, 1, station)}
    return write_run(tmp_path / "run" / "embeddings", entities, files=2)


@pytest.fixture
def publication() -> dict[str, Any]:
    """What a publication says of its run."""
    return {
        "run": "run-1",
        "certificate": "0123456789abcdef0123456789abcdef",
        "fingerprints": {"schema": "aa", "model": "bb"},
    }
