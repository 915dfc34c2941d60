"""What one pass over a table tells of its columns: enough to look for keys and references.

A second pass counts exactly the distinct values of the columns that may be keys, and of no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from isohop.relational.integrity import CleanTable
from isohop.relational.landing import EXACT

if TYPE_CHECKING:
    from pyspark.sql import Column

NEARLY = 0.75
"""A column may be a key from this estimated share of distinct values on. The estimate errs by
5 %, so that engines which estimate differently decide the same."""

# The forms a text can have, from free to strict: what all values have is their smallest one.
_FREE, _CODE, _INTEGER, _DIGITS, _HEXADECIMAL, _UUID = range(6)
_FORMS = (
    (_INTEGER, r"^(0|-?[1-9][0-9]{0,14})$"),
    (_DIGITS, r"^[0-9]{16,}$"),
    (_HEXADECIMAL, r"^[0-9a-fA-F]{16,}$"),
    (_UUID, r"^\{?[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\}?$"),
    (_CODE, r"^[^\s]{1,64}$"),
)


@dataclass(frozen=True)
class Spelling:
    """How texts say what is no text, where that is not read as such: ``kind`` is "dates",
    ``instead`` what to do."""

    kind: str
    pattern: str
    instead: str


_TIME_OF_DAY = r"([ T].*)?$"
SPELLINGS = (
    Spelling(
        "dates",
        rf"^[0-9]{{1,2}}(\.[0-9]{{1,2}}\.|/[0-9]{{1,2}}/)([0-9]{{2}}|[0-9]{{4}}){_TIME_OF_DAY}"
        rf"|^[0-9]{{1,2}}-[0-9]{{1,2}}-[0-9]{{4}}{_TIME_OF_DAY}"
        rf"|^[0-9]{{4}}(\.[0-9]{{1,2}}\.|/[0-9]{{1,2}}/)[0-9]{{1,2}}{_TIME_OF_DAY}",
        "write them as 2024-04-13",
    ),
    Spelling(
        "numbers with a comma",
        r"^[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+),[0-9]+$"
        r"|^[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?$",
        "write them as 4742.97",
    ),
    Spelling("percentages", r"^[+-]?[0-9]+([.,][0-9]+)? ?%$", "write them as numbers, without %"),
)
_PLAIN_NUMBER = r"^[+-]?[0-9]+(\.[0-9]+)?$"
"""Beside any of these spellings it may stand."""


@dataclass(frozen=True)
class ColumnProfile:
    """What the values of a column are like. ``distinct`` is exact where ``exact`` says so.

    ``minimum`` and ``maximum`` are of integers, of texts that all are canonical integers ("12", not
    "012"), which ``integers`` says, and of doubles that all are whole, which ``whole`` says.
    ``mean_length`` and ``code`` (no value has white space or more than 64 characters) are of texts.
    ``opaque`` names the form that all values have when nobody would have chosen them: "UUIDs",
    "hexadecimal hashes". ``spelling``: that of all values that are no plain numbers, the first of
    which is the ``example``.
    """

    name: str
    type: pa.DataType
    rows: int
    nulls: int
    distinct: int
    exact: bool = False
    minimum: int | None = None
    maximum: int | None = None
    mean_length: float = 0.0
    integers: bool = False
    code: bool = False
    opaque: str | None = None
    whole: bool = False
    spelling: Spelling | None = None
    example: str = ""

    @property
    def given(self) -> int:
        """How many rows have a value."""
        return self.rows - self.nulls

    @property
    def unique(self) -> bool:
        """Every row has a value, and no two the same."""
        return self.exact and self.nulls == 0 and self.distinct == self.rows > 0


@dataclass(frozen=True)
class TableProfile:
    """The profiles of a table's columns, by name."""

    name: str
    rows: int
    columns: Mapping[str, ColumnProfile]


def profile(table: CleanTable) -> TableProfile:
    """Profile every column in one pass, and the possible keys in a second one."""
    from pyspark.sql import functions as F

    measures = [F.count(F.lit(1)).alias("rows")]
    for column in sorted(table.names):
        measures += _measures(table.names[column], table.types[column])
    row = table.frame.agg(*measures).collect()[0].asDict()
    columns = {
        column: _profile(column, table.names[column], table.types[column], row)
        for column in sorted(table.names)
    }
    keys = [name for name, found in columns.items() if _may_be_key(found)]
    if keys:
        counts = (F.count_distinct(F.col(table.names[name])) for name in keys)
        for name, count in zip(keys, table.frame.agg(*counts).collect()[0], strict=True):
            columns[name] = replace(columns[name], distinct=count, exact=True)
    return TableProfile(table.name, row["rows"], columns)


def is_text(type_: pa.DataType) -> bool:
    """Whether values are texts."""
    if pa.types.is_dictionary(type_):
        return is_text(type_.value_type)
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def is_integer(type_: pa.DataType) -> bool:
    """Whether values are whole numbers, by their type."""
    if pa.types.is_dictionary(type_):
        return is_integer(type_.value_type)
    return bool(pa.types.is_integer(type_) or (pa.types.is_decimal(type_) and type_.scale == 0))


def _measures(name: str, type_: pa.DataType) -> list[Column]:
    from pyspark.sql import functions as F

    column = F.col(name)
    found = [F.count(column).alias(f"{name}_given")]
    if pa.types.is_nested(type_):
        return found
    # Not every engine estimates how many distinct values there are of other types.
    plain = pa.types.is_integer(type_) or is_text(type_)
    binary = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
    estimated = column if plain else F.hex(column) if binary else column.cast("string")
    found.append(F.approx_count_distinct(estimated).alias(f"{name}_distinct"))
    if is_integer(type_):
        found += [F.min(column).alias(f"{name}_min"), F.max(column).alias(f"{name}_max")]
    elif pa.types.is_floating(type_):
        broken = F.when(column % 1 != 0, F.lit(1))
        found += [F.min(column).alias(f"{name}_min"), F.max(column).alias(f"{name}_max")]
        found.append(F.count(broken).alias(f"{name}_broken"))
    elif is_text(type_):
        form = F.when(column.isNull(), F.lit(None))
        for number, pattern in _FORMS:
            form = form.when(column.rlike(pattern), F.lit(number))
        form = form.otherwise(F.lit(_FREE))
        whole = F.when(column.rlike(_FORMS[0][1]), column.try_cast("long"))
        length = F.length(column)
        spelt = F.when(column.isNull() | column.rlike(_PLAIN_NUMBER), F.lit(None))
        for number, spelling in enumerate(SPELLINGS):
            spelt = spelt.when(column.rlike(spelling.pattern), F.lit(number))
        spelt = spelt.otherwise(F.lit(len(SPELLINGS)))
        found += [
            F.min(form).alias(f"{name}_loosest"),
            F.max(form).alias(f"{name}_strictest"),
            F.sum(length.cast("long")).alias(f"{name}_length"),
            F.min(length).alias(f"{name}_shortest"),
            F.max(length).alias(f"{name}_longest"),
            F.min(whole).alias(f"{name}_min"),
            F.max(whole).alias(f"{name}_max"),
            F.min(spelt).alias(f"{name}_spelt"),
            F.max(spelt).alias(f"{name}_spelt_last"),
            F.min(F.when(spelt < len(SPELLINGS), column)).alias(f"{name}_example"),
        ]
    return found


def _profile(column: str, name: str, type_: pa.DataType, row: Mapping[str, Any]) -> ColumnProfile:
    given = row[f"{name}_given"]
    distinct = min(row.get(f"{name}_distinct", 0), given)
    found = ColumnProfile(column, type_, row["rows"], row["rows"] - given, distinct)
    if not given:
        return found
    if is_integer(type_):
        bounds = int(row[f"{name}_min"]), int(row[f"{name}_max"])
        return replace(found, integers=True, minimum=bounds[0], maximum=bounds[1])
    if pa.types.is_floating(type_) and not row[f"{name}_broken"]:
        low, high = row[f"{name}_min"], row[f"{name}_max"]
        exact = max(-low, high) < EXACT
        return replace(found, whole=True, minimum=int(low), maximum=int(high)) if exact else found
    if not is_text(type_):
        return found
    loosest, strictest = row[f"{name}_loosest"], row[f"{name}_strictest"]
    one_length = row[f"{name}_shortest"] == row[f"{name}_longest"]
    opaque = None
    if loosest == _UUID:
        opaque = "UUIDs"
    elif loosest >= _DIGITS and strictest == _HEXADECIMAL and one_length:
        opaque = "hexadecimal hashes"
    integers = loosest == strictest == _INTEGER
    spelt = row[f"{name}_spelt"]
    if spelt is not None and spelt == row[f"{name}_spelt_last"] < len(SPELLINGS):
        found = replace(found, spelling=SPELLINGS[spelt], example=row[f"{name}_example"])
    return replace(
        found,
        mean_length=row[f"{name}_length"] / given,
        code=loosest > _FREE,
        opaque=opaque,
        integers=integers,
        minimum=row[f"{name}_min"] if integers else None,
        maximum=row[f"{name}_max"] if integers else None,
    )


def _may_be_key(column: ColumnProfile) -> bool:
    """Whether the distinct values are worth an exact count: measures and times never are."""
    return (
        column.rows > 0
        and column.nulls == 0
        and column.distinct >= NEARLY * column.rows
        and (is_integer(column.type) or (is_text(column.type) and column.mean_length <= 64))
    )
