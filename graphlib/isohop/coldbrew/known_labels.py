"""Labels that training knows, as nodes hear them of their neighbours.

What is known of a neighbour's label says more than the teacher can guess of it from features, and
most where edges are wrong: a few labels that agree are hard to mistake. So beside its features a
node holds a vector of its class, if training knows that (UniMP, Shi et al., IJCAI 2021), and
messages carry it on. A node whose answer is learned from is *hidden* in that step: neither it nor
anyone else holds its label, or it would learn to repeat what it is told. What is told of such nodes
in the end comes of passes that hide a fold of them each, so that their vectors say of their label
what those of all other nodes do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.labels import Labels
from isohop.coldbrew.tables import Table
from isohop.graph.earlier import NOBODY

KNOWN = "known."
"""Of the names of these tensors among a teacher's."""
FOLDS = 5
LOUDNESS = 2.0
"""How long the vector of a class is to begin with, beside what a node holds by its features."""
MOST_SCARCE = 0.5
"""`Labels.scarcity` at most: half as many are known as are not."""
FARTHEST = 3.0
"""Deviations that a number is from the mean at most, as neighbours hear it."""
UNKNOWN = -1


def _unknown(values: Tensor) -> float:
    """What stands among such values for a label that is not known."""
    return torch.nan if values.is_floating_point() else UNKNOWN


def moved_labels(state: Mapping[str, Tensor], later: Tensor, nodes: int) -> dict[str, Tensor]:
    """A teacher's tensors, with the labels that it knows where their nodes are now. ``later``:
    int64, the id of each among so many ``nodes``, or `NOBODY`; of a new one none is known."""
    found = dict(state)
    there = torch.nonzero(later != NOBODY)[:, 0]
    for name in (f"{KNOWN}values", f"{KNOWN}folds") if f"{KNOWN}values" in state else ():
        before = state[name]
        found[name] = before.new_full((nodes,), _unknown(before))
        found[name][later[there]] = before[there]
    return found


class KnownLabels(nn.Module):
    """Of ``nodes`` of an ``entity``; ``outputs``: classes, or 1 of a number. Nothing is known at
    first.

    ``values``: int64 (nodes,), a class or `UNKNOWN`; of a number float32, standardised or NaN.
    ``folds``: int8 (nodes,). ``vectors``: float32 (classes, d); of a number one that it scales, and
    one of its being known; 0 until they `begin`, and of a class that comes later.
    """

    values: Tensor
    folds: Tensor

    def __init__(self, entity: str, nodes: int, outputs: int, dimensions: int):
        super().__init__()
        self.entity = entity
        unknown = torch.full((nodes,), UNKNOWN) if outputs > 1 else torch.full((nodes,), torch.nan)
        self.register_buffer("values", unknown)
        self.register_buffer("folds", torch.zeros(nodes, dtype=torch.int8))
        self.vectors = nn.Parameter(torch.zeros(max(outputs, 2), dimensions))

    @classmethod
    def of(cls, labels: Labels, dimensions: int, seed: int) -> KnownLabels:
        """Those of training."""
        nodes, known = len(labels.values), torch.nonzero(labels.train)[:, 0]
        found = cls(labels.entity, nodes, labels.outputs, dimensions)
        found.values[known] = (
            labels.values[known]
            if labels.classes
            else labels.standard(known).clamp(-FARTHEST, FARTHEST)
        )
        draw = torch.Generator().manual_seed(seed)
        found.folds[:] = torch.randint(FOLDS, (nodes,), generator=draw)
        return found

    @property
    def known(self) -> Tensor:
        """Mask (nodes,)."""
        return ~self.values.isnan() if self.values.is_floating_point() else self.values != UNKNOWN

    def begin(self, held: Tensor) -> None:
        """As what sets nodes of a class apart from others; of a number, what those hold that have
        more of it. ``held``: float32 (known nodes, d), by their features, in the order of ids."""
        values, apart = self.values[self.known], held - held.mean(0)
        if values.is_floating_point():
            towards = (values @ apart)[None]
        else:
            towards = torch.zeros_like(self.vectors).index_add(0, values, apart)
        length = LOUDNESS * held.norm(dim=1).mean()
        with torch.no_grad():
            self.vectors[: len(towards)] = length * functional.normalize(towards, dim=1)

    def forward(self, nodes: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """What some ``nodes``, int64 (n,), or all hold of their label, float32 (n, d): nothing of
        one that is not known, or among the ``hidden``, int64 ids."""
        values = self.values if nodes is None else self.values[nodes]
        if hidden is not None:
            values = (
                values.index_fill(0, hidden, _unknown(values))
                if nodes is None
                else values.masked_fill(torch.isin(nodes, hidden), _unknown(values))
            )
        if values.is_floating_point():
            known = ~values.isnan()
            return torch.stack([values.nan_to_num(), known.float()], 1) @ self.vectors
        nothing = torch.zeros(1, self.vectors.shape[1])
        return functional.embedding(values + 1, torch.cat([nothing, self.vectors]))

    def crossed(self, told: Table, without: Callable[[Tensor], Table]) -> dict[str, Tensor]:
        """What is ``told`` where all labels are known; of nodes whose label that is, what is told
        ``without`` those of their fold, given as ids."""
        vectors, known = told[self.entity].clone(), self.known
        for fold in range(FOLDS):
            hidden = torch.nonzero(known & (self.folds == fold))[:, 0]
            if len(hidden):
                vectors[hidden] = without(hidden)[self.entity][hidden]
        return {**told, self.entity: vectors}
