"""Fitting: an encoder is trained on Ray (`engines/ray_train.py`), and tells what it knows.

Every `STEPS_A_CHECKPOINT` steps there is a checkpoint. It lies in ``training``, beside the features
that are being made, until these are there. So do the features of nodes whose label training was
told (`cross_fitting.py`): no encoder that is kept would give them these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from isohop.engines.progress import Progress
from isohop.engines.ray_train import CHECKPOINT, LOG, THREADS, WHERE, Log, this_worker, train
from isohop.giant.diagnostics import LevelFigures
from isohop.giant.evaluation import EdgeRanks
from isohop.giant.inference import FeatureWriter
from isohop.giant.model_folder import contents_of
from isohop.giant.settings import FeatureSettings
from isohop.graph import Graph, hold_out
from isohop.graph.label import read_label

if TYPE_CHECKING:
    from isohop.giant.training import Step, Trainer

STEPS_AT_ONCE = 25
STEPS_A_CHECKPOINT = 200
PREPARATION, TRAINING = "documents and label tree", "neighbourhood prediction"
"""The parts of the work."""
TOLD = "told.parquet"
"""Beside the checkpoint."""


@dataclass(frozen=True)
class Fitted:
    """What fitting tells, as `FeatureManifest` has it. The encoder lies in the folder that was
    asked for; ``told``: a file of features of nodes whose label was told, where it was, as
    `FeatureWriter` writes them."""

    steps: int
    curves: dict[str, tuple[tuple[int, float], ...]]
    levels: list[LevelFigures]
    held_out: dict[str, EdgeRanks]
    told: Path | None


def fit(
    graph: Graph,
    encoder: Path,
    training: Path,
    settings: FeatureSettings,
    seed: int,
    label: str | None,
    until: date | None,
    progress: Progress,
) -> Fitted:
    """Learn an encoder and save it in the folder ``encoder``. Ray must be running.

    ``training`` is for the caller to remove, once the encoder is where it stays. Raises
    `IsohopError` where training fails.
    """
    asked = {
        "graph": str(graph.path.resolve()),
        "encoder": str(encoder.resolve()),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "label": label,
        "until": None if until is None else until.isoformat(),
    }
    read = {} if settings.text_model is None else contents_of(settings.text_model)
    chosen = (asked["settings"], read, seed, label, asked["until"])
    parts = (*graph.manifest.identity(), *chosen)
    how = (settings.workers, "features", progress, settings.text_model is not None)
    found, log = train(_learn, asked, training, parts, *how)
    trained = log.parts[TRAINING]
    told = None if found["told"] is None else Path(found["told"])
    return Fitted(trained.steps or 0, trained.curves, found["levels"], found["held_out"], told)


def _learn(asked: dict[str, Any]) -> dict[str, Any]:
    """What each worker does; the first one's answer is the run's."""
    from isohop.giant.training import Trainer

    workers = this_worker(asked)
    first = workers.rank == 0
    log = Log(Path(asked[WHERE]) / LOG)
    if first:
        log.mend()
        log.begin(PREPARATION)
    graph = Graph.open(asked["graph"])
    settings = FeatureSettings.model_validate(asked["settings"])
    until = None if asked["until"] is None else date.fromisoformat(asked["until"])
    seed = asked["seed"]
    holdout = hold_out(graph, seed, asked["label"], until=until)
    # The same as distillation has it.
    told = None if asked["label"] is None else read_label(graph, asked["label"], holdout)
    trainer = Trainer(graph, settings, seed, asked["label"], asked[THREADS], holdout, workers, told)
    checkpoint = Path(asked[WHERE]) / CHECKPOINT
    if checkpoint.exists():
        trainer.resume(checkpoint)
    if first:
        log.begin(TRAINING, trainer.steps)
    while trainer.done < trainer.steps:
        taken = trainer.train(STEPS_AT_ONCE - trainer.done % STEPS_AT_ONCE)
        if first:
            log.tell(TRAINING, trainer.done, **_means(taken, len(settings.levels) + 1))
        if first and (trainer.done % STEPS_A_CHECKPOINT == 0 or trainer.done == trainer.steps):
            # Not by Ray's report, which knows of a checkpoint some seconds after it was made.
            trainer.save(checkpoint)
    if not first:
        return {}
    kept = None if told is None else _keep_told(trainer, told.entity, checkpoint.with_name(TOLD))
    return {"told": kept, **_evaluated(trainer, graph, asked)}


def _keep_told(trainer: Trainer, entity: str, file: Path) -> str | None:
    """Where it is, if there is any."""
    fitting = trainer.cross_fitting
    if fitting is None:
        return None
    with FeatureWriter(file, trainer.settings.dimensions) as writer:
        ids = pa.chunked_array([fitting.told - trainer.index.offset[entity]])
        writer.write(ids, fitting.features)
    return str(file)


def _evaluated(trainer: Any, graph: Graph, asked: dict[str, Any]) -> dict[str, Any]:
    """Save the encoder; what it knows of the label tree and of held-out edges."""
    from isohop.giant.diagnostics import diagnose
    from isohop.giant.evaluation import rank_edges
    from isohop.graph.holdout import TEST

    trainer.encoder.save(Path(asked["encoder"]))
    features = {
        "trained": trainer.encode(),
        "untrained": trainer.untrained(),
        "tfidf": trainer.prepared.ngrams,
    }
    which = (TEST, trainer.seed, trainer.label)
    scale, trained = trainer.settings.scale, features["trained"]
    return {
        "levels": diagnose(graph, trainer.holdout, trainer.levels, trained, scale, *which),
        "held_out": rank_edges(graph, trainer.holdout, features, *which),
    }


def _means(taken: Sequence[Step], levels: int) -> dict[str, float]:
    """The point that some steps give each curve."""
    means = {
        "loss": [step.loss for step in taken],
        "gradient norm": [step.gradient_norm for step in taken],
    }
    last = {levels: "loss of the nodes", levels + 1: "loss of the label"}
    # Of one level alone, the loss is all there is.
    for level in sorted(taken[0].levels) if len(taken[0].levels) > 1 else ():
        name = last.get(level, f"loss of level {level} of {levels}")
        means[name] = [step.levels[level] for step in taken]
    return {name: round(float(np.mean(values)), 6) for name, values in means.items()}
