"""Workers that train one model together: each its share of every batch, all the same step.

All draw the same batch from the same seed, so hardly anything but gradients goes between them: the
sums of what each found on its own rows (synchronous data parallelism). What is decided by a number
that each finds for itself is decided by the first one's, since machines that are not alike round
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    def all(self) -> range:
        """Ranks."""
        return range(self.count)

    @property
    def share(self) -> slice:
        """Of a batch, the rows of this worker."""
        return self.shares[self.rank]

    @property
    def shares(self) -> list[slice]:
        """Those of all workers, by rank: every so-many-th row from there."""
        return [slice(rank, None, self.count) for rank in self.all]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the workers. Shapes must be equal on all of them."""
        if self.count == 1 or not tensors:
            return
        together = torch.cat([tensor.reshape(-1).cpu() for tensor in tensors])
        torch.distributed.all_reduce(together)
        parts = together.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def exchanged(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """What each worker has for this one, by rank; ``parts``: what this one has for each, by
        rank. Any number of rows, else alike."""
        if self.count == 1:
            return list(parts)
        sizes = torch.tensor([len(part) for part in parts])
        theirs = torch.empty_like(sizes)
        torch.distributed.all_to_all_single(theirs, sizes)
        sent, heard = torch.cat(list(parts)), theirs.tolist()
        got = sent.new_empty(sum(heard), *sent.shape[1:])
        torch.distributed.all_to_all_single(got, sent, heard, sizes.tolist())
        return list(got.split(heard))

    def ask(self, rows: Tensor) -> AskedRows:
        """For ``rows``, int64 (n,), of what `shares` share out. All workers ask at once."""
        owner = rows % self.count
        asked = self.exchanged([rows[owner == one] // self.count for one in self.all])
        return AskedRows(self, owner, asked)

    def stacked(self, own: Tensor) -> Tensor:
        """(count, ...): those of all workers, which are alike, in the order of their ranks."""
        if self.count == 1:
            return own[None]
        parts = [torch.empty_like(own) for _ in self.all]
        torch.distributed.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    def wait(self) -> None:
        """Nobody goes on before all have come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def agreed(self, value: float) -> float:
        """The first worker's."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(told, 0)
        return float(told)

    def gathered(self, values: np.ndarray) -> np.ndarray:
        """int64: the values of all workers, equally many of each, in the order of their ranks."""
        return self.stacked(torch.from_numpy(values.astype(np.int64))).flatten(0, 1).numpy()


@dataclass(frozen=True)
class AskedRows:
    """Rows that a worker asks the others for. ``owner``: whose each is, (n,); ``asked``: by worker,
    which of this one's it asks for, by their numbers in its share."""

    workers: Workers
    owner: Tensor
    asked: list[Tensor]

    def told(self, own: Callable[[Tensor], Tensor]) -> Tensor:
        """(n, ...). ``own``: what this worker says of rows of its share."""
        parts = self.workers.exchanged([own(rows) for rows in self.asked])
        if self.workers.count == 1:
            return parts[0]
        found = parts[0].new_empty(len(self.owner), *parts[0].shape[1:])
        for one, part in enumerate(parts):
            found[self.owner == one] = part
        return found

    def given_back(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of this worker's share, not distinct, and what all have for them. ``values``: (n,
        ...), what this one has for the rows that it asked for."""
        parts = self.workers.exchanged([values[self.owner == one] for one in self.workers.all])
        return torch.cat(self.asked), torch.cat(parts)


ALONE = Workers(0, 1)
