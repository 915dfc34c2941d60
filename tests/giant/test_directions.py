"""What an encoder begins with: directions of text along which neighbours agree."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from isohop.giant.directions import agreement_directions
from isohop.giant.label_tree import normalise
from isohop.giant.targets import NodeIndex

NODES, WORDS = 400, 60
INDEX = NodeIndex({"thing": 0}, {"thing": NODES})


def world(seed: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix, np.ndarray]:
    """Nodes of two groups that are neighbours within a group; five words tell the group of a node,
    one of them in its text, beside five of fifty words that tell nothing."""
    draw = np.random.default_rng(seed)
    group = np.repeat([0, 1], NODES // 2)
    text = np.zeros((NODES, WORDS), np.float32)
    for node in range(NODES):
        text[node, group[node] * 5 + draw.integers(5)] = 1
        text[node, 10 + draw.choice(50, 5, replace=False)] = 1
    ends = draw.integers(0, NODES // 2, (2, 2000)) + np.repeat([0, NODES // 2], 1000)
    edges = sparse.csr_matrix((np.ones(2000, np.float32), tuple(ends)), shape=(NODES, NODES))
    both = ((edges + edges.T) > 0).astype(np.float32).tocsr()
    return sparse.csr_matrix(normalise(text).astype(np.float32)), both, group


def apart(features: np.ndarray, group: np.ndarray) -> float:
    """Mean cosine within groups less that between them."""
    near = normalise(features - features.mean(0))
    cosine = near @ near.T
    same = group[:, None] == group[None, :]
    return float(cosine[same].mean() - cosine[~same].mean())


def test_words_that_neighbours_share_count_and_others_do_not():
    text, edges, group = world(1)
    directions = agreement_directions(text, {"thing": edges}, INDEX, 4, 1)[0]
    random = np.random.default_rng(1).standard_normal((WORDS, 4))
    alone = agreement_directions(text, {}, INDEX, 4, 1)[0]
    found = apart(text @ directions, group)
    assert found > 0.5
    assert found > 3 * max(apart(text @ random, group), apart(text @ alone, group))


def test_one_seed_gives_equal_directions_of_the_scale_that_training_expects():
    text, edges, _ = world(2)
    made = [agreement_directions(text, {"thing": edges}, INDEX, 8, seed)[0] for seed in (3, 3)]
    assert np.array_equal(*made)
    assert np.isclose(np.linalg.norm(text @ made[0], axis=1).mean(), 1, atol=1e-4)


def test_more_dimensions_than_words_or_no_words_at_all_are_still_that_many_dimensions():
    text, edges, _ = world(3)
    narrow = text[:, :3].tocsr()
    for words in (narrow, sparse.csr_matrix((NODES, 1), dtype=np.float32)):
        for targets in ({"thing": edges}, {}):
            directions = agreement_directions(words, targets, INDEX, 16, 1)[0]
            assert directions.shape == (words.shape[1], 16)
            assert np.isfinite(directions).all()
            assert (np.abs(directions).max(axis=0) > 0).all()
