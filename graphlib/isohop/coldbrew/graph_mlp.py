"""Graph-MLP: an MLP that hears of the graph in its loss alone (Hu et al., 2021). A baseline.

Beside the label, nodes of its entity must be near those that are `STEPS` steps of a walk away, and
far from the others of a batch: −log Σⱼ γᵢⱼ exp(cos(zᵢ, zⱼ)/τ) / Σⱼ exp(cos(zᵢ, zⱼ)/τ) over j ≠ i, γ
the walk of `MessageGraph.hops`. Weight, temperature, steps and batch are the authors' for Cora.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from isohop.coldbrew.dropout import dropout
from isohop.coldbrew.labels import Labels
from isohop.coldbrew.learners import Batch, Seen, Told, label_loss
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.tables import by_blocks, mlp

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller

WEIGHT, TEMPERATURE, STEPS, BATCH = 10.0, 2.0, 2, 2000


class GraphMLP(nn.Module):
    """float32 (nodes, d_in) -> what is held (nodes, d), from which ``classify`` answers."""

    def __init__(self, width: int, dimensions: int, dropout: float, outputs: int):
        super().__init__()
        self.dropout = dropout
        self.mlp = mlp(width, dimensions, dropout)
        self.classify = nn.Linear(dimensions, outputs)

    def forward(self, features: Tensor) -> Tensor:
        held: Tensor = self.mlp(dropout(features, self.dropout, self.training))
        return held


class ByContrast:
    """A distiller's Graph-MLP, which learns one label."""

    def __init__(self, distiller: Distiller, labels: Labels):
        settings = distiller.settings
        self._workers = distiller.workers
        self._labels = labels
        self._entity = labels.entity
        self._features = distiller.inputs.features[labels.entity]
        width = self._features.shape[1]
        self.module = GraphMLP(width, settings.part, settings.dropout, labels.outputs)
        self._walk, self._start = walk_matrix(distiller.unweighed)

    def loss(self, batch: Batch) -> Tensor:
        size = len(self._features)
        some = np.sort(batch.draw.permutation(size)[:BATCH])
        ids = torch.from_numpy(some)
        nodes = torch.cat([ids, batch.labelled]).unique()
        seen = Seen({self._entity: nodes}, {self._entity: self.module(self._features[nodes])})
        near = torch.from_numpy(near_of(self._walk, self._start[self._entity] + some))
        apart = contrast(seen.vectors(self._entity, ids), near)
        label = label_loss(self._labels, self._workers, batch.labelled, seen, self.module.classify)
        return label + WEIGHT * apart

    def tell(self) -> Told:
        answers = by_blocks(lambda x: self.module.classify(self.module(x)), self._features)
        return Told({}, answers)


def walk_matrix(graph: MessageGraph) -> tuple[sparse.csr_matrix, dict[str, int]]:
    """A step of `MessageGraph.hops` as a sparse matrix over nodes of all types, and where the nodes
    of each type begin in it."""
    start = dict(zip(graph.counts, np.cumsum([0, *graph.counts.values()]).tolist(), strict=False))
    total = sum(graph.counts.values())
    own, shares = graph.step(graph.weights({}))
    kept = np.concatenate([own[name][:, 0].numpy() for name in graph.counts])
    step = sparse.diags(kept, format="csr")
    for relation, share in zip(graph.relations, shares, strict=True):
        source, target = (end.numpy() for end in graph.ends(relation))
        at = (target + start[relation.target], source + start[relation.source])
        step = step + sparse.csr_matrix((share[:, 0].numpy(), at), shape=(total, total))
    return step, start


def near_of(walk: sparse.csr_matrix, nodes: np.ndarray) -> np.ndarray:
    """float32 (nodes, nodes): `STEPS` steps of the walk between them, from each to the others."""
    reached = walk[nodes]
    for _ in range(STEPS - 2):
        reached = reached @ walk
    near = (reached @ walk[:, nodes]).toarray().astype(np.float32)
    np.fill_diagonal(near, 0.0)
    return near


def contrast(vectors: Tensor, near: Tensor) -> Tensor:
    """Mean over nodes that are near to any other; 0 where none is."""
    likely = torch.exp(vectors @ vectors.T / TEMPERATURE)
    likely = likely - torch.diag(torch.diagonal(likely))
    told = (likely * near).sum(1)
    there = told > 0
    if not there.any():
        return torch.zeros(())
    return -(told[there] / likely.sum(1)[there]).log().mean()
