"""What the parts of Cold Brew are worth on a graph, beside what is simpler: `isohop evaluate`.

Teacher, student and what is served are trained anew with several seeds, and with them an
MLP on the same features, a plain GCN without structural embeddings and, where a label is learned,
Graph-MLP and, of classes, label propagation. What training may see and what is asked is the same
for all, and that of the run: the features have not seen it either. Weights are chosen on
validation; test edges and nodes are met once a seed.

With classes there is the *feature contribution* of each group of nodes too (FCR, Zheng et al.,
section 4): how much of what the teacher can do needs the node's own features. Below 50 the graph
dominates; above 100 to pass messages does harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from isohop.coldbrew.figures import LayerFigures
from isohop.coldbrew.settings import DistillSettings
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import all_cores, ray_session, result_of, with_all_cores
from isohop.engines.storage import write_text_atomically
from isohop.errors import IsohopError
from isohop.graph import Graph

MODELS = ("teacher", "mlp", "student", "gcn")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mean(_Model):
    """A `Figure` over seeds: ``mean``, and ``deviation`` of a sample, 0 of one seed."""

    task: str
    entity: str
    group: str
    metric: str
    model: str
    count: int
    mean: float
    deviation: float


class Comparison(_Model):
    """``evaluation.json``. ``notes``: what is to be known of how models were trained, each with the
    seeds it was so with. ``contribution``: by group, FCR in percent. ``layers``: of teacher and
    GCN, means over seeds."""

    format: Literal[3] = 3
    certificate: str
    label: str | None
    settings: DistillSettings
    seeds: tuple[int, ...]
    notes: Mapping[str, tuple[int, ...]]
    figures: tuple[Mean, ...]
    contribution: Mapping[str, float]
    layers: tuple[LayerFigures, ...]


def compare(
    graph: str | Path,
    features: str | Path,
    out: Path,
    settings: DistillSettings,
    seed: int,
    seeds: Sequence[int],
    label: str | None = None,
    until: date | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Train all models once a seed of ``seeds`` and write the file ``out``.

    ``seed``: of the run, which decides what is held out. Raises `IsohopError` where there is
    nothing to learn from.
    """
    opened = Graph.open(graph)
    paths = (str(opened.path.resolve()), str(Path(features).resolve()))
    found = []
    with ray_session():
        task = with_all_cores(_trained)
        chosen = settings.model_dump(mode="json")
        with progress.task("all models, once a seed", len(seeds)) as bar:
            for one in seeds:
                asked = (*paths, chosen, seed, one, label, until, all_cores())
                found.append(result_of(task.remote(*asked)))
                bar.advance()
    figures = tuple(means(row for one in found for row in one["figures"]))
    comparison = Comparison(
        certificate=opened.manifest.certificate,
        label=label,
        settings=settings,
        seeds=tuple(seeds),
        notes=notes_of({of: one["notes"] for of, one in zip(seeds, found, strict=True)}),
        figures=figures,
        contribution=contribution(figures),
        layers=tuple(_layers(row for one in found for row in one["layers"])),
    )
    write_text_atomically(out, comparison.model_dump_json(indent=1) + "\n")
    return comparison


def _trained(
    graph: str,
    features: str,
    settings: dict[str, Any],
    seed: int,
    training_seed: int,
    label: str | None,
    until: date | None,
    threads: int,
) -> dict[str, list[Any]]:
    from isohop.coldbrew.distiller import Distiller

    distiller = Distiller.of(
        Graph.open(graph),
        Path(features),
        DistillSettings.model_validate(settings),
        seed,
        label,
        threads,
        until,
        training_seed,
    )
    if distiller.skipped is not None:
        raise IsohopError(f"There is nothing to evaluate: {distiller.skipped}.")
    for model in MODELS if distiller.labels is None else (*MODELS, "graph-mlp"):
        distiller.start(model)
        distiller.train(distiller.steps)
        distiller.finish()
    return {
        "notes": distiller.about()["notes"],
        "figures": [figure.model_dump() for figure in distiller.evaluate()],
        "layers": [layer.model_dump() for layer in distiller.oversmoothing()],
    }


def notes_of(told: Mapping[int, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """The seeds that each note was told with, of the notes by seed."""
    found: dict[str, tuple[int, ...]] = {}
    for seed, notes in told.items():
        for note in notes:
            found[note] = (*found.get(note, ()), seed)
    return found


def means(figures: Iterable[Mapping[str, Any]]) -> list[Mean]:
    """Over figures that are of the same, in the order in which these first come."""
    values: dict[tuple[tuple[str, Any], ...], list[float]] = {}
    for figure in figures:
        of = tuple((name, value) for name, value in figure.items() if name != "value")
        values.setdefault(of, []).append(figure["value"])
    return [
        Mean(
            **dict(of),
            mean=round(float(np.mean(all_)), 6),
            deviation=round(float(np.std(all_, ddof=1)), 6) if len(all_) > 1 else 0.0,
        )
        for of, all_ in values.items()
    ]


def contribution(figures: Iterable[Mean]) -> dict[str, float]:
    """FCR in percent of each group for which teacher, MLP and label propagation have an
    accuracy."""
    accuracy: dict[str, dict[str, float]] = {}
    for figure in figures:
        if (figure.task, figure.entity, figure.metric) == ("label", "all", "accuracy"):
            accuracy.setdefault(figure.group, {})[figure.model] = figure.mean
    found = {}
    for group, of in accuracy.items():
        if {"teacher", "mlp", "label propagation"} <= of.keys():
            value = feature_contribution(of["teacher"], of["mlp"], of["label propagation"])
            if value is not None:
                found[group] = round(value, 2)
    return found


def feature_contribution(gnn: float, mlp: float, propagation: float) -> float | None:
    """FCR in percent; None where neither features nor graph lack anything."""
    without_graph, without_features = gnn - mlp, max(0.0, gnn - propagation)
    together = abs(without_graph) + without_features
    if together == 0:
        return None
    if without_graph >= 0:
        return 100 * without_features / together
    return 100 * (1 + abs(without_graph) / together)


def _layers(figures: Iterable[Mapping[str, Any]]) -> list[LayerFigures]:
    values: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for figure in figures:
        of = figure["model"], figure["layer"], figure["node_type"]
        values.setdefault(of, []).append(figure)
    measures = ("energy", "mad", "rank")
    return [
        LayerFigures(
            model=model,
            layer=layer,
            node_type=name,
            **{m: round(float(np.mean([one[m] for one in all_])), 6) for m in measures},
        )
        for (model, layer, name), all_ in values.items()
    ]
