"""Targets: which nodes are a node's neighbours, as training may know it.

One label space per destination node type: a node predicts its neighbours of each type apart. Only
edges that `isohop.graph.hold_out` leaves visible count, in both directions; an edge that evaluation
holds out cannot reach a feature. Hub *columns* stay; hub *rows* are left to `rows_to_learn`.

Where the pipeline names a label, its classes are a label space as well: of the nodes whose label
training is told, and of no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from isohop.graph import Graph, Holdout
from isohop.graph.holdout import label_edge
from isohop.graph.label import Label

LABEL = ""
"""In place of a destination type, none of which has an empty name."""
RANGES = 16
"""Of a number that is the label: which of so many it is in."""


@dataclass(frozen=True)
class NodeIndex:
    """Nodes of all types in one numbering: node i of a type is ``offset[type] + i``."""

    offset: Mapping[str, int]
    counts: Mapping[str, int]

    @classmethod
    def of(cls, graph: Graph) -> NodeIndex:
        offset, total = {}, 0
        for node in graph.node_types:
            offset[node.name] = total
            total += node.count
        return cls(offset, {node.name: node.count for node in graph.node_types})

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def rows(self, node_type: str) -> slice:
        """The rows of a type."""
        start = self.offset[node_type]
        return slice(start, start + self.counts[node_type])


def neighbourhoods(
    graph: Graph, holdout: Holdout, label: str | None = None
) -> dict[str, sparse.csr_matrix]:
    """Destination type -> binary float32 CSR (all nodes, its nodes), of visible edges only."""
    index = NodeIndex.of(graph)
    hidden = label_edge(graph, label)
    ends: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for edge in graph.edge_types:
        if edge.name == hidden:
            continue
        source, target = graph.edge_index(edge.name)[:, holdout.visible(edge.name)]
        ends.setdefault(edge.target, []).append((source + index.offset[edge.source], target))
        ends.setdefault(edge.source, []).append((target + index.offset[edge.target], source))
    targets = {}
    for name, parts in ends.items():
        row, column = (np.concatenate(side) for side in zip(*parts, strict=True))
        if not len(row):
            continue
        matrix = sparse.csr_matrix(
            (np.ones(len(row), np.float32), (row, column)), shape=(index.total, index.counts[name])
        )
        matrix.data[:] = 1.0  # neighbours by two edge types are neighbours once
        matrix.sort_indices()
        targets[name] = matrix
    return targets


def classes_told(label: Label, index: NodeIndex) -> sparse.csr_matrix:
    """Binary float32 CSR (all nodes, classes): the class of each node that training is told of."""
    classes = label.told_as_classes(RANGES)
    told = np.flatnonzero(classes >= 0)
    cells = told + index.offset[label.entity], classes[told]
    shape = index.total, len(label.names) or int(classes.max(initial=0)) + 1
    return sparse.csr_matrix((np.ones(len(told), np.float32), cells), shape=shape)


def clustered(targets: sparse.csr_matrix, clusters: np.ndarray) -> sparse.csr_matrix:
    """Targets at a coarser scale: float32 CSR (nodes, clusters), how many neighbours lie in each.

    ``clusters``: int64 (labels,), the cluster of each label.
    """
    count = len(clusters)
    member = sparse.csr_matrix(
        (np.ones(count, np.float32), (np.arange(count), clusters)),
        shape=(count, int(clusters.max(initial=-1)) + 1),
    )
    return (targets @ member).tocsr()


def rows_to_learn(targets: Mapping[str, sparse.csr_matrix], hub_degree: int) -> np.ndarray:
    """int64: nodes that have neighbours, and fewer than ``hub_degree``."""
    degree = sum((np.diff(matrix.indptr) for matrix in targets.values()), np.zeros(1, np.int64))
    return np.flatnonzero((degree > 0) & (degree < hub_degree))
