"""Nodes: the distinct keys of an entity, numbered, with what the facts say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from isohop.engines.frames import (
    all_given,
    distinct_names,
    left_join,
    renamed,
    staged,
    united,
)
from isohop.hops import certificate
from isohop.hops.aggregates import aggregate, most_rows
from isohop.hops.facts import Facts, with_time
from isohop.hops.kinds import Kind
from isohop.hops.numbering import numbered, numbered_after
from isohop.hops.plan import EventPlan, NodePlan, known_by
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
    numbering: str = ""
    """Of a node type, the digest of which node has which id."""
    time: str | None = None
    """As `NodeType.time` and `EdgeType.time` have it."""


@dataclass
class Nodes:
    """Makes node tables. ``ids[type]``: node_id and the key (``k0``, …). ``before``: the nodes of
    an earlier graph, by type, whose keys keep their numbers."""

    facts: Facts
    out: Path
    before: Mapping[str, DataFrame] = field(default_factory=dict)
    ids: dict[str, DataFrame] = field(default_factory=dict)
    built: dict[str, Built] = field(default_factory=dict)
    _key_orders: dict[str, list[int]] = field(default_factory=dict)

    def number(self, node: NodePlan) -> None:
        """The distinct keys over all universal rows, numbered from 0 in their order."""
        names = [f"k{index}" for index in range(len(node.key))]
        parts = [
            self.facts.keys(root, key, names).distinct()
            for root, key in node.occurrences
            if root not in self.facts.empty
        ]
        for edge in node.held:
            pairs = self.facts.targets(edge)
            if pairs is not None:
                targets = [renamed(f"t{index}", name) for index, name in enumerate(names)]
                parts.append(pairs.select(*targets).distinct())
        if not parts:
            self.ids[node.name] = self._no_ids(node, names)
            self._key_orders[node.name] = list(range(len(names)))
            return
        keys = united(parts)
        if len(parts) > 1:
            keys = keys.distinct()
        keys, count = self.facts.counted(keys, f"keys-{node.name}")
        known = self._known(node, keys)
        if known is None:
            ids = numbered(keys, names, count)
        else:
            ids = numbered_after(
                keys, names, count, known, lambda f, n: self.facts.counted(f, f"{n}-{node.name}")
            )
        self.ids[node.name] = self.facts.staged(ids, f"ids-{node.name}")
        self._key_orders[node.name] = self._key_order(keys, names)

    def _known(self, node: NodePlan, keys: DataFrame) -> DataFrame | None:
        """The numbers that the earlier graph gave; None where it has no such keys."""
        before = self.before.get(node.name)
        if before is None or not set(node.key) <= set(before.columns):
            return None
        # No name from outside reaches an expression.
        internal = {name: f"b{place}" for place, name in enumerate(before.columns)}
        names = [
            renamed(internal[key], name) for key, name in zip(node.key, keys.columns, strict=True)
        ]
        known = before.toDF(*internal.values()).select(
            renamed(internal["node_id"], "node_id"), *names
        )
        # Of other types, they are other keys.
        return known if known.dtypes[1:] == keys.dtypes else None

    @staticmethod
    def _key_order(keys: DataFrame, names: Sequence[str]) -> list[int]:
        """The key's columns in an order that names have no part in: by the digests of their values,
        and where some have the same ones, by the digest of all keys in each order of these.

        Columns that may change places, since each key is there the other way round as well, stay in
        the order in which the schema file has them.
        """
        if len(names) == 1:
            return [0]
        alone = certificate.columns_of(keys, names)
        _, found = certificate.digests(keys, [[column] for column in alone])
        orders = certificate.in_canonical_order([tuple(digest) for digest in found])
        if len(orders) == 1:
            return orders[0]
        _, found = certificate.digests(keys, [[alone[at] for at in order] for order in orders])
        return orders[found.index(min(found))]

    def identity(self, node: str, frame: DataFrame, columns: Sequence[str]) -> list[Column]:
        """What a node's key is hashed as, where it stands in ``columns`` of ``frame``."""
        from pyspark.sql import functions as F

        ours = dict(self.ids[node].dtypes)
        theirs = dict(frame.dtypes)
        identity = []
        for at in self._key_orders[node]:
            type_name, column = ours[f"k{at}"], F.col(columns[at])
            if theirs[columns[at]] != type_name:
                column = column.cast(type_name)
            identity.append(certificate.canonical(column, type_name))
        return identity

    def _no_ids(self, node: NodePlan, names: list[str]) -> DataFrame:
        fields = ["node_id bigint", *self._key_fields(node, names)]
        return self.facts.session.createDataFrame([], ", ".join(fields))

    def _key_fields(self, node: NodePlan, names: list[str]) -> list[str]:
        places = list(node.occurrences)
        places += [(s.root, s.values) for edge in node.held for s in edge.gathered.sources]
        if not places:
            return [f"{name} string" for name in names]
        root, key = places[0]
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
        given = distinct_names([name for name, *_ in columns], ("node_id", *node.key))
        known = known_by(self.facts.plan, node.name)
        folder = self.out / "nodes" / node.name
        internal = ["node_id", *names, *(column for _, column, _, _ in columns)]
        written = [*node.key, *given]
        ordered = frame.orderBy("node_id").select(
            "node_id", *(renamed(c, w) for c, w in zip(internal[1:], written, strict=True))
        )
        # What is hashed is what was written, under names that no name from outside can upset.
        made = staged(self.facts.session, ordered, folder).toDF(*internal)
        plain = [column for _, column, _, how in columns if how is None]
        identity = self.identity(node.name, made, names)
        count, [[*found, ids]] = certificate.digests(made, [identity], [*plain, "node_id"])
        self.built[node.name] = Built(
            node.name,
            count,
            certificate.told([*found, *parts]),
            tuple(
                (name, kind, how) for name, (_, _, kind, how) in zip(given, columns, strict=True)
            ),
            numbering=ids,
            time=next(
                (given[at] for at, name in enumerate(node.attributes) if name == known), None
            ),
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
        if event.root in self.facts.empty:
            return frame
        names = [f"k{index}" for index in range(len(node.key))]
        keyed = [f"r{index}" for index in range(len(node.key))]
        facts = self._keys_with_values(event)
        values = with_time(event)
        held = [f"v{value}" for value in values.values()]
        count, [found] = certificate.digests(facts, [self.identity(node.name, facts, keyed)], held)
        if not count:
            return frame  # a table that says nothing is as one that is not there
        parts.append(certificate.told(found))
        made = aggregate(
            facts,
            keyed,
            [
                (name, f"v{value}", self.facts.kind_of(event.name, name, event.root, value))
                for name, value in values.items()
            ],
            most_rows(facts, keyed),
        )
        told = [("count", "number", "count"), *made.columns]
        internal = [f"x{len(columns) + index}" for index in range(len(told))]
        for column, (name, kind, how) in zip(internal, told, strict=True):
            columns.append((f"{event.name}_{name}", column, kind, how))
        once = made.frame.select(
            *keyed, *(renamed(f"m{index}", column) for index, column in enumerate(internal))
        )
        return left_join(frame, once, names, keyed)

    def _keys_with_values(self, event: EventPlan) -> DataFrame:
        key = event.participants[0].key
        values = sorted(set(with_time(event).values()))
        frame = self.facts.frames[event.root].where(all_given([f"v{v}" for v in key]))
        return frame.select(
            *(renamed(f"v{v}", f"r{index}") for index, v in enumerate(key)),
            *(f"v{value}" for value in values),
        )
