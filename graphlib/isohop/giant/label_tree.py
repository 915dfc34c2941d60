"""The label tree: clusters of labels, coarse to fine, by their neighbourhoods' text.

Labels are described by PIFA (positive instance feature aggregation) and their own text: the mean
text of the nodes that have the label, and the label's as a node. They are divided by balanced
spherical 2-means, level by level (Chien et al., ICLR 2022, section 3; PECOS's hierarchical
clustering). Clusters of a level have one of two sizes, so those of one size are divided many at a
time, as one array: as many as a cache holds, which is what bounds memory too.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

ITERATIONS = 10
AT_ONCE = 4096
"""Labels that are divided at once; a larger cluster is divided alone."""


def normalise(values: np.ndarray) -> np.ndarray:
    """Rows at length 1; a zero row stays zero."""
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def label_features(targets: sparse.csr_matrix, text: np.ndarray, own: np.ndarray) -> np.ndarray:
    """PIFA beside the labels' ``own`` text, float32 (labels, d), rows at length 1.

    ``targets``: CSR (nodes, labels); ``text``: float32 (nodes, d), texts along a few directions;
    ``own``: float32 (labels, d). A rare label is told by its own words, a frequent one by both.
    """
    found = normalise(targets.T @ text)
    found += own
    return normalise(found).astype(np.float32, copy=False)


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
    starts = np.cumsum(sizes) - sizes
    draw = np.random.default_rng(seed)
    pair = np.minimum((draw.random((2, len(sizes))) * sizes).astype(np.int64), sizes - 1)
    divided = np.empty(len(features), np.int64)
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        step = max(1, AT_ONCE // size)
        for some in (alike[i : i + step] for i in range(0, len(alike), step)):
            members = order[starts[some, None] + np.arange(size)]
            # The one cluster of the first level is all labels, and not copied.
            points = features[None] if size == len(features) else features[members]
            left = _left(points, pair[:, some])
            divided[members] = some[:, None] * 2 + ~left
    return divided


def _left(points: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Boolean (clusters, labels): the half that is nearer to the first centroid, of equal ones
    those that come first. ``points``: (clusters, labels, d); ``pair``: (2, clusters), the labels
    that are the first centroids."""
    count, size, _ = points.shape
    half, each = (size + 1) // 2, np.arange(count)
    direction = points[each, pair[0]] - points[each, pair[1]]
    whole = points.sum(1)
    left = np.zeros((count, size), bool)
    for _ in range(ITERATIONS):
        score = (points @ direction[:, :, None])[:, :, 0]
        least = np.partition(score, size - half, axis=1)[:, size - half, None]
        now = score > least
        equal = score == least
        now |= equal & (equal.cumsum(1) <= half - now.sum(1, keepdims=True))
        if np.array_equal(now, left):
            break
        left = now
        sums = (left[:, None].astype(points.dtype) @ points)[:, 0]
        direction = normalise(sums) - normalise(whole - sums)
    return left
