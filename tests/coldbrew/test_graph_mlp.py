"""Graph-MLP: its walk is the one that messages take, and its loss brings neighbours together."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.coldbrew.graph_mlp import contrast, near_of, walk_matrix
from isohop.coldbrew.message_passing import MessageGraph

TYPES = {"paper--cites--paper": ("paper", "paper"), "paper--by--author": ("paper", "author")}
COUNTS = {"paper": 9, "author": 4, "alone": 2}


def graph_of(seed: int) -> MessageGraph:
    draw = np.random.default_rng(seed)
    edges = {}
    for name, ends in TYPES.items():
        size = int(draw.integers(0, 20))
        edges[name] = torch.from_numpy(np.stack([draw.integers(0, COUNTS[n], size) for n in ends]))
    return MessageGraph(COUNTS, TYPES, edges)


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_the_walk_is_that_of_messages(seed):
    graph = graph_of(seed)
    walk, start = walk_matrix(graph)
    random = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(count, 3, generator=random) for name, count in COUNTS.items()}
    moved = walk @ walk @ torch.cat(list(values.values())).numpy()
    for name, held in graph.hops(values, graph.weights({}), 2)[-1].items():
        rows = slice(start[name], start[name] + COUNTS[name])
        np.testing.assert_allclose(moved[rows], held.numpy(), atol=1e-5)
    papers = start["paper"] + np.array([0, 3, 7])
    wanted = (walk @ walk).toarray()[np.ix_(papers, papers)]
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(near_of(walk, papers), wanted, atol=1e-6)


def test_to_be_near_neighbours_costs_less_than_to_be_near_others():
    near = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    along, across = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    together = contrast(torch.stack([along, along, across]), near)
    apart = contrast(torch.stack([along, across, along]), near)
    assert together < apart
    assert contrast(torch.stack([along, across, along]), torch.zeros(3, 3)) == 0
