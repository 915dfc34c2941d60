"""Training on Ray: what it asks for, how it tells how it goes, and what becomes of errors."""

from __future__ import annotations

import errno
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from isohop.engines.progress import SILENT
from isohop.engines.ray_train import (
    FAILED,
    GPUS,
    ROOM,
    THREADS,
    WHERE,
    WORKERS,
    Log,
    _guarded,
    _resources,
    this_worker,
    train,
)
from isohop.errors import IsohopError
from tests.engines.test_processes import is_loopback

WAITED = "waited"


def _one_of_two_cannot(asked: dict[str, Any]) -> None:
    """The other waits for it."""
    workers, waiting = this_worker(asked), Path(asked[WHERE]) / WAITED
    if workers.rank == 0:
        waiting.touch()
        workers.add([torch.zeros(1)])
    while not waiting.exists():
        time.sleep(0.01)
    raise IsohopError("features is missing on this machine.")


def test_an_error_that_one_of_several_workers_meets_ends_all_and_is_told(
    ray_on_all_cores, tmp_path
):
    """Long before those that wait for it would give up, which is half an hour."""
    for workers in (2, 1):  # the next run tries anew
        with pytest.raises(IsohopError, match=r"^features is missing on this machine\.$"):
            train(_one_of_two_cannot, {}, tmp_path, (), workers, "distill", SILENT)
        (waited,) = tmp_path.rglob(WAITED)
        waited.unlink()


def _listens(asked: dict[str, Any]) -> list[str]:
    """Addresses, of this process, after it has spoken to the other."""
    workers = this_worker(asked)
    ones = torch.ones(1)
    workers.add([ones])
    assert float(ones) == workers.count
    sockets = psutil.Process().net_connections("inet")
    return [one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN]


def test_nobody_outside_of_the_machine_can_speak_to_workers(ray_on_all_cores, tmp_path):
    addresses, _ = train(_listens, {}, tmp_path / "tätig here", (), 2, "distill", SILENT)
    assert addresses
    assert [one for one in addresses if not is_loopback(one)] == []


FULL = OSError(errno.ENOSPC, "No space left on device")
OURS = IsohopError("The folder x: No space left on device.")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("met", "told"), [(FULL, r"^Training: No space left .*Make room"), (OURS, rf"^{OURS}$")]
)
def test_a_full_disk_is_told_as_that_and_our_errors_in_their_own_words(
    tmp_path, workers, met, told
):
    """Of several workers by those that are made after them, who do not try again."""
    (tmp_path / FAILED).write_bytes(b" " * ROOM)
    tries: list[int] = []

    def loop(_: dict[str, Any]) -> None:
        tries.append(1)
        raise met

    asked = {WHERE: str(tmp_path), WORKERS: workers}
    if workers > 1:
        with pytest.raises(type(met)):
            _guarded(loop, asked)
    assert re.search(told, _guarded(loop, asked)["error"])
    assert len(tries) == 1
    assert (tmp_path / FAILED).stat().st_size == ROOM


@pytest.mark.parametrize(
    ("there_are", "of_use", "expected"),
    [(2, True, {"CPU": 3, "GPU": 1}), (1, True, {"CPU": 3}), (2, False, {"CPU": 3})],
)
def test_a_gpu_is_asked_for_where_each_worker_gets_one_and_has_a_use_for_it(
    monkeypatch, there_are, of_use, expected
):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": float(there_are)})
    assert _resources({THREADS: 3, WORKERS: 2, GPUS: of_use}) == expected


def test_steps_that_are_taken_again_are_told_once(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.begin("teacher", 50)
    for step, loss in ((25, 3.0), (50, 2.0)):
        log.tell("teacher", step, loss=loss)
    log.read()
    log.begin("teacher", 50)
    log.tell("teacher", 50, loss=1.0)
    log.begin("student", 10)
    log.read()
    assert list(log.parts) == ["teacher", "student"]
    teacher = log.parts["teacher"]
    assert (teacher.steps, teacher.done) == (50, 50)
    assert teacher.curves == {"loss": ((25, 3.0), (50, 1.0))}
    assert log.parts["student"].curves == {}


def test_a_line_that_was_cut_short_by_a_death_is_told_anew(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.begin("teacher", 50)
    log.tell("teacher", 25, loss=3.0)
    with log.file.open("a", encoding="utf-8") as opened:
        opened.write('{"part": "teacher", "step": 50, "lo')
    log.read()
    log.mend()
    log.tell("teacher", 50, loss=2.0)
    log.read()
    assert log.parts["teacher"].curves == {"loss": ((25, 3.0), (50, 2.0))}
