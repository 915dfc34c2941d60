"""Dense numbers for keys, in their order, without sorting all of them in one place.

Keys are divided into ranges of about `RANGE_KEYS` at boundaries that a sample of them gives; each
range is numbered by itself, and starts where the ranges before it end. Where the boundaries lie
changes who does the work, never a number.

Where an earlier graph has numbers, the keys that it knows keep them (`numbered_after`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from isohop.engines.frames import equal, renamed, united, with_digits

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

RANGE_KEYS = 1 << 20
"""Keys that are sorted in one place."""
_SAMPLED = 32
"""Keys of the sample for each range: enough for ranges that differ in size by less than half."""


def numbered(keys: DataFrame, names: Sequence[str], count: int) -> DataFrame:
    """``node_id`` and the columns ``names`` of so many distinct ``keys``, from 0 in their order."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    boundaries = _boundaries(keys, names, count)
    ranged = keys.withColumn("range", _range_of(names, boundaries, 0))
    starts = [0]
    if boundaries:
        sizes = {row["range"]: row["count"] for row in ranged.groupBy("range").count().collect()}
        starts += accumulate(sizes.get(index, 0) for index in range(len(boundaries)))
    start = F.get(F.array(*(F.lit(number).cast("bigint") for number in starts)), F.col("range"))
    within = Window.partitionBy("range").orderBy(*with_digits(keys, names))
    return ranged.select(
        (F.row_number().over(within) - 1 + start).cast("bigint").alias("node_id"), *names
    )


def numbered_after(
    keys: DataFrame,
    names: Sequence[str],
    count: int,
    known: DataFrame,
    staged: Callable[[DataFrame, str], tuple[DataFrame, int]],
) -> DataFrame:
    """As `numbered`, but for ``known``: ``node_id`` and the distinct keys of an earlier graph.

    A known key keeps its number and new keys follow on. Where keys are gone numbers stay dense all
    the same: what they leave free goes to the new keys and to the known ones beyond the end, in the
    order of keys. ``staged``: writes a frame once, under a name, for several readers, and counts
    its rows.
    """
    from pyspark.sql import functions as F

    theirs = [f"known_{name}" for name in names]
    before = known.select("node_id", *(renamed(n, t) for n, t in zip(names, theirs, strict=True)))
    # The smaller side first, as everywhere: nearly all keys are on both.
    found = before.where(F.col("node_id") < count).join(keys, equal(theirs, names), "inner")
    kept, _ = staged(found.select("node_id", *names), "kept")
    ours = kept.select(*(renamed(n, t) for n, t in zip(names, theirs, strict=True)))
    others, left = staged(keys.join(ours, equal(names, theirs), "left_anti"), "others")
    every = keys.sparkSession.range(count).select(F.col("id").cast("bigint").alias("free"))
    taken = kept.select(renamed("node_id", "taken"))
    free, _ = staged(every.join(taken, equal(["free"], ["taken"]), "left_anti"), "free")
    places = numbered(free, ["free"], left).withColumnRenamed("node_id", "place")
    filled = numbered(others, names, left).join(places, equal(["node_id"], ["place"]), "inner")
    return united([kept, filled.select(renamed("free", "node_id"), *names)])


def _boundaries(keys: DataFrame, names: Sequence[str], count: int) -> list[tuple[Any, ...]]:
    """The first key of each range but the first, ascending: as many as there are ranges of keys,
    not as there are keys."""
    from pyspark.sql import functions as F

    ranges = -(-count // RANGE_KEYS)
    if ranges < 2:
        return []
    every = max(1, RANGE_KEYS // _SAMPLED)
    sample = keys.where(F.pmod(F.xxhash64(*names), F.lit(every)) == 0)
    drawn = [tuple(row) for row in sample.orderBy(*names).collect()]
    return list(
        dict.fromkeys(drawn[len(drawn) * index // ranges] for index in range(1, ranges) if drawn)
    )


def _range_of(names: Sequence[str], boundaries: Sequence[tuple[Any, ...]], first: int) -> Column:
    """Which range a key is in: a search by halves."""
    from pyspark.sql import functions as F

    if not boundaries:
        return F.lit(first)
    middle = len(boundaries) // 2
    return F.when(
        _reaches(names, boundaries[middle]),
        _range_of(names, boundaries[middle + 1 :], first + middle + 1),
    ).otherwise(_range_of(names, boundaries[:middle], first))


def _reaches(names: Sequence[str], boundary: Sequence[Any]) -> Column:
    """The key is not before the boundary, column by column."""
    from pyspark.sql import functions as F

    column, value = F.col(names[0]), F.lit(boundary[0])
    if len(names) == 1:
        return column >= value
    return (column > value) | ((column == value) & _reaches(names[1:], boundary[1:]))
