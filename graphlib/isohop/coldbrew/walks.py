"""Walks that are made once for many steps: what the hop-wise teacher learns a large graph from.

What of features arrives at a node after each hop depends on nothing that is learned, but for the
layer that reads it, which may as well read it there. Structural embeddings are carried as they were
when the walk began (Fey et al., GNNAutoScale, ICML 2021). So a walk is looked up (SIGN, Frasca et
al., 2020), and a step costs what it asks about, however large the graph is. No edge may help to
predict itself: each walk goes without a tenth of the edges, and the steps until the next one ask
about these alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from isohop.coldbrew.message_passing import MessageGraph, Weights
from isohop.coldbrew.tables import Table
from isohop.engines.checkpoints import Tensors

if TYPE_CHECKING:
    from isohop.coldbrew.teacher import Teacher

PARTS = 10
"""Of the edges, one of which a walk goes without."""
STEPS = 20
"""For which a walk is looked up."""


@dataclass(frozen=True)
class Walk:
    """``arrived``: by the type of a node and of those from which it comes, what arrives after 1, 2,
    ... hops, float16 (nodes, hops, width + 1): features, and how much of a node they are.
    ``placed``: likewise of structural embeddings of all types, (nodes, hops, d)."""

    arrived: Mapping[str, Mapping[str, Tensor]]
    placed: Table

    @classmethod
    def over(
        cls, graph: MessageGraph, features: Table, placed: Table, weights: Weights, hops: int
    ) -> Walk:
        """``placed``: the structural embeddings of all nodes, float32 (nodes, d) by type, 0 where a
        node has none."""
        arrived: dict[str, dict[str, Tensor]] = {name: {} for name in graph.counts}
        for source, x in features.items():
            width = x.shape[1] + 1
            sent = {name: torch.zeros(nodes, width) for name, nodes in graph.counts.items()}
            sent[source] = functional.pad(x, (0, 1), value=1.0)
            for name, found in _arrivals(graph, sent, weights, hops).items():
                arrived[name][source] = found
        return cls(arrived, _arrivals(graph, placed, weights, hops))


def _arrivals(graph: MessageGraph, sent: Table, weights: Weights, hops: int) -> dict[str, Tensor]:
    """float16 (nodes, hops, width) of the types at which something arrives."""
    found: dict[str, Tensor] = {}
    for hop, at in enumerate(graph.walk(sent, weights, hops)):
        for name, held in at.items():
            if not hop or (name not in found and not held.any()):
                continue
            if name not in found:
                found[name] = torch.zeros(len(held), hops, held.shape[1], dtype=torch.float16)
            found[name][:, hop - 1] = held
    return found


class Walks:
    """The walks over a graph that a teacher learns from, one after the other."""

    def __init__(self, graph: MessageGraph, features: Table, hops: int, seed: int):
        self._graph = graph
        self._features = features
        self._hops = hops
        random = torch.Generator().manual_seed(seed)
        self._order = {
            name: torch.randperm(edges.shape[1], generator=random)
            for name, edges in graph.edges.items()
        }
        self._number = -1
        self._own: Tensors = {}
        self._walk: Walk | None = None

    def left_out(self, step: int) -> dict[str, Tensor]:
        """By edge type, positions of the edges that may be asked about: at least one. The walk goes
        without them, and without those that lead back."""
        found = {}
        for name, order in self._order.items():
            parts = max(1, min(PARTS, len(order)))
            found[name] = order[step // STEPS % parts :: parts]
        return found

    def of(self, step: int, teacher: Teacher) -> Walk:
        """The walk for a step of training a teacher."""
        if step // STEPS != self._number:
            self._number, self._own = step // STEPS, teacher.structural_table(self._graph.counts)
            self._walk = None  # there is no room for two
        if self._walk is None:
            left_out = self._graph.both_ways(self.left_out(step))
            weights = self._graph.weights(left_out)
            self._walk = Walk.over(self._graph, self._features, self._own, weights, self._hops)
        return self._walk

    def kept(self) -> Tensors:
        """What a checkpoint needs: the walk is made anew."""
        return self._own

    def resume(self, kept: Tensors, done: int) -> None:
        """``done``: steps that were taken; the last of them had that walk."""
        self._own, self._number = kept, (done - 1) // STEPS
