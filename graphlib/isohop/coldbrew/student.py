"""The student: vectors from features alone, by way of latent neighbours.

ê = MLP₁(x) learns the teacher's vector Ē from every node that has edges. The connected nodes whose
Ē are nearest to ê are its latent neighbours, ẽ = softmax(top-K ⟨ê, Ē⟩) Ē, and MLP₂([x, g ẽ]) gives
the vector (Zheng et al., section 3.3; the gate g is ours). It learns Ē, and the teacher's own task
besides, by the teacher's own scores. A node is no latent neighbour of itself in training, since a
new node will not be either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.beginning import begin_alike, begin_as_best
from isohop.coldbrew.dropout import dropout
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.tables import ResidualMLP, Table, by_blocks, module_key

BLOCK = 1 << 12
"""Rows that are looked for at once."""


SHUT = -1.4
"""Of the gate at first: a fifth of ẽ comes in. Vectors of length 1 would outweigh the features of a
node from the first step on."""


class GatedMLP(nn.Module):
    """MLP₂ of one node type: [x, ẽ], float32 (n, d_in + d) -> (n, d). How much of ẽ it hears, a
    gate in (0, 1) decides for each node by both; nothing where ``hears`` is 0, and in training a
    share ``silent`` of the nodes."""

    hears: Tensor

    def __init__(self, inputs: int, outputs: int, dropout: float, silent: float = 0.0):
        super().__init__()
        self.silent = silent
        self.gate = nn.Linear(inputs, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, SHUT)
        self.mlp = ResidualMLP(inputs, outputs, dropout)
        self.latent = outputs
        self.register_buffer("hears", torch.ones(()))

    @property
    def linear(self) -> nn.Linear:
        """The linear layer of its MLP."""
        return self.mlp.linear

    def begin(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """As the linear map that is nearest to the last of ``parts``: x, ẽ and what is wanted."""
        opening = torch.sigmoid(self.gate.bias.detach())
        both = ((torch.cat([x, opening * latent], 1), wanted) for x, latent, wanted in parts)
        begin_as_best(self.linear, both)

    def forward(self, both: Tensor) -> Tensor:
        own, latent = both[:, : -self.latent], both[:, -self.latent :]
        gate = torch.sigmoid(self.gate(both)) * self.hears
        if self.training and self.silent:
            gate = gate * (torch.rand(len(gate), 1) >= self.silent)
        return self.mlp(torch.cat([own, gate * latent], 1))


class FeatureMLP(nn.Module):
    """One MLP a node type: features (nodes, d_in) -> vectors (nodes, d). It is MLP₁, MLP₂, and the
    baseline that everything is compared with, whose vectors are the content. ``make``: of one type,
    by widths and dropout."""

    def __init__(
        self,
        widths: Mapping[str, int],
        dimensions: int,
        dropout: float,
        make: Callable[[int, int, float], ResidualMLP | GatedMLP] = ResidualMLP,
    ):
        super().__init__()
        self.dropout = dropout
        made = {
            module_key(name): make(width, dimensions, dropout) for name, width in widths.items()
        }
        begin_alike(one.linear for one in made.values())
        self.mlp = nn.ModuleDict(made)

    def forward(self, features: Table) -> dict[str, Tensor]:
        return {name: by_blocks(partial(self.of, name), x) for name, x in features.items()}

    def of(self, name: str, *parts: Tensor) -> Tensor:
        """Of some nodes of a type; their features may come in parts that stand beside each
        other."""
        features = dropout(torch.cat(parts, 1), self.dropout, self.training)
        told: Tensor = self.mlp[module_key(name)](features)
        return told


class Student(nn.Module):
    """MLP₁ and MLP₂ of every entity type."""

    def __init__(self, widths: Mapping[str, int], settings: DistillSettings):
        super().__init__()
        d = settings.part
        self.first = FeatureMLP(widths, d, settings.dropout)
        both = {name: width + d for name, width in widths.items()}
        gated = partial(GatedMLP, silent=settings.latent_dropout)
        self.second = FeatureMLP(both, d, settings.dropout, gated)

    def begin_to_guess(
        self, entity: str, features: Tensor, taught: Tensor, connected: Tensor
    ) -> None:
        """MLP₁ of an entity as the linear map that is nearest to the teacher's vectors (nodes, d)
        of ``connected`` nodes, a mask."""
        first = self.first.mlp[module_key(entity)]
        if isinstance(first, ResidualMLP):
            begin_as_best(first.linear, _blocks_of(connected, features, taught))

    def begin(
        self, entity: str, features: Tensor, latent: Tensor, taught: Tensor, connected: Tensor
    ) -> None:
        """MLP₂ likewise."""
        second = self.second.mlp[module_key(entity)]
        if isinstance(second, GatedMLP):
            second.begin(_blocks_of(connected, features, latent, taught))

    def hear(self, entity: str, whether: bool) -> None:
        """Of latent neighbours."""
        second = self.second.mlp[module_key(entity)]
        if isinstance(second, GatedMLP):
            second.hears.fill_(whether)

    def forward(self, features: Table, latent: Table) -> dict[str, Tensor]:
        return {
            name: by_blocks(partial(self.second.of, name), features[name], heard)
            for name, heard in latent.items()
        }


def _blocks_of(among: Tensor, *tables: Tensor) -> Iterator[Any]:
    """Of ``tables`` (n, …) the rows that a mask tells, a block at a time."""
    for mask, *parts in zip(*(table.split(BLOCK) for table in (among, *tables)), strict=True):
        yield tuple(part[mask] for part in parts)


EXACT = 8192
"""Candidates up to which search is exact."""
PROBES = 16
"""Of 2√n lists of n candidates, those that are looked into: about 19 in 20 of the nearest are found
at a quarter of the cost (20,000 candidates)."""


SPARE = 4
"""Neighbours that are found besides, and then told apart once more: what faiss says of a pair
differs in its last digits by how many are asked about at once, and a row is to have the same
neighbours whatever rows it comes with."""


class LatentIndex:
    """Inner-product search among the teacher's vectors of one type's connected nodes: exact among
    few, in inverted lists among many.

    ``candidates``: int64 ids of the nodes searched among; ``vectors``: float32 (candidates, d).
    ``centres``: of the lists, where they are known, float32 (lists, d).
    """

    def __init__(
        self,
        candidates: Tensor,
        vectors: Tensor,
        settings: DistillSettings,
        centres: Tensor | None = None,
    ):
        self.candidates = candidates
        self.vectors = vectors
        self.settings = settings
        self.neighbours = settings.latent_neighbours
        self.temperature = settings.latent_temperature
        d = vectors.shape[1]
        self.centres = _centres(vectors) if centres is None else centres
        self._index: faiss.Index = faiss.IndexFlatIP(d)
        if len(self.centres):
            self._index.add(self.centres.contiguous().numpy())
            self._centres = self._index  # which faiss does not own
            lists = faiss.IndexIVFFlat(
                self._centres, d, len(self.centres), faiss.METRIC_INNER_PRODUCT
            )
            lists.nprobe = PROBES
            self._index = lists
        self._index.add(vectors.contiguous().numpy())

    def latent(self, asked: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ẽ, float32 (n, d), of vectors ``asked``, and the inner product with the nearest neighbour
        (n,); ``ids``: int64 (n,), not to be found by themselves. Zero where there is nobody to
        find."""
        out = torch.zeros_like(asked)
        nearest = torch.zeros(len(asked))
        if not len(self.candidates):
            return out, nearest
        k = min(self.neighbours + 1 + SPARE, len(self.candidates))
        for start in range(0, len(asked), BLOCK):
            part = slice(start, start + BLOCK)
            _, found = self._index.search(asked[part].contiguous().numpy(), k)
            places = torch.from_numpy(found).sort(dim=1).values
            own = places < 0  # fewer than k in the lists that were looked into
            places = places.clamp(min=0)
            scores = (asked[part, None] * self.vectors[places]).sum(2)
            if ids is not None:
                own |= self.candidates[places] == ids[part, None]
            scores = scores.masked_fill(own, -torch.inf)
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            best = scores[:, : self.neighbours]
            weight = torch.softmax(best / self.temperature, 1).nan_to_num(0.0)
            out[part] = functional.embedding_bag(
                places.gather(1, order[:, : self.neighbours]),
                self.vectors,
                mode="sum",
                per_sample_weights=weight,
            )
            nearest[part] = best[:, 0].nan_to_num(neginf=0.0)
        return out, nearest


def _centres(vectors: Tensor) -> Tensor:
    """Of 2√n lists, by k-means; none where search is exact."""
    count, d = vectors.shape
    if count <= EXACT:
        return torch.zeros(0, d)
    found = faiss.Kmeans(d, int(2 * count**0.5), niter=10, spherical=True, seed=1)
    found.train(vectors.contiguous().numpy())
    return torch.from_numpy(found.centroids)


def latent_index(
    vectors: Tensor, connected: Tensor, settings: DistillSettings, seed: int
) -> LatentIndex:
    """The index of one node type. ``connected``: bool (nodes,)."""
    ids = torch.nonzero(connected)[:, 0].numpy()
    if len(ids) > settings.latent_candidates:
        draw = np.random.default_rng([seed, 30])
        ids = np.sort(draw.choice(ids, settings.latent_candidates, replace=False))
    chosen = torch.from_numpy(ids)
    return LatentIndex(chosen, vectors[chosen], settings)
