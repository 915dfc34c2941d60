"""Encoders: from a node's document to its feature.

`Encoder` is what training and inference know of one. It prepares documents once (tokens, n-grams)
and encodes prepared batches, so that a transformer fits as well as the hashed n-grams here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from isohop.errors import IsohopError
from isohop.giant.row_table import RowTable
from isohop.giant.text_matrix import Vocabulary


class Encoder(Protocol):
    """Documents of one node type in, float32 (documents, dimensions) at length 1 out."""

    dimensions: int

    def prepare(self, documents: pa.Array) -> Any:
        """What `encode` takes, for all of ``documents`` (large_string, null where missing)."""

    def encode(self, prepared: Any, node_type: np.ndarray) -> Tensor:
        """Features of prepared documents; ``node_type``: int64 (documents,), index of the type."""

    def save(self, folder: Path) -> None:
        """encoder.safetensors and encoder.json."""


class _SparseProduct(torch.autograd.Function):
    """Sparse text times the vectors of its n-grams: a weighted sum, exact and deterministic."""

    @staticmethod
    def forward(context: Any, weights: Tensor, text: sparse.csr_matrix) -> Tensor:
        context.text = text
        return torch.from_numpy(np.ascontiguousarray(text @ weights.detach().numpy()))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(context.text.T.tocsr() @ gradients[0].numpy()), None


class HashingEncoder(nn.Module):
    """TF-IDF of hashed n-grams in an embedding bag, under a residual MLP, with a marker per type.

    A document that is missing is a state with a vector of its own.
    """

    def __init__(self, vocabulary: Vocabulary, node_types: tuple[str, ...], dimensions: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.node_types = node_types
        self.dimensions = dimensions
        self.bag = RowTable(torch.randn(max(len(vocabulary), 1), dimensions) / dimensions**0.5)
        self.marker = nn.Embedding(len(node_types), dimensions)
        self.missing = nn.Parameter(torch.randn(dimensions))
        self.norm = nn.LayerNorm(dimensions)
        self.wide = nn.Linear(dimensions, 4 * dimensions)
        self.narrow = nn.Linear(4 * dimensions, dimensions)
        self.dropout = nn.Dropout(0.1)
        nn.init.normal_(self.marker.weight, std=0.1)
        # The residual branch begins as nothing: an untrained encoder is a projection of text.
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def prepare(self, documents: pa.Array) -> sparse.csr_matrix:
        return self.vocabulary.matrix(documents)

    def encode(self, prepared: sparse.csr_matrix, node_type: np.ndarray) -> Tensor:
        text = self._bag(prepared)
        empty = torch.from_numpy(np.diff(prepared.indptr) == 0)[:, None]
        text = torch.where(empty, self.missing, text)
        value = functional.normalize(text, dim=1) * self.dimensions**0.5
        value = value + self.marker(torch.from_numpy(node_type))
        inner = functional.gelu(self.wide(self.norm(self.dropout(value))))
        value = value + self.narrow(self.dropout(inner))
        return functional.normalize(value, dim=1)

    def _bag(self, prepared: sparse.csr_matrix) -> Tensor:
        if not prepared.shape[1]:
            return torch.zeros(prepared.shape[0], self.dimensions)
        if not self.training:
            return torch.from_numpy(prepared @ self.bag.values.numpy())
        used, column = np.unique(prepared.indices, return_inverse=True)
        local = sparse.csr_matrix(
            (prepared.data, column.astype(np.int32), prepared.indptr),
            shape=(prepared.shape[0], len(used)),
        )
        return _SparseProduct.apply(self.bag.take(used.astype(np.int64)), local)

    def save(self, folder: Path) -> None:
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        del tensors["bag.squares"]  # training's business
        tensors["vocabulary.buckets"] = torch.from_numpy(self.vocabulary.buckets)
        tensors["vocabulary.idf"] = torch.from_numpy(self.vocabulary.idf)
        save_file(tensors, folder / "encoder.safetensors")
        about = {
            "format": 1,
            "encoder": "hashing",
            "dimensions": self.dimensions,
            "node_types": list(self.node_types),
            "characters": self.vocabulary.characters,
        }
        (folder / "encoder.json").write_text(json.dumps(about, indent=1), "utf-8")


def load_encoder(folder: Path) -> HashingEncoder:
    """The encoder that `Encoder.save` wrote. Raises `IsohopError` when it is of another format."""
    about = json.loads((folder / "encoder.json").read_text("utf-8"))
    if (about.get("format"), about.get("encoder")) != (1, "hashing"):
        raise IsohopError(
            f"{folder / 'encoder.json'} is not an encoder that this version reads. "
            "Run the stage 'features' again."
        )
    tensors = load_file(folder / "encoder.safetensors")
    vocabulary = Vocabulary(
        tensors.pop("vocabulary.buckets").numpy(),
        tensors.pop("vocabulary.idf").numpy(),
        about["characters"],
    )
    encoder = HashingEncoder(vocabulary, tuple(about["node_types"]), about["dimensions"])
    encoder.load_state_dict(tensors | {"bag.squares": encoder.bag.squares})
    return encoder.eval()
