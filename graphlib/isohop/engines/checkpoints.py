"""Checkpoints: what changes in training as one file of safetensors, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from isohop.engines.workers import ALONE, Workers
from isohop.errors import IsohopError

SHARE = "share"
"""In a checkpoint of several workers: under which number each has written its own."""

Tensors = Mapping[str, Tensor]


def save_checkpoint(
    file: Path,
    parts: Mapping[str, Tensors],
    about: Mapping[str, str],
    workers: Workers = ALONE,
    own: Mapping[str, Tensors] | None = None,
    step: int = 0,
) -> None:
    """``parts``: tensors by name, by the part of training that they are of. Of several ``workers``
    the first one writes them, and each, beside it, its ``own``, under the number of the ``step``: a
    checkpoint is there once those of all are."""
    told = {**about, SHARE: str(step)} if own else about
    if own:
        _write(_share(file, step, workers), own, {})
    workers.wait()
    if workers.rank == 0:
        _write(file, parts, told)
    workers.wait()
    # Nobody needs those of before.
    for other in file.parent.glob(f"{_share(file, '*', workers).name}*"):
        if not own or other != _share(file, step, workers):
            other.unlink()


def _share(file: Path, step: int | str, workers: Workers) -> Path:
    return file.with_name(f"{file.stem}.{step}.{workers.rank}{file.suffix}")


def _write(file: Path, parts: Mapping[str, Tensors], about: Mapping[str, str]) -> None:
    partial = file.with_name(f"{file.name}.partial")
    tensors = {
        f"{part}/{name}": tensor.detach().contiguous()
        for part, of in parts.items()
        for name, tensor in of.items()
    }
    save_file(tensors, partial, dict(about))
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(file)


def load_checkpoint(
    file: Path, workers: Workers = ALONE
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """(parts, about) as `save_checkpoint` was given them, and with what is this worker's own; a
    part without tensors is not there. Raises `IsohopError` where one cannot be read."""
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
        step = about.pop(SHARE, None)
        for one in (file,) if step is None else (file, _share(file, step, workers)):
            for key, tensor in load_file(one).items():
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = tensor
    except (OSError, SafetensorError) as error:
        raise IsohopError(
            f"The checkpoint {file} cannot be read: {error}. Remove the folder that it lies in: "
            "training begins anew."
        ) from error
    return parts, about


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser has gathered, by the number of its parameter."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Take back what `optimiser_tensors` gave, for the same parameters."""
    state = optimiser.state_dict()
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        # Some count their steps in a tensor, some in a plain integer.
        counts = tensor.ndim == 0 and not tensor.is_floating_point()
        state["state"].setdefault(int(number), {})[name] = int(tensor) if counts else tensor
    optimiser.load_state_dict(state)
