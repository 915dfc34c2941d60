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


def dense_mean(relation, counts, edges, values):
    source, target = edges.flip(0) if relation.reverse else edges
    matrix = torch.zeros(counts[relation.target], counts[relation.source])
    matrix[target, source] = 1.0
    return matrix @ values / matrix.sum(1, keepdim=True).clamp(min=1.0)


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_relation_is_the_mean_over_neighbours_in_its_direction(made, seed):
    counts, edges = made
    graph = MessageGraph(counts, TYPES, edges)
    random = torch.Generator().manual_seed(seed)
    for relation in graph.relations:
        values = torch.randn(counts[relation.source], 3, generator=random)
        expected = dense_mean(relation, counts, edges[relation.edge_type], values)
        torch.testing.assert_close(graph.mean(relation, values), expected)


@given(graphs(), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_leaving_edges_out_equals_never_having_had_them(made, seed):
    counts, edges = made
    random = np.random.default_rng(seed)
    gone = {name: torch.from_numpy(random.random(e.shape[1]) < 0.4) for name, e in edges.items()}
    graph = MessageGraph(counts, TYPES, edges)
    weights = graph.keep_weights({name: torch.nonzero(g)[:, 0] for name, g in gone.items()})
    rest = MessageGraph(counts, TYPES, {name: e[:, ~gone[name]] for name, e in edges.items()})
    for relation in graph.relations:
        values = torch.randn(counts[relation.source], 3, requires_grad=True)
        results = []
        for mean in (
            graph.mean(relation, values, weights[relation.name]),
            rest.mean(relation, values),
        ):
            (gradient,) = torch.autograd.grad(mean.square().sum(), values)
            results.append((mean, gradient))
        torch.testing.assert_close(results[0], results[1])


def test_degree_counts_both_ends_and_is_zero_without_edges():
    edges = {CITES: torch.tensor([[0, 0], [1, 2]]), WROTE: torch.tensor([[1], [0]])}
    degree = MessageGraph({"paper": 4, "author": 2, "alone": 3}, TYPES, edges).degrees()
    assert degree["paper"].tolist() == [3, 1, 1, 0]
    assert degree["author"].tolist() == [0, 1]
    assert degree["alone"].tolist() == [0, 0, 0]


def test_a_graph_without_any_edge_type_still_has_nodes():
    graph = MessageGraph({"paper": 1}, {}, {})
    assert graph.relations == ()
    layer = RelationalLayer(("paper",), (), 4, 0.2)
    h = {"paper": torch.randn(1, 4)}
    assert layer(graph, h, h, {})["paper"].shape == (1, 4)


@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_the_normalisation_layer_is_applied(residual):
    """The authors' own code never applies it."""
    counts = {"paper": 20, "author": 5}
    edges = {name: torch.randint(0, 5, (2, 30)) for name in TYPES}
    layer = RelationalLayer(tuple(counts), relations_of(TYPES), 8, residual)
    h = {name: 100 * torch.randn(count, 8) for name, count in counts.items()}
    for values in layer(MessageGraph(counts, TYPES, edges), h, h, {}).values():
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            values.var(1, correction=0), torch.ones(len(values)), atol=1e-3, rtol=0
        )
