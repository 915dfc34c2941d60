"""Profiles: what each column of a table holds, in one pass over the table (two hundred columns a
pass, for wider ones)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from isohop.relational.integrity import CleanTable

if TYPE_CHECKING:
    from pyspark.sql import Column

COLUMNS_A_PASS = 200
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
_UUID = r"^(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_HASH = r"^(?i)[0-9a-f]{16,128}$"


@dataclass(frozen=True)
class ColumnProfile:
    """One column. ``distinct`` is an estimate (HyperLogLog); ``minimum`` and ``maximum`` are of
    whole numbers, also of those written as text; ``length`` is the mean of texts, in characters."""

    name: str
    type: pa.DataType
    rows: int
    nulls: int
    distinct: int
    minimum: int | None = None
    maximum: int | None = None
    length: float = 0.0
    opaque: str | None = None
    """``UUIDs`` or ``hashes`` where every value is one."""

    @property
    def is_text(self) -> bool:
        return bool(pa.types.is_string(self.type))

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers, as such or as texts without leading zeros."""
        return self.minimum is not None

    def counts(self) -> str | None:
        """Why its values look like a counter, which means nothing; None where they do not.

        A counter is dense, and starts at 0 or 1 unless it is long; years are none.
        """
        if self.minimum is None or self.maximum is None or self.rows == self.nulls:
            return None
        dense = self.maximum - self.minimum + 1 <= 2 * (self.rows - self.nulls)
        years = self.minimum >= 1800 and self.maximum <= 2100
        if dense and (self.minimum in (0, 1) or (self.rows >= 100 and not years)):
            return f"a counter, {self.minimum:,} to {self.maximum:,} in {self.rows:,} rows"
        return None


@dataclass(frozen=True)
class TableProfile:
    """One table; ``columns`` in the order of their names."""

    name: str
    rows: int
    columns: Mapping[str, ColumnProfile]


def profile(table: CleanTable) -> TableProfile:
    """Profile every column of ``table``."""
    from pyspark.sql import functions as F

    names = sorted(table.names)
    found: dict[str, ColumnProfile] = {}
    rows = 0
    for start in range(0, len(names), COLUMNS_A_PASS):
        chosen = names[start : start + COLUMNS_A_PASS]
        measures = [F.count(F.lit(1)).alias("rows")]
        for index, name in enumerate(chosen):
            for what, column in _measures(table.names[name], table.types[name]).items():
                measures.append(column.alias(f"{what}{index}"))
        row: dict[str, Any] = table.frame.agg(*measures).collect()[0].asDict()
        rows = row["rows"]
        for index, name in enumerate(chosen):
            held = {
                what: row.get(f"{what}{index}")
                for what in ("n", "d", "lo", "hi", "w", "l", "u", "h")
            }
            found[name] = _column(name, table.types[name], rows, held)
    return TableProfile(table.name, rows, found)


def _measures(column: str, type_: pa.DataType) -> dict[str, Column]:
    from pyspark.sql import functions as F

    measured = {"n": F.count(column)}
    if pa.types.is_integer(type_) or pa.types.is_string(type_):
        measured["d"] = F.approx_count_distinct(column)
    if pa.types.is_integer(type_):
        measured |= {"lo": F.min(column), "hi": F.max(column)}
    if pa.types.is_string(type_):
        text = F.col(column)
        number = F.when(text.rlike(_WHOLE), text).try_cast("bigint")
        measured |= {
            "lo": F.min(number),
            "hi": F.max(number),
            "w": F.count(number),
            "l": F.sum(F.length(text)),
            "u": F.sum(text.rlike(_UUID).cast("bigint")),
            "h": F.sum((text.rlike(_HASH) & ~text.rlike("^[0-9]+$")).cast("bigint")),
        }
    return measured


def _column(name: str, type_: pa.DataType, rows: int, held: Mapping[str, Any]) -> ColumnProfile:
    given = int(held["n"])
    distinct = given if held["d"] is None else min(int(held["d"]), given)
    whole = pa.types.is_integer(type_) or (given > 0 and held["w"] == given)
    opaque = None
    if given and pa.types.is_string(type_):
        digits = held["h"] >= 0.9 * given and held["l"] == given * (held["l"] // given)
        opaque = "UUIDs" if held["u"] == given else ("hashes" if digits else None)
    return ColumnProfile(
        name,
        type_,
        rows,
        rows - given,
        distinct,
        held["lo"] if whole else None,
        held["hi"] if whole else None,
        (held["l"] or 0) / given if given else 0.0,
        opaque,
    )
