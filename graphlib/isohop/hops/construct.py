"""The construction: acts on a `Plan` through the engine and writes nodes and edges as Parquet.

Everything stays in the engine; only counts, digests and examples come back. What several steps need
is staged as Parquet, which works alike on every engine. Values have internal names (``v0``, ``v1``)
until a node or edge table is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from isohop.engines.progress import SILENT, Progress
from isohop.engines.frames import all_given, equal, left_join, renamed, staged, write_parquet
from isohop.errors import IsohopError
from isohop.hops import certificate
from isohop.hops.aggregates import aggregates
from isohop.hops.kinds import Kind, default_kind
from isohop.hops.plan import EventPlan, FunctionalPlan, Gathered, NodePlan, Plan, Root, Source
from isohop.relational.integrity import EXAMPLES, CleanTable
from isohop.relational.ledger import Finding, Ledger

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


@dataclass(frozen=True)
class Built:
    """A node or edge type as written: (attribute, kind, aggregate) of its columns, and counts."""

    name: str
    count: int
    digest: str
    attributes: tuple[tuple[str, Kind, str | None], ...] = ()
    triple: tuple[str, str, str] = ("", "", "")
    functional: bool = False


@dataclass
class Construction:
    """State of one construction. `run` does it all; results are in ``nodes`` and ``edges``."""

    session: SparkSession
    plan: Plan
    clean: Mapping[str, CleanTable]
    stage: Path
    out: Path
    ledger: Ledger
    quarantine: Path
    progress: Progress = SILENT
    nodes: dict[str, Built] = field(default_factory=dict)
    edges: dict[str, Built] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._universal: dict[str, DataFrame] = {}
        self._ids: dict[str, DataFrame] = {}
        self._empty: set[str] = set()

    def run(self) -> None:
        """Universal rows, then nodes, functional edges and events."""
        from isohop.hops.usage import count_usage

        steps = len(self.plan.roots) + len(self.plan.nodes) + len(self.plan.functional)
        with self.progress.task("hop normal form", steps + len(self.plan.events)) as bar:
            for root in self.plan.roots.values():
                bar.note(f"universal rows of {root.table}")
                self._make_universal(root)
                bar.advance()
            count_usage(self.plan, self.clean, self._universal, self._empty, self.ledger)
            for node in self.plan.nodes.values():
                bar.note(f"keys of {node.name}")
                self._make_ids(node)
            for node in self.plan.nodes.values():
                bar.note(f"nodes {node.name}")
                self._make_nodes(node)
                bar.advance()
            for edge in self.plan.functional:
                bar.note(f"edges {edge.source}--{edge.role}--{edge.target}")
                self._make_functional(edge)
                bar.advance()
            for event in self.plan.events:
                bar.note(f"event {event.name}")
                if len(event.participants) > 1 and event.root not in self._empty:
                    self._make_pairs(event)
                bar.advance()

    # Universal rows

    def type_of(self, root: str, value: int) -> pa.DataType:
        """Arrow type of a value of U(root)."""
        row = self.plan.roots[root].row
        visit, column = row.source[value]
        return self.clean[row.visits[visit].table].types[column]

    def _make_universal(self, root: Root) -> None:
        """U(root): the joins along its visits, with one column a value that anything needs."""
        row = root.row
        needed = self._needed_values(root)
        visits = self._needed_visits(root, needed)
        base = self.clean[root.table]
        frame = base.frame
        if root.unreferenced:
            frame = self._unreferenced(root.table, frame)
            if not frame.limit(1).collect():
                self._empty.add(root.table)
        wanted = {
            row.source[value][1]: f"v{value}"
            for value in sorted(needed | self._joining(root, visits))
            if row.source[value][0] == 0
        }
        frame = frame.select(*(renamed(base.names[c], v) for c, v in wanted.items()))
        for visit in row.visits[1:]:
            if visit.index not in visits:
                continue
            target = self.clean[visit.table]
            columns = {key: f"j{index}" for index, key in enumerate(visit.key)}
            values = {
                row.source[value][1]: f"v{value}"
                for value in sorted(needed | self._joining(root, visits))
                if row.source[value][0] == visit.index
            }
            joined = target.frame.select(
                *(renamed(target.names[c], j) for c, j in columns.items()),
                *(renamed(target.names[c], v) for c, v in values.items()),
            )
            ours = [f"v{row.values[visit.parent or 0, c]}" for c in visit.columns]
            frame = left_join(frame, joined, ours, list(columns.values()))
        if visits or root.unreferenced:
            frame = self._staged(frame, f"universal-{root.table}")
        self._universal[root.table] = frame

    def _unreferenced(self, table: str, frame: DataFrame) -> DataFrame:
        """The rows of a folded table that no row refers to."""
        from isohop.hops.usage import referring_keys

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

    def _staged(self, frame: DataFrame, name: str) -> DataFrame:
        return staged(self.session, frame, self.stage / name)

    # Nodes

    def _make_ids(self, node: NodePlan) -> None:
        """The distinct keys over all universal rows, numbered from 0 in their order."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        width = len(node.key)
        names = [f"k{index}" for index in range(width)]
        parts = [
            self._keys(root, key, names).distinct()
            for root, key in node.occurrences
            if root not in self._empty
        ]
        if not parts:
            self._ids[node.name] = self._no_ids(node, names)
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
        self._ids[node.name] = self._staged(numbered, f"ids-{node.name}")

    def _no_ids(self, node: NodePlan, names: list[str]) -> DataFrame:
        fields = ["node_id bigint", *self._key_fields(node, names), "h0 bigint", "h1 bigint"]
        return self.session.createDataFrame([], ", ".join(fields))

    def _key_fields(self, node: NodePlan, names: list[str]) -> list[str]:
        if not node.occurrences:
            return [f"{name} string" for name in names]
        root, key = node.occurrences[0]
        types = dict(self._universal[root].dtypes)
        return [f"{n} {types[f'v{value}']}" for n, value in zip(names, key, strict=True)]

    def _keys(self, root: str, key: Sequence[int], names: Sequence[str]) -> DataFrame:
        columns = [f"v{value}" for value in key]
        frame = self._universal[root].where(all_given(columns))
        return frame.select(*(renamed(c, n) for c, n in zip(columns, names, strict=True)))

    def _make_nodes(self, node: NodePlan) -> None:
        from pyspark.sql import functions as F

        names = [f"k{index}" for index in range(len(node.key))]
        frame = self._ids[node.name]
        columns: list[tuple[str, str, Kind, str | None]] = []
        direct: dict[tuple[str, tuple[int, ...]], list[tuple[str, int]]] = {}
        for position, gathered in enumerate(node.attributes.values()):
            internal = f"a{position}"
            sources = self._sources(gathered)
            kind = self._kind(node.name, gathered.name, gathered.sources[0])
            columns.append((gathered.name, internal, kind, None))
            if len(sources) == 1 and sources[0].keyed:
                at = (sources[0].root, sources[0].holder)
                direct.setdefault(at, []).append((internal, sources[0].values[0]))
            else:
                resolved = self._resolve(f"{node.name}.{gathered.name}", sources, 1)
                held = [c for c in resolved.columns if c != "t0"]
                frame = left_join(frame, resolved.withColumnRenamed("t0", internal), names, held)
        for (root, holder), values in direct.items():
            keyed = self._universal[root].where(all_given([f"v{v}" for v in holder]))
            part = keyed.select(
                *(renamed(f"v{v}", f"r{index}") for index, v in enumerate(holder)),
                *(renamed(f"v{value}", internal) for internal, value in values),
            )
            frame = left_join(frame, part, names, [f"r{index}" for index in range(len(holder))])
        parts: list[str] = []
        for event in node.multi_valued:
            frame = self._join_multi_valued(node, event, frame, columns, parts)
        self._write_nodes(node, frame, names, columns, parts)
        if not self.nodes[node.name].count:
            self.ledger.findings.append(
                Finding(kind="entity without rows", where=node.name, count=0)
            )

    def _write_nodes(
        self,
        node: NodePlan,
        frame: DataFrame,
        names: list[str],
        columns: list[tuple[str, str, Kind, str | None]],
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
        frame = self._staged(frame, f"nodes-{node.name}")
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
        self.nodes[node.name] = Built(
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
        columns: list[tuple[str, str, Kind, str | None]],
        parts: list[str],
    ) -> DataFrame:
        """An event with one participant: a multi-valued attribute of it."""
        from pyspark.sql import functions as F

        if event.root in self._empty:
            return frame
        holder = event.participants[0]
        names = [f"k{index}" for index in range(len(node.key))]
        keys = self._keys_with_values(event)
        keyed = [f"r{index}" for index in range(len(holder.key))]
        joined = left_join(keys, self._ids[node.name].select(*names, "h0", "h1"), keyed, names)
        measures: list[Column] = [F.count(F.lit(1)).alias("m0")]
        columns.append((f"{event.name}_count", f"x{len(columns)}", "number", "count"))
        made = [columns[-1][1]]
        sums: list[Column] = [*certificate.digest_sum([F.col("h0")], [F.col("h1")])]
        types = dict(joined.dtypes)
        for name, value in _with_time(event).items():
            kind = self._kind_of(event.name, name, event.root, value)
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
        values = sorted(set(_with_time(event).values()))
        frame = self._universal[event.root].where(all_given([f"v{v}" for v in key]))
        return frame.select(
            *(renamed(f"v{v}", f"r{index}") for index, v in enumerate(key)),
            *(f"v{value}" for value in values),
        )

    # What an entity determines

    def _sources(self, gathered: Gathered) -> list[Source]:
        return [source for source in gathered.sources if source.root not in self._empty]

    def _kind(self, owner: str, name: str, source: Source) -> Kind:
        return self._kind_of(owner, name, source.root, source.values[0])

    def _kind_of(self, owner: str, name: str, root: str, value: int) -> Kind:
        stated = self.plan.spec(owner, name).kind
        return stated or default_kind(self.type_of(root, value))

    def _resolve(self, where: str, sources: list[Source], width: int) -> DataFrame:
        """(r0…, t0…): one value for each key, from all sources, by the violation policy."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        targets = [f"t{index}" for index in range(width)]
        parts = []
        for source in sources:
            columns = [f"v{v}" for v in (*source.holder, *source.values)]
            frame = self._universal[source.root].where(all_given(columns))
            parts.append(
                frame.select(
                    *(renamed(f"v{v}", f"r{index}") for index, v in enumerate(source.holder)),
                    *(renamed(f"v{v}", t) for v, t in zip(source.values, targets, strict=True)),
                )
            )
        keys = [f"r{index}" for index in range(len(sources[0].holder))]
        pairs = reduce(lambda a, b: a.unionByName(b), parts)
        if len(sources) == 1 and sources[0].keyed:
            return pairs
        counted = pairs.groupBy(*keys, *targets).agg(F.count(F.lit(1)).alias("n"))
        counted = self._staged(counted, f"gathered-{len(list(self.stage.glob('gathered-*')))}")
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
                "'null'."
            )
        order = Window.partitionBy(*keys).orderBy(F.desc("n"), *targets)
        ranked = counted.withColumn("rank", F.row_number().over(order))
        lost = ranked.where(F.col("rank") > 1) if policy == "majority" else contested
        quarantined = lost.select(
            F.lit(f"violated dependency of {where}").alias("quarantine_reason"),
            *(renamed(k, f"key_{index}") for index, k in enumerate(keys)),
            *(renamed(t, f"value_{index}") for index, t in enumerate(targets)),
            F.col("n").alias("rows"),
        )
        write_parquet(quarantined, self.quarantine / where)
        if policy == "majority":
            return ranked.where(F.col("rank") == 1).drop("rank", "n")
        return counted.join(several.drop("count"), keys, "left_anti").drop("n")

    # Edges

    def _make_functional(self, edge: FunctionalPlan) -> None:
        from pyspark.sql import functions as F

        name = f"{edge.source}--{edge.role}--{edge.target}"
        width = len(self.plan.nodes[edge.target].key)
        sources = self._sources(edge.gathered)
        if sources:
            pairs = self._resolve(name, sources, width)
            targets = [f"t{index}" for index in range(width)]
            holders = [column for column in pairs.columns if column not in targets]
            ended = self._with_end(pairs, edge.source, holders, "s")
            ended = self._with_end(ended, edge.target, targets, "t")
        else:
            sides = [f"{side}_{part} bigint" for side in "st" for part in ("id", "h0", "h1")]
            ended = self.session.createDataFrame([], ", ".join(sides))
        ended = ended.select("s_id", "s_h0", "s_h1", "t_id", "t_h0", "t_h1")
        written = ended.orderBy("s_id", "t_id").select(
            renamed("s_id", "src"), renamed("t_id", "dst"), F.lit(1).cast("bigint").alias("count")
        )
        write_parquet(written, self.out / "edges" / name)
        digests, count = self._edge_digests(ended, edge.source, edge.target, {})
        self.edges[name] = Built(
            name, count, digests, (), (edge.source, edge.role, edge.target), functional=True
        )

    def _with_end(self, frame: DataFrame, node: str, keys: Sequence[str], side: str) -> DataFrame:
        """Join the node ids and key hashes of one end; NULL where the row has no such end."""
        ids = self._ids[node]
        theirs = [c for c in ids.columns if c.startswith("k")]
        end = ids.select(
            renamed("node_id", f"{side}_id"),
            renamed("h0", f"{side}_h0"),
            renamed("h1", f"{side}_h1"),
            *(renamed(k, f"{side}_{k}") for k in theirs),
        )
        return left_join(frame, end, keys, [f"{side}_{k}" for k in theirs])

    def _make_pairs(self, event: EventPlan) -> None:
        """An edge type for each pair of participants; parallel edges become one, with a count."""
        from pyspark.sql import functions as F

        attributes = _with_time(event)
        frame = self._universal[event.root]
        for index, participant in enumerate(event.participants):
            keys = [f"v{value}" for value in participant.key]
            frame = self._with_end(frame, participant.entity, keys, f"p{index}")
        sides = [f"p{i}_{c}" for i in range(len(event.participants)) for c in ("id", "h0", "h1")]
        values = sorted({f"v{value}" for value in attributes.values()})
        frame = self._staged(frame.select(*sides, *values), f"event-{event.name}")
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
                kind = self._kind_of(event.name, attribute, event.root, value)
                for column, how, expression in aggregates(attribute, F.col(f"v{value}"), kind):
                    columns.append((column, kind, how))
                    measures.append(expression.alias(column))
            pairs = ended.groupBy(renamed("s_id", "src"), renamed("t_id", "dst")).agg(*measures)
            folder = self.out / "edges" / name
            write_parquet(pairs.orderBy("src", "dst"), folder)
            digests, _ = self._edge_digests(ended, first.entity, second.entity, attributes)
            count = self.session.read.parquet(str(folder)).count()
            self.edges[name] = Built(
                name, count, digests, tuple(columns), (first.entity, role, second.entity)
            )

    def _edge_digests(
        self, ended: DataFrame, source: str, target: str, attributes: Mapping[str, int]
    ) -> tuple[str, int]:
        """The digest of an edge type, whichever of its ends was written first, and its rows."""
        from pyspark.sql import functions as F

        types = dict(ended.dtypes)
        sums: list[Column] = []
        orders = (("s", "t"), ("t", "s"))
        for one, two in orders:
            ends = [[F.col(f"{side}_h{seed}") for side in (one, two)] for seed in (0, 1)]
            sums += certificate.digest_sum(*ends)
            for value in attributes.values():
                hashed = certificate.canonical(F.col(f"v{value}"), types[f"v{value}"])
                sums += certificate.digest_sum([*ends[0], hashed], [*ends[1], hashed])
        row: list[Any] = list(ended.agg(F.count(F.lit(1)), *sums).collect()[0])
        digests = [certificate.digest(row[at], row[at + 1]) for at in range(1, len(row), 2)]
        half = len(digests) // 2
        both = []
        for part, ends in ((digests[:half], (source, target)), (digests[half:], (target, source))):
            said = [attribute for attribute in part[1:] if attribute != certificate.EMPTY]
            nodes = [self.nodes[end].digest for end in ends]
            both.append(certificate.in_sequence([*nodes, part[0], certificate.combine(said)]))
        return certificate.combine(both), row[0]


def _with_time(event: EventPlan) -> dict[str, int]:
    """An event's attributes, its time among them wherever it was homed."""
    if event.time is None or event.time in event.attributes.values():
        return event.attributes
    return {**event.attributes, "time": event.time}
