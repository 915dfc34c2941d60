"""Columns of new Parquet files as values of a known schema: checked before anything starts, and
cast, with the reason where a value is none."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from isohop.engines.pieces import rows_of
from isohop.engines.storage import disk_full, is_disk_full
from isohop.errors import IsohopError, Problem
from isohop.relational.landing import raw_rows, refused
from isohop.relational.parquet_files import parquet_columns, stored_fields

NO_KEY = "no value in the key"


@contextmanager
def reading(file: str | Path) -> Iterator[None]:
    """Raises `IsohopError` where it cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowException) as raised:
        if is_disk_full(raised):
            raise disk_full("Reading new rows") from raised
        raise IsohopError(f"{file} cannot be read: {raised}. Write the file again.") from raised


def read_rows(piece: dict[str, Any], names: Sequence[str]) -> Iterator[pa.Table]:
    """As `rows_of`. Raises `IsohopError` where the file cannot be read."""
    with reading(piece["file"]):
        yield from rows_of(piece, names)


def check_columns(
    files: Sequence[Path], wanted: pa.Schema, key: Sequence[str], entity: str
) -> tuple[list[Problem], tuple[str, ...]]:
    """What is wrong with the columns of ``files``, and the names of those that are not read."""
    given = {column.name: column for column in parquet_columns(files)}
    stored = stored_fields(files)
    spare = [name for name in given if name not in wanted.names]
    problems = []
    for field in wanted:
        where = f"column '{field.name}'"
        if field.name not in given:
            what = f"is missing; '{entity}' has it as {field.type}."
            near = get_close_matches(field.name, spare, n=1)
            null = "" if field.name in key else "Let it be null where it is not known."
            hint = f"Did you mean '{near[0]}'?" if near else null
            problems.append(Problem(where, what, hint))
        elif not given[field.name].all_null:
            held = stored[field.name].type
            if not _fits(held, given[field.name].type, field.type):
                what = f"is {held}, where '{entity}' has {field.type}."
                texts = pa.types.is_nested(held) and _is_text(field.type)
                hint = "A build reads it as JSON text: give it as that." if texts else ""
                problems.append(Problem(where, what, hint))
    return problems, tuple(spare)


def _fits(held: pa.DataType, landed: pa.DataType | None, wanted: pa.DataType) -> bool:
    """Whether values of a type may be values of the other. ``landed``: as which ``held`` is read;
    None where the rows tell how wide their numbers are."""
    if _is_list(wanted):
        return _is_list(held)
    if _is_text(wanted):
        return landed is not None and _is_text(landed) and not pa.types.is_nested(held)
    if _is_number(wanted):
        return landed is None or _is_number(landed)
    return bool(landed == wanted)


def _is_text(held: pa.DataType) -> bool:
    return pa.types.is_string(held) or pa.types.is_large_string(held)


def _is_number(held: pa.DataType) -> bool:
    return pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held)


def _is_list(held: pa.DataType) -> bool:
    return pa.types.is_list(held) or pa.types.is_large_list(held)


def cast_columns(
    table: pa.Table, wanted: pa.Schema, key: Sequence[str]
) -> tuple[pa.Table, np.ndarray]:
    """The columns ``wanted``, with their types, and why a row cannot be used ('' where it can):
    text, (rows,). A row has a value in every column of ``key``, and that is the very same; of other
    numbers digits may go that a decimal or a double has not."""
    reasons = np.full(table.num_rows, "", object)
    columns = []
    for field in wanted:
        column = one_array(table[field.name])
        cast = partial(_cast, wanted=field.type, exact=field.name in key)
        try:
            values = cast(column)
        except pa.ArrowInvalid:
            misfits = refused(column, cast)
            reasons[misfits] = f"column '{field.name}': a value that is no {field.type}"
            fits = np.ones(len(column), bool)
            fits[misfits] = False
            values = cast(pc.if_else(pa.array(fits), column, None))
        if field.name in key:
            lacks = values.is_null().to_numpy(zero_copy_only=False) & (reasons == "")
            reasons[lacks] = NO_KEY
        columns.append(values)
    return pa.table(columns, schema=wanted), reasons


def one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _cast(values: pa.Array, wanted: pa.DataType, exact: bool = False) -> pa.Array:
    """Raises `pa.ArrowInvalid` for a value that is none of the type, or would be another."""
    if values.null_count == len(values):  # of whatever type a file has it then
        return pa.nulls(len(values), wanted)
    if _is_list(wanted):
        return _parsed(values.cast(pa.string()), wanted)
    if pa.types.is_floating(wanted) and not exact:
        return values.cast(wanted, safe=False)
    if not pa.types.is_decimal(wanted):
        return values.cast(wanted)
    whole = pa.types.is_integer(values.type)
    wide = values.cast(pa.decimal128(38, max(0, min(19, wanted.scale)))) if whole else values
    found = wide.cast(wanted)
    # Arrow rounds what was floating, and makes anything of what is too large for a larger scale.
    if (exact or not pa.types.is_floating(values.type)) and found.cast(values.type) != values:
        raise pa.ArrowInvalid(f"a value is no {wanted}")
    return found


def _parsed(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Lists, which land as JSON texts."""
    if not len(texts):
        return pa.array([], wanted)
    if pa.types.is_date(wanted.value_type):  # which Arrow takes from numbers, and lands as texts
        return _parsed(texts, pa.list_(pa.string())).cast(wanted)
    told = pc.binary_join_element_wise('{"v":', pc.fill_null(texts, "null"), "}", "")
    lines = "\n".join(told.to_pylist()).encode()
    schema = pa.schema([("v", wanted)])
    options = pyarrow.json.ParseOptions(explicit_schema=schema)
    read = pyarrow.json.ReadOptions(block_size=len(lines) + 1)
    return one_array(pyarrow.json.read_json(io.BytesIO(lines), read, options)["v"])


def quarantined(table: pa.Table, reasons: np.ndarray) -> pa.Table:
    """The rows that have a reason, as a quarantine has them."""
    bad = reasons != ""
    rows = table.filter(pa.array(bad))
    raw = [text for batch in rows.to_batches() for text in raw_rows(batch)]
    parts = {
        "reason": pa.array(reasons[bad], pa.string()),
        "row": pa.nulls(rows.num_rows, pa.int64()),
        "raw": pa.array(raw, pa.string()),
    }
    return pa.table(parts)
