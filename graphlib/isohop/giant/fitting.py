"""Fitting: training on Ray Train, whatever dies on the way.

One worker, or several that share each batch (`workers.py`). Every `STEPS_A_CHECKPOINT` steps there
is a checkpoint; where a worker dies, Ray Train makes new ones, which go on from the last. It lies
in ``training``, beside the features that are being made, and stays where fitting fails or the whole
process is killed: the next run on the same graph, settings and seed goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isohop.engines.progress import Progress
from isohop.engines.ray import all_cores
from isohop.errors import IsohopError
from isohop.giant.diagnostics import LevelFigures
from isohop.giant.evaluation import EdgeRanks
from isohop.giant.model_folder import contents_of
from isohop.giant.settings import FeatureSettings
from isohop.graph import Graph, hold_out

if TYPE_CHECKING:
    from isohop.giant.training import Step

STEPS_AT_ONCE = 25
STEPS_A_CHECKPOINT = 200
RESTARTS = 3
"""Times that a worker may die before fitting is given up."""
SECONDS_TO_START = 600
CHECKPOINT = "training.safetensors"
POLL = 0.2


@dataclass(frozen=True)
class Fitted:
    """What fitting tells, as `FeatureManifest` has it. The encoder lies in the folder that was
    asked for."""

    steps: int
    curves: dict[str, tuple[tuple[int, float], ...]]
    levels: list[LevelFigures]
    held_out: dict[str, EdgeRanks]


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
    `IsohopError` where training fails, or workers die more than `RESTARTS` times.
    """
    run = training / _name(graph, settings, seed, label, until)
    for other in training.iterdir() if training.is_dir() else ():
        if other != run:
            shutil.rmtree(other)  # of settings that are no longer asked for
    run.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {
        "graph": str(graph.path.resolve()),
        "encoder": str(encoder.resolve()),
        "log": str(run.resolve() / "log.jsonl"),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "label": label,
        "until": None if until is None else until.isoformat(),
        "threads": max(1, all_cores() // settings.workers),
    }
    fitting = _Fitting(asked, run.resolve(), settings.workers)
    log = _Log(Path(asked["log"]))
    with progress.task("documents and label tree") as bar:
        while log.steps is None and fitting.goes_on():
            log.read()
        bar.advance()
    with progress.task("neighbourhood prediction", log.steps) as bar:
        told = 0
        while fitting.goes_on():
            log.read()
            if log.done > told:
                bar.advance(log.done - told)
                bar.note(f"loss {log.points[log.done]['loss']:.3f}")
                told = log.done
    log.read()
    found = fitting.result()
    return Fitted(log.steps or 0, log.curves, found["levels"], found["held_out"])


def _name(
    graph: Graph, settings: FeatureSettings, seed: int, label: str | None, until: date | None
) -> str:
    """Of what the trained encoder depends on."""
    chosen = settings.model_dump(mode="json")
    read = {} if settings.text_model is None else contents_of(settings.text_model)
    parts = [version("isohop"), graph.manifest.certificate, chosen, read, seed, label, str(until)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class _Log:
    """What the first worker writes as it goes: {"steps"} once it knows, then {"step"} and the
    points that it gives the curves."""

    def __init__(self, file: Path):
        self.file = file
        self.steps: int | None = None
        self.points: dict[int, dict[str, float]] = {}
        self._at = 0

    @property
    def done(self) -> int:
        return max(self.points, default=0)

    @property
    def curves(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """By name, (step, value) in the order of steps."""
        found: dict[str, list[tuple[int, float]]] = {}
        for step, point in sorted(self.points.items()):
            for name, value in point.items():
                found.setdefault(name, []).append((step, value))
        return {name: tuple(curve) for name, curve in found.items()}

    def read(self) -> None:
        """What is new; steps that were taken again count as they went the last time."""
        if not self.file.exists():
            return
        with self.file.open("rb") as opened:
            opened.seek(self._at)
            for line in opened:
                if not line.endswith(b"\n"):
                    break  # not written to its end yet
                self._at += len(line)
                told = json.loads(line)
                if "steps" in told:
                    self.steps = told["steps"]
                else:
                    self.points[told.pop("step")] = told

    def mend(self) -> None:
        """Take away a last line that its writer did not live to end."""
        if self.file.exists():
            whole = self.file.read_bytes()
            with self.file.open("r+b") as opened:
                opened.truncate(whole.rfind(b"\n") + 1)

    def write(self, **told: float) -> None:
        with self.file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(told) + "\n")


class _Fitting:
    """A run of Ray Train, waited for in a thread: it would take Ctrl-C away from the main one."""

    def __init__(self, asked: Mapping[str, Any], folder: Path, workers: int):
        import ray

        cores = int(ray.cluster_resources().get("CPU", 1))
        if workers > cores:
            raise IsohopError(
                f"'features.workers' is {workers}, but Ray has {cores} cores. "
                "Lower it, or give Ray more."
            )
        self._answer: dict[str, Any] | None = None
        self._error: Exception | None = None
        self._trainer = _ray_trainer(asked, folder, workers)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self._answer = self._trainer.fit().return_value
        except Exception as error:  # noqa: BLE001  # handed to the thread that asks for the result
            self._error = error

    def goes_on(self) -> bool:
        """Whether it does, after a moment's wait."""
        self._thread.join(POLL)
        return self._thread.is_alive()

    def result(self) -> dict[str, Any]:
        """Raises `IsohopError` where there is none."""
        from ray.train import TrainingFailedError

        self._thread.join()
        if isinstance(self._error, TrainingFailedError):
            raise IsohopError(
                f"Learning node features failed {RESTARTS + 1} times: {self._error}. Where workers "
                "died, look at their memory; then run the same command again: it goes on from the "
                "last checkpoint."
            ) from self._error
        if self._error is not None:
            raise self._error
        if self._answer is None or "error" in self._answer:
            raise IsohopError((self._answer or {}).get("error", "Training gave no result."))
        return self._answer


def _ray_trainer(asked: Mapping[str, Any], folder: Path, workers: int) -> Any:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(SECONDS_TO_START))
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    if "RAY_ADDRESS" not in os.environ:  # nobody takes this machine away
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    # Ray sets OMP_NUM_THREADS to what a worker asked for at its start; torch reads it then.
    environment = {"OMP_NUM_THREADS": str(asked["threads"])}
    if "RAY_ADDRESS" not in os.environ and sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    gpus = ray.cluster_resources().get("GPU", 0) >= workers
    # Of the second version of Ray Train, which the stubs do not know.
    more: dict[str, Any] = {
        "worker_runtime_env": {"env_vars": environment},
        "logging_config": LoggingConfig(log_level="ERROR"),
    }
    how: dict[str, Any] = {
        "train_loop_config": dict(asked),
        "scaling_config": ScalingConfig(
            num_workers=workers, use_gpu=gpus, resources_per_worker=_resources(asked, gpus)
        ),
        "run_config": RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=RESTARTS),
            **more,
        ),
    }
    if workers == 1:  # nothing to talk about with others, so no process group either
        return DataParallelTrainer(_loop, **how)
    return TorchTrainer(_loop, torch_config=TorchConfig(backend="gloo"), **how)


def _resources(asked: Mapping[str, Any], gpus: bool) -> dict[str, float]:
    return {"CPU": asked["threads"], **({"GPU": 1} if gpus else {})}


def _loop(asked: dict[str, Any]) -> Any:
    """What each worker does; the first one's answer is the run's."""
    try:
        return _learn(asked)
    except IsohopError as error:
        return {"error": str(error)}  # would come again if it were tried again


def _learn(asked: dict[str, Any]) -> dict[str, Any]:
    import ray.train

    from isohop.giant.training import Trainer
    from isohop.giant.workers import Workers

    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    graph = Graph.open(asked["graph"])
    settings = FeatureSettings.model_validate(asked["settings"])
    until = None if asked["until"] is None else date.fromisoformat(asked["until"])
    seed = asked["seed"]
    holdout = hold_out(graph, seed, until=until)
    trainer = Trainer(graph, settings, seed, asked["label"], asked["threads"], holdout, workers)
    checkpoint = Path(asked["log"]).with_name(CHECKPOINT)
    if checkpoint.exists():
        trainer.resume(checkpoint)
    log = _Log(Path(asked["log"]))
    first = workers.rank == 0
    if first:
        log.mend()
        log.write(steps=trainer.steps)
    while trainer.done < trainer.steps:
        taken = trainer.train(STEPS_AT_ONCE - trainer.done % STEPS_AT_ONCE)
        if first:
            log.write(step=trainer.done, **_means(taken, len(settings.levels) + 1))
        if first and (trainer.done % STEPS_A_CHECKPOINT == 0 or trainer.done == trainer.steps):
            # Not by Ray's report, which knows of a checkpoint some seconds after it was made.
            trainer.save(checkpoint)
    return _evaluated(trainer, graph, asked) if first else {}


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
    # Of one level alone, the loss is all there is.
    for level in sorted(taken[0].levels) if len(taken[0].levels) > 1 else ():
        name = "loss of the nodes" if level == levels else f"loss of level {level} of {levels}"
        means[name] = [step.levels[level] for step in taken]
    return {name: round(float(np.mean(values)), 6) for name, values in means.items()}
