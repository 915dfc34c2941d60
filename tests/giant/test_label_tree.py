"""The label tree: balanced, nested, deterministic, and true to its features."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.giant.label_tree import label_tree, normalise


@settings(max_examples=40)
@given(count=st.integers(1, 200), seed=st.integers(0, 5), equal=st.booleans())
def test_clusters_are_balanced_and_each_level_refines_the_one_before(count, seed, equal):
    draw = np.random.default_rng(seed)
    features = normalise(np.ones((count, 4)) if equal else draw.normal(size=(count, 4)))
    sizes = (2, 8, 64)
    levels = label_tree(features, sizes, seed)
    for wanted, clusters in zip(sizes, levels, strict=True):
        held = np.bincount(clusters)
        assert len(held) == min(wanted, count)
        assert held.max() - held.min() <= 2
    for coarse, fine in pairwise(levels):
        parents = set(zip(fine.tolist(), coarse.tolist(), strict=True))
        assert len(parents) == len(set(fine.tolist()))
    again = label_tree(features, sizes, seed)
    assert all(np.array_equal(a, b) for a, b in zip(levels, again, strict=True))


def test_what_is_alike_is_in_one_cluster():
    draw = np.random.default_rng(0)
    centres = np.eye(4)
    features = normalise(np.repeat(centres, 25, axis=0) + 0.05 * draw.normal(size=(100, 4)))
    (clusters,) = label_tree(features, (4,), 1)
    assert all(len(set(clusters[start : start + 25])) == 1 for start in range(0, 100, 25))
