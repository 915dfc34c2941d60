"""Content: how much what features say alone counts for, beside what teacher and student say.

In an embedding it is one number for a run, since vectors are compared with each other. In answers
about a label it is one for nodes that have edges and another for nodes that have none: answers are
compared with nothing but the truth. Validation chooses both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from isohop.coldbrew.choice import EVEN
from isohop.coldbrew.choosing import blended
from isohop.coldbrew.learners import Told

if TYPE_CHECKING:
    from isohop.coldbrew.serving import Serving

IN_VECTORS = (0.0, 0.1, 0.25, EVEN)
"""Shares that it may have in an embedding."""
ALMOST = 0.99
"""Of what tells links best, how much is as good: by less it is chance which of them is best."""
IN_ANSWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares that it may have in an answer."""


def content_in_vectors(serving: Serving) -> float:
    """The greatest share that tells links about as well on validation as the best, of nodes that
    have edges and of nodes that have none alike: what is learned of features alone holds for more
    than links, and half of a vector is not to be given away for nothing. Where links are not
    learned, both halves count alike."""
    distiller = serving.distiller
    if distiller.labels is not None and not distiller.settings.link_weight:
        return EVEN
    taught, guessed = (distiller.told[model].vectors for model in ("teacher", "student"))
    vectors = dict(taught)
    for name, own in guessed.items():
        vectors[name] = torch.where(distiller.connected[name][:, None], taught[name], own)
    found = {}
    for share in IN_VECTORS:
        serving.content = share
        model = distiller.model_of("served", Told(serving.with_content(vectors), None))
        found[share] = sum(distiller.evaluation.validation(model, of) for of in (False, True))
    best = max(found.values())
    return max(share for share, told in found.items() if told >= ALMOST * best)


def content_in_answers(serving: Serving) -> tuple[float, float]:
    """The shares with which most answers about validation nodes are right (of a number, with which
    R² is greatest), beside what is served of teacher and student: of nodes that have edges, and of
    those that have none; of equals the least. Where there are too few of one kind, all of
    both decide for it. Not by what is lost: who is too sure of all it says loses by that,
    however often it is right, and to mix it with anything that is not seems to mend it.

    The choice between teacher and student is made, without content so far.
    """
    distiller = serving.distiller
    labels = distiller.labels
    if labels is None:
        return 0.0, 0.0
    served = serving.answers()
    content = distiller.told["mlp"].answers
    if served is None or content is None:
        return 0.0, 0.0
    best = []
    for alone in (False, True):
        nodes = torch.nonzero(distiller.validation.nodes(labels, alone))[:, 0]
        right = dict.fromkeys(IN_ANSWERS, 0.0)
        for share in IN_ANSWERS if len(nodes) else ():
            weight = torch.full((len(nodes),), share)
            answers = blended(content[nodes], served[nodes], weight, unit=False)
            right[share] = labels.score(nodes, answers)
        best.append(max(IN_ANSWERS, key=lambda share: (right[share], -share)))
    return best[0], best[1]
