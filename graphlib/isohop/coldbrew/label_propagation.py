"""Label propagation (Zhu and Ghahramani, 2002): what the labels of others say alone. A baseline."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from isohop.coldbrew.labels import Labels
from isohop.coldbrew.message_passing import MessageGraph

PROPAGATIONS = 50


def propagated(labels: Labels, graph: MessageGraph) -> Tensor:
    """Answers (nodes, classes) about the classes of a label's entity."""
    known = labels.train
    given = functional.one_hot(labels.values.clamp(min=0), labels.classes).float() * known[:, None]
    held = {name: torch.zeros(n, labels.classes) for name, n in graph.counts.items()}
    held[labels.entity] = given
    weights = graph.weights({})
    for _ in range(PROPAGATIONS):
        held = graph.hops(held, weights, 1)[-1]
        held[labels.entity] = torch.where(known[:, None], given, held[labels.entity])
    return held[labels.entity]
