"""Processes of clusters on this machine: Spark's own (a master and two workers), and what is known
of one of Ray's."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyspark

from tests.conftest import JVM
from tests.killing import command_of
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SPARK = Path(pyspark.__file__).parent / "bin"
PATIENCE = 240.0
"""Seconds for a cluster to be there."""
MINUTES = 60.0


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
        return {
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_CONF_DIR": str(self.logs / "conf"),
            "SPARK_SUBMIT_OPTS": JVM,
        }

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


@contextmanager
def standalone(logs: Path) -> Iterator[SparkCluster]:
    """Spark's own cluster: a master and two workers on loopback, who ask for a secret."""
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
        wait_for(lambda: "I have been elected leader" in text_of(logs / "master.log"), "the master")
        start = (SPARK / "spark-class", f"{deploy}.worker.Worker", *own, "--cores", "1")
        start = (*start, "--memory", "1g", cluster.master)
        with (
            process(logs / "worker-1.log", *start, more=more) as one,
            process(logs / "worker-2.log", *start, more=more) as two,
        ):
            cluster.workers += [one, two]
            registered = "Registering worker"
            wait_for(lambda: text_of(logs / "master.log").count(registered) == 2, "two workers")
            yield cluster


def text_of(file: Path) -> str:
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
