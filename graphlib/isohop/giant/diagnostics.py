"""Diagnostics of the label tree: are its clusters even, and does a node's text find the right one?

A held-out edge is asked in both directions, as training asks visible ones: at each level, the
clusters of the far end's type are ranked by the logits of training for the feature of the near end.
Clusters of visible neighbours are left out, but for the true one: they are right answers too. A
level at which the true cluster is often missing from the beam bounds what finer levels can find.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import sparse

from isohop.giant.evaluation import Ranks, held_out_edges, true_ranks
from isohop.giant.label_tree import normalise
from isohop.giant.targets import NodeIndex
from isohop.graph import Graph, Holdout

BEAM = 20
"""Clusters that a search down the tree would keep at each level."""
SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class TreeLevel:
    """One level of one destination type's label tree, as trained; the finest is the nodes.

    ``level``: from 1, coarse to fine. ``clusters``: int64 (nodes of the type,), the cluster of
    each. ``targets``: CSR (all nodes, clusters), where visible neighbours lie. ``vectors``: float32
    (clusters, d), of any length; ``bias``: float32 (clusters,).
    """

    target: str
    level: int
    clusters: np.ndarray
    targets: sparse.csr_matrix
    vectors: np.ndarray
    bias: np.ndarray


class LevelFigures(BaseModel):
    """One level of one destination type (``target``): its balance, and how held-out edges fare.

    ``smallest``, ``mean``, ``largest``: nodes in one of its ``labels`` clusters. ``count``: how
    often it was asked; where never, ``mrr``, ``hits_at_10`` and ``in_beam`` are None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    target: str
    level: int
    labels: int
    smallest: int
    mean: float
    largest: int
    count: int = 0
    mrr: float | None = None
    hits_at_10: float | None = None
    in_beam: float | None = None
    """Share of true clusters that are among the first 20."""


def diagnose(
    graph: Graph,
    holdout: Holdout,
    levels: Iterable[TreeLevel],
    features: np.ndarray,
    scale: float,
    state: int,
    seed: int,
    label: str | None = None,
) -> list[LevelFigures]:
    """One row a level, by destination type, coarse to fine.

    ``features``: float32 (all nodes, d), rows at length 1; ``scale``: of cosines, as in training;
    ``state``: which held-out edges.
    """
    asked = _both_directions(graph, holdout, state, seed, label)
    found = []
    for level in levels:
        size = np.bincount(level.clusters)
        figures = LevelFigures(
            target=level.target,
            level=level.level,
            labels=len(size),
            smallest=int(size.min()),
            mean=float(size.mean()),
            largest=int(size.max()),
        )
        if level.target in asked:
            first = NodeIndex.of(graph).offset[level.target]
            rank = _cluster_ranks(level, features, scale, asked[level.target], first)
            ranks = Ranks.of(rank)
            update = {"count": len(rank), "mrr": ranks.mrr, "hits_at_10": ranks.hits_at_10}
            update["in_beam"] = float(np.mean(rank <= BEAM))
            figures = figures.model_copy(update=update)
        found.append(figures)
    return found


def _both_directions(
    graph: Graph, holdout: Holdout, state: int, seed: int, label: str | None
) -> dict[str, np.ndarray]:
    """Destination type -> int64 (2, asked): asking node in the numbering of `NodeIndex`, and the
    node of the destination type that it should find."""
    index = NodeIndex.of(graph)
    asked: dict[str, list[np.ndarray]] = {}
    for edge, ends, positions in held_out_edges(graph, holdout, state, seed, label):
        source, target = ends[:, positions]
        forth = np.stack([source + index.offset[edge.source], target])
        back = np.stack([target + index.offset[edge.target], source])
        asked.setdefault(edge.target, []).append(forth)
        asked.setdefault(edge.source, []).append(back)
    return {name: np.concatenate(parts, axis=1) for name, parts in asked.items()}


def _cluster_ranks(
    level: TreeLevel, features: np.ndarray, scale: float, asked: np.ndarray, first: int
) -> np.ndarray:
    """float64 (asked,): ranks, from 1, of the true clusters. ``first``: of the target type's nodes
    among all."""
    columns = normalise(level.vectors).T
    left_out = level.targets
    if len(np.unique(level.clusters)) == len(level.clusters):
        # A node is no answer to itself.
        at = (first + np.arange(len(level.clusters)), level.clusters)
        itself = sparse.csr_matrix((np.ones(len(level.clusters)), at), shape=left_out.shape)
        left_out = left_out + itself
    block = max(1, SCORES_AT_ONCE // columns.shape[1])
    ranks = []
    for start in range(0, asked.shape[1], block):
        asking, target = asked[:, start : start + block]
        score = scale * (features[asking] @ columns) + level.bias
        ranks.append(true_ranks(score, level.clusters[target], left_out[asking]))
    return np.concatenate(ranks)
