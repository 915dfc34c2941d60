"""A label as a training objective: classes, or a number, of the nodes of one entity.

Classes are learned by cross entropy, numbers by squared distance once they are standardised. Two
more losses ask for no label: several answers about a node that were given under different dropout
must *agree* (with the sharpened mean of them: GRAND, Feng et al., NeurIPS 2020), and where labels
are scarce the student's answers must be like the teacher's, about nodes whose label the teacher was
not told (Hinton et al., 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from isohop.graph import Graph
from isohop.graph.holdout import NEW, Holdout
from isohop.graph.label import CHOOSING, TESTED, TOLD, read_label

CLASSES = "classes.parquet"
"""File beside a model: the names of classes, in their order."""
FARTHEST = 1e6
"""Deviations that a number is from the mean, at most: one that was mistyped is to spoil no sum."""
SHARPEN = 2.0
"""Power to which the mean answer is taken: the inverse of GRAND's temperature."""


@dataclass(frozen=True)
class Labels:
    """``values``: int64 (nodes,), the class of each node, -1 where there is none; or float64
    (nodes,), its number, NaN where there is none. ``classes``: how many there are, 0 of a number.
    ``train``, ``validation`` and ``test``: masks (nodes,) of nodes that have a label."""

    entity: str
    values: Tensor
    classes: int
    train: Tensor
    validation: Tensor
    test: Tensor
    names: tuple[str, ...] = ()
    """Of the classes, in their order."""

    @property
    def parts(self) -> np.ndarray:
        """int8 (nodes,): the part that a node is of, in the order of the masks; NEW: of none."""
        found = np.full(len(self.values), NEW, np.int8)
        for part, mask in enumerate((self.train, self.validation, self.test)):
            found[mask.numpy()] = part
        return found

    @property
    def of_one_node(self) -> float:
        """The share of nodes whose class is no other's, of those that have one; 0 of a number."""
        if not self.classes:
            return 0.0
        known = self.values[self.values >= 0]
        alone = torch.bincount(known, minlength=self.classes) == 1
        return float(alone.sum()) / max(1, len(known))

    @property
    def outputs(self) -> int:
        """Of the layer that answers."""
        return self.classes or 1

    @property
    def metric(self) -> str:
        return "accuracy" if self.classes else "r2"

    def right(self, answers: Tensor, mask: Tensor) -> float:
        """`score` of the nodes in ``mask``, of ``answers`` about all nodes."""
        rows = torch.nonzero(mask)[:, 0]
        return self.score(rows, answers[rows])

    def score(self, rows: Tensor, answers: Tensor) -> float:
        """Of some nodes, for ``answers`` (rows, outputs): accuracy; of a number R² out of sample
        (Campbell and Thompson, 2008): how much less is missed, in squares, than by the mean of what
        training knows, 0 where that misses nothing. Of few nodes that are alike, as those of one
        degree may be, their own mean would be hard to beat, and nobody knows it."""
        if self.classes:
            return float((answers.argmax(1) == self.values[rows]).float().mean())
        true = self.standard(rows)
        spread = true.square().sum()
        missed = (answers[:, 0] - true).square().sum()
        return float(1 - missed / spread) if spread > 0 else 0.0

    def losses(self, rows: Tensor, answers: Tensor) -> Tensor:
        """Of each of some nodes, (rows,), for ``answers`` (rows, outputs)."""
        if self.classes:
            return functional.cross_entropy(answers, self.values[rows], reduction="none")
        return (answers[:, 0] - self.standard(rows)).square()

    def hits(self, rows: Tensor, answers: Tensor) -> Tensor:
        """Boolean (rows,): the class is right; a number within half a standard deviation."""
        if self.classes:
            return answers.argmax(1) == self.values[rows]
        return (answers[:, 0] - self.standard(rows)).abs() <= 0.5

    def standard(self, rows: Tensor) -> Tensor:
        """float32 (rows,); of numbers that are far from 0 only once they are centred. In whatever
        unit they are, and however far one is from those that training knows."""
        known, own = self.values[self.train], self.values[rows]
        # Squares of large numbers are infinite, and of small ones 0.
        largest = known.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        known, own = known / largest, own / largest
        spread = known.std(correction=0).clamp(min=1e-12)
        return ((own - known.mean()) / spread).clamp(-FARTHEST, FARTHEST).float()

    def agree(self, answers: Sequence[Tensor]) -> Tensor:
        """How far several answers about the same nodes, each (nodes, outputs), are from one; of
        classes a single one from being sure."""
        if not self.classes:
            mean = torch.stack([*answers]).mean(0).detach()
            return torch.stack([(one - mean).square().mean() for one in answers]).mean()
        chances = [torch.softmax(one, 1) for one in answers]
        mean = torch.stack(chances).mean(0).detach() ** SHARPEN
        mean = mean / mean.sum(1, keepdim=True)
        return torch.stack([(one - mean).square().sum(1).mean() for one in chances]).mean()

    def scarcity(self, unknown: Tensor) -> float:
        """From 1, where training knows the label of hardly any node, to 0, where it knows as many
        as there are ``unknown`` ones (mask). What a teacher says of these stands in for labels that
        are missing, and where they are not it is worth less than they: it is of other nodes, and
        partly wrong."""
        return max(0.0, 1.0 - float(self.train.sum()) / max(1.0, float(unknown.sum())))

    def like(self, answers: Tensor, taught: Tensor) -> Tensor:
        """How far ``answers`` are from the teacher's, both (nodes, outputs)."""
        if self.classes:
            return functional.cross_entropy(answers, torch.softmax(taught, 1))
        return (answers - taught).square().mean()


def read_labels(
    graph: Graph, label: str, held: Holdout, parts: np.ndarray | None = None
) -> Labels | None:
    """As `read_label` has it."""
    found = read_label(graph, label, held, parts)
    if found is None:
        return None
    told, choosing, tested = (
        torch.from_numpy(found.parts == part) for part in (TOLD, CHOOSING, TESTED)
    )
    values = torch.from_numpy(found.values)
    return Labels(found.entity, values, len(found.names), told, choosing, tested, found.names)


def parts_with(labels: Labels | None, before: np.ndarray | None) -> np.ndarray | None:
    """`Labels.parts`, and those of ``before`` where a label is not known today: it was learned, and
    may be known again."""
    if labels is None or before is None:
        return before if labels is None else labels.parts
    return np.where(labels.parts == NEW, before, labels.parts)
