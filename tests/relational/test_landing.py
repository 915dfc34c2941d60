"""What lands: types that every engine reads alike, and no value lost without a word."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isohop.engines.spark import Engine, spark_session
from isohop.relational.landing import (
    Misfits,
    Notes,
    invalid_texts,
    json_text,
    landed_type,
    landing,
    normalise,
    refused,
)

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])


def _normalised(values: pa.Array, notes: Notes | None = None) -> pa.Array:
    return normalise(values, landed_type(values.type), "x", notes or Notes())


@pytest.mark.parametrize(
    ("values", "landed"),
    [
        (pa.array([1, None, -3], pa.int8()), pa.array([1, None, -3], pa.int64())),
        (pa.array([1, 2**32 - 1], pa.uint32()), pa.array([1, 2**32 - 1], pa.int64())),
        (
            pa.array([0, 2**64 - 1], pa.uint64()),
            pa.array([Decimal(0), Decimal(2**64 - 1)], pa.decimal128(20, 0)),
        ),
        (pa.array([1.5, None], pa.float16()), pa.array([1.5, None], pa.float64())),
        (pa.array([0.25], pa.float32()), pa.array([0.25], pa.float64())),
        (pa.array(["a", None, "a"]).dictionary_encode(), pa.array(["a", None, "a"])),
        (pa.array(["ü", None], pa.large_string()), pa.array(["ü", None])),
        (pa.array(["ü", None], pa.string_view()), pa.array(["ü", None])),
        (pa.array([b"\xff\0"], pa.large_binary()), pa.array([b"\xff\0"])),
        (pa.array([b"ab"], pa.binary(2)), pa.array([b"ab"])),
        (pa.array([None, None]), pa.array([None, None], pa.string())),
        (pa.array([True, None]), pa.array([True, None])),
        (
            pa.array([Decimal("1.10")], pa.decimal256(50, 2)),
            pa.array([1.1]),
        ),
        (
            pa.array([Decimal("1.10")], pa.decimal256(20, 2)),
            pa.array([Decimal("1.10")], pa.decimal128(20, 2)),
        ),
        (pa.array([dt.date(2020, 2, 29)], pa.date64()), pa.array([dt.date(2020, 2, 29)])),
        (
            pa.array([dt.datetime(2020, 1, 1, 12)], pa.timestamp("s")),
            pa.array([dt.datetime(2020, 1, 1, 12)], pa.timestamp("us")),
        ),
        (pa.array([3661], pa.time32("s")), pa.array(["01:01:01"])),
        (pa.array([[1, None], None, []]), pa.array(["[1, null]", None, "[]"])),
        (pa.array([{"a": 1, "b": "ü"}]), pa.array(['{"a": 1, "b": "ü"}'])),
    ],
)
def test_values_stay_what_they_are_in_a_type_that_engines_share(
    values: pa.Array, landed: pa.Array
) -> None:
    assert _normalised(values).equals(landed)
    assert _normalised(pa.concat_arrays([values, values])[len(values) :]).equals(landed)


def test_instants_land_in_utc_without_a_zone() -> None:
    noon = dt.datetime(2020, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    values = pa.array([noon, None], pa.timestamp("ms", "Europe/Vienna"))
    expected = pa.array([dt.datetime(2020, 7, 1, 10), None], pa.timestamp("us"))
    assert _normalised(values).equals(expected)


def test_digits_below_a_microsecond_are_cut_and_counted() -> None:
    notes = Notes()
    values = pa.array([1_000, 1_001, None, -1], pa.timestamp("ns"))
    landed = _normalised(values, notes)
    assert landed.cast(pa.int64())[:2].to_pylist() == [1, 1]
    assert notes.sentences() == ("column 'x': 2 cut to microseconds, with digits lost",)


def test_nan_and_infinity_are_null_and_counted() -> None:
    notes = Notes()
    values = pa.array([1.0, float("nan"), float("inf"), float("-inf"), None], pa.float32())
    assert _normalised(values, notes).to_pylist() == [1.0, None, None, None, None]
    assert notes.sentences() == ("column 'x': 3 NaN or infinite, read as NULL",)


@given(st.lists(st.none() | st.uuids(), max_size=20), st.integers(0, 5))
def test_uuids_are_written_as_everyone_writes_them(
    values: list[uuid.UUID | None], cut: int
) -> None:
    storage = pa.array([v and v.bytes for v in values], pa.binary(16))
    array = pa.ExtensionArray.from_storage(pa.uuid(), storage)[cut:]
    assert _normalised(array).to_pylist() == [v and str(v) for v in values][cut:]


def test_nested_values_are_said_to_be_put_as_text() -> None:
    notes = Notes()
    _normalised(pa.array([[1]]), notes)
    assert "JSON text" in notes.sentences()[0]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4),
    )
)
def test_json_text_is_json(value: Any) -> None:
    def strict(constant: str) -> None:
        raise ValueError(constant)

    json.loads(json_text(value), parse_constant=strict)


@given(st.lists(st.integers(0, 3), max_size=60))
def test_exactly_the_refused_values_are_found(values: list[int]) -> None:
    def convert(part: pa.Array) -> None:
        if 0 in part.to_pylist():
            raise pa.ArrowInvalid("zero")

    found = refused(pa.array(values, pa.int64()), convert)
    assert found.tolist() == [row for row, value in enumerate(values) if value == 0]


@given(st.lists(st.none() | st.sampled_from([b"a", b"\xff", "ü".encode(), b"\xed\xa0\x80"])))
def test_exactly_the_texts_that_are_not_utf8_are_found(values: list[bytes | None]) -> None:
    def valid(value: bytes | None) -> bool:
        try:
            return value is None or value.decode() is not None
        except UnicodeDecodeError:
            return False

    array = pa.array(values, pa.binary()).view(pa.string())
    expected = [row for row, value in enumerate(values) if not valid(value)]
    assert invalid_texts(array).tolist() == expected


def test_every_row_lands_or_is_quarantined_with_its_line_and_all_reasons(tmp_path: Path) -> None:
    with landing(tmp_path / "t") as arriving:
        arriving.begin(SCHEMA)
        batch = pa.record_batch([[1, 2, 3], ["a", None, "c"]], schema=SCHEMA)
        misfits = Misfits()
        misfits.add(np.array([1]), ["first"])
        misfits.add(np.array([1]), ["second"])
        arriving.sift(batch, misfits, np.array([10, 20, 30]), batch)
    table = arriving.landed("t", tmp_path / "t", "mark")
    assert (table.rows, table.rows_read) == (2, 3)
    assert pq.read_table(table.paths[0]).to_pydict() == {"id": [1, 3], "name": ["a", "c"]}
    assert table.quarantine is not None
    assert pq.read_table(table.quarantine).to_pylist() == [
        {"reason": "first; second", "row": 20, "raw": '{"id": 2, "name": null}'}
    ]


def test_a_table_without_rows_lands_with_its_columns(tmp_path: Path) -> None:
    with landing(tmp_path / "t") as arriving:
        arriving.begin(SCHEMA)
    table = arriving.landed("t", tmp_path / "t", "")
    assert (table.rows, table.rows_read, table.quarantine) == (0, 0, None)
    assert table.all_null == tuple(SCHEMA.names)
    assert pq.read_schema(table.paths[0]).equals(SCHEMA)


def test_columns_without_a_value_are_named(tmp_path: Path) -> None:
    with landing(tmp_path / "t") as arriving:
        arriving.begin(SCHEMA)
        arriving.write(pa.record_batch([[1, 2], [None, None]], schema=SCHEMA))
    assert arriving.landed("t", tmp_path / "t", "").all_null == ("name",)


def test_a_landing_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with landing(tmp_path / "t") as arriving:
            arriving.begin(SCHEMA)
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_small_batches_make_few_row_groups(tmp_path: Path) -> None:
    with landing(tmp_path / "t") as arriving:
        arriving.begin(SCHEMA)
        for row in range(500):
            arriving.write(pa.record_batch([[row], ["x"]], schema=SCHEMA))
    table = arriving.landed("t", tmp_path / "t", "")
    assert pq.read_metadata(table.paths[0]).num_row_groups == 1
    assert table.rows == 500


@pytest.mark.parametrize("engine", ["sail", pytest.param("spark", marks=pytest.mark.spark)])
def test_engines_read_what_landed(tmp_path: Path, engine: Engine) -> None:
    values: dict[str, tuple[pa.DataType, Any, str]] = {
        "i": (pa.int64(), -(2**63), "bigint"),
        "d": (pa.float64(), 0.1, "double"),
        'a "b`.c ü': (pa.string(), "ü\n", "string"),
        "b": (pa.bool_(), False, "boolean"),
        "da": (pa.date32(), dt.date(1500, 1, 1), "date"),
        "ts": (pa.timestamp("us"), dt.datetime(2020, 3, 29, 2, 30, 0, 1), "timestamp_ntz"),
        "de": (pa.decimal128(20, 0), Decimal(2**64 - 1), "decimal(20,0)"),
        "bi": (pa.binary(), b"\xff\0", "binary"),
    }
    schema = pa.schema([(name, type) for name, (type, _, _) in values.items()])
    row = [value for _, value, _ in values.values()]
    with spark_session(engine) as session:
        for rows in ([], [row, [None] * len(row)]):
            folder = tmp_path / str(len(rows))
            with landing(folder) as arriving:
                arriving.begin(schema)
                if rows:
                    columns = [list(column) for column in zip(*rows, strict=True)]
                    arriving.write(pa.record_batch(columns, schema=schema))
            table = arriving.landed("t", folder, "")
            frame = session.read.parquet(*map(str, table.paths))
            read = [tuple(found) for found in frame.collect()]
            assert frame.dtypes == [(name, type) for name, (_, _, type) in values.items()]
            assert sorted(read, key=repr) == sorted(map(tuple, rows), key=repr)
