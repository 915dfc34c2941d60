"""What models begin as: what can be told before anything is learned.

Features of all node types come from one encoder, so that what is alike has like features whatever
its type. A teacher begins as a walk over them: layers that read features as one orthogonal map,
the same for all types, which keeps near what is near; layers between vectors as the identity; so
both ends of an edge are in one space from the first step on. Begun at random each type is in a
space of its own, and most of the steps go into finding back what was known (`docs/measured.md` has
what that costs). Hidden layers beside a linear one add nothing at first. What learns the teacher's
vectors begins as the best linear map to them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

RIDGE = 1e-3
"""Of the variance of a feature, by which the best linear map is held small."""
FLOOR = 1e-9


def begin_alike(layers: Iterable[nn.Linear]) -> None:
    """Those that read equally many features begin as the same orthogonal map."""
    first: dict[torch.Size, Tensor] = {}
    for layer in layers:
        shape = layer.weight.shape
        if shape not in first:
            first[shape] = nn.init.orthogonal_(layer.weight).detach().clone()
        with torch.no_grad():
            layer.weight.copy_(first[shape])
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def begin_as_identity(layer: nn.Linear) -> nn.Linear:
    nn.init.eye_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def begin_with_nothing(layer: nn.Module) -> None:
    """As the map to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def begin_as_best(layer: nn.Linear, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """As the linear map from features, float32 (n, d_in), that is nearest to what is wanted,
    (n, d), by least squares with a `RIDGE`. ``pairs``: of both, a part of the rows each, so that
    however many need little room. Of no rows it stays as it is."""
    width, outputs = layer.in_features, layer.out_features
    gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    cross = torch.zeros(width + 1, outputs, dtype=torch.float64)
    for features, wanted in pairs:
        x = functional.pad(features.double(), (0, 1), value=1.0)
        gram += x.T @ x
        cross += x.T @ wanted.double()
    rows, total, squares = gram[-1, -1], gram[-1, :-1], gram.diagonal()[:-1].sum()
    if not rows:
        return
    spread = squares - total.square().sum() / rows
    # Features that do not differ at all say nothing, and have no best map without some ridge.
    held = (RIDGE * spread + FLOOR * squares) / width + torch.finfo(torch.float32).tiny
    gram.diagonal()[:-1] += held
    found = torch.linalg.solve(gram, cross).T
    with torch.no_grad():
        layer.weight.copy_(found[:, :-1])
        layer.bias.copy_(found[:, -1])
