"""Hops between nodes: in a graph dataset, and in the plain graph of keys and references.

The plain graph has one node a row and one edge a given reference: what other tools make of tables
(RelBench's ``make_pkey_fkey_graph``; R2N of 4DBInfer). Held in memory as compressed sparse rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import scipy.sparse as sp

from isohop.graph.dataset import Graph
from isohop.relational.refactor import Database

Place = tuple[str, int]
"""Node type or table, and the node's position in it."""


@dataclass(frozen=True)
class Adjacency:
    """An undirected graph. ``first``: where the nodes of each type begin; ``edges``: how many."""

    first: Mapping[str, int]
    matrix: sp.csr_matrix
    edges: int

    @property
    def nodes(self) -> int:
        return int(self.matrix.shape[0])

    def from_one(self, place: Place) -> np.ndarray:
        """Hops from one node to every other, int64 (nodes,); -1 where no path leads there."""
        indptr, indices = self.matrix.indptr, self.matrix.indices
        hops = np.full(self.nodes, -1, np.int64)
        frontier = np.array([self.first[place[0]] + place[1]])
        length = 0
        while len(frontier):
            hops[frontier] = length
            starts, lengths = indptr[frontier], indptr[frontier + 1] - indptr[frontier]
            # The neighbours of all of the frontier, without a loop over it.
            shift = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
            reached = np.unique(indices[np.arange(lengths.sum()) + shift])
            frontier = reached[hops[reached] < 0]
            length += 1
        return hops

    def of(self, hops: np.ndarray, node_type: str, count: int) -> np.ndarray:
        """The part of `from_one` that belongs to one type."""
        start = self.first[node_type]
        return hops[start : start + count]


def _adjacency(
    counts: Mapping[str, int], edges: Sequence[tuple[str, str, np.ndarray]]
) -> Adjacency:
    first, total = {}, 0
    for name, count in counts.items():
        first[name], total = total, total + count
    source = [np.asarray(ends[0]) + first[one] for one, _, ends in edges]
    target = [np.asarray(ends[1]) + first[other] for _, other, ends in edges]
    rows = np.concatenate([*source, *target, np.zeros(0, np.int64)])
    columns = np.concatenate([*target, *source, np.zeros(0, np.int64)])
    ones = np.ones(len(rows), np.int8)
    matrix = sp.csr_matrix((ones, (rows, columns)), shape=(total, total))
    return Adjacency(first, matrix, sum(ends.shape[1] for *_, ends in edges))


def normal_form(graph: Graph) -> Adjacency:
    """The graph of a dataset."""
    return _adjacency(
        {node.name: node.count for node in graph.node_types},
        [(e.source, e.target, graph.edge_index(e.name)) for e in graph.edge_types],
    )


def plain(database: Database, folder: Path) -> Adjacency:
    """The plain graph of a database that `Database.write` put into ``folder``.

    A reference to a table in parts leads to whichever part holds the row: kinder than any tool is.
    """
    counts: dict[str, int] = {}
    edges: list[tuple[str, str, np.ndarray]] = []
    keys: dict[str, pa.Table] = {}
    for name, table in database.tables.items():
        for part in database.parts(name):
            counts[part] = ds.dataset(folder / part, format="parquet").count_rows()
            keys[part] = read_rows(folder / part, table.key or ())
    for name, table in database.tables.items():
        for reference in table.references or ():
            for part in database.parts(name):
                referring = read_rows(folder / part, reference.columns)
                for target in database.parts(reference.table):
                    edges.append((part, target, _meetings(referring, keys[target])))
    return _adjacency(counts, edges)


def _meetings(referring: pa.Table, keys: pa.Table) -> np.ndarray:
    """(2, edges) int64: rows and the rows whose key they have, column by column."""
    names = [str(at) for at in range(referring.num_columns)]
    sides = [side.rename_columns(names) for side in (referring, keys)]
    if any(column.null_count == len(column) for side in sides for column in side.columns):
        return np.zeros((2, 0), np.int64)  # A column without values may have any type.
    both = pa.unify_schemas([side.schema for side in sides], promote_options="permissive")
    ours, theirs = (
        side.cast(both).append_column(end, pa.array(np.arange(len(side))))
        for end, side in zip(("row", "met"), sides, strict=True)
    )
    found = ours.join(theirs, names, join_type="inner")
    return np.stack([found.column(end).to_numpy() for end in ("row", "met")])


def read_rows(path: Path, columns: Sequence[str]) -> pa.Table:
    """A physical table in the order in which its rows are nodes."""
    return ds.dataset(path, format="parquet").to_table(columns=list(columns))


def row_of(table: pa.Table, key: Sequence[str], values: Sequence[object]) -> int | None:
    """The position of the row with this key; None where there is none."""
    one = pa.table({name: [value] for name, value in zip(key, values, strict=True)})
    _, rows = _meetings(one, table.select(list(key)))
    return int(rows.min()) if len(rows) else None
