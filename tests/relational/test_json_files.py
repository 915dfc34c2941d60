"""JSON: objects in an array or one a line are the same table, and a broken line costs itself."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.errors import InvalidInput
from isohop.relational import json_files
from isohop.relational.json_files import JsonFile, is_description
from isohop.relational.landing import LandedTable
from isohop.relational.text_files import land_texts


def _land(path: Path, data: str | bytes, types: dict[str, str] | None = None) -> LandedTable:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    file = JsonFile(path)
    folder = path.parent / f"landed-{path.name}"
    return land_texts(file, folder, "t", file.columns(), types or {}, "mark")


def _rows(table: LandedTable) -> list[dict[str, Any]]:
    return pq.read_table(list(table.paths)).to_pylist()


def _rejected(table: LandedTable) -> dict[int, tuple[str, str]]:
    assert table.quarantine is not None
    rows = pq.read_table(table.quarantine).to_pylist()
    return {row["row"]: (row["reason"], row["raw"]) for row in rows}


def _lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


_ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(-(2**63), 2**63 - 1)},
        optional={
            "text": st.none()
            | st.text(st.characters(exclude_categories=["Cs"])).map(lambda t: t + "~"),
            "flag": st.booleans(),
            "size": st.floats(allow_nan=False, allow_infinity=False),
        },
    ),
    min_size=1,
)


@settings(max_examples=60)
@given(_ROWS, st.sampled_from([None, 2]), st.booleans(), st.integers(1, 50))
def test_an_array_and_lines_are_the_same_table(
    rows: list[dict[str, Any]], indent: int | None, ascii_only: bool, piece: int
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_READ_CHARACTERS", piece)
        patch.setattr(json_files, "_CHUNK_ROWS", 2)
        array = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
        one = _land(Path(name) / "array.json", array)
        other = _land(Path(name) / "lines.jsonl", _lines(rows))
        assert one.schema.equals(other.schema)
        landed = _rows(one)
        assert landed == _rows(other)
    assert [row["id"] for row in landed] == [row["id"] for row in rows]
    assert [row.get("text") for row in landed] == [row.get("text") for row in rows]
    assert [row.get("flag") for row in landed] == [row.get("flag") for row in rows]
    assert [row.get("size") for row in landed] == [row.get("size") for row in rows]


def test_kinds_of_values_decide_on_types(tmp_path: Path) -> None:
    rows = [
        {"n": 1, "x": 1, "s": "1", "b": True, "m": 1, "l": [1, {"a": None}], "d": "2020-01-01"},
        {"n": 2, "x": 1.5, "s": "2", "b": False, "m": "a", "l": "x", "d": "2020-01-01T10:00:00Z"},
        {"n": None, "x": float("nan"), "later": "y"},
    ]
    table = _land(tmp_path / "t.jsonl", _lines(rows))
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "n": "int64",
        "x": "double",
        "s": "string",
        "b": "bool",
        "m": "string",
        "l": "string",
        "d": "timestamp[us]",
        "later": "string",
    }
    first, second, third = _rows(table)
    assert (first["m"], first["l"], first["s"]) == ("1", '[1, {"a": null}]', "1")
    assert second["d"] == dt.datetime(2020, 1, 1, 10)
    assert (third["x"], third["later"], first["later"]) == (None, "y", None)
    assert table.notes == ("column 'x': 1 NaN or infinite, read as NULL",)


def test_huge_integers_are_not_rounded(tmp_path: Path) -> None:
    table = _land(tmp_path / "t.jsonl", _lines([{"id": 2**70}, {"id": 1}]))
    assert [row["id"] for row in _rows(table)] == [str(2**70), "1"]


def test_broken_lines_are_quarantined(tmp_path: Path) -> None:
    data = (
        b'{"id": 1}\n{"id": 2\n\n[3]\n{"id": 4, "name": "\xff"}\n{"id": 5, "name": "\\ud800"}\n'
        b'{"id": "six"}\n{"id": 7, "name": "\\ud83d\\ude00"}'
    )
    table = _land(tmp_path / "t.jsonl", data, {"id": "integer"})
    assert [row["id"] for row in _rows(table)] == [1, 7]
    assert _rows(table)[1]["name"] == "😀"
    rejected = _rejected(table)
    assert table.rows_read == 7
    assert sorted(rejected) == [2, 4, 5, 6, 7]
    assert rejected[2][0].startswith("not JSON")
    assert rejected[4] == ("not a JSON object", "[3]")
    assert rejected[5] == ("a text is not UTF-8", '{"id": 4, "name": "\\xff"}')
    assert "surrogate" in rejected[6][0]
    assert rejected[7][0] == "column id: 'six' is not an integer"


def test_elements_of_an_array_that_are_no_rows_are_quarantined(tmp_path: Path) -> None:
    table = _land(tmp_path / "t.json", '[{"id": 1}, 2, null, {"id": 3}]')
    assert [row["id"] for row in _rows(table)] == [1, 3]
    assert _rejected(table) == {2: ("not a JSON object", "2"), 3: ("not a JSON object", "null")}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ('[{"id": 1}, {"id": 2', "element 2"),
        ('[{"id": 1}', "element 1"),
        ('[{"id": 1} {"id": 2}]', "element 1"),
        ('[{"id": 1},, {"id": 2}]' + " " * 50, "element 2"),
        ('[{"id": 1}] []', "follows the array"),
        ("[" * 100_000, "element 1"),
        ("[]", "no columns"),
        ("", "no columns"),
        ("[1, 2]", "no columns"),
        ("{}\n", "no columns"),
    ],
)
def test_a_file_that_is_broken_as_a_whole_is_named(tmp_path: Path, data: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        _land(tmp_path / "t.json", data)
    assert "t.json" in str(caught.value)


def test_one_object_over_many_lines_describes_something(tmp_path: Path) -> None:
    for text, is_one in (
        ('{\n "a": 1\n}', True),
        ('{"a": 1}\n{"a": 2}', False),
        ('{"a": [\n{"b": 2}\n]}', True),
        ('{"a": 1, "b":\n{"a": 2}\n{"a": 3}\n', False),  # a row that is broken
        ('{"a": 1, "b":\n\n{"a": 2}\n', False),
        ('\n{"a": 1}', False),
        ('[\n{"a": 1}]', False),
        ("", False),
    ):
        (tmp_path / "t.json").write_text(text)
        assert is_description(tmp_path / "t.json") is is_one
