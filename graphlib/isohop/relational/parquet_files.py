"""Parquet files: used as they are where every engine reads them alike, rewritten where not.

What counts is what a file's bytes are. That a writer held texts as views, or with wide offsets,
stands beside the data, and engines do not look at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isohop.errors import InvalidInput, Problem
from isohop.relational.landing import (
    LandedTable,
    Landing,
    Misfits,
    Notes,
    invalid_texts,
    landed_type,
    landing,
    normalise,
    refused,
)
from isohop.relational.source import SourceColumn, check_names, unreadable
from isohop.relational.texts import TEXT_TYPES, misfit, read_texts, without

_BATCH_BYTES = 32 << 20
_BATCH_ROWS = 1 << 16
_LARGEST_INT64 = 2**63 - 1


def stored_fields(paths: Sequence[Path]) -> dict[str, pa.Field]:
    """The columns of a table's parts by name, as they are stored. Raises `InvalidInput` as
    `parquet_columns` does."""
    return {field.name: field for field in _fields([_open(path) for path in paths])}


def parquet_columns(paths: Sequence[Path]) -> tuple[SourceColumn, ...]:
    """The columns of a table's parts, from their footers.

    Raises `InvalidInput` when a part is damaged, the parts are not of one schema, or names of
    columns cannot be told apart.
    """
    parts = [_open(path) for path in paths]
    _check_alike(paths, parts)
    problems = check_names(parts[0].schema_arrow.names, str(paths[0]), "column")
    if problems:
        raise InvalidInput(f"{paths[0]} cannot be read", problems)
    columns = []
    for field in _fields(parts):
        type: pa.DataType | None = landed_type(field.type)
        if pa.types.is_uint64(field.type):
            statistics = _statistics(parts, field.name)
            largest = [known.max for known in statistics if known and known.has_min_max]
            type = _unsigned(max(largest)) if largest and len(largest) == len(statistics) else None
        columns.append(SourceColumn(field.name, type, _is_all_null(parts, field.name)))
    return tuple(columns)


def land_parquet(
    paths: Sequence[Path],
    folder: Path,
    table: str,
    columns: Sequence[str],
    fingerprint: str,
    types: Mapping[str, str] | None = None,
) -> LandedTable:
    """Land ``columns``: the files themselves when they conform, else rewritten in ``folder``.

    Files conform when all their columns are of types that every engine reads alike, and those asked
    for hold neither NaN nor infinity nor a text that is not UTF-8, which takes a scan of these.
    ``types``: of columns that are to have another type than they are stored with, as whole numbers
    that pandas keeps as doubles.
    """
    parts = [_open(path) for path in paths]
    _check_alike(paths, parts)
    stored_as = _landed_schema(paths, parts, columns)
    types = types or {}
    problems = [
        Problem(
            f"table '{table}', column '{name}'",
            f"{stored_as.field(name).type} cannot be read as {type}.",
            "Leave 'types' out for it, or write the column otherwise.",
        )
        for name, type in sorted(types.items())
        if stored_as.field(name).type != TEXT_TYPES[type]
        and not _may_be_read_as(stored_as.field(name).type, type)
    ]
    if problems:
        raise InvalidInput(f"Table '{table}' cannot be read as asked", problems)
    stated = {name: TEXT_TYPES[type] for name, type in types.items()}
    schema = pa.schema([(field.name, stated.get(field.name, field.type)) for field in stored_as])
    if schema == stored_as and _conform(parts) and _is_clean(paths, parts, schema):
        stored = parts[0].schema_arrow
        rows = sum(part.metadata.num_rows for part in parts)
        all_null = tuple(name for name in columns if _is_all_null(parts, name))
        narrow = tuple(f for f in map(stored.field, schema.names) if _is_narrow(f.type))
        return LandedTable(
            table,
            tuple(paths),
            schema,
            rows,
            rows,
            None,
            (),
            fingerprint,
            all_null,
            dict.fromkeys(paths, narrow) if narrow else {},
        )
    with landing(folder) as arriving:
        arriving.begin(schema)
        line = 1
        for path, part in zip(paths, parts, strict=True):
            for batch in _batches(path, part, columns):
                _land_batch(path, batch, line, arriving, stored_as, types)
                line += batch.num_rows
    return arriving.landed(table, folder, fingerprint)


def _land_batch(
    path: Path,
    batch: pa.RecordBatch,
    line: int,
    arriving: Landing,
    stored_as: pa.Schema,
    types: Mapping[str, str],
) -> None:
    misfits = Misfits()
    shown, values = [], []
    for field, stored, column in zip(arriving.schema, stored_as, batch.columns, strict=True):
        try:
            column = normalise(column, stored.type, field.name, arriving.notes)
        except pa.ArrowInvalid as error:
            where = f"{path}, column '{field.name}'"
            what = f"a value is beyond what {stored.type} holds: {error}."
            raise unreadable(where, what, "Correct it, or write the column as text.") from error
        rows = invalid_texts(column)
        if len(rows):
            misfits.add(rows, [f"column {field.name}: not UTF-8"] * len(rows))
        shown.append(column)
        if field.type != stored.type:
            column = without(column, rows)
            read = partial(_read_as, type=types[field.name], name=field.name)
            rows = refused(column, partial(read, notes=Notes()))
            told = column.take(pa.array(rows)).to_pylist()
            misfits.add(rows, [misfit(field.name, str(v), types[field.name]) for v in told])
            column = read(without(column, rows), notes=arriving.notes)
        values.append(column)
    lines = np.arange(line, line + batch.num_rows)
    landed = pa.record_batch(values, schema=arriving.schema)
    arriving.sift(landed, misfits, lines, pa.record_batch(shown, schema=stored_as))


_READ_AS = {
    "string": ("number", "boolean", "date", "timestamp"),
    "integer": ("number",),
    "number": ("number",),
    "boolean": ("integer",),
    "date": ("timestamp",),
    "timestamp": ("date",),
}
"""Of what is no text, the families of types (a number may be whole) that may be read as a type."""


def _may_be_read_as(stored: pa.DataType, type: str) -> bool:
    if pa.types.is_string(stored):
        return True
    held = {name for name, of in TEXT_TYPES.items() if of == stored}
    if pa.types.is_integer(stored) or pa.types.is_floating(stored) or pa.types.is_decimal(stored):
        held.add("number")
    return bool(held & set(_READ_AS[type]))


def _read_as(values: pa.Array, type: str, name: str, notes: Notes) -> pa.Array:
    """``values`` as a stated type. Raises `pa.ArrowInvalid` where one of them is not of it."""
    if pa.types.is_string(values.type):
        return read_texts(values, type, name, notes)
    target = TEXT_TYPES[type]
    if type == "number":
        return values.cast(target, safe=False)  # of more digits than a double has the last go
    if type == "boolean" and pc.any(pc.invert(pc.is_in(values, pa.array([0, 1, None])))).as_py():
        raise pa.ArrowInvalid("a number is neither 0 nor 1")
    found = values.cast(target)
    if type == "date" and not found.cast(values.type).equals(values):
        raise pa.ArrowInvalid("a time is not midnight")
    return found


def _open(path: Path) -> pq.ParquetFile:
    with _damage(path):
        # Of the old 96-bit timestamps only microseconds cover all years.
        return pq.ParquetFile(path, coerce_int96_timestamp_unit="us")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = f"cannot be read as Parquet: {error}."
        raise unreadable(str(path), what, "It is damaged or cut off: make or copy it again.") from (
            error
        )


def _check_alike(paths: Sequence[Path], parts: Sequence[pq.ParquetFile]) -> None:
    first = set(parts[0].schema_arrow.names)
    known: dict[str, tuple[pa.DataType, Path]] = {}
    problems = []
    for path, part in zip(paths, parts, strict=True):
        for name in sorted(first ^ set(part.schema_arrow.names)):
            lacking, having = (path, paths[0]) if name in first else (paths[0], path)
            what = f"column '{name}' is missing, which {having.name} has."
            problems.append(Problem(str(lacking), what, "Write all parts with the same columns."))
        for field in sorted(part.schema_arrow, key=lambda field: field.name):
            if pa.types.is_null(field.type):
                continue
            type = landed_type(field.type)
            before, where = known.setdefault(field.name, (type, path))
            if type != before:
                what = f"column '{field.name}' is {type}, but {before} in {where.name}."
                problems.append(Problem(str(path), what, "Write all parts with the same types."))
    if problems:
        raise InvalidInput(f"The parts in {paths[0].parent} are not of one table", problems)


def _fields(parts: Sequence[pq.ParquetFile]) -> list[pa.Field]:
    """Of the columns. One that holds no value in a part may have no type there: it has that of the
    first part that knows it."""
    typed = {
        field.name: field
        for part in reversed(parts)
        for field in part.schema_arrow
        if not pa.types.is_null(field.type)
    }
    return [typed.get(field.name, field) for field in parts[0].schema_arrow]


def _landed_schema(
    paths: Sequence[Path], parts: Sequence[pq.ParquetFile], columns: Sequence[str]
) -> pa.Schema:
    """The types that ``columns`` land with; of uint64, by their largest value."""
    types = {field.name: field.type for field in _fields(parts)}
    unsigned = [name for name in columns if pa.types.is_uint64(types[name])]
    landed = {name: landed_type(types[name]) for name in columns}
    for name in unsigned:
        largest = 0
        for path, part in zip(paths, parts, strict=True):
            for batch in _batches(path, part, [name]):
                largest = max(largest, pc.max(batch.column(0)).as_py() or 0)
        landed[name] = _unsigned(largest)
    return pa.schema([(name, landed[name]) for name in columns])


def _unsigned(largest: int) -> pa.DataType:
    return pa.int64() if largest <= _LARGEST_INT64 else landed_type(pa.uint64())


def _conform(parts: Sequence[pq.ParquetFile]) -> bool:
    first = parts[0].schema_arrow
    return all(
        _stored(field.type) == landed_type(field.type) or _is_narrow(field.type) for field in first
    ) and all(
        part.schema_arrow.equals(first)
        and all(leaf.physical_type != "INT96" for leaf in _leaves(part))
        for part in parts
    )


def _stored(type: pa.DataType) -> pa.DataType:
    """The type that an engine sees, which is not told how a writer held texts in memory."""
    if pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_large_binary(type) or pa.types.is_binary_view(type):
        return pa.binary()
    return type


def _is_narrow(type: pa.DataType) -> bool:
    """A number that an engine reads as it is and widens without loss."""
    return bool(pa.types.is_signed_integer(type) or pa.types.is_float32(type))


def _is_clean(paths: Sequence[Path], parts: Sequence[pq.ParquetFile], schema: pa.Schema) -> bool:
    suspects = [
        field.name
        for field in schema
        if pa.types.is_floating(field.type) or pa.types.is_string(field.type)
    ]
    for path, part in zip(paths, parts, strict=True):
        for batch in _batches(path, part, suspects) if suspects else ():
            for column in batch.columns:
                if not _is_valid(column):
                    return False
                is_number = pa.types.is_floating(column.type)
                if is_number and pc.all(pc.is_finite(column)).as_py() is False:
                    return False
    return True


def _is_valid(values: pa.Array) -> bool:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _batches(path: Path, part: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of bounded size, in the order of ``columns``."""
    groups = [part.metadata.row_group(index) for index in range(part.metadata.num_row_groups)]
    row_bytes = max((g.total_byte_size / max(g.num_rows, 1) for g in groups), default=1)
    rows = int(min(_BATCH_ROWS, max(1, _BATCH_BYTES / max(row_bytes, 1))))
    with _damage(path):
        batches = part.iter_batches(batch_size=rows, columns=list(columns))
    while True:
        with _damage(path):
            batch = next(batches, None)
        if batch is None:
            return
        # A name also selects those that continue it after a dot.
        yield batch.select(list(columns))


def _leaves(part: pq.ParquetFile) -> list[pq.ColumnSchema]:
    return [part.schema.column(index) for index in range(len(part.schema))]


def _statistics(parts: Sequence[pq.ParquetFile], column: str) -> list[pq.Statistics | None]:
    """Of each row group with rows; None where they were not written, or for a nested column."""
    found: list[pq.Statistics | None] = []
    for part in parts:
        paths = [leaf.path for leaf in _leaves(part)]
        groups = [part.metadata.row_group(index) for index in range(part.num_row_groups)]
        for group in groups:
            known = group.num_rows and column in paths
            if known or group.num_rows:
                found.append(group.column(paths.index(column)).statistics if known else None)
    return found


def _is_all_null(parts: Sequence[pq.ParquetFile], column: str) -> bool:
    typed = [part for part in parts if not pa.types.is_null(part.schema_arrow.field(column).type)]
    return all(
        known is not None and known.has_null_count and known.num_values == 0
        for known in _statistics(typed, column)
    )
