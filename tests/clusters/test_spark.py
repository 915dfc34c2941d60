"""A graph built by Spark's own cluster (a master and two workers on loopback), and over Spark
Connect. The certificate says that it is the graph which Sail makes."""

from __future__ import annotations

import socket
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from isohop.graph import Graph
from isohop.graph.build import build
from tests.clusters.machines import (
    ROOT,
    SPARK,
    SparkCluster,
    configure,
    process,
    run,
    wait_for,
)
from tests.pipeline.test_pipeline import command
from tests.ports import free_port

SCHEMA = ROOT / "schemas" / "shop" / "chain.yaml"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    graph = build(SCHEMA, tmp_path_factory.mktemp("sail") / "graph", "sail")
    return graph.manifest.certificate


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Isohop as one file."""
    folder = tmp_path_factory.mktemp("wheel")
    run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, more={})
    return next(folder.glob("isohop-*.whl"))


@pytest.fixture(scope="module")
def without_isohop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has all that Isohop needs, and not Isohop."""
    folder = tmp_path_factory.mktemp("python") / "venv"
    venv.create(folder, symlinks=True)
    here, there = (
        sysconfig.get_path("purelib", vars=None if base is None else {"base": str(base)})
        for base in (None, folder)
    )
    # What is editable is found by a file of the same kind, which is not read from here.
    (Path(there) / "needs.pth").write_text(f"{here}\n", "utf-8")
    python = folder / "bin" / "python"
    asked = [python, "-c", "import pyspark, pyarrow; import isohop"]
    told = subprocess.run(asked, capture_output=True, text=True, cwd=folder, env={})
    assert "No module named 'isohop'" in told.stderr
    return python


def test_the_cluster_makes_the_same_graph_of_a_wheel(
    spark_cluster: SparkCluster,
    certificate: str,
    wheel: Path,
    without_isohop: Path,
    tmp_path: Path,
):
    """And has nothing else of Isohop. What becomes of an executor that dies: `tests/faults`."""
    out = tmp_path / "graph"
    job = ROOT / "jobs" / "build_graph.py"
    python = ("--conf", f"spark.pyspark.python={without_isohop}")
    submission = spark_cluster.submission(*python, "--py-files", wheel, job, SCHEMA, "--out", out)
    run(*submission, more={**spark_cluster.environment, "PYTHONPATH": ""})
    assert Graph.open(out).manifest.certificate == certificate


def test_who_does_not_know_the_secret_is_not_let_in(spark_cluster: SparkCluster, tmp_path: Path):
    out = tmp_path / "graph"
    submission = spark_cluster.submission(ROOT / "jobs" / "build_graph.py", SCHEMA, "--out", out)
    configure(tmp_path / "conf", "wrong")
    wrong = {**spark_cluster.environment, "SPARK_CONF_DIR": str(tmp_path / "conf")}
    log = tmp_path / "log"
    with process(log, *submission, more=wrong) as job:
        refused = f"Failed to connect to master {spark_cluster.master.removeprefix('spark://')}"
        wait_for(lambda: refused in log.read_text("utf-8") or job.poll() is not None, "a refusal")
    assert refused in log.read_text("utf-8"), log.read_text("utf-8")[-4000:]
    assert not out.exists()
    # Who knows it is let in still.
    port = int(spark_cluster.master.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=10).close()


@pytest.fixture(scope="module")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Spark Connect endpoint, of Spark on this machine."""
    log = tmp_path_factory.mktemp("connect") / "log"
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
    }
    told = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    server = "org.apache.spark.sql.connect.service.SparkConnectServer"
    start = (SPARK / "spark-submit", "--master", "local[2]", *told, "--class", server)
    with process(log, *start, "spark-internal", more={}):
        wait_for(lambda: "Spark Connect server started at" in log.read_text("utf-8"), "the server")
        yield f"sc://127.0.0.1:{port}"


def test_spark_connect_makes_the_same_graph(connect: str, certificate: str, tmp_path: Path):
    out = tmp_path / "graph"
    words = ("build", SCHEMA, "--out", out, "--engine", "spark")
    run(*command(*words), more={"SPARK_REMOTE": connect})
    assert Graph.open(out).manifest.certificate == certificate
