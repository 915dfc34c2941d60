"""Heads: one vector and one bias a label, and which labels compete for a batch.

A head is one level of one destination type's label tree, or its nodes themselves. The loss is a
softmax cross entropy over cosines, weighted by how many neighbours lie in a cluster (targets as
counts, Chien et al., ICLR 2022, section 3), or the paper's squared hinge. Where a level has more
labels than ``negatives``, those of the batch compete with each other and, where they are fewer,
with a random sample of the rest (Jean et al., ACL 2015); and with *matcher-aware* ones, from the
clusters that the level above finds likely.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from isohop.engines.arrays import distinct
from isohop.engines.workers import ALONE, Workers
from isohop.giant.diagnostics import BEAM, TreeLevel
from isohop.giant.row_table import RowTable
from isohop.giant.settings import FeatureSettings


class Head(nn.Module):
    """``target``, ``level``, ``clusters`` and ``targets`` as in `TreeLevel`; ``parents``: int64
    (labels,), the cluster of each label at the level above, None for the coarsest."""

    vectors: RowTable
    bias: RowTable

    def __init__(
        self,
        target: str,
        level: int,
        clusters: np.ndarray,
        targets: sparse.csr_matrix,
        parents: np.ndarray | None,
        dimensions: int,
        rows: np.ndarray,
    ):
        """``rows``: int64, the nodes that learn."""
        super().__init__()
        self.target = target
        self.level = level
        self.clusters = clusters
        self.targets = targets
        self.vectors = RowTable(torch.zeros(targets.shape[1], dimensions))
        self.bias = RowTable(torch.zeros(targets.shape[1], 1))
        self._rows = rows
        self.parents = parents
        if parents is not None:
            self._children = np.argsort(parents, kind="stable")
            self._sizes = np.bincount(parents)
            self._starts = np.cumsum(self._sizes) - self._sizes

    def ask(self, targets: sparse.csr_matrix) -> None:
        """From here on for others, of as many labels."""
        self.targets = targets
        self.__dict__.pop("share", None)

    @cached_property
    def share(self) -> np.ndarray:
        """How many of the nodes that learn have a label, (labels,)."""
        known = np.bincount(self.targets[self._rows].indices, minlength=self.targets.shape[1])
        return known / max(len(self._rows), 1)

    def add(self, wanted: sparse.csr_matrix, features: np.ndarray) -> None:
        """To each label's vector, the ``features`` (rows, d) of those that have it. ``wanted``:
        their rows of the targets."""
        given = distinct(wanted.indices)
        sums = torch.from_numpy(wanted[:, given].T.tocsr() @ features)
        self.vectors.values[torch.from_numpy(given.astype(np.int64))] += sums

    def begin(self) -> None:
        """Every vector at length 1."""
        self.vectors.values[:] = functional.normalize(self.vectors.values, dim=1)

    def as_trained(self) -> TreeLevel:
        """As it is now; views, not copies."""
        return TreeLevel(
            target=self.target,
            level=self.level,
            clusters=self.clusters,
            targets=self.targets,
            vectors=self.vectors.values.numpy(),
            bias=self.bias.values[:, 0].numpy(),
        )

    def competing(
        self,
        wanted: sparse.csr_matrix,
        settings: FeatureSettings,
        draw: np.random.Generator,
        beam: Beam,
        workers: Workers = ALONE,
    ) -> tuple[np.ndarray, int]:
        """int64, sorted: all labels, or those of the batch (``wanted``) and a sample of others; and
        how many of these were drawn at random."""
        count = wanted.shape[1]
        if count <= settings.negatives:
            return np.arange(count), 0
        positive = distinct(wanted.indices)
        hard = 0 if self.parents is None else round(settings.negatives * settings.hard_negatives)
        more = max(0, settings.negatives - len(positive) - hard)
        parts = [positive, draw.integers(0, count, more)]
        if hard:
            parts.append(workers.gathered(self._children_of(beam, hard // workers.count)))
        return distinct(np.concatenate(parts)).astype(np.int64), more

    def _children_of(self, beam: Beam, count: int) -> np.ndarray:
        """Random children of clusters that the level above finds likely for random rows."""
        parent = beam.draw.choice(beam.labels, count)
        within = (beam.draw.random(count) * self._sizes[parent]).astype(np.int64)
        return self._children[self._starts[parent] + within]

    def logits(self, features: Tensor, labels: np.ndarray, scale: float) -> Tensor:
        """float32 (rows, labels): scaled cosines and biases."""
        vectors = functional.normalize(self.vectors.take(labels), dim=1)
        return scale * features @ vectors.T + self.bias.take(labels)[:, 0]


@dataclass(frozen=True)
class Beam:
    """Labels of the level above that some row finds likely, int64, and this worker's own draw."""

    labels: np.ndarray
    draw: np.random.Generator = field(repr=False)

    def after(self, logits: Tensor, labels: np.ndarray) -> Beam:
        """What the rows of ``logits`` (rows, labels) find likely; of no rows, all labels are."""
        if not len(logits):
            return Beam(labels, self.draw)
        best = logits.detach().topk(min(BEAM, logits.shape[1]), dim=1).indices.numpy()
        return Beam(labels[best].ravel(), self.draw)


def loss_of(
    logits: Tensor, wanted: sparse.coo_matrix, correction: Tensor | None, settings: FeatureSettings
) -> Tensor:
    """Sum over rows. ``wanted``: counts (rows, labels). ``correction``: log of how often a label is
    among those that compete, (labels,): what `FeatureSettings.log_q` takes off a logit."""
    at = (
        torch.from_numpy(wanted.row.astype(np.int64)),
        torch.from_numpy(wanted.col.astype(np.int64)),
    )
    if settings.loss == "squared-hinge":
        negative = functional.relu(1 + logits).square()
        count = torch.from_numpy(wanted.data)
        positive = count * functional.relu(1 - logits[at]).square()
        return (negative.sum() - negative[at].sum() + positive.sum()) / logits.shape[1]
    if correction is not None:
        logits = logits - correction
    each = wanted.data / np.bincount(wanted.row, wanted.data)[wanted.row]
    found = (logits[at] * torch.from_numpy(each.astype(np.float32))).sum()
    return logits.logsumexp(1).sum() - found


def log_frequency(head: Head, labels: np.ndarray, batch: int, drawn: int) -> Tensor:
    """float32 (labels,): log of the chance that a label competes in a step, as one of a ``batch``
    of rows or of those ``drawn`` at random (Yi et al., RecSys 2019). A hard one competes whatever
    its chance: no chance is less than that of one draw."""
    count = len(head.share)
    if len(labels) == count:
        return torch.zeros(count)
    chance = batch * head.share[labels] + drawn / count
    return torch.from_numpy(np.log(np.clip(chance, 1 / count, 1)).astype(np.float32))
