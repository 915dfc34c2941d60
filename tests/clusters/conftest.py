"""Clusters on loopback, each of real processes: Spark's own (a master and two workers), Spark
Connect, and Ray (a head and two workers) that asks for a token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyspark
import pytest

from tests.conftest import CORES, JVM
from tests.killing import command_of

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SPARK = Path(pyspark.__file__).parent / "bin"
os.environ["SPARK_SUBMIT_OPTS"] = JVM
PATIENCE = 240.0
"""Seconds for a cluster to be there."""
MINUTES = 60.0


@pytest.fixture(scope="session", autouse=True)
def every_core() -> None:
    """Several machines want more than the one core that a worker of xdist has."""
    os.sched_setaffinity(0, CORES)


def run(*words: str | Path, more: Mapping[str, str], patience: float = 10 * MINUTES) -> str:
    """Run a command to its end; what it printed. Its failure is the test's."""
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **more},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(there: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not there():
        assert time.monotonic() < end, f"{what} was not there after {patience:.0f} s"
        time.sleep(0.2)


@contextmanager
def process(log: Path, *words: str | Path, more: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """A program that stays, in a session of its own, with all that it starts. Killed at the end."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **more},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            if started.poll() is None:
                inside = psutil.Process(started.pid).children(recursive=True)
                for one in [*inside, started]:
                    with_signal(one.pid, signal.SIGKILL)
            started.wait()


def with_signal(pid: int, what: signal.Signals) -> None:
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return


@dataclass
class SparkCluster:
    """``logs``: of its processes; and in ``conf`` their settings."""

    master: str
    logs: Path
    workers: list[subprocess.Popen] = field(default_factory=list)

    def executors(self) -> list[psutil.Process]:
        """Processes that work on an application's tasks."""
        found = [p for worker in self.workers for p in psutil.Process(worker.pid).children(True)]
        return [p for p in found if "CoarseGrainedExecutorBackend" in command_of(p)]

    @property
    def environment(self) -> dict[str, str]:
        return {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_CONF_DIR": str(self.logs / "conf")}

    def submission(self, *words: str | Path) -> list[str]:
        return [str(word) for word in (SPARK / "spark-submit", "--master", self.master, *words)]


def configure(conf: Path, secret: str) -> None:
    """What its processes and who submits must know, in a file: a command line can be read by
    everybody."""
    conf.mkdir()
    defaults = conf / "spark-defaults.conf"
    defaults.touch(0o600)
    settings = {
        "spark.authenticate": "true",
        "spark.authenticate.secret": secret,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.executor.cores": "1",
        "spark.executor.memory": "1g",
        "spark.executor.extraJavaOptions": JVM,
        "spark.sql.shuffle.partitions": "4",
        "spark.pyspark.python": sys.executable,
    }
    lines = [f"{name} {value}" for name, value in settings.items()]
    defaults.write_text("\n".join(lines), "utf-8")


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    logs = tmp_path_factory.mktemp("spark")
    port = free_port()
    cluster = SparkCluster(f"spark://127.0.0.1:{port}", logs)
    deploy = "org.apache.spark.deploy"
    configure(logs / "conf", secrets.token_hex(16))
    more = {
        **cluster.environment,
        "SPARK_WORKER_DIR": str(logs / "work"),
        "SPARK_DAEMON_JAVA_OPTS": f"-Dspark.ui.enabled=false {JVM}",
    }
    own = ("--host", "127.0.0.1", "--webui-port", "0")
    with process(
        logs / "master.log",
        *(SPARK / "spark-class", f"{deploy}.master.Master", *own, "--port", str(port)),
        more=more,
    ):
        wait_for(lambda: "I have been elected leader" in _text(logs / "master.log"), "the master")
        start = (SPARK / "spark-class", f"{deploy}.worker.Worker", *own, "--cores", "1")
        start = (*start, "--memory", "1g", cluster.master)
        with (
            process(logs / "worker-1.log", *start, more=more) as one,
            process(logs / "worker-2.log", *start, more=more) as two,
        ):
            cluster.workers += [one, two]
            registered = "Registering worker"
            wait_for(lambda: _text(logs / "master.log").count(registered) == 2, "two workers")
            yield cluster


def _text(file: Path) -> str:
    return file.read_text("utf-8", "replace") if file.exists() else ""


@dataclass
class RayCluster:
    """``environment``: what a command needs to find it, and its token."""

    dashboard: str
    environment: Mapping[str, str]
    logs: Path
    nodes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def whole_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def submission(self, *words: str | Path) -> list[str]:
        command = [BIN / "ray", "job", "submit", "--address", self.dashboard, "--", *words]
        return [str(word) for word in command]


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[RayCluster]:
    """Its machines know an object store."""
    from tests.s3 import environment as of_store

    logs = tmp_path_factory.mktemp("ray")
    # Paths of Ray's sockets may have 107 letters.
    short = Path("/tmp") / f"isohop-ray-{os.getpid()}"
    port, dashboard = free_port(), free_port()
    environment = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # whose python the jobs are run by
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **of_store(s3_server, tmp_path_factory.mktemp("cache")),
    }
    start = (BIN / "ray", "start", "--block", "--disable-usage-stats", "--num-cpus", "1")
    start = (*start, "--object-store-memory", str(200 << 20), "--node-ip-address")
    head = ("--head", "--port", str(port), "--temp-dir", short, "--include-dashboard", "true")
    head = (*head, "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard))
    head = (*head, "--ray-client-server-port", str(free_port()))
    join = ("--address", f"127.0.0.2:{port}")
    cluster = RayCluster(f"http://127.0.0.1:{dashboard}", environment, logs)
    with ExitStack() as stack:
        # Each an address of its own, as machines have: 127.0.0.1 is what Ray takes for "find out".
        # One after the other: two that start at once may name their sockets alike.
        for name, command in (
            ("head", (*start, "127.0.0.2", *head)),
            ("worker-1", (*start, "127.0.0.3", *join)),
            ("worker-2", (*start, "127.0.0.4", *join)),
        ):
            log = logs / f"{name}.log"
            cluster.nodes[name] = stack.enter_context(process(log, *command, more=environment))
            wait_for(lambda log=log: "Ray runtime started" in _text(log), name)  # type: ignore[misc]
        yield cluster
    shutil.rmtree(short)
