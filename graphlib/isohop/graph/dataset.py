"""The graph dataset: Parquet with one JSON manifest.

::

    graph/
      graph.json                                 GraphManifest: types, counts, columns, certificate
      ledger.json                                what became of every input row
      nodes/<node type>/*.parquet                node_id int64 (dense from 0, in the order of the
                                                 key, or as an earlier graph had them); the key's
                                                 columns; one column an attribute
      edges/<source>--<role>--<target>/*.parquet src, dst int64 node ids; count int64; aggregated
                                                 event attributes. One row a pair, one direction.
      quarantine/<table>/*.parquet               rows that did not make it, with their reason
      quarantine/<type>.<attribute>/*.parquet    values that lost to others; with "_" after it where
                                                 a table is called so

Values are native and nothing is encoded: that is the business of later stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.errors import IsohopError, did_you_mean, first_mistake
from isohop.hops.kinds import Kind

MOST_TEXT = 1 << 31
"""Bytes of a column of texts from which on an array cannot hold it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attribute(_Model):
    """One attribute column of a node type or an edge type."""

    name: str
    kind: Kind
    type: str = ""
    """Arrow type, as text."""
    aggregate: str | None = None
    """How many facts became one value: ``mean``, ``min``, ``max``, ``set``, ``first``, ``last``."""


class NodeType(_Model):
    """One node type; ``shared`` where its nodes are the values of a shared attribute.

    ``identifiers``: columns of the key that tell nodes apart and nothing else of them, or that are
    another node's key, to which an edge leads.
    """

    name: str
    key: tuple[str, ...]
    identifiers: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    count: int
    shared: bool = False
    time: str | None = None
    """The attribute that says when a node's row became known: what ``time`` of its home names."""


class EdgeType(_Model):
    """One edge type, written once, in one direction."""

    source: str
    role: str
    target: str
    attributes: tuple[Attribute, ...] = ()
    count: int
    functional: bool = False
    """True where the source determines the target."""
    time: str | None = None
    """The attribute that says when the first of an edge's rows became known: of what ``time`` of
    their table names, which has no such attribute where it holds no times."""

    @property
    def name(self) -> str:
        return f"{self.source}--{self.role}--{self.target}"

    @property
    def triple(self) -> tuple[str, str, str]:
        """As DGL's canonical edge type."""
        return self.source, self.role, self.target


class GraphManifest(_Model):
    """``graph.json``."""

    format: Literal[1] = 1
    name: str
    certificate: str
    certificate_parts: Mapping[str, str] = {}
    numbering: str = ""
    """Digest of which key has which node id: equal graphs may differ in that."""
    node_types: tuple[NodeType, ...]
    edge_types: tuple[EdgeType, ...]
    inputs: Mapping[str, str] = {}
    """Fingerprint of each input, by table."""
    plan: Mapping[str, Any] = {}
    """What ``isohop explain`` tells, as JSON."""

    def identity(self) -> list[Any]:
        """All that tells the graph from others, plain values. A certificate sees neither names nor
        kinds nor what is a time, and what is learned depends on them."""
        types = self.model_dump(mode="json", include={"node_types", "edge_types"})
        return [self.certificate, self.numbering, types]

    def has_nodes_of(self, certificate: str | None, numbering: str | None) -> bool:
        """Whether those are its own: what was kept by node id belongs to it."""
        return (certificate, numbering) == (self.certificate, self.numbering)


@dataclass(frozen=True)
class Graph:
    """A graph dataset on disk, opened; tables are read when asked for."""

    path: Path
    manifest: GraphManifest

    @classmethod
    def open(cls, path: str | Path) -> Graph:
        """Open the dataset at ``path``. Raises `IsohopError` when there is none."""
        path = Path(path)
        file = path / "graph.json"
        if not file.is_file():
            raise IsohopError(
                f"{path} is not a graph dataset: graph.json is missing. "
                "Make one with 'isohop build'."
            )
        try:
            manifest = GraphManifest.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise IsohopError(
                f"{file} is not a graph manifest that this version reads: {first_mistake(error)}. "
                "Build the graph again."
            ) from error
        return cls(path, manifest)

    @property
    def node_types(self) -> tuple[NodeType, ...]:
        return self.manifest.node_types

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        return self.manifest.edge_types

    @property
    def entities(self) -> tuple[NodeType, ...]:
        """The node types that get published embeddings: all but the values of shared attributes."""
        return tuple(node for node in self.node_types if not node.shared)

    def node_type(self, name: str) -> NodeType:
        for node in self.node_types:
            if node.name == name:
                return node
        hint = did_you_mean(name, (node.name for node in self.node_types))
        raise IsohopError(f"{self.path}: no node type '{name}'. {hint}")

    def edge_type(self, name: str) -> EdgeType:
        for edge in self.edge_types:
            if edge.name == name:
                return edge
        hint = did_you_mean(name, (edge.name for edge in self.edge_types))
        raise IsohopError(f"{self.path}: no edge type '{name}'. {hint}")

    def nodes(self, node_type: str, columns: Iterable[str] | None = None) -> pa.Table:
        """All nodes of a type, in the order of ``node_id``, so that row i is node i."""
        known = self.node_type(node_type)
        wanted = None if columns is None else list(dict.fromkeys(["node_id", *columns]))
        table = _read(self.path / "nodes" / known.name, wanted)
        if not _ascends(table.column("node_id")):
            table = _with_room(table).sort_by("node_id")
        ids = table.column("node_id").to_numpy()
        if len(ids) != known.count or not np.array_equal(ids, np.arange(len(ids))):
            raise IsohopError(
                f"{self.path / 'nodes' / known.name}: node ids are not dense from 0 to "
                f"{known.count - 1}. The dataset is damaged: build it again."
            )
        return table

    def edges(self, edge_type: str, columns: Iterable[str] | None = None) -> pa.Table:
        """All edges of a type, ordered by ``src`` and ``dst``."""
        known = self.edge_type(edge_type)
        wanted = None if columns is None else list(dict.fromkeys(["src", "dst", *columns]))
        table = _read(self.path / "edges" / known.name, wanted)
        return table.sort_by([("src", "ascending"), ("dst", "ascending")])

    def edge_index(self, edge_type: str) -> np.ndarray:
        """The (2, edges) int64 array of sources and targets, in the order of `edges`."""
        table = self.edges(edge_type, [])
        return np.stack([table.column(side).to_numpy() for side in ("src", "dst")])

    @classmethod
    def write(
        cls,
        path: str | Path,
        manifest: GraphManifest,
        nodes: Mapping[str, pa.Table],
        edges: Mapping[str, pa.Table],
    ) -> Graph:
        """Write a graph held in memory, whole or not at all: for tests and for small tools."""
        path = Path(path)
        with folder_atomically(path, "graph.json") as folder:
            for kind, tables in (("nodes", nodes), ("edges", edges)):
                for name, table in tables.items():
                    (folder / kind / name).mkdir(parents=True)
                    pq.write_table(table, folder / kind / name / "part-0.parquet")
            write_text_atomically(folder / "graph.json", manifest.model_dump_json(indent=1))
        return cls.open(path)


def _ascends(ids: pa.ChunkedArray) -> bool:
    held = ids.to_numpy()
    return bool((held[1:] >= held[:-1]).all())


def _with_room(table: pa.Table) -> pa.Table:
    """With texts that may become one array, which of more than 2 GiB a plain one cannot hold."""
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_string(field.type) and column.nbytes >= MOST_TEXT:
            table = table.set_column(index, field.name, column.cast(pa.large_string()))
    return table


def _read(folder: Path, columns: list[str] | None) -> pa.Table:
    if not folder.is_dir():
        raise IsohopError(f"{folder} is missing: the graph dataset is damaged. Build it again.")
    table = ds.dataset(folder, format="parquet").to_table(columns=columns)
    # What engines write beside the values (nullability, notes of their own) is no part of them.
    fields = [pa.field(field.name, field.type) for field in table.schema]
    return table.cast(pa.schema(fields))
