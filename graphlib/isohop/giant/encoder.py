"""The encoder: from a node's document to its feature.

Two views of a document add up: its hashed n-grams, each with a vector of its own, which know rare
words and the atoms of numbers and categories; and, where there is one, a pretrained text model,
which knows the language. Both begin along the directions in which neighbours agree
(`directions.py`); a residual MLP and a marker of the node's type follow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from isohop.engines.arrays import distinct
from isohop.errors import IsohopError, first_mistake
from isohop.giant.model_folder import TEXT_MODEL
from isohop.giant.row_table import RowTable
from isohop.giant.text_matrix import Vocabulary, weighted_sums
from isohop.giant.text_model import TextModel, Tokens

ENCODED_AT_ONCE = 4096
MODEL = "text_model."


class EncoderManifest(BaseModel):
    """``encoder.json``. ``characters`` and ``tokens``: of a text, as many as are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[2] = 2
    dimensions: int = Field(ge=1, le=1 << 14)
    node_types: tuple[str, ...]
    characters: int = Field(ge=0, lt=1 << 31)
    tokens: int | None = Field(None, ge=1, lt=1 << 20)


@dataclass(frozen=True)
class Prepared:
    """Documents as the encoder takes them; ``prepared[rows]`` are some of them.

    ``ngrams``: float32 CSR (documents, vocabulary), TF-IDF. ``empty``: bool (documents,), those in
    which there is nothing to read. With a text model also ``tokens``, or ``vectors``, float16
    (documents, its dimensions), what it made of them.
    """

    ngrams: sparse.csr_matrix
    empty: np.ndarray
    tokens: Tokens | None = None
    vectors: np.ndarray | None = None

    @classmethod
    def of(cls, ngrams: sparse.csr_matrix, tokens: Tokens | None = None) -> Prepared:
        empty = np.diff(ngrams.indptr) == 0
        return cls(ngrams, empty if tokens is None else empty & (tokens.sizes == 0), tokens)

    def __len__(self) -> int:
        return int(self.ngrams.shape[0])

    def __getitem__(self, rows: np.ndarray | slice) -> Prepared:
        return Prepared(
            self.ngrams[rows],
            self.empty[rows],
            None if self.tokens is None or self.vectors is not None else self.tokens[rows],
            None if self.vectors is None else self.vectors[rows],
        )

    @property
    def touched(self) -> np.ndarray:
        """int64, sorted: the n-grams that are not left out everywhere."""
        return distinct(self.ngrams.indices[self.ngrams.data != 0]).astype(np.int64)

    def without(self, share: float, draw: np.random.Generator) -> Prepared:
        """With a random ``share`` of the n-grams left out, against learning documents by heart.
        The others stand for them, so that beside a text model n-grams weigh what they will."""
        ngrams = self.ngrams.copy()
        ngrams.data *= (draw.random(ngrams.nnz) >= share) / np.float32(1 - share)
        return replace(self, ngrams=ngrams)


class _SparseProduct(torch.autograd.Function):
    """Sparse text times the vectors of its n-grams: a weighted sum, exact and deterministic."""

    @staticmethod
    def forward(context: Any, weights: Tensor, text: sparse.csr_matrix) -> Tensor:
        context.text = text
        return weighted_sums(text, weights)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return weighted_sums(context.text.T.tocsr(), gradients[0]), None


class Encoder(nn.Module):
    """Documents of any node type in, float32 (documents, dimensions) at length 1 out.

    A document that is missing, or has nothing that is known, is a state with a vector of its own.
    """

    middle: Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        node_types: tuple[str, ...],
        dimensions: int,
        text_model: TextModel | None = None,
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.node_types = node_types
        self.dimensions = dimensions
        self.text_model = text_model
        self.bag = RowTable(torch.randn(max(len(vocabulary), 1), dimensions) / dimensions**0.5)
        self.marker = nn.Embedding(len(node_types), dimensions)
        self.missing = nn.Parameter(torch.randn(dimensions))
        self.norm = nn.LayerNorm(dimensions)
        self.wide = nn.Linear(dimensions, 4 * dimensions)
        self.narrow = nn.Linear(4 * dimensions, dimensions)
        self.dropout = nn.Dropout(0.1)
        if text_model is not None:
            self.project = nn.Linear(text_model.dimensions, dimensions)
            self.register_buffer("middle", torch.zeros(text_model.dimensions))
        nn.init.normal_(self.marker.weight, std=0.1)
        # The residual branch begins as nothing: an untrained encoder is a projection of text.
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def prepare(self, documents: pa.Array | pa.ChunkedArray) -> Prepared:
        """``documents``: large_string, null where missing."""
        tokens = None if self.text_model is None else self.text_model.tokenize(documents)
        return Prepared.of(self.vocabulary.matrix(documents), tokens)

    def encode(
        self, prepared: Prepared, node_type: np.ndarray, ngrams: np.ndarray | None = None
    ) -> Tensor:
        """``node_type``: int64 (documents,), index of the type. ``ngrams``: int64, sorted, those
        that other workers of the same step touch too, where there are others."""
        text = self._bag(prepared, ngrams)
        if self.text_model is not None:
            text = text + self.project(self._vectors(prepared, self.text_model))
        text = torch.where(torch.from_numpy(prepared.empty)[:, None], self.missing, text)
        value = functional.normalize(text, dim=1) * self.dimensions**0.5
        value = value + self.marker(torch.from_numpy(node_type))
        inner = functional.gelu(self.wide(self.norm(self.dropout(value))))
        value = value + self.narrow(self.dropout(inner))
        return functional.normalize(value, dim=1)

    def _vectors(self, prepared: Prepared, text_model: TextModel) -> Tensor:
        """What the text model makes of documents: at length 1, less what all have in common."""
        if prepared.vectors is not None:
            return torch.from_numpy(prepared.vectors.astype(np.float32))
        return functional.normalize(text_model(prepared.tokens), dim=1) - self.middle

    def _bag(self, prepared: Prepared, used: np.ndarray | None) -> Tensor:
        text = prepared.ngrams
        if not text.shape[1]:
            return torch.zeros(text.shape[0], self.dimensions)
        if not self.training:
            return weighted_sums(text, self.bag.values)
        # What was left out would be multiplied by zero, and its vectors fetched for that.
        text = text.copy()
        text.eliminate_zeros()
        if used is None:
            used = prepared.touched
        column = np.searchsorted(used, text.indices).astype(np.int32)
        shape = (text.shape[0], len(used))
        local = sparse.csr_matrix((text.data, column, text.indptr), shape=shape)
        return _SparseProduct.apply(self.bag.take(used), local)

    def begin(self, of_ngrams: np.ndarray, of_vectors: np.ndarray | None) -> None:
        """Start along `agreement_directions`: float32 (vocabulary, d), (model's dimensions, d)."""
        self.bag.values[: len(of_ngrams)] = torch.from_numpy(of_ngrams)
        if of_vectors is not None:
            self.project.weight.data[:] = torch.from_numpy(np.ascontiguousarray(of_vectors.T))
            nn.init.zeros_(self.project.bias)

    def tune(self) -> None:
        """From now on the text model learns too."""
        if self.text_model is not None:
            self.text_model.tune(True)

    def read(self, prepared: Prepared, anew: bool = True) -> Prepared:
        """With ``vectors``, of the text model as it is, where there is a model. What they have in
        common is taken away, here and from now on; if not ``anew``, what was taken away before."""
        if self.text_model is None:
            return prepared
        vectors = np.empty((len(prepared), self.text_model.dimensions), np.float16)
        self.eval()
        if anew:
            nn.init.zeros_(self.middle)
        prepared = replace(prepared, vectors=None)
        for start in range(0, len(prepared), ENCODED_AT_ONCE):
            block = slice(start, start + ENCODED_AT_ONCE)
            with torch.no_grad():
                vectors[block] = self._vectors(prepared[block], self.text_model).numpy()
        if anew and len(vectors):
            self.middle[:] = torch.from_numpy(vectors.mean(0, dtype=np.float32))
            vectors -= self.middle.numpy().astype(np.float16)
        return replace(prepared, vectors=vectors)

    def save(self, folder: Path) -> None:
        """encoder.safetensors and encoder.json; with a text model its folder, text_model."""
        tensors = {
            name: value.contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(MODEL)
        }
        del tensors["bag.squares"]  # training's business
        tensors["vocabulary.buckets"] = torch.from_numpy(self.vocabulary.buckets)
        tensors["vocabulary.idf"] = torch.from_numpy(self.vocabulary.idf)
        save_file(tensors, folder / "encoder.safetensors")
        about = EncoderManifest(
            dimensions=self.dimensions,
            node_types=tuple(self.node_types),
            characters=self.vocabulary.characters,
            tokens=None if self.text_model is None else self.text_model.tokens,
        )
        (folder / "encoder.json").write_text(about.model_dump_json(indent=1), "utf-8")
        if self.text_model is not None:
            self.text_model.save(folder / TEXT_MODEL)


def load_encoder(folder: Path) -> Encoder:
    """The encoder that `Encoder.save` wrote. Raises `IsohopError` when it is of another format."""
    try:
        about = EncoderManifest.model_validate_json((folder / "encoder.json").read_bytes())
    except ValidationError as error:
        raise IsohopError(
            f"{folder / 'encoder.json'} is not an encoder that this version reads: "
            f"{first_mistake(error)}. Run the stage 'features' again."
        ) from error
    tensors = load_file(folder / "encoder.safetensors")
    vocabulary = Vocabulary(
        tensors.pop("vocabulary.buckets").numpy(),
        tensors.pop("vocabulary.idf").numpy(),
        about.characters,
    )
    model = None if about.tokens is None else TextModel(folder / TEXT_MODEL, about.tokens)
    encoder = Encoder(vocabulary, about.node_types, about.dimensions, model)
    kept = {n: t for n, t in encoder.state_dict().items() if n.startswith((MODEL, "bag.squares"))}
    encoder.load_state_dict(tensors | kept)
    return encoder.eval()


def encode_all(
    encoder: Encoder, prepared: Prepared, node_type: np.ndarray, dimensions: int | None = None
) -> np.ndarray:
    """float32 (documents, d), or the first ``dimensions`` of them; a block at a time, without
    gradients and dropout."""
    width = min(dimensions or encoder.dimensions, encoder.dimensions)
    features = np.empty((len(prepared), width), np.float32)
    encoder.eval()
    for start in range(0, len(prepared), ENCODED_AT_ONCE):
        block = slice(start, start + ENCODED_AT_ONCE)
        with torch.no_grad():
            encoded = encoder.encode(prepared[block], node_type[block])
        features[block] = encoded[:, :width].numpy()
    return features
