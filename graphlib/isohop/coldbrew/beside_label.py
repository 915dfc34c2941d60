"""Whether links are learned beside a label.

Mostly they help, or do no harm. But where neighbours are of other classes links put together what
the label keeps apart; and of a small graph both are soon known by heart, and what moves weights
from then on is links alone. An MLP tells, which is soon trained: it learns a third as long as
models do, once with links and once without.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isohop.coldbrew.labels import Labels
from isohop.coldbrew.learners import Baseline, ByFeatures, Told
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.training import mixed
from isohop.engines.determinism import draw_by

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller

PART = 3
"""Of the steps of a model, one in so many is taken to find out."""
NUMBER = 2
"""Of this training, among those that are numbered as the first model's: its own and MLP₁'s."""
RELEVANT = 0.1
"""Of what is wrong with links, how much must be right without them at least."""


def links_are_in_the_way(distiller: Distiller, labels: Labels) -> bool:
    """Whether validation nodes are told better without links: by a tenth of what is wrong with
    them, and by more than the standard error. The same for all workers."""
    rows = torch.nonzero(labels.validation)[:, 0]
    alone = distiller.settings.model_copy(update={"link_weight": 0.0})
    links, none = (_right(distiller, labels, rows, s) for s in (distiller.settings, alone))
    mended, spoilt = float((none & ~links).sum()), float((links & ~none).sum())
    wrong = float((~links).sum())
    better = mended - spoilt > max(RELEVANT * wrong, (mended + spoilt) ** 0.5)
    return bool(distiller.workers.agreed(float(better)))


def _right(distiller: Distiller, labels: Labels, rows: Tensor, settings: DistillSettings) -> Tensor:
    """Which of the nodes ``rows`` an MLP tells that was trained by such ``settings``: boolean
    (rows,)."""
    draw_by(mixed(distiller.seed, 0, 0, NUMBER))
    learner = ByFeatures(distiller, Baseline(distiller), settings)
    score = partial(_score, distiller, labels)
    steps = max(1, distiller.steps // PART)
    training = distiller.training_of("mlp", learner, steps, NUMBER, score)
    training.train(steps)
    training.keep_best()
    learner.module.eval()
    with torch.no_grad():
        return labels.hits(rows, _answers(learner.tell())[rows])


def _score(distiller: Distiller, labels: Labels, told: Told) -> float:
    return distiller.workers.agreed(labels.right(_answers(told), labels.validation))


def _answers(told: Told) -> Tensor:
    if told.answers is None:
        raise TypeError("there are no answers about a label")
    return told.answers
