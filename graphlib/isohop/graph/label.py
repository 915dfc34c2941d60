"""A label, as a pipeline names it: what it is of each node, and who is told.

``entity.attribute``, of one value a node: an attribute of kind number is a number to tell, unless
it is shared; all else are classes. Nothing that learns sees it but as the label; who learns it,
GIANT or Cold Brew, is told that of the same nodes, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isohop.errors import IsohopError
from isohop.graph.dataset import Graph
from isohop.graph.holdout import ASIDE, ISOLATION, NEW, Holdout, label_edge

TOLD, CHOOSING, TESTED = 0, 1, 2
"""Parts of a label's nodes: training is told theirs, validation chooses by theirs, and theirs are
the test."""
MOST_ANSWERS = 1 << 31
"""Nodes times classes, at most: each model's answers are float32 and held as a whole."""
_SEVERAL = (
    "label '{}' has several values a node, so it cannot be learned. Choose an attribute with one."
)


@dataclass(frozen=True)
class Label:
    """``values``: int64 (nodes,), the class of each node of ``entity``, -1 where there is none; or
    float64 (nodes,), its number, NaN where there is none. ``names``: of the classes, in their
    order, none of a number. ``parts``: int8 (nodes,), the part that a node is of, NEW where its
    label is not known."""

    entity: str
    values: np.ndarray
    names: tuple[str, ...]
    parts: np.ndarray

    def told_as_classes(self, ranges: int) -> np.ndarray:
        """int64 (nodes,): the class of each node that training is told of, -1 of all others. Of a
        number which of so many ``ranges`` it is in, each of about as many nodes."""
        told = self.parts == TOLD
        if self.names:
            return np.where(told, self.values, -1)
        ends = np.unique(np.quantile(self.values[told], np.linspace(0, 1, ranges + 1)[1:-1]))
        return np.where(told, np.searchsorted(ends, self.values, "right"), -1)


def read_label(
    graph: Graph, label: str, held: Holdout, parts: np.ndarray | None = None
) -> Label | None:
    """60 % of the nodes are told, 20 % choose, 20 % are tested; of what is ``held`` out isolated
    nodes are tested, those set aside choose, and of those that came later the label is not known.
    ``parts``: those that nodes were of before, as `Label.parts`, and are again. None where training
    would see fewer than two values. Raises `IsohopError` for what cannot be a label."""
    entity, _, attribute = label.rpartition(".")
    values, names = _values(graph, label, entity, attribute)
    if len(names) * len(values) > MOST_ANSWERS:
        raise IsohopError(
            f"label '{label}' has {len(names):,} values, and answers about {len(values):,} nodes "
            f"take {len(names) * len(values) * 4 / 2**30:.0f} GiB a model. Choose an attribute of "
            "fewer values, or a coarser one of the same."
        )
    draw = np.random.default_rng([held.seed, 20]).random(len(values))
    part = np.searchsorted((0.6, 0.8), draw, "right").astype(np.int8)
    part[held.groups[entity] == ISOLATION] = TESTED
    part[held.groups[entity] == ASIDE] = CHOOSING
    if parts is not None:
        part = np.where(parts == NEW, part, parts)
    known = values >= 0 if names else np.isfinite(values)
    if entity in held.later:
        known &= ~held.later[entity]
    part = np.where(known, part, NEW).astype(np.int8)
    if len(np.unique(values[part == TOLD])) < 2:
        return None
    return Label(entity, values, names, part)


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
