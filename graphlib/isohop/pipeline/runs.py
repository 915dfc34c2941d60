"""Runs: a run is a folder, and a stage of it is done when its record there matches its inputs.

::

    <runs>/<pipeline>/<run>/
      graph/ features/ model/ report.html                        what the stages made
      embeddings/ student/ credible/                             and the stage `embed`
      since.json                                                 the run it goes on from (since.py)
      metrics.jsonl                                              each attempt at a stage (events.py)
      evaluation.json                                            what `isohop evaluate` found
      stages/<stage>.json                                        StageRecord, written last
      .lock                                                      held by whoever writes

A stage writes into a temporary place and moves it when whole, then writes its record. So a run that
was killed anywhere goes on where it stopped, and a stage whose inputs, settings and code are the
same is not run again. One process writes a run at a time; the operating system lets go of the lock
when that process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.engines.lease import Lease
from isohop.engines.mirror import Mirror
from isohop.engines.object_store import READING, WRITING, StoredFolder
from isohop.engines.storage import write_text_atomically
from isohop.errors import IsohopError
from isohop.pipeline.events import METRICS

LOCK = ".lock"
REMOVING = ".removing"
"""Of a run in an object store, which goes object by object."""
TRAINING = ".training"
"""How the folders end that checkpoints lie in."""
_PULLS = 10
LONG = 300
"""Letters that a value is told with. The name of a run, which is read back, cannot have as many."""

_log = logging.getLogger("isohop")


class Made(BaseModel):
    """One line of the summary: what was made, and where; its bytes where that is not in the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: str
    where: str
    size: int = 0


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
    depends: Mapping[str, str] = {}
    """What the fingerprint is of, by name, as texts: for `isohop runs diff`."""
    number: int = 0
    """Of the stages that all runs of a pipeline did, in the order in which these were done: what is
    newer, whatever the clocks said. Two that were done at the same moment may have the same; 0 of
    one that was done before they were counted."""

    @property
    def order(self) -> tuple[int, str]:
        """Greater of what is newer."""
        return self.number, self.started


def fingerprint_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what a stage depends on, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def told_apart(parts: Mapping[str, Any], of: str = "") -> dict[str, str]:
    """The same, for people: a text for each single value, by its place (``settings.seed``); of a
    long one its SHA-256."""
    found: dict[str, str] = {}
    for name, value in parts.items():
        place = f"{of}{name}"
        if isinstance(value, Mapping):
            found |= told_apart(value, f"{place}.")
            continue
        text = json.dumps(value, ensure_ascii=False, default=str)
        found[place] = text if len(text) <= LONG else hashlib.sha256(text.encode()).hexdigest()
    return found


@dataclass
class Run:
    """One run's folder. ``stored``: where it is, if that is an object store: then ``folder`` is a
    local copy, which is brought up to date before anything is written, and goes up with each record
    of a stage that is done."""

    folder: Path
    stored: StoredFolder | None = None
    _lease: Lease | None = None

    @classmethod
    def of(cls, home: Path | StoredFolder, name: str, kind: str = WRITING) -> Run:
        """The run of that name, among those in ``home``; it need not exist yet. ``kind``: of the
        local copy, where it is in an object store."""
        place = home / name
        return cls(place.copy(kind), place) if isinstance(place, StoredFolder) else cls(place)

    @property
    def place(self) -> Path | StoredFolder:
        """Where it is, for people."""
        return self.stored or self.folder

    @property
    def id(self) -> str:
        return self.folder.name if self.stored is None else self.stored.name

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
    def credible(self) -> Path:
        return self.folder / "credible"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @contextmanager
    def writing(self, tidying: bool = False) -> Iterator[None]:
        """Be the one who writes this run; of one in an object store, with a local copy that is as
        new, which goes up at the end; of what failed, that it did. ``tidying``: without. Raises
        `IsohopError` where another process is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise IsohopError(
                    f"Run '{self.id}' is being written by {lock.read() or 'another process'}, or "
                    "read by one that goes on from it. Wait for it to end, or name another run "
                    "with --run."
                ) from error
            lock.truncate(0)
            lock.write(_this_process())
            lock.flush()
            if self.stored is None:
                yield
                return
            with Lease(self.stored, LOCK, _this_process()) as self._lease:
                if tidying:
                    yield
                    return
                self._catch_up()
                try:
                    yield
                except Exception:
                    try:
                        self._push_attempts()
                    except (IsohopError, OSError) as failed:
                        # What failed before is what matters, and may be the store.
                        _log.warning("%s did not go up: %s", METRICS, failed)
                    raise
                self._push()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep others from writing or removing it meanwhile; of one in an object store, this
        machine's copy. Raises `IsohopError` where somebody is writing it."""
        if self.stored is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOCK).touch()
        elif not (self.folder / LOCK).is_file():  # nobody ever wrote it
            yield
            return
        writes = f"Run '{self.id}' is being written or removed. Wait for that to end."
        with _locked(self.folder / LOCK, fcntl.LOCK_SH, writes):
            self.pull()
            yield

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Keep others from reading a copy of it on this machine. Raises `IsohopError` where
        somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / LOCK).touch()
        reads = f"Run '{self.id}' is being read. Wait for that to end."
        with _locked(self.folder / LOCK, fcntl.LOCK_EX, reads):
            yield

    def pull(self, records_only: bool = False) -> None:
        """Bring a local copy up to date; or only what says which stages are done."""
        if self.stored is None:
            return
        mirror = Mirror(self.stored, self.folder)
        if records_only:
            mirror.pull(_is_record)
            return
        for _ in range(_PULLS):
            if not mirror.pull(_is_made) or mirror.is_ahead():  # and nobody wrote meanwhile
                return
        raise IsohopError(
            f"{self.stored} was written as long as it was copied. Wait for that to end."
        )

    def _catch_up(self) -> None:
        """With what others wrote. Where nobody did, what is here and did not go up yet stays."""
        if self.stored is not None and not Mirror(self.stored, self.folder).is_ahead():
            self.pull()

    def _push(self) -> None:
        if (mirror := self._writable()) is not None:
            mirror.push(_is_made, last=_is_record)

    def _push_attempts(self) -> None:
        mirror = self._writable()
        if mirror is not None and (self.folder / METRICS).is_file():
            mirror.push_file(METRICS)

    def _writable(self) -> Mirror | None:
        """Where this process may write the store: what changes it raises `IsohopError` where it no
        longer may."""
        if self.stored is None or self._lease is None:
            return None
        return Mirror(self.stored, self.folder, self._lease.check)

    def record(self, stage: str) -> StageRecord | None:
        """The record of a stage that was done, or None. Raises `IsohopError` on a damaged one."""
        file = self.folder / "stages" / f"{stage}.json"
        if not file.is_file():
            return None
        try:
            return StageRecord.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise IsohopError(
                f"{file} is not a stage record that this version reads. Remove it to run the stage "
                "again."
            ) from error

    def forget(self, stages: Iterable[str]) -> None:
        """Remove records, so that a stage which is about to change its output is not done."""
        for stage in stages:
            (self.folder / "stages" / f"{stage}.json").unlink(missing_ok=True)

    def disown(self, stages: Iterable[str]) -> None:
        """As `forget`, and at once where it is stored: what they made is of no use."""
        self.forget(stages)
        self._push()

    def remember(self, record: StageRecord) -> None:
        write_text_atomically(
            self.folder / "stages" / f"{record.stage}.json", record.model_dump_json(indent=1)
        )
        self._push()


def runs_in(home: Path | StoredFolder) -> Iterator[Run]:
    """The runs of which something was done, and nothing else that somebody may have put there. Of
    those in an object store, what says which stages are done is here."""
    if isinstance(home, StoredFolder):
        for name in home.folders():
            run = Run.of(home, name, READING)
            run.pull(records_only=True)
            marked = any((home / name).read(mark) is not None for mark in (LOCK, REMOVING))
            written = (run.folder / "stages").is_dir() or marked
            if not name.startswith(".") and written:
                yield run
        return
    for folder in sorted(home.glob("*")):
        # A folder of versions has such a lock too.
        other = folder.name.startswith(".") or any(folder.glob("v=*"))
        if not other and ((folder / "stages").is_dir() or (folder / LOCK).is_file()):
            yield Run(folder)


def next_number(home: Path | StoredFolder) -> int:
    """Of a stage that was done just now, among all runs in ``home``."""
    most = 0
    for run in runs_in(home):
        for file in (run.folder / "stages").glob("*.json"):
            try:
                most = max(most, StageRecord.model_validate_json(file.read_bytes()).number)
            except (FileNotFoundError, ValidationError):
                continue  # removed meanwhile, or damaged: told by whoever needs that run
    return most + 1


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _is_record(name: str) -> bool:
    return name.startswith("stages/")


@contextmanager
def _locked(file: Path, kind: int, otherwise: str) -> Iterator[None]:
    """Hold a lock of that ``kind``. Raises `IsohopError` where another process has it."""
    # To lock it for oneself takes the right to write it, on some network file systems.
    with file.open("a+" if kind == fcntl.LOCK_EX else "r", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise IsohopError(otherwise) from error
        yield


def _is_made(name: str) -> bool:
    """Checkpoints of what is being trained stay on the machine that trains."""
    return not name.partition("/")[0].endswith(TRAINING)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files under a folder, but for those that go away meanwhile."""
    if path.is_file():
        return path.stat().st_size
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(folder, name).stat().st_size
    return size
