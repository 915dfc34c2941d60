"""The stage `distill`: teacher, baseline and student, trained on visible edges and evaluated.

::

    model/
      teacher.safetensors, mlp.safetensors, student.safetensors
      credible/<edge type>.parquet    src, dst, credible: how likely an edge is no mistake
      holdout/                        what was held out (isohop/graph/held_out.py)
      distill.json                    DistillManifest, with curves and the evaluation

Trained on Ray (`engines/ray_train.py`), with a checkpoint wherever validation is due, and
after each model. They lie in ``model.training`` until the model is there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.coldbrew.calibration import ConfidenceBin
from isohop.coldbrew.choice import Choice
from isohop.coldbrew.figures import Figure
from isohop.coldbrew.settings import DistillSettings
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import ray_session
from isohop.engines.ray_train import CHECKPOINT, LOG, THREADS, WHERE, Log, this_worker, train
from isohop.engines.storage import fingerprint, folder_atomically, write_text_atomically
from isohop.errors import IsohopError
from isohop.graph import Graph

STEPS_AT_ONCE = 10
MODELS = ("teacher", "mlp", "student")
"""In the order in which they are trained."""


class DistillManifest(BaseModel):
    """``distill.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[8] = 8
    seed: int
    certificate: str | None = None
    """Of the graph that it was distilled from."""
    numbering: str | None = None
    """Likewise: equal where a node has the same id."""
    label: str | None
    settings: DistillSettings
    """As they were settled: with steps and layers of this run."""
    outputs: int = 0
    """Of the label: its classes, or 1 for a number."""
    structural: Mapping[str, tuple[int, ...]] = {}
    """Number of nodes with structural embeddings, by type."""
    doubtful: Mapping[str, tuple[int, int]] = {}
    """By edge type that was judged: edges that are more likely to lead anywhere than to be true,
    and all that training saw. ``credible/<edge type>.parquet`` has each, the least credible first.
    """
    weighed: int = 0
    """By which power of how credible their edges are messages are weighed; 0: all alike."""
    unheard: tuple[str, ...] = ()
    """Edge types of which training saw no edge: no message passes over them, since nothing was
    learned of what they say."""
    sampled: bool = False
    """Whether steps learned from samples of the graph."""
    listens: Mapping[str, bool] = {}
    """By entity, whether its student hears of latent neighbours."""
    answering: tuple[float, float] | None = None
    """How much what features say alone counts for in answers about the label, of nodes that have
    edges and of those that have none."""
    choices: Mapping[str, Choice] = {}
    """What to serve, by entity."""
    curves: Mapping[str, tuple[tuple[int, float], ...]] = {}
    evaluation: tuple[Figure, ...] = ()
    calibration: Mapping[str, tuple[ConfidenceBin, ...]] = {}
    """By entity, how often what was served was right on what nothing had seen, by confidence."""
    skipped: str | None = None
    """Why nothing was trained, where nothing was."""
    notes: tuple[str, ...] = ()
    """What became otherwise than one would expect; told where the stage ends."""
    kept_from: str | None = None
    """Certificate of the graph that it was trained and evaluated on, where that is another."""
    started_from: str | None = None
    """Certificate of the graph from which the weights were learned that training began with, where
    it began with such."""
    seconds: Mapping[str, float] = {}
    """By model, and of the evaluation; of a run that was killed up to the checkpoint from which it
    was gone on."""

    def is_of(self, graph: Graph) -> bool:
        """Whether that is the graph, each node under its id."""
        same = graph.manifest.has_nodes_of(self.certificate, self.numbering)
        return self.certificate is None or same


def read_manifest(model: Path) -> DistillManifest:
    """Raises `IsohopError` where there is no distilled model."""
    try:
        return DistillManifest.model_validate_json((model / "distill.json").read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise IsohopError(
            f"{model} holds no model of this version. Run the stage 'distill'."
        ) from error


@dataclass(frozen=True)
class Before:
    """The ``graph`` of an earlier run and the ``model`` that it was left with, which is trained
    ``steps`` further."""

    graph: Path
    model: Path
    steps: int


def distill(
    graph: str | Path,
    features: str | Path,
    out: str | Path,
    settings: DistillSettings,
    seed: int,
    label: str | None = None,
    progress: Progress = SILENT,
    until: date | None = None,
    before: Before | None = None,
) -> DistillManifest:
    """Train on the graph's visible edges and evaluate on those held out.

    ``label``: ``entity.attribute`` to be learned as well. ``until``: the first day whose edges
    nothing may see. ``before``: a model that training begins with, as long as it has learned
    anything. Raises `IsohopError`.
    """
    opened = Graph.open(graph)
    out = Path(out)
    training = out.with_name(f"{out.name}.training")
    with ray_session(), folder_atomically(out) as folder:
        asked = (settings, seed, label, until, progress, before)
        manifest = _run(opened, Path(features), folder, training, *asked)
        write_text_atomically(folder / "distill.json", manifest.model_dump_json(indent=1))
    shutil.rmtree(training)
    return manifest


def _run(
    graph: Graph,
    features: Path,
    folder: Path,
    training: Path,
    settings: DistillSettings,
    seed: int,
    label: str | None,
    until: date | None,
    progress: Progress,
    before: Before | None,
) -> DistillManifest:
    began = None if before is None else read_manifest(before.model)
    if before is None or began is None or began.skipped is not None:
        before, began = None, None
    else:
        settings = settings.model_copy(update={"steps": before.steps})
    asked = {
        "graph": str(graph.path.resolve()),
        "features": str(features.resolve()),
        "model": str(folder.resolve()),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "label": label,
        "until": None if until is None else until.isoformat(),
        "before": None,
    }
    read = {name: fingerprint(file) for name, file in _files(features)}
    chosen = [asked["settings"], read, seed, label, asked["until"]]
    if before is not None:
        asked["before"] = [str(path.resolve()) for path in (before.graph, before.model)]
        learned = [*before.model.glob("*.safetensors"), *before.model.rglob("*.parquet")]
        chosen += [fingerprint(file) for file in (before.graph / "graph.json", *sorted(learned))]
    parts = (*graph.manifest.identity(), *chosen)
    found, log = train(_learn, asked, training, parts, settings.workers, "distill", progress)
    about = found["about"]
    return DistillManifest(
        seed=seed,
        certificate=graph.manifest.certificate,
        numbering=graph.manifest.numbering,
        label=label,
        settings=about["settings"],
        outputs=about["outputs"],
        structural=about["structural"],
        doubtful=about["doubtful"],
        weighed=about["weighed"],
        unheard=about["unheard"],
        sampled=about["sampled"],
        listens=about["listens"],
        answering=about["answering"],
        choices=about["choices"],
        curves={
            f"{model}/{name}": curve
            for model in MODELS
            if model in log.parts
            for name, curve in log.parts[model].curves.items()
        },
        evaluation=tuple(Figure(**row) for row in found["figures"]),
        calibration=found["calibration"],
        skipped=about["skipped"],
        notes=tuple(about["notes"]),
        started_from=None if began is None else began.kept_from or began.certificate,
        seconds=found["seconds"],
    )


def _files(folder: Path) -> Iterable[tuple[str, Path]]:
    for file in sorted(folder.rglob("*.parquet")):
        yield str(file.relative_to(folder)), file


def _learn(asked: dict[str, Any]) -> dict[str, Any]:
    """What each worker does; the first one's answer is the run's."""
    from isohop.coldbrew.distiller import Distiller

    workers = this_worker(asked)
    first = workers.rank == 0
    log = Log(Path(asked[WHERE]) / LOG)
    if first:
        log.mend()
        log.begin("read graph and features")
    settings = DistillSettings.model_validate(asked["settings"])
    graph, before = Graph.open(asked["graph"]), None
    if asked["before"] is not None:
        before = Graph.open(asked["before"][0]), Path(asked["before"][1])
    distiller = Distiller.of(
        graph,
        Path(asked["features"]),
        settings,
        asked["seed"],
        asked["label"],
        asked[THREADS],
        None if asked["until"] is None else date.fromisoformat(asked["until"]),
        workers=workers,
        before=before,
    )
    checkpoint = Path(asked[WHERE]) / CHECKPOINT
    if checkpoint.exists():
        distiller.resume(checkpoint)
    for model in MODELS[len(distiller.told) :] if distiller.skipped is None else ():
        # As if without a pause, where it goes on from a checkpoint.
        began = time.monotonic() - distiller.seconds.get(model, 0.0)
        if first:
            log.begin(model, distiller.steps)
        if distiller.model != model:
            distiller.start(model)
        while distiller.done < distiller.steps:
            losses, valid = distiller.train(STEPS_AT_ONCE - distiller.done % STEPS_AT_ONCE)
            point = {"loss": round(float(np.mean(losses)), 6)}
            if valid is not None:
                point["validation"] = round(valid, 6)
            if first:
                log.tell(model, distiller.done, **point)
            if valid is not None:
                distiller.seconds[model] = round(time.monotonic() - began, 3)
                distiller.save_checkpoint(checkpoint)
        distiller.finish()
        distiller.seconds[model] = round(time.monotonic() - began, 3)
        distiller.save_checkpoint(checkpoint)
    if not first:
        return {}
    clock = time.monotonic()
    log.begin("evaluation")
    distiller.save(Path(asked["model"]))
    figures = [figure.model_dump() for figure in distiller.evaluate()]
    calibration = {
        name: [one.model_dump() for one in bins] for name, bins in distiller.calibration().items()
    }
    seconds = {**distiller.seconds, "evaluate": round(time.monotonic() - clock, 3)}
    about = distiller.about()
    return {"about": about, "figures": figures, "calibration": calibration, "seconds": seconds}
