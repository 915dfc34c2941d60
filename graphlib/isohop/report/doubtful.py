"""The edges that the teacher believes least, by the names of their ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isohop.coldbrew.figures import DOUBTFUL
from isohop.graph.dataset import EdgeType
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
    same few nodes. None where the model is of another graph."""
    graph, model = folder.graph, folder.distilled
    if graph is None or model is None:
        return ()
    if model.certificate and not graph.manifest.has_nodes_of(model.certificate, model.numbering):
        return ()
    found = []
    names: dict[str, Names] = {}
    for edge_type in graph.edge_types:
        table = folder.credible(edge_type.name)
        if table is None:
            continue
        credible = table["credible"].to_numpy()
        doubtful = int(np.count_nonzero(credible < DOUBTFUL))
        drawn = np.random.default_rng(seed).permutation(len(credible))
        least = drawn[np.argsort(credible[drawn], kind="stable")][: min(wanted, doubtful)]
        edges: tuple[DoubtfulEdge, ...] = ()
        if len(least):
            called = []
            for name, side in ((edge_type.source, "src"), (edge_type.target, "dst")):
                if name not in names:
                    keys = graph.nodes(name, graph.node_type(name).key)
                    names[name] = Names.of_entity(graph, name, keys)
                called.append(names[name].of(table[side].to_numpy()[least]))
            edges = tuple(map(DoubtfulEdge, *called, credible[least].tolist()))
        found.append(DoubtfulEdges(edge_type, doubtful, len(credible), edges))
    return tuple(sorted(found, key=lambda of: (-of.share, of.edge_type.name)))
