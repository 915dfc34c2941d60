"""Text files: read as valid UTF-8 whatever is in them, and CSV among them.

Files are streamed, so one may be larger than memory. What is broken in one row costs that row,
which is rejected with its reason; what is broken in the file as a whole (cut off, in another
encoding) is an `InvalidInput`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from isohop.errors import InvalidInput
from isohop.relational.as_of import Known
from isohop.relational.landing import LandedTable, Landing, landing, raw_rows
from isohop.relational.source import unreadable
from isohop.relational.texts import TextTable

NOT_UTF8 = "a text is not UTF-8"

_READ_BYTES = 1 << 20
_BLOCK_BYTES = (16 << 20, 128 << 20, 1 << 30)
"""A CSV row has to fit into a block; a larger one is tried when a row did not."""
_HEADER_LINE = 1
_HEADER = "Its first line must be a header."
_LONGEST_HEADER, _SHOWN_OF_IT = 1 << 16, 80

_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError)
"""What damaged, encrypted and missing files raise."""

# A byte that is not UTF-8 passes as the private character U+10FF00 + byte.
_ESCAPE = "isohop.escape"
_ESCAPES = 0x10FF00
_SHOWN = {_ESCAPES + byte: f"\\x{byte:02x}" for byte in range(128, 256)}
_ESCAPED_CHARACTER = re.compile("[\U0010ff80-\U0010ffff]")
_ESCAPED_PATTERN = r"[\x{10FF80}-\x{10FFFF}]"


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(_ESCAPES + b) for b in error.object[error.start : error.end]), error.end


codecs.register_error(_ESCAPE, _escape)


def has_escapes(text: str) -> bool:
    """Whether a text of a `Utf8Stream` was not valid."""
    return _ESCAPED_CHARACTER.search(text) is not None


def show_escapes(text: str) -> str:
    r"""The text with its bytes that are not UTF-8 as ``\xff``."""
    return text.translate(_SHOWN)


class Utf8Stream(io.RawIOBase):
    """The bytes of a file as valid UTF-8 that ends in a line break, without a byte order mark.

    Bytes that are not UTF-8 are escaped, so that parsers, which need valid text, keep their place
    and the row can be rejected. ``invalid`` tells whether there were any.
    """

    def __init__(self, raw: BinaryIO, path: Path):
        self.invalid = False
        self._raw = raw
        self._path = path
        self._partial = b""
        self._ready = b""
        self._tail = b""
        self._started = self._ended = False

    @property
    def ends_with_quote(self) -> bool:
        """Of what has been read so far."""
        return self._tail.rstrip(b"\r\n").endswith(b'"')

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes until the end comes; they may split a character."""
        parts = [self._ready]
        length = len(self._ready)
        while not self._ended and (size < 0 or length < size):
            parts.append(self._next())
            length += len(parts[-1])
        data = b"".join(parts)
        size = length if size < 0 else size
        self._ready = data[size:]
        return data[:size]

    def _next(self) -> bytes:
        try:
            data = self._raw.read(_READ_BYTES)
        except _UNREADABLE as error:
            raise _damaged(self._path, error) from error
        self._ended = not data
        if not self._started:
            self._started = True
            if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise unreadable(str(self._path), "the file is UTF-16.", "Convert it to UTF-8.")
            data = data.removeprefix(codecs.BOM_UTF8)
        self._tail = (self._tail + data)[-8:]
        data = self._partial + data
        try:
            _, used = codecs.utf_8_decode(data, "strict", self._ended)
            valid = data[:used]
        except UnicodeDecodeError:
            self.invalid = True
            text, used = codecs.utf_8_decode(data, _ESCAPE, self._ended)
            valid = text.encode()
        self._partial = data[used:]
        broken_off = self._ended and self._tail and not self._tail.endswith(b"\n")
        return valid + b"\n" if broken_off else valid


@contextmanager
def open_utf8(path: Path) -> Iterator[Utf8Stream]:
    """A file's text, decompressed by its name's suffix. Raises `InvalidInput` when it cannot be."""
    with ExitStack() as stack:
        try:
            raw: Any
            if path.suffix.lower() == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(path))
                raw = stack.enter_context(archive.open(_only_member(path, archive)))
            elif path.suffix.lower() == ".gz":
                raw = stack.enter_context(gzip.open(path, "rb"))
            else:
                raw = stack.enter_context(path.open("rb"))
        except _UNREADABLE as error:
            raise _damaged(path, error) from error
        yield Utf8Stream(raw, path)


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
    known: Known | None = None,
) -> LandedTable:
    """Land ``columns`` of a text file in ``folder``; rows that were ``known``, where that is
    asked."""
    for block_bytes in _BLOCK_BYTES:
        try:
            with landing(folder) as arriving:
                scratch = arriving.folder / "texts.arrow"
                with TextTable(columns, stated, scratch, known) as texts:
                    file.read(texts, arriving, block_bytes)
                arriving.begin(texts.schema())
                texts.land(arriving)
                scratch.unlink()
            return arriving.landed(table, folder, fingerprint)
        except _RowTooLarge:
            continue
    raise unreadable(
        str(file.path),
        f"a row is larger than {_BLOCK_BYTES[-1] >> 30} GiB.",
        "Look for a quotation mark that is opened and never closed.",
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
                raise unreadable(str(self.path), f"no CSV file: {error}.", _HEADER) from error
        if header is None:
            raise unreadable(str(self.path), "the file is empty.", _HEADER)
        broken = ", ".join(f"'{show_escapes(name)}'" for name in header if has_escapes(name))
        if broken:
            what = f"names of columns are not UTF-8: {broken}."
            raise unreadable(str(self.path), what, "Convert the file to UTF-8.")
        return tuple(header)

    def _check_separator(self) -> None:
        """Raises `InvalidInput` where a table of one column seems to be one of several, between
        which something else than commas stands: as often in its first row as in its header."""
        with open_utf8(self.path) as stream:
            lines = io.TextIOWrapper(io.BufferedReader(stream), "utf-8", newline="")
            first = [lines.readline(_LONGEST_HEADER) for _ in range(2)]
        for mark in ";\t|":
            in_header, in_row = (line.count(mark) for line in first)
            if in_header and in_header == in_row:
                shown = first[0].strip()[:_SHOWN_OF_IT]
                what = f"its only column is {shown!r}: {mark!r} seems to separate values."
                hint = "Write it with commas, or rename the column."
                raise unreadable(str(self.path), what, hint)

    def read(self, texts: TextTable, landing: Landing, block_bytes: int) -> None:
        header = self.columns()
        if len(header) == 1:
            self._check_separator()
        numbers = _Numbers()
        broken = _BrokenRows()
        parsing = {
            # The header is read as a row, and so counted with them.
            "read_options": pa.csv.ReadOptions(
                use_threads=False, block_size=block_bytes, column_names=list(header)
            ),
            "parse_options": pa.csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=broken
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
                broken.reject(numbers, landing)
                lines = numbers.take(batch.num_rows)
                if len(lines):
                    last = batch.column(header[-1])[-1].as_py() or ""
                if len(lines) and lines[0] == _HEADER_LINE:
                    batch, lines = batch.slice(1), lines[1:]
                batch = batch.select(list(texts.columns))
                if stream.invalid:
                    batch, lines = _reject_escapes(batch, lines, landing)
                texts.add(batch.columns, lines)
            broken.reject(numbers, landing)
            if broken.last_number > numbers.last:
                last = broken.last_text if broken.last_text.count('"') % 2 else ""
            if "\n" in last and not stream.ends_with_quote:
                raise unreadable(
                    str(self.path),
                    f"a quotation mark is opened before {last[:40]!r} and never closed, which "
                    "makes one value of the rest of the file.",
                    "Close it, or double it where it belongs to a text.",
                )

    def _batches(self, stream: Utf8Stream, parsing: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        try:
            yield from pa.csv.open_csv(pa.PythonFile(stream, "r"), **parsing)
        except pa.ArrowInvalid as error:
            if "straddl" in str(error):
                raise _RowTooLarge from error
            raise unreadable(str(self.path), f"cannot be read as CSV: {error}.") from error


class _RowTooLarge(Exception):
    """A CSV row did not fit into a block."""


class _BrokenRows:
    """What the CSV parser calls for a row with a wrong number of fields, to leave it out."""

    def __init__(self) -> None:
        self.last_number, self.last_text = 0, ""
        self._waiting: list[Any] = []

    def __call__(self, row: Any) -> str:
        self._waiting.append(row)
        return "skip"

    def reject(self, numbers: _Numbers, landing: Landing) -> None:
        """Reject those that have come since the last time."""
        rows, self._waiting = self._waiting, []
        if rows:
            lines = [row.number for row in rows]
            reasons = [
                f"{row.actual_columns} fields instead of {row.expected_columns}" for row in rows
            ]
            landing.reject(reasons, lines, [show_escapes(row.text) for row in rows])
            numbers.leave_out(lines)
            self.last_number, self.last_text = rows[-1].number, rows[-1].text


class _Numbers:
    """Numbers the rows that a parser gives, where it leaves some out."""

    def __init__(self) -> None:
        self.last = 0
        self._left_out = np.empty(0, np.int64)

    def leave_out(self, numbers: Sequence[int]) -> None:
        """These rows will not be given; said before they are passed."""
        self._left_out = np.concatenate([self._left_out, np.array(numbers, np.int64)])

    def take(self, count: int) -> np.ndarray:
        """The numbers of the next ``count`` rows, int64."""
        span = np.arange(self.last + 1, self.last + 1 + count + len(self._left_out))
        numbers = np.setdiff1d(span, self._left_out, assume_unique=True)[:count]
        self.last = int(numbers[-1]) if count else self.last
        self._left_out = self._left_out[self._left_out > self.last]
        return numbers


def _reject_escapes(
    batch: pa.RecordBatch, lines: np.ndarray, landing: Landing
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Reject the rows that have escaped bytes; the others are returned."""
    escaped = np.zeros(len(lines), bool)
    for column in batch.columns:
        found = pc.match_substring_regex(column, _ESCAPED_PATTERN).fill_null(False)
        escaped |= found.to_numpy(zero_copy_only=False)
    if escaped.any():
        raw = [show_escapes(text) for text in raw_rows(batch.filter(pa.array(escaped)))]
        landing.reject([NOT_UTF8] * len(raw), lines[escaped].tolist(), raw)
        batch, lines = batch.filter(pa.array(~escaped)), lines[~escaped]
    return batch, lines


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        what = f"the archive holds {len(members)} files."
        raise unreadable(str(path), what, "Pack the one file of the table in it.")
    return members[0]


def _damaged(path: Path, error: Exception) -> InvalidInput:
    return unreadable(str(path), f"cannot be read: {error}.", "Make or copy it again.")
