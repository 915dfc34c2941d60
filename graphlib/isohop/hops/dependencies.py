"""Dependencies found in data: what an entity's key determines though no key of a table says so.

In the rows that every table leads to (its universal rows), each entity is tried against the values
that are not its yet. Rows are grouped by the entity's key: a value depends on it where each group
has one. Kivinen and Mannila's g₃ (1995) is the share of rows that would have to go for that to be
so. A dependency is found where data could have spoken against it and did not: among rows drawn at
random from the same values, at least `LEAST_EXPECTED` would have contradicted it, and of as many as
that no more than `MOST_VIOLATED` did. Both look at values alone, so the result does not depend on
how tables are cut; small tables speak against nothing, so nothing is found in them.

Cost: for each table with rows enough to tell, one pass for each entity that its rows lead to, and
two more for every `AT_ONCE` values that few rows speak against. Never pairs of columns.
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
AT_ONCE = 32
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
                rows = facts.clean[root.table].rows
                yield from _of_one(facts.frames[root.table], rows, root, occurrence)


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


def _of_one(
    frame: DataFrame, rows_held: int, root: Root, owner: Occurrence
) -> Iterator[Dependency]:
    from pyspark.sql import functions as F

    candidates = _candidates(root, owner)
    if not candidates or root.one_row_for(owner.key) or rows_held <= LEAST_EXPECTED:
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
    near = [
        (name, candidate)
        for name, candidate, contested in zip(hashed, candidates, mixed, strict=True)
        if contested <= _WORTH_COUNTING * total
        # Two roles of one thing: it does not determine itself.
        and not (candidate.same_entity and _mostly_itself(frame, key, candidate.columns))
    ]
    for start in range(0, len(near), AT_ONCE):
        chosen = near[start : start + AT_ONCE]
        counted = _counted(rows, key, [name for name, _ in chosen])
        for (violations, squares), (_, candidate) in zip(counted, chosen, strict=True):
            expected = (total - count) * (1.0 - squares / total**2)
            # A constant (expected: 0) depends on everything, and on nothing.
            if expected >= 1 and violations <= 10 * MOST_VIOLATED * expected:
                owned = _name(root, owner)
                yield Dependency(
                    root.table, owned, candidate.name, total, count, violations, expected
                )


def _hash(candidate: _Candidate, types: dict[str, str]) -> Column:
    """One number for a value; NULL is a value too, so that it counts against a given one."""
    from pyspark.sql import functions as F

    columns = [certificate.canonical(F.col(c), types[c]) for c in candidate.columns]
    given = reduce(add, (c.isNull().cast("int") for c in columns))
    return F.xxhash64(given, *columns)


def _counted(rows: DataFrame, key: list[str], names: list[str]) -> list[tuple[int, float]]:
    """For each value: the rows that do not have what most rows of their key have, and the sum of
    squares of how often each of its values occurs. Two passes for all together."""
    from pyspark.sql import functions as F

    told = rows.select(*key, F.posexplode(F.array(*names)).alias("at", "value"))
    by_key = told.groupBy(*key, "at", "value").agg(F.count(F.lit(1)).alias("n"))
    most = by_key.groupBy(*key, "at").agg(F.sum("n").alias("n"), F.max("n").alias("most"))
    against = most.groupBy("at").agg(F.sum(F.col("n") - F.col("most"))).collect()
    often = told.groupBy("at", "value").agg(F.count(F.lit(1)).alias("n"))
    square = F.col("n").cast("decimal(19,0)") * F.col("n").cast("decimal(19,0)")
    squares = often.groupBy("at").agg(F.sum(square)).collect()
    violations, collisions = ({row[0]: row[1] for row in found} for found in (against, squares))
    return [(int(violations[at]), float(collisions[at])) for at in range(len(names))]


def _mostly_itself(frame: DataFrame, key: list[str], other: tuple[str, ...]) -> bool:
    """Whether both roles are the same entity in more than half of the rows that have both."""
    from pyspark.sql import functions as F

    both = frame.where(all_given([*key, *other]))
    same = F.sum(equal(key, other).cast("bigint"))
    rows, alike = both.agg(F.count(F.lit(1)), same).collect()[0]
    return bool(rows) and alike > rows / 2
