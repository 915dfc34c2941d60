"""How many facts of one event between the same nodes become one row.

Numbers: mean, min and max. Times: first and last. Everything else: the sorted set of its values.
Each is exact: it does not depend on the order in which an engine meets the rows.

A set is made of the list of a group's values. Where some group has so many rows that its list would
be long, rows are first brought together by these values, so that lists are of distinct rows: one
customer in a third of all rows is one short list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from isohop.engines.frames import distinct_names
from isohop.hops.kinds import Kind

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

HOW: dict[Kind, tuple[str, ...]] = {"number": ("mean", "min", "max"), "time": ("first", "last")}
"""The aggregates of a kind, in the order of their columns; a kind that is not here makes a set."""

LONGEST_LIST = 1 << 14
"""Values that a list may have of which a set is made."""
_COUNTERS = 1 << 20

_UNITS = (2.0**20, 2.0**-30, 2.0**-80)
_LARGEST = 2.0**82
_HALF = 32
_DIGITS_OF_LONG = 18


@dataclass(frozen=True)
class Aggregated:
    """``frame``: the keys, ``m0`` (how many facts), and ``m1``, … as ``columns`` says of each:
    (name, kind, aggregate)."""

    frame: DataFrame
    columns: tuple[tuple[str, Kind, str], ...]


def column_name(attribute: str, how: str) -> str:
    """The name of one aggregate of an attribute."""
    return attribute if how == "set" else f"{attribute}_{how}"


def most_rows(frame: DataFrame, keys: Sequence[str]) -> int:
    """At least as many rows as the largest group has: groups are counted by a hash of their keys,
    several together, so that the count's memory does not depend on how many there are."""
    from pyspark.sql import functions as F

    counted = frame.groupBy(F.pmod(F.xxhash64(*keys), F.lit(_COUNTERS)).alias("counter")).count()
    return counted.agg(F.max("count")).collect()[0][0] or 0


def aggregate(
    frame: DataFrame,
    keys: Sequence[str],
    attributes: Sequence[tuple[str, str, Kind]],
    most: int,
    taken: Iterable[str] = (),
) -> Aggregated:
    """One row for each distinct value of ``keys``, of the (name, column, kind) of each attribute.

    ``most``: so many rows at most has a group. ``taken``: names that no column may have. What is an
    attribute as it is keeps its name, and what is made of another gives way. The columns of
    ``frame`` are not called ``m…`` or ``p…``.
    """
    from pyspark.sql import functions as F

    types = dict(frame.dtypes)
    sets = sorted({column for _, column, kind in attributes if kind not in HOW})
    parts = _Parts()
    measures = [parts.sum(F.count(F.lit(1)))]
    columns: list[tuple[str, Kind, str]] = []
    for name, column, kind in attributes:
        for how in HOW.get(kind, ("set",)):
            columns.append((column_name(name, how), kind, how))
            measures.append(
                F.array_sort(column) if how == "set" else parts.add(how, column, types[column])
            )
    order = sorted(range(len(columns)), key=lambda at: columns[at][2] != "set")
    told = distinct_names([columns[at][0] for at in order], taken)
    named = dict(zip(order, told, strict=True))
    members = [F.array_distinct(F.collect_list(column)).alias(column) for column in sets]
    if sets and most > LONGEST_LIST:
        distinct = frame.groupBy(*keys, *sets).agg(*parts.first)
        grouped = distinct.groupBy(*keys).agg(*parts.second, *members)
    else:
        grouped = frame.groupBy(*keys).agg(*parts.first, *members)
    return Aggregated(
        grouped.select(*keys, *(m.alias(f"m{index}") for index, m in enumerate(measures))),
        tuple((named[at], kind, how) for at, (_, kind, how) in enumerate(columns)),
    )


@dataclass
class _Parts:
    """Aggregates that can be taken of groups and then of groups of groups: sums, minima, maxima.

    ``first`` takes them of rows, ``second`` of what ``first`` made, under the same names.
    """

    first: list[Column] = field(default_factory=list)
    second: list[Column] = field(default_factory=list)

    def sum(self, of: Column) -> Column:
        from pyspark.sql import functions as F

        name = f"p{len(self.first)}"
        self.first.append(of.alias(name))
        self.second.append(F.sum(name).alias(name))
        return F.col(name)

    def add(self, how: str, column: str, type_name: str) -> Column:
        """One aggregate of a number or a time, of the parts that it needs."""
        from pyspark.sql import functions as F

        if how == "mean":
            return self._mean(F.col(column), type_name)
        smallest = how in ("min", "first")
        name = f"p{len(self.first)}"
        take = F.min if smallest else F.max
        self.first.append(take(column).alias(name))
        self.second.append(take(name).alias(name))
        return F.col(name).cast("double") if how in ("min", "max") else F.col(name)

    def _mean(self, number: Column, type_name: str) -> Column:
        """The mean, the same for every order of the rows.

        Integers, and decimals of as many digits as an integer has, are summed as the two halves of
        their 64 bits. A sum of doubles depends on their order, and engines add in whatever order
        data arrive, so each is split into whole multiples of 2^20, of 2^-30 and of 2^-80, which
        makes the mean as exact as a double is from 1e-8 up, and to 1e-24 below. Numbers beyond 2^82
        have no such split and count as NULL.
        """
        from pyspark.sql import functions as F

        digits = re.fullmatch(r"decimal\((\d+),(\d+)\)", type_name)
        small = digits is not None and int(digits[1]) <= _DIGITS_OF_LONG
        if type_name in ("tinyint", "smallint", "int", "bigint") or small:
            unit = 10 ** int(digits[2]) if digits else 1
            units = (number * F.lit(Decimal(unit)) if unit > 1 else number).cast("bigint")
            high = self.sum(F.sum(F.shiftright(units, _HALF)))
            low = self.sum(F.sum(units.bitwiseAND(F.lit(2**_HALF - 1))))
            total = high.cast("double") * F.lit(2.0**_HALF) + low.cast("double")
            counted = number
        else:
            unit = 1
            value = number.cast("double")
            counted = F.when(F.abs(value) < F.lit(_LARGEST), value)
            rest, total = counted, F.lit(0.0)
            for size in map(F.lit, _UNITS):
                multiple = (rest / size).cast("bigint")
                rest = rest - multiple.cast("double") * size
                summed = self.sum(F.sum(multiple.cast("decimal(38,0)")))
                total = total + summed.cast("double") * size
        count = self.sum(F.count(counted))
        return total / F.when(count > 0, count.cast("double") * F.lit(float(unit)))
