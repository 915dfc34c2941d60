"""A sample of a large graph: what a step needs of it to tell the vectors of some nodes.

A node hears as many of its neighbours as ``fanout`` says, over all relations; these hear theirs, a
quarter as many, and so on for as many hops as messages come from: what is far away says less, and
is more. Who is heard is drawn, an edge with probability inverse to the mean
fan-out of its relation: else fifty actors would drown one director. Within a relation all
neighbours are as likely, so that the mean of those that are heard is that of all; where it is known
how credible edges are, it weighs them as it does in the whole graph.

The last layer is asked about the seeds alone, the one before about whom these hear, and so on: each
has a graph of its own, and most nodes are met in the first alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from isohop.coldbrew.message_passing import (
    MessageGraph,
    Relation,
    RelationGraph,
    Weights,
    mean_of,
)
from isohop.engines.arrays import distinct, within

FEWER = 4
"""Of how many neighbours that a node hears one further away hears one."""


Layer: TypeAlias = tuple[RelationGraph, Weights]


@dataclass(frozen=True)
class Sample:
    """``nodes``: int64 ids by type, distinct: first the seeds, ascending, and then what is met with
    each hop, ascending too. ``layers``: what each layer passes over, a node numbered by its place;
    as many nodes as hear any there are told of by the next."""

    nodes: Mapping[str, Tensor]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class _Incoming:
    """A relation's edges in the order of their targets: those at node v lie from ``start[v]`` to
    ``start[v + 1]``. ``position``: of each in its edge type. ``likely``: how likely an edge is
    heard, relative to others."""

    relation: Relation
    start: np.ndarray
    source: np.ndarray
    position: np.ndarray
    likely: float

    @classmethod
    def of(cls, relation: Relation, graph: MessageGraph) -> _Incoming:
        source, target = (end.numpy() for end in graph.ends(relation))
        heard = np.arange(len(source))
        if relation.edge_type in graph.loops:
            heard = np.flatnonzero(~graph.loops[relation.edge_type].numpy())
        degree = np.bincount(target[heard], minlength=graph.counts[relation.target])
        order = heard[np.argsort(target[heard], kind="stable")]
        start = np.concatenate([[0], np.cumsum(degree)])
        return cls(relation, start, source[order], order, (degree > 0).sum() / max(len(heard), 1))

    def degree(self, nodes: np.ndarray) -> np.ndarray:
        return self.start[nodes + 1] - self.start[nodes]


class _Met:
    """The nodes of a type that are met: ``by_hop`` int64 ids, ascending, the seeds first, of those
    that were not met before."""

    def __init__(self, seeds: np.ndarray):
        self._known = distinct(seeds)
        self.by_hop = [self._known]

    def meet(self, ids: np.ndarray) -> None:
        """One hop further."""
        ids = distinct(ids)
        new = ids[~within(ids, self._known)]
        self.by_hop.append(new)
        self._known = np.sort(np.concatenate([self._known, new]))

    @cached_property
    def ids(self) -> np.ndarray:
        """Of all, once there are no more hops."""
        return np.concatenate(self.by_hop)

    @cached_property
    def _place(self) -> np.ndarray:
        return np.argsort(self.ids)

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Where in `ids` they are."""
        return self._place[np.searchsorted(self._known, ids)]

    def until(self, hop: int) -> int:
        """How many are met until then."""
        return sum(map(len, self.by_hop[: hop + 1]))


class _Heard(NamedTuple):
    """Edges of a relation, (edges,) each: ``source`` and ``target``, ``position`` in its edge type,
    and what share of the target's edges were ``drawn``."""

    relation: Relation
    source: np.ndarray
    target: np.ndarray
    position: np.ndarray
    drawn: np.ndarray


class Sampler:
    """Draws samples of a graph, ``hops`` wide: ``fanout`` neighbours a node at most, a quarter as
    many for each hop that the node is away."""

    def __init__(self, graph: MessageGraph, fanout: int, hops: int):
        self.counts = graph.counts
        self.relations = graph.relations
        self.credible = graph.credible
        self.fanout = fanout
        self.hops = hops
        self._into: dict[str, list[_Incoming]] = {name: [] for name in graph.counts}
        for relation in graph.relations:
            self._into[relation.target].append(_Incoming.of(relation, graph))

    def sample(
        self,
        seeds: Mapping[str, np.ndarray],
        left_out: Mapping[str, np.ndarray],
        draw: np.random.Generator,
    ) -> Sample:
        """Around ``seeds``, int64 ids by type, which need not be distinct. ``left_out``: edge type
        -> positions of edges that nobody hears."""
        gone = {name: np.sort(at) for name, at in left_out.items()}
        nothing = np.zeros(0, np.int64)
        met = {name: _Met(seeds.get(name, nothing)) for name in self.counts}
        heard: dict[str, list[_Heard]] = {relation.name: [] for relation in self.relations}
        for hop in range(self.hops):
            fanout = max(1, self.fanout // FEWER**hop)
            found: dict[str, list[np.ndarray]] = {name: [] for name in self.counts}
            for name, of in met.items():
                for one in self._heard(name, of.by_hop[hop], fanout, gone, draw):
                    heard[one.relation.name].append(one)
                    found[one.relation.source].append(one.source)
            for name, sources in found.items():
                met[name].meet(np.concatenate([nothing, *sources]))
        ids = {name: torch.from_numpy(of.ids) for name, of in met.items()}
        return Sample(ids, self._layers(met, heard))

    def _layers(
        self, met: Mapping[str, _Met], heard: Mapping[str, list[_Heard]]
    ) -> tuple[Layer, ...]:
        """``heard``: by relation, one for each hop."""
        ends, means, sizes = {}, {}, {}
        for relation in self.relations:
            parts = heard[relation.name]
            source, target, position, drawn = (
                np.concatenate([getattr(part, of) for part in parts])
                for of in ("source", "target", "position", "drawn")
            )
            at = torch.from_numpy(met[relation.target].places(target))
            ends[relation.name] = torch.from_numpy(met[relation.source].places(source)), at
            sizes[relation.name] = np.cumsum([len(part.source) for part in parts])
            if relation.edge_type in self.credible:
                keep = self.credible[relation.edge_type][torch.from_numpy(position)]
                total = torch.bincount(at, keep, minlength=len(met[relation.target].ids))
                means[relation.name] = mean_of(keep, total[at], torch.from_numpy(drawn).float())
        layers = []
        for hop in reversed(range(self.hops)):
            size = {name: int(of[hop]) for name, of in sizes.items()}
            some = {
                n: (source[: size[n]], target[: size[n]]) for n, (source, target) in ends.items()
            }
            counts, into = ({n: of.until(k) for n, of in met.items()} for k in (hop + 1, hop))
            weights = Weights({n: weights[: size[n]] for n, weights in means.items()}, {}, {})
            layers.append((RelationGraph(counts, self.relations, some, into), weights))
        return tuple(layers)

    def _heard(
        self,
        name: str,
        nodes: np.ndarray,
        fanout: int,
        gone: Mapping[str, np.ndarray],
        draw: np.random.Generator,
    ) -> list[_Heard]:
        """By relation, the edges at ``nodes`` of a type that are heard."""
        incoming = self._into[name]
        if not incoming:
            return []
        degree = np.stack([one.degree(nodes) for one in incoming], 1)
        few = degree.sum(1) <= fanout
        many = np.flatnonzero(~few)
        mass = np.cumsum(degree[many] * np.array([one.likely for one in incoming]), 1)
        drawn = draw.random((len(many), fanout, 2))
        which = (drawn[:, :, :1] * mass[:, None, -1:] >= mass[:, None, :]).sum(2)
        found = []
        for number, one in enumerate(incoming):
            row, slot = np.nonzero(which == number)
            at = many[row]
            offset = (drawn[row, slot, 1] * degree[at, number]).astype(np.int64)
            some = one.start[nodes[at]] + np.minimum(offset, degree[at, number] - 1)
            all_, size = one.start[nodes[few]], degree[few, number]
            before = np.repeat(np.cumsum(size) - size, size)
            every = np.repeat(all_, size) + np.arange(size.sum()) - before
            # An edge that is drawn twice is heard once.
            places = distinct(np.concatenate([every, some[degree[at, number] > 0]]))
            target = np.searchsorted(one.start, places, side="right") - 1
            position = one.position[places]
            # They are in the order of their targets.
            count = np.searchsorted(target, target, "right") - np.searchsorted(target, target)
            edges = [one.source[places], target, position, count / one.degree(target)]
            out = gone.get(one.relation.edge_type)
            if out is not None:
                stays = ~within(position, out)
                edges = [of[stays] for of in edges]
            found.append(_Heard(one.relation, *edges))
        return found
