"""Training: an encoder learns to predict neighbourhoods.

The nodes of a type have a head with one vector a node, and a node's text must find its neighbours
there. Of a type with too many nodes for that, and with ``multi_scale`` of every type, each level of
the label tree has a head with one vector a cluster; all levels learn at once. The encoder begins
with the directions along which neighbours' texts agree, a head at the mean feature of the nodes
that have each label. The loss is a softmax cross entropy over cosines, weighted by how many
neighbours lie in a cluster (targets as counts, Chien et al., ICLR 2022, section 3); where a level
has more labels than ``negatives``, those of the batch compete with a random sample of the rest
(Jean et al., ACL 2015). Where the pipeline names a label, n-grams learn it at last, in rounds
(`cross_fitting.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from isohop.engines.checkpoints import (
    load_checkpoint,
    load_optimiser,
    optimiser_tensors,
    save_checkpoint,
)
from isohop.engines.determinism import compute_deterministically, draw_by
from isohop.engines.workers import ALONE, Workers
from isohop.errors import IsohopError
from isohop.giant.cross_fitting import CrossFitting
from isohop.giant.diagnostics import TreeLevel
from isohop.giant.directions import agreement_directions
from isohop.giant.documents import document_fields, render_documents
from isohop.giant.encoder import ENCODED_AT_ONCE, Encoder, encode_all
from isohop.giant.heads import Beam, Head, log_frequency, loss_of
from isohop.giant.label_tree import label_features, label_tree
from isohop.giant.row_table import gradient_of
from isohop.giant.settings import FeatureSettings
from isohop.giant.targets import (
    LABEL,
    NodeIndex,
    classes_told,
    clustered,
    neighbourhoods,
    rows_to_learn,
)
from isohop.giant.text_matrix import Vocabulary
from isohop.giant.text_model import TextModel
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.label import Label

TREE_DIMENSIONS = 64
"""Directions by which labels are clustered: the strongest, which come first."""
WARM_UP = 0.1
LAYERS, LAYERS_OF_TEXT_MODEL = 1 / 25, 1 / 2
"""Learning rate of the encoder's layers, as a share of that of vectors of n-grams and labels. Over
n-grams fast layers learn by heart; over a text model's vectors they learn what holds for others."""
LARGEST_GRADIENT = 1.0
"""Of the text model, as a whole: longer ones are cut, as the paper's are."""


@dataclass(frozen=True)
class Step:
    """What one step of training tells: its loss, by level of the label tree (from 1) the part of
    it, and the length of the gradient of the encoder's layers."""

    loss: float
    levels: Mapping[int, float]
    gradient_norm: float


def documents_of(graph: Graph, settings: FeatureSettings, label: str | None) -> list[pa.Array]:
    """The documents of every node type, in their order."""
    documents: list[pa.Array] = []
    for node in graph.node_types:
        fields = document_fields(graph, node.name, label)
        table = graph.nodes(node.name, [field.name for field in fields])
        documents.append(render_documents(table, fields, settings.characters))
    return documents


class Trainer:
    """Everything that training holds; advanced a block of steps at a time.

    The same graph, settings and seed give the same encoder, bit for bit on one machine and for one
    number of workers, also where training was interrupted and went on from what `save` wrote.
    """

    def __init__(
        self,
        graph: Graph,
        settings: FeatureSettings,
        seed: int,
        label: str | None,
        threads: int,
        holdout: Holdout | None = None,
        workers: Workers = ALONE,
        told: Label | None = None,
    ):
        """``label``: ``entity.attribute`` that is in no document and no neighbourhood; ``told``:
        what it is, where it is learned."""
        compute_deterministically(threads)
        self.settings = settings
        self.seed = seed
        self.label = label
        self.workers = workers
        self.draw = np.random.default_rng(seed)
        self.holdout = hold_out(graph, seed, label) if holdout is None else holdout
        self.index = NodeIndex.of(graph)
        documents = documents_of(graph, settings, label)
        self.node_type = np.repeat(np.arange(len(documents)), list(map(len, documents)))
        self.vocabulary = Vocabulary.learn(documents, settings.vocabulary, settings.characters)
        self.encoder = self._new_encoder()
        self.prepared = self.encoder.read(self.encoder.prepare(pa.chunked_array(documents)))
        del documents
        self.targets = neighbourhoods(graph, self.holdout, label)
        self.rows = rows_to_learn(self.targets, settings.hub_degree)
        self.cross_fitting: CrossFitting | None = None
        if told is not None and settings.label_share:
            classes = classes_told(told, self.index)
            everybody = {**self.targets, LABEL: classes}
            self._rows_of_rounds = rows_to_learn(everybody, settings.hub_degree)
            if len(self._rows_of_rounds):
                self.cross_fitting = CrossFitting(classes, settings.dimensions, seed)
        if len(self.vocabulary) or self.encoder.text_model is not None:
            self.encoder.begin(
                *agreement_directions(
                    self.prepared.ngrams,
                    self.targets,
                    self.index,
                    settings.dimensions,
                    seed,
                    self.prepared.vectors,
                )
            )
        self._first, self.tuning = self._plan()
        """Steps before any label is learned; of these the first in which a text model learns."""
        self._each = self._steps_of_a_round()
        rounds = 0 if self.cross_fitting is None else self.cross_fitting.rounds
        self.steps = self._first + rounds * self._each
        self.done = 0
        self._order = np.empty(0, np.int64)
        self._heads = self._grow_heads() if self.steps else {}
        self._optimiser = torch.optim.AdamW(
            self._parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )

    def _plan(self) -> tuple[int, int]:
        """(steps in all, 0 where there is nothing to learn; the first in which a text model
        learns)."""
        if not len(self.rows):
            return 0, 0
        steps = self._steps_of(self.rows)
        tuning = 0 if self.encoder.text_model is None else self.settings.tuning_steps
        return steps + tuning, steps

    def _steps_of(self, rows: np.ndarray) -> int:
        each = len(rows) / self.settings.batch
        return max(1, self.settings.steps, round(self.settings.epochs * each))

    def _steps_of_a_round(self) -> int:
        """In which the label is learned."""
        if self.cross_fitting is None:
            return 0
        return max(1, round(self.settings.label_share * self._steps_of(self._rows_of_rounds)))

    def _new_encoder(self) -> Encoder:
        draw_by(self.seed)
        folder = self.settings.text_model
        model = None if folder is None else TextModel(folder, self.settings.tokens)
        return Encoder(self.vocabulary, tuple(self.index.counts), self.settings.dimensions, model)

    def _grow_heads(self) -> dict[str, list[Head]]:
        """By destination type, coarse to fine."""
        text = self.encode(TREE_DIMENSIONS)
        heads: dict[str, list[Head]] = {}
        for name, targets in self.targets.items():
            count = targets.shape[1]
            few = count <= self.settings.labels
            sizes: tuple[int, ...] = ()
            if self.settings.multi_scale or not few:
                sizes = tuple(size for size in self.settings.levels if size < count)
            if not few and not sizes:
                sizes = (min(self.settings.levels[0], self.settings.labels),)
            tree: list[np.ndarray] = []
            if sizes:
                described = label_features(targets, text, text[self.index.rows(name)])
                tree = label_tree(described, sizes, self.seed)
            scales = [clustered(targets, clusters) for clusters in tree]
            if few:
                tree.append(np.arange(count))
                scales.append(targets)
            heads[name] = []
            above: np.ndarray | None = None
            # The nodes are the same level for all types, however few levels come before.
            numbers = (*range(1, len(sizes) + 1), len(self.settings.levels) + 1)
            for level, clusters, scale in zip(numbers, tree, scales, strict=False):
                parents = None if above is None else _parents(clusters, above)
                about = (name, level, clusters, scale, parents)
                heads[name].append(Head(*about, self.settings.dimensions, self.rows))
                above = clusters
        del text
        for start in range(0, len(self.prepared), ENCODED_AT_ONCE):
            block = slice(start, start + ENCODED_AT_ONCE)
            features = encode_all(self.encoder, self.prepared[block], self.node_type[block])
            for head in _flat(heads):
                head.add(head.targets[block], features)
        for head in _flat(heads):
            head.begin()
        if self.cross_fitting is not None:
            classes = self.cross_fitting.classes
            every = np.arange(classes.shape[1])
            about = (LABEL, len(self.settings.levels) + 2, every, classes, None)
            heads[LABEL] = [Head(*about, self.settings.dimensions, self._rows_of_rounds)]
        return heads

    def _parameters(self) -> list[dict[str, object]]:
        """The encoder's layers; and the text model's, which learn at a rate of their own."""
        named = list(self.encoder.named_parameters())
        model = [p for name, p in named if name.startswith("text_model.")]
        layers = [p for name, p in named if not name.startswith("text_model.")]
        return [{"params": layers}, {"params": model}] if model else [{"params": layers}]

    @property
    def levels(self) -> list[TreeLevel]:
        """The label tree of each destination type, coarse to fine, as it is now."""
        return [head.as_trained() for head in _flat(self._heads) if head.target != LABEL]

    def train(self, steps: int) -> list[Step]:
        """Take some steps; what each tells. Raises `IsohopError` on a loss or gradient that is no
        number, before anything is learned from it."""
        self.encoder.train()
        taken = []
        for _ in range(min(steps, self.steps - self.done)):
            self._tune_where_due()
            self._turn_where_due()
            taken.append(self._step())
            self.done += 1
        return taken

    @property
    def _tunes(self) -> bool:
        return self.tuning <= self.done < self._first

    @property
    def _cross_fits(self) -> bool:
        """Whether the label is learned by now."""
        return bool(self._each) and self.done >= self._first

    def _turn_where_due(self) -> None:
        """To the next round of those in which the label is learned."""
        fitting = self.cross_fitting
        if fitting is None or not self._cross_fits or (self.done - self._first) % self._each:
            return
        number = (self.done - self._first) // self._each
        vectors, (head,) = self.encoder.bag, self._heads[LABEL]
        if number == 0:
            self._read_again()
            fitting.before = vectors.values.clone()
        else:
            fitting.keep(number - 1, self._encoded(fitting.of(number - 1)))
        vectors.values[:] = fitting.before
        vectors.squares.zero_()
        head.ask(fitting.targets(number))
        head.vectors.values.zero_()
        head.add(head.targets[fitting.told], self._encoded(fitting.told))
        head.begin()
        self._order = np.empty(0, np.int64)
        self.encoder.train()

    def _encoded(self, rows: np.ndarray) -> np.ndarray:
        return encode_all(self.encoder, self.prepared[rows], self.node_type[rows])

    def _read_again(self) -> None:
        """What a text model says once it has learned: it learns no label."""
        if self.encoder.text_model is not None and self.tuning < self._first:
            self.encoder.text_model.tune(False)
            self.prepared = self.encoder.read(self.prepared, anew=False)

    def _tune_where_due(self) -> None:
        """From its first step on, and until the label is learned, a text model that learns reads
        tokens itself."""
        learned = self.tuning < self._first and self.tuning <= self.done <= self._first
        if learned and self.prepared.vectors is not None:
            self.prepared = replace(self.prepared, vectors=None)
            self.encoder.tune()

    def _step(self) -> Step:
        # Of its own for each step and worker, so that a checkpoint need not hold it.
        mixed = np.random.SeedSequence([self.seed, self.done, self.workers.rank])
        draw_by(int(mixed.generate_state(1)[0]))
        rows = self._next_rows()
        loss, parts = self._loss(rows)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        tables = [self.encoder.bag]
        for head in _flat(self._heads):
            tables += [head.vectors, head.bias]
        learning = [p for p in self.encoder.parameters() if p.requires_grad]
        gradients = [gradient_of(parameter) for parameter in learning]
        for table in tables:
            gradients += table.gradients
        self.workers.add([parts, *gradients])
        norm = float(nn.utils.get_total_norm([gradient_of(p) for p in learning]))
        levels = dict(zip(self._level_numbers, parts.tolist(), strict=True))
        step = Step(float(parts.sum()), levels, norm)
        self._check("loss", step.loss, rows)
        self._check("gradient", norm, rows)
        rate = self.settings.learning_rate * self._pace
        layers, *model = self._optimiser.param_groups
        layers["lr"] = rate * (LAYERS_OF_TEXT_MODEL if model else LAYERS)
        if self._cross_fits:
            layers["lr"] = 0.0
        for group in model:
            tuned = self.done - self.tuning, self._first - self.tuning
            group["lr"] = self.settings.tuning_rate * _schedule(*tuned) if self._tunes else 0.0
        if self.encoder.text_model is not None:
            nn.utils.clip_grad_norm_(self.encoder.text_model.parameters(), LARGEST_GRADIENT)
        self._optimiser.step()
        for table in tables:
            if self._cross_fits and table is not self.encoder.bag:
                table.forget()
            else:
                table.step(rate)
        return step

    @property
    def _pace(self) -> float:
        """The share of a learning rate: each round warms up and falls anew."""
        if self._cross_fits:
            return _schedule((self.done - self._first) % self._each, self._each)
        return _schedule(self.done, self._first)

    def _check(self, what: str, value: float, rows: np.ndarray) -> None:
        if not np.isfinite(value):
            raise IsohopError(
                f"Training of node features: the {what} of step {self.done + 1} is {value}, on "
                f"the batch of nodes {self._named(rows)}. Lower "
                f"'features.{'tuning_rate' if self._tunes else 'learning_rate'}'."
            )

    @property
    def _learning(self) -> dict[str, list[Head]]:
        """The heads that have a part in a step."""
        return {n: heads for n, heads in self._heads.items() if n != LABEL or self._cross_fits}

    @property
    def _level_numbers(self) -> list[int]:
        return sorted({head.level for head in _flat(self._learning)})

    def _named(self, rows: np.ndarray) -> str:
        """A batch's first nodes, as a reader of the graph would name them."""
        names = list(self.index.counts)
        told = []
        for row in rows[:5]:
            name = names[self.node_type[row]]
            told.append(f"{name} {row - self.index.offset[name]}")
        return ", ".join(told) + (", …" if len(rows) > len(told) else "")

    def _next_rows(self) -> np.ndarray:
        batch = self.settings.tuning_batch if self._tunes else self.settings.batch
        every = self._rows_of_rounds if self._cross_fits else self.rows
        while len(self._order) < batch:
            self._order = np.concatenate([self._order, self.draw.permutation(every)])
        rows, self._order = self._order[:batch], self._order[batch:]
        return rows

    def _loss(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Of this worker's share of ``rows``, over how many they all are; and the part of it from
        each level, in the order of `_level_numbers`, without gradients."""
        settings, share = self.settings, self.workers.share
        batch = self.prepared[rows].without(settings.dropout, self.draw)
        touched = batch.touched
        features = self.encoder.encode(batch[share], self.node_type[rows][share], touched)
        total = features.sum() * 0.0  # a worker without rows of a level still takes part
        parts = dict.fromkeys(self._level_numbers, torch.zeros(()))
        for heads in self._learning.values():
            own = np.random.default_rng([self.seed, self.done, self.workers.rank])
            beam = Beam(np.empty(0, np.int64), own)
            for head in heads:
                wanted = head.targets[rows]
                if not wanted.nnz:
                    continue
                labels, drawn = head.competing(wanted, settings, self.draw, beam, self.workers)
                wanted = wanted[share]
                have = np.flatnonzero(np.diff(wanted.indptr))
                asked = features[torch.from_numpy(have)]
                logits = head.logits(asked, labels, settings.scale)
                correction = None
                if settings.log_q:
                    correction = log_frequency(head, labels, len(rows), drawn)
                found = loss_of(logits, wanted[have][:, labels].tocoo(), correction, settings)
                total = total + found / len(rows)
                parts[head.level] = parts[head.level] + found.detach() / len(rows)
                if settings.hard_negatives:
                    beam = beam.after(logits, labels)
        return total, torch.stack(list(parts.values()))

    def save(self, file: Path) -> None:
        """All that changes in training, as safetensors; whole or not at all."""
        encoder = {
            name: tensor
            for name, tensor in self.encoder.state_dict().items()
            if self.done > self.tuning or not name.startswith("text_model.")
        }
        parts = {
            "heads": self._head_modules().state_dict(),
            "encoder": encoder,
            "optimiser": optimiser_tensors(self._optimiser),
            "order": {"rows": torch.from_numpy(self._order)},
        }
        if self.cross_fitting is not None and self._cross_fits:
            parts["rounds"] = self.cross_fitting.checkpoint()
        about = {"done": str(self.done), "draw": json.dumps(self.draw.bit_generator.state)}
        save_checkpoint(file, parts, about)

    def resume(self, file: Path) -> None:
        """Go on from what `save` wrote, for the same graph, settings and seed."""
        parts, about = load_checkpoint(file)
        self.encoder.load_state_dict(self.encoder.state_dict() | parts["encoder"])
        self._head_modules().load_state_dict(parts["heads"])
        load_optimiser(self._optimiser, parts["optimiser"])
        self._order = parts["order"]["rows"].numpy()
        self.draw.bit_generator.state = json.loads(about["draw"])
        self.done = int(about["done"])
        self._tune_where_due()
        if self.cross_fitting is not None and "rounds" in parts:
            self.cross_fitting.resume(parts["rounds"])
            self._read_again()
            number = (self.done - self._first) // self._each
            self._heads[LABEL][0].ask(self.cross_fitting.targets(number))

    def _head_modules(self) -> nn.ModuleList:
        return nn.ModuleList(_flat(self._heads))

    def encode(self, dimensions: int | None = None) -> np.ndarray:
        """Features of all nodes, float32 (nodes, d), in the numbering of `NodeIndex`; the first
        ``dimensions`` of them."""
        features = encode_all(self.encoder, self.prepared, self.node_type, dimensions)
        if self._each and self.done == self.steps and self.cross_fitting is not None:
            features[self.cross_fitting.told] = self.cross_fitting.features[:, : features.shape[1]]
        return features

    def untrained(self) -> np.ndarray:
        """As `encode`, of an encoder that begins at random and learns nothing."""
        with torch.random.fork_rng(devices=[]):
            encoder = self._new_encoder()
        learned = self.prepared.vectors is None or self.tuning < self._first
        prepared = encoder.read(self.prepared) if learned else self.prepared
        return encode_all(encoder, prepared, self.node_type)


def _schedule(done: int, steps: int) -> float:
    """The share of a learning rate after some of all steps: it warms up, then falls."""
    return min(1.0, (done + 1) / (WARM_UP * steps)) * max(0.02, 1 - done / steps)


def _flat(heads: dict[str, list[Head]]) -> list[Head]:
    return [head for level in heads.values() for head in level]


def _parents(clusters: np.ndarray, above: np.ndarray) -> np.ndarray:
    """int64 (clusters,): the cluster of the level above in which each lies."""
    parents = np.zeros(int(clusters.max(initial=-1)) + 1, np.int64)
    parents[clusters] = above
    return parents
