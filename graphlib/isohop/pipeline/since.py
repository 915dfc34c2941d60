"""Since: a run that goes on from what an earlier run learned.

With ``since: <run>`` in the pipeline file known nodes keep their ids, documents that have not
changed their features, and encoder, teacher, MLP and student their weights; with ``warm_start: N``
besides, the last three are trained N steps further on the graph of now. ``since: latest`` means
the newest run that can be gone on from, of the published ones where there are any; where there is
none the run learns for itself, and why it does is told.

A run can be gone on from where it is whole, what its schema file said and the settings of what was
learned are the same, it knew nothing that this run is not to know (``as_of``), and its graph has
the types of this one's. The stage `build` decides, and ``since.json`` in the run's folder says
what; all later stages keep to that. What is done stays done, whatever becomes of the earlier run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.engines.mirror import Mirror
from isohop.engines.object_store import READING
from isohop.engines.storage import write_text_atomically
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.earlier import check_same_types
from isohop.pipeline.pipeline_file import Pipeline
from isohop.pipeline.runs import Run, StageRecord, runs_in

LATEST = "latest"
KEPT = ("build", "features", "distill", "embed")
"""Stages that an earlier run has a part in."""
DECISION = "since.json"
_log = logging.getLogger("isohop")
_ELSE = "Name another run, or learn anew with 'since: none'."


class Decision(BaseModel):
    """``since.json``. ``asked``: what the pipeline file said. ``run``: the earlier run, None where
    this one learns for itself; ``made``: fingerprints of its stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    asked: str
    run: str | None = None
    made: Mapping[str, str] = {}

    def of_stage(self, stage: str) -> dict[str, str]:
        """What a stage depends on because of it."""
        return {} if self.run is None else {"run": self.run, "fingerprint": self.made[stage]}


def decided(pipeline: Pipeline, run: Run) -> Decision | None:
    """What was decided for what the pipeline file asks now; None where nothing was."""
    file = run.folder / DECISION
    if not file.is_file():
        return None
    try:
        found = Decision.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise IsohopError(f"{file} is damaged. Remove it, and the run decides anew.") from error
    return found if found.asked == pipeline.settings.since else None


def decide(
    pipeline: Pipeline, run: Run, learning: Mapping[str, str], alike: Graph | None = None
) -> Decision:
    """Which run ``run`` goes on from, written down. ``learning``: what learning depends on, as
    `told_apart` tells it. ``alike``: its graph, once it is there and the latest run has turned out
    to have one of other types. Raises `IsohopError` where the run that the pipeline file names
    cannot be gone on from."""
    asked = pipeline.settings.since or LATEST
    known = {one.id: one for one in runs_in(pipeline.runs)}
    if asked == LATEST:
        found = _latest(pipeline, run, known, learning, alike)
    else:
        found = known.get(asked)
        why = "there is no such run" if found is None else _unfit(pipeline, run, found, learning)
        if why is not None:
            raise IsohopError(f"'since: {asked}' cannot be: {why}. {_ELSE}")
    made = {} if found is None else _made(found)
    decision = Decision(asked=asked, run=None if found is None else found.id, made=made)
    write_text_atomically(run.folder / DECISION, decision.model_dump_json(indent=1))
    return decision


def stands(pipeline: Pipeline, run: Run, decision: Decision, learning: Mapping[str, str]) -> bool:
    """Whether it can still be kept to."""
    if decision.run is None:
        return True
    earlier = Run.of(pipeline.runs, decision.run, READING)
    if earlier.stored is not None:
        earlier.pull(records_only=True)
    try:
        return _unfit(pipeline, run, earlier, learning) is None and _made(earlier) == decision.made
    except IsohopError:
        return False


@contextmanager
def going_on(
    pipeline: Pipeline, run: Run, decision: Decision | None, learning: Mapping[str, str]
) -> Iterator[Run | None]:
    """The earlier run, which nobody changes or removes meanwhile. Raises `IsohopError` where it is
    not what it was when that was decided."""
    if decision is None or decision.run is None:
        yield None
        return
    earlier = Run.of(pipeline.runs, decision.run, READING)
    with earlier.reading():
        if not stands(pipeline, run, decision, learning):
            raise IsohopError(
                f"Run '{run.id}' goes on from run '{decision.run}', which is gone or has changed "
                f"since that was decided, or has other settings than the pipeline file. {_ELSE}"
            )
        yield earlier


def _latest(
    pipeline: Pipeline,
    run: Run,
    known: Mapping[str, Run],
    learning: Mapping[str, str],
    alike: Graph | None,
) -> Run | None:
    """One that the gates did not let pass is the last resort. Where none is fit it is told why the
    first of them is not."""
    fit, unfit = [], []
    for name, other in known.items():
        try:
            embedded, built = other.record("embed"), other.record("build")
            if embedded is None or built is None or name == run.id:
                continue
            first = precedence(built, embedded, other.record("publish") is not None)
            why = _unfit(pipeline, run, other, learning)
        except IsohopError:
            continue  # a record that cannot be read: `isohop runs list` tells it
        if why is None:
            fit.append((first, name))
        else:
            unfit.append((first, name, why))
    if unfit and not fit:
        _, name, why = max(unfit)
        _log.warning(
            "Run '%s' learns anew: 'since: latest' cannot be run '%s', since %s.", run.id, name, why
        )
    newest = (known[name] for _, name in sorted(fit, reverse=True))
    return next((one for one in newest if alike is None or _has_types_of(one, alike)), None)


def precedence(built: StageRecord, embedded: StageRecord, published: bool) -> tuple[Any, ...]:
    """Greater of the run that one goes on from rather: that was published, that knew later rows,
    that is newer. By its records of `build` and `embed`."""
    return published, _known_until(built.depends), embedded.order


def _known_until(built: Mapping[str, str]) -> tuple[bool, datetime]:
    """Greater of the run that knew later rows. ``built``: what its stage `build` depends on."""
    known = json.loads(built.get("settings.as_of", "null"))
    moment = datetime.max.replace(tzinfo=UTC) if known is None else datetime.fromisoformat(known)
    return known is None, moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _has_types_of(run: Run, graph: Graph) -> bool:
    if run.stored is not None:
        Mirror(run.stored, run.folder).pull(lambda name: name == "graph/graph.json")
    try:
        check_same_types(Graph.open(run.graph), graph)
    except IsohopError:
        return False  # it has others, or is there no longer
    return True


def _made(run: Run) -> dict[str, str]:
    records = {stage: run.record(stage) for stage in KEPT}
    return {stage: record.fingerprint for stage, record in records.items() if record is not None}


def _unfit(pipeline: Pipeline, run: Run, other: Run, learning: Mapping[str, str]) -> str | None:
    """Why a run cannot be gone on from, None where it can."""
    if other.id == run.id:
        return "a run cannot go on from itself. Name this one anew with --run"
    records = {stage: other.record(stage) for stage in KEPT}
    missing = [stage for stage, record in records.items() if record is None]
    if missing:
        return f"its stage '{missing[0]}' is not done"
    done = {stage: record.depends for stage, record in records.items() if record is not None}
    if json.dumps(run.id, ensure_ascii=False) in _line(pipeline, done["build"]):
        return "it went on from this one"
    theirs = {**done["build"], **done["features"], **done["distill"]}
    other_than = sorted(name for name, value in learning.items() if theirs.get(name) != value)
    if other_than:
        return f"it has other {', '.join(name.removeprefix('settings.') for name in other_than)}"
    return _knew_more(pipeline.settings.as_of, theirs.get("settings.as_of", "null"))


def _line(pipeline: Pipeline, built: Mapping[str, str]) -> set[str]:
    """The runs that a run went on from, as JSON, as far back as they are there. ``built``: what
    its stage `build` depends on."""
    line: set[str] = set()
    while "since.run" in built and built["since.run"] not in line:
        line.add(built["since.run"])
        record = Run.of(pipeline.runs, json.loads(built["since.run"]), READING).record("build")
        built = {} if record is None else record.depends
    return line


def _knew_more(ours: datetime | None, theirs: str) -> str | None:
    """``theirs``: the moment as JSON."""
    known = json.loads(theirs)
    if ours is None or (known is not None and datetime.fromisoformat(known) <= ours):
        return None
    return f"it knows rows of {'now' if known is None else known}, and this one is as of {ours}"
