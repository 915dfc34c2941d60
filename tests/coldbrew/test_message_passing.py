"""Typed message passing against its definition in dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.coldbrew.message_passing import MessageGraph, RelationalLayer, relations_of

CITES = "paper--cites--paper"
WROTE = "author--wrote--paper"
TYPES = {CITES: ("paper", "paper"), WROTE: ("author", "paper")}


@st.composite
def graphs(draw):
    papers, authors = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    some = lambda n: draw(st.sets(st.tuples(*(st.integers(0, k - 1) for k in n)), max_size=12))  # noqa: E731
    edges = {
        CITES: torch.tensor(sorted(some((papers, papers))), dtype=torch.int64).reshape(-1, 2).T,
        WROTE: torch.tensor(sorted(some((authors, papers))), dtype=torch.int64).reshape(-1, 2).T,
    }
    return {"paper": papers, "author": authors, "alone": 2}, edges


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40)
def test_edges_that_lead_back_are_those_that_join_the_same_nodes_of_one_type(made, seed):
    counts, edges = made
    random = np.random.default_rng(seed)
    some = {
        name: torch.from_numpy(np.flatnonzero(random.random(e.shape[1]) < 0.4))
        for name, e in edges.items()
    }
    found = MessageGraph(counts, TYPES, edges).both_ways(some)
    joined = {frozenset(pair) for pair in edges[CITES][:, some[CITES]].T.tolist()}
    expected = [at for at, pair in enumerate(edges[CITES].T.tolist()) if frozenset(pair) in joined]
    assert sorted(set(found[CITES].tolist())) == expected
    assert found[WROTE] is some[WROTE]
    if len(expected) == len(some[CITES]) == edges[CITES].shape[1] == len(joined):
        assert found[CITES] is some[CITES]


def dense_mean(relation, counts, edges, values):
    source, target = edges.flip(0) if relation.reverse else edges
    matrix = torch.zeros(counts[relation.target], counts[relation.source])
    matrix[target, source] = 1.0
    if relation.source == relation.target:
        matrix.fill_diagonal_(0.0)  # nobody is a neighbour of their own
    return matrix @ values / matrix.sum(1, keepdim=True).clamp(min=1.0)


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40)
def test_a_relation_is_the_mean_over_neighbours_in_its_direction(made, seed):
    counts, edges = made
    graph = MessageGraph(counts, TYPES, edges)
    random = torch.Generator().manual_seed(seed)
    for relation in graph.relations:
        values = torch.randn(counts[relation.source], 3, generator=random)
        expected = dense_mean(relation, counts, edges[relation.edge_type], values)
        torch.testing.assert_close(graph.mean(relation, values, graph.weights({})), expected)


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40)
def test_leaving_edges_out_equals_never_having_had_them(made, seed):
    counts, edges = made
    random = np.random.default_rng(seed)
    gone = {name: torch.from_numpy(random.random(e.shape[1]) < 0.4) for name, e in edges.items()}
    graph = MessageGraph(counts, TYPES, edges)
    weights = graph.weights({name: torch.nonzero(g)[:, 0] for name, g in gone.items()})
    rest = MessageGraph(counts, TYPES, {name: e[:, ~gone[name]] for name, e in edges.items()})
    for relation in graph.relations:
        values = torch.randn(counts[relation.source], 3, requires_grad=True)
        results = []
        for mean in (
            graph.mean(relation, values, weights),
            rest.mean(relation, values, rest.weights({})),
        ):
            (gradient,) = torch.autograd.grad(mean.square().sum(), values)
            results.append((mean, gradient))
        torch.testing.assert_close(results[0], results[1])


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40)
def test_a_hop_is_the_step_of_a_gcn_over_each_edge_type(made, seed):
    counts, edges = made
    random = torch.Generator().manual_seed(seed)
    credible = {name: torch.rand(e.shape[1], generator=random) + 0.1 for name, e in edges.items()}
    graph = MessageGraph(counts, TYPES, edges, credible)
    values = {name: torch.randn(count, 3, generator=random) for name, count in counts.items()}
    steps = {name: [] for name in counts}
    for name, (source, target) in TYPES.items():
        # All nodes of both types in one square matrix, as if there were no types.
        offset = 0 if source == target else counts[source]
        size = offset + counts[target]
        adjacent = torch.zeros(size, size)
        adjacent[edges[name][0], edges[name][1] + offset] = credible[name]
        if not offset:
            adjacent.fill_diagonal_(0.0)
        adjacent = adjacent + adjacent.T
        looped = adjacent + torch.eye(size)
        root = looped.sum(1).sqrt()
        whole = looped / root[:, None] / root
        held = torch.cat([values[source], values[target]]) if offset else values[source]
        step = whole @ held
        steps[target].append((step[offset:], adjacent.sum(1)[offset:] > 0))
        if offset:
            steps[source].append((step[:offset], adjacent.sum(1)[:offset] > 0))
    walk = graph.hops(values, graph.weights({}), 1)
    assert walk[0] == values
    for name, own in values.items():
        found = torch.zeros_like(own)
        of_it = torch.zeros(len(own))
        for step, has in steps[name]:
            found[has] += step[has]
            of_it += has
        expected = torch.where(of_it[:, None] > 0, found / of_it.clamp(min=1)[:, None], own)
        torch.testing.assert_close(walk[1][name], expected)


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40)
def test_an_edge_that_is_not_credible_is_as_good_as_none(made, seed):
    counts, edges = made
    random = np.random.default_rng(seed)
    keep = {name: torch.from_numpy(random.random(e.shape[1]) < 0.5) for name, e in edges.items()}
    known = MessageGraph(counts, TYPES, edges, {name: k.float() for name, k in keep.items()})
    rest = MessageGraph(counts, TYPES, {name: e[:, keep[name]] for name, e in edges.items()})
    values = {name: torch.randn(count, 3) for name, count in counts.items()}
    for relation in known.relations:
        of_it = values[relation.source]
        torch.testing.assert_close(
            known.mean(relation, of_it, known.weights({})),
            rest.mean(relation, of_it, rest.weights({})),
        )
    walks = (graph.hops(values, graph.weights({}), 2)[-1] for graph in (known, rest))
    for one, other in zip(*(walk.values() for walk in walks), strict=True):
        torch.testing.assert_close(one, other)


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40)
def test_a_message_says_as_much_as_its_edges_are_believed(made, seed):
    """By a mean whose weights add up to 1 a doubtful edge would say all, where it is the only
    one."""
    counts, edges = made
    random = torch.Generator().manual_seed(seed)
    credible = {name: torch.rand(e.shape[1], generator=random) + 0.01 for name, e in edges.items()}
    graph = MessageGraph(counts, TYPES, edges, credible)
    for relation in graph.relations:
        values = torch.randn(counts[relation.source], 3, generator=random)
        source, target = graph.ends(relation)
        loop = (source == target) & (relation.source == relation.target)
        weight = torch.where(loop, 0.0, credible[relation.edge_type])
        total = torch.zeros(counts[relation.target]).index_add(0, target, weight)
        found = graph.mean(relation, values, graph.weights({}))
        expected = torch.zeros_like(found).index_add(0, target, weight[:, None] * values[source])
        torch.testing.assert_close(found, expected / total.clamp(min=1)[:, None])


def test_degree_counts_both_ends_and_is_zero_without_edges():
    edges = {CITES: torch.tensor([[0, 0, 3], [1, 2, 3]]), WROTE: torch.tensor([[1], [0]])}
    degree = MessageGraph({"paper": 4, "author": 2, "alone": 3}, TYPES, edges).degrees()
    assert degree["paper"].tolist() == [3, 1, 1, 0]
    assert degree["author"].tolist() == [0, 1]
    assert degree["alone"].tolist() == [0, 0, 0]


def test_a_graph_without_any_edge_type_still_has_nodes():
    graph = MessageGraph({"paper": 1}, {}, {})
    assert graph.relations == ()
    layer = RelationalLayer(("paper",), (), 4, 0.2)
    h = {"paper": torch.randn(1, 4)}
    assert layer(graph, h, h, graph.weights({}))["paper"].shape == (1, 4)


@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_the_normalisation_layer_is_applied(residual):
    """The authors' own code never applies it."""
    counts = {"paper": 20, "author": 5}
    edges = {name: torch.randint(0, 5, (2, 30)) for name in TYPES}
    layer = RelationalLayer(tuple(counts), relations_of(TYPES), 8, residual)
    h = {name: 100 * torch.randn(count, 8) for name, count in counts.items()}
    graph = MessageGraph(counts, TYPES, edges)
    for values in layer(graph, h, h, graph.weights({})).values():
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            values.var(1, correction=0), torch.ones(len(values)), atol=1e-3, rtol=0
        )
