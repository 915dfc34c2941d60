"""Parquet: a file that every engine reads alike is used as it is, any other is rewritten."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.errors import InvalidInput
from isohop.relational.landing import LandedTable
from isohop.relational.parquet_files import land_parquet, parquet_columns


def _write(path: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def _land(*paths: Path, columns: tuple[str, ...] | None = None) -> LandedTable:
    columns = columns or tuple(pq.read_schema(paths[0]).names)
    return land_parquet(paths, paths[0].parent / "landed", "t", columns, "mark")


def _read(table: LandedTable) -> dict[str, list[Any]]:
    parts = [pq.read_table(path).select(table.schema.names) for path in table.paths]
    return pa.concat_tables(parts).to_pydict()


CONFORMING = {
    "i": pa.array([1, None]),
    "d": pa.array([1.5, None]),
    "s": pa.array(["ü", None]),
    "b": pa.array([True, None]),
    "da": pa.array([dt.date(2020, 1, 1), None]),
    "ts": pa.array([dt.datetime(2020, 1, 1), None], pa.timestamp("us")),
    "de": pa.array([Decimal("1.10"), None]),
    "bi": pa.array([b"\xff", None]),
}


def test_a_conforming_file_is_not_copied(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.parquet", CONFORMING)
    table = _land(path)
    assert (table.paths, table.rows, table.rows_read) == ((path,), 2, 2)
    assert table.schema.equals(pa.table(CONFORMING).schema)
    assert (table.quarantine, table.notes) == (None, ())
    assert not (tmp_path / "landed").exists()
    assert _land(path, columns=("s", "i")).schema.names == ["s", "i"]


@pytest.mark.parametrize(
    ("values", "landed", "notes"),
    [
        (pa.array([1, 2], pa.uint32()), [1, 2], 0),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"], 0),
        (pa.array([1, 2**40], pa.uint64()), [1, 2**40], 0),
        (pa.array([1, 2**63], pa.uint64()), [Decimal(1), Decimal(2**63)], 0),
        (pa.array([1.0, float("nan")]), [1.0, None], 1),
        (pa.array([[1], [2, 3]]), ["[1]", "[2, 3]"], 1),
        (pa.array([0, 1001], pa.timestamp("ns")), [dt.datetime(1970, 1, 1), None], 1),
        (pa.array([0, 1], pa.time64("us")), ["00:00:00.000000", "00:00:00.000001"], 0),
    ],
)
def test_any_other_file_is_rewritten(
    tmp_path: Path, values: pa.Array, landed: list[Any], notes: int
) -> None:
    path = _write(tmp_path / "t.parquet", {"x": values, "y": pa.array(["p", "q"])})
    table = _land(path)
    read = _read(table)
    if pa.types.is_timestamp(values.type):
        landed[1] = dt.datetime(1970, 1, 1, 0, 0, 0, 1)
    assert path not in table.paths
    assert (read["x"], read["y"]) == (landed, ["p", "q"])
    assert len(table.notes) == notes
    declared = {column.name: column.type for column in parquet_columns([path])}
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == declared


@pytest.mark.parametrize("type", [pa.large_string(), pa.string_view()])
def test_how_a_writer_held_texts_does_not_count(tmp_path: Path, type: pa.DataType) -> None:
    long = "so long that a view does not hold it"
    path = _write(tmp_path / "t.parquet", {"x": pa.array([long, "ü", None], type)})
    table = _land(path)
    assert table.paths == (path,)
    assert table.schema.field("x").type == pa.string()
    broken = pa.array([b"a", b"\xff" * 20]).view(pa.string())
    views = pa.table({"x": broken}).cast(pa.schema([("x", type)]), safe=False)
    table = _land(_write(tmp_path / "broken.parquet", {"x": views["x"]}))
    assert (_read(table), table.rows_read) == ({"x": ["a"]}, 2)


def test_narrow_numbers_are_left_to_the_engine_to_widen(tmp_path: Path) -> None:
    held = {"x": ["a"], "n": pa.array([1], pa.int32()), "f": pa.array([1.0], pa.float32())}
    path = _write(tmp_path / "t.parquet", held)
    table = _land(path)
    assert table.paths == (path,)
    assert [field.name for field in table.narrow[path]] == ["n", "f"]
    assert table.schema.types == [pa.string(), pa.int64(), pa.float64()]
    assert _land(path, columns=("x",)).narrow == {}


def test_only_the_columns_asked_for_make_a_file_unclean(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.parquet", {"x": [float("nan")], "y": ["a"]})
    assert _land(path, columns=("y",)).paths == (path,)
    assert _land(path, columns=("x",)).paths != (path,)


def test_texts_that_are_not_utf8_are_quarantined(tmp_path: Path) -> None:
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    table = _land(_write(tmp_path / "t.parquet", {"id": [1, 2, 3], "name": broken}))
    assert _read(table) == {"id": [1, 3], "name": ["a", "c"]}
    assert table.quarantine is not None
    assert pq.read_table(table.quarantine).to_pylist() == [
        {"reason": "column name: not UTF-8", "row": 2, "raw": '{"id": 2, "name": "\\\\xff"}'}
    ]
    assert (table.rows, table.rows_read) == (2, 3)


def test_old_timestamps_of_any_year_land(tmp_path: Path) -> None:
    stamps = [dt.datetime(1500, 1, 1), dt.datetime(9999, 12, 31)]
    values = pa.array(stamps, pa.timestamp("us"))
    path = _write(tmp_path / "t.parquet", {"x": values}, use_deprecated_int96_timestamps=True)
    table = _land(path)
    assert path not in table.paths
    assert _read(table)["x"] == stamps


def test_names_with_dots_are_told_apart(tmp_path: Path) -> None:
    columns = {"a": [1], "a.b": [float("nan")], 'c "`': pa.array([2], pa.int8())}
    assert _read(_land(_write(tmp_path / "t.parquet", columns), columns=("a", 'c "`'))) == {
        "a": [1],
        'c "`': [2],
    }
    assert _read(_land(tmp_path / "t.parquet", columns=("a.b", "a"))) == {"a.b": [None], "a": [1]}


def test_a_column_of_nulls_is_known_before_reading(tmp_path: Path) -> None:
    columns = {"x": pa.array([None, None], pa.string()), "n": pa.nulls(2), "y": [1, None]}
    path = _write(tmp_path / "t.parquet", columns, row_group_size=1)
    assert [column.all_null for column in parquet_columns([path])] == [True, True, False]
    assert _land(path).all_null == ("x", "n")
    empty = _write(tmp_path / "e.parquet", {"x": pa.array([], pa.string())})
    assert [column.all_null for column in parquet_columns([empty])] == [True]


def test_parts_are_one_table(tmp_path: Path) -> None:
    one = _write(tmp_path / "t" / "1.parquet", {"id": [1], "x": [1.0]})
    assert _land(one, one).rows == 2
    with pytest.raises(InvalidInput, match="'x' is string, but double"):
        _land(one, _write(tmp_path / "t" / "3.parquet", {"id": [3], "x": ["a"]}))
    with pytest.raises(InvalidInput, match="'y' is missing"):
        parquet_columns(
            [one, _write(tmp_path / "t" / "4.parquet", {"id": [1], "x": [1.0], "y": [1]})]
        )
    narrow = pa.table({"x": pa.array([2.5], pa.float32()), "id": pa.array([3], pa.int16())})
    mixed = _land(one, _write(tmp_path / "t" / "5.parquet", narrow))
    assert _read(mixed) == {"id": [1, 3], "x": [1.0, 2.5]}


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.5, None]),
        pa.array([2**63, None], pa.uint64()),
        pa.array([dt.date(2020, 1, 1), None]),
        pa.array(["a", None]),
    ],
)
def test_a_part_that_knows_no_type_of_a_column_takes_that_of_the_others(
    tmp_path: Path, values: pa.Array
) -> None:
    """As pandas writes a day on which nobody said anything."""
    told = _write(tmp_path / "t" / "2.parquet", {"id": [3, 4], "x": values})
    silent = _write(tmp_path / "t" / "1.parquet", {"id": [1, 2], "x": pa.nulls(2)})
    alone = _land(told)
    for paths in ([silent, told], [told, silent], [silent, silent, told]):
        landed = _land(*paths)
        assert landed.schema.equals(alone.schema)
        assert landed.all_null == ()
        found = dict(zip(*_read(landed).values(), strict=True))
        assert found == dict.fromkeys([1, 2]) | dict(zip(*_read(alone).values(), strict=True))
    # What no part knows a type of.
    assert _land(silent, silent).all_null == ("x",)
    other = _write(tmp_path / "t" / "3.parquet", {"id": [5], "x": [True]})
    with pytest.raises(InvalidInput, match=r"'x' is bool, but .* in 2.parquet"):
        _land(silent, told, other)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = _write(tmp_path / "town.parquet", {"id": list(range(1000))})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidInput, match="make or copy it again") as caught:
        parquet_columns([path])
    assert "town.parquet" in str(caught.value)


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "town.parquet", {"x": [f"text {n}" for n in range(5000)]})
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"town\.parquet"):
        _land(path, columns=("x",))


def test_values_beyond_a_type_are_told(tmp_path: Path) -> None:
    values = pa.array([2**62], pa.timestamp("s"))
    table = pa.table({"when": values})
    path = tmp_path / "t.parquet"
    pq.write_table(table.cast(pa.schema([("when", pa.timestamp("ms"))]), safe=False), path)
    far = pa.array([2**62], pa.timestamp("ms"))
    pq.write_table(pa.table({"when": far}), path)
    with pytest.raises(InvalidInput, match="column 'when'"):
        _land(path)


def test_texts_of_a_megabyte_are_read_in_small_batches(tmp_path: Path) -> None:
    texts = [f"{n}" * (1 << 20) for n in range(4)]
    path = _write(tmp_path / "t.parquet", {"x": pa.array(texts, pa.large_string())})
    assert _read(_land(path))["x"] == texts


def test_columns_of_one_name_are_told(tmp_path):
    twice = pa.Table.from_arrays([[1], ["x"], ["y"]], ["id", "a", "a"])
    with pytest.raises(InvalidInput, match="two columns are named alike, 'a' and 'a'"):
        parquet_columns([_write(tmp_path / "t.parquet", twice)])
