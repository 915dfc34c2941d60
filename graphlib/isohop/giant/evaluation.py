"""Held-out edges: does training find neighbours that it never saw?

For an edge that `hold_out` kept for testing, the node at one end asks for the other: all nodes of
that type are ranked by the cosine of the asking node's feature with the *centroid* of the features
of each candidate's visible neighbours; a candidate that has none ranks last. Neighbours that are
known are left out of the ranking. The score is the same for every kind of feature, so trained
encoder, untrained encoder and TF-IDF differ in the features alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import sparse

from isohop.giant.label_tree import normalise
from isohop.giant.targets import NodeIndex
from isohop.graph import EdgeType, Graph, Holdout
from isohop.graph.holdout import label_edge

ROUNDING = 1e-5
"""Of a score, by how much equal ones may differ: equal vectors are summed up otherwise."""
SAMPLE = 1000
"""Held-out edges asked for of each edge type, at most."""
BLOCK = 256
CANDIDATES = 1 << 16
"""Nodes among which a held-out end is looked for, at most: a random sample, where a type has more.
The same for every kind of feature; ranks among a sample compare them as well."""

Features: TypeAlias = np.ndarray | sparse.csr_matrix


class Ranks(BaseModel):
    """Of ranks from 1: the shares that are first and among the first ten, the mean reciprocal."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    hits_at_1: float
    hits_at_10: float
    mrr: float

    @classmethod
    def of(cls, rank: np.ndarray) -> Ranks:
        """``rank``: float64 (asked,), one at least."""
        return cls(
            hits_at_1=float(np.mean(rank <= 1)),
            hits_at_10=float(np.mean(rank <= 10)),
            mrr=float(np.mean(1 / rank)),
        )


class EdgeRanks(BaseModel):
    """How held-out edges rank by each kind of feature; ``count``: how many were asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trained: Ranks
    untrained: Ranks
    tfidf: Ranks
    count: int


def held_out_edges(
    graph: Graph, holdout: Holdout, state: int, seed: int, label: str | None = None
) -> Iterator[tuple[EdgeType, np.ndarray, np.ndarray]]:
    """(edge type, int64 (2, edges) of all its ends, int64 (asked,) positions among them) for each
    edge type that has edges in ``state``; not of the edges that carry the label."""
    hidden = label_edge(graph, label)
    for edge in graph.edge_types:
        positions = np.flatnonzero(holdout.edges[edge.name] == state)
        if edge.name == hidden or not len(positions):
            continue
        if len(positions) > SAMPLE:
            draw = np.random.default_rng([seed, zlib.crc32(edge.name.encode())])
            positions = np.sort(draw.choice(positions, SAMPLE, replace=False))
        yield edge, graph.edge_index(edge.name), positions


def rank_edges(
    graph: Graph,
    holdout: Holdout,
    features: Mapping[str, Features],
    state: int,
    seed: int,
    label: str | None = None,
) -> dict[str, EdgeRanks]:
    """By edge type, and ``all`` of them together. ``features``: trained, untrained and tfidf, each
    (all nodes, d) with rows at length 1. ``state``: which held-out edges."""
    index = NodeIndex.of(graph)
    found: dict[str, dict[str, np.ndarray]] = {}
    for edge, ends, positions in held_out_edges(graph, holdout, state, seed, label):
        asking, asked = edge.source, edge.target
        # The type with more nodes asks for the one with fewer: the finer end.
        if index.counts[asked] > index.counts[asking]:
            ends, asking, asked = ends[::-1], asked, asking
        seen = ends[:, holdout.visible(edge.name)]
        known = sparse.csr_matrix(
            (np.ones(seen.shape[1], np.float32), (seen[0], seen[1])),
            shape=(index.counts[asking], index.counts[asked]),
        )
        source, target = ends[:, positions]
        if index.counts[asked] > CANDIDATES:
            draw = np.random.default_rng([seed, zlib.crc32(edge.name.encode()), 1])
            some = draw.choice(index.counts[asked], CANDIDATES, replace=False)
            candidates = np.union1d(some, target)
            known = known[:, candidates]
            target = np.searchsorted(candidates, target)
        else:
            candidates = np.arange(index.counts[asked])
        left_out = known
        if asking == asked:
            # Nobody asks for itself, and its own neighbourhood is what it is most like.
            itself = (
                np.ones(len(candidates), np.float32),
                (candidates, np.arange(len(candidates))),
            )
            left_out = known + sparse.csr_matrix(itself, shape=known.shape)
        pairs = np.stack([source, target])
        found[edge.name] = {
            kind: _centroid_ranks(values[index.rows(asking)], known, left_out, pairs)
            for kind, values in features.items()
        }
    if found:
        found["all"] = {
            kind: np.concatenate([ranks[kind] for ranks in found.values()]) for kind in features
        }
    return {
        name: EdgeRanks(
            count=len(ranks["trained"]), **{kind: Ranks.of(rank) for kind, rank in ranks.items()}
        )
        for name, ranks in found.items()
    }


def true_ranks(score: np.ndarray, true: np.ndarray, known: sparse.csr_matrix) -> np.ndarray:
    """float64 (asked,): the rank, from 1, of the candidate ``true`` (int64 (asked,)) by ``score``
    (asked, candidates), which is overwritten; candidates in ``known``, of the same shape, are left
    out. Of equal scores half are taken to come first; they may differ by rounding."""
    row = np.arange(len(true))
    own = score[row, true][:, None]
    same = ROUNDING * (1 + np.abs(own))
    left_out = known.tocoo()
    score[left_out.row, left_out.col] = -np.inf
    score[row, true] = -np.inf
    better = (score > own + same).sum(1)
    equal = (score >= own - same).sum(1) - better
    return np.asarray(1 + better + equal / 2, np.float64)


def _centroid_ranks(
    own: Features, known: sparse.csr_matrix, left_out: sparse.csr_matrix, ends: np.ndarray
) -> np.ndarray:
    """float64 (edges,), of ``ends`` (2, edges): asking nodes, of features ``own`` (nodes, d), and
    what they ask for. ``known``: (nodes, candidates), and ``left_out`` those that are no answer."""
    candidates = _centroids(known.T.tocsr(), own)
    columns = candidates.T.tocsr() if sparse.issparse(candidates) else candidates.T  # type: ignore[union-attr]
    nobody = np.asarray(known.sum(0)).ravel() == 0
    ranks = []
    for start in range(0, ends.shape[1], BLOCK):
        asking, asked = ends[:, start : start + BLOCK]
        score = own[asking] @ columns
        score = score.toarray() if sparse.issparse(score) else np.asarray(score)
        score[:, nobody] = -1
        ranks.append(true_ranks(score, asked, left_out[asking]))
    return np.concatenate(ranks)


def _centroids(neighbours: sparse.csr_matrix, features: Features) -> Features:
    """Mean direction of each candidate's neighbours; zero where there are none."""
    total = neighbours @ features
    if sparse.issparse(total):
        length = np.sqrt(np.asarray(total.multiply(total).sum(1)).ravel())
        return (sparse.diags((1 / np.maximum(length, 1e-12)).astype(np.float32)) @ total).tocsr()
    return normalise(total)
