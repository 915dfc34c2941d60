"""CSV and JSON files, read as batches of texts.

Both are streamed, so a file may be larger than memory. What is broken in one row costs that row,
which is rejected with its reason; what is broken in the file as a whole (cut off, not UTF-8 at all)
is an `IsohopError`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from isohop.errors import IsohopError
from isohop.relational.landing import Landing, LandedTable, json_text, landing, raw_rows
from isohop.relational.texts import TextTable

_READ_BYTES = 1 << 20
_BLOCK_BYTES = (16 << 20, 128 << 20, 1 << 30)
"""A CSV row has to fit into a block; a larger one is tried when a row did not."""
_JSON_BYTES = 4 << 20

_ESCAPE = "isohop.escape"
_ESCAPES = 0x10FF00
_ESCAPED = r"[\x{10FF80}-\x{10FFFF}]"
_SHOWN = {_ESCAPES + byte: f"\\x{byte:02x}" for byte in range(128, 256)}
_NOT_UTF8 = "a text is not UTF-8"


class TextFile(Protocol):
    """A file that gives texts."""

    path: Path

    def columns(self) -> tuple[str, ...]:
        """Names in the file's order, perhaps double ones."""
        ...

    def read(self, texts: TextTable, landing: Landing, block_bytes: int) -> None:
        """Add all rows to ``texts``; reject those that are broken."""
        ...


def land_texts(
    file: TextFile,
    folder: Path,
    table: str,
    columns: Sequence[str],
    stated: Mapping[str, str],
    fingerprint: str,
) -> LandedTable:
    """Land ``columns`` of a text file in ``folder``."""
    for block_bytes in _BLOCK_BYTES:
        try:
            with landing(folder) as arriving:
                scratch = arriving.folder / "texts.arrow"
                texts = TextTable(columns, stated, scratch)
                try:
                    file.read(texts, arriving, block_bytes)
                finally:
                    texts.finish()
                arriving.begin(texts.schema())
                texts.land(arriving)
                scratch.unlink()
            return arriving.landed(table, folder, fingerprint)
        except _RowTooLarge:
            continue
    raise IsohopError(
        f"{file.path}: a row is larger than {_BLOCK_BYTES[-1] >> 30} GiB, or a quotation mark is "
        "opened and never closed. Look for a stray quotation mark."
    )


class CsvFile:
    """Comma-separated values with a header (RFC 4180); ``nulls`` are the texts that mean NULL."""

    def __init__(self, path: Path, nulls: Sequence[str]):
        self.path = path
        self._nulls = list(nulls)

    def columns(self) -> tuple[str, ...]:
        with open_utf8(self.path) as stream:
            lines = io.TextIOWrapper(io.BufferedReader(stream), "utf-8", newline="")
            try:
                header = next((row for row in csv.reader(lines) if row), None)
            except csv.Error as error:
                raise IsohopError(
                    f"{self.path}: this is no CSV file: {error}. Give its header in the first line."
                ) from error
        if header is None:
            raise IsohopError(f"{self.path}: the file is empty. Its first line must be a header.")
        return tuple(header)

    def read(self, texts: TextTable, landing: Landing, block_bytes: int) -> None:
        header = self.columns()
        numbers = _Numbers()
        broken: list[Any] = []

        def skip(row: Any) -> str:
            broken.append(row)
            return "skip"

        parsing = {
            # The header is read as a row, and so counted with them.
            "read_options": pa.csv.ReadOptions(
                use_threads=False, block_size=block_bytes, column_names=list(header)
            ),
            "parse_options": pa.csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=skip
            ),
            "convert_options": pa.csv.ConvertOptions(
                check_utf8=False,
                column_types={name: pa.string() for name in header},
                null_values=self._nulls,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                # The last column tells whether the last quotation mark was closed.
                include_columns=list(dict.fromkeys([*texts.columns, header[-1]])),
            ),
        }
        last = ""
        with open_utf8(self.path) as stream:
            for batch in self._batches(stream, parsing):
                self._reject(broken, numbers, landing)
                lines = numbers.take(batch.num_rows)
                if len(lines) and lines[0] == _HEADER_LINE:
                    batch, lines = batch.slice(1), lines[1:]
                if len(lines):
                    last = batch.column(header[-1])[-1].as_py() or ""
                batch = batch.select(list(texts.columns))
                if stream.invalid:
                    batch, lines = _reject_escapes(batch, lines, landing)
                texts.add(batch.columns, lines)
            if broken and broken[-1].number > numbers.last:
                text = broken[-1].text
                last = text if text.count('"') % 2 else ""
            self._reject(broken, numbers, landing)
            if "\n" in last and not stream.ends_with_quote:
                raise IsohopError(
                    f"{self.path}: the quotation mark before {last[:40]!r} is never closed, so the "
                    "rest of the file is one value. Close it, or double it if it belongs to a text."
                )

    def _batches(self, stream: Utf8Stream, parsing: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        try:
            yield from pa.csv.open_csv(pa.PythonFile(stream, "r"), **parsing)
        except pa.ArrowInvalid as error:
            if "straddl" in str(error):
                raise _RowTooLarge from error
            raise IsohopError(f"{self.path}: cannot be read as CSV: {error}") from error

    def _reject(self, broken: list[Any], numbers: _Numbers, landing: Landing) -> None:
        if broken:
            lines = [row.number for row in broken]
            numbers.skip(lines)
            reasons = [f"{row.actual_columns} fields instead of {row.expected_columns}" for row in broken]
            landing.reject(reasons, lines, [row.text.translate(_SHOWN) for row in broken])
            broken.clear()


class JsonFile:
    """An array of objects, or one object a line. The keys of all objects are the columns.

    A column of texts is recognised as dates or timestamps, one of numbers as such; where values
    differ in kind, or are lists or objects, it lands as JSON text.
    """

    def __init__(self, path: Path):
        self.path = path

    def columns(self) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for chunk in self._chunks():
            names.update(dict.fromkeys(chain.from_iterable(chunk.rows)))
        if not names:
            raise IsohopError(
                f"{self.path}: no object has a key, so the table has no columns. Write the table "
                "as CSV with a header, or as Parquet, where it may be empty."
            )
        return tuple(names)

    def read(self, texts: TextTable, landing: Landing, block_bytes: int) -> None:
        for chunk in self._chunks():
            if chunk.rejected:
                landing.reject(*zip(*chunk.rejected, strict=True))
            columns = []
            for name in texts.columns:
                values = [row.get(name) for row in chunk.rows]
                kinds = set(map(type, values)) - {type(None)}
                if kinds:
                    texts.restrict(name, _json_candidates(kinds))
                written = [None if v is None else _WRITTEN[type(v)](v) for v in values]
                columns.append(pa.array(written, pa.string()))
            texts.add(columns, np.array(chunk.lines, np.int64))

    def _chunks(self) -> Iterator[_JsonChunk]:
        with open_utf8(self.path) as stream:
            reader = io.TextIOWrapper(io.BufferedReader(stream), "utf-8", newline="\n")
            start = reader.read(_JSON_BYTES)
            while start.isspace():
                start = reader.read(_JSON_BYTES)
            is_array = start.lstrip().startswith("[")
            split = _elements if is_array else _lines
            for parsed in split(start, reader, self.path):
                yield _JsonChunk(parsed, stream.invalid)


class _JsonChunk:
    """Some rows of a JSON file: those that are objects of valid texts, and the others."""

    def __init__(self, parsed: Sequence[tuple[int, str, Any]], may_have_escapes: bool):
        self.rows: list[dict[str, Any]] = []
        self.lines: list[int] = []
        self.rejected: list[tuple[str, int, str]] = []
        for line, raw, value in parsed:
            if isinstance(value, _Malformed):
                reason = value.reason
            elif type(value) is not dict:
                reason = "not a JSON object"
            elif may_have_escapes and _ESCAPED_CHARACTER.search(raw):
                reason = _NOT_UTF8
            elif _SURROGATE.search(raw) and not _is_valid(json.dumps(value, ensure_ascii=False)):
                reason = "half a surrogate pair is no character"
            else:
                self.rows.append(value)
                self.lines.append(line)
                continue
            self.rejected.append((reason, line, raw.strip().translate(_SHOWN)))


@dataclass(frozen=True)
class _Malformed:
    reason: str


def is_description(path: Path) -> bool:
    """Whether a JSON file holds one object that is spread over lines, so is no table."""
    with open_utf8(path) as stream:
        reader = io.TextIOWrapper(io.BufferedReader(stream), "utf-8", newline="\n")
        first = next((line for line in reader if not line.isspace()), "")
    return first.startswith("{") and isinstance(_parse(first), _Malformed)


def _lines(start: str, reader: TextIO, path: Path) -> Iterator[list[tuple[int, str, Any]]]:
    lines = (start + reader.readline()).split("\n")
    number = 0
    while lines:
        numbered = enumerate(lines, number + 1)
        yield [(n, line, _parse(line)) for n, line in numbered if line and not line.isspace()]
        number += len(lines)
        lines = reader.readlines(_JSON_BYTES)


def _elements(start: str, reader: TextIO, path: Path) -> Iterator[list[tuple[int, str, Any]]]:
    """The elements of an array, numbered from 1."""
    decode = json.JSONDecoder().raw_decode
    text, at, ended, number = start, start.index("[") + 1, False, 0
    chunk: list[tuple[int, str, Any]] = []
    separated = True
    while True:
        at = _past_spaces(text, at)
        if at < len(text):
            if text[at] == "]" and (not separated or number == 0):
                yield chunk
                return
            if not separated and text[at] == ",":
                at, separated = at + 1, True
                continue
            try:
                value, end = decode(text, at)
            except json.JSONDecodeError as error:
                cut_off = "Unterminated" in error.msg or error.pos > len(text) - _LONGEST_LITERAL
                if not separated or ended or not cut_off: raise
