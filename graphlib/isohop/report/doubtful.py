"""The edges that the teacher believes least, by the names of their ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isohop.coldbrew.figures import DOUBTFUL
from isohop.graph.dataset import EdgeType, Graph
from isohop.report.naming import Names
from isohop.report.run_folder import RunFolder


@dataclass(frozen=True)
class DoubtfulEdge:
    """What its two ends are called, and how credible it is, from 0 to 1."""

    source: str
    target: str
    credible: float


@dataclass(frozen=True)
class DoubtfulEdges:
    """Of one edge type: how many of the ``judged`` edges are ``doubtful``, and ``least``, the least
    credible of these."""

    edge_type: EdgeType
    doubtful: int
    judged: int
    least: tuple[DoubtfulEdge, ...]

    @property
    def share(self) -> float:
        return self.doubtful / self.judged if self.judged else 0.0


def doubtful_edges(folder: RunFolder, wanted: int, seed: int) -> tuple[DoubtfulEdges, ...]:
    """Of each edge type that was judged, the largest share of doubtful edges first, the ``wanted``
    least credible: of equally credible ones a draw by ``seed``, so that they are not all of the
    same few nodes."""
    graph = folder.graph
    if graph is None:
        return ()
    found = []
    for edge_type in graph.edge_types:
        table = folder.credible(edge_type.name)
        if table is None:
            continue
        credible = table["credible"].to_numpy()
        doubtful = int(np.count_nonzero(credible < DOUBTFUL))
        drawn = np.random.default_rng(seed).permutation(len(credible))
        least = drawn[np.argsort(credible[drawn], kind="stable")][: min(wanted, doubtful)]
        sources, targets = (
            _names(graph, node_type, table[side].to_numpy()[least])
            for node_type, side in ((edge_type.source, "src"), (edge_type.target, "dst"))
        )
        edges = map(DoubtfulEdge, sources, targets, credible[least].tolist())
        found.append(DoubtfulEdges(edge_type, doubtful, len(credible), tuple(edges)))
    return tuple(sorted(found, key=lambda of: (-of.share, of.edge_type.name)))


def _names(graph: Graph, node_type: str, nodes: np.ndarray) -> list[str]:
    keys = graph.nodes(node_type, graph.node_type(node_type).key)
    return Names.of_entity(graph, node_type, keys).of(nodes)
