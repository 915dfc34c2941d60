"""Tables of vectors of which a step touches few rows: an encoder's n-grams, a head's labels.

Trained by row-wise Adagrad (Duchi, Hazan and Singer, JMLR 2011; one sum of squares a row, as in
recommenders): a step costs what it touches, however large the table.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class RowTable(nn.Module):
    """``values``: float32 (rows, d). ``squares``: float32 (rows,), of mean squared gradients."""

    values: Tensor
    squares: Tensor

    def __init__(self, values: Tensor):
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("squares", torch.zeros(len(values)))
        self._taken: list[tuple[Tensor, Tensor]] = []

    def take(self, rows: np.ndarray) -> Tensor:
        """(len(rows), d), of distinct ``rows``; its gradient goes into the next `step`."""
        at = torch.from_numpy(rows)
        values = self.values[at].requires_grad_()
        self._taken.append((at, values))
        return values

    @property
    def gradients(self) -> list[Tensor]:
        """Of all that was taken since the last step, in its order; what is written into them is
        what the next step learns from."""
        return [gradient_of(values) for _, values in self._taken]

    def step(self, rate: float) -> None:
        """Learn from the gradients of what was taken, and forget them."""
        with torch.no_grad():
            for (at, _), gradient in zip(self._taken, self.gradients, strict=True):
                squares = self.squares[at] + gradient.square().mean(1)
                self.squares[at] = squares
                change = gradient * (-rate / (squares.sqrt() + 1e-8))[:, None]
                self.values.index_add_(0, at, change)
        self.forget()

    def forget(self) -> None:
        """What was taken, and learn nothing from it."""
        self._taken.clear()


def gradient_of(tensor: Tensor) -> Tensor:
    """The gradient of a leaf, which is zero where it had no part in the loss."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad
