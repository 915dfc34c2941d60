"""The types of texts: recognised only where nothing is lost, and the same in any order."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.relational.landing import LandedTable, Notes, landing
from isohop.relational.texts import TEXT_TYPES, TextTable, misfits, read_texts, read_times


def _land(
    folder: Path, batches: Sequence[Sequence[str | None]], stated: str | None = None
) -> tuple[str, list[Any], LandedTable]:
    """One column 'x': its type, its values, and the table."""
    with landing(folder / "t") as arriving:
        types = {"x": stated} if stated else {}
        scratch = arriving.folder / "scratch"
        line = 1
        with TextTable(["x"], types, scratch) as table:
            for batch in batches:
                lines = np.arange(line, line + len(batch))
                table.add([pa.array(batch, pa.string())], lines)
                line += len(batch)
        arriving.begin(table.schema())
        table.land(arriving)
        scratch.unlink()
    landed = arriving.landed("t", folder / "t", "")
    return table.types()["x"], pq.read_table(landed.paths[0])["x"].to_pylist(), landed


@pytest.mark.parametrize(
    ("texts", "type", "values"),
    [
        (["1", "-20", "0", None], "integer", [1, -20, 0, None]),
        ([str(2**63 - 1), str(-(2**63))], "integer", [2**63 - 1, -(2**63)]),
        (["1", "2.50", "-.5", "3.", "1e3", None], "number", [1.0, 2.5, -0.5, 3.0, 1000.0, None]),
        (["1.5", "NaN", "-inf", "1e999"], "number", [1.5, None, None, None]),
        (["true", "FALSE", "True"], "boolean", [True, False, True]),
        (["2020-02-29", "0001-01-01"], "date", [dt.date(2020, 2, 29), dt.date(1, 1, 1)]),
        (
            ["2020-02-29", "2020-02-29T10:00:00.5", "2020-02-29 10:00"],
            "timestamp",
            [
                dt.datetime(2020, 2, 29),
                dt.datetime(2020, 2, 29, 10, 0, 0, 500_000),
                dt.datetime(2020, 2, 29, 10),
            ],
        ),
        (
            ["2020-02-29T10:00:00Z", "2020-02-29 10:00:00+02:00", "2020-02-29T10:00:00"],
            "timestamp",
            [
                dt.datetime(2020, 2, 29, 10),
                dt.datetime(2020, 2, 29, 8),
                dt.datetime(2020, 2, 29, 10),
            ],
        ),
    ],
)
def test_types_are_recognised(
    tmp_path: Path, texts: list[str | None], type: str, values: list[Any]
) -> None:
    found, read, landed = _land(tmp_path, [texts])
    assert (found, read) == (type, values)
    assert landed.schema.field("x").type == TEXT_TYPES[type]


@pytest.mark.parametrize(
    "texts",
    [
        ["02134", "10115"],  # postal codes
        ["+49", "+1"],
        ["0x10", "16"],
        [" 1", "2"],
        ["1,5", "2,5"],
        [str(2**63), "1"],
        ["12345678901234567", "1.5"],  # an identifier that a double would round
        ["1", "0", "true"],
        ["t", "f"],
        ["nan", "Inf", "NaN"],  # names, as no number is among them
        ["2020-02-30", "2020-02-01"],
        ["20200229", "29.02.2020"],
        ["10:00:00"],
        ["2020-02-29", "1"],
        ["", "1"],
        [None, None],
    ],
)
def test_what_a_type_would_change_stays_text(tmp_path: Path, texts: list[str | None]) -> None:
    found, read, landed = _land(tmp_path, [texts])
    assert (found, read) == ("string", texts)
    assert landed.all_null == (("x",) if texts == [None, None] else ())
    assert landed.notes == ()


_TEXTS = st.one_of(
    st.none(),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.dates().map(str),
    st.datetimes().map(lambda d: d.isoformat(" ")),
    st.sampled_from(
        ["true", "False", "0", "007", "nan", "Inf", "", "2020-01-01T00:00:00.1234567Z"]
    ),
)


@settings(max_examples=60)
@given(st.data())
def test_neither_order_nor_batches_make_a_difference(data: st.DataObject) -> None:
    one_kind = st.sampled_from([_TEXTS, *(part for part in _TEXTS.branches)])
    texts = data.draw(st.lists(data.draw(one_kind), max_size=8))
    shuffled = data.draw(st.permutations(texts))
    cut = data.draw(st.integers(0, len(texts)))
    with tempfile.TemporaryDirectory() as folder:
        type, values, _ = _land(Path(folder) / "a", [texts])
        other, shuffled_values, _ = _land(Path(folder) / "b", [shuffled[:cut], shuffled[cut:]])
    assert type == other
    assert sorted(map(str, values)) == sorted(map(str, shuffled_values))


@settings(max_examples=60)
@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_are_read_exactly(values: list[int | None]) -> None:
    texts = [None if value is None else str(value) for value in values]
    with tempfile.TemporaryDirectory() as folder:
        type, read, _ = _land(Path(folder), [texts])
    assert read == (values if type == "integer" else texts)
    assert type == "integer" or texts == [None] * len(texts)


@settings(max_examples=60)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_are_read_exactly(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        type, read, _ = _land(Path(folder), [[repr(value) for value in values]])
    assert (type, read) == ("number", values)


def test_digits_below_a_microsecond_are_counted(tmp_path: Path) -> None:
    stamps = ["2020-01-01 00:00:00.123456789", "9999-12-31 00:00:00.123456000", "2020-01-01"]
    type, values, landed = _land(tmp_path, [stamps])
    assert type == "timestamp"
    assert values[:2] == [
        dt.datetime(2020, 1, 1, 0, 0, 0, 123456),
        dt.datetime(9999, 12, 31, 0, 0, 0, 123456),
    ]
    assert landed.notes == ("column 'x': 1 cut to microseconds, with digits lost",)


@pytest.mark.parametrize(
    ("type", "fitting", "values", "unfit"),
    [
        ("integer", ["007", " 5 ", "+3", "5.0", "-1"], [7, 5, 3, 5, -1], ["abc", "1.5", "0x1", ""]),
        ("integer", [str(2**63 - 1)], [2**63 - 1], [str(2**63)]),
        ("number", ["007", "1e3", "+.5"], [7.0, 1000.0, 0.5], ["1,5", "five", "1 2"]),
        ("number", ["nan"], [None], []),
        ("boolean", ["yes", "F", "1", "0", "TRUE"], [True, False, True, False, True], ["2", "x"]),
        (
            "date",
            ["2020-02-29", "2020-02-29 00:00:00"],
            [dt.date(2020, 2, 29)] * 2,
            ["2021-02-29", "2020-02-29 10:00", "29.2.2020"],
        ),
        ("timestamp", ["2020-02-29T10:00Z"], [dt.datetime(2020, 2, 29, 10)], ["now", "1600000000"]),
        ("string", ["007", " x"], ["007", " x"], []),
    ],
)
def test_a_stated_type_binds_and_misfits_are_quarantined(
    tmp_path: Path, type: str, fitting: list[str], values: list[Any], unfit: list[str]
) -> None:
    mixed = [*unfit, None, *fitting]
    found, read, landed = _land(tmp_path, [mixed], stated=type)
    assert (found, read) == (type, [None, *values])
    assert landed.rows_read == len(mixed)
    if unfit:
        assert landed.quarantine is not None
        rejected = pq.read_table(landed.quarantine).to_pydict()
        assert rejected["row"] == list(range(1, len(unfit) + 1))
        article = "an" if type == "integer" else "a"
        assert rejected["reason"] == [
            f"column x: '{text}' is not {article} {type}" for text in unfit
        ]


@given(st.lists(st.sampled_from(["1", "x", None]), max_size=40))
def test_exactly_the_misfits_are_found(texts: list[str | None]) -> None:
    rows, reasons = misfits(pa.array(texts, pa.string()), "integer", "x")
    assert rows.tolist() == [row for row, text in enumerate(texts) if text == "x"]
    assert len(reasons) == len(rows)


def test_whole_numbers_are_read_as_programs_write_them_that_keep_doubles() -> None:
    texts = ["100000", "1e+05", "1E5", " 2.0", "nan", "-inf", None, "1.5e1"]
    notes = Notes()
    read = read_texts(pa.array(texts), "integer", "x", notes)
    assert read.to_pylist() == [100_000, 100_000, 100_000, 2, None, None, None, 15]
    (told,) = notes.sentences()
    assert told.startswith("column 'x': 2 ")
    wrong = ["1.5e0", "1e-3", "1e16", "1e300", "n.n."]
    assert misfits(pa.array(wrong), "integer", "x")[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("stated", [None, "timestamp"])
def test_a_day_among_times_is_a_day_whether_that_is_stated_or_not(stated: str | None) -> None:
    """It has to be over; as midnight it would be known on that very day."""
    times, days = read_times(pa.array(["2024-01-05", "2024-01-05T08:00:00", None]), stated)
    assert times.to_pylist()[0] == dt.datetime(2024, 1, 5)
    assert days.to_pylist() == [True, False, None]


@pytest.mark.parametrize("type", list(TEXT_TYPES))
def test_all_nulls_have_every_type(type: str) -> None:
    read = read_texts(pa.array([None, None], pa.string()), type, "x", Notes())
    assert read.equals(pa.array([None, None], TEXT_TYPES[type]))
