"""Walks that are looked up: what they bring is what the whole graph brings, and no edge helps to
predict itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.structural import structural_nodes
from isohop.coldbrew.teacher import Teacher
from isohop.coldbrew.walks import PARTS, STEPS, Walk, Walks

CITES, WROTE, FILED = "paper--cites--paper", "author--wrote--paper", "paper--filed--shelf"
TYPES = {CITES: ("paper", "paper"), WROTE: ("author", "paper"), FILED: ("paper", "shelf")}
COUNTS = {"paper": 40, "author": 9, "shelf": 2}
WIDTHS = {"paper": 4, "author": 3, "shelf": 5}
HOPS = 3


def a_graph(seed: int, most: int = 120) -> MessageGraph:
    draw = np.random.default_rng(seed)
    edges = {}
    for name, (source, target) in TYPES.items():
        size = int(draw.integers(0, most))
        ends = [draw.integers(0, COUNTS[one], size) for one in (source, target)]
        edges[name] = torch.from_numpy(np.stack(ends))
    return MessageGraph(COUNTS, TYPES, edges)


def features(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {n: torch.randn(count, WIDTHS[n], generator=random) for n, count in COUNTS.items()}


def a_teacher(graph: MessageGraph, seed: int, kind: str = "hop-wise") -> Teacher:
    torch.manual_seed(seed)
    inputs = Inputs(COUNTS, TYPES, graph.edges, features(seed), ("paper",))
    asked = DistillSettings(teacher=kind, dimensions=12, hops=HOPS)
    teacher = Teacher(inputs, structural_nodes(graph, 3), asked, sampled=True).eval()
    for values in [*teacher.structural.parameters(), *teacher.body.parameters()]:
        torch.nn.init.normal_(values)
    return teacher


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_what_is_looked_up_is_what_the_whole_graph_gives(seed):
    graph, x = a_graph(seed), features(seed)
    teacher = a_teacher(graph, seed)
    draw = np.random.default_rng(seed)
    left_out = {
        name: torch.from_numpy(np.flatnonzero(draw.random(edges.shape[1]) < 0.3))
        for name, edges in graph.edges.items()
    }
    nodes = {
        "paper": torch.from_numpy(np.unique(draw.integers(0, 40, 7))),
        "shelf": torch.arange(2),
    }
    weights = graph.weights(left_out)
    with torch.no_grad():
        placed = teacher.structural_table(COUNTS)
        walk = Walk.over(graph, x, placed, weights, HOPS)
        (some,), _ = teacher.of_walk(walk, nodes, x)
        whole = teacher(graph, x, weights)
    assert set(some) == set(nodes)
    for name, ids in nodes.items():  # what arrives is kept in 16 bits
        torch.testing.assert_close(some[name], whole[name][ids], atol=0.02, rtol=0.01)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), most=st.sampled_from([2, 20, 120]))
def test_each_edge_is_asked_about_in_its_turn_and_some_edge_of_a_type_always(seed, most):
    graph = a_graph(seed, most)
    walks = Walks(graph, features(seed), HOPS, seed)
    for name, edges in graph.edges.items():
        count = edges.shape[1]
        turns = [walks.left_out(turn * STEPS)[name] for turn in range(PARTS)]
        assert all(len(turn) for turn in turns) or not count
        assert torch.equal(torch.cat(turns).unique(), torch.arange(count))
        if count >= PARTS:
            assert sorted(torch.cat(turns).tolist()) == list(range(count))
        assert torch.equal(walks.left_out(STEPS - 1)[name], turns[0])


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), step=st.integers(0, 5 * STEPS), both_ways=st.booleans())
def test_an_edge_that_may_be_asked_about_reaches_no_walk_nor_does_one_that_leads_back(
    seed, step, both_ways
):
    """The walk is that of a graph that has neither."""
    graph, x = a_graph(seed), features(seed)
    ends = graph.edges[CITES].sort(0).values
    ends = torch.cat([ends, ends.flip(0)] if both_ways else [ends], 1).unique(dim=1)
    graph = MessageGraph(COUNTS, TYPES, graph.edges | {CITES: ends})
    walks = Walks(graph, x, HOPS, seed)
    edges = {}
    for name, at in walks.left_out(step).items():
        gone = torch.zeros(graph.edges[name].shape[1], dtype=torch.bool)
        gone[at] = True
        if name == CITES:
            back = ends[1] * COUNTS["paper"] + ends[0]
            gone |= torch.isin(ends[0] * COUNTS["paper"] + ends[1], back[at])
        edges[name] = graph.edges[name][:, ~gone]
    teacher = a_teacher(graph, seed)
    rest = MessageGraph(COUNTS, TYPES, edges)
    about = x, teacher.structural_table(COUNTS)
    expected = Walk.over(rest, *about, rest.weights({}), HOPS)
    walk = walks.of(step, teacher)
    torch.testing.assert_close(walk.placed, expected.placed, atol=0.02, rtol=0.01)
    torch.testing.assert_close(walk.arrived, expected.arrived, atol=0.02, rtol=0.01)


def test_only_the_hop_wise_teacher_learns_from_walks():
    graph, x = a_graph(1), features(1)
    walk = Walks(graph, x, HOPS, 1).of(0, a_teacher(graph, 1))
    with pytest.raises(TypeError, match="hop-wise"):
        a_teacher(graph, 1, "convolution").of_walk(walk, {"paper": torch.arange(3)}, x)
