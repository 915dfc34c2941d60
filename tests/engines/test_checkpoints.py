"""Checkpoints of several workers."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from isohop.engines import checkpoints
from isohop.engines.checkpoints import save_checkpoint
from isohop.engines.workers import Workers
from tests.group import together

CHECKPOINT = "training.safetensors"


def _one_cannot_write(workers: Workers, folder: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if workers.rank == 1:
        checkpoints.save_file = full  # type: ignore[attr-defined]
    own = {"table": {"rows": torch.zeros(2)}}
    save_checkpoint(folder / CHECKPOINT, {}, {}, workers, own)


def test_a_checkpoint_is_there_only_once_all_have_written_their_part(tmp_path):
    with pytest.raises(ProcessRaisedException, match="No space left"):
        together(_one_cannot_write, 2, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()
