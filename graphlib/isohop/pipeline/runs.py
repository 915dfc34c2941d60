"""Runs: a run is a folder, and a stage of it is done when its record there matches its inputs.

::

    <runs>/<pipeline>/<run>/
      graph/ features/ model/ embeddings/ student/ report.html   what the stages made
      evaluation.json                                            what `isohop evaluate` found
      stages/<stage>.json                                        StageRecord, written last

A stage writes into a temporary place and moves it when whole, then writes its record. So a run that
was killed anywhere goes on where it stopped, and a stage whose inputs, settings and code are the
same is not run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.engines.storage import write_text_atomically
from isohop.errors import IsohopError


class Made(BaseModel):
    """One line of the summary: what was made, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: str
    where: str


class StageRecord(BaseModel):
    """``stages/<stage>.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    fingerprint: str
    started: str
    seconds: float
    size: int
    """Bytes of what was made."""
    made: tuple[Made, ...]


def fingerprint_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what a stage depends on, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def graph(self) -> Path:
        return self.folder / "graph"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def embeddings(self) -> Path:
        return self.folder / "embeddings"

    @property
    def student(self) -> Path:
        return self.folder / "student"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def record(self, stage: str) -> StageRecord | None:
        """The record of a stage that was done, or None. Raises `IsohopError` on a damaged one."""
        file = self.folder / "stages" / f"{stage}.json"
        if not file.is_file():
            return None
        try:
            return StageRecord.model_validate_json(file.read_text("utf-8"))
        except ValidationError as error:
            raise IsohopError(
                f"{file} is not a stage record that this version reads. Remove it to run the stage "
                "again."
            ) from error

    def forget(self, stages: Iterable[str]) -> None:
        """Remove records, so that a stage which is about to change its output is not done."""
        for stage in stages:
            (self.folder / "stages" / f"{stage}.json").unlink(missing_ok=True)

    def remember(self, record: StageRecord) -> None:
        write_text_atomically(
            self.folder / "stages" / f"{record.stage}.json", record.model_dump_json(indent=1)
        )


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
