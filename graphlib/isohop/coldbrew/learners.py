"""What each model of a distillation learns from a step, and what it says of all nodes.

- *teacher*, and a plain *gcn* beside it: from messages, of the whole graph, of a sample around
  what the step asks (`sampling.py`), or of a walk that was made before (`walks.py`). The edges that
  are asked about pass none, nor do those that lead back.
- *mlp*: the same task from features alone.
- *student*: the same task, the teacher's vectors and, of a label that is scarce, its answers.
- *graph-mlp*: the label alone, with a loss that knows the graph (`graph_mlp.py`).

Several workers have the same batch; each takes its share of it, and their losses add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.labels import Labels
from isohop.coldbrew.links import Links, LinkScore, Vectors
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.sampling import Sampler
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import FeatureMLP
from isohop.coldbrew.tables import Table, unit
from isohop.coldbrew.teacher import Teacher
from isohop.coldbrew.walks import Walks
from isohop.engines.workers import Workers

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller

MATCH_WEIGHT = 0.2
"""Weight of being like the teacher, beside the teacher's own task, in the student's loss."""
BESIDE_LABEL = 0.2
"""Part of `structural_penalty` that counts where a label is learned too."""
PLAIN = {"layers": 2, "initial_residual": 0.0, "answers": 1, "teacher": "convolution"}
"""A graph convolutional network as others have it: settings in place of the teacher's. It has no
structural embeddings either. Its one answer is held to its own sharpened self: without that it has
79.3 ± 1.2 on Cora in place of 81.4, which is what others report."""


@dataclass(frozen=True)
class Told:
    """What a model says. ``vectors``: at length 1, by type; ``answers``: float32 (nodes, outputs),
    about the label, where there is one."""

    vectors: Table
    answers: Tensor | None


@dataclass(frozen=True)
class Batch:
    """What the ``step`` of that number learns from. ``some``: by entity, ids of nodes of which it
    learns whatever their edges. ``labelled``: ids of nodes whose label it learns. Of a small graph
    all of them. ``hidden``: those among them whose label nobody hears of in this step, where the
    teacher hears labels; it learns from these alone. ``draw``: for what workers draw for
    themselves."""

    step: int
    links: Links
    some: Mapping[str, Tensor]
    labelled: Tensor
    hidden: Tensor
    draw: np.random.Generator


class Learner(Protocol):
    """One model."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def loss(self, batch: Batch) -> Tensor:
        """Of this worker's share."""

    def tell(self) -> Told:
        """Of all nodes; without gradients."""


@dataclass(frozen=True)
class Seen:
    """What a model holds of some nodes, ids ascending by type; None: of all."""

    nodes: Mapping[str, Tensor] | None
    held: Table

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Raises `KeyError` for a node of which nothing is held."""
        at = ids
        if self.nodes is not None:
            nodes = self.nodes[name]
            at = torch.searchsorted(nodes, ids.contiguous()).clamp(max=len(nodes) - 1)
            if not torch.equal(nodes[at], ids):
                raise KeyError(f"nothing is held of some node of '{name}'")
        return self.held[name].index_select(0, at)

    def vectors(self, name: str, ids: Tensor) -> Tensor:
        """At length 1."""
        return functional.normalize(self.rows(name, ids), dim=1)


def asked_of(
    distiller: Distiller,
    batch: Batch,
    labelled: Tensor,
    *,
    targets: bool,
    some: Iterable[str] = (),
) -> dict[str, Tensor]:
    """The nodes of which this worker's loss needs vectors, ids ascending by type. ``labelled``: ids
    of those that all workers ask about their label. ``targets``: those too that asking nodes are
    told from. ``some``: entities of which those too that the batch has whatever their edges."""
    asking, told = distiller.task.nodes(batch.links)
    found = {name: [ids] for name, ids in asking.items()}
    for name, ids in told.items() if targets else ():
        found.setdefault(name, []).append(ids)
    share = distiller.workers.share
    for name in some:
        found.setdefault(name, []).append(batch.some[name][share])
    if distiller.labels is not None:
        found.setdefault(distiller.labels.entity, []).append(labelled[share])
    return {name: torch.cat(parts).unique() for name, parts in found.items()}


def label_loss(
    labels: Labels, workers: Workers, labelled: Tensor, seen: Seen, classify: nn.Module
) -> Tensor:
    """Mean over the ``labelled``, int64 ids, of this worker's share."""
    own = labelled[workers.share]
    answers = classify(seen.rows(labels.entity, own))
    return labels.losses(own, answers).sum() / len(labelled)


class ByMessages:
    """The teacher, or a GCN, which is ``plain``: messages pass over all of a graph whose edges are
    all believed."""

    def __init__(
        self,
        distiller: Distiller,
        module: Teacher,
        settings: DistillSettings,
        plain: bool = False,
    ):
        self.module = module
        self.settings = settings
        self._of = distiller
        self._plain = plain
        if distiller.begun is None:
            module.begin_to_hear(distiller.inputs.features)

    def loss(self, batch: Batch) -> Tensor:
        of, settings, module = self._of, self.settings, self.module
        seen, penalty = self._seen(batch, settings.answers if of.labels is not None else 1)
        loss = of.task.loss(module.score, batch.links, seen[0].vectors, seen[0].vectors)
        penalty = settings.structural_penalty * penalty / of.workers.count
        if of.labels is None or module.classify is None:
            return loss + penalty
        asked = self._asked(batch)
        told = [label_loss(of.labels, of.workers, asked, one, module.classify) for one in seen]
        loss = settings.link_weight * loss + torch.stack(told).mean() + BESIDE_LABEL * penalty
        entity = of.labels.entity
        own = batch.some[entity][of.workers.share]
        if not len(own):
            return loss
        answers = [module.classify(one.rows(entity, own)) for one in seen]
        share = len(own) / len(batch.some[entity])
        return loss + settings.agreement * share * of.labels.agree(answers)

    def _asked(self, batch: Batch) -> Tensor:
        """Ids of those that are asked about their label: of which it is hidden, where others are
        heard."""
        return batch.labelled if self.module.known is None else batch.hidden

    def _seen(self, batch: Batch, times: int) -> tuple[list[Seen], Tensor]:
        """One part of the graph, as often as it is asked for, each time under dropout of its own;
        and the penalty of its structural embeddings."""
        of = self._of
        graph, parts = self._heard
        left_out = graph.both_ways(batch.links.positions)
        features = of.inputs.features
        hidden = None if self.module.known is None else batch.hidden
        if parts is None:
            about = graph, features, graph.weights(left_out), None, hidden
            whole = [self.module(*about) for _ in range(times)]
            return [Seen(None, held) for held in whole], self.module.penalty()
        some = () if of.labels is None else (of.labels.entity,)
        nodes = asked_of(of, batch, self._asked(batch), targets=True, some=some)
        if isinstance(parts, Walks):
            walk = parts.of(batch.step, self.module)
            told, penalty = self.module.of_walk(walk, nodes, features, times)
        else:
            seeds = {name: ids.numpy() for name, ids in nodes.items()}
            gone = {name: at.numpy() for name, at in left_out.items()}
            sample = parts.sample(seeds, gone, batch.draw)
            told, penalty = self.module.of_sample(sample, features, times, hidden)
        return [Seen(nodes, held) for held in told], penalty

    def tell(self) -> Told:
        return self._of.pass_messages(self.module, self._heard[0], {})

    @property
    def _heard(self) -> tuple[MessageGraph, Sampler | Walks | None]:
        """The graph, and what is learned from of a large one."""
        return (self._of.unweighed, None) if self._plain else (self._of.graph, self._of.parts)


class Baseline(nn.Module):
    """An MLP over features, the score of its links and its answers about a label."""

    def __init__(self, distiller: Distiller):
        super().__init__()
        settings = distiller.settings
        widths = {name: x.shape[1] for name, x in distiller.inputs.features.items()}
        self.mlp = FeatureMLP(widths, settings.part, settings.dropout)
        names = tuple(distiller.inputs.edge_types)
        self.score = LinkScore(names, settings.part, "distmult", settings.scale)
        outputs = distiller.outputs
        self.classify = nn.Linear(settings.part, outputs) if outputs else None


class ByFeatures:
    """The MLP on the same features, trained on the teacher's task, without edges."""

    def __init__(self, distiller: Distiller, module: Baseline, settings: DistillSettings):
        self.module = module
        self.settings = settings
        self._of = distiller

    def loss(self, batch: Batch) -> Tensor:
        of, module = self._of, self.module
        nodes = asked_of(of, batch, batch.labelled, targets=True)
        seen = Seen(nodes, module.mlp(rows_of(of.inputs.features, nodes)))
        loss = of.task.loss(module.score, batch.links, seen.vectors, seen.vectors)
        if of.labels is None or module.classify is None:
            return loss
        label = label_loss(of.labels, of.workers, batch.labelled, seen, module.classify)
        return self.settings.link_weight * loss + label

    def tell(self) -> Told:
        held = self.module.mlp(self._of.inputs.features)
        return self._of.told_by(held, self.module.classify)


class ByTeacher:
    """The student; the teacher has told, and latent neighbours are known. Of links and labels it
    answers by the teacher's own weights: what is told of both lives in one space."""

    def __init__(self, distiller: Distiller):
        self.module = distiller.student
        self._of = distiller
        taught = distiller.told["teacher"].vectors
        for name, latent in distiller.latent.items() if distiller.begun is None else ():
            features, connected = distiller.inputs.features[name], distiller.connected[name]
            self.module.begin(name, features, latent, taught[name], connected)

    def loss(self, batch: Batch) -> Tensor:
        of, module = self._of, self.module
        for name in of.latent:
            module.hear(name, True)
        nodes = None
        if of.sampled:
            nodes = asked_of(of, batch, batch.labelled, targets=False, some=batch.some)
        entities = {name: of.inputs.features[name] for name in of.latent}
        seen = Seen(nodes, module(rows_of(entities, nodes), rows_of(of.latent, nodes)))
        taught = of.told["teacher"]
        score = of.teacher.score.requires_grad_(False)
        link = of.task.loss(score, batch.links, seen.vectors, Seen(None, taught.vectors).rows)
        matched = MATCH_WEIGHT * match(of, batch, seen.vectors, taught.vectors)
        classify = of.teacher.classify
        if of.labels is None or classify is None or taught.answers is None:
            return link + matched
        classify.requires_grad_(False)
        entity = of.labels.entity
        share, some = of.workers.share, batch.some[entity]
        label = label_loss(of.labels, of.workers, batch.labelled, seen, classify)
        # What the teacher says of labels that it was told it knows by heart.
        unknown = of.connected[entity] & ~of.labels.train
        told = unknown[some]
        own = some[share][told[share]]
        weight = of.settings.imitation * of.labels.scarcity(unknown)
        if weight and len(own):
            answers = classify(seen.rows(entity, own))
            alike = of.labels.like(answers, taught.answers[own]) * (len(own) / told.sum())
            label = label + weight * alike
        return of.settings.link_weight * link + label + matched

    def tell(self) -> Told:
        """By entity with or without latent neighbours, as validation is better for it."""
        told = {}
        for whether in (False, True):
            for name in self._of.latent:
                self.module.hear(name, whether)
            told[whether] = self._tell()
        return self._of.listen(told)

    def _tell(self) -> Told:
        of = self._of
        return of.told_by(self.module(of.inputs.features, of.latent), of.teacher.classify)


class FirstGuess:
    """The student's MLP₁, which learns the teacher's vectors before there are latent neighbours."""

    def __init__(self, distiller: Distiller, taught: Table):
        self.module = distiller.student.first
        self._of = distiller
        for name in distiller.inputs.entities if distiller.begun is None else ():
            features, connected = distiller.inputs.features[name], distiller.connected[name]
            distiller.student.begin_to_guess(name, features, taught[name], connected)
        self._taught = taught

    def loss(self, batch: Batch) -> Tensor:
        of = self._of
        nodes = None if not of.sampled else {n: ids.unique() for n, ids in batch.some.items()}
        entities = {name: of.inputs.features[name] for name in of.inputs.entities}
        seen = Seen(nodes, self.module(rows_of(entities, nodes)))
        return match(of, batch, seen.vectors, self._taught)

    def tell(self) -> Told:
        inputs = self._of.inputs
        held = self.module({name: inputs.features[name] for name in inputs.entities})
        return Told(unit(held), None)


def match(distiller: Distiller, batch: Batch, vectors: Vectors, taught: Table) -> Tensor:
    """Mean squared distance to the teacher's vectors, over nodes that have edges; of this worker's
    share. 0 where a batch has none of these: a loss all the same, that nothing is learned from."""
    parts, asked = [torch.zeros(())], 0
    for name, ids in batch.some.items():
        connected, share = distiller.connected[name][ids], distiller.workers.share
        own = ids[share][connected[share]]
        apart = vectors(name, own) - taught[name].index_select(0, own)
        parts.append(apart.square().sum() / connected.sum().clamp(min=1))
        asked += bool(connected.any())
    return torch.stack(parts).sum() / max(1, asked)


def rows_of(table: Table, nodes: Mapping[str, Tensor] | None) -> Table:
    if nodes is None:
        return table
    return {name: table[name].index_select(0, ids) for name, ids in nodes.items()}
