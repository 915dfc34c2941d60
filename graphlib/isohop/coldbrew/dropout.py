"""Dropout whose masks cost little.

torch draws them one number after the other, on one core: over a whole graph that is more than a
quarter of a step. Here two bytes of SFC64 (Doty-Humphrey's generator, as NumPy has it) decide about
a number. Their seed is torch's to give, so one seed of torch drops the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

CHANCES = 1 << 16
"""What two bytes can say: shares are multiples of one of these."""


def dropout(values: Tensor, share: float, training: bool) -> Tensor:
    """In ``training`` a ``share`` of ``values``, float32 of any shape, is 0, and the others are so
    much larger that the mean is what it was."""
    gone = min(round(share * CHANCES), CHANCES - 1)
    if not training or not gone:
        return values
    seed = int(torch.randint(1 << 62, ()))
    words = np.random.SFC64(seed).random_raw(-(-values.numel() // 4))
    drawn = words.view(np.uint16)[: values.numel()]
    larger = np.float32(CHANCES / (CHANCES - gone))
    mask = np.multiply(drawn >= gone, larger, dtype=np.float32)
    return values * torch.from_numpy(mask).view(values.shape)


class Dropout(nn.Module):
    """`dropout` as a layer."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        return dropout(values, self.share, self.training)
