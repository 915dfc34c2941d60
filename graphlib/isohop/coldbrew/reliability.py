"""How credible edges are, judged without anybody saying which are wrong.

A fifth of the edges at a time is left out of the teacher's messages, an edge together with one that
leads back, and each edge that was left out is asked about: what share of random nodes of its end's
type is less likely to be there? An edge that leads anywhere is as likely as any: its share is
uniform between 0 and 1. That of a true edge is mostly near 1. So the density f of shares is a
mixture, and of the edges at a share s a part f(0)/f(s) at most leads anywhere (the local false
discovery rate of Efron, JASA 2004). The rest is how credible they are, relative to the most
credible ones: where shares are uniform there is nothing to tell edges apart by, and all are
credible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from isohop.coldbrew.links import LinkScore, Query
from isohop.coldbrew.tables import Table
from isohop.giant.evaluation import ROUNDING
from isohop.graph.holdout import reverses

POWERS = (1, 2, 4, 8)
"""Of how credible edges are, by which messages may be weighed: what a wrong one spoils may be more
than what a true one tells."""

PARTS = 5
RANDOM = 256
"""Random nodes that an edge's end is compared with."""
BINS = 20
FEWEST = 200
"""Edges of a type from which on they are judged."""
LEAST = 0.05
"""What is left of an edge that leads anywhere: nobody is sure of that."""
BLOCK = 1 << 14


def credible_edges(
    queries: tuple[Query, ...],
    edges: Mapping[str, Tensor],
    counts: Mapping[str, int],
    vectors_without: Callable[[Mapping[str, Tensor]], Table],
    score: LinkScore,
    seed: int,
) -> dict[str, Tensor]:
    """Edge type -> float32 (edges,), from `LEAST` to 1; of types with few edges, nothing.

    ``vectors_without``: the teacher's vectors where edges at these positions pass no messages.
    """
    asked: dict[str, Query] = {}
    loops: dict[str, np.ndarray] = {}
    for query in queries:
        ends = edges[query.edge_type].numpy()
        itself = np.equal(*ends) & (query.source == query.target)
        if np.count_nonzero(~itself) >= FEWEST:
            asked.setdefault(query.edge_type, query)
            loops[query.edge_type] = itself
    if not asked:
        return {}
    draw = np.random.default_rng([seed, 70])
    part = {name: draw.integers(0, PARTS, edges[name].shape[1]) for name in asked}
    for name, query in asked.items():
        if query.source == query.target:
            back = reverses(edges[name].numpy(), counts[query.source])
            part[name] = part[name][np.minimum(back, np.arange(len(back)))]
    random = {
        name: torch.from_numpy(draw.integers(0, counts[query.target], RANDOM))
        for name, query in asked.items()
    }
    # Among nodes that are as likely as the true end, its place is drawn: so that of an end that
    # could be any node, the share is uniform whatever scores there are.
    shares = {name: draw.random(edges[name].shape[1]) for name in asked}
    for number in range(PARTS):
        without = {
            name: torch.from_numpy(np.flatnonzero(of == number)) for name, of in part.items()
        }
        vectors = vectors_without(without)
        for name, query in asked.items():
            for at in without[name].split(BLOCK):
                source, target = query.ends(edges[name][:, at])
                mine = score.query(name, vectors[query.source][source])
                true = (mine * vectors[query.target][target]).sum(1, keepdim=True)
                false = mine @ vectors[query.target][random[name]].T
                # Equal vectors have scores that differ by rounding, as in `ranks`.
                same = ROUNDING * (1 + true.abs())
                outcomes = false < true - same, (false - true).abs() <= same
                less, equal = (outcome.float().mean(1).numpy() for outcome in outcomes)
                shares[name][at.numpy()] = less + shares[name][at.numpy()] * equal
    judged = {}
    for name, of in shares.items():
        # An edge from a node to itself is as near as can be, and says nothing of the others.
        judged[name] = np.ones(len(of), np.float32)
        judged[name][~loops[name]] = credibility(of[~loops[name]])
    return {name: torch.from_numpy(of) for name, of in judged.items()}


def sharpened(credible: Table, power: int) -> dict[str, Tensor]:
    """What edges of each type weigh, float32 (edges,), one of `POWERS` of how credible they
    are."""
    return {name: of**power for name, of in credible.items()}


def credibility(shares: np.ndarray) -> np.ndarray:
    """float32 (edges,) of shares (edges,) from 0 to 1; never less for a higher share."""
    # To load it takes half a second, and learning alone needs it.
    from scipy.optimize import isotonic_regression

    place = np.minimum((shares * BINS).astype(np.int64), BINS - 1)
    density = np.bincount(place, minlength=BINS) * BINS / len(shares)
    density = isotonic_regression(density).x
    least = max(float(density[0]), 1.0 / len(shares))
    credible = 1 - (1 - LEAST) * least / np.maximum(density, least)
    return (credible / credible.max())[place].astype(np.float32)
