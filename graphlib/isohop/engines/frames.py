"""Small pieces of the DataFrame API that read better with a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING

from isohop.engines.spark import ENGINE

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import StructType

SLICE_ROWS = 1 << 23
"""Rows that one aggregation takes at a time: what an engine holds in memory at once. Each slice
reads all rows, so there should be few."""
PARTITION_ROWS = 1 << 18
"""Rows of one key-partitioned part of a slice: groups that fit a processor's caches."""


_PATTERN = re.compile(r"[*?\[\]{}\\]")
"""What Spark takes for a part of a pattern."""


def renamed(column: str, name: str) -> Column:
    """A column under another name."""
    from pyspark.sql import functions as F

    return F.col(column).alias(name)


def distinct_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """``names`` of columns, with "_" after one that an earlier one has already, or what is
    ``taken``, in whatever capitals: ``temp_max`` may be an attribute, and the greatest ``temp``."""
    known = {name.lower() for name in taken}
    found = []
    for name in names:
        while name.lower() in known:
            name += "_"
        known.add(name.lower())
        found.append(name)
    return found


def all_given(columns: Sequence[str]) -> Column:
    """None of the columns is NULL."""
    from pyspark.sql import functions as F

    return reduce(and_, (F.col(column).isNotNull() for column in columns))


def with_digits(frame: DataFrame, columns: Sequence[str]) -> list[Column]:
    """The columns, of bytes their digits, which have the same order: not every engine has one of
    bytes, and they are no text."""
    from pyspark.sql import functions as F

    types = dict(frame.dtypes)
    return [F.hex(name) if types[name] == "binary" else F.col(name) for name in columns]


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


def united(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of all frames (one at least), by column names.

    As a balanced tree: engines plan by recursion, and a chain of hundreds is too deep for them.
    """
    while len(frames) > 1:
        pairs = zip(frames[::2], frames[1::2], strict=False)
        odd = frames[-1:] if len(frames) % 2 else []
        frames = [*(one.unionByName(other) for one, other in pairs), *odd]
    return frames[0]


def slices(frame: DataFrame, keys: Sequence[str], rows: int, groups: int) -> Iterator[DataFrame]:
    """The frame in parts, the rows of one key in one part, of about `SLICE_ROWS` each.

    Engines that hold all groups of an aggregation in memory then hold those of one part. Where
    there may be as many ``groups`` as rows, the rows of a part are also brought together by key at
    once: to aggregate each partition first, as engines do, would only make the groups twice.
    """
    from pyspark.sql import functions as F

    number = max(1, -(-rows // SLICE_ROWS))
    partitions = -(-rows // (number * PARTITION_ROWS))
    for part in range(number):
        here = F.pmod(F.xxhash64(*keys), F.lit(number)) == part
        there = frame if number == 1 else frame.where(here)
        yield there.repartition(partitions, *keys) if groups >= rows > 0 else there


def write_parquet(frame: DataFrame, folder: Path, append: bool = False) -> None:
    """Write a frame; one without rows too gets a file, so that its columns are known."""
    where = _literally(frame.sparkSession, folder, pattern=False)
    frame.write.mode("append" if append else "overwrite").parquet(where)
    if not any(folder.glob("*.parquet")):
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyspark.sql.pandas.types import to_arrow_schema

        schema = pa.schema(
            [
                pa.field(f.name, pa.timestamp("us") if pa.types.is_timestamp(f.type) else f.type)
                for f in to_arrow_schema(frame.schema)
            ]
        )
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(schema.empty_table(), folder / "part-0.parquet")


def read_parquet(
    session: SparkSession, *paths: Path, schema: StructType | None = None
) -> DataFrame:
    """Files or folders, by their very names. ``schema``: of all columns, where it is known: Spark
    would start a job to find it."""
    reader = session.read if schema is None else session.read.schema(schema)
    return reader.parquet(*(_literally(session, path, pattern=True) for path in paths))


def _literally(session: SparkSession, path: Path, pattern: bool) -> str:
    """A path, whatever its name, as an engine takes it where it expects a ``pattern`` or none. Sail
    sees one everywhere but in a URL. Engines take '..' for what stands before it, also where that
    is a link; without, a path stays as it is: links of other machines may lead elsewhere."""
    path = path.resolve() if ".." in path.parts else path.absolute()
    if session.conf.get(ENGINE, "spark") == "sail":
        return path.as_uri()
    return _PATTERN.sub(r"\\\g<0>", str(path)) if pattern else str(path)


def staged(session: SparkSession, frame: DataFrame, folder: Path) -> DataFrame:
    """The same rows, written once, so that several readers do not make them again."""
    write_parquet(frame, folder)
    return read_parquet(session, folder, schema=frame.schema)


def rows_in(folder: Path) -> int:
    """Of what was written there, by its footers: no query."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
