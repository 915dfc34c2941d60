"""Clusters on loopback, each of real processes: Spark's own (a master and two workers), Spark
Connect, and Ray (a head and two workers) that asks for a token."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clusters.machines import (
    BIN,
    RayCluster,
    SparkCluster,
    process,
    standalone,
    text_of,
    wait_for,
)
from tests.conftest import CORES, JVM
from tests.ports import free_port

os.environ["SPARK_SUBMIT_OPTS"] = JVM


@pytest.fixture(scope="session", autouse=True)
def every_core() -> None:
    """Several machines want more than the one core that a worker of xdist has."""
    os.sched_setaffinity(0, CORES)


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with standalone(tmp_path_factory.mktemp("spark")) as cluster:
        yield cluster


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
            wait_for(lambda log=log: "Ray runtime started" in text_of(log), name)  # type: ignore[misc]
        yield cluster
    shutil.rmtree(short)
