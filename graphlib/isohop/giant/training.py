"""Training: an encoder learns to predict neighbourhoods, at every scale at once.

Each level of the label tree has a head with one vector a cluster, the nodes themselves one with a
vector a node; a node's text must find the clusters of its neighbours at every level. The encoder
begins with the directions along which neighbours' texts agree, a head at the mean feature of the
nodes that have each label. The loss is a softmax cross entropy over cosines, weighted by how many
neighbours lie in a cluster (targets as counts, Chien et al., ICLR 2022, section 3); where a level
has more labels than ``negatives``, those of the batch compete with a random sample of the rest
(Jean et al., ACL 2015).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import nn
from torch.nn import functional

from isohop.errors import IsohopError
from isohop.giant.directions import agreement_directions
from isohop.giant.documents import document_fields, render_documents
from isohop.giant.encoder import HashingEncoder
from isohop.giant.label_tree import label_features, label_tree
from isohop.giant.row_table import RowTable
from isohop.giant.settings import FeatureSettings
from isohop.giant.targets import NodeIndex, clustered, neighbourhoods, rows_to_learn
from isohop.giant.text_matrix import Vocabulary
from isohop.graph import Graph, Holdout, hold_out

ENCODED_AT_ONCE = 4096
TREE_DIMENSIONS = 64
"""Directions by which labels are clustered: the strongest, which come first."""
WARM_UP = 0.1
LAYERS = 1 / 25
"""Learning rate of the encoder's layers, as a share of that of vectors of n-grams and labels."""


@dataclass(frozen=True)
class Corpus:
    """The documents of all nodes, prepared, in one numbering, with the types' indices."""

    text: sparse.csr_matrix
    node_type: np.ndarray
    vocabulary: Vocabulary


def documents_of(graph: Graph, settings: FeatureSettings, label: str | None) -> list[pa.Array]:
    """The documents of every node type, in their order."""
    documents: list[pa.Array] = []
    for node in graph.node_types:
        fields = document_fields(graph, node.name, label)
        table = graph.nodes(node.name, [field.name for field in fields])
        documents.append(render_documents(table, fields, settings.characters))
    return documents


def read_corpus(graph: Graph, settings: FeatureSettings, label: str | None) -> Corpus:
    """Render and prepare the documents of every node type."""
    documents = documents_of(graph, settings, label)
    vocabulary = Vocabulary.learn(documents, settings.vocabulary, settings.characters)
    text = sparse.vstack([vocabulary.matrix(array) for array in documents], format="csr")
    types = np.repeat(np.arange(len(documents)), [len(array) for array in documents])
    return Corpus(text.astype(np.float32), types, vocabulary)


class _Head(nn.Module):
    """One vector and one bias a label: the clusters of one level, or the nodes, of one type."""

    vectors: RowTable
    bias: RowTable

    def __init__(self, targets: sparse.csr_matrix, dimensions: int):
        super().__init__()
        self.targets = targets
        self.vectors = RowTable(torch.zeros(targets.shape[1], dimensions))
        self.bias = RowTable(torch.zeros(targets.shape[1], 1))

    def add(self, start: int, features: np.ndarray) -> None:
        """To each label's vector, the features of the nodes from ``start`` on that have it."""
        wanted = self.targets[start : start + len(features)]
        given = np.unique(wanted.indices)
        sums = torch.from_numpy(wanted[:, given].T.tocsr() @ features)
        self.vectors.values[torch.from_numpy(given.astype(np.int64))] += sums

    def begin(self) -> None:
        """Every vector at length 1."""
        self.vectors.values[:] = functional.normalize(self.vectors.values, dim=1)


class Trainer:
    """Everything that training holds; advanced a block of steps at a time.

    The same graph, settings and seed give the same encoder, bit for bit on one machine, also where
    training was interrupted and went on from what `save` wrote.
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
        self.settings = settings
        self.seed = seed
        self.draw = np.random.default_rng(seed)
        self.holdout = hold_out(graph, seed) if holdout is None else holdout
        self.index = NodeIndex.of(graph)
        self.corpus = read_corpus(graph, settings, label)
        self.encoder = self._new_encoder()
        self.targets = neighbourhoods(graph, self.holdout, label)
        self.rows = rows_to_learn(self.targets, settings.hub_degree)
        if len(self.corpus.vocabulary):
            self.encoder.bag.values[:] = torch.from_numpy(
                agreement_directions(
                    self.corpus.text, self.targets, self.index, settings.dimensions, seed
                )
            )
        self.steps = self._plan()
        self.done = 0
        self._order = np.empty(0, np.int64)
        self.levels: list[dict[str, int]] = [{} for _ in (*settings.levels, "nodes")]
        """Labels by destination type, of each level."""
        self._heads = self._grow_heads() if self.steps else []
        self._optimiser = torch.optim.AdamW(
            self.encoder.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )

    def _plan(self) -> int:
        """Steps in all; 0 where there is nothing to learn."""
        if not len(self.rows):
            return 0
        each = len(self.rows) / self.settings.batch
        return max(self.settings.steps, round(self.settings.epochs * each))

    def _new_encoder(self) -> HashingEncoder:
        torch.manual_seed(self.seed)
        names = tuple(self.index.counts)
        return HashingEncoder(self.corpus.vocabulary, names, self.settings.dimensions)

    def _grow_heads(self) -> list[_Head]:
        text = self.encode(TREE_DIMENSIONS)
        heads = []
        for name, targets in self.targets.items():
            count = targets.shape[1]
            described = label_features(targets, text, text[self.index.rows(name)])
            sizes = tuple(size for size in self.settings.levels if size < count)
            scales = [clustered(targets, c) for c in label_tree(described, sizes, self.seed)]
            for level, scale in enumerate(scales):
                self.levels[level][name] = scale.shape[1]
            if count <= self.settings.labels:
                scales.append(targets)
                self.levels[-1][name] = count
            heads += [_Head(scale, self.settings.dimensions) for scale in scales]
        for start, features in encode_blocks(self.encoder, self.corpus.text, self.corpus.node_type):
            for head in heads:
                head.add(start, features)
        for head in heads:
            head.begin()
        return heads

    def train(self, steps: int) -> list[float]:
        """Take some steps; their losses. Raises `IsohopError` on a loss that is no number, before
        anything is learned from it."""
        self.encoder.train()
        losses = []
        for _ in range(min(steps, self.steps - self.done)):
            part = self.done / self.steps
            rate = min(1.0, (self.done + 1) / (WARM_UP * self.steps)) * max(0.02, 1 - part)
            rate *= self.settings.learning_rate
            loss = self._loss(self._next_rows())
            value = float(loss.detach())
            if not np.isfinite(value):
                raise IsohopError(
                    f"Training of node features: the loss of step {self.done + 1} is {value}. "
                    "Lower 'features.learning_rate'."
                )
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            for group in self._optimiser.param_groups:
                group["lr"] = rate * LAYERS
            self._optimiser.step()
            self.encoder.bag.step(rate)
            for head in self._heads:
                head.vectors.step(rate)
                head.bias.step(rate)
            losses.append(value)
            self.done += 1
        return losses

    def _next_rows(self) -> np.ndarray:
        while len(self._order) < self.settings.batch:
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
        for head in self._heads:
            wanted = head.targets[rows]
            have = np.flatnonzero(np.diff(wanted.indptr))
            if not len(have):
                continue
            wanted = wanted[have]
            chosen = self._labels(wanted)
            wanted = wanted[:, chosen].tocoo()
            vectors = functional.normalize(head.vectors.take(chosen), dim=1)
            asked = features[torch.from_numpy(have)]
            logits = self.settings.scale * asked @ vectors.T + head.bias.take(chosen)[:, 0]
            weight = wanted.data / np.bincount(wanted.row, wanted.data)[wanted.row]
            hits = logits[
                torch.from_numpy(wanted.row.astype(np.int64)),
                torch.from_numpy(wanted.col.astype(np.int64)),
            ]
            found = (hits * torch.from_numpy(weight.astype(np.float32))).sum()
            total = total + (logits.logsumexp(1).sum() - found) / len(rows)
        return total

    def _labels(self, wanted: sparse.csr_matrix) -> np.ndarray:
        """The labels that compete: all, or those of the batch and a random sample of the rest."""
        count = wanted.shape[1]
        if count <= self.settings.negatives:
            return np.arange(count)
        positive = np.unique(wanted.indices)
        more = max(0, self.settings.negatives - len(positive))
        return np.union1d(positive, self.draw.integers(0, count, more)).astype(np.int64)

    def save(self, file: Path) -> None:
        """All that changes in training, as safetensors; whole or not at all."""
        tensors = {f"encoder.{n}": t for n, t in self.encoder.state_dict().items()}
        tensors |= {f"heads.{n}": t for n, t in nn.ModuleList(self._heads).state_dict().items()}
        for number, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{n}": t for n, t in state.items()}
        tensors["order"] = torch.from_numpy(self._order)
        tensors["random"] = torch.get_rng_state()
        about = {"done": str(self.done), "draw": json.dumps(self.draw.bit_generator.state)}
        partial = file.with_suffix(".partial")
        save_file({n: t.contiguous() for n, t in tensors.items()}, partial, about)
        partial.replace(file)

    def resume(self, file: Path) -> None:
        """Go on from what `save` wrote, for the same graph, settings and seed."""
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            about = opened.metadata()

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.encoder.load_state_dict(under("encoder."))
        nn.ModuleList(self._heads).load_state_dict(under("heads."))
        state = self._optimiser.state_dict()
        for name, tensor in under("optimiser.").items():
            number, _, field = name.partition(".")
            state["state"].setdefault(int(number), {})[field] = tensor
        self._optimiser.load_state_dict(state)
        self._order = tensors["order"].numpy()
        torch.set_rng_state(tensors["random"])
        self.draw.bit_generator.state = json.loads(about["draw"])
        self.done = int(about["done"])

    def encode(self, dimensions: int | None = None) -> np.ndarray:
        """Features of all nodes, float32 (nodes, d), in the numbering of `NodeIndex`; the first
        ``dimensions`` of them."""
        return encode_all(self.encoder, self.corpus.text, self.corpus.node_type, dimensions)

    def untrained(self) -> np.ndarray:
        """As `encode`, of an encoder that begins at random and learns nothing."""
        with torch.random.fork_rng(devices=[]):
            return encode_all(self._new_encoder(), self.corpus.text, self.corpus.node_type)


def encode_blocks(
    encoder: HashingEncoder, text: sparse.csr_matrix, node_type: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """(first document, float32 (documents, d)) of each block, without gradients and dropout."""
    encoder.eval()
    for start in range(0, text.shape[0], ENCODED_AT_ONCE):
        block = slice(start, start + ENCODED_AT_ONCE)
        with torch.no_grad():  # not while a caller has the block
            features = encoder.encode(text[block], node_type[block]).numpy()
        yield start, features


def encode_all(
    encoder: HashingEncoder,
    text: sparse.csr_matrix,
    node_type: np.ndarray,
    dimensions: int | None = None,
) -> np.ndarray:
    """float32 (documents, d), or the first ``dimensions`` of them; a block at a time."""
    blocks = [block[:, :dimensions] for _, block in encode_blocks(encoder, text, node_type)]
    return np.concatenate(blocks) if blocks else np.zeros((0, encoder.dimensions), np.float32)
