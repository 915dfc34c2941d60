"""CSV: whatever is in a cell arrives, and a broken row costs that row alone."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.errors import InvalidInput
from isohop.relational import text_files
from isohop.relational.landing import LandedTable
from isohop.relational.text_files import CsvFile, Utf8Stream, land_texts


def _land(path: Path, data: bytes | str, **options: Any) -> LandedTable:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    file = CsvFile(path, options.pop("nulls", ("",)))
    columns = options.pop("columns", None) or file.columns()
    return land_texts(file, path.parent / "landed", "t", columns, options.pop("types", {}), "mark")


def _rows(table: LandedTable) -> list[dict[str, Any]]:
    return pq.read_table(list(table.paths)).to_pylist()


def _rejected(table: LandedTable) -> list[tuple[str, int, str]]:
    assert table.quarantine is not None
    rows = pq.read_table(table.quarantine).to_pylist()
    assert table.rows_read == table.rows + len(rows)
    return [(row["reason"], row["row"], row["raw"]) for row in rows]


def _written(header: list[str], rows: list[list[Any]], **dialect: Any) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, **dialect)
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


# Surrogates are no text, and a CSV file has no way to hold a NULL character.
_CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(_CELL, st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | _CELL),
        max_size=8,
    ),
    st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n")]),
)
def test_what_is_written_is_read(
    rows: list[tuple[str, int | None, str | None]], dialect: tuple[int, str]
) -> None:
    # The empty text and NULL are one in CSV; a text column is stated to be one.
    text = _written(
        ["text", "in teger.", "ma\ny"], [list(row) for row in rows],
        quoting=dialect[0], lineterminator=dialect[1],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        types = {"text": "string", "in teger.": "integer", "ma\ny": "string"}
        table = _land(Path(folder) / "t.csv", text, types=types)
        read = [tuple(row.values()) for row in _rows(table)]
    assert table.schema.names == ["text", "in teger.", "ma\ny"]
    assert table.quarantine is None
    assert read == [(a or None, b, c or None) for a, b, c in rows]


def test_rows_with_a_wrong_number_of_fields_are_quarantined(tmp_path: Path) -> None:
    data = 'id,name\n1,a\n2\n3,"c\nc"\n\n4,d,e\n5,e\n'
    table = _land(tmp_path / "t.csv", data)
    assert _rows(table) == [
        {"id": 1, "name": "a"},
        {"id": 3, "name": "c\nc"},
        {"id": 5, "name": "e"},
    ]
    assert _rejected(table) == [
        ("1 fields instead of 2", 3, "2"),
        ("3 fields instead of 2", 5, "4,d,e"),
    ]


def test_rows_that_are_not_utf8_are_quarantined_and_shown(tmp_path: Path) -> None:
    data = b"id,name\n1,Gra\xdfe\n2,Stra\xc3\x9fe\n3,\xff,\xfe\n4,x\n"
    table = _land(tmp_path / "t.csv", data)
    assert _rows(table) == [{"id": 2, "name": "Straße"}, {"id": 4, "name": "x"}]
    assert sorted(_rejected(table), key=lambda row: row[1]) == [
        ("a text is not UTF-8", 2, '{"id": "1", "name": "Gra\\xdfe"}'),
        ("3 fields instead of 2", 4, "3,\\xff,\\xfe"),
    ]


def test_a_header_in_another_encoding_is_told_with_its_bytes(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"not UTF-8: 'Stra\\xdfe', 'Gr\\xf6\\xdfe'\. Convert"):
        _land(tmp_path / "t.csv", "id,Straße,Größe\n1,a,2\n".encode("latin-1"))


def test_rows_are_counted_and_not_the_lines_that_they_fill(tmp_path: Path) -> None:
    """As a spreadsheet counts them, with the header, but for blank lines."""
    table = _land(tmp_path / "t.csv", b'id,x\n1,"a\nb\nc"\n\n2,b\n3\n')
    assert [(row, reason) for reason, row, _ in _rejected(table)] == [(4, "1 fields instead of 2")]
    assert table.first_reasons() == ["row 4: 1 fields instead of 2"]


def test_misfits_are_told_with_their_row_though_rows_before_were_left_out(tmp_path: Path) -> None:
    data = b"id\n1\n1,1\nabc\n\xff\n1,1\n5\nx\n"
    table = _land(tmp_path / "t.csv", data, types={"id": "integer"})
    assert [row["id"] for row in _rows(table)] == [1, 5]
    assert {line: reason for reason, line, _ in _rejected(table)} == {
        3: "2 fields instead of 1",
        4: "column id: 'abc' is not an integer",
        5: "a text is not UTF-8",
        6: "2 fields instead of 1",
        8: "column id: 'x' is not an integer",
    }


def test_nulls_are_what_the_source_says(tmp_path: Path) -> None:
    data = 'id,name\n1,NA\n2,""\n3,\n4,"NA"\n-,x\n'
    nulls = [row["name"] for row in _rows(_land(tmp_path / "a.csv", data, nulls=("NA", "-")))]
    assert nulls == [None, "", "", None, "x"]
    table = _land(tmp_path / "b.csv", data, nulls=("", "-"))
    assert [row["name"] for row in _rows(table)] == ["NA", None, None, "NA", "x"]
    assert table.schema.field("id").type == "int64"
    data = 'name\nx\n""\n'
    assert [row["name"] for row in _rows(_land(tmp_path / "c.csv", data, nulls=()))] == ["x", ""]


def test_long_values_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", (1 << 16, 1 << 22))
    long = "ü" * (1 << 19)
    table = _land(tmp_path / "t.csv", f"id,text\n1,a\n1,2,3\n2,{long}\n3,b\n")
    assert [row["text"] for row in _rows(table)] == ["a", long, "b"]
    assert len(_rejected(table)) == 1


def test_a_value_of_a_megabyte_and_many_blocks_land(tmp_path: Path) -> None:
    rows = [[n, f"{n} " * 200_000] for n in range(20)]
    table = _land(tmp_path / "t.csv", _written(["id", "text"], rows))
    assert [[row["id"], row["text"]] for row in _rows(table)] == rows


@pytest.mark.parametrize("data", ["id,name", "id,name\n", "\ufeffid,name\r\n", '\n"id","name"\n'])
def test_a_header_alone_is_a_table_without_rows(tmp_path: Path, data: str) -> None:
    table = _land(tmp_path / "t.csv", data)
    assert (table.rows, table.rows_read, table.schema.names) == (0, 0, ["id", "name"])
    assert _rows(table) == []


@pytest.mark.parametrize(("end", "start"), [("", ""), ("\n", "\ufeff"), ("\r\n", "\ufeff")])
def test_byte_order_mark_and_last_line_break_do_not_matter(
    tmp_path: Path, end: str, start: str
) -> None:
    table = _land(tmp_path / "t.csv", f"{start}id,name\n1,a\n2,b{end}")
    assert _rows(table) == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        ("id,name\n1,ä\n".encode("utf-16"), "UTF-16"),
        (b'id,name\n1,"a\n2,b\n3,c\n', "never closed"),
        (b'id,name\n1,"a\n2,b\n3,c', "never closed"),
        (b'id,name,more\n1,"a\n2,b\n3,c\n', "never closed"),
        (b'id,"name\n1,2\n', "never closed"),
        (b"id;name;size\n1;a;2,5\n", "';' seems to separate"),
        (b"id\tname\n1\ta\n", r"'\\t' seems to separate"),
    ],
)
def test_a_file_that_is_broken_as_a_whole_is_named(tmp_path: Path, data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        _land(tmp_path / "t.csv", data)
    assert "t.csv" in str(caught.value)
    assert not (tmp_path / "landed").exists()


def test_a_header_may_hold_any_character_and_a_file_that_nobody_reads_anything(tmp_path):
    table = _land(tmp_path / "t.csv", "price|eur\n1.5\n")
    assert _rows(table) == [{"price|eur": 1.5}]
    (tmp_path / "notes.csv").write_text("a;b\n1;2\n")
    assert CsvFile(tmp_path / "notes.csv", ("",)).columns() == ("a;b",)


def test_a_quoted_value_may_end_the_file(tmp_path: Path) -> None:
    assert _rows(_land(tmp_path / "t.csv", 'id,name\n1,"a\nb"')) == [{"id": 1, "name": "a\nb"}]
    assert _rows(_land(tmp_path / "u.csv", 'id,name\n1,"a\n"\n')) == [{"id": 1, "name": "a\n"}]


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    data = b"id,broken,name\n1,\xff,a\n2,x,b\n"
    table = _land(tmp_path / "t.csv", data, columns=("name", "id"))
    assert _rows(table) == [{"name": "a", "id": 1}, {"name": "b", "id": 2}]


def test_compressed_files_are_read_as_the_plain_one(tmp_path: Path) -> None:
    data = "id,name\n1,a\n2,ü\n"
    plain = _rows(_land(tmp_path / "t.csv", data))
    with gzip.open(tmp_path / "g.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write(data)
    with zipfile.ZipFile(tmp_path / "z.csv.zip", "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/whatever.csv", data)
    for name in ("g.csv.gz", "z.csv.zip"):
        file = tmp_path / name
        assert _rows(_land(file, file.read_bytes())) == plain


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"id,name\n" + bytes(range(48, 58)) * 100_000)
    with zipfile.ZipFile(tmp_path / "two.csv.zip", "w") as archive:
        archive.writestr("a.csv", "id\n")
        archive.writestr("b.csv", "id\n")
    for name, data, told in (
        ("cut.csv.gz", whole[: len(whole) // 2], "cannot be read"),
        ("not.csv.gz", b"id,name\n1,2\n", "cannot be read"),
        ("not.csv.zip", b"id,name\n1,2\n", "cannot be read"),
        ("two.csv.zip", (tmp_path / "two.csv.zip").read_bytes(), "holds 2 files"),
    ):
        with pytest.raises(InvalidInput, match=told) as caught:
            _land(tmp_path / name, data, columns=("id", "name"))
        assert name in str(caught.value)


def test_landing_twice_makes_the_same_bytes(tmp_path: Path) -> None:
    data = _written(["id", "name"], [[n, f"n{n}"] for n in range(1000)]) + "x\n"
    first = _land(tmp_path / "t.csv", data)
    bytes_before = [path.read_bytes() for path in (*first.paths, first.quarantine) if path]
    second = _land(tmp_path / "t.csv", data)
    assert [
        path.read_bytes() for path in (*second.paths, second.quarantine) if path
    ] == bytes_before


@given(st.binary(max_size=40), st.integers(1, 7))
def test_a_stream_is_always_valid_and_ends_its_last_line(data: bytes, size: int) -> None:
    stream = Utf8Stream(io.BytesIO(data), Path("t.csv"))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        with pytest.raises(InvalidInput):
            stream.read()
        return
    text = b"".join(iter(lambda: stream.read(size), b"")).decode()
    assert not data or text.endswith("\n")
    try:
        expected = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        assert stream.invalid
    else:
        assert not stream.invalid
        assert text.removesuffix("\n") == expected.removesuffix("\n")
