"""Workers that train one model together: each its share of every batch, all the same step.

All draw the same batch from the same seed, so hardly anything but gradients goes between them: the
sums of what each found on its own rows (synchronous data parallelism). What is decided by a number
that each finds for itself is decided by the first one's, since machines that are not alike round
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """``rank`` of ``count``; where there are more than one, `torch.distributed` is set up."""

    rank: int
    count: int

    @property
    def share(self) -> slice:
        """Of a batch, the rows of this worker."""
        return slice(self.rank, None, self.count)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the workers. Shapes must be equal on all of them."""
        if self.count == 1 or not tensors:
            return
        together = torch.cat([tensor.reshape(-1).cpu() for tensor in tensors])
        torch.distributed.all_reduce(together)
        parts = together.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def add_rows(self, gradient: Tensor) -> Tensor:
        """The sum over the workers of a sparse gradient of rows, (rows, d): each has few of them,
        and not the same."""
        if self.count == 1:
            return gradient
        own = gradient.coalesce()
        at, values = own.indices()[0], own.values()
        sizes = self.gathered(np.array([len(at)]))
        padded = torch.full((int(sizes.max()),), -1), torch.zeros(int(sizes.max()), values.shape[1])
        padded[0][: len(at)], padded[1][: len(at)] = at, values
        parts = []
        for part in padded:
            parts.append([torch.empty_like(part) for _ in range(self.count)])
            torch.distributed.all_gather(parts[-1], part)
        ids, rows = (torch.cat(part) for part in parts)
        there = ids >= 0
        return torch.sparse_coo_tensor(ids[None, there], rows[there], gradient.shape).coalesce()

    def agreed(self, value: float) -> float:
        """The first worker's."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(told, 0)
        return float(told)

    def gathered(self, values: np.ndarray) -> np.ndarray:
        """int64: the values of all workers, equally many of each, in the order of their ranks."""
        if self.count == 1:
            return values
        own = torch.from_numpy(values.astype(np.int64))
        parts = [torch.empty_like(own) for _ in range(self.count)]
        torch.distributed.all_gather(parts, own)
        return torch.cat(parts).numpy()


ALONE = Workers(0, 1)
