"""The Ray session: in this process on one machine, or the cluster that `RAY_ADDRESS` names."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import pyarrow as pa
from threadpoolctl import threadpool_limits

from isohop.errors import IsohopError

_ATTEMPTS = 2
"""A saturated machine can miss Ray's start-up deadline once; a second failure is real."""
POLL = 0.2
"""Seconds."""
SECONDS_TO_BE_FREE = 3.0
"""Until a core is told as free whose work has ended."""
SPINS = "10000"
"""Of a thread that waits, before it sleeps: 50 µs, about."""
_log = logging.getLogger("isohop")
_DIED = "A process of Ray died"
_AGAIN = (
    "Look at the machine's memory, then run the same command again: what is done is not done twice."
)


@contextmanager
def ray_session() -> Iterator[None]:
    """Have Ray running inside the block.

    A session that is already there is used and left alone, so stages of one run share one. A local
    one binds to loopback, has no process that only a cluster needs, and is shut down at the end;
    its logs are removed where nothing went wrong.
    Raises `IsohopError` when Ray does not start, or is to be reached by Ray Client.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What needs more memory than there is would be tried again for ever.
    os.environ.setdefault("RAY_task_oom_retries", "3")
    # A thread that waits for another gives its core away sooner than it would by itself: where
    # somebody else has a core, all others wait for the thread that has none.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith("ray://"):
        raise IsohopError(
            f"RAY_ADDRESS is {address}, which is Ray Client's: that does not tell what is free on "
            "the cluster. Run this on a machine of the cluster with RAY_ADDRESS=host:6379, or as a "
            "job: ray job submit --address http://host:8265."
        )
    ends = signal.getsignal(signal.SIGTERM)
    cores = len(os.sched_getaffinity(0))  # not all that the machine has
    logs = None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                with _on_one_machine():
                    told: Any = ray.init(
                        num_cpus=cores,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        _node_ip_address="127.0.0.1",
                    )
                    logs = told.address_info["session_dir"]
            break
        except Exception as error:  # what Ray raises, where a process of its own died, is just that
            ray.shutdown()
            if attempt == _ATTEMPTS:
                where = f"at {address}" if address else "on this machine"
                raise IsohopError(
                    f"Ray did not start {where}: {error}. Look at the machine's load and memory, "
                    "then run the same command again: what is done is not done twice."
                ) from error
            os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112
    if callable(ends) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ends)  # in place of Ray's, which prints its own stack first
    try:
        yield
    except BaseException:
        logs = None  # where what went wrong may be told
        raise
    finally:
        ray.shutdown()
        if logs is not None:
            shutil.rmtree(logs, ignore_errors=True)


def on_one_machine() -> bool:
    """Whether Ray is this process's own, not a cluster."""
    return not os.environ.get("RAY_ADDRESS")


@contextmanager
def _on_one_machine() -> Iterator[None]:
    """What Ray has no option for, of a Ray that is this machine's alone.

    It takes 127.0.0.1 for "find out" and listens on all addresses of the machine, but where it
    makes no clusters of several: told that it is on such a system, it stays on loopback. And it
    starts, before it is there, an autoscaler, a server for a dashboard that is not shown, and a
    reader of logs that nobody is told: half of the seconds that a start takes. And its agent asks
    for one port of the machine, six times in three seconds where another Ray has it.
    """
    from ray._private import ray_constants
    from ray._private.node import Node

    def nothing(*_: Any, **__: Any) -> None: ...

    start_raylet = Node.start_raylet

    def on_any_port(node: Node, *given: Any, **named: Any) -> Any:
        node._ray_params.dashboard_agent_listen_port = 0
        return start_raylet(node, *given, **named)

    unneeded = ("start_monitor", "start_api_server", "start_log_monitor")
    instead = [
        (ray_constants, "ENABLE_RAY_CLUSTER", False),
        *((Node, n, nothing) for n in unneeded),
        (Node, "start_raylet", on_any_port),
    ]
    with ExitStack() as stack:
        for owner, name, value in instead:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def cores_each(workers: int, machines: Sequence[int]) -> int:
    """Most cores that each of some workers can have at once on ``machines`` of so many cores, since
    a worker runs on one; 0 where they do not all find a core."""
    sizes = range(1, max(machines, default=0) + 1)
    return max((n for n in sizes if sum(m // n for m in machines) >= workers), default=0)


def machines() -> list[int]:
    """Cores of each machine that Ray has now."""
    import ray

    return [int(one["Resources"].get("CPU", 0)) for one in ray.nodes() if one["Alive"]]


def all_cores() -> int:
    """Cores of one worker that has a whole machine's, the largest there is."""
    return max(1, cores_each(1, machines()))


def with_cores(what: Callable[..., Any], cores: int, **options: Any) -> Any:
    """A function as a task that has so many cores of its machine, whatever its process did before.
    ``options``: more that is asked of Ray.

    All tasks are told the same environment, none, so that a process serves all of them, one after
    the other: to start one takes seconds, and Ray has started some before they are asked for.
    """
    import ray

    tell_if_busy(cores)

    @wraps(what)
    def limited(*arguments: Any, **named: Any) -> Any:
        with _threads(cores):
            return what(*arguments, **named)

    return ray.remote(num_cpus=cores, **options)(limited)


def tell_if_busy(cores: int, workers: int = 1) -> None:
    """Whether each of some workers will wait for so many cores of one machine: of work on a cluster
    that waits for others' to end Ray says nothing, however long."""
    if on_one_machine():
        return
    from ray._private.state import available_resources_per_node

    end = time.monotonic() + SECONDS_TO_BE_FREE
    while True:
        free = [int(one.get("CPU", 0)) for one in available_resources_per_node().values()]
        if sum(most // cores for most in free) >= workers:
            return
        if time.monotonic() > end:
            _log.warning(
                "Waiting for %d times %d cores, each on one machine: others use all but %d of %d.",
                *(workers, cores, sum(free), sum(machines())),
            )
            return
        time.sleep(POLL)


@contextmanager
def _threads(cores: int) -> Iterator[None]:
    """So many, of what is loaded and of what will be, whatever this process had before."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = str(cores)
    pa.set_cpu_count(cores)
    if "torch" in sys.modules:  # its MKL is a part of it, and seen by nobody else
        sys.modules["torch"].set_num_threads(cores)
    try:
        with threadpool_limits(cores):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def with_all_cores(what: Callable[..., Any]) -> Any:
    """Likewise, with all of the largest machine."""
    return with_cores(what, all_cores())


def ended(references: Sequence[Any]) -> list[Any]:
    """The first of some results to be there, none after a moment's wait. Raises as `check_alive`
    does."""
    import ray

    found: list[Any] = ray.wait(list(references), num_returns=1, timeout=POLL)[0]
    if not found:
        check_alive()
    return found


def check_alive() -> None:
    """Raises `IsohopError` where Ray has no machine any more: for what it was to do there it would
    wait for ever."""
    if not machines():
        raise IsohopError(f"{_DIED}: there is no machine left that it works on. {_AGAIN}")


def result_of(reference: Any) -> Any:
    """A Ray result. Raises as `ended` and `errors_of_ray` do."""
    import ray

    while not ended([reference]):
        continue
    with errors_of_ray():
        return ray.get(reference)


@contextmanager
def errors_of_ray() -> Iterator[None]:
    """An error of ours comes back as itself; where a process of Ray died, what to do is said."""
    import ray
    from ray import exceptions as died

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, IsohopError):
            raise error.cause from None
        raise
    except (
        died.RayActorError,
        died.WorkerCrashedError,
        died.NodeDiedError,
        died.LocalRayletDiedError,
        died.ObjectLostError,
        died.OutOfMemoryError,
        died.RaySystemError,
        died.RuntimeEnvSetupError,
    ) as error:
        raise IsohopError(f"{_DIED}: {error}. {_AGAIN}") from error
