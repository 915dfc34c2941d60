"""Walks that are made once for many steps: what the hop-wise teacher learns a large graph from.

What of features arrives at a node after each hop depends on nothing that is learned, but for the
layer that reads it, which may as well read it there. Structural embeddings are carried as they were
when the walk began (Fey et al., GNNAutoScale, ICML 2021). So a walk is looked up (SIGN, Frasca et
al., 2020), and a step costs what it asks about, however large the graph is. No edge may help to
predict itself: each walk goes without a tenth of the edges, and the steps until the next one ask
about these alone.

Dimensions do not hear of each other on the way, so several workers carry a share of them each; and
each keeps what has arrived at a share of the nodes, which a step asks it for.
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
from isohop.engines.workers import ALONE, Workers

if TYPE_CHECKING:
    from isohop.coldbrew.teacher import Teacher

PARTS = 10
"""Of the edges, one of which a walk goes without."""
STEPS = 20
"""For which a walk is looked up."""
COLUMNS = 64
"""Dimensions that a worker carries at a time, about."""
PLACED = ""
"""In the place of a node type: structural embeddings of all types."""


@dataclass(frozen=True)
class Walk:
    """``arrived``: by the type of a node and of those from which it comes, what arrives after 1, 2,
    ... hops, float16 (nodes, hops, width + 1): features, and how much of a node they are; under
    `PLACED` likewise structural embeddings of all types, (nodes, hops, d), if there are any. Of
    several ``workers`` each has every so-many-th node."""

    arrived: Mapping[str, Mapping[str, Tensor]]
    workers: Workers = ALONE

    @classmethod
    def over(
        cls,
        graph: MessageGraph,
        features: Table,
        placed: Table,
        weights: Weights,
        hops: int,
        workers: Workers = ALONE,
    ) -> Walk:
        """``placed``: the structural embeddings of all nodes, float32 (nodes, d) by type, 0 where a
        node has none."""
        arrived: dict[str, dict[str, Tensor]] = {name: {} for name in graph.counts}
        every = {n: {n: functional.pad(x, (0, 1), value=1.0)} for n, x in features.items()}
        # At first nothing is learned of places, and maybe nothing ever.
        every[PLACED] = {n: values for n, values in placed.items() if values.any()}
        for source, sent in every.items():
            for name, found in _arrivals(graph, sent, weights, hops, workers).items():
                arrived[name][source] = found
        return cls(arrived, workers)

    def at(self, name: str, nodes: Tensor) -> dict[str, Tensor]:
        """What has arrived at ``nodes`` of a type, int64 (n,), by where it comes from: float32 (n,
        hops, …). All workers ask at once, of the same types."""
        asked = self.workers.ask(nodes)
        held = self.arrived[name].items()
        return {source: asked.told(rows.__getitem__).float() for source, rows in held}


def _arrivals(
    graph: MessageGraph, sent: Table, weights: Weights, hops: int, workers: Workers
) -> dict[str, Tensor]:
    """float16 (nodes, hops, width) of the types at which something arrives; of this worker's share
    of their nodes. ``sent``: (nodes, width) by type, 0 of a type that is not there."""
    width = max((values.shape[1] for values in sent.values()), default=0)
    found = {
        name: torch.zeros(len(range(nodes)[workers.share]), hops, width, dtype=torch.float16)
        for name, nodes in graph.counts.items()
    }
    size = -(-width // max(1, round(width / COLUMNS / workers.count)))
    for first in range(0, width, max(1, size)):
        columns = slice(first, min(first + size, width))
        own = _columns(graph, sent, columns, workers)
        for hop, at in enumerate(graph.walk(own, weights, hops)):
            for name in found if hop else ():
                parts = [at[name][share].half() for share in workers.shares]
                # Column after column of each worker's, as they lay.
                told = torch.stack(workers.exchanged(parts), 2).flatten(1)
                found[name][:, hop - 1, columns] = told[:, : columns.stop - columns.start]
    some = torch.tensor([float(bool(values.any())) for values in found.values()])
    workers.add([some])
    return {name: of for (name, of), any_ in zip(found.items(), some.tolist(), strict=True) if any_}


def _columns(
    graph: MessageGraph, sent: Table, columns: slice, workers: Workers
) -> dict[str, Tensor]:
    """Of all types those that this worker carries, every so-many-th; 0 after the last, so that all
    carry equally many."""
    count = -(-(columns.stop - columns.start) // workers.count)
    found = {}
    for name, nodes in graph.counts.items():
        found[name] = torch.zeros(nodes, count)
        if name in sent:
            own = sent[name][:, columns][:, workers.share]
            found[name][:, : own.shape[1]] = own
    return found


class Walks:
    """The walks over a graph that a teacher learns from, one after the other."""

    def __init__(
        self,
        graph: MessageGraph,
        features: Table,
        hops: int,
        seed: int,
        workers: Workers = ALONE,
    ):
        self._workers = workers
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
            self._number, self._own = step // STEPS, teacher.structural.all_rows()[0]
            self._walk = None  # there is no room for two
        if self._walk is None:
            left_out = self._graph.both_ways(self.left_out(step))
            about = self._graph.weights(left_out), self._hops, self._workers
            placed = teacher.of_all_nodes(self._own, self._graph.counts)
            self._walk = Walk.over(self._graph, self._features, placed, *about)
        return self._walk

    def kept(self) -> Tensors:
        """What a checkpoint needs: the walk is made anew."""
        return self._own

    def resume(self, kept: Tensors, done: int) -> None:
        """``done``: steps that were taken; the last of them had that walk."""
        self._own, self._number = kept, (done - 1) // STEPS
