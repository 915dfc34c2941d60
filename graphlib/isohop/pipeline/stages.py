"""The stages of a pipeline, in order, and what runs them.

Each stage is a function of the run before it; what it depends on is its fingerprint. The heavy
packages are imported when their stage runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import isohop
from isohop.embeddings.contract import version_number
from isohop.engines.object_store import WRITING
from isohop.engines.progress import SILENT, Progress
from isohop.engines.storage import disk_full, is_disk_full
from isohop.engines.storage import fingerprint as digest
from isohop.errors import IsohopError, did_you_mean
from isohop.giant.model_folder import contents_of
from isohop.graph import Graph
from isohop.graph.earlier import OtherTypes, all_new, check_same_types, later_nodes
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

if TYPE_CHECKING:
    from isohop.coldbrew.comparison import Comparison


_log = logging.getLogger("isohop")

GROUPS = ("overall", "isolated")
"""Of nodes, those whose figures are told and published."""
HEADLINES = ("mrr", "accuracy", "r2")
"""Metrics that are told."""


@dataclass(frozen=True)
class Context:
    """What a stage is given. ``earlier``: the run whose weights are kept, where there is one."""

    pipeline: Pipeline
    run: Run
    progress: Progress
    earlier: Run | None = None


def _build(context: Context) -> list[Made]:
    from isohop.graph.build import build

    pipeline, run, earlier = context.pipeline, context.run, context.earlier
    settings = pipeline.settings
    graph = build(
        pipeline.schema_path,
        run.graph,
        settings.engine,
        context.progress,
        settings.as_of,
        before := None if earlier is None else Graph.open(earlier.graph),
    )
    if before is not None:
        check_same_types(before, graph)
    nodes = sum(node.count for node in graph.node_types)
    edges = sum(edge.count for edge in graph.edge_types)
    made = [
        Made(what=f"graph of {nodes:,} nodes and {edges:,} edges", where=str(run.graph)),
        Made(what=f"certificate {graph.manifest.certificate}", where="graph.json"),
    ]
    if earlier is not None:
        made.append(Made(what=f"goes on from run '{earlier.id}'", where=str(earlier.place)))
    return made


def _features(context: Context) -> list[Made]:
    from isohop.giant.features import extract_features, keep_features

    settings, run, earlier = context.pipeline.settings, context.run, context.earlier
    if earlier is not None:
        before = (earlier.graph, earlier.features)
        kept = keep_features(run.graph, run.features, before, settings.label, context.progress)
        nodes, encoded = sum(kept.node_types.values()), sum(kept.encoded.values())
        what = f"features of {encoded:,} new or changed documents; {nodes - encoded:,} kept"
        return [Made(what=what, where=str(run.features))]
    manifest = extract_features(
        run.graph,
        run.features,
        context.pipeline.features,
        settings.seed,
        label=settings.label,
        progress=context.progress,
        until=settings.until,
    )
    made = [Made(what=f"features in {manifest.dimensions} dimensions", where=str(run.features))]
    if manifest.skipped is not None:
        made.append(Made(what=manifest.skipped, where="features.json"))
    ranks = manifest.held_out.get("all")
    if ranks is not None:
        made.append(
            Made(
                what=f"Hits@10 on {ranks.count:,} held-out edges: trained "
                f"{ranks.trained.hits_at_10:.3f}, untrained {ranks.untrained.hits_at_10:.3f}, "
                f"TF-IDF {ranks.tfidf.hits_at_10:.3f}",
                where="features.json",
            )
        )
    return made


def _distill(context: Context) -> list[Made]:
    from isohop.coldbrew.calibration import answers_of, calibration_error
    from isohop.coldbrew.distill import Before, distill

    settings, run, earlier = context.pipeline.settings, context.run, context.earlier
    if earlier is not None:
        if not settings.warm_start:
            return _kept_model(context, earlier)
        now = Graph.open(run.graph)
        others = all_new(now, later_nodes(Graph.open(earlier.graph), now))
        if others:
            # There is nothing to go on from; to learn anew is a person's decision.
            _log.warning(
                "Run '%s' is trained no further: it has no node in common with run '%s' of %s.",
                run.id,
                earlier.id,
                ", ".join(others),
            )
            return _kept_model(context, earlier)
    manifest = distill(
        run.graph,
        run.features,
        run.model,
        settings.distill,
        settings.seed,
        label=settings.label,
        progress=context.progress,
        until=settings.until,
        before=None
        if earlier is None
        else Before(earlier.graph, earlier.model, settings.warm_start),
    )
    if earlier is not None and manifest.skipped is not None:
        return _kept_model(context, earlier)  # rather than to forget what was learned
    begun = "" if manifest.started_from is None else f", {settings.warm_start} steps further"
    made = [Made(what=f"teacher and student{begun}", where=str(run.model))]
    made += [
        Made(what=note, where="distill.json")
        for note in (manifest.skipped, *manifest.notes)
        if note
    ]
    for name, (doubtful, judged) in manifest.doubtful.items():
        if doubtful:
            what = f"{doubtful:,} of {judged:,} edges {name} are doubtful"
            made.append(Made(what=what, where=f"model/credible/{name}.parquet"))
    for name, bins in manifest.calibration.items():
        error = calibration_error(bins)
        if error is not None:
            asked = answers_of(bins)
            what = f"confidence of '{name}' is {error:.3f} off, on {asked:,} questions"
            made.append(Made(what=what, where="distill.json"))
    for group in GROUPS:
        figures = {
            (row.metric, row.model): row.value
            for row in manifest.evaluation
            if row.entity == "all" and row.group == group and row.metric in HEADLINES
        }
        for metric in sorted({metric for metric, _ in figures}):
            values = ", ".join(
                f"{model} {value:.3f}" for (m, model), value in figures.items() if m == metric
            )
            made.append(Made(what=f"{group} {metric}: {values}", where="distill.json"))
    return made


def _kept_model(context: Context, earlier: Run) -> list[Made]:
    from isohop.coldbrew.keeping import keep_model

    run, until = context.run, context.pipeline.settings.until
    keep_model(run.graph, (earlier.graph, earlier.model), run.model, until)
    return [Made(what=f"teacher and student of run '{earlier.id}'", where=str(run.model))]


def _embed(context: Context) -> list[Made]:
    from isohop.coldbrew.distill import read_manifest
    from isohop.coldbrew.embed import Earlier, embed

    run, earlier = context.run, context.earlier
    before = None
    if earlier is not None and read_manifest(run.model).kept_from is not None:
        before = Earlier(earlier.graph, earlier.embeddings, earlier.student, earlier.credible)
    embed(
        run.graph,
        run.features,
        run.model,
        run.embeddings,
        progress=context.progress,
        student=run.student,
        credible=run.credible,
        before=before,
    )
    return [
        Made(what="embeddings of every entity", where=str(run.embeddings)),
        Made(what="student, for rows that come later", where=str(run.student)),
    ]


def _publish(context: Context) -> list[Made]:
    from isohop.coldbrew.distill import read_manifest
    from isohop.embeddings.inspection import UnfitEmbeddings
    from isohop.embeddings.publisher import publish

    pipeline, run = context.pipeline, context.run
    done = {stage: run.record(stage) for stage in ("build", "distill")}
    try:
        version = publish(
            run.embeddings,
            pipeline.folder(pipeline.settings.publish.path),
            pipeline.published_name,
            run=run.id,
            certificate=Graph.open(run.graph).manifest.certificate,
            fingerprints={stage: record.fingerprint for stage, record in done.items() if record},
            keep=pipeline.settings.publish.keep,
            gates=pipeline.settings.publish.gates,
            evaluation={
                f"{row.group}/{row.metric}": row.value
                for row in read_manifest(run.model).evaluation
                if row.entity == "all" and row.model == "served" and row.group in GROUPS
            },
            progress=context.progress,
        )
    except UnfitEmbeddings:
        run.disown(_and_after("embed"))  # it is done no longer, whatever its record says
        raise
    made = Made(
        what=f"version {version.version}", where=str(version.path), size=version.manifest.size
    )
    return [made]


def _report(context: Context) -> list[Made]:
    from isohop.embeddings.publisher import published_version
    from isohop.report.report import write_report

    pipeline, run = context.pipeline, context.run
    version = _version(run)
    published = None if version is None else published_version(pipeline.published, version)
    if published is not None and published.run != run.id:
        published = None  # it published elsewhere, before the pipeline file said so
    path = write_report(
        run.folder,
        run.report,
        pipeline.settings.report.model_copy(update={"seed": pipeline.settings.seed}),
        title=pipeline.settings.name,
        published=published,
        progress=context.progress,
    )
    return [Made(what="report", where=str(path))]


def _published_at(run: Run) -> str | None:
    """Where the version is that a run published."""
    record = run.record("publish")
    return None if record is None else record.made[0].where


def _version(run: Run) -> int | None:
    """The version that a run published."""
    where = _published_at(run)
    return None if where is None else version_number(where.rpartition("/")[2])


@dataclass(frozen=True)
class Stage:
    """``needs``: stages that must be done before; ``settings``: the parts of the pipeline file it
    depends on; ``outputs``: where it writes, from the run's folder (none: outside of it)."""

    name: str
    act: Callable[[Context], list[Made]]
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    outputs: tuple[str, ...]


_LEARNING = ("seed", "label", "until")

STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("build", _build, (), ("engine", "as_of"), ("graph",)),
        Stage("features", _features, ("build",), ("features", *_LEARNING), ("features",)),
        Stage("distill", _distill, ("features",), ("distill", *_LEARNING), ("model",)),
        Stage("embed", _embed, ("distill",), (), ("embeddings", "student", "credible")),
        Stage("publish", _publish, ("embed",), ("publish", "name"), ()),
        Stage("report", _report, ("embed",), ("report", "name"), ("report.html",)),
    )
}
"""The stages of `isohop run`, in order. A DAG has one task for each."""

RAY = ("features", "distill", "embed")
"""Those that need Ray."""


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
        parts["published"] = _published_at(run)
    decision = _decision(pipeline, run, stage)
    if decision is not None and decision.run is not None:
        parts["since"] = decision.of_stage(stage.name)
        if stage.name == "distill":
            parts["warm start"] = pipeline.settings.warm_start
    return parts | before


def _schema(pipeline: Pipeline) -> str:
    """SHA-256 of the schema file, which may tell more than records are to."""
    return digest(pipeline.planned.file.path)


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
        return record, False
    if decides is not None and not stands(pipeline, run, decides, learning):
        decision, done = decide(pipeline, run, learning), False
        wanted = fingerprint_of(depends := dependencies(pipeline, run, stage))
    if record is not None and done:
        return record, False
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
                run.forget(_and_after(name))
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

        version = _version(run)
        return version is not None and is_published(pipeline.published, version, run.id)
    return all((run.folder / output).exists() for output in stage.outputs)


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
    settings = pipeline.settings.model_dump(mode="json", include=set(_LEARNING))
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


def _and_after(name: str) -> list[str]:
    """A stage and those that need it, or one of these."""
    found = [name]
    for stage in STAGES.values():
        if set(stage.needs) & set(found):
            found.append(stage.name)
    return found
