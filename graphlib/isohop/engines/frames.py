"""Small pieces of the DataFrame API that read better with a name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def renamed(column: str, name: str) -> Column:
    """A column under another name."""
    from pyspark.sql import functions as F

    return F.col(column).alias(name)


def all_given(columns: Sequence[str]) -> Column:
    """None of the columns is NULL."""
    from pyspark.sql import functions as F

    return reduce(and_, (F.col(column).isNotNull() for column in columns))


def equal(ours: Sequence[str], theirs: Sequence[str]) -> Column:
    """The columns are equal, pair by pair."""
    from pyspark.sql import functions as F

    return reduce(
        and_, (F.col(one) == F.col(other) for one, other in zip(ours, theirs, strict=True))
    )


def left_join(
    frame: DataFrame, part: DataFrame, ours: Sequence[str], theirs: Sequence[str]
) -> DataFrame:
    """Left join on equal columns; the joined side's are dropped."""
    return frame.join(part, equal(ours, theirs), "left").drop(*theirs)
