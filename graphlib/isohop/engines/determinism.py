"""The same numbers from the same inputs, wherever torch computes."""

from __future__ import annotations

import torch


def compute_deterministically(threads: int | None = None) -> None:
    """From now on, in this process; by so many ``threads``, where they are given."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Else torch fills all memory that it takes before it writes there, which is a twelfth of the
    # time of a teacher's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def draw_by(seed: int) -> None:
    """Whatever torch draws from now on is drawn by ``seed``.

    As `torch.manual_seed`, which keeps for each kind of device that was not used yet what it would
    tell it, with the stack of whoever asked: in each step that is some milliseconds, and memory
    that is never given back.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
