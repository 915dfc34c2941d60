"""Checkpoints: what changes in training as one file of safetensors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]


def save_checkpoint(file: Path, parts: Mapping[str, Tensors], about: Mapping[str, str]) -> None:
    """``parts``: tensors by name, by the part of training that they are of."""
    partial = file.with_suffix(".partial")
    tensors = {
        f"{part}/{name}": tensor.detach().contiguous()
        for part, of in parts.items()
        for name, tensor in of.items()
    }
    save_file(tensors, partial, dict(about))
    partial.replace(file)


def load_checkpoint(file: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """(parts, about) as `save_checkpoint` was given them; a part without tensors is not there."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(file).items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    with safe_open(file, "pt") as opened:
        return parts, opened.metadata() or {}


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
