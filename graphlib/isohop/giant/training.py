"""Training: an encoder learns to predict neighbourhoods, coarse to fine.

Level by level of the label tree, and last for the nodes themselves, a head has one vector a
cluster; a node's text must find the clusters of its neighbours. The encoder is carried from level
to level; a new head begins at the mean feature of its clusters' members' neighbours. The loss is a
softmax cross entropy over cosines, weighted by how many neighbours lie in a cluster (targets as
counts, Chien et al., ICLR 2022, section 3); where a level has more labels than ``negatives``, those
of the batch compete with a random sample of the rest (Jean et al., ACL 2015). Measured against the
weighted squared hinge of the paper on validation edges of Gutenberg, it finds more of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional

from isohop.errors import IsohopError
from isohop.giant.documents import document_fields, render_documents
from isohop.giant.encoder import HashingEncoder
from isohop.giant.label_tree import label_features, label_tree
from isohop.giant.settings import FeatureSettings
from isohop.giant.targets import NodeIndex, neighbourhoods, rows_to_learn
from isohop.giant.text_matrix import Vocabulary
from isohop.graph import Graph, Holdout, hold_out

ENCODED_AT_ONCE = 4096
WARM_UP = 0.1


@dataclass(frozen=True)
class Corpus:
    """The documents of all nodes, prepared, in one numbering, with the types' indices."""

    text: sparse.csr_matrix
    node_type: np.ndarray
    vocabulary: Vocabulary


def read_corpus(graph: Graph, settings: FeatureSettings, label: str | None) -> Corpus:
    """Render and prepare the documents of every node type."""
    documents: list[pa.Array] = []
    for node in graph.node_types:
        fields = document_fields(graph, node.name, label)
        table = graph.nodes(node.name, [field.name for field in fields])
        documents.append(render_documents(table, fields, settings.characters))
    vocabulary = Vocabulary.learn(documents, settings.vocabulary, settings.characters)
    text = sparse.vstack([vocabulary.matrix(array) for array in documents], format="csr")
    types = np.repeat(np.arange(len(documents)), [len(array) for array in documents])
    return Corpus(text.astype(np.float32), types, vocabulary)


class _Head(nn.Module):
    """One vector a cluster of one destination type, at one level."""

    def __init__(self, targets: sparse.csr_matrix, features: np.ndarray):
        super().__init__()
        self.targets = targets
        mean = torch.from_numpy(np.asarray(targets.T.tocsr() @ features))
        self.vectors = nn.Parameter(functional.normalize(mean, dim=1))
        self.bias = nn.Parameter(torch.zeros(targets.shape[1]))


class Trainer:
    """Everything that training holds; advanced a block of steps at a time.

    The same graph, settings and seed give the same encoder, bit for bit on one machine.
    """

    def __init__(
        self,
        graph: Graph,
        settings: FeatureSettings,
        seed: int,
        label: str | None,
        threads: int,
        holdout: Holdout | None = None,
    ):
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.settings = settings
        self.seed = seed
        self.draw = np.random.default_rng(seed)
        self.holdout = hold_out(graph, seed) if holdout is None else holdout
        self.index = NodeIndex.of(graph)
        self.corpus = read_corpus(graph, settings, label)
        names = tuple(node.name for node in graph.node_types)
        self.encoder = HashingEncoder(self.corpus.vocabulary, names, settings.dimensions)
        self.targets = neighbourhoods(graph, self.holdout, label)
        self.rows = rows_to_learn(self.targets, settings.hub_degree)
        self.untrained = self.encode()
        self.sizes: list[dict[str, int]] = []
        self._heads: Mapping[str, _Head] = {}
        self._tree = self._grow_tree()

    def _grow_tree(self) -> dict[str, list[np.ndarray]]:
        trees = {}
        for name, targets in self.targets.items():
            features = label_features(targets, self.corpus.text, self.seed)
            levels = label_tree(features, self.settings.levels, self.seed)
            trees[name] = [*levels, np.arange(targets.shape[1])]
        return trees

    @property
    def plan(self) -> list[int]:
        """Steps of each level; empty where there is nothing to learn."""
        if not len(self.rows):
            return []
        each = len(self.rows) / self.settings.batch
        return [max(self.settings.steps, round(e * each)) for e in self.settings.epochs]

    def start_level(self, level: int) -> None:
        """New heads and a new optimiser; the encoder goes on as it is."""
        features = self.encode()
        heads = {}
        for name, targets in self.targets.items():
            clusters = self._tree[name][min(level, len(self._tree[name]) - 1)]
            member = sparse.csr_matrix(
                (np.ones(len(clusters), np.float32), (np.arange(len(clusters)), clusters)),
                shape=(len(clusters), int(clusters.max()) + 1),
            )
            heads[name] = _Head((targets @ member).tocsr(), features)
        self._heads = heads
        self.sizes.append({name: head.targets.shape[1] for name, head in heads.items()})
        parameters = [*self.encoder.parameters()]
        parameters += [p for head in heads.values() for p in head.parameters()]
        self._optimiser = torch.optim.AdamW(
            parameters,
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._parameters = parameters
        self._steps, self._done = self.plan[level], 0
        self._order = np.empty(0, np.int64)

    def train(self, steps: int) -> list[float]:
        """Take some steps of the level; their losses. Raises `IsohopError` on a loss that is no
        number."""
        self.encoder.train()
        losses = []
        for _ in range(min(steps, self._steps - self._done)):
            part = self._done / self._steps
            rate = min(1.0, (self._done + 1) / (WARM_UP * self._steps)) * max(0.05, 1 - part)
            for group in self._optimiser.param_groups:
                group["lr"] = self.settings.learning_rate * rate
            loss = self._loss(self._next_rows())
            value = float(loss.detach())
            if not np.isfinite(value):
                raise IsohopError(
                    f"Training of node features: the loss of step {self._done + 1} of level "
                    f"{len(self.sizes)} is {value}. Lower 'features.learning_rate'."
                )
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimiser.step()
            losses.append(value)
            self._done += 1
        return losses

    def _next_rows(self) -> np.ndarray:
        if len(self._order) < self.settings.batch:
            self._order = np.concatenate([self._order, self.draw.permutation(self.rows)])
        rows, self._order = (
            self._order[: self.settings.batch],
            self._order[self.settings.batch :],
        )
        return rows

    def _loss(self, rows: np.ndarray) -> torch.Tensor:
        text = self.corpus.text[rows]
        keep = self.draw.random(text.nnz) >= self.settings.dropout
        text.data *= keep
        features = self.encoder.encode(text, self.corpus.node_type[rows])
        total = torch.zeros(())
        for head in self._heads.values():
            wanted = head.targets[rows]
            have = np.flatnonzero(np.diff(wanted.indptr))
            if not len(have):
                continue
            wanted = wanted[have]
            chosen = self._labels(wanted)
            vectors: torch.Tensor = head.vectors
            bias: torch.Tensor = head.bias
            if chosen is not None:
                wanted = wanted[:, chosen]
                at = torch.from_numpy(chosen)
                vectors, bias = vectors[at], bias[at]
            asked = features[torch.from_numpy(have)]
            logits = self.settings.scale * asked @ functional.normalize(vectors, dim=1).T + bias
            entries = wanted.tocoo()
            weight = entries.data / np.bincount(entries.row, entries.data)[entries.row]
            hits = logits[
                torch.from_numpy(entries.row.astype(np.int64)),
                torch.from_numpy(entries.col.astype(np.int64)),
            ]
            found = (hits * torch.from_numpy(weight.astype(np.float32))).sum()
            total = total + (logits.logsumexp(1).sum() - found) / len(rows)
        return total

    def _labels(self, wanted: sparse.csr_matrix) -> np.ndarray | None:
        """The labels that compete: all, or those of the batch and a random sample of the rest."""
        count = wanted.shape[1]
        if count <= self.settings.negatives:
            return None
        positive = np.unique(wanted.indices)
        more = max(0, self.settings.negatives - len(positive))
        return np.union1d(positive, self.draw.integers(0, count, more)).astype(np.int64)

    def encode(self) -> np.ndarray:
        """Features of all nodes, float32 (nodes, d), in the numbering of `NodeIndex`."""
        return encode_all(self.encoder, self.corpus.text, self.corpus.node_type)


def encode_all(
    encoder: HashingEncoder, text: sparse.csr_matrix, node_type: np.ndarray
) -> np.ndarray:
    """float32 (documents, d), a block at a time, without gradients and dropout."""
    encoder.eval()
    blocks = []
    with torch.no_grad():
        for start in range(0, text.shape[0], ENCODED_AT_ONCE):
            stop = start + ENCODED_AT_ONCE
            blocks.append(encoder.encode(text[start:stop], node_type[start:stop]).numpy())
    if not blocks:
        return np.zeros((0, encoder.dimensions), np.float32)
    return np.concatenate(blocks)
