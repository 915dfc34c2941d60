"""The errors a user can meet. Each says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class IsohopError(Exception):
    """Base of every error that is the user's to mend; the CLI prints it without a traceback."""


@dataclass(frozen=True)
class Problem:
    """One mistake: ``where`` is a file and key path, or a table and column; ``hint`` the remedy."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.hint}" if self.hint else "")


class InvalidInput(IsohopError):
    """Everything that is wrong with one file or request, gathered and raised once."""

    def __init__(self, title: str, problems: Sequence[Problem]):
        self.title = title
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{title}: {count} mistake{'s' if count != 1 else ''}"
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[str, tuple[Problem, ...]]]:
        """So that a worker can tell it."""
        return InvalidInput, (self.title, self.problems)


def first_mistake(error: ValidationError) -> str:
    """Of a file that a program wrote, of another version perhaps: where it is not as it should be,
    and what is there."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    said = f"{where}: {first['msg']}" if where else first["msg"]
    return f"{said}, and not {first['input']!r}" if first["type"] == "literal_error" else said


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest of ``known``, or lists them when none is near."""
    names = sorted({str(name) for name in known})
    near = get_close_matches(str(word), names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    if not names:
        return ""
    shown = ", ".join(f"'{name}'" for name in names[:12])
    return f"Known: {shown}{', …' if len(names) > 12 else ''}."
