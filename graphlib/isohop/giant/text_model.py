"""Pretrained text models: any encoder of Hugging Face's `transformers` in a local folder.

Weights are read from safetensors alone, nothing is downloaded and no code of the folder runs. The
model computes in bfloat16 where the machine can; on a GPU it is compiled, and batches have one of a
few shapes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from isohop.engines.determinism import compute_deterministically
from isohop.errors import IsohopError
from isohop.giant.documents import ATOM, FIELD_END
from isohop.giant.model_folder import model_problem

TOKENS_AT_ONCE = 1 << 11
"""Tokens of one forward pass, padding included: what bounds memory where nothing is learned. Of
four times as many a core takes a quarter longer, since its caches do not hold what layers hand on.
"""
TOKENS_ON_GPU = 1 << 13
DOCUMENTS_AT_ONCE = 16_384
SHORTEST = 8


@dataclass(frozen=True)
class Tokens:
    """Token ids of documents: ``ids`` int32 (tokens,), ``offsets`` int64 (documents + 1,). A
    document without text has none."""

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __getitem__(self, rows: np.ndarray | slice) -> Tokens:
        starts, sizes = self.offsets[:-1][rows], self.sizes[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        at = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        return Tokens(self.ids[at], offsets)

    @staticmethod
    def concatenate(parts: list[Tokens]) -> Tokens:
        sizes = np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)])
        ids = np.concatenate([np.empty(0, np.int32), *(part.ids for part in parts)])
        return Tokens(ids, np.concatenate([[0], np.cumsum(sizes)]))


class TextModel(nn.Module):
    """Documents' tokens in, their pooled last hidden states out."""

    def __init__(self, folder: Path, tokens: int):
        """``tokens``: a document's length at most. Raises `IsohopError` for what is no model."""
        super().__init__()
        problem = model_problem(folder)
        if problem is not None:
            raise IsohopError(f"The text model cannot be used: {problem}.")
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            # Where nothing is said of code, it asks on the terminal whether to run it.
            known = {"local_files_only": True, "trust_remote_code": False}
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **known)
            self.model = AutoModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, **known
            )
        except Exception as error:  # transformers raises whatever a broken file makes it raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise IsohopError(f"{folder} cannot be read as a text model: {reason}") from error
        self.dimensions = int(self.model.config.hidden_size)
        self.tokens = min(tokens, _longest(self.model.config, self.tokenizer))
        self.before, self.after = _special(self.tokenizer)
        self.mean = _pools_mean(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        self.fixed = self.device.type == "cuda"
        """Whether batches have one of a few shapes."""
        if self.fixed:
            # The same run gives the same model, or a run that goes on from a checkpoint another.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            compute_deterministically()
            self.model.compile()
        self.mixed = self.device.type == "cuda" or _bfloat16_on_cpu()
        self.tune(False)

    def tune(self, learns: bool) -> None:
        """Whether the model's own weights learn from now on."""
        self.tuned = learns
        self.requires_grad_(learns)
        self.train(learns)

    def train(self, mode: bool = True) -> TextModel:
        return super().train(mode and self.tuned)

    def tokenize(self, documents: pa.Array | pa.ChunkedArray) -> Tokens:
        """Tokens of the words of ``documents`` (large_string), atoms left out; where a document is
        too long, its longest fields are cut first."""
        parts = [
            self._tokenize(documents.slice(start, DOCUMENTS_AT_ONCE).cast(pa.large_string()))
            for start in range(0, len(documents), DOCUMENTS_AT_ONCE)
        ]
        return Tokens.concatenate(parts)

    def _tokenize(self, documents: pa.Array | pa.ChunkedArray) -> Tokens:
        if isinstance(documents, pa.ChunkedArray):
            documents = documents.combine_chunks()
        fields = pc.split_pattern(pc.fill_null(documents, ""), FIELD_END)
        text = pc.replace_substring_regex(pc.list_flatten(fields), ATOM, " ")
        text = pc.utf8_trim_whitespace(text)
        room = self.tokens - len(self.before) - len(self.after)
        found = self.tokenizer(
            text.to_pylist(), add_special_tokens=False, truncation=True, max_length=room
        )["input_ids"]
        lists = pa.array(found, pa.large_list(pa.int32()))
        sizes = np.diff(lists.offsets.to_numpy())
        ids = lists.values.to_numpy()
        field_document = pc.list_parent_indices(fields).to_numpy().astype(np.int64)
        kept = fair_shares(sizes, field_document, len(documents), room)
        within = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        stays = within < np.repeat(kept, sizes)
        ids, document = ids[stays], np.repeat(field_document, kept)
        return _framed(
            ids, np.bincount(document, minlength=len(documents)), self.before, self.after
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """float32 (documents, d) on the CPU; zero for documents without text."""
        pooled = [torch.zeros(0, self.dimensions)]
        at = [np.empty(0, np.int64)]
        for rows, shape in batches(tokens.sizes, self.fixed):
            pooled.append(self._pooled(tokens[rows], shape)[: len(rows)].float().cpu())
            at.append(rows)
        empty = torch.zeros(len(tokens), self.dimensions)
        return empty.index_copy(0, torch.from_numpy(np.concatenate(at)), torch.cat(pooled))

    def _pooled(self, tokens: Tokens, shape: tuple[int, int]) -> Tensor:
        # A row that only fills the shape sees one token all the same: a softmax over nothing is
        # 0/0, and what a kernel makes of its gradient reaches every weight.
        sizes = np.ones(shape[0], np.int64)
        sizes[: len(tokens)] = tokens.sizes
        mask = np.arange(shape[1]) < sizes[:, None]
        ids = np.full(shape, self.tokenizer.pad_token_id or 0, np.int64)
        ids[: len(tokens)][mask[: len(tokens)]] = tokens.ids
        seen = torch.from_numpy(mask).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            hidden = self.model(
                input_ids=torch.from_numpy(ids).to(self.device), attention_mask=seen.long()
            ).last_hidden_state
        if not self.mean:
            return hidden[:, 0]
        total = (hidden * seen[..., None]).sum(1)
        return total / seen.sum(1, keepdim=True).clamp(min=1)

    def save(self, folder: Path) -> None:
        """As a folder that this class reads."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        pooling = folder / "1_Pooling"
        pooling.mkdir(exist_ok=True)
        how = {"pooling_mode_mean_tokens": self.mean, "pooling_mode_cls_token": not self.mean}
        (pooling / "config.json").write_text(json.dumps(how), "utf-8")


def fair_shares(sizes: np.ndarray, owner: np.ndarray, owners: int, room: int) -> np.ndarray:
    """int64 (fields,): how many tokens of each field stay, so that each owner has ``room`` at most.

    The longest are cut first: a field keeps what it has up to a level that all fields of its owner
    share, the highest that fits. ``owner``: int64 (fields,), ascending.
    """
    order = np.lexsort((sizes, owner))
    size, of = sizes[order], owner[order]
    count = np.bincount(owner, minlength=owners)
    first = np.cumsum(count) - count
    # With all shorter fields whole, what is left is divided among this one and the longer ones.
    before = np.cumsum(size) - size
    before -= before[first[of]] if len(of) else 0
    longer = count[of] - (np.arange(len(of)) - first[of])
    level = np.maximum(room - before, 0) // np.maximum(longer, 1)
    cut = size > level
    levels = np.full(owners, -1)
    np.maximum.at(levels, of[cut], level[cut])  # of the first that is cut: it is the highest
    return np.where(levels[owner] < 0, sizes, np.minimum(sizes, levels[owner])).astype(np.int64)


def batches(sizes: np.ndarray, fixed: bool) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """(documents, (rows, tokens) of their padded matrix), of like length together.

    Documents of no tokens are in none. ``fixed``: tokens are a power of two and rows follow from
    them, so that an accelerator sees few shapes.
    """
    order = np.argsort(sizes, kind="stable")
    order = order[np.searchsorted(sizes[order], 1) :]
    while len(order):
        # The longest last: the batch ends where its width, that of its last, would be too much.
        width = sizes[order] if not fixed else _powers(sizes[order])
        fits = (np.arange(len(order)) + 1) * width <= TOKENS_AT_ONCE
        rows = max(1, int(fits.sum()) if not fixed else TOKENS_ON_GPU // int(width[0]))
        same = len(order) if not fixed else int(np.searchsorted(width, width[0], side="right"))
        taken = order[: min(rows, same)]
        yield taken, (rows if fixed else len(taken), int(width[len(taken) - 1]))
        order = order[len(taken) :]


def _powers(sizes: np.ndarray) -> np.ndarray:
    return np.maximum(SHORTEST, 2 ** np.ceil(np.log2(np.maximum(sizes, 1)))).astype(np.int64)


def _framed(ids: np.ndarray, sizes: np.ndarray, before: list[int], after: list[int]) -> Tokens:
    """Documents between the model's special tokens; one without a token stays empty."""
    has = sizes > 0
    whole = sizes + has * (len(before) + len(after))
    offsets = np.concatenate([[0], np.cumsum(whole)])
    framed = np.empty(offsets[-1], np.int32)
    inner = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    framed[np.repeat(offsets[:-1], sizes) + len(before) + inner] = ids
    for place, token in enumerate(before):
        framed[offsets[:-1][has] + place] = token
    for place, token in enumerate(reversed(after), 1):
        framed[offsets[1:][has] - place] = token
    return Tokens(framed, offsets)


def _special(tokenizer: object) -> tuple[list[int], list[int]]:
    """The tokens that the model wants before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    whole = tokenizer("a")["input_ids"]  # type: ignore[operator]
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def _bfloat16_on_cpu() -> bool:
    """Whether the processor multiplies bfloat16, more than twice as fast as float32."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _longest(config: object, tokenizer: object) -> int:
    """Tokens that the model has positions for."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
    # RoBERTa's positions begin after that of the padding.
    offset = int(getattr(config, "pad_token_id", 0) or 0) + 1 if positions % 8 == 2 else 0
    return min(positions - offset, int(getattr(tokenizer, "model_max_length", 0) or 1 << 30))


def _pools_mean(folder: Path) -> bool:
    """By sentence-transformers' own file, where there is one; a mean says most of any model."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return True
    return not json.loads(file.read_text("utf-8")).get("pooling_mode_cls_token", False)
