"""Kinds and shared attributes, from the values of each attribute as an entity holds them.

Asked of the graph's nodes, not of tables, so that it does not depend on where a value was stored.
Each rule looks at how many holders (N) have how many distinct values (D), how many have the most
frequent one (M), and at what the values look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isohop.hops.kinds import Kind

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

HOLDERS_PER_VALUE = 2.0
MOST_HELD = 0.5
LONGEST_SHARED = 60.0
LEAST_VALUES = 3


@dataclass(frozen=True)
class Values:
    """What was counted of one attribute. ``length``: mean, in characters; ``coded``: the share of
    values that are one word with a digit in it."""

    holders: int
    distinct: int
    most: int
    length: float = 0.0
    coded: float = 0.0


def measure(frame: DataFrame, column: str, type_name: str) -> Values:
    """Count one column, NULL left out: one pass."""
    from pyspark.sql import functions as F

    # Bytes are no text, and not all of them can be read as one.
    text = F.col(column).cast("string") if type_name != "binary" else F.lit("")
    counted = frame.where(F.col(column).isNotNull()).groupBy(column).agg(F.count("*").alias("n"))
    coded = (text.rlike("[0-9]") & ~text.rlike(r"\s")).cast("int")
    row = counted.agg(
        F.sum("n"),
        F.count("*"),
        F.max("n"),
        F.sum(F.length(text) * F.col("n")),
        F.sum(coded * F.col("n")),
    ).collect()[0]
    holders = int(row[0] or 0)
    if not holders:
        return Values(0, 0, 0)
    if type_name != "string":
        return Values(holders, int(row[1]), int(row[2]))
    return Values(holders, int(row[1]), int(row[2]), row[3] / holders, row[4] / holders)


def kind_of(values: Values, type_name: str) -> tuple[Kind | None, str]:
    """The kind, with its reason; None where the type says it already."""
    if values.distinct < 2:
        return None, ""
    per_value = values.holders / values.distinct
    told = f"{values.distinct:,} values for {values.holders:,} holders"
    if type_name == "string":
        if per_value >= HOLDERS_PER_VALUE and values.length <= LONGEST_SHARED:
            return "category", told
        if values.coded >= 0.9:
            return "identifier", f"{told}, nearly all one word with digits"
        return None, ""
    if type_name in ("tinyint", "smallint", "int", "bigint") and values.distinct <= 2:
        return ("category", told) if per_value >= HOLDERS_PER_VALUE else (None, "")
    return None, ""


def is_shared(values: Values, kind: Kind | None) -> tuple[bool, str]:
    """Whether each value is worth a node, with the reason."""
    if kind != "category" or not values.holders:
        return False, ""
    if values.distinct < LEAST_VALUES:
        return False, f"only {values.distinct} values"
    share = values.most / values.holders
    if share > MOST_HELD:
        return False, f"{share:.0%} of holders have the same value"
    return True, f"each held by {values.holders / values.distinct:.1f} on average"
