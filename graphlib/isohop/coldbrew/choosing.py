"""Choosing: whether an entity is served its teacher's vector, its student's, or a blend of both.

The teacher knows a node by its edges, the student by its features. Which to believe depends on the
evidence: how many credible edges there are, whether both say the same, and how near the student's
latent neighbours are. How much each of these counts is learned on validation edges (or nodes, where
there is a label), of nodes as they are and after some, or all, of their other edges were taken
away, so that there is an answer for every degree. Without edges the teacher has features alone to
go by, as the student has, and may still say what that missed: how much of it counts there is one
number, which nodes decide that were set aside, and a row that no graph has seen is served likewise.
Beside both stands the content: what features say alone (`content.py`).

``confidence`` is the chance that such evidence leads to a right answer: the true end of a
validation edge among the first ten of those asked, or the label. A logistic regression on the same
trials, of vectors as they are served; for nodes without edges on those set aside, if there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from isohop.coldbrew.choice import TO_BEGIN_WITH, Choice
from isohop.coldbrew.evaluation import FEWEST
from isohop.coldbrew.tables import joined

KEPT = (0.0, 0.25, 0.5)
"""Shares of the asking nodes' edges that are left, one in each round of trials; in one round more
they keep all."""
TEACHER, STUDENT, BLEND = "teacher", "student", "blend"
ALMOST = 0.95
"""Share of the teacher from which on its vector is served alone; of the student likewise."""
WITHOUT_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the teacher that a node without edges may be served."""
CAUTION = 1e-3
"""Weight of keeping to what is chosen where nothing is learned: the teacher."""


@dataclass(frozen=True)
class Evidence:
    """All float32 (nodes,): ``degree``, edges by how credible they are; ``agreement``, cosine of
    the teacher's and the student's vector; ``nearness``, inner product of what MLP₁ guesses with
    the nearest latent neighbour."""

    degree: Tensor
    agreement: Tensor
    nearness: Tensor

    @classmethod
    def of(cls, degree: Tensor, taught: Tensor, guessed: Tensor, nearness: Tensor) -> Evidence:
        return cls(degree, (taught * guessed).sum(1), nearness)

    def __getitem__(self, rows: Tensor) -> Evidence:
        return Evidence(self.degree[rows], self.agreement[rows], self.nearness[rows])

    @property
    def columns(self) -> Tensor:
        """float32 (nodes, 4): what is weighed, and 1."""
        one = torch.ones_like(self.degree)
        return torch.stack([self.degree.log1p(), self.agreement, self.nearness, one], 1)


def share_of(choice: Choice, evidence: Evidence) -> Tensor:
    """float32 (nodes,): how much of the teacher is served; 0 and 1 are all or nothing."""
    share = torch.sigmoid(evidence.columns @ torch.tensor(choice.blend))
    share = torch.where(share >= ALMOST, 1.0, torch.where(share <= 1 - ALMOST, 0.0, share))
    if choice.teacher_from is not None:
        share = torch.where(evidence.degree >= choice.teacher_from, 1.0, share)
    return torch.where(evidence.degree > 0, share, choice.without_edges)


def confidence_of(choice: Choice, evidence: Evidence) -> Tensor:
    """float32 (nodes,) from 0 to 1; NaN where it is not known."""
    alone = torch.full_like(evidence.nearness, torch.nan)
    if choice.alone is not None:
        alone = torch.sigmoid(choice.alone[0] * evidence.nearness + choice.alone[1])
    connected = torch.full_like(alone, torch.nan)
    if choice.connected is not None:
        connected = torch.sigmoid(evidence.columns @ torch.tensor(choice.connected))
    return torch.where(evidence.degree > 0, connected, alone)


def blended(taught: Tensor, guessed: Tensor, share: Tensor, unit: bool = True) -> Tensor:
    """``share`` (nodes,) of one and the rest of the other, (nodes, d); vectors at length 1, where
    they are not ``unit`` vectors as they come."""
    mixed = share[:, None] * taught + (1 - share[:, None]) * guessed
    if not unit:
        return mixed
    mixed = functional.normalize(mixed, dim=1)
    mixed = torch.where(share[:, None] >= 1, taught, mixed)
    return torch.where(share[:, None] <= 0, guessed, mixed)


def embedded(
    content: Tensor, weight: float, taught: Tensor, guessed: Tensor, share: Tensor
) -> Tensor:
    """A blend of teacher and student, `joined` with what features say alone: vectors (nodes, 2d)
    at length 1, of vectors (nodes, d)."""
    return joined(blended(taught, guessed, share), content, weight)


def answered(
    content: Tensor, weight: Tensor, taught: Tensor, guessed: Tensor, share: Tensor
) -> Tensor:
    """Likewise of answers about a label, (nodes, outputs) all; ``weight``: (nodes,)."""
    return blended(content, blended(taught, guessed, share, unit=False), weight, unit=False)


def sources(share: Tensor, degree: Tensor) -> np.ndarray:
    """Of each node TEACHER, STUDENT or BLEND, (nodes,): without edges STUDENT, since nothing but
    features was heard, whoever read them."""
    held = torch.where(degree > 0, share, 0.0).numpy()
    return np.where(held >= 1, TEACHER, np.where(held <= 0, STUDENT, BLEND)).astype(object)


@dataclass(frozen=True)
class Served:
    """What becomes of nodes or rows of one entity: ``vectors``, float32 (nodes, 2d) at length 1;
    ``source`` of each, (nodes,); ``confidence``, float32 (nodes,), NaN where it is not known."""

    vectors: Tensor
    source: np.ndarray
    confidence: Tensor

    @classmethod
    def of(
        cls,
        choice: Choice,
        taught: Tensor | None,
        guessed: Tensor,
        content: Tensor,
        believed: Tensor,
        nearness: Tensor,
    ) -> Served:
        """``taught``: the teacher's vectors (nodes, d), where any node is served of them;
        ``guessed``: the student's; ``content``: what features say alone; ``believed`` and
        ``nearness``: (nodes,), as in `Evidence`."""
        own = guessed if taught is None else taught
        evidence = Evidence.of(believed, own, guessed, nearness)
        share = share_of(choice, evidence)
        vectors = embedded(content, choice.content, own, guessed, share)
        return cls(vectors, sources(share, believed), confidence_of(choice, evidence))

    def columns(self, degree: np.ndarray) -> dict[str, pa.Array]:
        """As an embedding dataset has them. ``degree``: int64 (nodes,)."""
        flat = pa.array(self.vectors.numpy().astype(np.float32).ravel())
        certain = self.confidence.numpy().astype(np.float32)
        return {
            "embedding": pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1]),
            "source": pa.array(self.source, pa.string()),
            "confidence": pa.array(certain, from_pandas=True),
            "degree": pa.array(degree, pa.int64()),
        }


Edges = Literal["some", "all", "none"]


@dataclass(frozen=True)
class Trial:
    """Questions put to nodes some of whose edges were taken away for the occasion, to nodes that
    keep ``all`` of their ``edges``, or to nodes of which ``none`` was ever seen. ``taught`` and
    ``guessed``: float32 (questions, d), vectors or answers about a label; ``serve`` makes what is
    served of both and the share (questions,) of the first. Of what is served, (questions,):
    ``loss``, and ``worth``, float32 from 0 to 1; an answer is right that is worth ``enough``."""

    taught: Tensor
    guessed: Tensor
    evidence: Evidence
    serve: Callable[[Tensor, Tensor, Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    worth: Callable[[Tensor], Tensor]
    enough: float = 1.0
    edges: Edges = "some"

    def served(self, share: Tensor) -> Tensor:
        return self.serve(self.taught, self.guessed, share)

    def right(self, vectors: Tensor) -> Tensor:
        """Boolean (questions,)."""
        return self.worth(vectors) >= self.enough

    def right_by(self, choice: Choice) -> Tensor:
        """Likewise, of what is served by a choice."""
        return self.right(self.served(share_of(choice, self.evidence)))


def learn_choice(trials: Sequence[Trial]) -> Choice:
    """Of one entity's trials; without confidence."""
    if sum(len(trial.taught) for trial in trials) < FEWEST:
        return Choice()
    choice = Choice(blend=_learn_blend(trials))
    with torch.no_grad():
        learned = {
            "teacher_from": _teacher_from(choice, trials),
            "without_edges": _without_edges(trials),
        }
    return choice.model_copy(update=learned)


def with_confidence(choice: Choice, trials: Sequence[Trial]) -> Choice:
    """How sure one may be of what is chosen so, learned from the same trials."""
    if sum(len(trial.taught) for trial in trials) < FEWEST:
        return choice
    aside = [trial for trial in trials if trial.edges == "none"]
    if sum(len(trial.taught) for trial in aside) < FEWEST:
        aside = list(trials)
    with torch.no_grad():
        connected = _believed(choice, trials, lambda one: one.columns[:, :3], linked=True)
        alone = _believed(choice, aside, lambda one: one.nearness[:, None], linked=False)
    return choice.model_copy(update={"connected": connected, "alone": alone})


def confidence_in(choice: Choice, trials: Sequence[Trial]) -> tuple[Tensor, Tensor]:
    """float32 (questions,), of each trial's questions one after another: how sure one is of what is
    served; and boolean (questions,): whether that is right."""
    sure, right = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    for trial in trials:
        sure.append(confidence_of(choice, trial.evidence))
        right.append(trial.right_by(choice))
    return torch.cat(sure), torch.cat(right)


def _teacher_from(choice: Choice, trials: Sequence[Trial]) -> float | None:
    """The power of two from which on nodes that keep their edges are worth most as the teacher has
    them: a blend with less loss may rank worse, and what nodes are that lost edges for the occasion
    says little of those that have many."""
    lost, degree = [torch.zeros(0)], [torch.zeros(0)]
    for trial in trials:
        if trial.edges == "all":
            share = share_of(choice, trial.evidence)
            whole = trial.served(torch.ones_like(share))
            lost.append(trial.worth(whole) - trial.worth(trial.served(share)))
            degree.append(trial.evidence.degree)
    all_lost, degrees = torch.cat(lost), torch.cat(degree)
    best, found = 0.0, None
    for number in reversed(degrees[degrees >= 1].log2().floor().unique().tolist()):
        rows = degrees >= 2.0**number
        total = float(all_lost[rows].double().sum())
        if rows.sum() >= FEWEST and total > best:
            best, found = total, 2.0**number
    return found


def _without_edges(trials: Sequence[Trial]) -> float:
    """The teacher's share with which what nodes without edges are served is worth most, where that
    is more than the student's alone is worth by its standard error at least: to read features twice
    takes time of every new row."""
    aside = [trial for trial in trials if trial.edges == "none"]
    if sum(len(trial.taught) for trial in aside) < FEWEST:
        return 0.0
    worth = {
        share: torch.cat([t.worth(t.served(torch.full((len(t.taught),), share))) for t in aside])
        for share in WITHOUT_EDGES
    }
    best = max(WITHOUT_EDGES, key=lambda share: (float(worth[share].double().sum()), -share))
    more = (worth[best] - worth[0.0]).double()
    return best if more.mean() > more.std() / len(more) ** 0.5 else 0.0


def _believed(
    choice: Choice,
    trials: Sequence[Trial],
    columns: Callable[[Evidence], Tensor],
    linked: bool,
) -> tuple[float, ...] | None:
    """How far to believe what is served, by some columns of the evidence, of nodes that are
    ``linked`` or of those that are not."""
    told: list[Tensor] = []
    right: list[Tensor] = []
    for trial in trials:
        rows = (trial.evidence.degree > 0) == linked
        told.append(columns(trial.evidence)[rows])
        right.append(trial.right_by(choice)[rows])
    return _logistic(torch.cat(told).numpy(), torch.cat(right).numpy())


def _learn_blend(trials: Sequence[Trial]) -> tuple[float, ...]:
    start = torch.tensor(TO_BEGIN_WITH)
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")
    asked = [trial for trial in trials if bool((trial.evidence.degree > 0).any())]
    count = sum(int((trial.evidence.degree > 0).sum()) for trial in asked)
    if count < FEWEST:
        return TO_BEGIN_WITH

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = CAUTION * (weights - start).square().sum()
        for trial in asked:
            served = trial.served(torch.sigmoid(trial.evidence.columns @ weights))
            lost = trial.loss(served) * (trial.evidence.degree > 0)
            total = total + lost.sum() / count
        (weights.grad,) = torch.autograd.grad(total, [weights])
        return total.detach()

    optimiser.step(closure)
    found = weights.detach()
    return tuple(found.tolist()) if torch.isfinite(found).all() else TO_BEGIN_WITH


def _logistic(columns: np.ndarray, right: np.ndarray) -> tuple[float, ...] | None:
    """Weights of the columns, then of 1, by logistic regression; half of the squares of the former
    is its penalty. Where all answers are alike no column tells them apart, and the next answer may
    be another (Laplace's rule of succession)."""
    # To load it takes half a second, and learning alone needs it.
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    if len(right) < FEWEST:
        return None
    if right.all() or not right.any():
        odds = (right.sum() + 1) / ((~right).sum() + 1)
        return (*[0.0] * columns.shape[1], float(np.log(odds)))
    told = np.column_stack([columns, np.ones(len(columns))]).astype(np.float64)
    sign = np.where(right, 1.0, -1.0)

    def lost(weights: np.ndarray) -> tuple[float, np.ndarray]:
        certain = sign * (told @ weights)
        shrinks = np.append(weights[:-1], 0.0)
        slope = shrinks - told.T @ (sign * expit(-certain))
        return float(shrinks @ shrinks / 2 - log_expit(certain).sum()), slope

    found = minimize(lost, np.zeros(told.shape[1]), jac=True, method="L-BFGS-B")
    return tuple(found.x.tolist())
