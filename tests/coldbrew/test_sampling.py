"""Samples of a graph: what a node hears there, and what it would hear of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.sampling import Sampler
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.structural import structural_nodes
from isohop.coldbrew.tables import module_key
from isohop.coldbrew.teacher import Teacher

CITES, WRITES, SHELF = "paper--cites--paper", "paper--writes--author", "paper--shelf--shelf"
TYPES = {CITES: ("paper", "paper"), WRITES: ("paper", "author"), SHELF: ("paper", "shelf")}
COUNTS = {"paper": 40, "author": 9, "shelf": 3, "alone": 2}


def a_graph(seed: int, doubted: bool = False) -> MessageGraph:
    draw = np.random.default_rng(seed)
    edges = {}
    for name, (source, target) in TYPES.items():
        size = int(draw.integers(0, 120))
        ends = [draw.integers(0, COUNTS[one], size) for one in (source, target)]
        edges[name] = torch.from_numpy(np.stack(ends))
    credible = {
        name: torch.from_numpy(draw.random(ends.shape[1]).astype(np.float32))
        for name, ends in edges.items()
    }
    return MessageGraph(COUNTS, TYPES, edges, credible if doubted else None)


def a_teacher(graph: MessageGraph, layers: int, seed: int) -> tuple[Teacher, dict]:
    torch.manual_seed(seed)
    features = {name: torch.randn(count, 4) for name, count in COUNTS.items()}
    inputs = Inputs(COUNTS, TYPES, graph.edges, features, ("paper",))
    settings = DistillSettings(dimensions=12, layers=layers)
    teacher = Teacher(inputs, structural_nodes(graph, 3), settings, sampled=True).eval()
    for layer in teacher.structural:
        for values in layer.values():
            torch.nn.init.normal_(values)
    return teacher, features


def ids(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng([seed, 1])
    return {"paper": draw.integers(0, 40, 7), "author": draw.integers(0, 9, 2)}


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), layers=st.integers(1, 3), doubted=st.booleans())
def test_where_all_neighbours_are_heard_vectors_are_those_of_the_whole_graph(seed, layers, doubted):
    graph = a_graph(seed, doubted)
    teacher, features = a_teacher(graph, layers, seed)
    draw = np.random.default_rng(seed)
    left_out = {
        name: np.flatnonzero(draw.random(edges.shape[1]) < 0.3)
        for name, edges in graph.edges.items()
    }
    sample = Sampler(graph, 1000, layers).sample(ids(seed), left_out, draw)
    with torch.no_grad():
        (of_sample,), _ = teacher.of_sample(sample, features)
        weights = graph.weights({n: torch.from_numpy(at) for n, at in left_out.items()})
        whole = teacher(graph, features, weights)
    for name, seeds in ids(seed).items():
        wanted = torch.from_numpy(seeds)
        rows = torch.searchsorted(wanted.unique(), wanted)
        torch.testing.assert_close(of_sample[name][rows], whole[name][wanted], atol=1e-4, rtol=1e-4)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), fanout=st.integers(1, 6))
def test_a_node_hears_true_neighbours_as_many_as_allowed_and_none_that_is_left_out(seed, fanout):
    graph = a_graph(seed)
    draw = np.random.default_rng(seed)
    left_out = {
        name: np.flatnonzero(draw.random(edges.shape[1]) < 0.5)
        for name, edges in graph.edges.items()
    }
    sampler = Sampler(graph, fanout, 1)
    heard: dict[str, dict[int, int]] = {}
    for name, nodes in ids(seed).items():
        of = heard[name] = dict.fromkeys(nodes.tolist(), 0)
        for relation, source, target, *_ in sampler._heard(
            name, np.unique(nodes), fanout, left_out, draw
        ):
            kept = np.ones(graph.edges[relation.edge_type].shape[1], bool)
            kept[left_out[relation.edge_type]] = False
            ends = torch.stack(graph.ends(relation))[:, torch.from_numpy(kept)].T.tolist()
            pairs = list(zip(source.tolist(), target.tolist(), strict=True))
            assert all(ends.count(list(pair)) >= pairs.count(pair) for pair in pairs)
            for node in target.tolist():
                of[node] += 1
    assert all(count <= fanout for of in heard.values() for count in of.values())


def test_who_is_a_hop_away_hears_a_quarter_as_many():
    name, draw = "paper--cites--paper", np.random.default_rng(4)
    edges = torch.from_numpy(draw.integers(0, 500, (2, 20_000)))
    graph = MessageGraph({"paper": 500}, {name: ("paper", "paper")}, {name: edges})
    sample = Sampler(graph, 8, 2).sample({"paper": np.array([7])}, {}, draw)
    heard, by_the_last = (
        sum(graph.in_degrees() for graph in graph._graphs.values()) for graph, _ in sample.layers
    )
    assert sample.nodes["paper"][0] == 7
    assert 4 < heard[0] <= 8
    assert heard[1:].max() == 2
    assert by_the_last.tolist() == [heard[0]]


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), layers=st.integers(1, 3))
def test_a_layer_is_asked_about_the_nodes_that_the_next_one_reads(seed, layers):
    sample = Sampler(a_graph(seed), 3, layers).sample(ids(seed), {}, np.random.default_rng(5))
    asked = {name: len(np.unique(ids(seed).get(name, []))) for name in COUNTS}
    for graph, _ in reversed(sample.layers):
        assert graph.into == asked
        asked = graph.counts
    assert asked == {name: len(nodes) for name, nodes in sample.nodes.items()}
    assert all(len(nodes.unique()) == len(nodes) for nodes in sample.nodes.values())


def test_one_director_is_not_drowned_by_fifty_actors():
    films = 200
    directs, acts = "film--directs--director", "film--acts--actor"
    types = {directs: ("film", "director"), acts: ("film", "actor")}
    films_of = np.repeat(np.arange(films), 50)
    edges = {
        directs: np.stack([np.arange(films), np.arange(films)]),
        acts: np.stack([films_of, np.tile(np.arange(50), films)]),
    }
    counts = {"film": films, "director": films, "actor": 50}
    graph = MessageGraph(counts, types, {n: torch.from_numpy(e) for n, e in edges.items()})
    heard = Sampler(graph, 8, 1)._heard("film", np.arange(films), 8, {}, np.random.default_rng(1))
    directors = next(target for one, _, target, *_ in heard if one.source == "director")
    actors = next(target for one, _, target, *_ in heard if one.source == "actor")
    # Half of 8 draws are of directors: none of them in 1 of 256 films.
    assert len(np.unique(directors)) > 0.97 * films
    assert 3 < len(actors) / films < 5


def test_of_many_doubtful_neighbours_a_few_say_on_average_what_all_do():
    """However few are drawn: that their weights add up to less than 1 is no reason to say less."""
    count, name = 400, "paper--cites--author"
    ends = torch.stack([torch.zeros(count, dtype=torch.int64), torch.arange(count)])
    draw = np.random.default_rng(2)
    credible = {name: torch.from_numpy(draw.random(count).astype(np.float32) * 0.2)}
    about = {"paper": 1, "author": count}, {name: ("paper", "author")}, {name: ends}
    graph = MessageGraph(*about, credible)
    values = torch.from_numpy(draw.normal(1.0, 1.0, (count, 1)).astype(np.float32))
    back = graph.relations[1]
    whole = graph.mean(back, values, graph.weights({}))
    sampler, asked = Sampler(graph, 4, 1), {"paper": np.zeros(1, np.int64)}
    told = []
    for _ in range(400):
        sample = sampler.sample(asked, {}, draw)
        ((heard, weights),) = sample.layers
        mean = heard.mean(back, values[sample.nodes["author"]], weights)
        told.append(mean[0, 0])
    assert abs(torch.stack(told).mean() - whole[0, 0]) < 0.1


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_equal_seeds_hear_equally(seed):
    sampler = Sampler(a_graph(seed), 3, 2)
    one, other = (sampler.sample(ids(seed), {}, np.random.default_rng(5)) for _ in range(2))
    assert all(torch.equal(nodes, other.nodes[name]) for name, nodes in one.nodes.items())


@pytest.mark.parametrize("seeds", [{}, {"alone": np.array([1, 1])}])
def test_nobody_and_nodes_without_edges_can_be_asked_about(seeds):
    graph = a_graph(1)
    teacher, features = a_teacher(graph, 2, 1)
    sample = Sampler(graph, 3, 2).sample(seeds, {}, np.random.default_rng(1))
    (vectors,), penalty = teacher.of_sample(sample, features)
    assert {name: len(v) for name, v in vectors.items()} == {
        "paper": 0,
        "author": 0,
        "shelf": 0,
        "alone": len(seeds) and 1,
    }
    assert penalty.item() == 0


def test_a_step_changes_structural_embeddings_of_the_sample_alone():
    graph = a_graph(3)
    teacher, features = a_teacher(graph, 1, 1)
    sample = Sampler(graph, 2, 1).sample(ids(3), {}, np.random.default_rng(1))
    (vectors,), penalty = teacher.of_sample(sample, features)
    (sum(v.sum() for v in vectors.values()) + penalty).backward()
    table = teacher.structural[0][module_key("paper")]
    assert table.grad.is_sparse
    owners = teacher.get_buffer(f"nodes_{module_key('paper')}")[table.grad.coalesce().indices()[0]]
    assert 0 < len(owners) < len(table)
    assert torch.isin(owners, sample.nodes["paper"]).all()
