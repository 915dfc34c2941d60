"""What runs the stages of a pipeline: each that is not done, by the fingerprint of all that it
depends on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import isohop
from isohop.engines.object_store import WRITING
from isohop.engines.progress import SILENT, Progress
from isohop.engines.storage import disk_full, is_disk_full
from isohop.errors import IsohopError, did_you_mean
from isohop.giant.model_folder import contents_of
from isohop.graph import Graph
from isohop.graph.earlier import OtherTypes
from isohop.pipeline.events import Attempt, told
from isohop.pipeline.pipeline_file import Pipeline
from isohop.pipeline.runs import (
    Made,
    Run,
    StageRecord,
    fingerprint_of,
    next_number,
    size_of,
    told_apart,
)
from isohop.pipeline.since import KEPT, LATEST, Decision, decide, decided, going_on, stands
from isohop.pipeline.stages import (
    LEARNING,
    RAY,
    STAGES,
    Context,
    Stage,
    and_after,
    published_at,
    version_of,
)

if TYPE_CHECKING:
    from isohop.coldbrew.comparison import Comparison

_log = logging.getLogger("isohop")


def open_run(pipeline: Pipeline, run_id: str, kind: str = WRITING) -> Run:
    """The run; it need not exist yet. ``kind``: as in `Run.of`."""
    odd = any(sign in run_id for sign in "/\\") or not run_id.isprintable()
    if not run_id or odd or run_id.startswith("."):
        raise IsohopError(
            f"{run_id!r} cannot be the name of a run: leave out '/', '\\', a leading '.', and what "
            "cannot be printed."
        )
    return Run.of(pipeline.runs, run_id, kind)


def fingerprint(pipeline: Pipeline, run: Run, stage: Stage) -> str:
    """Of what the result depends on. Raises `IsohopError` when a stage before it is not done."""
    return fingerprint_of(dependencies(pipeline, run, stage))


def dependencies(pipeline: Pipeline, run: Run, stage: Stage) -> dict[str, Any]:
    """What the result depends on. Raises `IsohopError` when a stage before it is not done."""
    before = _done_before(pipeline, run, stage)
    parts: dict[str, Any] = {"stage": stage.name, "version": isohop.__version__}
    chosen = pipeline.settings.model_dump(mode="json", include=set(stage.settings))
    parts["settings"] = chosen
    if not stage.needs:
        planned = pipeline.planned
        parts["schema"] = _schema(pipeline)
        parts["inputs"] = {name: planned.source.fingerprint(name) for name in planned.schema.tables}
        # The database's own, where the schema file names none.
        parts["keys"] = {
            name: table.model_dump(mode="json", include={"key", "references"})
            for name, table in planned.schema.tables.items()
        }
    if stage.name == "features":
        folder = pipeline.features.text_model
        parts["text model"] = {} if folder is None else contents_of(folder)
    if stage.name == "report":
        parts["published"] = published_at(run)
    decision = _decision(pipeline, run, stage)
    if decision is not None and decision.run is not None:
        parts["since"] = decision.of_stage(stage.name)
        if stage.name == "distill":
            parts["warm start"] = pipeline.settings.warm_start
    return parts | before


def _schema(pipeline: Pipeline) -> str:
    """SHA-256 of what the schema file says, which may be more than records are to tell. How it is
    written, and in which order, is no matter of the graph."""
    said = pipeline.planned.file.model
    return fingerprint_of({} if said is None else said.model_dump(mode="json"))


def _decision(pipeline: Pipeline, run: Run, stage: Stage) -> Decision | None:
    """Which run a stage goes on from, where the pipeline file asks for one. Raises `IsohopError`
    where a later stage is asked for another than `build` was."""
    if pipeline.settings.since is None or stage.name not in KEPT:
        return None
    found = decided(pipeline, run)
    if found is None and stage.name != KEPT[0]:
        raise IsohopError(
            f"Run '{run.id}' was not built with 'since: {pipeline.settings.since}', so "
            f"'{stage.name}' cannot go on so. Run 'isohop stage {KEPT[0]}' with that first, or "
            "'isohop run' for all stages."
        )
    return found or decide(pipeline, run, _learning(pipeline))


def _has_to_learn(run: Run, learning: Mapping[str, str]) -> bool:
    """Whether what a run has learned, if anything, is not what is asked for now."""
    features, distilled = (run.record(name) for name in KEPT[1:3])
    if features is None:
        return True
    told = {**features.depends, **({} if distilled is None else distilled.depends)}
    return any(told.get(name, value) != value for name, value in learning.items())


def _learning(pipeline: Pipeline) -> dict[str, str]:
    """All that learning depends on, but for the data."""
    learns = {name for stage in ("features", "distill") for name in STAGES[stage].settings}
    folder = pipeline.features.text_model
    learning = {
        "version": isohop.__version__,
        "schema": _schema(pipeline),
        "settings": pipeline.settings.model_dump(mode="json", include=learns),
        "text model": {} if folder is None else contents_of(folder),
    }
    return told_apart(learning)


def _done_before(pipeline: Pipeline, run: Run, stage: Stage) -> dict[str, str]:
    """Fingerprints of the stages that it needs. Raises `IsohopError` where one is not done."""
    found = {}
    for name in stage.needs:
        record = run.record(name)
        if record is None:
            raise IsohopError(
                f"The stage '{stage.name}' needs the stage '{name}' of run '{run.id}', which is "
                f"not done. Run 'isohop stage {name} {pipeline.file.path} --run {run.id}' first, "
                "or 'isohop run' for all of them; with the same --set and --as-of, if any."
            )
        found[name] = record.fingerprint
    return found


def run_stage(
    pipeline: Pipeline, run: Run, name: str, progress: Progress = SILENT
) -> tuple[StageRecord, bool]:
    """Run one stage if it is not done; (its record, whether it was run now). Raises `IsohopError`,
    among others where another process writes the run."""
    if name not in STAGES:
        raise IsohopError(f"There is no stage '{name}'. {did_you_mean(name, STAGES)}")
    if run.stored is None and not run.folder.exists():
        _done_before(pipeline, run, STAGES[name])  # no folder is made for what cannot be done
    with run.writing():
        return _run_stage(pipeline, run, STAGES[name], progress)


def _run_stage(
    pipeline: Pipeline, run: Run, stage: Stage, progress: Progress
) -> tuple[StageRecord, bool]:
    # What a database keeps open, for one view of its tables, is open no longer than that.
    with closing(pipeline.planned.source):
        return _done(pipeline, run, stage, progress)


def _done(
    pipeline: Pipeline, run: Run, stage: Stage, progress: Progress
) -> tuple[StageRecord, bool]:
    """As of `run_stage`."""
    name = stage.name
    depends = dependencies(pipeline, run, stage)
    wanted = fingerprint_of(depends)
    record = run.record(name)
    done = record is not None and record.fingerprint == wanted and _there(pipeline, run, stage)
    decision = _decision(pipeline, run, stage)
    decides = decision if name == KEPT[0] else None
    learning = {} if decision is None else _learning(pipeline)
    # The latest run is another, where nothing but the graph was made of the one that is gone, or
    # what was made is to be learned otherwise.
    latest = decides is not None and decides.asked == LATEST and _has_to_learn(run, learning)
    if record is not None and done and not latest:
        return _where_it_is(pipeline, run, stage, record), False
    if decides is not None and not stands(pipeline, run, decides, learning):
        decision, done = decide(pipeline, run, learning), False
        wanted = fingerprint_of(depends := dependencies(pipeline, run, stage))
    if record is not None and done:
        return _where_it_is(pipeline, run, stage, record), False
    if decides is not None and decision is not None:
        _tell_of_itself(run, decision)
    attempt = Attempt(pipeline.settings.name, run.id, name)
    if not stage.needs:
        attempt.inputs = [f"{pipeline.planned.schema.database}.{t}" for t in depends["inputs"]]
    if name == "publish":
        attempt.outputs = [pipeline.published_name]
    with told(attempt, run.folder):
        try:
            with going_on(pipeline, run, decision, learning) as earlier:
                run.forget(and_after(name))
                made = _act(stage, Context(pipeline, run, progress, earlier))
        except OtherTypes as error:
            if decision is None or decision.asked != LATEST or name != KEPT[0]:
                raise
            decision = decide(pipeline, run, learning, alike=Graph.open(run.graph))
            other = "for itself" if decision.run is None else f"from run '{decision.run}'"
            _log.warning("%s Run '%s' goes on %s.", error.what, run.id, other)
            wanted = fingerprint_of(depends := dependencies(pipeline, run, stage))
            with going_on(pipeline, run, decision, learning) as earlier:
                made = _act(stage, Context(pipeline, run, progress, earlier))
        attempt.made = [one.what for one in made]
        attempt.size = sum(size_of(run.folder / output) for output in stage.outputs)
        attempt.size += sum(one.size for one in made)
    record = StageRecord(
        stage=name,
        fingerprint=wanted,
        started=attempt.started.isoformat(timespec="seconds"),
        seconds=attempt.seconds,
        size=attempt.size,
        made=tuple(made),
        depends=told_apart(depends),
        number=next_number(pipeline.runs),
    )
    run.remember(record)
    return record, True


def _tell_of_itself(run: Run, decision: Decision) -> None:
    """Who asks for the latest run may mean the one that is about to be done anew."""
    if decision.asked == LATEST and decision.run is None and run.record("embed") is not None:
        _log.warning(
            "Run '%s' learns anew: 'since: latest' is another run, never the same one. Give each "
            "night a run of its own with --run.",
            run.id,
        )


def _there(pipeline: Pipeline, run: Run, stage: Stage) -> bool:
    """Whether what a stage made is still where it was put."""
    if stage.name == "publish":
        from isohop.embeddings.publisher import is_published

        version = version_of(run)
        return version is not None and is_published(pipeline.published, version, run.id)
    return all((run.folder / output).exists() for output in stage.outputs)


def _where_it_is(pipeline: Pipeline, run: Run, stage: Stage, record: StageRecord) -> StageRecord:
    """The record, with the places of now: what was made may have been moved since, as a whole."""

    def now(where: str) -> str:
        name = where.rpartition("/")[2]
        if name in stage.outputs:
            return str(run.folder / name)
        return str(pipeline.published / name) if stage.name == "publish" else where

    made = tuple(one.model_copy(update={"where": now(one.where)}) for one in record.made)
    return record.model_copy(update={"made": made})


def _act(stage: Stage, context: Context) -> list[Made]:
    try:
        return stage.act(context)
    except Exception as error:
        if not isinstance(error, IsohopError) and is_disk_full(error):
            raise disk_full(f"The stage '{stage.name}' of run '{context.run.id}'") from error
        raise


def run_all(
    pipeline: Pipeline, run: Run, progress: Progress = SILENT
) -> list[tuple[StageRecord, bool]]:
    """Run every stage that is not done. The Ray stages share one session. Raises `IsohopError`."""
    results = []
    with ExitStack() as stack:
        stack.enter_context(run.writing())
        ray_is_up = False
        for name in STAGES:
            if name in RAY and not ray_is_up and _is_due(pipeline, run, name):
                from isohop.engines.ray import ray_session

                stack.enter_context(ray_session())
                ray_is_up = True
            results.append(_run_stage(pipeline, run, STAGES[name], progress))
    return results


def evaluate(pipeline: Pipeline, run: Run, seeds: int, progress: Progress = SILENT) -> Comparison:
    """Compare the models of a run's graph and features, which stay as they are and are made where
    they are not there yet, whatever ``since`` says, over ``seeds`` seeds from the pipeline's on.
    Raises `IsohopError` where the features were learned from what the pipeline file holds out."""
    from isohop.coldbrew.comparison import compare
    from isohop.engines.ray import ray_session
    from isohop.giant.features import Features

    # What an earlier run learned cannot be evaluated here.
    pipeline = replace(pipeline, settings=pipeline.settings.model_copy(update={"since": None}))
    settings = pipeline.settings
    with run.writing(), ray_session():
        for name in ("build", "features"):
            if run.record(name) is None:
                _run_stage(pipeline, run, STAGES[name], progress)
        _held_out_alike(pipeline, run)
        learned_on = Features.open(run.features).manifest.kept_from
        if learned_on is not None:
            raise IsohopError(
                f"The features of run '{run.id}' were learned by an earlier run, from edges that "
                "would be held out here. Evaluate a run that learned for itself."
            )
        return compare(
            run.graph,
            run.features,
            run.evaluation,
            settings.distill,
            settings.seed,
            range(settings.seed, settings.seed + seeds),
            label=settings.label,
            until=settings.until,
            progress=progress,
        )


def _held_out_alike(pipeline: Pipeline, run: Run) -> None:
    """Raises `IsohopError` where the features of a run saw what the pipeline file would hide."""
    settings = pipeline.settings.model_dump(mode="json", include=set(LEARNING))
    record = run.record("features")
    before = {} if record is None else record.depends
    asked = told_apart({"settings": settings})
    other = [name for name, value in asked.items() if before.get(name, value) != value]
    if other:
        said = ", ".join(f"{name.removeprefix('settings.')}: {before[name]}" for name in other)
        raise IsohopError(
            f"The features of run '{run.id}' were learned with {said}, so they may have seen what "
            "would be held out here. Say the same in the pipeline file or with --set, or evaluate "
            "another run."
        )


def _is_due(pipeline: Pipeline, run: Run, name: str) -> bool:
    record = run.record(name)
    return record is None or record.fingerprint != fingerprint(pipeline, run, STAGES[name])
