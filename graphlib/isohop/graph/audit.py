"""Audit: does a database give the same graph however it is laid out? Tried on the user's own.

Each trial rewrites the database by a few random lossless rewrites (`isohop.relational.refactor`),
builds the graph of what came out, and compares certificates. A trial that differs is shrunk to the
smallest rewrite that does. Beside it stands the plain graph of keys and references, in which the
same pairs of nodes move.

Two forms: with the mapping, where the physical side of the schema file is rewritten along; and with
no mapping, where only keys, references and the names of the entities are given, of the original
and of each rewritten database, and `infer` has to find the rest.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from isohop.engines.progress import SILENT, Progress
from isohop.engines.spark import Engine, spark_session
from isohop.engines.storage import write_text_atomically
from isohop.graph.build import Planned, clean_tables, construct_graph, plan_schema
from isohop.graph.dataset import Graph
from isohop.graph.distances import Adjacency, normal_form, plain, read_rows, row_of
from isohop.graph.infer import infer_in
from isohop.hops.proposals import (
    columns_called,
    free_name,
    propose,
    require_recognisable,
    says_the_same,
)
from isohop.hops.schema_file import SchemaFile
from isohop.relational.files import HIDDEN
from isohop.relational.ledger import Ledger
from isohop.relational.naming import stem_of_part
from isohop.relational.refactor import Database, NotLossless, Relation, RenameTable, Rewrite

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PAIRS = 6
TRIES = 60
"""Proposals before a trial is content with fewer rewrites: most that are refused are so quickly."""


@dataclass(frozen=True)
class Pair:
    """Two nodes: (entity, key values) each."""

    one: tuple[str, tuple[Any, ...]]
    other: tuple[str, tuple[Any, ...]]

    def __str__(self) -> str:
        ends = (f"{entity} {', '.join(map(str, key))}" for entity, key in (self.one, self.other))
        return " – ".join(ends)


@dataclass(frozen=True)
class Outcome:
    """What one database gave. ``hops``, ``plain_hops``: by pair, None where no path leads."""

    rewrites: tuple[Rewrite, ...]
    certificate: str
    nodes: int
    edges: int
    hops: tuple[int | None, ...]
    plain_nodes: int
    plain_edges: int
    plain_hops: tuple[int | None, ...]


@dataclass
class Audit:
    """All outcomes. ``failure``: the smallest rewrites that change the graph, where some do."""

    database: str
    pairs: tuple[Pair, ...]
    original: Outcome
    trials: list[Outcome] = field(default_factory=list)
    applied: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failure: tuple[Rewrite, ...] | None = None
    error: str = ""

    @property
    def equal(self) -> int:
        """Trials whose graph is the original's."""
        return sum(trial.certificate == self.original.certificate for trial in self.trials)

    def moved(self, index: int) -> list[int | None]:
        """All lengths that a pair has in plain graphs; more than one: it moved."""
        found = {outcome.plain_hops[index] for outcome in [self.original, *self.trials]}
        return sorted(found, key=lambda hops: (hops is None, hops or 0))


def audit(
    schema_file: str | Path,
    rewrites: int = 20,
    seed: int = 7,
    steps: int = 5,
    mapping: bool = True,
    keep: Path | None = None,
    engine: Engine = "sail",
    progress: Progress = SILENT,
) -> Audit:
    """``rewrites`` trials of one to ``steps`` rewrites each; stops at the first that differs.

    ``keep``: a folder where each database stays (``0`` is the original): its tables under
    ``data/``, ``declared.yaml`` with their keys and references, and ``pairs.json``.
    """
    planned = plan_schema(schema_file)
    with (
        spark_session(engine) as session,
        tempfile.TemporaryDirectory(prefix="isohop-audit-") as folder,
    ):
        auditor = Auditor(planned, session, Path(folder), mapping, keep)
        found = auditor.start()
        with progress.task("rewrites", rewrites) as bar:
            for number in range(rewrites):
                bar.note(f"{found.equal} of {number} equal")
                if not auditor.trial(found, random.Random(f"{seed}-{number}"), steps):  # noqa: S311
                    break
                bar.advance()
        return found


class Auditor:
    """One database, its graph, and the trials made of it."""

    def __init__(
        self,
        planned: Planned,
        session: SparkSession,
        folder: Path,
        mapping: bool = True,
        keep: Path | None = None,
    ):
        self.session = session
        self.folder = folder
        self.mapping = mapping
        self.keep = keep
        self.pairs: tuple[Pair, ...] = ()
        self.schema = planned.schema
        self.database = open_database(planned, session, folder / "original")
        if not mapping:
            file = self._inferred(self.database, folder / "inferred")
            planned = plan_schema(file)
            self.schema = planned.schema
            self.database = open_database(planned, session, folder / "known")

    def start(self) -> Audit:
        """The graph of the database as it is, and the pairs to be watched in it."""
        with self._graph(self.database) as (graph, tables):
            self.pairs = tuple(_pairs(graph, self.schema, random.Random(0)))  # noqa: S311
            self._keep(self.database, tables, 0)
            return Audit(
                self.schema.database, self.pairs, self._outcome((), graph, self.database, tables)
            )

    def trial(self, found: Audit, draw: random.Random, steps: int) -> bool:
        """Rewrite, build, compare; False where the graph is another one."""
        database, rewrites = self.database, list[Rewrite]()
        wanted = draw.randint(1, steps)
        for _ in range(TRIES):
            if len(rewrites) == wanted:
                break
            rewrite = propose(database, draw)
            name = type(rewrite).__name__
            try:
                after = rewrite(database)
                if not says_the_same(self.schema, database, rewrite, after):
                    raise NotLossless("it declares what the schema file does not say, or hides it")
                if not self.mapping:
                    require_recognisable(self.schema, database, rewrite, after)
            except NotLossless:
                found.refused[name] += 1
                continue
            found.applied[name] += 1
            database = after
            rewrites.append(rewrite)
        outcome, error = self._try(tuple(rewrites), database, len(found.trials) + 1)
        if outcome is not None:
            found.trials.append(outcome)
            if outcome.certificate == found.original.certificate:
                return True
        found.failure, found.error = self._shrink(found, tuple(rewrites), error)
        return False

    def _try(
        self, rewrites: tuple[Rewrite, ...], database: Database, number: int | None = None
    ) -> tuple[Outcome | None, str]:
        try:
            with self._graph(database) as (graph, tables):
                self._keep(database, tables, number)
                return self._outcome(rewrites, graph, database, tables), ""
        except Exception as error:  # noqa: BLE001 Whatever goes wrong with it is the finding.
            return None, f"{type(error).__name__}: {error}"

    def _shrink(
        self, found: Audit, rewrites: tuple[Rewrite, ...], error: str
    ) -> tuple[tuple[Rewrite, ...], str]:
        """Leave out rewrites one by one as long as what is left still changes the graph; and with
        what error that ends, '' where it is another graph."""
        index = 0
        while index < len(rewrites) and len(rewrites) > 1:
            fewer = rewrites[:index] + rewrites[index + 1 :]
            told = self._differs(found, fewer)
            if told is None:
                index += 1
            else:
                rewrites, error = fewer, told
        return rewrites, error

    def _differs(self, found: Audit, rewrites: tuple[Rewrite, ...]) -> str | None:
        """The error, '' where the graph is another, None where it is the same."""
        database = self.database
        try:
            for rewrite in rewrites:
                database = rewrite(database)
        except NotLossless:
            return None
        outcome, error = self._try(rewrites, database)
        same = outcome is not None and outcome.certificate == found.original.certificate
        return None if same else error

    @contextmanager
    def _graph(self, database: Database) -> Iterator[tuple[Graph, Path]]:
        """The graph of a database, and where its tables lie; gone afterwards."""
        folder = self.folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            file = (
                write_database(database, self.schema, folder)
                if self.mapping
                else self._inferred(database, folder)
            )
            graph = construct_graph(plan_schema(file), folder / "graph", self.session)
            yield graph, folder / "data"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _node_type(self, database: Database, entity: str) -> str:
        """What an entity is called in the graph of a rewritten database."""
        declared = self.schema.entities[entity]
        if self.mapping:
            return entity
        if declared.table is None:
            name = (declared.key or (entity,))[0]
            # `infer` knows columns by their own names: best by one that bears this without a role.
            own = sorted(
                (called != name, column != name, column)
                for _, column, called in columns_called(database, name)
            )
            return own[0][-1] if own else name
        parts = database.parts(declared.table)
        # Where a home lies in parts, `infer` has to find that they are one.
        return parts[0] if len(parts) == 1 else stem_of_part(parts[0]) or parts[0]

    def _declared(self, database: Database) -> str:
        """What a database tells of itself: keys, constraints and references of physical tables."""
        tables: dict[str, Any] = {}
        for name, table in database.tables.items():
            told = table.model_dump(mode="json", include={"key", "unique"}, exclude_defaults=True)
            told["references"] = [
                {"columns": list(reference.columns), "table": part}
                for reference in table.references or ()
                for part in database.parts(reference.table)
            ]
            tables |= dict.fromkeys(database.parts(name), told)
        raw = {"database": self.schema.database, "source": {"path": "data"}, "tables": tables}
        return yaml.safe_dump(raw, allow_unicode=True, sort_keys=False)

    def _keep(self, database: Database, tables: Path, number: int | None) -> None:
        if self.keep is None or number is None:
            return
        folder = self.keep / str(number)
        shutil.copytree(tables, folder / "data", dirs_exist_ok=True)
        (folder / "declared.yaml").write_text(self._declared(database), "utf-8")
        homes = {name: e.table or "" for name, e in self.schema.entities.items()}
        pairs = [
            [
                {
                    "tables": list(database.parts(homes[entity])),
                    "columns": list(database.declared(homes[entity]).key or ()),
                    "values": list(key),
                }
                for entity, key in (pair.one, pair.other)
            ]
            for pair in self.pairs
        ]
        write_text_atomically(folder / "pairs.json", json.dumps(pairs, default=str))

    def _inferred(self, database: Database, folder: Path) -> Path:
        """The schema file that `infer` writes, told no more than a database would tell."""
        database.write(folder / "data")
        declared = folder / "declared.yaml"
        declared.write_text(self._declared(database), "utf-8")
        names = [self._node_type(database, name) for name in self.schema.entities]
        inferred = infer_in(self.session, str(declared), names, folder)
        file = folder / "schema.yaml"
        file.write_text(inferred.text(), "utf-8")
        return file

    def _outcome(
        self, rewrites: tuple[Rewrite, ...], graph: Graph, database: Database, tables: Path
    ) -> Outcome:
        ours, theirs = normal_form(graph), plain(database, tables)
        return Outcome(
            rewrites,
            graph.manifest.certificate,
            ours.nodes,
            ours.edges,
            tuple(self._hops_here(database, graph, ours, pair) for pair in self.pairs),
            theirs.nodes,
            theirs.edges,
            tuple(self._hops_there(database, theirs, tables, pair) for pair in self.pairs),
        )

    def _hops_here(
        self, database: Database, graph: Graph, adjacency: Adjacency, pair: Pair
    ) -> int | None:
        places = []
        for entity, key in (pair.one, pair.other):
            node_type = self._node_type(database, entity)
            names = graph.node_type(node_type).key
            node = row_of(graph.nodes(node_type, names), names, key)
            if node is None:
                return None
            places.append((node_type, node))
        return _length(adjacency, places[0], places[1])

    def _hops_there(
        self, database: Database, adjacency: Adjacency, tables: Path, pair: Pair
    ) -> int | None:
        places = []
        for entity, key in (pair.one, pair.other):
            home, found = self.schema.entities[entity].table or "", None
            columns = database.declared(home).key or ()
            for part in database.parts(home):
                row = row_of(read_rows(tables / part, columns), columns, key)
                found = (part, row) if row is not None else found
            if found is None:
                return None
            places.append(found)
        return _length(adjacency, places[0], places[1])


def open_database(planned: Planned, session: SparkSession, folder: Path) -> Database:
    """The clean rows of a schema file's tables, ready to be rewritten."""
    schema = planned.schema
    stage, quarantine = folder / "stage", folder / "quarantine"
    _, clean = clean_tables(planned, session, stage, quarantine, Ledger(), whole=True)
    homes = frozenset(e.table for e in schema.entities.values() if e.table is not None)
    whole = {
        name: table.model_copy(update={"parts": (), "types": {}})
        for name, table in schema.tables.items()
    }
    database = Database(session, folder / "rows", whole, {}, homes)
    relations: dict[str, Relation | None] = {
        name: database.relation_of(table.frame, dict(table.names)) for name, table in clean.items()
    }
    database = database.changed({}, relations)
    for name in whole:
        if name.startswith(HIDDEN):  # In the folder that it is written to it would not be seen.
            database = RenameTable(name, free_name(database, name))(database)
    return database


def write_database(database: Database, schema: SchemaFile, folder: Path) -> Path:
    """``<folder>/data/<table>/*.parquet`` and the schema file, whose path is returned."""
    database.write(folder / "data")
    raw = schema.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"source"})
    tables = {
        name: {
            **table.model_dump(mode="json", exclude_defaults=True),
            "references": [
                reference.model_dump(mode="json", exclude_defaults=True)
                for reference in table.references or ()
            ],
        }
        for name, table in database.tables.items()
    }
    raw |= {"source": {"path": "data"}, "tables": tables}
    file = folder / "schema.yaml"
    file.write_text(yaml.safe_dump(raw, allow_unicode=True, sort_keys=False), "utf-8")
    return file


def _pairs(graph: Graph, schema: SchemaFile, draw: random.Random) -> Iterator[Pair]:
    """Pairs of nodes one or two hops apart, or else anywhere; of entities keyed by their home."""
    able = [node for node in graph.entities if node.count and _keyed_by_home(schema, node.name)]
    if not able:
        return
    adjacency = normal_form(graph)
    for number in range(PAIRS):
        node, wanted = able[number % len(able)], able[(number // len(able)) % len(able)]
        start = draw.randrange(node.count)
        hops = adjacency.of(adjacency.from_one((node.name, start)), wanted.name, wanted.count)
        near = np.flatnonzero((hops == 1) | (hops == 2))
        near = near if len(near) else np.flatnonzero(hops > 0)
        if len(near):
            other = int(near[draw.randrange(len(near))])
            yield Pair(
                (node.name, _key(graph, node.name, start)),
                (wanted.name, _key(graph, wanted.name, other)),
            )


def _keyed_by_home(schema: SchemaFile, entity: str) -> bool:
    declared = schema.entities[entity]
    return declared.table is not None and declared.key in (
        None,
        schema.tables[declared.table].key,
    )


def _key(graph: Graph, entity: str, node: int) -> tuple[Any, ...]:
    names = graph.node_type(entity).key
    row = graph.nodes(entity, names).slice(node, 1).to_pylist()[0]
    return tuple(row[name] for name in names)


def _length(adjacency: Adjacency, one: tuple[str, int], other: tuple[str, int]) -> int | None:
    hops = int(adjacency.from_one(one)[adjacency.first[other[0]] + other[1]])
    return None if hops < 0 else hops
