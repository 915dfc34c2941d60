"""Tables of vectors by node type, and the parts that models of them are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.beginning import begin_with_nothing
from isohop.coldbrew.dropout import Dropout

Table = Mapping[str, Tensor]
"""Node type -> float32 (nodes, d)."""


def module_key(name: str) -> str:
    """A node or edge type's name as the name of a torch module, which may contain no dot and be no
    attribute of what holds it."""
    return "@" + name.replace("%", "%25").replace(".", "%2E")


def unit(table: Table) -> dict[str, Tensor]:
    """All vectors at length 1."""
    return {name: functional.normalize(values, dim=1) for name, values in table.items()}


def joined(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Two vectors of each row beside each other, float32 (n, d) and (n, d) -> (n, 2d) at length 1:
    inner products of such are the mean of those of both, of which the ``other``'s count for a
    ``share``."""
    both = torch.cat([(1 - share) ** 0.5 * one, share**0.5 * other], 1)
    return functional.normalize(both, dim=1)


BLOCK = 1 << 12
"""Rows whose hidden layer finds room in a core's cache."""


def by_blocks(function: Callable[..., Tensor], *tables: Tensor) -> Tensor:
    """A function of rows, of all rows of ``tables``, a block at a time: its parts wait in a cache
    for each other, not in memory that the system gives and takes back; and without gradients no
    more of it is needed than for a block."""
    blocks = zip(*(table.split(BLOCK) for table in tables), strict=True)
    return torch.cat([function(*block) for block in blocks])


HIDDEN = 256


def mlp(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """float32 (n, inputs) -> (n, outputs), with one hidden layer."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.LayerNorm(HIDDEN),
        nn.ReLU(),
        Dropout(dropout),
        nn.Linear(HIDDEN, outputs),
    )


class ResidualMLP(nn.Module):
    """float32 (n, inputs) -> (n, outputs): a linear layer, and what an `mlp` adds to it, which at
    first is nothing."""

    of_outputs = ("linear.", "added.4.")
    """What names of the parameters begin with that have a row for each output."""

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.added = mlp(inputs, outputs, dropout)
        begin_with_nothing(self.added[-1])

    def forward(self, values: Tensor) -> Tensor:
        told: Tensor = self.linear(values) + self.added(values)
        return told
