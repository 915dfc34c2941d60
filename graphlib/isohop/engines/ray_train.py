"""Training on Ray Train, whatever dies on the way.

One worker, or several that share each batch (`workers.py`). What they learn is kept in a folder of
their own: a checkpoint that they write now and then, and a log of how it goes. Where a worker dies,
Ray Train makes new ones, which go on from the last checkpoint. The folder stays where training
fails or the whole process is killed: the next run that asks for the same goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isohop.engines.progress import Progress
from isohop.engines.ray import cores_each, machines
from isohop.engines.storage import disk_full, is_disk_full
from isohop.errors import IsohopError

if TYPE_CHECKING:
    from isohop.engines.workers import Workers

RESTARTS = 3
"""Times that a worker may die before training is given up."""
SECONDS_TO_START = 600
CHECKPOINT = "training.safetensors"
LOG = "log.jsonl"
POLL = 0.2

Loop = Callable[[dict[str, Any]], Any]
"""What each worker does with what is asked, and `WHERE` to keep it; the first one's answer is the
run's. An `IsohopError` ends the run: it would come again."""
WHERE = "training"
THREADS = "threads"


def train(
    loop: Loop,
    asked: Mapping[str, Any],
    training: Path,
    parts: tuple[Any, ...],
    workers: int,
    stage: str,
    progress: Progress,
) -> tuple[Any, Log]:
    """The first worker's answer, and the log. Ray must be running.

    ``training``: the folder, for the caller to remove once what was learned is where it stays.
    ``parts``: plain values, all that the result depends on: what was begun for others is removed.
    ``stage``: the part of the pipeline file that has ``workers``. Raises `IsohopError` where
    training fails, or workers die more than `RESTARTS` times.
    """
    name = hashlib.sha256(json.dumps([version("isohop"), *parts]).encode()).hexdigest()[:16]
    run = (training / name).resolve()
    for other in training.iterdir() if training.is_dir() else ():
        if other.resolve() != run:
            shutil.rmtree(other)
    run.mkdir(parents=True, exist_ok=True)
    threads = cores_each(workers, machines())
    if not threads:
        raise IsohopError(
            f"'{stage}.workers' is {workers}, but Ray has {sum(machines())} cores. "
            "Lower it, or give Ray more."
        )
    work = _Work(loop, {**asked, WHERE: str(run), THREADS: threads}, workers, stage)
    log = Log(run / LOG)
    _show(work, log, progress)
    return work.result(), log


def this_worker() -> Workers:
    """Of the run of Ray Train that this process is a worker of."""
    import ray.train

    from isohop.engines.workers import Workers

    context = ray.train.get_context()
    return Workers(context.get_world_rank(), context.get_world_size())


@dataclass
class Part:
    """A part of the work: how many ``steps`` it has, None where that is not known, and ``points``,
    what was told after some of them."""

    name: str
    steps: int | None
    points: dict[int, dict[str, float]] = field(default_factory=dict)

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


class Log:
    """What the first worker writes as it goes, and the driver reads: the parts of the work, in the
    order in which they began. Steps that are taken again count as they went the last time."""

    def __init__(self, file: Path):
        self.file = file
        self.parts: dict[str, Part] = {}
        self._at = 0

    def read(self) -> None:
        """What is new."""
        if not self.file.exists():
            return
        with self.file.open("rb") as opened:
            opened.seek(self._at)
            for line in opened:
                if not line.endswith(b"\n"):
                    break  # not written to its end yet
                self._at += len(line)
                told = json.loads(line)
                name = told["part"]
                if "step" in told:
                    self.parts[name].points[told["step"]] = told["point"]
                elif name in self.parts:
                    self.parts[name].steps = told["steps"]
                else:
                    self.parts[name] = Part(name, told["steps"])

    def mend(self) -> None:
        """Take away a last line that its writer did not live to end."""
        if self.file.exists():
            whole = self.file.read_bytes()
            with self.file.open("r+b") as opened:
                opened.truncate(whole.rfind(b"\n") + 1)

    def begin(self, part: str, steps: int | None = None) -> None:
        self._write({"part": part, "steps": steps})

    def tell(self, part: str, step: int, **point: float) -> None:
        self._write({"part": part, "step": step, "point": point})

    def _write(self, told: Mapping[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(told) + "\n")


class _Work:
    """A run of Ray Train, waited for in a thread: it would take Ctrl-C away from the main one."""

    def __init__(self, loop: Loop, asked: Mapping[str, Any], workers: int, stage: str):
        self.stage = stage
        self._answer: dict[str, Any] | None = None
        self._error: Exception | None = None
        self._trainer = _ray_trainer(loop, asked, workers)
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

    def result(self) -> Any:
        """Raises `IsohopError` where there is none."""
        from ray.train import TrainingFailedError

        self._thread.join()
        if isinstance(self._error, TrainingFailedError):
            raise IsohopError(
                f"The stage '{self.stage}' failed {RESTARTS + 1} times: {self._error}. Where "
                "workers died, look at their memory; then run the same command again: it goes on "
                "from the last checkpoint."
            ) from self._error
        if self._error is not None:
            raise self._error
        if self._answer is None or "error" in self._answer:
            raise IsohopError((self._answer or {}).get("error", "Training gave no result."))
        return self._answer["found"]


def _show(work: _Work, log: Log, progress: Progress) -> None:
    """A bar for each part of the work, until all of it is done."""

    def waits() -> bool:
        goes_on = work.goes_on()
        log.read()
        return goes_on

    for place in count():
        while len(log.parts) <= place:
            if not waits() and len(log.parts) <= place:
                return
        part = list(log.parts.values())[place]
        with progress.task(part.name, part.steps) as bar:
            told, goes_on = 0, True
            while goes_on and len(log.parts) == place + 1:
                goes_on = waits()
                told = _advance(bar, part, told)
            _advance(bar, part, told)
            if part.steps is None:
                bar.advance()


def _advance(bar: Any, part: Part, told: int) -> int:
    if part.done > told:
        bar.advance(part.done - told)
        with suppress(KeyError):
            bar.note(f"loss {part.points[part.done]['loss']:.3f}")
    return part.done


def _ray_trainer(loop: Loop, asked: Mapping[str, Any], workers: int) -> Any:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(SECONDS_TO_START))
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    if "RAY_ADDRESS" not in os.environ:  # nobody takes this machine away
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    # Ray sets OMP_NUM_THREADS to what a worker asked for at its start; torch reads it then.
    environment = {"OMP_NUM_THREADS": str(asked[THREADS])}
    if "RAY_ADDRESS" not in os.environ and sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    gpus = ray.cluster_resources().get("GPU", 0) >= workers
    folder = Path(asked[WHERE])
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
    guarded: Any = _Guarded(loop)
    if workers == 1:  # nothing to talk about with others, so no process group either
        return DataParallelTrainer(guarded, **how)
    return TorchTrainer(guarded, torch_config=TorchConfig(backend="gloo"), **how)


def _resources(asked: Mapping[str, Any], gpus: bool) -> dict[str, float]:
    return {"CPU": asked[THREADS], **({"GPU": 1} if gpus else {})}


@dataclass(frozen=True)
class _Guarded:
    """A loop whose own errors are an answer: another try would meet them again."""

    loop: Loop

    def __call__(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"found": self.loop(asked)}
        except IsohopError as error:
            return {"error": str(error)}
        except Exception as error:
            if is_disk_full(error):
                return {"error": str(disk_full("Training"))}
            raise
