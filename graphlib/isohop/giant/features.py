"""The stage `features`: a graph in, node features out.

::

    features/
      <node type>/part-*.parquet    node_id int64, feature fixed-size-list<float32>
      encoder.safetensors, encoder.json
      features.json                 FeatureManifest, with curves and Hits@10
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.dataset as ds
from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import all_cores, ray_session, result_of, with_all_cores
from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.errors import IsohopError
from isohop.giant.evaluation import Hits
from isohop.giant.settings import FeatureSettings
from isohop.graph import Graph

STEPS_AT_ONCE = 25
STEPS_A_CHECKPOINT = 200
RESTARTS = 3
"""Times that a worker may die before training is given up."""


class FeatureManifest(BaseModel):
    """``features.json``. ``levels``: clusters by destination type at each level; ``curves``:
    by name [[step, value], …]; ``hits_at_10``: by edge type, and of ``all``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    dimensions: int
    encoder: str
    seed: int
    node_types: Mapping[str, int]
    levels: tuple[Mapping[str, int], ...] = ()
    curves: Mapping[str, tuple[tuple[int, float], ...]] = {}
    hits_at_10: Mapping[str, Hits] = {}
    skipped: str | None = None
    """Why nothing was trained, where nothing was."""
    seconds: Mapping[str, float] = {}


@dataclass(frozen=True)
class Features:
    """A features dataset on disk, opened."""

    path: Path
    manifest: FeatureManifest

    @classmethod
    def open(cls, path: str | Path) -> Features:
        """Raises `IsohopError` when there is none."""
        path = Path(path)
        file = path / "features.json"
        try:
            return cls(path, FeatureManifest.model_validate_json(file.read_text("utf-8")))
        except (FileNotFoundError, ValidationError) as error:
            raise IsohopError(
                f"{path} is no features dataset of this version. Run the stage 'features'."
            ) from error

    def matrix(self, node_type: str) -> np.ndarray:
        """float32 (nodes, d); row i is node i."""
        table = ds.dataset(self.path / node_type, format="parquet").to_table().sort_by("node_id")
        feature = table["feature"].combine_chunks()
        flat = feature.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(table.num_rows, self.manifest.dimensions)


class _Training:
    """The trainer as a Ray actor: it lives where the cores are, and says how it goes.

    Ray makes another where it dies, which goes on from the last checkpoint; what it is asked to do
    is said as the step to be at, so that the same call does what is left.
    """

    def __init__(
        self,
        graph: str,
        settings: dict[str, Any],
        seed: int,
        label: str | None,
        threads: int,
        checkpoint: str,
    ):
        from isohop.giant.training import Trainer

        self.graph = Graph.open(graph)
        self.label = label
        parsed = FeatureSettings.model_validate(settings)
        self.trainer = Trainer(self.graph, parsed, seed, label, threads)
        self.checkpoint = Path(checkpoint)
        if self.checkpoint.exists():
            self.trainer.resume(self.checkpoint)

    def steps(self) -> int:
        return self.trainer.steps

    def train(self, until: int) -> list[float]:
        """Be at step ``until``; the losses of the steps that this took: none where a worker died
        between saving them and telling them."""
        losses = self.trainer.train(until - self.trainer.done)
        if until % STEPS_A_CHECKPOINT == 0:
            self.trainer.save(self.checkpoint)
        return losses

    def finish(self, folder: str) -> tuple[list[dict[str, int]], dict[str, dict[str, Any]]]:
        """Save the encoder; (levels, Hits@10 as plain values)."""
        from isohop.giant.evaluation import hits_at_10
        from isohop.graph.holdout import TEST

        trainer = self.trainer
        trainer.train(trainer.steps - trainer.done)
        trainer.encoder.save(Path(folder))
        features = {
            "trained": trainer.encode(),
            "untrained": trainer.untrained(),
            "tfidf": trainer.corpus.text,
        }
        hits = hits_at_10(self.graph, trainer.holdout, features, TEST, trainer.seed, self.label)
        return trainer.levels, {name: hit.model_dump() for name, hit in hits.items()}


def extract_features(
    graph: str | Path,
    out: str | Path,
    settings: FeatureSettings,
    seed: int,
    label: str | None = None,
    progress: Progress = SILENT,
) -> FeatureManifest:
    """Learn features on the graph's visible edges and write those of all nodes.

    ``label``: ``entity.attribute`` that nothing may see. Raises `IsohopError`.
    """
    opened = Graph.open(graph)
    out = Path(out)
    with ray_session(), folder_atomically(out) as folder:
        manifest = _run(opened, folder, settings, seed, label, progress)
        write_text_atomically(folder / "features.json", manifest.model_dump_json(indent=1))
    return manifest


def _run(
    graph: Graph,
    folder: Path,
    settings: FeatureSettings,
    seed: int,
    label: str | None,
    progress: Progress,
) -> FeatureManifest:
    import ray

    from isohop.giant.inference import extract

    clock = time.monotonic()
    training = folder.resolve() / "training"
    training.mkdir()
    actor = (
        with_all_cores(_Training)
        .options(max_restarts=RESTARTS, max_task_retries=RESTARTS)
        .remote(
            str(graph.path.resolve()),
            settings.model_dump(mode="json"),
            seed,
            label,
            all_cores(),
            str(training / "checkpoint.safetensors"),
        )
    )
    seconds: dict[str, float] = {}
    curve: list[tuple[int, float]] = []
    try:
        with progress.task("documents and label tree") as bar:
            steps = result_of(actor.steps.remote())
            bar.advance()
        seconds["prepare"] = round(time.monotonic() - clock, 3)
        with progress.task("neighbourhood prediction", steps) as bar:
            for start in range(0, steps, STEPS_AT_ONCE):
                until = min(start + STEPS_AT_ONCE, steps)
                losses = result_of(actor.train.remote(until))
                bar.advance(until - start)
                if losses:
                    curve.append((until, round(float(np.mean(losses)), 6)))
                    bar.note(f"loss {curve[-1][1]:.3f}")
        seconds["train"] = round(time.monotonic() - clock - sum(seconds.values()), 3)
        with progress.task("Hits@10 on held-out edges") as bar:
            levels, hits = result_of(actor.finish.remote(str(folder.resolve())))
            bar.advance()
        seconds["evaluate"] = round(time.monotonic() - clock - sum(seconds.values()), 3)
    finally:
        ray.kill(actor)
        # With what a worker that died while it was saving left behind.
        shutil.rmtree(training)
    extract(graph, folder.resolve(), folder.resolve(), label, progress)
    seconds["extract"] = round(time.monotonic() - clock - sum(seconds.values()), 3)
    return FeatureManifest(
        dimensions=settings.dimensions,
        encoder=settings.encoder,
        seed=seed,
        node_types={node.name: node.count for node in graph.node_types},
        levels=tuple(levels),
        curves={"loss": tuple(curve)} if curve else {},
        hits_at_10={name: Hits(**hit) for name, hit in hits.items()},
        skipped=None if steps else "no visible edge to learn from; features are of text alone",
        seconds=seconds,
    )
