"""Since: a run that learns nothing, and goes on from what an earlier run learned.

With ``since: <run>`` in the pipeline file known nodes keep their ids, documents that have not
changed their features, and encoder, teacher and student their weights. ``since: latest`` means the
newest run that can be gone on from; where there is none the run learns for itself. Which it is, a
run decides once: ``since.json`` in its folder says so.

A run can be gone on from where it is whole, its schema file and the settings of what was learned
are the same, and it knew nothing that this run is not to know (``as_of``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from isohop.engines.storage import write_text_atomically
from isohop.errors import IsohopError
from isohop.pipeline.pipeline_file import Pipeline
from isohop.pipeline.runs import Run, StageRecord, runs_in

LATEST = "latest"
DECISION = "since.json"
KEPT = ("build", "features", "distill", "embed")
"""Stages that an earlier run has a part in."""


def earlier_run(pipeline: Pipeline, run: Run, learning: Mapping[str, str]) -> Run | None:
    """The run that ``run`` goes on from; None where it learns for itself. ``learning``: what
    learning depends on, as `told_apart` tells it. Raises `IsohopError` where the one that the
    pipeline file names cannot be."""
    asked = pipeline.settings.since
    if asked is None:
        return None
    known = {one.id: one for one in runs_in(pipeline.runs)}
    if asked != LATEST:
        there = asked in known
        why = _unfit(pipeline, run, known[asked], learning) if there else "there is no such run"
        if why is not None:
            raise IsohopError(
                f"'since: {asked}' cannot be: {why}. Name another run, or learn anew: leave "
                "'since' out."
            )
        return known[asked]
    file = run.folder / DECISION
    if file.is_file():
        decided = json.loads(file.read_text("utf-8"))["since"]
        if decided is None:
            return None
        if decided in known and _unfit(pipeline, run, known[decided], learning) is None:
            return known[decided]
    fit = [one for one in known.values() if _unfit(pipeline, run, one, learning) is None]
    newest = max(fit, key=lambda one: (_started(one), one.id), default=None)
    decision = {"since": None if newest is None else newest.id}
    write_text_atomically(file, json.dumps(decision))
    return newest


def depends_on(earlier: Run | None, stage: str) -> dict[str, str]:
    """What the result of a stage depends on besides, because of the run before."""
    record = None if earlier is None or stage not in KEPT else earlier.record(stage)
    if earlier is None or record is None:
        return {}
    return {"run": earlier.id, "fingerprint": record.fingerprint}


def _unfit(pipeline: Pipeline, run: Run, other: Run, learning: Mapping[str, str]) -> str | None:
    """Why a run cannot be gone on from, None where it can."""
    if other.id == run.id:
        return "a run cannot go on from itself. Name this one anew with --run"
    records = {stage: other.record(stage) for stage in KEPT}
    missing = [stage for stage, record in records.items() if record is None]
    if missing:
        return f"its stage '{missing[0]}' is not done"
    done = {stage: record.depends for stage, record in records.items() if record is not None}
    theirs = {**done["build"], **done["features"], **done["distill"]}
    other_than = sorted(name for name, value in learning.items() if theirs.get(name) != value)
    if other_than:
        return f"it has other {', '.join(name.removeprefix('settings.') for name in other_than)}"
    return _knew_more(pipeline.settings.as_of, theirs.get("settings.as_of", "null"))


def _knew_more(ours: datetime | None, theirs: str) -> str | None:
    """``theirs``: the moment as JSON."""
    known = json.loads(theirs)
    if ours is None or (known is not None and datetime.fromisoformat(known) <= ours):
        return None
    return f"it knows rows of {'now' if known is None else known}, and this one is as of {ours}"


def _started(run: Run) -> str:
    record: StageRecord | None = run.record("embed")
    return "" if record is None else record.started
