"""The student: vectors from features alone, by way of latent neighbours.

ê = MLP₁(x) learns the teacher's vector Ē from every node that has edges. The connected nodes whose
Ē are nearest to ê are its latent neighbours, ẽ = softmax(top-K ⟨ê, Ē⟩) Ē, and MLP₂([x, ẽ]) gives
the vector (Zheng et al., section 3.3). It learns Ē, and the teacher's own task besides. A node is
no latent neighbour of itself in training, since a new node will not be either.
"""

from __future__ import annotations

from collections.abc import Mapping

import faiss
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.tables import Table, mlp, module_key

BLOCK = 16_384


class FeatureMLP(nn.Module):
    """One MLP a node type: features (nodes, d_in) -> vectors (nodes, d). It is MLP₁, MLP₂, and the
    baseline that everything is compared with."""

    def __init__(self, widths: Mapping[str, int], dimensions: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.mlp = nn.ModuleDict(
            {module_key(name): mlp(width, dimensions, dropout) for name, width in widths.items()}
        )

    def forward(self, features: Table) -> dict[str, Tensor]:
        return {
            name: self.mlp[module_key(name)](functional.dropout(x, self.dropout, self.training))
            for name, x in features.items()
        }


class Student(nn.Module):
    """MLP₁ and MLP₂ of every entity type. ``outputs``: of the label, as the teacher's."""

    def __init__(self, widths: Mapping[str, int], settings: DistillSettings, outputs: int = 0):
        super().__init__()
        d = settings.dimensions
        self.classify = nn.Linear(d, outputs) if outputs else None
        self.first = FeatureMLP(widths, d, settings.dropout)
        self.second = FeatureMLP(
            {name: width + d for name, width in widths.items()}, d, settings.dropout
        )

    def forward(self, features: Table, latent: Table) -> dict[str, Tensor]:
        return self.second({name: torch.cat([features[name], latent[name]], 1) for name in latent})


class LatentIndex:
    """Exact inner-product search among the teacher's vectors of one type's connected nodes.

    ``candidates``: int64 ids of the nodes searched among; ``vectors``: float32 (candidates, d).
    """

    def __init__(self, candidates: Tensor, vectors: Tensor, settings: DistillSettings):
        self.candidates = candidates
        self.vectors = vectors
        self.neighbours = settings.latent_neighbours
        self.temperature = settings.latent_temperature
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors.contiguous().numpy())

    def latent(self, asked: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ẽ, float32 (n, d), of vectors ``asked``, and the inner product with the nearest neighbour
        (n,); ``ids``: int64 (n,), not to be found by themselves. Zero where there is nobody to
        find."""
        out = torch.zeros_like(asked)
        nearest = torch.zeros(len(asked))
        if not len(self.candidates):
            return out, nearest
        k = min(self.neighbours + 1, len(self.candidates))
        for start in range(0, len(asked), BLOCK):
            part = slice(start, start + BLOCK)
            score, place = self._index.search(asked[part].contiguous().numpy(), k)
            scores, places = torch.from_numpy(score), torch.from_numpy(place)
            own = torch.zeros_like(places, dtype=torch.bool)
            if ids is not None:
                own = self.candidates[places] == ids[part, None]
            scores = scores.masked_fill(own, -torch.inf)
            best, order = scores.topk(min(self.neighbours, k), dim=1)
            found = self.vectors[places.gather(1, order)]
            weight = torch.softmax(best / self.temperature, 1).nan_to_num(0.0)
            out[part] = (weight[:, :, None] * found).sum(1)
            nearest[part] = best[:, 0].nan_to_num(neginf=0.0)
        return out, nearest


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
