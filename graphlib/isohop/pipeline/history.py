"""The runs of a pipeline: which there are, how two of them differ, and which can go.

Nothing here knows what a stage does, nor asks for the tables; it reads the records that stages
leave (`runs.py`) in ``home``, the folder of the pipeline's runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isohop.engines.object_store import StoredFolder
from isohop.engines.storage import TEMPORARY, remove_folder
from isohop.errors import IsohopError, did_you_mean
from isohop.pipeline.runs import LOCK, REMOVING, TRAINING, Made, Run, StageRecord, runs_in, size_of
from isohop.pipeline.since import precedence
from isohop.pipeline.stages import STAGES


@dataclass(frozen=True)
class PastRun:
    """``records``: of the stages that are done, in their order; ``damaged``: stages whose record
    cannot be read."""

    run: Run
    records: tuple[StageRecord, ...]
    damaged: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run) -> PastRun:
        records, damaged = [], []
        for name in STAGES:
            try:
                record = run.record(name)
            except IsohopError:
                damaged.append(name)
                continue
            if record is not None:
                records.append(record)
        return cls(run, tuple(records), tuple(damaged))

    @property
    def last(self) -> str:
        """When the newest of its stages began: ISO 8601, UTC; '' where none is done."""
        return self.order[1]

    @property
    def order(self) -> tuple[int, str]:
        """Greater of the run whose newest stage is newer, whatever the clocks said."""
        return max((record.order for record in self.records), default=(0, ""))

    @property
    def size(self) -> int:
        """Bytes of all that lies in its folder."""
        if self.run.stored is not None:
            return sum(one.size for one in self.run.stored.objects())
        return size_of(self.run.folder)


@dataclass(frozen=True)
class Difference:
    """What a stage depends on in one run and in another; None where it does not."""

    stage: str
    what: str
    one: str | None
    other: str | None


def past_runs(home: Path | StoredFolder) -> list[PastRun]:
    """All runs, the newest first."""
    found = [PastRun.of(run) for run in runs_in(home)]
    return sorted(found, key=lambda one: (one.order, one.run.id), reverse=True)


def past_run(home: Path | StoredFolder, run_id: str) -> PastRun:
    """Raises `IsohopError` where there is none of that name."""
    known = {run.id: run for run in runs_in(home)}
    if run_id not in known:
        raise IsohopError(f"{home} has no run '{run_id}'. {did_you_mean(run_id, known)}")
    return PastRun.of(known[run_id])


def differences(one: PastRun, other: PastRun) -> list[Difference]:
    """Stage by stage, of what their results depend on. That a stage before it is another is not
    told again: it is told there."""
    found = []
    for stage in STAGES:
        mine, theirs = (_depends(run, stage) for run in (one, other))
        if mine is None or theirs is None:
            if mine is not theirs:
                found.append(Difference(stage, "stage", *(_state(r, stage) for r in (one, other))))
            continue
        for what in dict.fromkeys([*mine, *theirs]):
            values = mine.get(what), theirs.get(what)
            if values[0] != values[1] and what not in STAGES:
                found.append(Difference(stage, what, *values))
    return found


def _depends(past: PastRun, stage: str) -> Mapping[str, str] | None:
    return next((record.depends for record in past.records if record.stage == stage), None)


def _state(past: PastRun, stage: str) -> str:
    if stage in past.damaged:
        return "damaged"
    return "not done" if _depends(past, stage) is None else "done"


def prune(home: Path | StoredFolder, keep: int) -> list[Made]:
    """Remove all but the newest ``keep`` runs, and in those that stay what killed processes left
    behind. Of the others stay those that an unfinished run which stays goes on from, the newest
    that a run can go on from, and the one that ``since: latest`` is. What is being written stays as
    it is, and so does a run with a damaged record, since nobody knows how new it is: these are
    told. Published versions are untouched."""
    if keep < 1:
        raise IsohopError(f"Keep 1 run or more. Got {keep} instead.")
    found = past_runs(home)
    told = [
        Made(what=f"left alone: damaged record of {', '.join(p.damaged)}", where=str(p.run.place))
        for p in found
        if p.damaged
    ]
    sound = [past for past in found if not past.damaged]
    staying = [past for past in found if past.damaged] + sound[:keep]
    for past in sound[:keep]:
        # Of one in an object store what was left behind lies in the copy that this machine wrote.
        run = Run.of(home, past.run.id)
        if not run.folder.is_dir():
            continue
        try:
            with run.writing(tidying=True):
                told += [_remove(path, "leftover") for path in _leftovers(run)]
        except IsohopError as error:
            told.append(Made(what=f"left alone: {error}", where=str(run.place)))
    # Unfinished ones first: those that stay say which others have to.
    for past in sorted(sound[keep:], key=_is_whole):
        why = _needed(found, staying).get(past.run.id)
        if why is None:
            try:
                run = Run.of(home, past.run.id)
                with run.writing(tidying=True):
                    told.append(_remove_run(run, past.run))
                continue
            except IsohopError as error:
                why = str(error)
        staying.append(past)
        told.append(Made(what=f"left alone: {why}", where=str(past.run.place)))
    if isinstance(home, StoredFolder):
        return told
    # Runs whose removal was cut short.
    leftovers = sorted(home.glob(f"{TEMPORARY}*"))
    return told + [_remove(path, "leftover") for path in leftovers]


def _needed(found: Sequence[PastRun], staying: Sequence[PastRun]) -> dict[str, str]:
    """Why runs have to stay: the newest that any can go on from, the one that any would go on from
    rather than from that, and those that unfinished ones of ``staying`` do."""
    why = {}
    whole = [past for past in found if _is_whole(past)]
    if whole:
        why[whole[0].run.id] = "it is the newest that a run can go on from"
        why[max(whole, key=_precedence).run.id] = "it is what 'since: latest' is"
    for past in staying:
        built = _depends(past, "build") or {}
        if not _is_whole(past) and "since.run" in built:
            why[json.loads(built["since.run"])] = f"run '{past.run.id}' goes on from it"
    return why


def _is_whole(past: PastRun) -> bool:
    return _depends(past, "embed") is not None


def _precedence(whole: PastRun) -> tuple[Any, ...]:
    records = {record.stage: record for record in whole.records}
    if "build" not in records:
        return (False,)
    return True, *precedence(records["build"], records["embed"], "publish" in records)


def _remove_run(run: Run, read: Run) -> Made:
    """Records first, so that nobody takes a half for a whole, and a mark last, by which the rest is
    found. ``read``: of one in an object store the copy that is read here. Raises `IsohopError`
    where somebody does."""
    if run.stored is None:
        return _remove(run.folder, f"run '{run.id}'")
    with read.unread():
        run.stored.put(REMOVING, b"")
        names = [one.name for one in run.stored.objects() if one.name not in (LOCK, REMOVING)]
        records_first = sorted(names, key=lambda name: not name.startswith("stages/"))
        run.stored.remove([*records_first, REMOVING])
        _remove(read.folder, "copy")
    made = _remove(run.folder, f"run '{run.id}'")
    return made.model_copy(update={"where": str(run.place)})


def _leftovers(run: Run) -> list[Path]:
    """Temporary files and folders, and checkpoints of stages that are done."""
    found = list(run.folder.rglob(f"{TEMPORARY}*"))
    for stage in STAGES.values():
        if run.record(stage.name) is not None:
            found += [run.folder / f"{output}{TRAINING}" for output in stage.outputs]
    inside = {path for path in found if set(path.parents) & set(found)}
    return [path for path in found if path.exists() and path not in inside]


def _remove(path: Path, what: str) -> Made:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
    return Made(what=f"removed {what}", where=str(path))
