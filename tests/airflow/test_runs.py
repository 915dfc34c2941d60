"""Runs of a DAG, by Airflow's own processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.airflow.conftest import CONSUMER, PIPELINE

PATIENCE = 900
"""Seconds in which a scheduler must have done what it was asked for."""


def published(home) -> dict[int, dict]:
    versions = sorted((home.folder / "pipelines" / "published" / "shop").glob("v=*"))
    manifests = [json.loads((one / "manifest.json").read_text("utf-8")) for one in versions]
    return {manifest["version"]: manifest for manifest in manifests}


def test_a_run_ends_with_published_embeddings(home):
    done = home.airflow("dags", "test", "isohop_shop", "2026-11-24")
    assert done.returncode == 0, done.stdout[-4000:]
    (manifest,) = published(home).values()
    assert manifest["run"] == "20261124T000000"
    assert [entity["count"] for entity in manifest["entities"]] == [120]


def test_a_file_that_is_wrong_is_told_and_not_tried_again(home):
    file = home.folder / "pipelines" / "shop.yaml"
    file.write_text(PIPELINE + "sede: 3\n", "utf-8")
    done = home.airflow("dags", "test", "isohop_shop", "2026-11-24")
    text = done.stdout + done.stderr
    assert "Did you mean 'seed'?" in text
    assert "A file is wrong" in text
    assert "up_for_retry" not in text.lower()
    assert not (home.folder / "pipelines" / "published").exists()


@pytest.fixture
def scheduler(home):
    """All of Airflow, on loopback; ended with everything that it started."""
    text = CONSUMER.format(home=str(home.folder / "pipelines"))
    (home.folder / "dags" / "consumer.py").write_text(text, "utf-8")
    with (home.folder / "standalone.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=home.environment,
            cwd=home.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        yield home
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def eventually(home, what, holds):
    """Wait until ``holds``; say what Airflow said where it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            log = (home.folder / "standalone.log").read_text("utf-8")
            pytest.fail(f"{what} did not come:\n{log[-6000:]}")
        time.sleep(2)


def test_a_backfill_of_three_days_publishes_each_and_a_consumer_reads_them(scheduler):
    home = scheduler
    known = lambda: "consumer" in home.airflow("dags", "list", "-o", "plain").stdout  # noqa: E731
    eventually(home, "the DAGs", known)
    for dag in ("consumer", "isohop_shop"):
        done = home.airflow("dags", "unpause", dag, "--yes")
        assert done.returncode == 0, done.stderr
    done = home.airflow(
        "backfill", "create", "--dag-id", "isohop_shop",
        "--from-date", "2026-11-20", "--to-date", "2026-11-22",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    days = {f"202611{day}T000000" for day in (20, 21, 22)}
    eventually(
        home, "three versions", lambda: days <= {one["run"] for one in published(home).values()}
    )
    newest = max(published(home))
    reading = home.folder / "pipelines" / f"read-{newest}"
    eventually(home, "the consumer", reading.exists)
    assert reading.read_text("utf-8") == "[120]"
