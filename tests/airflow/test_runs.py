"""Runs of a DAG, by Airflow's own processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest

from tests.airflow.conftest import CONSUMER, PIPELINE, ROOT, SECRETS
from tests.shop import CHAIN, chain_from

PATIENCE = 900
"""Seconds in which a scheduler must have done what it was asked for."""


def published(home, name="shop", under="published") -> dict[int, dict]:
    versions = sorted((home.folder / "pipelines" / under / name).glob("v=*"))
    manifests = [json.loads((one / "manifest.json").read_text("utf-8")) for one in versions]
    return {manifest["version"]: manifest for manifest in manifests}


def test_a_run_ends_with_published_embeddings(home):
    done = home.airflow("dags", "test", "isohop_shop", "2026-11-24")
    assert done.returncode == 0, done.stdout[-4000:]
    (manifest,) = published(home).values()
    assert manifest["run"] == "20261124T000000"
    assert [entity["count"] for entity in manifest["entities"]] == [120]
    record = home.folder / "pipelines/runs/shop/20261124T000000/stages/build.json"
    depends = json.loads(record.read_text("utf-8"))["depends"]
    assert depends["settings.as_of"] == '"2026-11-24T00:00:00"'
    said = done.stdout + done.stderr
    summary, _ = json.JSONDecoder().raw_decode(said.partition("Summary of the run: ")[2])
    assert summary["failed"] is None
    assert set(summary["stages"]) >= {"build", "features", "distill", "embed"}
    assert_no_secret_is_told(home, said, rendered=6)


def test_the_demo_ends_with_published_embeddings(home):
    text = (ROOT / "examples" / "nycflights13.yaml").read_text("utf-8")
    assert "schema: ../schemas/" in text
    text = text.replace("schema: ../schemas/", f"schema: {ROOT}/schemas/")
    (home.folder / "pipelines" / "demo.yaml").write_text(text, "utf-8")
    done = home.airflow("dags", "test", "isohop_nycflights13", "2026-11-24")
    assert done.returncode == 0, done.stdout[-4000:]
    (manifest,) = published(home, "nycflights13", "output/published").values()
    assert "airport" in {entity["name"] for entity in manifest["entities"]}


def assert_no_secret_is_told(home, said, rendered):
    """In what Airflow keeps and in what it says. ``rendered``: tasks whose fields it keeps."""
    with closing(sqlite3.connect(home.folder / "airflow.db")) as kept:
        fields = kept.execute("select rendered_fields from rendered_task_instance_fields")
        fields = [row[0] for row in fields]
        told = "\n".join(kept.iterdump())
    assert len(fields) == rendered
    assert all("--run" in one and "20261124T000000" in one for one in fields)
    told += said  # logs of `dags test` are what it prints
    assert not any(secret in told for secret in SECRETS.values())
    assert "a-secret" not in told


def test_a_database_that_does_not_answer_is_told_without_its_password(home):
    schema = home.folder / "pipelines" / "schema.yaml"
    schema.write_text(chain_from("url: env:SHOP_DATABASE"), "utf-8")
    file = home.folder / "pipelines" / "shop.yaml"
    text = PIPELINE.replace(str(CHAIN), "schema.yaml") + "schedule: {retries: 0}\n"
    file.write_text(text, "utf-8")
    done = home.airflow("dags", "test", "isohop_shop", "2026-11-24")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "The stage failed with exit code 1" in said
    assert "127.0.0.1" in said
    assert_no_secret_is_told(home, said, rendered=1)


def test_a_file_that_is_wrong_is_told_and_not_tried_again(home):
    file = home.folder / "pipelines" / "shop.yaml"
    file.write_text(PIPELINE + "sede: 3\n", "utf-8")
    done = home.airflow("dags", "test", "isohop_shop", "2026-11-24")
    text = done.stdout + done.stderr
    assert "Did you mean 'seed'?" in text
    assert "A file is wrong" in text
    assert "up_for_retry" not in text.lower()
    assert not (home.folder / "pipelines" / "published").exists()


@contextmanager
def scheduler(home):
    """All of Airflow, on loopback; ended with everything that it started."""
    with (home.folder / "standalone.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=home.environment,
            cwd=home.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
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


def test_what_is_due_and_a_backfill_of_three_days_are_published_and_a_consumer_reads_them(home):
    text = CONSUMER.format(home=str(home.folder / "pipelines"))
    (home.folder / "dags" / "consumer.py").write_text(text, "utf-8")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    due = PIPELINE.replace("name: shop", "name: nightly")
    due += f"schedule: {{start: {today}, catchup: true}}\n"
    (home.folder / "pipelines" / "nightly.yaml").write_text(due, "utf-8")
    days = ("--from-date", "2026-11-20", "--to-date", "2026-11-22")
    for asked in (
        ("dags", "reserialize"),
        ("dags", "unpause", "consumer", "--yes"),
        ("dags", "unpause", "isohop_shop", "--yes"),
        ("dags", "unpause", "isohop_nightly", "--yes"),
        ("backfill", "create", "--dag-id", "isohop_shop", "--max-active-runs", "1", *days),
    ):
        done = home.airflow(*asked)
        assert done.returncode == 0, done.stdout + done.stderr
    runs = {f"202611{day}T000000" for day in (20, 21, 22)}
    with scheduler(home):
        eventually(
            home,
            "a version of each day",
            lambda: runs <= {m["run"] for m in published(home).values()},
        )
        newest = max(number for number, m in published(home).items() if m["run"] in runs)
        reading = home.folder / "pipelines" / f"read-v={newest:06d}"
        eventually(home, "the consumer", reading.exists)
        assert reading.read_text("utf-8") == "120 rows, 1.000 to 1.000"
        eventually(home, "what was due", lambda: published(home, "nightly"))
    (manifest,) = published(home, "nightly").values()
    assert manifest["run"] == f"{today.replace('-', '')}T000000"
    with closing(sqlite3.connect(home.folder / "airflow.db")) as kept:
        kinds = kept.execute("select dag_id, run_type, count(*) from dag_run group by 1, 2")
        kinds = {(name, kind): count for name, kind, count in kinds}
    assert kinds["isohop_shop", "backfill"] == 3
    assert kinds["isohop_nightly", "scheduled"] == 1
