"""The certificate: equal graphs have equal ones, whatever rows, files and names they came in.

Each node type, edge type and attribute has a 128-bit digest: the sum, over its facts, of two 64-bit
hashes of (entity keys, value). A sum does not depend on the order of rows, the hashes are of values
alone, and the digests are combined in sorted order, so neither order nor names count. Multiplicity
does: a fact stored twice, lost or invented changes a sum, and so does one that is moved to another
entity. The facts of an event are hashed with all of its participants together.

One pass over the facts of a type gives all of its digests (`digests`), in the engine; Spark and
Sail give the same xxHash64. Sums are of half a hash each, so they are exact for 2^31 rows, and
beyond that where an engine's integers wrap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby, permutations, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_SEEDS = (0x69736F686F70, 0x686E66)
"""Two seeds make one 128-bit digest of two independent 64-bit hashes."""
_HALF = 32
_SUMS = 4
"""Aggregates of one digest: two halves of two hashes."""


def canonical(column: Column, type_name: str) -> Column:
    """A value so that equal values hash equally: ``type_name`` is Spark's (``bigint``, …)."""
    from pyspark.sql import functions as F

    if type_name in ("tinyint", "smallint", "int", "bigint"):
        return column.cast("bigint")
    if type_name in ("float", "double"):
        return column.cast("double") + F.lit(0.0)  # -0.0 becomes 0.0
    if type_name.startswith("decimal"):
        text = column.cast("string")
        if type_name.endswith(",0)"):
            return text
        # 1.20 and 1.2 are one number.
        return F.rtrim(F.rtrim(text, F.lit("0")), F.lit("."))
    return column


def columns_of(frame: DataFrame, names: Iterable[str]) -> list[Column]:
    """Columns of a frame, canonical."""
    from pyspark.sql import functions as F

    types = dict(frame.dtypes)
    return [canonical(F.col(name), types[name]) for name in names]


def digests(
    frame: DataFrame, identities: Sequence[Sequence[Column]], values: Sequence[str] = ()
) -> tuple[int, list[list[str]]]:
    """The number of rows, and for each way to identify a row the digests of what it says.

    The first digest of each list is that of the identities themselves, the others of ``values``,
    in that order. A row without a value is left out of that value's: an absent value is no fact.
    Identities are `canonical`; NULL among them is not told from a column that is not there.
    """
    from pyspark.sql import functions as F

    hashed = frame.select(
        *(
            F.xxhash64(F.lit(seed), *identity).alias(f"h{way}_{index}")
            for way, identity in enumerate(identities)
            for index, seed in enumerate(_SEEDS)
        ),
        *(c.alias(f"d{at}") for at, c in enumerate(columns_of(frame, values))),
    )
    sums = [F.count(F.lit(1)).alias("rows")]
    for way in range(len(identities)):
        for at in (None, *range(len(values))):
            for index, seed in enumerate(_SEEDS):
                part = F.col(f"h{way}_{index}")
                if at is not None:
                    value = F.col(f"d{at}")
                    part = F.when(value.isNotNull(), F.xxhash64(F.lit(seed), part, value))
                for half in (F.shiftright(part, _HALF), part.bitwiseAND(F.lit(2**_HALF - 1))):
                    sums.append(F.sum(half).alias(f"s{len(sums)}"))
    row = list(hashed.agg(*sums).collect()[0])
    found = [_digest(row[at : at + _SUMS]) for at in range(1, len(row), _SUMS)]
    width = len(values) + 1
    return row[0], [found[at : at + width] for at in range(0, len(found), width)]


def _digest(sums: Sequence[int | None]) -> str:
    """128 bits, as 32 hexadecimal digits, of the sums of half hashes."""
    low, high = (
        ((sums[at] or 0) * 2**_HALF + (sums[at + 1] or 0)) % 2**64 for at in range(0, _SUMS, 2)
    )
    return f"{high:016x}{low:016x}"


def told(found: Sequence[str]) -> str:
    """One digest of a type: of its identities, and of its attributes whatever their order.

    ``found`` is as of `digests`. An attribute without a single value says nothing, so it counts for
    nothing.
    """
    return in_sequence([found[0], combine(part for part in found[1:] if part != EMPTY)])


def combine(parts: Iterable[str]) -> str:
    """One digest of several, in whatever order."""
    joined = "\n".join(sorted(parts))
    return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()


def in_sequence(parts: Iterable[str]) -> str:
    """One digest of several whose order tells something."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def in_canonical_order(marks: Sequence[tuple[str, ...]]) -> list[list[int]]:
    """The orders of things that are told apart by ``marks`` alone, never by name or position.

    One order where all marks differ; where some are equal, each order of these.
    """
    ordered = sorted(range(len(marks)), key=lambda at: marks[at])
    ties = [list(tied) for _, tied in groupby(ordered, key=lambda at: marks[at])]
    return [
        [at for tied in choice for at in tied]
        for choice in product(*(permutations(tied) for tied in ties))
    ]


EMPTY = _digest([0] * _SUMS)
