"""Tables in parts: rows split over several tables, and a table under another name, are one."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from isohop.errors import InvalidInput
from isohop.graph import Graph
from isohop.graph.build import build
from tests.graph.conftest import write_database

WHOLE = "entities: {c: {table: c}}\ntables: {c: {key: [id]}}"
PARTS = "entities: {c: {table: c}}\ntables: {c: {key: [id], parts: [c_1, c_2]}}"


def made(folder: Path, schema: str, tables: dict) -> Graph:
    return build(write_database(folder, schema, tables), folder / "graph")


def test_rows_split_over_two_tables_give_the_graph_of_one(tmp_path):
    one = made(tmp_path / "a", WHOLE, {"c": {"id": [1, 2, 3], "x": ["a", None, "c"]}})
    parts = {
        "c_1": {"id": [3, 1], "x": ["c", "a"]},
        "c_2": {"x": pa.array([None], pa.string()), "id": [2]},
    }
    two = made(tmp_path / "b", PARTS, parts)
    assert one.manifest.certificate == two.manifest.certificate
    assert two.nodes("c").equals(one.nodes("c"))


def test_a_column_without_a_value_in_one_part_has_the_type_of_the_others(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "c_1.csv").write_text("id,x\n1,5\n")
    (data / "c_2.csv").write_text("id,x\n2,\n")
    file = tmp_path / "schema.yaml"
    file.write_text(f"database: d\nsource: {{path: data}}\n{PARTS}\n")
    graph = build(file, tmp_path / "graph")
    assert graph.nodes("c").column("x").to_pylist() == [5, None]


@pytest.mark.parametrize(
    "values", [[1.5, 2.5], pa.array([Decimal("1.10"), None]), [b"a", b"\xff"], [True, None]]
)
@pytest.mark.parametrize("silent", [pa.nulls(2), pa.nulls(2, pa.string())])
def test_a_column_of_any_type_may_be_without_a_value_in_one_part(tmp_path, values, silent):
    told, nothing = {"id": [3, 4], "x": values}, {"id": [1, 2], "x": silent}
    whole = made(tmp_path / "a", WHOLE, {"c": {"id": [1, 2, 3, 4], "x": [None, None, *values]}})
    for name, parts in (("b", [told, nothing]), ("c", [nothing, told])):
        graph = made(tmp_path / name, PARTS, dict(zip(("c_1", "c_2"), parts, strict=True)))
        assert graph.manifest.certificate == whole.manifest.certificate
        assert graph.nodes("c").equals(whole.nodes("c"))


def message(folder: Path, schema: str, tables: dict) -> str:
    file = write_database(folder, schema, tables)
    with pytest.raises(InvalidInput) as caught:
        build(file, folder / "graph")
    return str(caught.value)


def test_a_part_that_is_missing_is_named_with_what_there_is(tmp_path):
    told = message(tmp_path, PARTS, {"c_1": {"id": [1]}, "c_3": {"id": [2]}})
    assert "no table 'c_2'" in told
    assert "Did you mean" in told


def test_parts_with_other_columns_or_types_are_refused(tmp_path):
    told = message(tmp_path / "a", PARTS, {"c_1": {"id": [1], "x": [1]}, "c_2": {"id": [2]}})
    assert "'c_2' lacks x" in told
    told = message(tmp_path / "b", PARTS, {"c_1": {"id": [1]}, "c_2": {"id": ["2"]}})
    assert "int64 in 'c_1'" in told
    assert "string in 'c_2'" in told


def test_one_table_cannot_be_part_of_two(tmp_path):
    twice = "entities: {c: {table: c}}\ntables: {c: {key: [id], parts: [t]}, d: {parts: [t]}}"
    assert "already those of 'c'" in message(tmp_path, twice, {"t": {"id": [1]}})
