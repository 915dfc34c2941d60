"""Databases written from Python values, and built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from isohop.graph import Graph
from isohop.graph.build import build

Tables = Mapping[str, Mapping[str, Any] | pa.Table]


def write_database(folder: Path, schema: str, tables: Tables) -> Path:
    """A folder of Parquet files and the schema file that describes them."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
        pq.write_table(table, folder / "data" / f"{name}.parquet")
    raw = {"database": "d", "source": {"path": "data"}, **yaml.safe_load(schema)}
    file = folder / "schema.yaml"
    file.write_text(yaml.safe_dump(raw, allow_unicode=True), "utf-8")
    return file


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Graph]:
    """Build a graph from a schema's YAML and its tables; each call in a folder of its own."""
    count = 0

    def made(schema: str, tables: Tables, engine: str = "sail") -> Graph:
        nonlocal count
        count += 1
        folder = tmp_path / f"database-{count}"
        return build(write_database(folder, schema, tables), folder / "graph", engine)

    return made
