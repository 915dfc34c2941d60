"""By what a map is coloured: an attribute of the entity, asked for or chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isohop.errors import IsohopError, did_you_mean
from isohop.graph.dataset import Attribute, EdgeType, Graph
from isohop.report.naming import as_text, first_values, shorten
from isohop.report.palette import CATEGORIES, OTHER, QUANTITIES

_FREQUENT = 0.01
"""Share of the nodes from which on a value counts as frequent."""
_FEWEST, _MOST = 2, 12
_CUTS = 200
"""Places by count, and as many by value, at which quantities may be divided into groups."""
_NO_VALUE, _OTHERS = "no value", "other values"


@dataclass(frozen=True)
class Colouring:
    """A group for each node: ``groups`` int64 (nodes,) indexes ``labels`` and ``colours``."""

    attribute: str
    chosen: bool
    """True where nobody asked for this attribute."""
    groups: np.ndarray
    labels: tuple[str, ...]
    colours: tuple[str, ...]


def colour_nodes(
    graph: Graph | None, entity: str, degree: np.ndarray, wanted: str | None
) -> Colouring:
    """Colour an entity's nodes by ``wanted``, or by the attribute that suits best.

    Chosen is, of the attributes with 2 to 12 frequent values that cover half of the nodes, be they
    columns or shared values one functional edge away, the one of highest entropy: how the vectors
    lie has no say in it. Where there is none, the degree it is. Raises `IsohopError` for an
    attribute that the entity does not have.
    """
    candidates = _candidates(graph, entity, len(degree))
    if wanted is not None:
        name = wanted.removeprefix(f"{entity}.")
        if name not in candidates:
            raise IsohopError(
                f"report.colour.{entity}: '{entity}' has no attribute '{name}'. "
                f"{did_you_mean(name, candidates)}".rstrip()
            )
        return _colouring(f"{entity}.{name}", candidates[name].values(), False)
    best: tuple[float, str, pa.Array] | None = None
    for name, candidate in sorted(candidates.items()):
        if candidate.kind not in ("number", "time", "text"):
            values = candidate.values()
            entropy = _suitability(values)
            if entropy is not None and (best is None or entropy > best[0]):
                best = entropy, name, values
    if best is None:
        return _quantities("degree", degree.astype(float), True)
    return _colouring(f"{entity}.{best[1]}", best[2], True)


@dataclass(frozen=True)
class _Candidate:
    """An attribute of an entity: a column, or a value one functional edge away."""

    graph: Graph
    entity: str
    stored: Attribute | EdgeType

    @property
    def kind(self) -> str:
        return self.stored.kind if isinstance(self.stored, Attribute) else "category"

    def values(self) -> pa.Array:
        """One value a node, in its native type; NULL where there is none."""
        if isinstance(self.stored, Attribute):
            name = self.stored.name
            return first_values(self.graph.nodes(self.entity, [name]).column(name))
        target = self.graph.node_type(self.stored.target)
        values = as_text(self.graph.nodes(target.name, target.key).column(target.key[0]))
        source, value = self.graph.edge_index(self.stored.name)
        rows = np.full(self.graph.node_type(self.entity).count, -1)
        rows[source] = value
        return values.take(pa.array(rows, mask=rows < 0))


def _candidates(graph: Graph | None, entity: str, rows: int) -> dict[str, _Candidate]:
    """The entity's attributes by name, those shared as nodes among them."""
    if graph is None or entity not in {node.name for node in graph.node_types}:
        return {}
    node_type = graph.node_type(entity)
    if node_type.count != rows:
        return {}
    found = {a.name: _Candidate(graph, entity, a) for a in node_type.attributes}
    for edge in graph.edge_types:
        if edge.source == entity and edge.functional and graph.node_type(edge.target).shared:
            found[edge.role] = _Candidate(graph, entity, edge)
    return found


def _suitability(values: pa.Array) -> float | None:
    """Entropy of the frequent values, in bits; None where there are too few, too many, or rare."""
    if pa.types.is_floating(values.type) or pa.types.is_nested(values.type) or len(values) == 0:
        return None
    counts = pc.value_counts(values.drop_null()).field("counts").to_numpy()
    frequent = counts[counts >= max(2.0, _FREQUENT * len(values))]
    if not _FEWEST <= len(frequent) <= _MOST or frequent.sum() < 0.5 * len(values):
        return None
    share = frequent / frequent.sum()
    return float(-(share * np.log2(share)).sum())


def _colouring(attribute: str, values: pa.Array, chosen: bool) -> Colouring:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = pc.cast(values, pa.float64(), safe=False)
        if len(numbers.drop_null().unique()) > len(CATEGORIES):
            return _quantities(attribute, numbers.to_numpy(zero_copy_only=False), chosen)
    elif pa.types.is_temporal(kind):
        years = pc.year(values) if not pa.types.is_time(kind) else pc.hour(values)
        numbers = pc.cast(years, pa.float64()).to_numpy(zero_copy_only=False)
        return _quantities(attribute, numbers, chosen)
    return _categories(attribute, as_text(pa.chunked_array([values])), chosen)


def _categories(attribute: str, values: pa.Array, chosen: bool) -> Colouring:
    """The most frequent values have a colour each, all others share grey."""
    encoded = values.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))
    shown = order[: len(CATEGORIES)]
    group_of = np.full(len(names) + 1, len(shown))
    group_of[shown] = np.arange(len(shown))
    group_of[-1] = len(shown) + 1  # where codes of -1, NULL, end up
    labels = (*(shorten(names[code], 32) or "empty" for code in shown), _OTHERS, _NO_VALUE)
    colours = (*CATEGORIES[: len(shown)], OTHER, OTHER)
    return Colouring(attribute, chosen, group_of[codes], labels, colours)


def _quantities(attribute: str, numbers: np.ndarray, chosen: bool) -> Colouring:
    """Up to five groups, in the order of the values and as equal in size as these allow."""
    finite = np.isfinite(numbers)
    groups = np.zeros(len(numbers), np.int64)
    labels: list[str] = []
    if finite.any():
        values, counts = np.unique(numbers[finite], return_counts=True)
        last = _last_of_groups(counts, len(QUANTITIES))
        groups[finite] = np.searchsorted(values[last], numbers[finite])
        start, *ends = _told_apart([values[0], *values[last]])
        sizes = np.diff(last, prepend=-1)
        for number, end in enumerate(ends):
            low = f"over {ends[number - 1]}" if number else start
            labels.append(end if sizes[number] == 1 else f"{low} – {end}")
    groups[~finite] = len(labels)
    steps = np.linspace(0, len(QUANTITIES) - 1, max(1, len(labels))).round().astype(int)
    colours = [QUANTITIES[step] for step in steps[: len(labels)]]
    return Colouring(attribute, chosen, groups, (*labels, _NO_VALUE), (*colours, OTHER))


def _last_of_groups(counts: np.ndarray, most: int) -> np.ndarray:
    """Where each group of neighbouring values ends, of values that so many nodes have: the groups
    whose squared sizes have the least sum. A value that most nodes have is so one by itself, and
    the others are still divided."""
    total = np.cumsum(counts)
    by_count = np.searchsorted(total, np.linspace(0, 1, _CUTS + 1)[1:] * total[-1])
    by_value = np.linspace(0, len(counts) - 1, _CUTS).round().astype(np.int64)
    ends = np.unique(np.concatenate([by_count, by_count - 1, by_value]))
    ends = ends[ends >= 0]
    size = np.concatenate([[0], total[ends]])
    cost = np.where(size > size[:, None], (size - size[:, None]).astype(float) ** 2, np.inf)
    best, before = cost[0], []
    for _ in range(min(most, len(ends)) - 1):
        through = best[:, None] + cost
        before.append(through.argmin(axis=0))
        best = through.min(axis=0)
    path = [len(ends)]
    for step in reversed(before):
        path.append(int(step[path[-1]]))
    found: np.ndarray = ends[np.array(path[::-1]) - 1]
    return found


def _told_apart(edges: list[float]) -> list[str]:
    """The edges as text, with four digits or as many more as tell them apart."""
    told: list[str] = []
    for digits in range(4, 18):
        told = [_plain(edge, digits) for edge in edges]
        if len(set(told)) == len(set(edges)):
            break
    return told


def _plain(value: float, digits: int) -> str:
    whole = value == math.floor(value) or abs(value) >= 10**digits
    return f"{value:.0f}" if whole and abs(value) < 1e15 else f"{value:.{digits}g}"
