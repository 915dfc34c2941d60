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
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn import functional

from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.holdout import ASIDE, ISOLATION, NEW, label_edge

CLASSES = "classes.parquet"
"""File beside a model: the names of classes, in their order."""
_SEVERAL = (
    "label '{}' has several values a node, so it cannot be learned. Choose an attribute with one."
)
MOST_ANSWERS = 1 << 31
"""Nodes times classes, at most: each model's answers are float32 and held as a whole."""
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
        """Of some nodes, for ``answers`` (rows, outputs): accuracy; of a number R², the share of
        its variance that is told, 0 where it has none."""
        if self.classes:
            return float((answers.argmax(1) == self.values[rows]).float().mean())
        true = self._standard(rows)
        spread = (true - true.mean()).square().sum()
        missed = (answers[:, 0] - true).square().sum()
        return float(1 - missed / spread) if spread > 0 else 0.0

    def losses(self, rows: Tensor, answers: Tensor) -> Tensor:
        """Of each of some nodes, (rows,), for ``answers`` (rows, outputs)."""
        if self.classes:
            return functional.cross_entropy(answers, self.values[rows], reduction="none")
        return (answers[:, 0] - self._standard(rows)).square()

    def hits(self, rows: Tensor, answers: Tensor) -> Tensor:
        """Boolean (rows,): the class is right; a number within half a standard deviation."""
        if self.classes:
            return answers.argmax(1) == self.values[rows]
        return (answers[:, 0] - self._standard(rows)).abs() <= 0.5

    def _standard(self, rows: Tensor) -> Tensor:
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
    graph: Graph, label: str, groups: np.ndarray, seed: int, parts: np.ndarray | None = None
) -> Labels | None:
    """The label ``entity.attribute``: 60 % train, 20 % validation, 20 % test; of ``groups``, as
    `Holdout` has them, isolated nodes are test nodes, and those set aside validation nodes. An
    attribute of kind number is a number to tell; all else are classes. ``parts``: those that nodes
    were of before, as `Labels.parts`, and are again. None where training would see fewer than two
    values. Raises `IsohopError` for what cannot be a label."""
    entity, _, attribute = label.rpartition(".")
    values, names = _values(graph, label, entity, attribute)
    classes = len(names)
    if classes * len(values) > MOST_ANSWERS:
        raise IsohopError(
            f"label '{label}' has {classes:,} values, and answers about {len(values):,} nodes take "
            f"{classes * len(values) * 4 / 2**30:.0f} GiB a model. Choose an attribute of fewer "
            "values, or a coarser one of the same."
        )
    draw = np.random.default_rng([seed, 20]).random(len(values))
    known = values >= 0 if classes else np.isfinite(values)
    aside = groups == ASIDE
    part = np.searchsorted((0.6, 0.8), draw, "right")
    part[groups == ISOLATION] = 2
    part[aside] = 1
    if parts is not None:
        part = np.where(parts == NEW, part, parts)
    train, validation, test = (known & (part == one) for one in range(3))
    if len(np.unique(values[train])) < 2:
        return None
    return Labels(
        entity,
        torch.from_numpy(values),
        classes,
        torch.from_numpy(train),
        torch.from_numpy(validation),
        torch.from_numpy(test),
        names,
    )


def parts_with(labels: Labels | None, before: np.ndarray | None) -> np.ndarray | None:
    """`Labels.parts`, and those of ``before`` where a label is not known today: it was learned, and
    may be known again."""
    if labels is None or before is None:
        return before if labels is None else labels.parts
    return np.where(labels.parts == NEW, before, labels.parts)


def _values(
    graph: Graph, label: str, entity: str, attribute: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `Labels` has ``values`` and ``names``."""
    hidden = label_edge(graph, label)
    if hidden is not None:
        values = np.full(graph.node_type(entity).count, -1, np.int64)
        source, target = graph.edge_index(hidden)
        if len(np.unique(source)) < len(source):
            raise IsohopError(_SEVERAL.format(label))
        values[source] = target
        held = graph.node_type(graph.edge_type(hidden).target)
        rows = graph.nodes(held.name, held.key).slice(0, int(values.max(initial=-1)) + 1)
        return values, tuple(str(tuple(row.values())) for row in rows.select(held.key).to_pylist())
    column = graph.nodes(entity, [attribute])[attribute]
    if pa.types.is_list(column.type):
        raise IsohopError(_SEVERAL.format(label))
    if pa.types.is_binary(column.type):
        raise IsohopError(f"'{label}' is bytes, which is no label. Choose another attribute.")
    kinds = {one.name: one.kind for one in graph.node_type(entity).attributes}
    if kinds[attribute] == "number":
        try:  # of integers beyond 2^53 the last digits go
            numbers = column.cast(pa.float64(), safe=False).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise IsohopError(
                f"'{label}' is {column.type}, which is no number: {error}. Leave its kind out of "
                "the schema file, and its values are classes."
            ) from error
        return np.where(np.isfinite(numbers), numbers, np.nan), ()
    encoded = pc.dictionary_encode(column.combine_chunks().cast(pa.string()))
    words = encoded.dictionary.to_pylist()
    order = np.argsort(np.array(words, object)) if words else np.zeros(0, np.int64)
    # One more than there are words: what a null, -1, leads to.
    rank = np.full(len(words) + 1, -1, np.int64)
    rank[order] = np.arange(len(words))
    return rank[pc.fill_null(encoded.indices, -1).to_numpy()], tuple(words[at] for at in order)
