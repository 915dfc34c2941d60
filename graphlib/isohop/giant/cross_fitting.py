"""Cross-fitting: what texts say of the label, learned so that nobody's feature knows its own.

Where the pipeline names a label, n-grams learn it once they have learned the neighbourhoods, and
these with it: what a text says of the label is told by no neighbour, and is right where edges are
wrong or missing. But n-grams learn labels by heart, and whoever is trained on features that know
the answer trusts them too much: a teacher hears less of the neighbours, who would have told it. So
the label is learned in several rounds, each from what n-grams were before, and each but the last
without a fold of the nodes whose label training is told (cross-fitting, as stacked generalisation
has it: Wolpert, Neural Networks 1992). Who is of a fold has the feature of the round that was not
told its label; all others, and every document that comes later, have that of the last one.

Only n-grams learn in these rounds. Layers and heads stay as they are, so that features of all
rounds are in one space.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from isohop.engines.checkpoints import Tensors

FOLDS = 3


class CrossFitting:
    """``classes``: binary float32 CSR (all nodes, classes), of the nodes whose label is told."""

    def __init__(self, classes: sparse.csr_matrix, dimensions: int, seed: int):
        self.classes = classes
        self.told = np.flatnonzero(np.diff(classes.indptr))
        """int64, sorted: the nodes."""
        self.fold = np.random.default_rng([seed, 80]).integers(0, FOLDS, len(self.told))
        """Of each of them."""
        self.features = np.zeros((len(self.told), dimensions), np.float32)
        """Of each of them, once the round of its fold is over."""
        self.before = torch.zeros(0)
        """The vectors of n-grams that each round begins with."""

    @property
    def rounds(self) -> int:
        return FOLDS + 1

    def of(self, fold: int) -> np.ndarray:
        """int64: the nodes of a fold."""
        return self.told[self.fold == fold]

    def targets(self, fold: int) -> sparse.csr_matrix:
        """The classes of those that are not of a fold; as many rows."""
        heard = np.ones(self.classes.shape[0], np.float32)
        heard[self.of(fold)] = 0
        found = (sparse.diags(heard, dtype=np.float32) @ self.classes).tocsr()
        found.eliminate_zeros()
        return found

    def keep(self, fold: int, features: np.ndarray) -> None:
        """``features``: float32 (nodes, d), of the nodes of a fold."""
        self.features[self.fold == fold] = features

    def checkpoint(self) -> dict[str, Tensor]:
        return {"features": torch.from_numpy(self.features), "before": self.before}

    def resume(self, tensors: Tensors) -> None:
        self.features[:] = tensors["features"].numpy()
        self.before = tensors["before"]
