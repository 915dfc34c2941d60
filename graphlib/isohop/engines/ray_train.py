"""Training on Ray, whatever dies on the way.

One worker is a task of Ray; several, which share each batch (`workers.py`), are a group of Ray
Train. What they learn is kept in a folder of their own: a checkpoint that they write now and then,
and a log of how it goes. Where a worker dies, Ray makes new ones, which go on from the last
checkpoint. The folder stays where training fails or the whole process is killed: the next run that
asks for the same goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from isohop.engines.progress import Progress
from isohop.engines.ray import (
    POLL,
    SPINS,
    check_alive,
    cores_each,
    ended,
    machines,
    on_one_machine,
    tell_if_busy,
    with_cores,
)
from isohop.engines.storage import disk_full, is_disk_full
from isohop.errors import IsohopError

if TYPE_CHECKING:
    from isohop.engines.workers import Workers

RESTARTS = 3
"""Times that a worker may die before training is given up."""
SECONDS_TO_START = 600
CHECKPOINT = "training.safetensors"
LOG = "log.jsonl"
FAILED, ROOM = "failed.txt", 4096
"""The error that one of several workers has met, told to those that are made after them, who say it
and end; and bytes that are kept for it, so that it can be told where the disk is full."""

Loop = Callable[[dict[str, Any]], Any]
"""What each worker does with what is asked, and `WHERE` to keep it; the first one's answer is the
run's. An `IsohopError` ends the run: it would come again."""
WHERE = "training"
THREADS = "threads"
WORKERS = "workers"
GPUS = "gpus"


def train(
    loop: Loop,
    asked: Mapping[str, Any],
    training: Path,
    parts: tuple[Any, ...],
    workers: int,
    stage: str,
    progress: Progress,
    gpus: bool = False,
) -> tuple[Any, Log]:
    """The first worker's answer, and the log. Ray must be running.

    ``training``: the folder, for the caller to remove once what was learned is where it stays.
    ``parts``: plain values, all that the result depends on: what was begun for others is removed.
    ``stage``: the part of the pipeline file that has ``workers``. ``gpus``: whether each has a use
    for a GPU, and gets one where there are as many. Raises `IsohopError` where training fails, or
    workers die more than `RESTARTS` times.
    """
    name = hashlib.sha256(json.dumps([version("isohop"), *parts]).encode()).hexdigest()[:16]
    run = (training / name).resolve()
    for other in training.iterdir() if training.is_dir() else ():
        if other.resolve() != run:
            shutil.rmtree(other)
    run.mkdir(parents=True, exist_ok=True)
    (run / FAILED).write_bytes(b" " * ROOM)
    threads = cores_each(workers, machines())
    if not threads:
        raise IsohopError(
            f"'{stage}.workers' is {workers}, but Ray has {sum(machines())} cores. "
            "Lower it, or give Ray more."
        )
    told = {**asked, WHERE: str(run), THREADS: threads, WORKERS: workers, GPUS: gpus}
    work = _Task(loop, told) if workers == 1 else _Group(loop, told)
    log = Log(run / LOG)
    _show(work, log, progress)
    return _result(work, stage), log


def this_worker(asked: Mapping[str, Any]) -> Workers:
    """Which of the workers that do what is asked this process is."""
    from isohop.engines.workers import ALONE, Workers

    if asked[WORKERS] == 1:
        return ALONE
    import ray.train

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


class _Failed(Exception):
    """Training that Ray has given up; its words."""


class _Task:
    """One worker. It needs no group, whose own processes take longer to start than it does; and
    its process serves the next task."""

    def __init__(self, loop: Loop, asked: Mapping[str, Any]):
        resources = _resources(asked)
        task = with_cores(
            _guarded,
            resources["CPU"],
            num_gpus=resources.get("GPU", 0),
            max_retries=RESTARTS,
            retry_exceptions=True,
        )
        self._answer = task.remote(loop, dict(asked))

    def goes_on(self) -> bool:
        """Whether it does, after a moment's wait. Raises as `check_alive` does."""
        return not ended([self._answer])

    def answer(self) -> Any:
        """Raises `_Failed`."""
        import ray

        try:
            return ray.get(self._answer)
        except ray.exceptions.RayError as error:
            raise _Failed(str(error)) from error


class _Group:
    """Several workers of Ray Train, waited for in a thread: it would take Ctrl-C away from the main
    one."""

    def __init__(self, loop: Loop, asked: Mapping[str, Any]):
        tell_if_busy(asked[THREADS], asked[WORKERS])
        self._answer: Any = None
        self._error: Exception | None = None
        self._trainer = _trainer(loop, asked)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self._answer = self._trainer.fit().return_value
        except Exception as error:  # noqa: BLE001  # handed to the thread that asks for the result
            self._error = error

    def goes_on(self) -> bool:
        """As of `_Task`."""
        self._thread.join(POLL)
        goes_on = self._thread.is_alive()
        if goes_on:
            check_alive()
        return goes_on

    def answer(self) -> Any:
        """As of `_Task`."""
        from ray.train import TrainingFailedError

        self._thread.join()
        if isinstance(self._error, TrainingFailedError):
            raise _Failed(str(self._error)) from self._error
        if self._error is not None:
            raise self._error
        return self._answer


def _result(work: _Task | _Group, stage: str) -> Any:
    """Raises `IsohopError` where there is none."""
    try:
        answer = work.answer()
    except _Failed as error:
        raise IsohopError(
            f"The stage '{stage}' failed {RESTARTS + 1} times: {error}. Where workers died, look "
            "at their memory; then run the same command again: it goes on from the last "
            "checkpoint."
        ) from error
    if answer is None or "error" in answer:
        raise IsohopError((answer or {}).get("error", "Training gave no result."))
    return answer["found"]


def _show(work: _Task | _Group, log: Log, progress: Progress) -> None:
    """A bar for each part of the work, until all of it is done."""

    def waits() -> bool:
        goes_on = work.goes_on()
        log.read()
        return goes_on

    end = time.monotonic() + SECONDS_TO_START
    for place in count():
        while len(log.parts) <= place:
            if not log.parts and time.monotonic() > end:
                raise IsohopError(
                    f"Training did not begin within {SECONDS_TO_START} s: Ray has no place for its "
                    "workers. Look at what else it does, or lower 'workers'."
                )
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


def _trainer(loop: Loop, asked: Mapping[str, Any]) -> Any:
    alone = on_one_machine()
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(SECONDS_TO_START))
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    if alone:  # nobody takes this machine away
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    folder, resources = Path(asked[WHERE]), _resources(asked)
    guarded: Any = partial(_guarded, loop)
    # Of the second version of Ray Train, which the stubs do not know.
    more: dict[str, Any] = {
        "worker_runtime_env": {"env_vars": _environment(asked)},
        "logging_config": LoggingConfig(log_level="ERROR"),
    }
    return _trainer_class(alone)(
        guarded,
        train_loop_config=dict(asked),
        torch_config=_meeting_in(folder) if alone else TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=asked[WORKERS],
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=RESTARTS),
            **more,
        ),
    )


def _meeting_in(folder: Path) -> Any:
    """How workers of one machine find each other: in a file of ``folder``. Ray has them meet at a
    port that torch opens to every network, where whoever finds it may say that he is one."""
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class Backend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            import ray

            # Of each group its own: a file that another has met in is of no use.
            file, count = folder / f"meeting-{uuid4().hex}", len(worker_group)
            starts = worker_group.execute_single_async
            ray.get([starts(rank, _meet, str(file), rank, count) for rank in range(count)])

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config(backend="gloo")


def _meet(file: str, rank: int, count: int) -> None:
    from torch import distributed

    store = distributed.FileStore(file, count)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)


def _trainer_class(alone: bool) -> Any:
    """Ray Train's, without processes that have nothing to do here.

    There are no data sets of Ray's. And what tidies up after a group asks Ray's dashboard whether
    it lives: a Ray that ends with this process has none, and nothing to tidy, and the last such
    question takes ten seconds to fail.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    needless = (DatasetsCallback, PlacementGroupCleanerCallback) if alone else (DatasetsCallback,)

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            every: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
            return [one for one in every if not isinstance(one, needless)]

    return Trainer


def _environment(asked: Mapping[str, Any]) -> dict[str, str]:
    # Ray sets OMP_NUM_THREADS to what a worker asked for at its start; torch reads it then.
    environment = {
        "OMP_NUM_THREADS": str(asked[THREADS]),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPINS),
    }
    if on_one_machine() and sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    return environment


def _resources(asked: Mapping[str, Any]) -> dict[str, int]:
    """Of each worker."""
    import ray

    gpus = asked[GPUS] and ray.cluster_resources().get("GPU", 0) >= asked[WORKERS]
    return {"CPU": asked[THREADS], **({"GPU": 1} if gpus else {})}


def _guarded(loop: Loop, asked: dict[str, Any]) -> dict[str, Any]:
    """A loop whose own errors are an answer: another try would meet them again. One of several
    workers leaves it to those that are made anew, since others may be waiting for it, who end
    where it fails."""
    failed = Path(asked[WHERE]) / FAILED
    met = failed.read_bytes().decode("utf-8", "ignore").strip()
    if met:
        return {"error": met}
    try:
        return {"found": loop(asked)}
    except Exception as error:
        if isinstance(error, IsohopError):
            own = error
        elif is_disk_full(error):
            own = disk_full("Training")
        else:
            raise
        if asked[WORKERS] == 1:
            return {"error": str(own)}
        with failed.open("r+b") as opened:
            opened.write(str(own).encode().ljust(ROOM)[:ROOM])
        raise
