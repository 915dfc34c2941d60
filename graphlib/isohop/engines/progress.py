"""How a long piece of work tells a person how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One bar: ``advance(n)`` counts done units, ``note(text)`` shows a figure beside it."""

    def advance(self, steps: float = 1) -> None: ...

    def note(self, text: str) -> None: ...


class Progress(Protocol):
    """Opens bars. ``total=None`` is a bar of unknown length."""

    def task(
        self, description: str, total: float | None = None
    ) -> AbstractContextManager[Task]: ...


class SilentTask:
    """Nobody listens."""

    def advance(self, steps: float = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class SilentProgress:
    """The default: shows nothing."""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        yield SilentTask()


SILENT = SilentProgress()
