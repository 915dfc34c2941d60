"""What was held out while a model learned, kept beside it for who trains it further.

::

    holdout/
      nodes/<node type>.parquet   node_id, group: nodes whose edges were all removed
      edges/<edge type>.parquet   src, dst, state: edges for validation and for testing
      label.parquet               node_id, part: nodes whose label is known, where one was learned

All else of that graph may have been seen. An edge that is gone for a while is new when it is back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isohop.errors import IsohopError
from isohop.graph.dataset import Graph
from isohop.graph.earlier import NOBODY, moved, moved_edges
from isohop.graph.holdout import (
    ASIDE,
    ISOLATION,
    MIDDLE,
    NEW,
    TEST,
    VALIDATION,
    VISIBLE,
    Holdout,
    Learned,
)

HELD_OUT = "holdout"
"""The folder's name."""
LABEL = "label.parquet"


def save_held_out(
    folder: Path, edges: Mapping[str, np.ndarray], held: Holdout, parts: np.ndarray | None
) -> None:
    """``edges``: by edge type int64 (2, edges), in the order of ``held``. ``parts``: int8 (nodes,)
    of the label's entity, `NEW` where the label is not known."""
    for kind in ("nodes", "edges"):
        (folder / kind).mkdir(parents=True)
    for name, groups in held.groups.items():
        at = np.flatnonzero(np.isin(groups, (ISOLATION, ASIDE)))
        table = pa.table({"node_id": at, "group": groups[at]})
        pq.write_table(table, folder / "nodes" / f"{name}.parquet")
    for name, (source, target) in edges.items():
        state = held.edges[name]
        at = np.flatnonzero(np.isin(state, (VALIDATION, TEST)))
        table = pa.table({"src": source[at], "dst": target[at], "state": state[at]})
        pq.write_table(table, folder / "edges" / f"{name}.parquet")
    if parts is not None:
        at = np.flatnonzero(parts != NEW)
        pq.write_table(pa.table({"node_id": at, "part": parts[at]}), folder / LABEL)


def learned_from(
    before: Graph, folder: Path, now: Graph, later: Mapping[str, np.ndarray]
) -> Learned:
    """What a model saw of ``before``, by the ``folder`` of what was held out of that. ``later``: as
    of `later_nodes`."""
    groups, edges = {}, {}
    for node in now.node_types:
        group = np.full(node.count, NEW, np.int8)
        there = later[node.name]
        group[there[there != NOBODY]] = MIDDLE
        held = moved(_nodes(folder, node.name), {"node_id": there})
        group[held["node_id"].to_numpy()] = held["group"].to_numpy()
        groups[node.name] = group
    for edge in now.edge_types:
        targets = now.node_type(edge.target).count
        ends = _pairs(now.edge_index(edge.name), targets)
        known = moved_edges(before.edges(edge.name, []), edge, later)
        state = np.where(np.isin(ends, _pairs_of(known, targets)), VISIBLE, NEW).astype(np.int8)
        file = folder / "edges" / f"{edge.name}.parquet"
        held = moved_edges(pq.read_table(file), edge, later) if file.is_file() else None
        if held is not None and held.num_rows:
            apart = _pairs_of(held, targets)
            order = np.argsort(apart)
            at = order[np.searchsorted(apart[order], ends).clip(max=len(apart) - 1)]
            same = apart[at] == ends
            state[same] = held["state"].to_numpy()[at[same]]
        edges[edge.name] = state
    return Learned(groups, edges)


def parts_of_label(
    folder: Path, now: Graph, entity: str, later: Mapping[str, np.ndarray]
) -> np.ndarray:
    """int8 (nodes,) of the label's entity: the part of each node whose label was known, or NEW."""
    parts = np.full(now.node_type(entity).count, NEW, np.int8)
    if (folder / LABEL).is_file():
        held = moved(pq.read_table(folder / LABEL), {"node_id": later[entity]})
        parts[held["node_id"].to_numpy()] = held["part"].to_numpy()
    return parts


def _nodes(folder: Path, name: str) -> pa.Table:
    file = folder / "nodes" / f"{name}.parquet"
    if not file.is_file():
        raise IsohopError(
            f"{file} is missing: the model is damaged. Run its stage 'distill' again."
        )
    return pq.read_table(file)


def _pairs_of(table: pa.Table, targets: int) -> np.ndarray:
    return _pairs(np.stack([table[side].to_numpy() for side in ("src", "dst")]), targets)


def _pairs(ends: np.ndarray, targets: int) -> np.ndarray:
    """int64 (edges,): one number for each pair of ends, (2, edges)."""
    return ends[0] * max(targets, 1) + ends[1]
