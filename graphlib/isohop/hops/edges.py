"""Edges: what an entity determines, and who takes part in one event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isohop.engines.frames import all_given, left_join, renamed, write_parquet
from isohop.hops import certificate
from isohop.hops.aggregates import aggregates
from isohop.hops.facts import Facts, with_time
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
        from pyspark.sql import functions as F

        name = f"{edge.source}--{edge.role}--{edge.target}"
        width = len(self.facts.plan.nodes[edge.target].key)
        sources = self.facts.sources(edge.gathered)
        if sources:
            pairs = self.facts.resolve(name, sources, width)
            targets = [f"t{index}" for index in range(width)]
            holders = [column for column in pairs.columns if column not in targets]
            ended = self._with_end(pairs, edge.source, holders, "s")
            ended = self._with_end(ended, edge.target, targets, "t")
        else:
            sides = [f"{side}_{part} bigint" for side in "st" for part in ("id", "h0", "h1")]
            ended = self.facts.session.createDataFrame([], ", ".join(sides))
        ended = ended.select("s_id", "s_h0", "s_h1", "t_id", "t_h0", "t_h1")
        written = ended.orderBy("s_id", "t_id").select(
            renamed("s_id", "src"), renamed("t_id", "dst"), F.lit(1).cast("bigint").alias("count")
        )
        write_parquet(written, self.out / "edges" / name)
        digests, count = self._edge_digests(ended, edge.source, edge.target, {})
        self.built[name] = Built(
            name, count, digests, (), (edge.source, edge.role, edge.target), functional=True
        )

    def _with_end(self, frame: DataFrame, node: str, keys: Sequence[str], side: str) -> DataFrame:
        """Join the node ids and key hashes of one end; NULL where the row has no such end."""
        ids = self.nodes.ids[node]
        theirs = [c for c in ids.columns if c.startswith("k")]
        end = ids.select(
            renamed("node_id", f"{side}_id"),
            renamed("h0", f"{side}_h0"),
            renamed("h1", f"{side}_h1"),
            *(renamed(k, f"{side}_{k}") for k in theirs),
        )
        return left_join(frame, end, keys, [f"{side}_{k}" for k in theirs])

    def make_pairs(self, event: EventPlan) -> None:
        """An edge type for each pair of participants; parallel edges become one, with a count."""
        from pyspark.sql import functions as F

        attributes = with_time(event)
        frame = self.facts.frames[event.root]
        for index, participant in enumerate(event.participants):
            keys = [f"v{value}" for value in participant.key]
            frame = self._with_end(frame, participant.entity, keys, f"p{index}")
        sides = [f"p{i}_{c}" for i in range(len(event.participants)) for c in ("id", "h0", "h1")]
        values = sorted({f"v{value}" for value in attributes.values()})
        frame = self.facts.staged(frame.select(*sides, *values), f"event-{event.name}")
        position = {participant: index for index, participant in enumerate(event.participants)}
        for role, first, second in event.pairs:
            one, two = f"p{position[first]}", f"p{position[second]}"
            ended = frame.where(all_given([f"{one}_id", f"{two}_id"])).select(
                *(renamed(f"{one}_{c}", f"s_{c}") for c in ("id", "h0", "h1")),
                *(renamed(f"{two}_{c}", f"t_{c}") for c in ("id", "h0", "h1")),
                *values,
            )
            name = f"{first.entity}--{role}--{second.entity}"
            columns: list[tuple[str, Kind, str | None]] = []
            measures = [F.count(F.lit(1)).alias("count")]
            for attribute, value in attributes.items():
                kind = self.facts.kind_of(event.name, attribute, event.root, value)
                for column, how, expression in aggregates(attribute, F.col(f"v{value}"), kind):
                    columns.append((column, kind, how))
                    measures.append(expression.alias(column))
            pairs = ended.groupBy(renamed("s_id", "src"), renamed("t_id", "dst")).agg(*measures)
            folder = self.out / "edges" / name
            write_parquet(pairs.orderBy("src", "dst"), folder)
            digests, _ = self._edge_digests(ended, first.entity, second.entity, attributes)
            count = self.facts.session.read.parquet(str(folder)).count()
            self.built[name] = Built(
                name, count, digests, tuple(columns), (first.entity, role, second.entity)
            )

    def _edge_digests(
        self, ended: DataFrame, source: str, target: str, attributes: Mapping[str, int]
    ) -> tuple[str, int]:
        """The digest of an edge type and its rows.

        Which end is the source is a matter of names, so the ends go by their nodes' digests; ends
        of one node type are taken both ways round.
        """
        from pyspark.sql import functions as F

        types = dict(ended.dtypes)
        ends = sorted(
            [(self.nodes.built[source].digest, "s"), (self.nodes.built[target].digest, "t")]
        )
        orders = [ends] if ends[0][0] != ends[1][0] else [ends, ends[::-1]]
        sums: list[Column] = []
        for order in orders:
            first, second = ([F.col(f"{side}_h{seed}") for _, side in order] for seed in (0, 1))
            sums += certificate.digest_sum(first, second)
            for value in attributes.values():
                hashed = certificate.canonical(F.col(f"v{value}"), types[f"v{value}"])
                sums += certificate.digest_sum([*first, hashed], [*second, hashed])
        row: list[Any] = list(ended.agg(F.count(F.lit(1)), *sums).collect()[0])
        digests = [certificate.digest(row[at], row[at + 1]) for at in range(1, len(row), 2)]
        width = len(digests) // len(orders)
        told = []
        for at in range(0, len(digests), width):
            said = [part for part in digests[at + 1 : at + width] if part != certificate.EMPTY]
            nodes = [digest for digest, _ in ends]
            told.append(certificate.in_sequence([*nodes, digests[at], certificate.combine(said)]))
        return certificate.combine(told), row[0]
