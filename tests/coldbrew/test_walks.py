"""Walks that are looked up: what they bring is what the whole graph brings, and no edge helps to
predict itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.structural import structural_nodes
from isohop.coldbrew.teacher import Teacher, Weighed
from isohop.coldbrew.walks import PARTS, STEPS, Walk, Walks
from isohop.engines.workers import Workers
from tests.group import together

CITES, WROTE, FILED = "paper--cites--paper", "author--wrote--paper", "paper--filed--shelf"
TYPES = {CITES: ("paper", "paper"), WROTE: ("author", "paper"), FILED: ("paper", "shelf")}
COUNTS = {"paper": 40, "author": 9, "shelf": 2}
WIDTHS = {"paper": 4, "author": 3, "shelf": 5}
HOPS = 3
WORKERS = 3


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
        placed = teacher.of_all_nodes(teacher.structural.all_rows()[0], COUNTS)
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
    about = x, teacher.of_all_nodes(teacher.structural.all_rows()[0], COUNTS)
    expected = Walk.over(rest, *about, rest.weights({}), HOPS)
    walk = walks.of(step, teacher)
    torch.testing.assert_close(walk.arrived, expected.arrived, atol=0.02, rtol=0.01)


def _share_walk(workers: Workers, at: Path) -> None:
    """What it asks for of a walk that it shares with others."""
    rank = workers.rank
    graph, x = a_graph(1), features(1)
    walks = Walks(graph, x, HOPS, 1, workers)
    walk = walks.of(0, a_teacher(graph, 1))
    for name, held in walk.arrived.items():
        assert {len(rows) for rows in held.values()} == {len(range(COUNTS[name])[workers.share])}
    found = {}
    for name, count in COUNTS.items():
        nodes = torch.arange(count)[rank::2] if rank else torch.zeros(0, dtype=torch.int64)
        found |= {f"{name}/{source}": rows for source, rows in walk.at(name, nodes).items()}
    save_file(found, at / f"walk-{rank}")


def test_workers_that_share_a_walk_see_what_one_sees(tmp_path):
    """Of no node, of some, and of dimensions and nodes of which not all have equally many."""
    together(_share_walk, WORKERS, tmp_path)
    graph, x = a_graph(1), features(1)
    walk = Walks(graph, x, HOPS, 1).of(0, a_teacher(graph, 1))
    for rank in range(WORKERS):
        found = load_file(tmp_path / f"walk-{rank}")
        for name, count in COUNTS.items():
            nodes = torch.arange(count)[rank::2] if rank else torch.zeros(0, dtype=torch.int64)
            for source, rows in walk.at(name, nodes).items():
                # Sums of columns do not depend on who carries them.
                assert torch.equal(rows, found.pop(f"{name}/{source}"))
        assert not found


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_a_mean_that_hears_of_one_score_after_the_other_is_that_of_all(seed):
    """And so are its gradients, however large scores are."""
    random = torch.Generator().manual_seed(seed)
    scores = (torch.randn(5, HOPS, generator=random) * 100).requires_grad_()
    values = torch.randn(5, HOPS, 4, generator=random).requires_grad_()
    seen = None
    for hop in range(HOPS):
        seen = Weighed.more(seen, scores[:, hop, None], values[:, hop])
    expected = (torch.softmax(scores, 1)[:, :, None] * values).sum(1)
    torch.testing.assert_close(seen.mean, expected)
    told = [
        torch.autograd.grad(of.square().sum(), [scores, values]) for of in (seen.mean, expected)
    ]
    torch.testing.assert_close(*told, atol=1e-5, rtol=1e-4)


def test_only_the_hop_wise_teacher_learns_from_walks():
    graph, x = a_graph(1), features(1)
    walk = Walks(graph, x, HOPS, 1).of(0, a_teacher(graph, 1))
    with pytest.raises(TypeError, match="hop-wise"):
        a_teacher(graph, 1, "convolution").of_walk(walk, {"paper": torch.arange(3)}, x)
