"""Nodes: the distinct keys of an entity, numbered, with what the facts say of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from isohop.engines.frames import all_given, left_join, renamed, write_parquet
from isohop.errors import IsohopError
from isohop.hops import certificate
from isohop.hops.aggregates import aggregates
from isohop.hops.facts import Facts, with_time
from isohop.hops.kinds import Kind
from isohop.hops.plan import EventPlan, NodePlan
from isohop.relational.ledger import Finding

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Columns = list[tuple[str, str, Kind, str | None]]
"""(name, internal name, kind, aggregate) of each attribute column of a node type."""


@dataclass(frozen=True)
class Built:
    """A node or edge type as written: its rows, its digest, and (attribute, kind, aggregate)."""

    name: str
    count: int
    digest: str
    attributes: tuple[tuple[str, Kind, str | None], ...] = ()
    triple: tuple[str, str, str] = ("", "", "")
    functional: bool = False


@dataclass
class Nodes:
    """Makes node tables. ``ids[type]``: node_id, the key (``k0``, …) and its hashes."""

    facts: Facts
    out: Path
    ids: dict[str, DataFrame] = field(default_factory=dict)
    built: dict[str, Built] = field(default_factory=dict)

    def number(self, node: NodePlan) -> None:
        """The distinct keys over all universal rows, numbered from 0 in their order."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        width = len(node.key)
        names = [f"k{index}" for index in range(width)]
        parts = [
            self.facts.keys(root, key, names).distinct()
            for root, key in node.occurrences
            if root not in self.facts.empty
        ]
        if not parts:
            self.ids[node.name] = self._no_ids(node, names)
            return
        keys = reduce(lambda a, b: a.unionByName(b), parts)
        if len(parts) > 1:
            keys = keys.distinct()
        order = Window.orderBy(*names)
        first, second = certificate.key_hashes(
            [certificate.canonical(F.col(n), t) for n, t in keys.dtypes]
        )
        numbered = keys.select(
            (F.row_number().over(order) - 1).cast("bigint").alias("node_id"),
            *names,
            first.alias("h0"),
            second.alias("h1"),
        )
        self.ids[node.name] = self.facts.staged(numbered, f"ids-{node.name}")

    def _no_ids(self, node: NodePlan, names: list[str]) -> DataFrame:
        fields = ["node_id bigint", *self._key_fields(node, names), "h0 bigint", "h1 bigint"]
        return self.facts.session.createDataFrame([], ", ".join(fields))

    def _key_fields(self, node: NodePlan, names: list[str]) -> list[str]:
        if not node.occurrences:
            return [f"{name} string" for name in names]
        root, key = node.occurrences[0]
        types = dict(self.facts.frames[root].dtypes)
        return [f"{n} {types[f'v{value}']}" for n, value in zip(names, key, strict=True)]

    def make(self, node: NodePlan) -> None:

        names = [f"k{index}" for index in range(len(node.key))]
        frame = self.ids[node.name]
        columns: Columns = []
        direct: dict[tuple[str, tuple[int, ...]], list[tuple[str, int]]] = {}
        for position, gathered in enumerate(node.attributes.values()):
            internal = f"a{position}"
            sources = self.facts.sources(gathered)
            kind = self.facts.kind(node.name, gathered.name, gathered.sources[0])
            columns.append((gathered.name, internal, kind, None))
            if len(sources) == 1 and sources[0].keyed:
                at = (sources[0].root, sources[0].holder)
                direct.setdefault(at, []).append((internal, sources[0].values[0]))
            else:
                resolved = self.facts.resolve(f"{node.name}.{gathered.name}", sources, 1)
                held = [c for c in resolved.columns if c != "t0"]
                frame = left_join(frame, resolved.withColumnRenamed("t0", internal), names, held)
        for (root, holder), values in direct.items():
            keyed = self.facts.frames[root].where(all_given([f"v{v}" for v in holder]))
            part = keyed.select(
                *(renamed(f"v{v}", f"r{index}") for index, v in enumerate(holder)),
                *(renamed(f"v{value}", internal) for internal, value in values),
            )
            frame = left_join(frame, part, names, [f"r{index}" for index in range(len(holder))])
        parts: list[str] = []
        for event in node.multi_valued:
            frame = self._join_multi_valued(node, event, frame, columns, parts)
        self._write_nodes(node, frame, names, columns, parts)
        if not self.built[node.name].count:
            self.facts.ledger.findings.append(
                Finding(kind="entity without rows", where=node.name, count=0)
            )

    def _write_nodes(
        self,
        node: NodePlan,
        frame: DataFrame,
        names: list[str],
        columns: Columns,
        parts: list[str],
    ) -> None:
        from pyspark.sql import functions as F

        given = [name for name, *_ in columns]
        twice = sorted({n for n in given if given.count(n) > 1} | set(given) & set(node.key))
        if twice:
            raise IsohopError(
                f"entity '{node.name}' would have two columns named {', '.join(twice)}. Map one of "
                "them to another name under 'columns' in the schema file."
            )
        folder = self.out / "nodes" / node.name
        frame = self.facts.staged(frame, f"nodes-{node.name}")
        written = frame.orderBy("node_id").select(
            "node_id",
            *(renamed(n, k) for n, k in zip(names, node.key, strict=True)),
            *(renamed(internal, name) for name, internal, _, _ in columns),
        )
        write_parquet(written, folder)
        types = dict(frame.dtypes)
        plain = [(n, i) for n, i, _, how in columns if how is None]
        first, second = F.col("h0"), F.col("h1")
        sums = [*certificate.digest_sum([first], [second])]
        for _, internal in plain:
            value = certificate.canonical(F.col(internal), types[internal])
            sums += certificate.digest_sum([first, value], [second, value])
        row = list(frame.agg(F.count(F.lit(1)), *sums).collect()[0])
        count, digests = (
            row[0],
            [certificate.digest(row[at], row[at + 1]) for at in range(1, len(row), 2)],
        )
        # An attribute without a single value says nothing, so it counts for nothing.
        said = [part for part in [*digests[1:], *parts] if part != certificate.EMPTY]
        self.built[node.name] = Built(
            node.name,
            count,
            certificate.in_sequence([digests[0], certificate.combine(said)]),
            tuple((name, kind, how) for name, _, kind, how in columns),
        )

    def _join_multi_valued(
        self,
        node: NodePlan,
        event: EventPlan,
        frame: DataFrame,
        columns: Columns,
        parts: list[str],
    ) -> DataFrame:
        """An event with one participant: a multi-valued attribute of it."""
        from pyspark.sql import functions as F

        if event.root in self.facts.empty:
            return frame
        holder = event.participants[0]
        names = [f"k{index}" for index in range(len(node.key))]
        keys = self._keys_with_values(event)
        keyed = [f"r{index}" for index in range(len(holder.key))]
        joined = left_join(keys, self.ids[node.name].select(*names, "h0", "h1"), keyed, names)
        measures: list[Column] = [F.count(F.lit(1)).alias("m0")]
        columns.append((f"{event.name}_count", f"x{len(columns)}", "number", "count"))
        made = [columns[-1][1]]
        sums: list[Column] = [*certificate.digest_sum([F.col("h0")], [F.col("h1")])]
        types = dict(joined.dtypes)
        for name, value in with_time(event).items():
            kind = self.facts.kind_of(event.name, name, event.root, value)
            for column, how, expression in aggregates(
                f"{event.name}_{name}", F.col(f"v{value}"), kind
            ):
                made.append(f"x{len(columns)}")
                columns.append((column, made[-1], kind, how))
                measures.append(expression.alias(f"m{len(measures)}"))
            hashed = certificate.canonical(F.col(f"v{value}"), types[f"v{value}"])
            sums += certificate.digest_sum([F.col("h0"), hashed], [F.col("h1"), hashed])
        row = list(joined.agg(*sums).collect()[0])
        digests = [certificate.digest(row[at], row[at + 1]) for at in range(0, len(row), 2)]
        said = [part for part in digests[1:] if part != certificate.EMPTY]
        parts.append(certificate.in_sequence([digests[0], certificate.combine(said)]))
        grouped = joined.groupBy(*keyed).agg(*measures)
        made_once = grouped.select(
            *keyed, *(renamed(f"m{index}", internal) for index, internal in enumerate(made))
        )
        return left_join(frame, made_once, names, keyed)

    def _keys_with_values(self, event: EventPlan) -> DataFrame:
        key = event.participants[0].key
        values = sorted(set(with_time(event).values()))
        frame = self.facts.frames[event.root].where(all_given([f"v{v}" for v in key]))
        return frame.select(
            *(renamed(f"v{v}", f"r{index}") for index, v in enumerate(key)),
            *(f"v{value}" for value in values),
        )
