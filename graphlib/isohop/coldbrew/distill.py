"""The stage `distill`: teacher, baseline and student, trained on visible edges and evaluated.

::

    model/
      teacher.safetensors, student.safetensors
      credible/<edge type>.parquet    src, dst, credible: how likely an edge is no mistake
      distill.json                    DistillManifest, with curves and the evaluation
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.coldbrew.choice import Choice
from isohop.coldbrew.figures import Figure
from isohop.coldbrew.settings import DistillSettings
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import all_cores, ray_session, result_of, with_all_cores
from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.errors import IsohopError
from isohop.graph import Graph

STEPS_AT_ONCE = 10
MODELS = ("teacher", "mlp", "student")
"""In the order in which they are trained."""


class DistillManifest(BaseModel):
    """``distill.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    seed: int
    certificate: str | None = None
    """Of the graph that it was distilled from."""
    label: str | None
    settings: DistillSettings
    outputs: int = 0
    """Of the label: its classes, or 1 for a number."""
    structural: Mapping[str, tuple[int, ...]] = {}
    """Number of nodes with structural embeddings, by type."""
    doubtful: Mapping[str, tuple[int, int]] = {}
    """By edge type that was judged: edges that are more likely to lead anywhere than to be true,
    and all that training saw. ``credible/<edge type>.parquet`` has each, the least credible first.
    """
    weighed: bool = False
    """Whether messages weigh as much as their edges are credible."""
    choices: Mapping[str, Choice] = {}
    """What to serve, by entity."""
    curves: Mapping[str, tuple[tuple[int, float], ...]] = {}
    evaluation: tuple[Figure, ...] = ()
    skipped: str | None = None
    """Why nothing was trained, where nothing was."""
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = {}


def read_manifest(model: Path) -> DistillManifest:
    """Raises `IsohopError` where there is no distilled model."""
    try:
        return DistillManifest.model_validate_json((model / "distill.json").read_text("utf-8"))
    except (FileNotFoundError, ValidationError) as error:
        raise IsohopError(
            f"{model} holds no model of this version. Run the stage 'distill'."
        ) from error


def distill(
    graph: str | Path,
    features: str | Path,
    out: str | Path,
    settings: DistillSettings,
    seed: int,
    label: str | None = None,
    progress: Progress = SILENT,
    until: date | None = None,
) -> DistillManifest:
    """Train on the graph's visible edges and evaluate on those held out.

    ``label``: ``entity.attribute`` to be learned as well. ``until``: the first day whose edges
    nothing may see. Raises `IsohopError`.
    """
    opened = Graph.open(graph)
    with ray_session(), folder_atomically(Path(out)) as folder:
        manifest = _run(opened, Path(features), folder, settings, seed, label, until, progress)
        write_text_atomically(folder / "distill.json", manifest.model_dump_json(indent=1))
    return manifest


class _Distillation:
    """The distiller as a Ray actor: it lives where the cores are, and says how it goes."""

    def __init__(
        self,
        graph: str,
        features: str,
        settings: dict[str, Any],
        seed: int,
        label: str | None,
        until: date | None,
        threads: int,
    ):
        from isohop.coldbrew.distiller import Distiller

        parsed = DistillSettings.model_validate(settings)
        opened = Graph.open(graph)
        self.distiller = Distiller.of(opened, Path(features), parsed, seed, label, threads, until)

    def about(self) -> dict[str, Any]:
        return self.distiller.about()

    def start(self, model: str) -> None:
        self.distiller.start(model)

    def train(self, steps: int) -> tuple[list[float], float | None]:
        return self.distiller.train(steps)

    def finish(self) -> None:
        self.distiller.finish()

    def evaluate(self, folder: str) -> list[dict[str, Any]]:
        self.distiller.save(Path(folder))
        return [figure.model_dump() for figure in self.distiller.evaluate()]


def _run(
    graph: Graph,
    features: Path,
    folder: Path,
    settings: DistillSettings,
    seed: int,
    label: str | None,
    until: date | None,
    progress: Progress,
) -> DistillManifest:
    import ray

    actor = with_all_cores(_Distillation).remote(
        str(graph.path.resolve()),
        str(features.resolve()),
        settings.model_dump(mode="json"),
        seed,
        label,
        until,
        all_cores(),
    )
    curves: dict[str, list[tuple[int, float]]] = {}
    seconds: dict[str, float] = {}
    try:
        with progress.task("read graph and features") as bar:
            about = result_of(actor.about.remote())
            bar.advance()
        if about["skipped"] is None:
            for model in MODELS:
                clock = time.monotonic()
                with progress.task(model, settings.steps) as bar:
                    result_of(actor.start.remote(model))
                    for done in range(0, settings.steps, STEPS_AT_ONCE):
                        losses, valid = result_of(actor.train.remote(STEPS_AT_ONCE))
                        step = done + len(losses)
                        mean = round(float(np.mean(losses)), 6)
                        curves.setdefault(f"{model}/loss", []).append((step, mean))
                        if valid is not None:
                            point = (step, round(valid, 6))
                            curves.setdefault(f"{model}/validation", []).append(point)
                        bar.advance(len(losses))
                        bar.note(f"loss {mean:.3f}")
                    result_of(actor.finish.remote())
                seconds[model] = round(time.monotonic() - clock, 3)
        clock = time.monotonic()
        with progress.task("evaluation") as bar:
            rows = result_of(actor.evaluate.remote(str(folder.resolve())))
            about = result_of(actor.about.remote())
            bar.advance()
        seconds["evaluate"] = round(time.monotonic() - clock, 3)
    finally:
        ray.kill(actor)
    return DistillManifest(
        seed=seed,
        certificate=graph.manifest.certificate,
        label=label,
        settings=settings,
        outputs=about["outputs"],
        structural=about["structural"],
        doubtful=about["doubtful"],
        weighed=about["weighed"],
        choices=about["choices"],
        curves={name: tuple(points) for name, points in curves.items()},
        evaluation=tuple(Figure(**row) for row in rows),
        skipped=about["skipped"],
        notes=tuple(about["notes"]),
        seconds=seconds,
    )
