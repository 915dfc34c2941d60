"""Directions of text along which neighbours agree: what an encoder begins with.

A node's text X v and its neighbours' agree the more the larger vᵀ Xᵀ Ã X v is, Ã the visible edges
over the square roots of both degrees. The d best orthonormal v are the leading eigenvectors of
Xᵀ Ã X, found by randomised subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011), in
sparse products alone. `benchmarks/giant.py --ablations` compares them with random vectors, which
for rare words are noise that training hardly removes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse

from isohop.giant.targets import NodeIndex
from isohop.giant.text_matrix import weighted_sums

EDGES = 1 << 19
"""Edges looked at, at most: beyond that a random sample says the same."""
OVERSAMPLING = 32
ITERATIONS = 3
VECTORS_AT_ONCE = 32
"""A text has a number for each: of all vectors, they would be the largest thing in memory."""
TEXTS_AT_ONCE = 1 << 16
FLOOR = 0.03
"""The weakest direction's scale: one that is nothing could never be learned. With a text model all
are as strong: its weak directions are knowledge of the language, those of n-grams are noise."""


def agreement_directions(
    text: sparse.csr_matrix,
    targets: Mapping[str, sparse.csr_matrix],
    index: NodeIndex,
    dimensions: int,
    seed: int,
    vectors: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 (vocabulary, d), and (model's dimensions, d) where a text model gave ``vectors``:
    text times the one plus vectors times the other have mean length 1, directions ∝ √eigenvalue.

    ``text``: float32 CSR (nodes, vocabulary). ``vectors``: (nodes, model's dimensions), their
    mean zero. ``targets``: of `neighbourhoods`. Without any edge they are the directions in which
    texts differ most.
    """
    draw = np.random.default_rng(seed)
    source, target = _edges(targets, index, draw)
    if len(source):
        seen, position = np.unique(np.concatenate([source, target]), return_inverse=True)
        ends = position[: len(source)], position[len(source) :]
        degree = np.maximum(np.bincount(ends[0], minlength=len(seen)), 1)
        weight = 1 / np.sqrt(degree[ends[0]] * degree[ends[1]])
        between = sparse.csr_matrix((weight.astype(np.float32), ends), shape=(len(seen),) * 2)
    else:
        seen = np.arange(text.shape[0])
        if len(seen) > EDGES:
            seen = np.sort(draw.choice(len(seen), EDGES, replace=False))
        between = sparse.identity(len(seen), np.float32, format="csr")
    rows = _Views(text[seen], None if vectors is None else vectors[seen].astype(np.float32))
    words = rows.columns

    def agreement(directions: np.ndarray) -> np.ndarray:
        found = np.empty_like(directions)
        for start in range(0, directions.shape[1], VECTORS_AT_ONCE):
            some = slice(start, start + VECTORS_AT_ONCE)
            found[:, some] = rows.back(between @ (rows @ directions[:, some]))
        return found

    count = min(dimensions + OVERSAMPLING, words)
    basis = draw.standard_normal((words, count), np.float32)
    for _ in range(ITERATIONS):
        # NumPy's own takes four times as long.
        basis = torch.linalg.qr(torch.from_numpy(agreement(basis)))[0].numpy()
    small = basis.T @ agreement(basis)
    values, turned = np.linalg.eigh((small + small.T) / 2)
    best = np.argsort(-values)[:dimensions]
    strength = np.sqrt(np.maximum(values[best], 0) / max(values.max(initial=0), 1e-12))
    found = basis @ turned[:, best] * np.maximum(strength, FLOOR if vectors is None else 1)
    spare = draw.standard_normal((words, dimensions - len(best)), np.float32)
    result = np.concatenate([found, spare * (FLOOR / max(words, 1) ** 0.5)], axis=1)
    lengths = np.concatenate(
        [
            np.linalg.norm(rows.some(slice(start, start + TEXTS_AT_ONCE)) @ result, axis=1)
            for start in range(0, max(len(seen), 1), TEXTS_AT_ONCE)
        ]
    )
    given = lengths[lengths > 0]
    scale = given.mean() if len(given) else 1.0
    result = np.ascontiguousarray(result / scale, dtype=np.float32)
    return result[: text.shape[1]], None if vectors is None else result[text.shape[1] :]


class _Views:
    """N-grams and a text model's vectors of the same nodes, as one matrix that is never made."""

    def __init__(self, text: sparse.csr_matrix, vectors: np.ndarray | None):
        self.text = text
        self.vectors = vectors
        self.columns = text.shape[1] + (0 if vectors is None else vectors.shape[1])

    def some(self, rows: slice) -> _Views:
        return _Views(self.text[rows], None if self.vectors is None else self.vectors[rows])

    def __matmul__(self, directions: np.ndarray) -> np.ndarray:
        of_words = torch.from_numpy(directions[: self.text.shape[1]])
        result = weighted_sums(self.text, of_words).numpy()
        if self.vectors is not None:
            result += self.vectors @ directions[self.text.shape[1] :]
        return result

    def back(self, of_nodes: np.ndarray) -> np.ndarray:
        """The transpose times what nodes have."""
        result = self.text.T @ of_nodes
        if self.vectors is None:
            return result
        return np.concatenate([result, self.vectors.T @ of_nodes])


def _edges(
    targets: Mapping[str, sparse.csr_matrix], index: NodeIndex, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of (a sample of) the edges, each edge in both directions, in the numbering of all
    nodes."""
    sources: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    total = sum(matrix.nnz for matrix in targets.values())
    for name, matrix in sorted(targets.items()):
        share = round(matrix.nnz * EDGES / total)
        if total > EDGES:
            keep = np.sort(draw.choice(matrix.nnz, share, replace=False))
        else:
            keep = np.arange(matrix.nnz)
        sources.append(np.searchsorted(matrix.indptr, keep, side="right") - 1)
        ends.append(matrix.indices[keep].astype(np.int64) + index.offset[name])
    if not sources:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    source, target = np.concatenate(sources), np.concatenate(ends)
    if total > EDGES:
        # A sample has lost its symmetry, which the eigenvectors rest on.
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
    return source, target
