"""How many facts of one event between the same nodes become one row.

Numbers: mean, min and max. Times: first and last. Everything else: the sorted set of its values.
Each is exact: it does not depend on the order in which an engine meets the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isohop.hops.kinds import Kind

if TYPE_CHECKING:
    from pyspark.sql import Column

_WHOLE, _FRACTION = 2.0**20, 2.0**30


def aggregates(name: str, column: Column, kind: Kind) -> list[tuple[str, str, Column]]:
    """(column name, how, expression) of each aggregate of one attribute."""
    from pyspark.sql import functions as F

    if kind == "number":
        number = column.cast("double")
        return [
            (f"{name}_mean", "mean", exact_mean(number)),
            (f"{name}_min", "min", F.min(number)),
            (f"{name}_max", "max", F.max(number)),
        ]
    if kind == "time":
        return [
            (f"{name}_first", "first", F.min(column)),
            (f"{name}_last", "last", F.max(column)),
        ]
    return [(name, "set", F.array_sort(F.collect_set(column)))]


def exact_mean(number: Column) -> Column:
    """The mean of doubles, to about 1e-9 of its unit, the same for every order of the rows.

    A sum of doubles depends on their order, and engines add in whatever order data arrive. Each
    number is split into a whole multiple of 2^20 and a rest in units of 2^-30, both integers, whose
    sums are exact. Numbers beyond 2^82 have no such split and count as NULL.
    """
    from pyspark.sql import functions as F

    bounded = F.when(F.abs(number) < F.lit(2.0**82), number)
    whole = F.floor(bounded / F.lit(_WHOLE))
    rest = F.floor((bounded - whole.cast("double") * F.lit(_WHOLE)) * F.lit(_FRACTION) + 0.5)
    sums = [F.sum(part.cast("bigint").cast("decimal(38,0)")) for part in (whole, rest)]
    total = sums[0].cast("double") * F.lit(_WHOLE) + sums[1].cast("double") / F.lit(_FRACTION)
    count = F.count(bounded)
    return total / F.when(count > 0, count.cast("double"))
