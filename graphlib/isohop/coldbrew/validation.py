"""How well a model does on validation: by that its best weights are kept, and decided what training
decides. No test edge and no test node is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import proxy

from torch import Tensor

from isohop.coldbrew.evaluation import FEWEST, shrunk
from isohop.coldbrew.labels import Labels
from isohop.coldbrew.learners import Told

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller

BY_FEATURES = ("mlp", "student", "graph-mlp")
"""Models that hear of no edges."""


class Validation:
    """Of what a distiller's models say: about a label where there is one, else of links."""

    def __init__(self, distiller: Distiller):
        # Who holds each other is not freed when nobody holds them any more.
        self.distiller: Distiller = proxy(distiller)

    def of_weights(self, model: str, told: Told) -> float:
        """Which weights are best: of those that hear of no edges by nodes without any, and where
        these are few by the others as well."""
        own = self.score(model, told, model in BY_FEATURES)
        if model not in BY_FEATURES:
            return own
        return shrunk(own, self._alone(), self.score(model, told, False))

    def score(self, model: str, told: Told, alone: bool, entity: str | None = None) -> float:
        """Of all that is told, or of one entity. ``alone``: about nodes that have no edges, where
        these are not too few. The same for all workers."""
        return self.distiller.workers.agreed(self._own_score(model, told, alone, entity))

    def nodes(self, labels: Labels, alone: bool) -> Tensor:
        """Mask of those that have edges, or of those ``alone``; of all, where these are too few."""
        mask = labels.validation & (self.distiller.connected[labels.entity] != alone)
        return mask if mask.sum() >= FEWEST else labels.validation

    def _own_score(self, model: str, told: Told, alone: bool, entity: str | None) -> float:
        labels = self.distiller.labels
        answers = told.answers if labels and entity in (None, labels.entity) else None
        if labels is not None and answers is not None and labels.validation.any():
            return labels.right(answers, self.nodes(labels, alone))
        if not told.vectors:
            return 0.0
        asked = self.distiller.model_of(model, told)
        return self.distiller.evaluation.validation(asked, alone, entity)

    def _alone(self) -> int:
        """How many questions there are about nodes without edges."""
        labels = self.distiller.labels
        if labels is not None and labels.validation.any():
            apart = labels.validation & ~self.distiller.connected[labels.entity]
            return int(apart.sum())
        asked = self.distiller.evaluation.on_validation(alone=True)
        return sum(len(one.source) for one in asked)
