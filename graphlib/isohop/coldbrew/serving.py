"""Serving: what of teacher, student and content becomes an entity's embedding, or an answer about
its label, once all three are trained.

How much of each is learned on validation: in this order the content of vectors (`content.py`), the
choice between teacher and student (`choosing.py`), the content of answers, and how far to trust the
result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import proxy

import torch
from torch import Tensor

from isohop.coldbrew.calibration import ConfidenceBin, reliability
from isohop.coldbrew.choice import EVEN, Choice
from isohop.coldbrew.choosing import (
    Evidence,
    answered,
    blended,
    confidence_in,
    learn_choice,
    share_of,
    with_confidence,
)
from isohop.coldbrew.content import content_in_answers, content_in_vectors
from isohop.coldbrew.learners import Told
from isohop.coldbrew.links import JoinedScore
from isohop.coldbrew.tables import Table, joined
from isohop.coldbrew.trials import tests_of, trials_of

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller


class Serving:
    """``content``: its share in vectors; ``answering``: in answers about the label, of nodes that
    have edges and of those that have none; ``choices``: what to serve, by entity."""

    def __init__(self, distiller: Distiller):
        # Who holds each other is not freed when nobody holds them any more.
        self.distiller: Distiller = proxy(distiller)
        self.content = EVEN
        self.answering = 0.0, 0.0
        self.choices: dict[str, Choice] = {}

    def choose(self, kept: float | None = None) -> None:
        """``kept``: the content that vectors are to have, where that is decided."""
        self.content = content_in_vectors(self) if kept is None else kept
        self.answering = 0.0, 0.0
        trials = trials_of(self)
        chosen = {name: learn_choice(asked) for name, asked in trials.items()}
        of_all = {"content": self.content}
        self.choices = {name: choice.model_copy(update=of_all) for name, choice in chosen.items()}
        self.answering = content_in_answers(self)
        for name, asked in trials.items():
            self.choices[name] = with_confidence(self.choices[name], asked)

    def calibration(self) -> dict[str, tuple[ConfidenceBin, ...]]:
        """By entity, how often what is served is right, by how sure one is of it: of what nothing
        has seen."""
        found = {}
        with torch.no_grad():
            for name, asked in tests_of(self).items():
                sure, right = confidence_in(self.choices[name], asked)
                found[name] = reliability(sure.numpy(), right.numpy())
        return found

    def told(self) -> Told:
        """What every entity is served; the teacher's for what is no entity. Beside it the
        content."""
        told = self.distiller.told
        taught, guessed = told["teacher"].vectors, told["student"].vectors
        vectors = dict(taught)
        for name in self.choices:
            vectors[name] = blended(taught[name], guessed[name], self._share(name)[0])
        return Told(self.with_content(vectors), self.answers())

    def answers(self) -> Tensor | None:
        """Float32 (nodes, outputs), about the label, where there is one."""
        labels = self.distiller.labels
        told = (self.distiller.told[model].answers for model in ("teacher", "student", "mlp"))
        taught, guessed, content = told
        name = "" if labels is None else labels.entity
        if name not in self.choices or taught is None or guessed is None or content is None:
            return taught
        share, evidence = self._share(name)
        return answered(content, self.answering_of(evidence), taught, guessed, share)

    def _share(self, name: str) -> tuple[Tensor, Evidence]:
        """How much of the teacher each node of an entity is served, (nodes,), and what for."""
        graph, told = self.distiller.graph, self.distiller.told
        degree = graph.degrees_in(graph.weights({}))[name]
        evidence = self.evidence(name, told["teacher"].vectors[name], degree)
        return share_of(self.choices[name], evidence), evidence

    def evidence(self, name: str, taught: Tensor, degree: Tensor) -> Evidence:
        """Of the nodes of an entity, by what the teacher says of them and their degree."""
        guessed = self.distiller.told["student"].vectors[name]
        return Evidence.of(degree, taught, guessed, self.distiller.nearness[name])

    def answering_of(self, evidence: Evidence) -> Tensor:
        """float32 (nodes,): how much content counts for in their answers."""
        linked, alone = self.answering
        return torch.where(evidence.degree > 0, linked, alone)

    @property
    def score(self) -> JoinedScore:
        """Of links, by vectors that stand beside their content."""
        return JoinedScore(self.distiller.teacher.score, self.distiller.baseline.score)

    @property
    def candidates(self) -> Table:
        """What is served is told from: the teacher's vectors, each beside its content."""
        return self.with_content(self.distiller.told["teacher"].vectors)

    def with_content(self, vectors: Table) -> Table:
        content = self.distiller.told["mlp"].vectors
        return {name: joined(held, content[name], self.content) for name, held in vectors.items()}
