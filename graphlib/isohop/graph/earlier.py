"""An earlier graph of the same schema: which of its nodes are nodes of this one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from isohop.engines.keys import by_place, places
from isohop.errors import IsohopError
from isohop.graph.dataset import EdgeType, Graph

NOBODY = -1


class OtherTypes(IsohopError):
    """Two graphs differ in more than rows: ``what`` they differ in."""

    def __init__(self, what: str):
        super().__init__(f"{what} Learn anew: leave 'since' out.")
        self.what = what


def check_same_types(before: Graph, now: Graph) -> None:
    """Raises `OtherTypes` where the two differ in more than rows: what was learned on one is then
    of no use for the other. With one schema file they may: an edge type without edges is none, and
    a column that came or went, or has values of another kind, is read as none ever was."""
    for what, one, other in (
        ("node types", _nodes(before), _nodes(now)),
        ("edge types", _edges(before), _edges(now)),
        ("attributes", _attributes(before), _attributes(now)),
    ):
        if one != other:
            only = [f"only before: {', '.join(sorted(one - other))}"] if one - other else []
            only += [f"only now: {', '.join(sorted(other - one))}"] if other - one else []
            raise OtherTypes(
                f"The {what} of {now.path} are not those of {before.path} ({'; '.join(only)}), so "
                "what was learned there cannot be kept."
            )


def _nodes(graph: Graph) -> set[str]:
    return {node.name for node in graph.node_types}


def _edges(graph: Graph) -> set[str]:
    return {edge.name for edge in graph.edge_types}


def _attributes(graph: Graph) -> set[str]:
    return {f"{n.name}.{a.name} ({a.kind})" for n in graph.node_types for a in n.attributes}


def earlier_ids(before: Graph, now: Graph, node_type: str) -> np.ndarray:
    """int64 (nodes now,): the id that each node had before, by its key; `NOBODY` where it is new,
    or its key is of another type now."""
    key = now.node_type(node_type).key
    tables = []
    for graph in (now, before):
        if not set(key) <= set(graph.node_type(node_type).key):
            return np.full(now.node_type(node_type).count, NOBODY)
        nodes = graph.nodes(node_type, key)
        tables.append(by_place([nodes[name] for name in key], id=nodes["node_id"]))
    ours, theirs = tables
    if ours.schema != theirs.schema:
        return np.full(ours.num_rows, NOBODY)
    names = places(len(key))
    theirs = theirs.rename_columns([*names, "before"])
    joined = ours.join(theirs, names, join_type="left outer").sort_by("id")
    return joined["before"].fill_null(NOBODY).to_numpy()


def later_ids(earlier: np.ndarray, count: int) -> np.ndarray:
    """int64 (``count`` nodes before,): the other way round, `NOBODY` for a node that is gone."""
    later = np.full(count, NOBODY)
    there = np.flatnonzero(earlier != NOBODY)
    later[earlier[there]] = there
    return later


def later_nodes(before: Graph, now: Graph) -> dict[str, np.ndarray]:
    """`later_ids` of every node type, the same in both."""
    return {
        node.name: later_ids(earlier_ids(before, now, node.name), before.node_type(node.name).count)
        for node in now.node_types
    }


def all_new(now: Graph, later: Mapping[str, np.ndarray]) -> list[str]:
    """Node types that both graphs have nodes of, though none in common: their key is of another
    type, or all their rows are others. ``later``: as of `later_nodes`."""
    return [
        name
        for name, ids in later.items()
        if now.node_type(name).count and len(ids) and (ids == NOBODY).all()
    ]


def moved_edges(table: pa.Table, edge: EdgeType, later: Mapping[str, np.ndarray]) -> pa.Table:
    """Rows about edges, by src and dst. ``later``: as of `later_nodes`."""
    return moved(table, {"src": later[edge.source], "dst": later[edge.target]})


def moved(table: pa.Table, later: Mapping[str, np.ndarray]) -> pa.Table:
    """Rows about nodes of before, by the ids of now; without those about nodes that are gone.
    ``later``: by column with ids of before, as of `later_ids`."""
    for column, ids in later.items():
        now = ids[table[column].to_numpy()]
        place = table.column_names.index(column)
        table = table.set_column(place, column, pa.array(now)).filter(pa.array(now != NOBODY))
    return table
