"""Documents as a sparse TF-IDF matrix over a vocabulary of hashed n-grams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse

from isohop.giant.ngrams import BUCKET_BITS, Ngrams, hash_ngrams

CHUNK = 16_384
"""Documents hashed at once: what bounds the memory of hashing."""


@dataclass(frozen=True)
class Vocabulary:
    """``buckets``: int64 (v,), sorted; ``idf``: float32 (v,), inverse document frequency."""

    buckets: np.ndarray
    idf: np.ndarray
    characters: int

    @classmethod
    def learn(cls, documents: Iterable[pa.Array], size: int, characters: int) -> Vocabulary:
        """The most frequent n-grams that at least two documents have; ties by bucket."""
        frequency = np.zeros(1 << BUCKET_BITS, np.int64)
        total = 0
        for array in documents:
            for ngrams in _chunks(array, characters):
                frequency += np.bincount(ngrams.buckets, minlength=1 << BUCKET_BITS)
            total += len(array)
        kept = np.flatnonzero(frequency >= 2)
        if len(kept) == 0:
            kept = np.flatnonzero(frequency)
        if len(kept) > size:
            kept = np.sort(kept[np.argsort(-frequency[kept], kind="stable")[:size]])
        idf = np.log((1 + total) / (1 + frequency[kept])) + 1
        return cls(kept.astype(np.int64), idf.astype(np.float32), characters)

    def __len__(self) -> int:
        return len(self.buckets)

    def matrix(self, documents: pa.Array) -> sparse.csr_matrix:
        """TF-IDF, float32 CSR (documents, v), rows at length 1; a row without n-grams is zero."""
        parts = [self._matrix(ngrams) for ngrams in _chunks(documents, self.characters)]
        if not parts:
            return sparse.csr_matrix((0, len(self)), dtype=np.float32)
        return sparse.vstack(parts, format="csr", dtype=np.float32)

    def _matrix(self, ngrams: Ngrams) -> sparse.csr_matrix:
        column = np.searchsorted(self.buckets, ngrams.buckets)
        column[column == len(self)] = 0
        known = np.full(len(column), False)
        if len(self):
            known = self.buckets[column] == ngrams.buckets
        row = np.repeat(np.arange(len(ngrams)), np.diff(ngrams.offsets))[known]
        column = column[known]
        weight = (1 + np.log(ngrams.counts[known])) * (self.idf[column] if len(self) else 1)
        length = np.sqrt(np.bincount(row, weight**2, minlength=len(ngrams)))
        weight = weight / np.maximum(length[row], 1e-12)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(ngrams)))])
        return sparse.csr_matrix(
            (weight.astype(np.float32), column.astype(np.int32), offsets.astype(np.int32)),
            shape=(len(ngrams), len(self)),
        )


def _chunks(documents: pa.Array, characters: int) -> Iterable[Ngrams]:
    for start in range(0, len(documents), CHUNK):
        yield hash_ngrams(documents.slice(start, CHUNK), characters)
