"""The certificate: equal graphs have equal ones, whatever rows, files and names they came in.

Each node type, edge type and attribute has a 128-bit digest: the sum, over its rows, of two 64-bit
hashes of (entity keys, value). A sum does not depend on the order of rows, the hashes are of values
alone, and the digests are combined in sorted order, so neither order nor names count. Multiplicity
does: a fact stored twice, lost or invented changes a sum.

Computed in the engine in the pass that makes the graph; Spark and Sail give the same xxHash64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column

_SEEDS = (0x69736F686F70, 0x686E66)
"""Two seeds make one 128-bit digest of two independent 64-bit hashes."""


def canonical(column: Column, type_name: str) -> Column:
    """A value so that equal values hash equally: ``type_name`` is Spark's (``bigint``, …)."""
    from pyspark.sql import functions as F

    if type_name in ("tinyint", "smallint", "int", "bigint"):
        return column.cast("bigint")
    if type_name in ("float", "double"):
        return column.cast("double") + F.lit(0.0)  # -0.0 becomes 0.0
    if type_name.startswith("decimal"):
        # 1.20 and 1.2 are one number.
        return F.regexp_replace(column.cast("string"), r"(\.\d*?)0+$|\.$", "$1")
    return column


def key_hashes(columns: Sequence[Column]) -> tuple[Column, Column]:
    """Two 64-bit hashes of one key's (canonical) columns."""
    from pyspark.sql import functions as F

    first, second = (F.xxhash64(F.lit(seed), *columns) for seed in _SEEDS)
    return first, second


def digest_sum(first: Sequence[Column], second: Sequence[Column]) -> tuple[Column, Column]:
    """The two aggregates of one digest: sums of hashes over rows, exact at any size.

    ``first`` and ``second`` are what is hashed under each seed. A row with a NULL among them is
    left out: an absent value is no fact.
    """
    from pyspark.sql import functions as F

    sums = []
    for seed, columns in zip(_SEEDS, (first, second), strict=True):
        given = columns[0].isNotNull()
        for column in columns[1:]:
            given = given & column.isNotNull()
        hashed = F.when(given, F.xxhash64(F.lit(seed), *columns)).cast("decimal(38,0)")
        sums.append(F.sum(hashed))
    return sums[0], sums[1]


def digest(first: object, second: object) -> str:
    """128 bits, as 32 hexadecimal digits, of the two sums that an engine returned."""
    low, high = (int(str(part or 0)) % 2**64 for part in (first, second))
    return f"{high:016x}{low:016x}"


def combine(parts: Iterable[str]) -> str:
    """One digest of several, in whatever order."""
    joined = "\n".join(sorted(parts))
    return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()


def in_sequence(parts: Iterable[str]) -> str:
    """One digest of several whose order tells something."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


EMPTY = digest(0, 0)
