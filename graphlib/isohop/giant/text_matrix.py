"""Documents as a sparse TF-IDF matrix over a vocabulary of hashed n-grams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

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
    def learn(
        cls, documents: Iterable[pa.Array | pa.ChunkedArray], size: int, characters: int
    ) -> Vocabulary:
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

    @cached_property
    def _column_of(self) -> np.ndarray:
        """int32 (2^BUCKET_BITS,): each bucket's column, -1 where it has none."""
        column = np.full(1 << BUCKET_BITS, -1, np.int32)
        column[self.buckets] = np.arange(len(self))
        return column

    def matrix(self, documents: pa.Array | pa.ChunkedArray) -> sparse.csr_matrix:
        """TF-IDF, float32 CSR (documents, v), rows at length 1; a row without n-grams is zero."""
        data, columns = np.empty(0, np.float32), np.empty(0, np.int32)
        offsets = [np.zeros(1, np.int64)]
        for ngrams in _chunks(documents, self.characters):
            part = self._matrix(ngrams)
            end = len(data)
            # Grown in place: parts that are stacked at the end are held twice.
            data.resize(end + part.nnz, refcheck=False)
            columns.resize(end + part.nnz, refcheck=False)
            data[end:], columns[end:] = part.data, part.indices
            offsets.append(part.indptr[1:] + np.int64(end))
        shape = len(documents), len(self)
        return sparse.csr_matrix((data, columns, np.concatenate(offsets)), shape=shape)

    def _matrix(self, ngrams: Ngrams) -> sparse.csr_matrix:
        column = self._column_of[ngrams.buckets]
        known = column >= 0
        row = np.repeat(np.arange(len(ngrams)), np.diff(ngrams.offsets))[known]
        column = column[known]
        weight = (1 + np.log(ngrams.counts[known])) * self.idf[column]
        length = np.sqrt(np.bincount(row, weight**2, minlength=len(ngrams)))
        weight = weight / np.maximum(length[row], 1e-12)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(ngrams)))])
        return sparse.csr_matrix(
            (weight.astype(np.float32), column, offsets.astype(np.int32)),
            shape=(len(ngrams), len(self)),
        )


def weighted_sums(text: sparse.csr_matrix, vectors: Tensor) -> Tensor:
    """``text`` (documents, v) times ``vectors`` (v, d), float32 both and so the result, without
    gradients: a quarter of the time that SciPy takes, which waits for each vector in turn."""
    at, offsets = torch.from_numpy(text.indices), torch.from_numpy(text.indptr)
    with torch.no_grad():
        return functional.embedding_bag(
            at,
            vectors.contiguous(),
            offsets.to(at.dtype),
            mode="sum",
            per_sample_weights=torch.from_numpy(text.data),
            include_last_offset=True,
        )


def _chunks(documents: pa.Array | pa.ChunkedArray, characters: int) -> Iterable[Ngrams]:
    for array in documents.chunks if isinstance(documents, pa.ChunkedArray) else [documents]:
        for start in range(0, len(array), CHUNK):
            yield hash_ngrams(array.slice(start, CHUNK), characters)
