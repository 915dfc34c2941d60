"""The facts: universal rows as frames, and what they say of an entity.

Acts on a `Plan` through the engine. What several steps need is staged as Parquet, which works alike
on every engine. Values have internal names (``v0``, ``v1``) until a node or edge table is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from isohop.engines.frames import (
    all_given,
    distinct_names,
    equal,
    left_join,
    renamed,
    rows_in,
    staged,
    united,
    write_parquet,
)
from isohop.errors import IsohopError, Problem
from isohop.hops.kinds import Kind, default_kind
from isohop.hops.plan import EventPlan, FunctionalPlan, Gathered, Plan, Root, Source
from isohop.hops.usage import referring_keys
from isohop.hops.value_types import Value, ValueType, value_types
from isohop.relational.integrity import EXAMPLES, REASON, CleanTable
from isohop.relational.ledger import Finding, Ledger

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

JOINS_AT_ONCE = 24
"""Engines plan by recursion: a row that leads to hundreds of places is joined in steps."""


@dataclass
class Facts:
    """The universal rows of every root. ``empty``: folded tables whose rows are all referred to,
    so that none of them is a fact of its own."""

    session: SparkSession
    plan: Plan
    clean: Mapping[str, CleanTable]
    stage: Path
    quarantine: Path
    ledger: Ledger
    frames: dict[str, DataFrame] = field(default_factory=dict)
    empty: set[str] = field(default_factory=set)
    types: dict[Value, ValueType] = field(init=False)
    problems: list[Problem] = field(init=False)
    """Columns that are one thing and differ in type, or have not the type that their kind wants; a
    graph needs that there are none."""
    _targets: dict[str, DataFrame | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.types, self.problems = value_types(self.plan, self.clean)
        self.problems += self._no_numbers()

    def _no_numbers(self) -> list[Problem]:
        """Attributes of events of which a mean is to be made and cannot."""
        found = []
        for event in self.plan.events:
            for name, value in event.attributes.items():
                if self.plan.spec(event.name, name).kind != "number":
                    continue
                row = self.plan.roots[event.root].row
                visit, column = row.source[value]
                table, type_ = self.clean[row.visits[visit].table], self.type_of(event.root, value)
                number = default_kind(type_) == "number" or pa.types.is_boolean(type_)
                if not number and column not in table.all_null:
                    what = f"its kind is to be 'number', and {table.name}.{column} is {type_}."
                    hint = "Leave the kind out, or say the column's type under 'types:'."
                    found.append(Problem(f"attribute {event.name}.{name}", what, hint))
        return found

    def staged(self, frame: DataFrame, name: str) -> DataFrame:
        """The same rows, written once."""
        return staged(self.session, frame, self.stage / name)

    def counted(self, frame: DataFrame, name: str) -> tuple[DataFrame, int]:
        """Likewise, and how many rows there are."""
        return self.staged(frame, name), rows_in(self.stage / name)

    def type_of(self, root: str, value: int) -> pa.DataType:
        """Arrow type of a value of U(root)."""
        if (root, value) in self.types:
            return self.types[root, value].arrow
        row = self.plan.roots[root].row
        visit, column = row.source[value]
        return self.clean[row.visits[visit].table].types[column]

    def make(self, root: Root) -> None:
        """U(root): the joins along its visits, with one column a value that anything needs."""
        row = root.row
        needed = self._needed_values(root)
        visits = self._needed_visits(root, needed)
        base = self.clean[root.table]
        frame = base.frame
        if root.unreferenced:
            frame = self._unreferenced(root.table, frame)
            if not frame.limit(1).collect():
                self.empty.add(root.table)
        wanted = {
            row.source[value][1]: value
            for value in sorted(needed | self._joining(root, visits))
            if row.source[value][0] == 0
        }
        frame = frame.select(*(self._value(root, base.names[c], v) for c, v in wanted.items()))
        for joins, visit in enumerate(v for v in row.visits[1:] if v.index in visits):
            if joins and joins % JOINS_AT_ONCE == 0:
                frame = self.staged(frame, f"universal-{root.table}-{joins}")
            target = self.clean[visit.table]
            columns = {key: f"j{index}" for index, key in enumerate(visit.key)}
            values = {
                row.source[value][1]: value
                for value in sorted(needed | self._joining(root, visits))
                if row.source[value][0] == visit.index
            }
            joined = target.frame.select(
                *(renamed(target.names[c], j) for c, j in columns.items()),
                *(self._value(root, target.names[c], v) for c, v in values.items()),
            )
            ours = [f"v{row.values[visit.parent or 0, c]}" for c in visit.columns]
            frame = left_join(frame, joined, ours, list(columns.values()))
        if visits or root.unreferenced:
            frame = self.staged(frame, f"universal-{root.table}")
        self.frames[root.table] = frame

    def _value(self, root: Root, column: str, value: int) -> Column:
        """A column as a value of U(root), of the type that it has in all tables."""
        from pyspark.sql import functions as F

        type_ = self.types.get((root.table, value))
        typed = F.col(column) if type_ is None else F.col(column).cast(type_.engine)
        return typed.alias(f"v{value}")

    def _unreferenced(self, table: str, frame: DataFrame) -> DataFrame:
        """The rows of a folded table that no row refers to."""
        names = self.clean[table].names
        key = [names[column] for column in self.plan.schema.tables[table].key or ()]
        for keys in referring_keys(self.plan, self.clean, table):
            frame = frame.join(keys, equal(key, keys.columns), "left_anti")
        return frame

    def _needed_values(self, root: Root) -> set[int]:
        homes = root.homes
        needed = {value for o in homes.occurrences for value in o.key}
        needed |= {value for value, held in homes.attributes.items() if held}
        needed |= set(homes.event_values)
        for event in self.plan.events:
            if event.root == root.table and event.time is not None:
                needed.add(event.time)
        return needed

    @staticmethod
    def _needed_visits(root: Root, needed: set[int]) -> set[int]:
        visits: set[int] = set()
        for value in needed:
            visit = root.row.visits[root.row.source[value][0]]
            while visit.parent is not None:
                visits.add(visit.index)
                visit = root.row.visits[visit.parent]
        return visits

    @staticmethod
    def _joining(root: Root, visits: set[int]) -> set[int]:
        row = root.row
        return {
            row.values[row.visits[index].parent or 0, column]
            for index in visits
            for column in row.visits[index].columns
        }

    def keys(self, root: str, key: Sequence[int], names: Sequence[str]) -> DataFrame:
        """The keys that stand in a root's rows, under ``names``; rows without one are left out."""
        columns = [f"v{value}" for value in key]
        frame = self.frames[root].where(all_given(columns))
        return frame.select(*(renamed(c, n) for c, n in zip(columns, names, strict=True)))

    def sources(self, gathered: Gathered) -> list[Source]:
        """The sources that have rows."""
        return [source for source in gathered.sources if source.root not in self.empty]

    def kind(self, owner: str, name: str, source: Source) -> Kind:
        """The kind of an entity's attribute."""
        return self.kind_of(owner, name, source.root, source.values[0])

    def kind_of(self, owner: str, name: str, root: str, value: int) -> Kind:
        """The kind that the schema file states, else that of the type."""
        stated = self.plan.spec(owner, name).kind
        return stated or default_kind(self.type_of(root, value))

    def targets(self, edge: FunctionalPlan) -> DataFrame | None:
        """(r0…, t0…): the one target of each source's key; None where no table has rows."""
        if edge.name not in self._targets:
            sources = self.sources(edge.gathered)
            width = len(self.plan.nodes[edge.target].key)
            resolved = self.resolve(edge.name, sources, width) if sources else None
            self._targets[edge.name] = resolved
        return self._targets[edge.name]

    def resolve(self, where: str, sources: list[Source], width: int) -> DataFrame:
        """(r0…, t0…): one value for each key, from all sources, by the violation policy."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        targets = [f"t{index}" for index in range(width)]
        parts = []
        for source in sources:
            columns = [f"v{v}" for v in (*source.holder, *source.values)]
            frame = self.frames[source.root].where(all_given(columns))
            parts.append(
                frame.select(
                    *(renamed(f"v{v}", f"r{index}") for index, v in enumerate(source.holder)),
                    *(renamed(f"v{v}", t) for v, t in zip(source.values, targets, strict=True)),
                )
            )
        keys = [f"r{index}" for index in range(len(sources[0].holder))]
        pairs = united(parts)
        if len(sources) == 1 and sources[0].keyed:
            return pairs
        counted = pairs.groupBy(*keys, *targets).agg(F.count(F.lit(1)).alias("n"))
        counted = self.staged(counted, f"gathered-{len(list(self.stage.glob('gathered-*')))}")
        several = counted.groupBy(*keys).count().where("count > 1")
        violations = several.count()
        if not violations:
            return counted.drop("n")
        policy = self.plan.schema.policies.violations
        contested = counted.join(several.drop("count"), keys, "left_semi").orderBy(
            *keys, F.desc("n"), *targets
        )
        examples = [
            f"{tuple(str(v) for v in list(row)[: len(keys)])} has "
            f"{tuple(str(v) for v in list(row)[len(keys) : -1])} × {row['n']}"
            for row in contested.limit(EXAMPLES).collect()
        ]
        self.ledger.findings.append(
            Finding(
                kind="violated dependency",
                where=where,
                count=violations,
                examples=examples,
                policy=policy,
            )
        )
        if policy == "fail":
            raise IsohopError(
                f"{where}: {violations} keys have more than one value, e.g. {examples[0]}, and the "
                "policy 'violations: fail' stops here. Mend the data, or choose 'majority' or "
                "'unset'."
            )
        order = Window.partitionBy(*keys).orderBy(F.desc("n"), *targets)
        ranked = counted.withColumn("rank", F.row_number().over(order))
        lost = ranked.where(F.col("rank") > 1) if policy == "majority" else contested
        quarantined = lost.select(
            F.lit(f"violated dependency of {where}").alias(REASON),
            *(renamed(k, f"key_{index}") for index, k in enumerate(keys)),
            *(renamed(t, f"value_{index}") for index, t in enumerate(targets)),
            F.col("n").alias("rows"),
        )
        (folder,) = distinct_names([_folder_name(where)], self.clean)
        write_parquet(quarantined, self.quarantine / folder)
        if policy == "majority":
            return ranked.where(F.col("rank") == 1).drop("rank", "n")
        return counted.join(several.drop("count"), keys, "left_anti").drop("n")


def _folder_name(where: str) -> str:
    """An attribute may be called what no folder can be."""
    return re.sub(r"[^\w .-]", lambda odd: f"%{ord(odd[0]):02x}", where)


def with_time(event: EventPlan) -> dict[str, int]:
    """An event's attributes, its time among them wherever it was homed."""
    if event.time is None or event.time in event.attributes.values():
        return event.attributes
    return {**event.attributes, "time": event.time}
