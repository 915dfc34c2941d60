"""Typed message passing, over the whole graph or a sample of it; the one module that knows DGL.

Each edge type is used in both directions, as two relations with weights of their own (R-GCN,
Schlichtkrull et al., ESWC 2018); a relation takes the mean over its neighbours (GraphSAGE, Hamilton
et al., NeurIPS 2017), weighted by how credible their edges are where that is known. Edges can be
left out of a pass by weight: the structure is built once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

os.environ.setdefault("DGLBACKEND", "pytorch")
import dgl
from dgl.ops import copy_u_mean, u_mul_e_sum

from isohop.coldbrew.beginning import begin_as_identity
from isohop.coldbrew.tables import Table, module_key
from isohop.graph.holdout import reverses


@dataclass(frozen=True)
class Relation:
    """An edge type seen in one direction: messages go from ``source`` to ``target``."""

    edge_type: str
    source: str
    target: str
    reverse: bool

    @property
    def name(self) -> str:
        return f"{self.edge_type}^-1" if self.reverse else self.edge_type


def relations_of(edge_types: Mapping[str, tuple[str, str]]) -> tuple[Relation, ...]:
    """Both directions of each edge type, given as name -> (source, target)."""
    return tuple(
        relation
        for name, (source, target) in edge_types.items()
        for relation in (
            Relation(name, source, target, reverse=False),
            Relation(name, target, source, reverse=True),
        )
    )


@dataclass(frozen=True)
class Weights:
    """Of the edges in a pass. ``means``: by relation float32 (edges, 1), what makes a sum a mean,
    where edges do not all weigh the same; ``kept``: by relation float32 (edges,); ``sums``: of
    ``kept`` by edge type and the node type at its end, float32 (nodes,)."""

    means: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    sums: Mapping[tuple[str, str], Tensor]


def mean_of(weights: Tensor, totals: Tensor, all_of_them: Tensor | None = None) -> Tensor:
    """What makes a sum over edges a mean, float32 (edges, 1): ``weights`` of ``totals`` at their
    targets, (edges,) each. Of one edge that is believed by a half, half of what it says: in a mean
    whose weights sum up to 1 it would say as much as a sure one. ``all_of_them``: (edges,), what
    share of a target's edges these are."""
    least = torch.ones(()) if all_of_them is None else all_of_them
    return (weights / totals.clamp(min=least))[:, None]


Ends = Mapping[str, tuple[Tensor, Tensor]]
"""By relation: sources and targets of its edges, (edges,) each."""


class RelationGraph:
    """The structure that messages pass over. ``counts``: nodes per type; ``into``: how many of
    them, the first, hear any, where not all do."""

    def __init__(
        self,
        counts: Mapping[str, int],
        relations: tuple[Relation, ...],
        ends: Ends,
        into: Mapping[str, int] | None = None,
    ):
        self.counts = dict(counts)
        self.into = self.counts if into is None else dict(into)
        self.relations = relations
        self._graphs = {
            relation.name: dgl.heterograph(
                {("source", "tells", "target"): _int32(ends[relation.name])},
                {"source": self.counts[relation.source], "target": self.into[relation.target]},
                idtype=torch.int32,
            )
            for relation in relations
        }

    def mean(self, relation: Relation, values: Tensor, weights: Weights) -> Tensor:
        """Mean of the neighbours' ``values`` (sources, d) at each target that hears any, (targets,
        d), or 0."""
        graph = self._graphs[relation.name]
        if relation.name not in weights.means:
            return copy_u_mean(graph, values)
        return u_mul_e_sum(graph, values, weights.means[relation.name])


def _int32(ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    source, target = ends
    return source.to(torch.int32), target.to(torch.int32)


class MessageGraph(RelationGraph):
    """The typed adjacency of a whole graph.

    An edge from a node to itself passes no message and is no part of a degree.
    ``edge_types``: name -> (source type, target type). ``edges``: name -> int64 (2, edges) tensor
    of source and target ids, for the edge types in ``edge_types``. ``credible``: name -> float32
    (edges,) from 0 to 1, of the edge types where it is known. ``unheard``: node type -> the id
    from which on its nodes send no messages.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        edge_types: Mapping[str, tuple[str, str]],
        edges: Mapping[str, Tensor],
        credible: Mapping[str, Tensor] | None = None,
        unheard: Mapping[str, int] | None = None,
    ):
        self.edges = {name: edges[name] for name in edge_types}
        relations = relations_of(edge_types)
        super().__init__(counts, relations, {one.name: self.ends(one) for one in relations})
        self.credible = dict(credible or {})
        self._unheard = dict(unheard or {})
        self._whole: Weights | None = None

    def weighed(self, credible: Mapping[str, Tensor]) -> MessageGraph:
        """The same structure, whose edges are as ``credible`` as that says."""
        found = copy(self)
        found.credible, found._whole = dict(credible), None
        return found

    def ends(self, relation: Relation) -> tuple[Tensor, Tensor]:
        """Sources and targets of a relation's edges, int64 (edges,) each."""
        source, target = self.edges[relation.edge_type]
        return (target, source) if relation.reverse else (source, target)

    def degrees(self) -> dict[str, Tensor]:
        """int64 (nodes,) per type: edges of all types, both directions."""
        degree = {
            name: torch.zeros(count, dtype=torch.int64) for name, count in self.counts.items()
        }
        for relation in self.relations:
            target = self.ends(relation)[1]
            if relation.edge_type in self.loops:
                target = target[~self.loops[relation.edge_type]]
            degree[relation.target] += torch.bincount(
                target, minlength=self.counts[relation.target]
            )
        return degree

    def degrees_in(self, weights: Weights) -> dict[str, Tensor]:
        """float32 (nodes,) per type: as `degrees`, each edge as much as it weighs in a pass."""
        degree = {name: torch.zeros(count) for name, count in self.counts.items()}
        for (_, target), total in weights.sums.items():
            degree[target] += total
        return degree

    @cached_property
    def loops(self) -> dict[str, Tensor]:
        """By edge type which edges lead from a node to itself, bool (edges,), of those where any
        does. They weigh nothing: a node hears itself anyway."""
        within = {r.edge_type for r in self.relations if r.source == r.target}
        found = {name: torch.eq(*self.edges[name]) for name in sorted(within)}
        return {name: loops for name, loops in found.items() if loops.any()}

    @cached_property
    def _reverses(self) -> dict[str, Tensor]:
        """By edge type `reverses`, of those where any edge has one."""
        found = {}
        for relation in self.relations:
            if relation.source == relation.target and not relation.reverse:
                ends = self.edges[relation.edge_type].numpy()
                back = reverses(ends, self.counts[relation.source])
                if (back != np.arange(len(back))).any():
                    found[relation.edge_type] = torch.from_numpy(back)
        return found

    def both_ways(self, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By edge type positions of edges, not distinct: these, and of those that lead back."""
        known = self._reverses
        return {
            name: torch.cat([at, known[name][at]]) if name in known else at
            for name, at in positions.items()
        }

    def weights(self, left_out: Mapping[str, Tensor]) -> Weights:
        """The weights of a pass. ``left_out``: edge type -> positions of edges that it leaves
        out."""
        if not left_out and self._whole is not None:
            return self._whole
        means: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        sums: dict[tuple[str, str], Tensor] = {}
        of_type: dict[str, Tensor] = {}
        for relation in self.relations:
            name = relation.edge_type
            if name not in of_type:
                known = self.credible.get(name)
                keep = torch.ones(self.edges[name].shape[1]) if known is None else known.clone()
                if name in left_out:
                    keep[left_out[name]] = 0.0
                if name in self.loops:
                    keep[self.loops[name]] = 0.0
                of_type[name] = keep
            keep = of_type[name]
            source, target = self.ends(relation)
            from_on = self._unheard.get(relation.source)
            if from_on is not None:
                keep = keep.masked_fill(source >= from_on, 0.0)
            total = torch.bincount(target, keep, minlength=self.counts[relation.target])
            uneven = any(name in of for of in (left_out, self.credible, self.loops))
            if uneven or from_on is not None:
                means[relation.name] = mean_of(keep, total[target])
            kept[relation.name] = keep
            at = (name, relation.target)
            sums[at] = sums[at] + total if at in sums else total
        found = Weights(means, kept, sums)
        if not left_out:
            self._whole = found
        return found

    def hops(self, values: Table, weights: Weights, count: int) -> list[dict[str, Tensor]]:
        """All of a `walk`."""
        return list(self.walk(values, weights, count))

    def walk(self, values: Table, weights: Weights, count: int) -> Iterator[dict[str, Tensor]]:
        """Where a walk that learns nothing is after 0, 1, ... ``count`` steps."""
        own, shares = self.step(weights)
        last = dict(values)
        yield last
        for _ in range(count):
            at = {name: own[name] * held for name, held in last.items()}
            for relation, share in zip(self.relations, shares, strict=True):
                graph, held = self._graphs[relation.name], last[relation.source]
                at[relation.target] = at[relation.target] + u_mul_e_sum(graph, held, share)
            last = at
            yield last

    def step(self, weights: Weights) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What a node keeps of its own in a step of the walk, float32 (nodes, 1) by type, and what
        each edge of a relation carries, (edges, 1), in the order of relations.

        It is a step of a GCN (Kipf and Welling, ICLR 2017) over each edge type by itself, the node
        a neighbour of its own, and the mean over the edge types that a node has. Both directions of
        an edge type between nodes of one type are one. A node without edges keeps what it holds.
        """
        own = {name: torch.zeros(nodes) for name, nodes in self.counts.items()}
        types = {name: torch.zeros(nodes) for name, nodes in self.counts.items()}
        for (_, name), total in weights.sums.items():
            types[name] += total > 0
            own[name] += torch.where(total > 0, 1 / (total + 1), 0.0)
        kept = {n: torch.where(types[n] > 0, own[n] / types[n], 1.0)[:, None] for n in own}
        shares = []
        for relation in self.relations:
            source, target = self.ends(relation)
            ends = weights.sums[relation.edge_type, relation.source][source]
            ends = (ends + 1) * (weights.sums[relation.edge_type, relation.target][target] + 1)
            share = weights.kept[relation.name] / ends.sqrt()
            shares.append((share / types[relation.target][target].clamp(min=1.0))[:, None])
        return kept, shares


class RelationalLayer(nn.Module):
    """One hop: own value and the mean of each relation's neighbours, each with its own weights.

    ``h' = norm((1 - α)(h W_self + Σ_r mean_r(h) W_r) + α h⁰)`` with the initial residual of GCNII
    (Chen et al., ICML 2020) and a layer normalisation per node type.
    """

    def __init__(
        self,
        node_types: tuple[str, ...],
        relations: tuple[Relation, ...],
        dimensions: int,
        initial_residual: float,
    ):
        super().__init__()
        self.initial_residual = initial_residual
        self.own = nn.ModuleDict(
            {
                module_key(name): begin_as_identity(nn.Linear(dimensions, dimensions))
                for name in node_types
            }
        )
        self.relation = nn.ModuleDict(
            {
                module_key(relation.name): begin_as_identity(
                    nn.Linear(dimensions, dimensions, bias=False)
                )
                for relation in relations
            }
        )
        self.norm = nn.ModuleDict(
            {module_key(name): nn.LayerNorm(dimensions) for name in node_types}
        )

    def forward(
        self, graph: RelationGraph, h: Table, initial: Table, weights: Weights
    ) -> dict[str, Tensor]:
        """Of nodes that hear any."""
        into = graph.into
        out = {name: self.own[module_key(name)](held[: into[name]]) for name, held in h.items()}
        for relation in graph.relations:
            message = graph.mean(relation, h[relation.source], weights)
            out[relation.target] = out[relation.target] + self.relation[module_key(relation.name)](
                message
            )
        α = self.initial_residual
        return {
            name: self.norm[module_key(name)]((1 - α) * values + α * initial[name][: into[name]])
            for name, values in out.items()
        }
