"""Typed message passing over the whole graph; the one module that knows DGL.

Each edge type is used in both directions, as two relations with weights of their own (R-GCN,
Schlichtkrull et al., ESWC 2018); a relation takes the mean over its neighbours (GraphSAGE, Hamilton
et al., NeurIPS 2017). Edges can be left out of a pass by weight: the structure is built once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

os.environ.setdefault("DGLBACKEND", "pytorch")
import dgl
from dgl.ops import copy_u_mean, u_mul_e_sum

from isohop.coldbrew.tables import Table, module_key


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


class MessageGraph:
    """The typed adjacency that messages pass over.

    ``counts``: nodes per type. ``edge_types``: name -> (source type, target type). ``edges``: name
    -> int64 (2, edges) tensor of source and target ids, for the edge types in ``edge_types``.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        edge_types: Mapping[str, tuple[str, str]],
        edges: Mapping[str, Tensor],
    ):
        self.counts = dict(counts)
        self.relations = relations_of(edge_types)
        self._edges = {name: edges[name] for name in edge_types}
        ends = {name: index.to(torch.int32) for name, index in self._edges.items()}
        data = {
            (relation.source, relation.name, relation.target): (
                ends[relation.edge_type][int(relation.reverse)],
                ends[relation.edge_type][int(not relation.reverse)],
            )
            for relation in self.relations
        }
        self._graphs = {}
        if data:
            graph = dgl.heterograph(data, self.counts, idtype=torch.int32)
            self._graphs = {
                relation.name: graph[relation.source, relation.name, relation.target]
                for relation in self.relations
            }

    def degrees(self) -> dict[str, Tensor]:
        """int64 (nodes,) per type: edges of all types, both directions."""
        degree = {
            name: torch.zeros(count, dtype=torch.int64) for name, count in self.counts.items()
        }
        for relation in self.relations:
            ends = self._edges[relation.edge_type][int(not relation.reverse)]
            degree[relation.target] += torch.bincount(ends, minlength=self.counts[relation.target])
        return degree

    def keep_weights(self, left_out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights that make `mean` leave edges out: per relation float32 (edges, 1).

        ``left_out``: edge type -> positions of edges. Only the edge types named get weights.
        """
        weights = {}
        for relation in self.relations:
            if relation.edge_type not in left_out:
                continue
            ends = self._edges[relation.edge_type][int(not relation.reverse)]
            keep = torch.ones(len(ends))
            keep[left_out[relation.edge_type]] = 0.0
            degree = torch.bincount(ends, keep, minlength=self.counts[relation.target])
            weights[relation.name] = (keep / degree.clamp(min=1.0)[ends])[:, None]
        return weights

    def mean(self, relation: Relation, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean of the neighbours' ``values`` (sources, d) at each target (targets, d), or 0."""
        graph = self._graphs[relation.name]
        if weights is None:
            return copy_u_mean(graph, values)
        return u_mul_e_sum(graph, values, weights)


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
            {module_key(name): nn.Linear(dimensions, dimensions) for name in node_types}
        )
        self.relation = nn.ModuleDict(
            {
                module_key(relation.name): nn.Linear(dimensions, dimensions, bias=False)
                for relation in relations
            }
        )
        self.norm = nn.ModuleDict(
            {module_key(name): nn.LayerNorm(dimensions) for name in node_types}
        )

    def forward(
        self, graph: MessageGraph, h: Table, initial: Table, weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        out = {name: self.own[module_key(name)](values) for name, values in h.items()}
        for relation in graph.relations:
            message = graph.mean(relation, h[relation.source], weights.get(relation.name))
            out[relation.target] = out[relation.target] + self.relation[module_key(relation.name)](
                message
            )
        α = self.initial_residual
        return {
            name: self.norm[module_key(name)]((1 - α) * values + α * initial[name])
            for name, values in out.items()
        }
