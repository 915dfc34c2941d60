"""Link prediction as an objective."""

from __future__ import annotations

import torch

from isohop.coldbrew.links import LinkScore, LinkTask, adjacency, queries_of

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


def task(seed: int = 3, queries=QUERIES, edges=EDGES, batch: int = 100) -> LinkTask:
    return LinkTask(queries, edges, COUNTS, ALL, batch=batch, negatives=64, power=0.75, seed=seed)


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
    assert made.loss(score, {SHELF: torch.arange(6)}, tables, tables).item() < 1e-6


def test_a_step_takes_a_fifth_of_a_type_s_edges_at_most_and_at_least_one():
    drawn = task().draw()
    assert {name: len(at) for name, at in drawn.items()} == {CITES: 1, SHELF: 1}
    assert len(task(batch=1).draw()[SHELF]) == 1


def test_equal_seeds_draw_equally():
    drawn = [[made.draw()[SHELF].tolist() for _ in range(8)] for made in (task(), task(), task(4))]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_type_whose_edges_are_all_hidden_asks_nothing():
    edges = EDGES | {SHELF: torch.zeros(2, 0, dtype=torch.int64)}
    assert set(task(edges=edges).draw()) == {CITES}
