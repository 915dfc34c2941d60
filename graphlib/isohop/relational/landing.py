"""Landing: the rows of a table, wherever they come from, as Parquet that every engine reads alike.

::

    <folder>/
      rows/part-0.parquet          the rows that landed
      quarantine/part-0.parquet    those that did not: reason string, row int64, raw string

A landed column is int64, double, bool, string, date32, timestamp[us] (UTC, without a time zone),
decimal128 or binary. What is narrower is widened; a value that no such type holds is read as NULL
and counted (NaN, infinity), put as text (times of day, lists and structs as JSON), or its row is
quarantined (texts that are not UTF-8, values that do not fit a stated type). ``raw`` shows such a
row as JSON, or as it stands in the file; ``row`` counts from 1: rows of Parquet and of a database
(in the order of its key), elements of a JSON array, lines of JSON, records of CSV with the header
as the first and without blank lines, however many lines each of them fills.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isohop.engines.storage import folder_atomically

NON_FINITE = "NaN or infinite, read as NULL"
ROW_GROUP_ROWS = 1 << 18
ROW_GROUP_BYTES = 64 << 20
EXACT = 2**53
"""Below it a double is the whole number that was meant, and no neighbour of it."""
_PART = "part-0.parquet"
_HEXADECIMAL = np.array([f"{byte:02x}" for byte in range(256)], "S2")
_REJECTED = pa.schema([("reason", pa.string()), ("row", pa.int64()), ("raw", pa.string())])


EXAMPLES = 3


@dataclass(frozen=True)
class LandedTable:
    """A table that the engines can read."""

    name: str
    paths: tuple[Path, ...]
    """The Parquet files to read, and only these. They are the source's own, which may hold more
    columns than ``schema``, where those conform already."""
    schema: pa.Schema
    rows: int
    rows_read: int
    """``rows``, the quarantined ones, and those of ``later`` and ``untold``."""
    quarantine: Path | None
    """Parquet file; None where every row landed."""
    notes: tuple[str, ...]
    fingerprint: str
    all_null: tuple[str, ...] = ()
    """Columns without a single value; their type says nothing."""
    narrow: Mapping[Path, tuple[pa.Field, ...]] = field(default_factory=dict)
    """Of files used as they are, the columns stored narrower than ``schema`` says, as stored."""
    later: int = 0
    """Rows that did not land, as they were not known as of the moment that was asked for."""
    untold: int = 0
    """Likewise, as nothing says when they became known."""

    @property
    def types(self) -> dict[str, pa.DataType]:
        return {field.name: field.type for field in self.schema}

    @property
    def rejected(self) -> int:
        """Quarantined rows."""
        return self.rows_read - self.rows - self.later - self.untold

    def first_reasons(self) -> list[str]:
        """Of its quarantined rows the first few: where each is, and what is wrong with it."""
        if self.quarantine is None:
            return []
        with pq.ParquetFile(self.quarantine) as file:
            rows = next(file.iter_batches(EXAMPLES, columns=["reason", "row"])).to_pylist()
        places = ("" if row["row"] is None else f"row {row['row']}: " for row in rows)
        return [place + row["reason"] for place, row in zip(places, rows, strict=True)]


class Notes:
    """What landing changed, counted by column."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, column: str, what: str, rows: int) -> None:
        """``what`` follows "column 'x': 4 "."""
        if rows:
            self._counts[column, what] += rows

    def non_finite(self, column: str, values: pa.Array) -> pa.Array:
        """Doubles, with NaN and infinity as NULL."""
        finite = pc.is_finite(values)
        lost = pc.sum(pc.invert(finite)).as_py() or 0
        self.count(column, NON_FINITE, lost)
        return pc.if_else(finite, values, None) if lost else values

    def whole_column(self, column: str, what: str) -> None:
        """``what`` follows "column 'x': "."""
        self._counts[column, what] = -1

    def sentences(self) -> tuple[str, ...]:
        return tuple(
            f"column '{column}': {what}" if rows < 0 else f"column '{column}': {rows} {what}"
            for (column, what), rows in sorted(self._counts.items())
        )


class _Part:
    """One Parquet file, written in row groups of bounded size whatever the batches' size."""

    def __init__(self, path: Path, schema: pa.Schema):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, schema)
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= ROW_GROUP_ROWS or self._waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting_rows:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._waiting = []
        self._waiting_rows = self._waiting_bytes = 0


class Landing:
    """One table on its way: the rows that land, those that do not, and what is to be said."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.schema = pa.schema([])
        self.notes = Notes()
        self.later = self.untold = 0
        self._rows: _Part | None = None
        self._rejected: _Part | None = None
        self._values = np.zeros(0, np.int64)

    def begin(self, schema: pa.Schema) -> None:
        """Say what the rows that land look like, before the first of them."""
        self.schema = schema
        self._values = np.zeros(len(schema), np.int64)
        self._rows = _Part(self.folder / "rows" / _PART, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Rows that land."""
        if self._rows is None:
            raise RuntimeError("'begin' comes before 'write'")
        self._values += [batch.num_rows - column.null_count for column in batch.columns]
        self._rows.write(batch)

    def reject(self, reasons: Sequence[str], lines: Sequence[int], raw: Sequence[str]) -> None:
        """Rows that do not."""
        if self._rejected is None:
            self._rejected = _Part(self.folder / "quarantine" / _PART, _REJECTED)
        self._rejected.write(pa.record_batch([reasons, lines, raw], schema=_REJECTED))

    def sift(
        self,
        batch: pa.RecordBatch,
        misfits: Misfits,
        lines: np.ndarray,
        raw: pa.RecordBatch,
    ) -> None:
        """Write the rows of ``batch`` without a misfit and reject the others.

        ``lines`` is int64 (rows,); ``raw`` has the rows as they were read.
        """
        if misfits:
            rows = misfits.rows()
            self.reject(misfits.reasons(), lines[rows].tolist(), raw_rows(raw.take(pa.array(rows))))
            kept = np.ones(batch.num_rows, bool)
            kept[rows] = False
            batch = batch.filter(pa.array(kept))
        self.write(batch)

    def close(self) -> None:
        for part in (self._rows, self._rejected):
            if part is not None:
                part.close()

    def landed(self, name: str, folder: Path, fingerprint: str) -> LandedTable:
        """What became of it, once it lies in ``folder``."""
        rejected = self._rejected.rows if self._rejected else 0
        rows = self._rows.rows if self._rows else 0
        empty = [field for field, n in zip(self.schema.names, self._values, strict=True) if not n]
        return LandedTable(
            name,
            (folder / "rows" / _PART,),
            self.schema,
            rows,
            rows + rejected + self.later + self.untold,
            folder / "quarantine" / _PART if rejected else None,
            self.notes.sentences(),
            fingerprint,
            tuple(empty),
            later=self.later,
            untold=self.untold,
        )


class Misfits:
    """The rows of a batch that cannot land, each with all that is wrong with it."""

    def __init__(self) -> None:
        self._reasons: dict[int, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def add(self, rows: np.ndarray, reasons: Sequence[str]) -> None:
        for row, reason in zip(rows.tolist(), reasons, strict=True):
            self._reasons.setdefault(row, []).append(reason)

    def rows(self) -> np.ndarray:
        return np.array(sorted(self._reasons), np.int64)

    def reasons(self) -> list[str]:
        return ["; ".join(self._reasons[row]) for row in sorted(self._reasons)]


@contextmanager
def landing(folder: Path) -> Iterator[Landing]:
    """Land into a temporary folder, which becomes ``folder`` when the block succeeds."""
    with folder_atomically(folder) as temporary:
        table = Landing(temporary)
        try:
            yield table
        finally:
            table.close()


def refused(values: pa.Array, convert: Callable[[pa.Array], Any]) -> np.ndarray:
    """Which rows hold a value that ``convert`` refuses (by `pa.ArrowInvalid`), int64, ascending.

    Halves the array until the refused values stand alone: few misfits take few calls.
    """
    found = []
    pending = [(0, len(values))]
    while pending:
        start, stop = pending.pop()
        try:
            convert(values.slice(start, stop - start))
        except pa.ArrowInvalid:
            middle = (start + stop) // 2
            if stop - start == 1:
                found.append(start)
            else:
                pending += [(middle, stop), (start, middle)]
    return np.array(found, np.int64)


def landed_type(type: pa.DataType) -> pa.DataType:
    """The type that a column of Arrow type ``type`` lands with.

    Of uint64 that is decimal128(20, 0), which holds all of its values; where all are small enough
    a source says int64 instead. Decimals of more than 38 digits become doubles.
    """
    types = pa.types
    if isinstance(type, pa.BaseExtensionType):
        return pa.string() if _is_uuid(type) else landed_type(type.storage_type)
    if types.is_dictionary(type):
        return landed_type(type.value_type)
    if types.is_uint64(type):
        return pa.decimal128(20, 0)
    if types.is_integer(type) or types.is_duration(type):
        return pa.int64()
    if types.is_floating(type):
        return pa.float64()
    if types.is_decimal(type):
        return pa.decimal128(type.precision, type.scale) if type.precision <= 38 else pa.float64()
    if types.is_boolean(type):
        return pa.bool_()
    if types.is_date(type):
        return pa.date32()
    if types.is_timestamp(type):
        return pa.timestamp("us")
    if any(
        is_type(type)
        for is_type in (
            types.is_binary,
            types.is_large_binary,
            types.is_binary_view,
            types.is_fixed_size_binary,
        )
    ):
        return pa.binary()
    return pa.string()


def normalise(values: pa.Array, target: pa.DataType, column: str, notes: Notes) -> pa.Array:
    """``values`` as ``target``, their `landed_type`. Texts may not be valid UTF-8 yet.

    Raises `pa.ArrowInvalid` for what no value of that type holds.
    """
    types, type = pa.types, values.type
    if _is_uuid(type):
        return _uuid_texts(values.storage)
    if isinstance(type, pa.BaseExtensionType):
        return normalise(values.storage, target, column, notes)
    if types.is_dictionary(type):
        return normalise(values.dictionary_decode(), target, column, notes)
    if types.is_nested(type):
        notes.whole_column(column, f"{type} put as JSON text")
        return json_texts(values)
    if types.is_duration(type):
        notes.whole_column(column, f"{type} put as a count of {type.unit}")
    if types.is_timestamp(type):
        if type.unit == "ns":
            digits = values.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) % 1000
            lost = int(np.count_nonzero(digits))
            notes.count(column, "cut to microseconds, with digits lost", lost)
        # A cast to no time zone keeps the instant, in UTC.
        return values.cast(pa.timestamp("us", type.tz), safe=type.unit != "ns").cast(target)
    if types.is_floating(target):
        return notes.non_finite(column, values.cast(target))
    return values.cast(target)


def invalid_texts(values: pa.Array) -> np.ndarray:
    """Which rows hold a text that is not UTF-8, int64; none where ``values`` are no texts."""
    if not pa.types.is_string(values.type):
        return np.empty(0, np.int64)
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return refused(values.cast(pa.binary()), lambda part: part.cast(pa.string()))
    return np.empty(0, np.int64)


def raw_rows(rows: pa.RecordBatch) -> list[str]:
    """Each row as a JSON object; bytes that are no text are shown as ``\\xff``."""
    columns = [
        column.cast(pa.binary()) if pa.types.is_string(column.type) else column
        for column in rows.columns
    ]
    shown = pa.record_batch(columns, names=rows.schema.names)
    return [json_text(row) for row in shown.to_pylist()]


def json_texts(values: pa.Array) -> pa.Array:
    """Lists, structs and maps as JSON texts. Arrow has no encoder, so this goes value by value."""
    texts = [None if value is None else json_text(value) for value in values.to_pylist()]
    return pa.array(texts, pa.string())


def json_text(value: Any) -> str:
    """A value as JSON; NaN and infinity, which JSON does not have, as null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_json_value)
    except ValueError:
        return json_text(_without_non_finite(value))


def _json_value(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    return value


def _uuid_texts(storage: pa.Array) -> pa.Array:
    """fixed_size_binary(16) as 8-4-4-4-12 hexadecimal digits."""
    count = len(storage)
    bytes_ = np.frombuffer(storage.buffers()[1], np.uint8)[storage.offset * 16 :][: count * 16]
    digits = _HEXADECIMAL[bytes_].reshape(count, 16)
    texts = np.full((count, 36), b"-", "S1")
    start = 0
    for first, last in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 16)):
        width = 2 * (last - first)
        group = np.ascontiguousarray(digits[:, first:last]).view("S1").reshape(count, width)
        texts[:, start : start + width] = group
        start += width + 1
    offsets = np.arange(0, 36 * count + 1, 36, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts.tobytes())]
    return pc.if_else(storage.is_valid(), pa.Array.from_buffers(pa.string(), count, buffers), None)


def _is_uuid(type: pa.DataType) -> bool:
    return isinstance(type, pa.BaseExtensionType) and type.extension_name == "arrow.uuid"
