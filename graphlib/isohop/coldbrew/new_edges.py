"""Edges of new rows to nodes that the graph knows.

The file of an edge type has the columns of the row's key and of the known node. Those of a value
of a shared attribute are one column, named as the attribute; of any other node its key, with
``known_`` before a name that the row's key has too. Null there means that there is no edge. Other
columns are not read, so the file may be that of the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from isohop.coldbrew.bundle import BundledEntity
from isohop.coldbrew.message_passing import Relation
from isohop.coldbrew.new_columns import (
    cast_columns,
    check_columns,
    one_array,
    quarantined,
    read_rows,
    reading,
)
from isohop.engines.keys import by_place, places
from isohop.engines.pieces import part_name
from isohop.errors import InvalidInput, Problem, did_you_mean
from isohop.graph import Graph
from isohop.graph.holdout import label_edge
from isohop.relational.files import parquet_parts
from isohop.relational.landing import LandedTable
from isohop.relational.parquet_files import land_parquet

REVERSE = "^-1"
NO_ROW = "no new row has this key"
BAD_ROW = "the new row with this key is kept apart"
_MATCHED = pa.schema([("relation", pa.string()), ("node", pa.int64()), ("row", pa.int64())])


@dataclass(frozen=True)
class EdgeFiles:
    """The files of one edge type. ``relation``: by which messages reach the new rows. ``columns``:
    those that are read, the row's key first. ``node_key``: of the known node, as the graph has
    it."""

    relation: Relation
    files: tuple[Path, ...]
    columns: pa.Schema
    row_key: tuple[str, ...]
    node_key: tuple[str, ...]


def edge_files(
    graph: Graph,
    label: str | None,
    entity: BundledEntity,
    rows: pa.Schema,
    given: Mapping[str, Path],
) -> list[EdgeFiles]:
    """``given``: a file or folder by the name of an edge type, ``^-1`` after it where it joins the
    entity to itself and new rows are its targets. Raises `InvalidInput` with all that is wrong."""
    problems: list[Problem] = []
    found = []
    touching = {_name(relation): relation for relation in _relations(graph, entity.name, label)}
    for name, path in given.items():
        if name not in touching:
            what = f"is no edge type of '{entity.name}' in {graph.path}."
            problems.append(Problem(f"--edges {name}", what, did_you_mean(name, touching)))
            continue
        relation = touching[name]
        columns, node_key = _columns(graph, relation, entity, rows)
        files = tuple(file.resolve() for file in parquet_parts(path))
        wrong, _ = check_columns(files, columns, columns.names, name)
        problems += [Problem(f"{path}, {one.where}", one.what, one.hint) for one in wrong]
        found.append(EdgeFiles(relation, files, columns, entity.key, node_key))
    if problems:
        raise InvalidInput(f"Edges of new rows of '{entity.name}'", problems)
    return found


def edges_named(
    graph: Graph, label: str | None, entity: str, columns: Collection[str]
) -> list[str]:
    """The edge types, as `edge_files` takes them, to the values of shared attributes that are among
    the ``columns`` of an entity's new rows."""
    relations = _relations(graph, entity, label)
    return [_name(one) for one in relations if _attribute(graph, one) in columns]


def _relations(graph: Graph, entity: str, label: str | None) -> Iterator[Relation]:
    """Those by which messages reach the entity, but for the label's."""
    hidden = label_edge(graph, label)
    for edge in graph.edge_types:
        if edge.name == hidden:
            continue
        if edge.source == entity:
            yield Relation(edge.name, edge.target, edge.source, reverse=True)
        if edge.target == entity:
            yield Relation(edge.name, edge.source, edge.target, reverse=False)


def _name(relation: Relation) -> str:
    """What a user calls it: the edge type, and from which end where both may be new rows."""
    target = relation.source == relation.target and not relation.reverse
    return relation.edge_type + REVERSE if target else relation.edge_type


def _attribute(graph: Graph, relation: Relation) -> str | None:
    """The shared attribute whose values a relation comes from, where one column tells them."""
    node = graph.node_type(relation.source)
    one = node.shared and len(node.key) == 1
    return graph.edge_type(relation.edge_type).role if one else None


def _columns(
    graph: Graph, relation: Relation, entity: BundledEntity, rows: pa.Schema
) -> tuple[pa.Schema, tuple[str, ...]]:
    node, attribute = graph.node_type(relation.source), _attribute(graph, relation)
    held = ds.dataset(graph.path / "nodes" / node.name, format="parquet").schema
    names = node.key if attribute is None else (attribute,)
    names = tuple(f"known_{name}" if name in entity.key else name for name in names)
    known = [pa.field(n, held.field(k).type) for n, k in zip(names, node.key, strict=True)]
    return pa.schema([*(rows.field(name) for name in entity.key), *known]), node.key


@dataclass
class _Read:
    """Edges of one type: ``table`` as it was read, ``values`` of it with the types that they should
    have, ``reasons`` why an edge is of no use ('' where it is), and ``nodes``, int64 (edges,), the
    known node; what is no edge is not among them. ``landed``: how they were read. ``used``, and
    ``of_bad``: masks of edges that a new row has which can be used, and which cannot."""

    of: EdgeFiles
    landed: LandedTable
    table: pa.Table
    values: pa.Table
    reasons: np.ndarray
    nodes: np.ndarray
    used: np.ndarray
    of_bad: np.ndarray


def match_edges(
    given: Sequence[EdgeFiles],
    graph: Graph,
    pieces: Sequence[Mapping[str, Any]],
    rows: pa.Schema,
    folder: Path,
) -> tuple[Path, pa.Table, list[str]]:
    """For each piece of new rows the file ``<part_name>`` of its edges in a folder; what cannot be
    used, as a quarantine has it; and what reading changed. ``folder``: for what is read on the way.
    An edge that comes twice is one."""
    read = [_read(one, graph, folder / str(number)) for number, one in enumerate(given)]
    out = folder / "matched"
    out.mkdir(parents=True)
    for piece in pieces:
        key = _key_of(piece, rows, read[0].of.row_key)
        found = [_matched(one, key) for one in read]
        together = pa.concat_tables(found).group_by(_MATCHED.names).aggregate([])
        order = [(name, "ascending") for name in ("relation", "row", "node")]
        pq.write_table(together.sort_by(order).cast(_MATCHED), out / part_name(dict(piece)))
    bad, notes = [], []
    for one in read:
        one.reasons[one.of_bad & ~one.used & (one.reasons == "")] = BAD_ROW
        one.reasons[~one.used & (one.reasons == "")] = NO_ROW
        bad.append(quarantined(one.table, one.reasons))
        if one.landed.quarantine is not None:
            bad.append(pq.read_table(one.landed.quarantine).cast(bad[0].schema))
        notes += [f"{one.of.relation.edge_type}: {note}" for note in one.landed.notes]
    return out, pa.concat_tables(bad), notes


def _read(of: EdgeFiles, graph: Graph, folder: Path) -> _Read:
    landed = land_parquet(of.files, folder, of.relation.edge_type, of.columns.names, "")
    read = []
    for file in landed.paths:
        with reading(file):
            read.append(pq.read_table(file, columns=of.columns.names))
    table = pa.concat_tables(read)
    table = pa.table([one_array(column) for column in table.columns], names=table.column_names)
    row_key, known = of.row_key, of.columns.names[len(of.row_key) :]
    there = np.ones(table.num_rows, bool)
    for name in known:
        there &= table[name].is_valid().to_numpy()
    table = table.filter(pa.array(there))
    values, reasons = cast_columns(table, of.columns, row_key)
    nodes = graph.nodes(of.relation.source, of.node_key)
    numbered = by_place(values.select(known).columns, edge=np.arange(table.num_rows))
    there_are = by_place(nodes.select(list(of.node_key)).columns, node=nodes["node_id"])
    joined = numbered.join(there_are, keys=places(len(known)), join_type="inner")
    found = np.full(table.num_rows, -1, np.int64)
    found[joined["edge"].to_numpy()] = joined["node"].to_numpy()
    reasons[(found < 0) & (reasons == "")] = f"the graph knows no such '{of.relation.source}'"
    used, of_bad = np.zeros((2, len(found)), bool)
    return _Read(of, landed, table, values, reasons, found, used, of_bad)


def _key_of(piece: Mapping[str, Any], rows: pa.Schema, names: Sequence[str]) -> pa.Table:
    """The key of a piece's rows, as `by_place` has it, ``row``, its number there, and whether it is
    ``good`` for being embedded."""
    read = [rows.empty_table().select(names)]
    good = [np.zeros(0, bool)]
    for table in read_rows(dict(piece), rows.names):
        values, reasons = cast_columns(table.combine_chunks(), rows, names)
        read.append(values.select(names))
        good.append(reasons == "")
    key = pa.concat_tables(read)
    return by_place(key.columns, row=np.arange(key.num_rows), good=np.concatenate(good))


def _matched(one: _Read, key: pa.Table) -> pa.Table:
    """The edges of those rows of a piece that can be used; they and the others are marked."""
    names = list(one.of.row_key)
    good = one.reasons == ""
    columns = by_place(one.values.select(names).columns, edge=np.arange(len(good)))
    joined = columns.filter(pa.array(good)).join(key, keys=places(len(names)), join_type="inner")
    is_good = joined["good"].combine_chunks()
    one.of_bad[joined["edge"].to_numpy()[~is_good.to_numpy(zero_copy_only=False)]] = True
    joined = joined.filter(is_good)
    edges = joined["edge"].to_numpy()
    one.used[edges] = True
    relation = pa.repeat(pa.scalar(one.of.relation.name), len(edges))
    return pa.table([relation, pa.array(one.nodes[edges]), joined["row"]], schema=_MATCHED)
