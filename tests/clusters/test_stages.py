"""Stages on a cluster of Ray: a head and two workers on loopback, one core each, and a token."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import isohop
from tests.clusters.conftest import ROOT, RayCluster, run
from tests.pipeline.test_pipeline import command, pipeline_file

SHARED = """
features: {dimensions: 8, levels: [4], epochs: 1, steps: 5, vocabulary: 256, workers: 2}
distill: {dimensions: 8, steps: 6, batch: 64, negatives: 8, workers: 2}
publish: {path: published}
report: {sample: 50}
"""
JOBS = {"features": "extract_features.py", "distill": "distill.py", "embed": "embed.py"}


def embeddings(folder: Path) -> pa.Table:
    return isohop.read_embeddings(folder, entity="customer")


def test_who_has_no_token_is_not_let_in(ray_cluster: RayCluster):
    job = ray_cluster.submission("python", "-c", "print('in')")
    asked = subprocess.run(job, capture_output=True, text=True, timeout=120)
    assert asked.returncode != 0
    assert "token" in (asked.stdout + asked.stderr).lower()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pipeline file, and the run of it that this machine made."""
    folder = tmp_path_factory.mktemp("pipeline")
    file = pipeline_file(folder, SHARED)
    run(*command("run", file, "--run", "here"), more={})
    return file, folder / "runs" / "shop" / "here"


def test_jobs_give_what_one_machine_gives(ray_cluster: RayCluster, here: tuple[Path, Path]):
    """Two workers on two nodes, each step shared."""
    file, ours = here
    run(*command("stage", "build", file, "--run", "there"), more={})
    for stage, script in JOBS.items():
        told = ray_cluster.submit("python", ROOT / "jobs" / script, file, "--run", "there")
        assert "succeeded" in told, f"{stage}: {told}"
    theirs = embeddings(ours.with_name("there"))
    expected = embeddings(ours)
    known = ["embedding", "confidence"]
    assert theirs.drop(known).equals(expected.drop(known))
    flat = [
        table["embedding"].combine_chunks().flatten().to_numpy() for table in (theirs, expected)
    ]
    np.testing.assert_allclose(flat[0], flat[1], atol=1e-5)


def test_more_workers_than_cores_are_refused_at_once(ray_cluster: RayCluster, tmp_path: Path):
    file = pipeline_file(tmp_path, SHARED.replace("vocabulary: 256, workers: 2", "workers: 9"))
    run(*command("stage", "build", file), more={})
    job = ray_cluster.submission("python", ROOT / "jobs" / "extract_features.py", file)
    asked = subprocess.run(
        job, env=ray_cluster.whole_environment, capture_output=True, text=True, timeout=300
    )
    assert asked.returncode != 0
    assert "'features.workers' is 9, but Ray has 3 cores" in asked.stdout + asked.stderr
