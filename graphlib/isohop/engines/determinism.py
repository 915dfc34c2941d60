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
