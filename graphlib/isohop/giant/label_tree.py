"""The label tree: clusters of labels, coarse to fine, by their neighbourhoods' text.

Labels are described by PIFA (positive instance feature aggregation) and their own text: the mean
text of the nodes that have the label, and the label's as a node. They are divided by balanced
spherical 2-means, all clusters of a level at once (Chien et al., ICLR 2022, section 3; PECOS's
hierarchical clustering).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

ITERATIONS = 10


def normalise(values: np.ndarray) -> np.ndarray:
    """Rows at length 1; a zero row stays zero."""
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def label_features(targets: sparse.csr_matrix, text: np.ndarray, own: np.ndarray) -> np.ndarray:
    """PIFA beside the labels' ``own`` text, float32 (labels, d), rows at length 1.

    ``targets``: CSR (nodes, labels); ``text``: float32 (nodes, d), texts along a few directions;
    ``own``: float32 (labels, d). A rare label is told by its own words, a frequent one by both.
    """
    return normalise(normalise(targets.T.tocsr() @ text) + own).astype(np.float32)


def label_tree(features: np.ndarray, sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """For each of ``sizes``, int64 (labels,): the cluster of each label, clusters of near size.

    Clusters halve from level to level, so each level refines the one before it. A level of as many
    clusters as labels is each label by itself. Deterministic by ``seed``.
    """
    count = len(features)
    levels: list[np.ndarray] = []
    clusters, depth = np.zeros(count, np.int64), 0
    for size in sizes:
        if size >= count:
            levels.append(np.arange(count))
            continue
        while 2 ** (depth + 1) <= size:
            clusters = _halve(features, clusters, seed + depth)
            depth += 1
        levels.append(clusters)
    return levels


def _halve(features: np.ndarray, clusters: np.ndarray, seed: int) -> np.ndarray:
    """Divide every cluster into two of equal size, one more in the first where it is odd."""
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters)
    count = len(sizes)
    starts = np.cumsum(sizes) - sizes
    cluster = clusters[order]
    points = features[order]
    draw = np.random.default_rng(seed)
    pair = [starts + np.minimum((draw.random(count) * sizes).astype(np.int64), sizes - 1)] * 2
    pair[1] = starts + np.minimum((draw.random(count) * sizes).astype(np.int64), sizes - 1)
    direction = points[pair[0]] - points[pair[1]]
    half = (sizes + 1) // 2
    left = np.zeros(len(points), bool)
    for _ in range(ITERATIONS):
        score = np.einsum("ij,ij->i", points, direction[cluster])
        ranked = np.lexsort((-score, cluster))
        rank = np.empty(len(points), np.int64)
        rank[ranked] = np.arange(len(points)) - starts[cluster]
        now = rank < half[cluster]
        if np.array_equal(now, left):
            break
        left = now
        side = cluster * 2 + ~left
        sums = sparse.csr_matrix(
            (np.ones(len(points), np.float32), (side, np.arange(len(points)))),
            shape=(2 * count, len(points)),
        )
        centroids = normalise(sums @ points)
        direction = centroids[0::2] - centroids[1::2]
    divided = np.empty(len(points), np.int64)
    divided[order] = cluster * 2 + ~left
    return divided
