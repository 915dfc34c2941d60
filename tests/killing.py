"""Training that is disturbed: workers that are killed, and runs that are killed as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from isohop.engines.progress import SilentTask, Task

PATIENCE = 600.0
"""Seconds after which a process is taken to hang: many times what it takes on a busy machine."""


def log_of(training: Path) -> str:
    return "".join(file.read_text("utf-8") for file in training.glob("*/log.jsonl"))


def command_of(process: psutil.Process) -> str:
    """Empty of a process that has ended, even if nobody has waited for it yet."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie is one, too
        return ""


def run_and_kill(program: str, arguments: list[str], training: Path, when: str) -> None:
    """Run a Python program until its log says something; then kill it and all that it started."""
    run = subprocess.Popen([sys.executable, "-c", program, *arguments], start_new_session=True)
    try:
        while run.poll() is None and when not in log_of(training):
            time.sleep(0.05)
        assert run.poll() is None, "the program ended before it said that"
    finally:
        children = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


class Reader:
    """Hears how a part of training goes, and keeps what the log said last."""

    def __init__(self, part: str, training: Path):
        self.part = part
        self.training = training
        self.text = ""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        yield self if description == self.part else SilentTask()

    def note(self, text: str) -> None:
        pass

    def advance(self, steps: float = 1) -> None:
        self.text = log_of(self.training)


class Killer(Reader):
    """Kills a worker once, after some steps of a part. ``workers``: of how many; the last of them,
    where they are a group."""

    def __init__(self, part: str, after: int, workers: int = 1):
        self.part = part
        self.after = after
        self.workers = workers
        self.done = 0.0
        self.killed: list[int] = []

    def advance(self, steps: float = 1) -> None:
        self.done += steps
        if self.done < self.after or self.killed:
            return
        name = "ray::_guarded" if self.workers == 1 else "RayTrainWorker"
        every = psutil.Process().children(recursive=True)
        found = [process for process in every if name in command_of(process)]
        assert len(found) == self.workers
        self.killed.append(found[-1].pid)
        found[-1].kill()
