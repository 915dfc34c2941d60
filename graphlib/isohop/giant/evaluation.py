"""Hits@10 on held-out edges: does training find neighbours that it never saw?

For an edge that `hold_out` kept for testing, the node at one end asks for the other: all nodes of
that type are ranked by the cosine of the asking node's feature with the *centroid* of the features
of each candidate's visible neighbours; a candidate that has none ranks last. Neighbours that are
known are left out of the ranking. The score is the same for every kind of feature, so trained
encoder, untrained encoder and TF-IDF differ in the features alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import sparse

from isohop.giant.label_tree import normalise
from isohop.giant.targets import NodeIndex, label_edge
from isohop.graph import EdgeType, Graph, Holdout

K = 10
SAMPLE = 1000
"""Held-out edges asked for of each edge type, at most."""
BLOCK = 256

Features: TypeAlias = np.ndarray | sparse.csr_matrix


class Hits(BaseModel):
    """Share of held-out edges whose end is among the first ten; ``count``: how many were asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trained: float
    untrained: float
    tfidf: float
    count: int


def hits_at_10(
    graph: Graph,
    holdout: Holdout,
    features: Mapping[str, Features],
    state: int,
    seed: int,
    label: str | None = None,
) -> dict[str, Hits]:
    """By edge type, and ``all`` of them together. ``features``: trained, untrained and tfidf, each
    (all nodes, d) with rows at length 1. ``state``: which held-out edges."""
    index = NodeIndex.of(graph)
    hidden = label_edge(graph, label)
    found: dict[str, tuple[dict[str, int], int]] = {}
    for edge in graph.edge_types:
        positions = np.flatnonzero(holdout.edges[edge.name] == state)
        if edge.name == hidden or not len(positions):
            continue
        if len(positions) > SAMPLE:
            draw = np.random.default_rng([seed, zlib.crc32(edge.name.encode())])
            positions = np.sort(draw.choice(positions, SAMPLE, replace=False))
        hits = {
            name: _hits(graph, holdout, index, edge, values, positions)
            for name, values in features.items()
        }
        found[edge.name] = hits, len(positions)
    total = sum(count for _, count in found.values())
    if total:
        found["all"] = {n: sum(h[n] for h, _ in found.values()) for n in features}, total
    return {
        name: Hits(count=count, **{n: hit / count for n, hit in hits.items()})
        for name, (hits, count) in found.items()
    }


def _hits(
    graph: Graph,
    holdout: Holdout,
    index: NodeIndex,
    edge: EdgeType,
    features: Features,
    positions: np.ndarray,
) -> int:
    """The type with more nodes asks for the one with fewer: the finer end."""
    ends = graph.edge_index(edge.name)
    asking, asked = edge.source, edge.target
    if index.counts[edge.target] > index.counts[edge.source]:
        ends, asking, asked = ends[::-1], edge.target, edge.source
    seen = ends[:, holdout.visible(edge.name)]
    known = sparse.csr_matrix(
        (np.ones(seen.shape[1], np.float32), (seen[0], seen[1])),
        shape=(index.counts[asking], index.counts[asked]),
    )
    own = features[index.rows(asking)]
    candidates = _centroids(known.T.tocsr(), own)
    columns = candidates.T.tocsr() if sparse.issparse(candidates) else candidates.T  # type: ignore[union-attr]
    nobody = np.asarray(known.sum(0)).ravel() == 0
    hits = 0
    for start in range(0, len(positions), BLOCK):
        source, target = ends[:, positions[start : start + BLOCK]]
        score = own[source] @ columns
        score = score.toarray() if sparse.issparse(score) else np.asarray(score)
        row = np.arange(len(source))
        score[:, nobody] = -1
        true = score[row, target]
        neighbours = known[source].tocoo()
        score[neighbours.row, neighbours.col] = -np.inf
        score[row, target] = -np.inf
        # Of equal scores half are taken to come first.
        rank = (score > true[:, None]).sum(1) + (score == true[:, None]).sum(1) / 2
        hits += int((rank < K).sum())
    return hits


def _centroids(neighbours: sparse.csr_matrix, features: Features) -> Features:
    """Mean direction of each candidate's neighbours; zero where there are none."""
    total = neighbours @ features
    if sparse.issparse(total):
        length = np.sqrt(np.asarray(total.multiply(total).sum(1)).ravel())
        return (sparse.diags((1 / np.maximum(length, 1e-12)).astype(np.float32)) @ total).tocsr()
    return normalise(total)
