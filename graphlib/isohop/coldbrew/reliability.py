"""How credible edges are, judged without anybody saying which are wrong.

A fifth of the edges at a time is left out of the teacher's messages, an edge together with one that
leads back, and each edge that was left out is asked about: how much likelier is its end than a
random node of that type? That is its *evidence*, the logarithm of a ratio. The same is asked about
a random node to which no edge leads from there, and a *share* of such pairs has less evidence. The
share of an edge that leads anywhere is uniform between 0 and 1, that of a true one mostly near 1.
So the density f of shares is a mixture, and of the edges at a share s a part f(0)/f(s) at most
leads anywhere (the local false discovery rate of Efron, JASA 2004; f(0) is what there is below a
half, Storey, JRSS B 2002). The rest is how credible they are, relative to the most credible ones:
where shares are uniform there is nothing to tell edges apart by, and all are credible.

True edges have more evidence than nearly all random ones, and so have wrong ones that the teacher
has learned from: what sets them apart is by how much, so shares are looked at the closer the nearer
they are to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from isohop.coldbrew.links import LinkScore, Query
from isohop.coldbrew.tables import Table
from isohop.engines.arrays import within
from isohop.graph.holdout import reverses

POWERS = (1, 2, 4, 8)
"""Of how credible edges are, by which messages may be weighed: what a wrong one spoils may be more
than what a true one tells."""

PARTS = 5
RANDOM = 256
"""Random nodes that an edge's end is compared with."""
FEW = 25
"""Random edges by which the shares nearest to 1 are told: fewer tell them no further apart."""
SURE = 3
"""Standard errors that there must be more edges at a share than chance would have there."""
FEWEST = 200
"""Edges of a type from which on they are judged."""
ALIKE = 1e-3
"""Evidence is told as so many of these: that of nodes which are all alike differs by rounding."""
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
    anywhere = {
        name: _anywhere(query, edges[name].numpy(), counts, draw) for name, query in asked.items()
    }
    evidence = {name: torch.zeros(2, edges[name].shape[1]) for name in asked}
    for number in range(PARTS):
        without = {
            name: torch.from_numpy(np.flatnonzero(of == number)) for name, of in part.items()
        }
        vectors = vectors_without(without)
        for name, query in asked.items():
            for at in without[name].split(BLOCK):
                source, target = query.ends(edges[name][:, at])
                mine = score.query(name, vectors[query.source][source])
                among = (mine @ vectors[query.target][random[name]].T).logsumexp(1)
                for row, end in enumerate((target, torch.from_numpy(anywhere[name])[at])):
                    likely = (mine * vectors[query.target][end]).sum(1)
                    evidence[name][row, at] = likely - among
    judged = {}
    for name, of in evidence.items():
        # An edge from a node to itself is as near as can be, and says nothing of the others.
        judged[name] = np.ones(of.shape[1], np.float32)
        mine, others = (of / ALIKE).round().numpy()
        there = _there(asked[name], edges[name].numpy(), anywhere[name], counts)
        judged[name][~loops[name]] = credibility(mine[~loops[name]], others[~loops[name] & ~there])
    return {name: torch.from_numpy(of) for name, of in judged.items()}


def _anywhere(
    query: Query, edges: np.ndarray, counts: Mapping[str, int], draw: np.random.Generator
) -> np.ndarray:
    """For the source of each edge a random node of the target's type, int64 (edges,), but for
    itself: there is no edge that is judged which leads from a node to itself."""
    source, _ = query.ends(edges)
    count = counts[query.target]
    if query.source != query.target:
        return draw.integers(0, count, len(source))
    return (source + draw.integers(1, count, len(source))) % count


def _there(
    query: Query, edges: np.ndarray, anywhere: np.ndarray, counts: Mapping[str, int]
) -> np.ndarray:
    """bool (edges,): does an edge lead from the source of each to the node in ``anywhere``? Where
    most pairs are edges, that would be as true as what is judged."""
    source, target = query.ends(edges)
    pairs, drawn = (source * counts[query.target] + end for end in (target, anywhere))
    return within(drawn, np.sort(pairs))


def sharpened(credible: Table, power: int) -> dict[str, Tensor]:
    """What edges of each type weigh, float32 (edges,), one of `POWERS` of how credible they
    are."""
    return {name: of**power for name, of in credible.items()}


def credibility(evidence: np.ndarray, anywhere: np.ndarray) -> np.ndarray:
    """float32 (edges,) of what evidence edges have, float (edges,), and what random ones have
    (``anywhere``, as many or not, or none: then all are credible); never less for more evidence."""
    # To load it takes half a second, and learning alone needs it.
    from scipy.optimize import isotonic_regression

    ordered = np.sort(anywhere)
    less, as_much = (np.searchsorted(ordered, evidence, side) for side in ("left", "right"))
    above = 1 - (less + as_much + 1) / (2 * len(anywhere) + 2)
    # A half of what random edges there are, a half of the rest, and so on.
    last = int(np.log2(max(len(anywhere), FEW) / FEW))
    place = np.minimum(-np.log2(above), last).astype(np.int64)
    width = 0.5 ** np.minimum(np.arange(last + 1) + 1, last)
    density = np.bincount(place, minlength=last + 1) / width / len(evidence)
    density = isotonic_regression(density, weights=width).x
    least = max(float(density[0]), 1.0 / len(evidence))
    # Where nothing tells edges apart a few are the most credible ones by chance.
    by_chance = SURE * np.sqrt(2 / (width * len(evidence)))
    surely = max(float((density - by_chance).max()), least)
    credible, most = (1 - (1 - LEAST) * least / np.maximum(of, least) for of in (density, surely))
    return np.minimum(credible / most, 1)[place].astype(np.float32)
