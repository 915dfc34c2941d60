"""Content: how much what features say alone counts for, beside what teacher and student say.

In an embedding it is one number for a run, since vectors are compared with each other. In answers
about a label it is one for nodes that have edges and another for nodes that have none: answers are
compared with nothing but the truth. Validation chooses both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isohop.coldbrew.choice import EVEN
from isohop.coldbrew.choosing import blended
from isohop.coldbrew.evaluation import FEWEST
from isohop.coldbrew.learners import Told

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller

IN_VECTORS = (0.0, 0.1, 0.25, EVEN)
"""Shares that it may have in an embedding."""
IN_ANSWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares that it may have in an answer."""


def content_in_vectors(distiller: Distiller) -> float:
    """The share that tells links best on validation, of nodes that have edges and of nodes that
    have none alike; where links are not learned, both halves count alike."""
    if distiller.labels is not None and not distiller.settings.link_weight:
        return EVEN
    taught, guessed = (distiller.told[model].vectors for model in ("teacher", "student"))
    vectors = dict(taught)
    for name, own in guessed.items():
        vectors[name] = torch.where(distiller.connected[name][:, None], taught[name], own)
    found = {}
    for share in IN_VECTORS:
        distiller.content = share
        model = distiller.model_of("served", Told(distiller.with_content(vectors), None))
        found[share] = sum(distiller.evaluation.validation(model, of) for of in (False, True))
    return max(IN_VECTORS, key=lambda share: (found[share], share))


def content_in_answers(distiller: Distiller) -> tuple[float, float]:
    """The shares that tell the label best of validation nodes that have edges, beside the teacher,
    and of those that have none, beside the student; of equals the least. None where there are fewer
    than `FEWEST`."""
    taught, guessed, content = (
        distiller.told[model].answers for model in ("teacher", "student", "mlp")
    )
    labels = distiller.labels
    if labels is None or taught is None or guessed is None or content is None:
        return 0.0, 0.0
    best = []
    for alone, context in ((False, taught), (True, guessed)):
        nodes = distiller.validation_nodes(labels, alone)
        share = 0.0
        if nodes.sum() >= FEWEST:
            told = {s: labels.right(_beside(context, content, s), nodes) for s in IN_ANSWERS}
            share = max(IN_ANSWERS, key=lambda one: (told[one], -one))
        best.append(share)
    return best[0], best[1]


def _beside(context: Tensor, content: Tensor, share: float) -> Tensor:
    return blended(content, context, torch.full((len(content),), share), unit=False)
