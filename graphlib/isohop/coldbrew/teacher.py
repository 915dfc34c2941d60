"""The teacher: typed message passing with structural embeddings.

X^{l+1} = σ(layer(X^l + E^l)), with E^l a free vector a node: what its place in the graph says
beyond its features (Zheng et al., section 3.2). Nodes of low degree have none. Trained by link
prediction, and on a label where the pipeline names one; the edges of a step are left out of its
messages, so that no edge helps to predict itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.links import LinkScore
from isohop.coldbrew.message_passing import MessageGraph, RelationalLayer, relations_of
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.tables import Table, mlp, module_key


class Teacher(nn.Module):
    """Vectors of all nodes, float32 (nodes, d) at length 1 by type, from features and edges.

    ``structural``: node type -> int64 ids of the nodes with structural embeddings.
    """

    def __init__(
        self,
        inputs: Inputs,
        structural: Mapping[str, Tensor],
        settings: DistillSettings,
        classes: int = 0,
    ):
        super().__init__()
        d = settings.dimensions
        self.dropout = settings.dropout
        self.project = nn.ModuleDict(
            {
                module_key(name): nn.Sequential(mlp(x.shape[1], d, self.dropout), nn.LayerNorm(d))
                for name, x in inputs.features.items()
            }
        )
        relations = relations_of(inputs.edge_types)
        names = tuple(inputs.counts)
        self.layers = nn.ModuleList(
            RelationalLayer(names, relations, d, settings.initial_residual)
            for _ in range(settings.layers)
        )
        self.structural = nn.ParameterList(
            nn.ParameterDict(
                {
                    module_key(name): nn.Parameter(torch.zeros(len(structural[name]), d))
                    for name in names
                }
            )
            for _ in range(settings.layers)
        )
        for name in names:
            self.register_buffer(f"nodes_{module_key(name)}", structural[name])
        self.out = nn.ModuleDict({module_key(name): nn.Linear(d, d) for name in names})
        self.score = LinkScore(tuple(inputs.edge_types), d, "distmult", settings.scale)
        self.classify = nn.Linear(d, classes) if classes else None

    def forward(
        self, graph: MessageGraph, features: Table, weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        initial = {
            name: self.project[module_key(name)](functional.dropout(x, self.dropout, self.training))
            for name, x in features.items()
        }
        h: dict[str, Tensor] = initial
        for layer, structural in zip(self.layers, self.structural, strict=True):
            placed = {
                name: values.index_add(
                    0, self.get_buffer(f"nodes_{module_key(name)}"), structural[module_key(name)]
                )
                for name, values in h.items()
            }
            h = {n: functional.relu(v) for n, v in layer(graph, placed, initial, weights).items()}
        return {
            name: functional.normalize(self.out[module_key(name)](values), dim=1)
            for name, values in h.items()
        }

    def penalty(self) -> Tensor:
        """Mean over nodes of ‖E‖²."""
        squares = [e.square().sum() for layer in self.structural for e in layer.values()]
        nodes = sum(len(e) for e in self.structural[0].values())
        return torch.stack(squares).sum() / max(nodes, 1)


def structural_nodes(graph: MessageGraph, degree: int) -> dict[str, Tensor]:
    """The nodes of each type that have at least ``degree`` edges."""
    return {
        name: torch.nonzero(degrees >= degree)[:, 0] for name, degrees in graph.degrees().items()
    }
