"""What training may see."""

from __future__ import annotations

import numpy as np

from isohop.graph import hold_out
from isohop.graph.holdout import ISOLATED, ISOLATION, NO_EDGES, TEST, VALIDATION, VISIBLE
from tests.worlds import library


def test_isolated_nodes_have_no_visible_edge_and_lowest_degree(tmp_path):
    graph = library(tmp_path / "g")
    held = hold_out(graph, 3)
    seen = held.visible_degree(graph)
    for node in graph.entities:
        isolated = held.groups[node.name] == ISOLATION
        assert isolated.any()
        assert (seen[node.name][isolated] == 0).all()
        connected = held.degree[node.name] > 0
        others = connected & ~isolated
        assert held.degree[node.name][isolated].max() <= held.degree[node.name][others].min()
    assert (held.degree["book"][held.groups["book"] == NO_EDGES] == 0).all()


def test_every_edge_has_one_state_and_all_states_occur(tmp_path):
    graph = library(tmp_path / "g")
    state = hold_out(graph, 3).edges["book--reads--reader"]
    assert set(np.unique(state)) == {VISIBLE, VALIDATION, TEST, ISOLATED}
    assert (state == VISIBLE).mean() > 0.6


def test_the_division_depends_on_graph_and_seed_alone(tmp_path):
    graph = library(tmp_path / "g")
    name = "book--reads--reader"
    assert np.array_equal(hold_out(graph, 3).edges[name], hold_out(graph, 3).edges[name])
    assert not np.array_equal(hold_out(graph, 3).edges[name], hold_out(graph, 4).edges[name])


def test_nodes_can_be_hidden_whatever_their_degree(tmp_path):
    graph = library(tmp_path / "g")
    books = np.argsort(-hold_out(graph, 3).degree["book"])[:5]
    nothing = {"validation": 0.0, "test": 0.0, "isolated": 0.0}
    held = hold_out(graph, 3, hidden={"book": books}, **nothing)
    seen, whole = held.visible_degree(graph)["book"], held.degree["book"]
    assert (seen[books] == 0).all()
    assert (whole[books] > 0).all()
    others = np.setdiff1d(np.arange(len(seen)), books)
    assert np.array_equal(seen[others], whole[others])
