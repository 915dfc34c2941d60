"""Edges: what an entity determines, and who takes part in one event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING

from isohop.engines.frames import all_given, equal, renamed, rows_in, slices, write_parquet
from isohop.hops import certificate
from isohop.hops.aggregates import HOW, Aggregated, aggregate, most_rows
from isohop.hops.facts import Facts, with_time
from isohop.hops.homing import Occurrence
from isohop.hops.kinds import Kind
from isohop.hops.nodes import Built, Nodes
from isohop.hops.plan import EventPlan, FunctionalPlan

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass
class Edges:
    """Makes edge tables, once the nodes of all types are there."""

    facts: Facts
    nodes: Nodes
    out: Path
    built: dict[str, Built] = field(default_factory=dict)

    def make_functional(self, edge: FunctionalPlan) -> None:
        """One edge for each source that has a target."""
        from pyspark.sql import functions as F

        folder = self.out / "edges" / edge.name
        pairs = self.facts.targets(edge)
        if pairs is None:
            columns = ("src", "dst", "count")
            nothing = ", ".join(f"{column} bigint" for column in columns)
            write_parquet(self.facts.session.createDataFrame([], nothing), folder)
            digest, count = certificate.EMPTY, 0
        else:
            targets = [f"t{index}" for index in range(len(self.facts.plan.nodes[edge.target].key))]
            holders = [column for column in pairs.columns if column not in targets]
            ended = self._with_id(pairs, edge.target, targets, "dst")
            ended = self._with_id(ended, edge.source, holders, "src")
            count_one = F.lit(1).cast("bigint").alias("count")
            write_parquet(ended.select("src", "dst", count_one), folder)
            digest, count = self._functional_digest(edge, pairs, holders, targets)
        self.built[edge.name] = Built(
            edge.name, count, digest, (), (edge.source, edge.role, edge.target), functional=True
        )

    def _functional_digest(
        self, edge: FunctionalPlan, pairs: DataFrame, holders: Sequence[str], targets: Sequence[str]
    ) -> tuple[str, int]:
        """The digest of an edge type and its rows.

        Which end is the source may be a matter of names (two entities can determine each other), so
        the ends go by their nodes' digests; ends that these do not tell apart, both ways round,
        unless one alone determines the other: who is whose boss is a fact.
        """
        ends = [(edge.source, holders), (edge.target, targets)]
        orders = certificate.in_canonical_order([(self._digest(node),) for node, _ in ends])
        if not edge.mutual and len(orders) > 1:
            orders = [[0, 1]]
        identity = [self.nodes.identity(node, pairs, keys) for node, keys in ends]
        count, found = certificate.digests(pairs, [[*identity[a], *identity[b]] for a, b in orders])
        nodes = sorted(self._digest(node) for node, _ in ends)
        digest = certificate.combine(
            certificate.in_sequence([*nodes, certificate.told(way)]) for way in found
        )
        return digest, count

    def make_pairs(self, event: EventPlan) -> None:
        """An edge for each pair of participants; parallel edges become one, with a count.

        Facts are brought together by the keys of a pair before these become node ids, so that what
        is joined is one row a pair, whatever share of the facts one entity has.
        """
        attributes = [
            (name, f"v{value}", self.facts.kind_of(event.name, name, event.root, value))
            for name, value in with_time(event).items()
        ]
        facts = self.facts.frames[event.root]
        rows, told = self._event_digest(event, facts)
        for role, first, second in event.pairs:
            name = f"{first.entity}--{role}--{second.entity}"
            folder = self.out / "edges" / name
            sides = ((first, "s"), (second, "t"))
            keys = [f"{side}{i}" for end, side in sides for i in range(len(end.key))]
            held = [f"v{value}" for end, _ in sides for value in end.key]
            values = sorted({column for _, column, _ in attributes})
            ended = facts.where(all_given(held)).select(
                *(renamed(column, key) for column, key in zip(held, keys, strict=True)), *values
            )
            most = most_rows(ended, keys)
            groups = self._count(first.entity) * self._count(second.entity)
            for number, part in enumerate(slices(ended, keys, rows, groups)):
                made = aggregate(part, keys, attributes, most, ("src", "dst", "count"))
                frame = self._with_id(made.frame, first.entity, keys[: len(first.key)], "src")
                frame = self._with_id(frame, second.entity, keys[len(first.key) :], "dst")
                frame = frame.select(
                    "src",
                    "dst",
                    renamed("m0", "count"),
                    *(renamed(f"m{i}", c) for i, (c, _, _) in enumerate(made.columns, start=1)),
                )
                write_parquet(frame, folder, append=number > 0)
            ends = sorted([self._digest(first.entity), self._digest(second.entity)])
            self.built[name] = Built(
                name,
                rows_in(folder),
                certificate.in_sequence([*ends, told]),
                made.columns,
                (first.entity, role, second.entity),
                time=_time(event, attributes, made),
            )

    def _event_digest(self, event: EventPlan, frame: DataFrame) -> tuple[int, str]:
        """The rows that give two participants or more, and the digest of what they say.

        All participants of a row are hashed together, in an order that names have no part in: that
        of their nodes' digests, then of what stands in each role. Roles that even this does not
        tell apart are taken in every order.
        """
        from pyspark.sql import functions as F

        held = [[f"v{value}" for value in participant.key] for participant in event.participants]
        present = [all_given(columns) for columns in held]
        several = reduce(add, (given.cast("int") for given in present)) >= 2
        identities: list[list[Column]] = []
        for participant, columns, given in zip(event.participants, held, present, strict=True):
            identity = self.nodes.identity(participant.entity, frame, columns)
            identities.append([given, *(F.when(given, column) for column in identity)])
        marks = self._marks(event.participants, frame, held)
        orders = certificate.in_canonical_order(marks)
        values = [f"v{value}" for value in sorted(set(with_time(event).values()))]
        rows, found = certificate.digests(
            frame.where(several),
            [[c for at in order for c in identities[at]] for order in orders],
            values,
        )
        return rows, certificate.combine(certificate.told(way) for way in found)

    def _marks(
        self, participants: Sequence[Occurrence], frame: DataFrame, held: Sequence[Sequence[str]]
    ) -> list[tuple[str, ...]]:
        """What tells participants apart: their nodes; where these are the same, what is there."""
        nodes = [self._digest(participant.entity) for participant in participants]
        marks: list[tuple[str, ...]] = []
        for participant, node, columns in zip(participants, nodes, held, strict=True):
            mark: tuple[str, ...] = (node,)
            if nodes.count(node) > 1:
                given = frame.where(all_given(columns))
                identity = self.nodes.identity(participant.entity, given, columns)
                _, [[digest]] = certificate.digests(given, [identity])
                # Where nothing stands, any order is the same: no need to try them all.
                empty = digest == certificate.EMPTY
                mark = (node, digest, str(len(marks))) if empty else (node, digest)
            marks.append(mark)
        return marks

    def _count(self, node: str) -> int:
        return self.nodes.built[node].count

    def _digest(self, node: str) -> str:
        return self.nodes.built[node].digest

    def _with_id(self, frame: DataFrame, node: str, keys: Sequence[str], name: str) -> DataFrame:
        """The node ids of one end, as column ``name``; every key has one."""
        ids = self.nodes.ids[node]
        theirs = [column for column in ids.columns if column.startswith("k")]
        # The smaller side first: engines without statistics of an aggregate build on the left.
        joined = ids.join(frame, equal(theirs, keys), "inner")
        return joined.withColumnRenamed("node_id", name).drop(*theirs)


def _time(
    event: EventPlan, attributes: Sequence[tuple[str, str, Kind]], made: Aggregated
) -> str | None:
    """The column of the first of an event's times; where that is of another kind, so that there is
    none, what it would be of."""
    at = 0
    for name, column, kind in attributes:
        if event.time is not None and column == f"v{event.time}":
            return made.columns[at][0] if kind == "time" else name
        at += len(HOW.get(kind, ("set",)))
    return None
