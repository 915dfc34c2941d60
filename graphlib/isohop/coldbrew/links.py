"""Link prediction as a training objective: typed edges, typed negatives, one score per edge type.

For each edge type and each end that is an entity, the end is a *query* and the other end must be
told from negatives of its own type (typed corruption). One sample of negatives is shared by a batch
of edges, so scoring is a matrix product, and the loss is the cross entropy of the true end among
them (sampled softmax, Jean et al., ACL 2015). Negatives that are true neighbours over edges which
training may see are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.tables import module_key
from isohop.engines.workers import ALONE, Workers

Vectors = Callable[[str, Tensor], Tensor]
"""The vectors (n, d) of some nodes of a type, int64 ids (n,)."""
Edges = TypeVar("Edges", Tensor, np.ndarray)
"""(2, edges), as a tensor or an array."""


@dataclass(frozen=True)
class Query:
    """One edge type seen from one of its ends: given a ``source``, which ``target``?"""

    edge_type: str
    source: str
    target: str
    inverse: bool
    """True where ``source`` is the edge type's target."""

    def ends(self, edges: Edges) -> tuple[Edges, Edges]:
        """Sources and targets of ``edges`` (2, n), as this query sees them."""
        return (edges[1], edges[0]) if self.inverse else (edges[0], edges[1])


def queries_of(
    edge_types: Mapping[str, tuple[str, str]], entities: frozenset[str]
) -> tuple[Query, ...]:
    """A query per edge type (name -> (source, target)) and end that is an entity."""
    return tuple(
        Query(name, *(pair[::-1] if inverse else pair), inverse)
        for name, pair in edge_types.items()
        for inverse in (False, True)
        if pair[1 if inverse else 0] in entities
    )


def adjacency(query: Query, edges: np.ndarray, counts: Mapping[str, int]) -> sparse.csr_matrix:
    """Sparse bool (sources, targets) of what is no candidate: the ends of a query's edges, and,
    where both ends are of one type, the asking node itself, which would be its own best match."""
    source, target = query.ends(edges)
    if query.source == query.target:
        itself = np.arange(counts[query.source])
        source, target = np.concatenate([source, itself]), np.concatenate([target, itself])
    shape = (counts[query.source], counts[query.target])
    return sparse.csr_matrix((np.ones(len(source), bool), (source, target)), shape=shape)


def among(known: sparse.csc_matrix, asking: np.ndarray, told_from: np.ndarray) -> np.ndarray:
    """``known[asking][:, told_from]``, dense bool. Time goes with the edges of what is told from:
    those that ask are drawn by their edges, so that hubs are among them again and again."""
    rows, row = np.unique(asking, return_inverse=True)
    columns, column = np.unique(told_from, return_inverse=True)
    held = known[:, columns]
    at = np.searchsorted(rows, held.indices)
    met = at < len(rows)
    met[met] = rows[at[met]] == held.indices[met]
    found = np.zeros((len(rows), len(columns)), bool)
    found[at[met], np.repeat(np.arange(len(columns)), np.diff(held.indptr))[met]] = True
    return found.take(column, 1).take(row, 0)


class LinkScore(nn.Module):
    """How likely an edge is, from the vectors of its ends.

    ``dot``: s·⟨u, v⟩ with a learned scale s per edge type. ``distmult``: ⟨u, r, v⟩ with a learned
    vector r per edge type (Yang et al., ICLR 2015).
    """

    def __init__(self, edge_types: tuple[str, ...], dimensions: int, kind: str, scale: float):
        super().__init__()
        size = dimensions if kind == "distmult" else 1
        self.relation = nn.ParameterDict(
            {module_key(name): nn.Parameter(torch.full((size,), scale)) for name in edge_types}
        )

    def query(self, edge_type: str, source: Tensor) -> Tensor:
        """(n, d) -> (n, d): what is multiplied with the vectors of candidates."""
        return source * self.relation[module_key(edge_type)]


class Score(Protocol):
    """How likely an edge is: an inner product."""

    def query(self, edge_type: str, source: Tensor) -> Tensor:
        """As of `LinkScore`."""


@dataclass(frozen=True)
class JoinedScore:
    """Of vectors that are `joined`: the mean of what two scores say, each of its half, weighed as
    the halves are."""

    one: Score
    other: Score

    def query(self, edge_type: str, source: Tensor) -> Tensor:
        """As of `LinkScore`."""
        first, second = source.chunk(2, 1)
        return torch.cat([self.one.query(edge_type, first), self.other.query(edge_type, second)], 1)


@dataclass(frozen=True)
class Links:
    """What one step asks. ``positions``: by edge type, of the edges that are to be told.
    ``negatives``: by query, ids of the nodes that they are told from. int64 all."""

    positions: Mapping[str, Tensor]
    negatives: Mapping[Query, Tensor]


class LinkTask:
    """Batches of visible edges with their negatives.

    ``edges``: edge type -> int64 (2, edges) that training may see. ``connected``: bool (nodes,)
    by type. ``batch``: edges a step and query. ``power``: of a negative's degree. ``workers``: each
    has the same batches, and the loss of its share of them.
    """

    def __init__(
        self,
        queries: tuple[Query, ...],
        edges: Mapping[str, Tensor],
        counts: Mapping[str, int],
        connected: Mapping[str, Tensor],
        *,
        batch: int,
        negatives: int,
        power: float,
        workers: Workers = ALONE,
    ):
        self._queries = tuple(query for query in queries if edges[query.edge_type].shape[1])
        self._edges = edges
        self._batch = batch
        self._negatives = negatives
        self._share = workers.share
        self._known = {}
        self._cumulative = {}
        for query in self._queries:
            index = edges[query.edge_type].numpy()
            self._known[query] = adjacency(query, index, counts).tocsc()
            degree = np.bincount(query.ends(index)[1], minlength=counts[query.target])
            mass = torch.from_numpy(degree.astype(np.float64)) ** power
            # A node without any visible edge is no negative: that it is isolated is no reason.
            mass = mass * connected[query.target]
            self._cumulative[query] = torch.cumsum(mass / mass.sum(), 0)

    def draw(self, random: torch.Generator, among: Mapping[str, Tensor] | None = None) -> Links:
        """At most a fifth of a type's edges: the rest is what they are told by. ``among``: by edge
        type, positions of those that may be asked about, where they are told by the others
        alone."""
        positions = {}
        for name in dict.fromkeys(query.edge_type for query in self._queries):
            if among is not None:
                some = among[name]
                positions[name] = some[some_of(len(some), self._batch, random)]
                continue
            count = self._edges[name].shape[1]
            size = min(self._batch, max(1, count // 5))
            positions[name] = some_of(count, size, random)
        negatives = {}
        for query in self._queries:
            draw = torch.rand(self._negatives, generator=random, dtype=torch.float64)
            found = torch.searchsorted(self._cumulative[query], draw)
            negatives[query] = found.clamp_(max=len(self._cumulative[query]) - 1)
        return Links(positions, negatives)

    def loss(self, score: LinkScore, links: Links, sources: Vectors, targets: Vectors) -> Tensor:
        """Cross entropy, mean over a query's edges and over queries, of this worker's share.
        ``sources`` and ``targets`` are often the same."""
        losses = [torch.zeros(())]
        for query in self._queries:
            drawn = links.positions[query.edge_type]
            source, target = query.ends(self._edges[query.edge_type][:, drawn[self._share]])
            negative = links.negatives[query]
            asked = score.query(query.edge_type, sources(query.source, source))
            true = (asked * targets(query.target, target)).sum(1, keepdim=True)
            false = asked @ targets(query.target, negative).T
            known = among(self._known[query], source.numpy(), negative.numpy())
            false = false.masked_fill(torch.from_numpy(known), -torch.inf)
            logits = torch.cat([true, false], 1)
            nought = torch.zeros(len(logits), dtype=torch.int64)
            lost = functional.cross_entropy(logits, nought, reduction="sum")
            losses.append(lost / len(drawn))
        return torch.stack(losses).sum() / max(1, len(self._queries))

    def nodes(self, links: Links) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Ids by type, not distinct, of the nodes that this worker asks about, and of those that
        they are told from."""
        asking: dict[str, list[Tensor]] = {}
        told: dict[str, list[Tensor]] = {}
        for query in self._queries:
            drawn = links.positions[query.edge_type][self._share]
            source, target = query.ends(self._edges[query.edge_type][:, drawn])
            asking.setdefault(query.source, []).append(source)
            told.setdefault(query.target, []).extend([target, links.negatives[query]])
        return tuple({n: torch.cat(ids) for n, ids in part.items()} for part in (asking, told))  # type: ignore[return-value]


def some_of(count: int, size: int, random: torch.Generator) -> Tensor:
    """int64 (size,), distinct numbers below ``count``; of many, a few fewer; all where ``size`` is
    more."""
    if size * 20 > count:
        return torch.randperm(count, generator=random)[:size]
    return torch.randint(count, (size,), generator=random).unique()
