"""Label propagation (Zhu and Ghahramani, 2002): what the labels of others say alone. A baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from isohop.coldbrew.labels import Labels
from isohop.coldbrew.message_passing import MessageGraph

PROPAGATIONS = 50
AT_ONCE = 64
"""Classes that are propagated beside each other, so that many of them need no room at the nodes of
all types. No class knows of another."""


def propagated(labels: Labels, graph: MessageGraph) -> Tensor:
    """Answers (nodes, classes) about the classes of a label's entity. Of whom no label reaches: how
    common classes are among those that are known."""
    classes = torch.arange(labels.classes)
    told = torch.cat([_of(some, labels, graph) for some in classes.split(AT_ONCE)], 1)
    known = labels.values[labels.train]
    common = torch.bincount(known, minlength=labels.classes) / len(known)
    return torch.where((told > 0).any(1, keepdim=True), told, common)


def _of(classes: Tensor, labels: Labels, graph: MessageGraph) -> Tensor:
    """Answers (nodes, some of the classes)."""
    known = labels.train
    given = ((labels.values[:, None] == classes) & known[:, None]).float()
    held = {name: torch.zeros(n, len(classes)) for name, n in graph.counts.items()}
    held[labels.entity] = given
    weights = graph.weights({})
    for _ in range(PROPAGATIONS):
        held = graph.hops(held, weights, 1)[-1]
        held[labels.entity] = torch.where(known[:, None], given, held[labels.entity])
    return held[labels.entity]
