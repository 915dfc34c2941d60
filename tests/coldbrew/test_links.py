"""Link prediction as an objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch.nn import functional

from isohop.coldbrew.evaluation import Asked, ranks
from isohop.coldbrew.links import (
    JoinedScore,
    Links,
    LinkScore,
    LinkTask,
    adjacency,
    among,
    queries_of,
    some_of,
)
from isohop.coldbrew.tables import joined
from isohop.engines.workers import ALONE, Workers

CITES = "paper--cites--paper"
SHELF = "paper--shelf--paper.shelf"
TYPES = {CITES: ("paper", "paper"), SHELF: ("paper", "paper.shelf")}
COUNTS = {"paper": 6, "paper.shelf": 2}
EDGES = {
    CITES: torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]),
    SHELF: torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]]),
}
ALL = {name: torch.ones(count, dtype=torch.bool) for name, count in COUNTS.items()}


QUERIES = queries_of(TYPES, frozenset({"paper"}))


@given(st.data())
def test_what_is_known_of_pairs_is_as_the_matrix_has_it(data):
    shape = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    cells = st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    known = np.array(data.draw(cells)).reshape(shape)
    some = [np.array(data.draw(st.lists(st.integers(0, n - 1))), dtype=np.int64) for n in shape]
    assert (among(sparse.csc_matrix(known), *some) == known[np.ix_(*some)]).all()


def task(queries=QUERIES, edges=EDGES, batch: int = 100, workers=ALONE) -> LinkTask:
    how = {"batch": batch, "negatives": 64, "power": 0.75, "workers": workers}
    return LinkTask(queries, edges, COUNTS, ALL, **how)


def drawn(made: LinkTask, seed: int = 3) -> Links:
    return made.draw(torch.Generator().manual_seed(seed))


def test_only_entities_ask_and_both_ends_of_an_edge_between_entities_do():
    asked = {(q.edge_type, q.source, q.inverse) for q in QUERIES}
    assert asked == {(CITES, "paper", False), (CITES, "paper", True), (SHELF, "paper", False)}


def test_a_node_is_no_candidate_of_its_own_where_both_ends_are_of_one_type():
    for query in QUERIES:
        known = adjacency(query, EDGES[query.edge_type].numpy(), COUNTS)
        own = known.toarray().diagonal().all()
        assert own == (query.source == query.target)


def test_known_neighbours_are_no_negatives():
    """With one vector a shelf, the shelf itself is the only true end: nothing else may count."""
    shelf = torch.eye(2)
    tables = {"paper": shelf[EDGES[SHELF][1]], "paper.shelf": shelf}
    score = LinkScore(tuple(TYPES), 2, "distmult", 50.0)
    made = task(queries=queries_of({SHELF: TYPES[SHELF]}, frozenset({"paper"})))
    links = replace(drawn(made), positions={SHELF: torch.arange(6)})

    def vectors(name: str, ids: torch.Tensor) -> torch.Tensor:
        return tables[name][ids]

    assert made.loss(score, links, vectors, vectors).item() < 1e-6


@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_of_joined_vectors_the_score_is_the_mean_of_those_of_their_halves(seed, share):
    draw = torch.Generator().manual_seed(seed)
    one, other = (LinkScore((CITES,), 4, "distmult", scale) for scale in (2.0, 5.0))
    halves = functional.normalize(torch.randn(4, 6, 4, generator=draw), dim=2)
    asking, told = (joined(halves[i], halves[i + 1], share) for i in (0, 2))
    with torch.no_grad():
        found = JoinedScore(one, other).query(CITES, asking) @ told.T
        apart = [
            score.query(CITES, halves[half]) @ halves[half + 2].T
            for half, score in enumerate((one, other))
        ]
    mean = (1 - share) * apart[0] + share * apart[1]
    torch.testing.assert_close(found, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(asking.norm(dim=1), torch.ones(6))


def test_losses_of_workers_add_up_to_that_of_one():
    draw = torch.Generator().manual_seed(1)
    tables = {name: torch.randn(count, 3, generator=draw) for name, count in COUNTS.items()}
    score = LinkScore(tuple(TYPES), 3, "distmult", 1.0)
    links = replace(
        drawn(task()), positions={n: torch.arange(e.shape[1]) for n, e in EDGES.items()}
    )

    def vectors(name: str, ids: torch.Tensor) -> torch.Tensor:
        return tables[name][ids]

    losses = [
        task(workers=Workers(rank, count)).loss(score, links, vectors, vectors)
        for count in (1, 2)
        for rank in range(count)
    ]
    torch.testing.assert_close(losses[1] + losses[2], losses[0])
    assert losses[1] > 0
    assert losses[2] > 0


def test_a_step_takes_a_fifth_of_a_type_s_edges_at_most_and_at_least_one():
    positions = drawn(task()).positions
    assert {name: len(at) for name, at in positions.items()} == {CITES: 1, SHELF: 1}
    assert len(drawn(task(batch=1)).positions[SHELF]) == 1


def test_equal_seeds_draw_equally():
    negatives = [drawn(task(), seed).negatives[QUERIES[0]].tolist() for seed in (3, 3, 4)]
    assert negatives[0] == negatives[1] != negatives[2]


@given(count=st.integers(1, 500), size=st.integers(1, 600), seed=st.integers(0, 99))
def test_some_of_many_are_distinct_and_as_many_as_asked_but_for_a_few(count, size, seed):
    found = some_of(count, size, torch.Generator().manual_seed(seed)).tolist()
    assert len(set(found)) == len(found) <= size
    assert len(found) >= min(size, count) * 0.8 - 1
    assert all(0 <= one < count for one in found)


def test_a_type_whose_edges_are_all_hidden_asks_nothing():
    edges = EDGES | {SHELF: torch.zeros(2, 0, dtype=torch.int64)}
    assert set(drawn(task(edges=edges)).positions) == {CITES}


@given(st.integers(0, 10_000), st.integers(2, 90))
def test_of_equal_vectors_none_is_before_the_others(seed, dimensions):
    """However their scores are rounded, which are summed up in several ways."""
    draw = torch.Generator().manual_seed(seed)
    one, asking = functional.normalize(torch.randn(2, dimensions, generator=draw), dim=1)
    query, nobody = QUERIES[0], np.zeros(0, np.int64)
    asked = Asked(query, "test", nobody, np.array([3]), nobody, np.arange(50), nobody, nobody)
    score = LinkScore((CITES,), dimensions, "distmult", 10.0)
    table = {"paper": one.repeat(50, 1)}
    assert ranks(score, table, asked, asking[None]).tolist() == [1 + 50 / 2]
