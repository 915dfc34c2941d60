"""Workers that share work without Ray: real processes that find each other in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from isohop.engines.workers import Workers

Work = Callable[[Workers, Path], None]
"""What each does, a function of a module; what it says it leaves in the folder."""


def together(work: Work, count: int, folder: Path) -> None:
    """Raises what any of the ``count`` workers raises."""
    spawn(_join, (work, count, folder), nprocs=count)


def _join(rank: int, work: Work, count: int, folder: Path) -> None:
    torch.set_num_threads(1)  # threads of many processes wait for each other, and spin
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    work(Workers(rank, count), folder)
    torch.distributed.destroy_process_group()
