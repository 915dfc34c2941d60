"""Stages on clusters: by jobs of Ray (a head and two workers on loopback, one core each, and a
token), and by a DAG of Airflow that submits to Spark and to Ray, its data on S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import isohop
from isohop.engines.mirror import Mirror
from isohop.engines.object_store import StoredFolder
from isohop.giant.features import Features
from isohop.graph import Graph
from tests.airflow.conftest import Home
from tests.clusters.machines import (
    BIN,
    MINUTES,
    ROOT,
    SPARK,
    RayCluster,
    SparkCluster,
    process,
    run,
    text_of,
)
from tests.pipeline.test_pipeline import command, pipeline_file
from tests.shop import TABLES, chain_from

pytest_plugins = ["tests.s3"]

AIRFLOW = ROOT / ".venv-airflow" / "bin" / "python"
SHARED = """
features: {dimensions: 8, levels: [4], epochs: 1, steps: 5, vocabulary: 256, workers: 2}
distill: {dimensions: 8, steps: 6, batch: 64, negatives: 8, workers: 2}
publish: {path: published}
report: {sample: 50}
"""
ON_RAY = ("features", "distill", "embed")


def embeddings(folder: Path | str) -> pa.Table:
    return isohop.read_embeddings(folder, entity="customer")


def alike(theirs: pa.Table, ours: pa.Table) -> None:
    """But for the order in which workers add up."""
    numbers = ["embedding", "confidence"]
    assert theirs.drop(numbers).equals(ours.drop(numbers))
    flat = [table["embedding"].combine_chunks().flatten().to_numpy() for table in (theirs, ours)]
    np.testing.assert_allclose(flat[0], flat[1], atol=1e-5)
    certain = [table["confidence"].to_numpy() for table in (theirs, ours)]
    np.testing.assert_allclose(certain[0], certain[1], atol=1e-4)


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], tuple[Path, Path]]]:
    """What this machine makes of a pipeline, while clusters start: a function that waits for its
    end, and tells the file and the run."""
    folder = tmp_path_factory.mktemp("pipeline")
    file, log = pipeline_file(folder, SHARED), folder / "log"
    with process(log, *command("run", file, "--run", "here"), more={}) as running:

        def done() -> tuple[Path, Path]:
            assert running.wait(10 * MINUTES) == 0, text_of(log)[-4000:]
            return file, folder / "runs" / "shop" / "here"

        yield done


def test_who_has_no_token_is_not_let_in(ray_cluster: RayCluster):
    job = ray_cluster.submission("python", "-c", "print('in')")
    asked = subprocess.run(job, capture_output=True, text=True, timeout=120)
    assert asked.returncode != 0
    assert "token" in (asked.stdout + asked.stderr).lower()


def test_a_job_that_wants_more_workers_than_cores_is_refused(
    ray_cluster: RayCluster, tmp_path: Path
):
    file = pipeline_file(tmp_path, SHARED.replace("vocabulary: 256, workers: 2", "workers: 9"))
    run(*command("stage", "build", file), more={})
    job = ray_cluster.submission("python", ROOT / "jobs" / "extract_features.py", file)
    asked = subprocess.run(
        job, env=ray_cluster.whole_environment, capture_output=True, text=True, timeout=300
    )
    assert asked.returncode != 0
    assert "'features.workers' is 9, but Ray has 3 cores" in asked.stdout + asked.stderr


@pytest.mark.airflow
def test_a_dag_on_both_clusters_and_s3_gives_what_one_machine_gives(
    spark_cluster: SparkCluster,
    ray_cluster: RayCluster,
    here: Callable[[], tuple[Path, Path]],
    bucket: str,
    tmp_path: Path,
):
    """`build` by spark-submit, `features`, `distill` and `embed` by jobs of Ray, each step of
    training shared by two workers on two machines."""
    tables = Mirror(StoredFolder.of(f"{bucket}/tables"), tmp_path / "tables")
    shutil.copytree(TABLES, tables.local)
    tables.push()
    schema = tmp_path / "schema.yaml"
    schema.write_text(chain_from(f"path: {bucket}/tables"), "utf-8")
    stored = SHARED.replace("published", f"{bucket}/published")
    pipeline = f"name: shop\nschema: {schema}\nseed: 1\nruns: {bucket}/runs\n{stored}"
    ray = ray_cluster.environment
    on_ray = {"conn_type": "ray", "extra": {"address": ray_cluster.dashboard}}
    on_spark = {"conn_type": "spark", "host": spark_cluster.master}
    more = {
        **spark_cluster.environment,
        **ray,
        # What it has not made itself comes from the store.
        "ISOHOP_CACHE": str(tmp_path / "worker"),
        "PATH": os.pathsep.join([str(AIRFLOW.parent), str(SPARK), os.environ["PATH"]]),
        "AIRFLOW_CONN_OUR_SPARK": json.dumps(on_spark),
        "AIRFLOW_CONN_OUR_RAY": json.dumps(on_ray),
        "ISOHOP_SPARK_CONN": "our_spark",
        "ISOHOP_RAY_CONN": "our_ray",
        "ISOHOP_EXECUTABLE": str(BIN / "isohop"),
    }
    home = Home.make(tmp_path, AIRFLOW, pipeline, more)
    done = home.airflow("dags", "test", "isohop_shop", "2026-11-24")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert ray_cluster.environment["RAY_AUTH_TOKEN"] not in said
    # It was the clusters that did it.
    assert spark_cluster.master in said
    jobs = run(BIN / "ray", "job", "list", "--address", ray_cluster.dashboard, more=ray)
    assert all(f"stage {stage} " in jobs for stage in ON_RAY)
    _, ours = here()
    alike(embeddings(f"{bucket}/published/shop"), embeddings(ours))
    made = Mirror.of(f"{bucket}/runs/shop/20261124T000000")
    made.pull()
    certificates = {
        Graph.open(folder / "graph").manifest.certificate for folder in (ours, made.local)
    }
    assert len(certificates) == 1
    features = [
        Features.open(folder / "features").matrix("customer") for folder in (ours, made.local)
    ]
    np.testing.assert_allclose(*features, atol=1e-5)
