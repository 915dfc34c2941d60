"""Dependencies found in data: what an entity's key determines though no key of a table says so.

In the rows that every table leads to (its universal rows), each entity is tried against the values
that are not its yet. Rows are grouped by the entity's key: a value depends on it where each group
has one. Kivinen and Mannila's g₃ (1995) is the share of rows that would have to go for that to be
so. A dependency is found where data could have spoken against it and did not: among rows drawn at
random from the same values, at least `LEAST_EXPECTED` would have contradicted it, and of as many as
that no more than `MOST_VIOLATED` did. Both look at values alone, so the result does not depend on
how tables are cut; small tables speak against nothing, so nothing is found in them.

Cost: for each table, one pass for each entity that its rows lead to, and two short ones for each
value that no row, or hardly any, speaks against. Never pairs of columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from isohop.engines.frames import all_given, equal
from isohop.hops import certificate
from isohop.hops.facts import Facts
from isohop.hops.homing import Occurrence
from isohop.hops.plan import Root

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

LEAST_EXPECTED = 100.0
MOST_VIOLATED = 0.002
_WORTH_COUNTING = 0.7
"""Where more than this share of rows lies in groups with several values, g₃ cannot be small."""


@dataclass(frozen=True)
class Dependency:
    """``owner`` (a role) determines ``name`` (a value, or an entity's role) in rows of ``root``.

    ``violations``: rows that would have to go (g₃ × ``rows``); ``expected``: how many, were the
    two independent.
    """

    root: str
    owner: str
    name: str
    rows: int
    groups: int
    violations: int
    expected: float

    @property
    def adopted(self) -> bool:
        enough = self.expected >= LEAST_EXPECTED
        return enough and self.violations <= MOST_VIOLATED * self.expected

    @property
    def why(self) -> str:
        """The evidence, in one sentence."""
        g3 = self.violations / self.rows if self.rows else 0.0
        told = (
            f"{self.rows:,} rows of {self.groups:,} keys, {self.violations:,} against it "
            f"(g₃ = {g3:.2g}) where {self.expected:,.0f} would be by chance"
        )
        if self.expected < LEAST_EXPECTED:
            return f"{told}: too few to tell"
        return told


@dataclass(frozen=True)
class _Candidate:
    name: str
    columns: tuple[str, ...]
    same_entity: bool = False


def find_dependencies(facts: Facts) -> Iterator[Dependency]:
    """Every dependency of a value on an entity that is nearly or wholly satisfied.

    ``facts`` holds the universal rows of every root.
    """
    for root in facts.plan.roots.values():
        if root.table in facts.empty:
            continue
        for occurrence in root.homes.occurrences:
            if not occurrence.shared:
                yield from _of_one(facts.frames[root.table], root, occurrence)


def _candidates(root: Root, owner: Occurrence) -> list[_Candidate]:
    """What could belong to ``owner`` and does not yet: what no entity determines, or one that
    determines ``owner`` itself."""
    row, homes = root.row, root.homes
    known = row.closure(frozenset(owner.key))

    def larger(holder: Occurrence) -> bool:
        return frozenset(owner.key) <= row.closure(frozenset(holder.key))

    found = []
    for value, name in sorted(row.names.items()):
        holders = [holder for holder, _ in homes.attributes.get(value, [])]
        free = value in homes.event_values or any(map(larger, holders))
        if value not in known and free:
            found.append(_Candidate(name, (f"v{value}",)))
    for other in homes.occurrences:
        if other.shared or other == owner or frozenset(other.key) <= known:
            continue
        parents = homes.parents[other]
        if not parents or any(map(larger, parents)):
            columns = tuple(f"v{value}" for value in other.key)
            found.append(_Candidate(_name(root, other), columns, other.entity == owner.entity))
    return found


def _name(root: Root, occurrence: Occurrence) -> str:
    """What `determines` calls an occurrence: its role, where that says which one is meant."""
    homes = root.homes
    by_role = homes.named(occurrence.role) == [occurrence]
    free = occurrence.role not in root.row.names.values()
    return occurrence.role if by_role and free else occurrence.full_name


def _of_one(frame: DataFrame, root: Root, owner: Occurrence) -> Iterator[Dependency]:
    from pyspark.sql import functions as F

    candidates = _candidates(root, owner)
    if not candidates or root.one_row_for(owner.key):
        return
    key = [f"v{value}" for value in owner.key]
    types = dict(frame.dtypes)
    hashed = {f"h{index}": _hash(candidate, types) for index, candidate in enumerate(candidates)}
    rows = frame.where(all_given(key)).select(
        *key, *(column.alias(name) for name, column in hashed.items())
    )
    ends = [(F.min(name).alias(f"{name}a"), F.max(name).alias(f"{name}b")) for name in hashed]
    groups = rows.groupBy(*key).agg(
        F.count(F.lit(1)).alias("n"), *(c for pair in ends for c in pair)
    )
    in_mixed = [
        F.sum(F.when(F.col(f"{n}a") != F.col(f"{n}b"), F.col("n")).otherwise(0)) for n in hashed
    ]
    total, count, *mixed = groups.agg(F.sum("n"), F.count(F.lit(1)), *in_mixed).collect()[0]
    if not total or total - count < LEAST_EXPECTED:
        return
    for name, candidate, contested in zip(hashed, candidates, mixed, strict=True):
        if contested > _WORTH_COUNTING * total:
            continue
        expected = (total - count) * (1.0 - _collision(rows, name, total))
        if expected < 1:
            continue  # A constant depends on everything, and on nothing.
        if candidate.same_entity and _mostly_itself(frame, key, candidate.columns):
            continue  # Two roles of one thing: it does not determine itself.
        violations = _violations(rows, key, name) if contested else 0
        if violations <= 10 * MOST_VIOLATED * max(expected, 1.0):
            yield Dependency(
                root.table, _name(root, owner), candidate.name, total, count, violations, expected
            )


def _hash(candidate: _Candidate, types: dict[str, str]) -> Column:
    """One number for a value; NULL is a value too, so that it counts against a given one."""
    from pyspark.sql import functions as F

    columns = [certificate.canonical(F.col(c), types[c]) for c in candidate.columns]
    given = reduce(add, (c.isNull().cast("int") for c in columns))
    return F.xxhash64(given, *columns)


def _violations(rows: DataFrame, key: list[str], name: str) -> int:
    """Rows that do not have the value that most rows of their key have."""
    from pyspark.sql import functions as F

    counted = rows.groupBy(*key, name).agg(F.count(F.lit(1)).alias("n"))
    per_key = counted.groupBy(*key).agg(F.sum("n").alias("n"), F.max("n").alias("most"))
    return int(per_key.agg(F.sum(F.col("n") - F.col("most"))).collect()[0][0] or 0)


def _collision(rows: DataFrame, name: str, total: int) -> float:
    """How likely two rows drawn at random have the same value."""
    from pyspark.sql import functions as F

    counted = rows.groupBy(name).agg(F.count(F.lit(1)).alias("n"))
    squares = F.sum(F.col("n").cast("decimal(19,0)") * F.col("n").cast("decimal(19,0)"))
    return float(counted.agg(squares).collect()[0][0] or 0) / total**2


def _mostly_itself(frame: DataFrame, key: list[str], other: tuple[str, ...]) -> bool:
    """Whether both roles are the same entity in more than half of the rows that have both."""
    from pyspark.sql import functions as F

    both = frame.where(all_given([*key, *other]))
    same = F.sum(equal(key, other).cast("bigint"))
    rows, alike = both.agg(F.count(F.lit(1)), same).collect()[0]
    return bool(rows) and alike > rows / 2
