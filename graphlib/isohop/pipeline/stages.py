"""The stages of a pipeline, in order: what each does, needs, depends on and writes.

Each is a function of the run before it; `isohop.pipeline.running` runs them. The heavy packages are
imported when their stage runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from isohop.embeddings.contract import version_number
from isohop.engines.progress import Progress
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.earlier import all_new, check_same_types, later_nodes
from isohop.pipeline.pipeline_file import Pipeline
from isohop.pipeline.runs import Made, Run

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
    from isohop.graph.build import EMPTY, NO_EDGE, build

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
    for node in graph.node_types:
        if not node.shared and not node.count:
            table = pipeline.planned.schema.entities[node.name].table
            of = "" if table is None else f" of its table '{table}'"
            as_of = settings.as_of
            moment = "" if as_of is None else f" --as-of {as_of.isoformat()}"
            raise IsohopError(
                f"The entity '{node.name}' is {EMPTY}{of}, so there is nothing to learn of it. "
                f"'isohop check {pipeline.schema_path}{moment}' tells what became of all rows, and "
                f"the graph is in {run.graph}. Mend the table, or remove the entity."
            )
    nodes = sum(node.count for node in graph.node_types)
    edges = sum(edge.count for edge in graph.edge_types)
    made = [
        Made(what=f"graph of {nodes:,} nodes and {edges:,} edges", where=str(run.graph)),
        Made(what=f"certificate {graph.manifest.certificate}", where="graph.json"),
    ]
    if NO_EDGE in graph.manifest.plan["warnings"]:
        made.append(Made(what=NO_EDGE, where="graph.json"))
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
                what=f"MRR of {ranks.count:,} held-out edges: trained {ranks.trained.mrr:.3f}, "
                f"untrained {ranks.untrained.mrr:.3f}, TF-IDF {ranks.tfidf.mrr:.3f}",
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
    made = [Made(what=manifest.skipped or f"teacher and student{begun}", where=str(run.model))]
    made += [Made(what=note, where="distill.json") for note in manifest.notes]
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
        run.disown(and_after("embed"))  # it is done no longer, whatever its record says
        raise
    made = Made(
        what=f"version {version.version}", where=str(version.path), size=version.manifest.size
    )
    return [made]


def _report(context: Context) -> list[Made]:
    from isohop.embeddings.publisher import published_version
    from isohop.report.report import write_report

    pipeline, run = context.pipeline, context.run
    version = version_of(run)
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


def published_at(run: Run) -> str | None:
    """Where the version is that a run published."""
    record = run.record("publish")
    return None if record is None else record.made[0].where


def version_of(run: Run) -> int | None:
    """The version that a run published."""
    where = published_at(run)
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


LEARNING = ("seed", "label", "until")
"""Settings that all depends on that learns."""

STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("build", _build, (), ("engine", "as_of"), ("graph",)),
        Stage("features", _features, ("build",), ("features", *LEARNING), ("features",)),
        Stage("distill", _distill, ("features",), ("distill", *LEARNING), ("model",)),
        Stage("embed", _embed, ("distill",), (), ("embeddings", "student", "credible")),
        Stage("publish", _publish, ("embed",), ("publish", "name"), ()),
        Stage("report", _report, ("embed",), ("report", "name"), ("report.html",)),
    )
}
"""The stages of `isohop run`, in order. A DAG has one task for each."""

RAY = ("features", "distill", "embed")
"""Those that need Ray."""


def and_after(name: str) -> list[str]:
    """A stage and those that need it, or one of these."""
    found = [name]
    for stage in STAGES.values():
        if set(stage.needs) & set(found):
            found.append(stage.name)
    return found
