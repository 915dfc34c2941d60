"""Checkpoints of several workers."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from isohop.engines import checkpoints
from isohop.engines.checkpoints import load_checkpoint, save_checkpoint
from isohop.engines.workers import Workers
from isohop.errors import IsohopError
from tests.group import together

CHECKPOINT = "training.safetensors"


def _one_cannot_write(one: int, workers: Workers, folder: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if workers.rank == one:
        checkpoints.save_file = full  # type: ignore[attr-defined]
    own = {"table": {"rows": torch.zeros(2)}}
    save_checkpoint(folder / CHECKPOINT, {}, {}, workers, own)


def test_a_checkpoint_that_was_cut_is_told(tmp_path):
    file = tmp_path / "c.safetensors"
    save_checkpoint(file, {"a": {"b": torch.zeros(9)}}, {})
    whole = file.read_bytes()
    for content in (whole[:-5], whole[:5], b""):
        file.write_bytes(content)
        with pytest.raises(IsohopError, match=r"c\.safetensors.*Remove"):
            load_checkpoint(file)


@pytest.mark.parametrize("one", [0, 1])
def test_a_checkpoint_is_there_only_once_all_have_written_their_part(tmp_path, one):
    with pytest.raises(ProcessRaisedException, match="No space left"):
        together(partial(_one_cannot_write, one), 2, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()
