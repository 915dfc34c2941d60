"""Whether layers still tell nodes apart: three figures a layer.

Deep message passing makes neighbours alike (oversmoothing). *energy*: the Dirichlet energy, mean
over nodes of the squared distance to each neighbour, as a part of the mean squared length; *mad*:
mean average distance, 1 − cosine, of nodes drawn at random (Chen et al., AAAI 2020); *rank*: the
effective rank, exp of the entropy of the singular values (Roy and Vetterli, 2007). Energy and MAD
can stay as they are while accuracy falls; rank follows it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from isohop.coldbrew.figures import LayerFigures
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.tables import Table

DRAWN = 4096
"""Nodes of each type at most by which distance and rank are told."""


def figures_of(
    model: str, graph: MessageGraph, layers: Iterable[Table], seed: int
) -> list[LayerFigures]:
    """Of what nodes hold after each layer of a model, float32 (nodes, d) by type."""
    random = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randperm(count, generator=random)[:DRAWN]
        for name, count in graph.counts.items()
        if count > 1
    }
    return [
        LayerFigures(
            model=model,
            layer=number,
            node_type=name,
            energy=round(energy(graph, held, name), 6),
            mad=round(mean_average_distance(held[name][rows]), 6),
            rank=round(effective_rank(held[name][rows]), 4),
        )
        for number, held in enumerate(layers)
        for name, rows in drawn.items()
    ]


def energy(graph: MessageGraph, held: Table, name: str) -> float:
    """Of the edges at nodes of a type whose other end holds as many dimensions."""
    own = held[name]
    total = torch.zeros(())
    for relation in graph.relations:
        if relation.target != name or held[relation.source].shape[1] != own.shape[1]:
            continue
        source, target = graph.ends(relation)
        for at in torch.arange(len(source)).split(1 << 16):
            apart = held[relation.source][source[at]] - own[target[at]]
            total = total + apart.square().sum()
    return float(total / own.square().sum().clamp(min=1e-12))


def mean_average_distance(values: Tensor) -> float:
    """Of the rows of ``values`` (n, d) to each other, themselves left out."""
    directed = functional.normalize(values, dim=1)
    count = len(directed)
    # The sum over all pairs of a product is the product of the sums.
    same = directed.sum(0).square().sum() - directed.square().sum()
    return float(1 - same / max(1, count * (count - 1)))


def effective_rank(values: Tensor) -> float:
    """Of ``values`` (n, d): 1 where all rows are alike but for length, d at most."""
    singular = torch.linalg.svdvals(values)
    share = singular / singular.sum().clamp(min=1e-12)
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum())) if len(share) else 0.0
