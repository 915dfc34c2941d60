"""A whole pipeline with every path in an object store, on S3's protocol on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isohop
from isohop.engines.mirror import Mirror
from isohop.engines.object_store import READING, StoredFolder
from isohop.graph import Graph
from isohop.graph.build import build
from isohop.pipeline.history import past_runs, prune
from isohop.pipeline.pipeline_file import home_of_runs, read_pipeline
from isohop.pipeline.running import open_run
from isohop.pipeline.runs import LOCK, Run
from isohop.pipeline.stages import STAGES
from tests.pipeline.test_pipeline import SMALL, command
from tests.shop import CHAIN, TABLES, chain_from

pytest_plugins = ["tests.s3"]


@pytest.fixture
def file(tmp_path: Path, bucket: str) -> Path:
    """A pipeline file whose tables, runs and versions are all in the store."""
    shutil.copytree(TABLES, tmp_path / "tables")
    Mirror(StoredFolder.of(f"{bucket}/tables"), tmp_path / "tables").push()
    (tmp_path / "schema.yaml").write_text(chain_from(f"path: {bucket}/tables"), "utf-8")
    more = SMALL.replace("path: published", f"path: {bucket}/published")
    text = f"name: shop\nschema: schema.yaml\nseed: 1\nruns: {bucket}/runs\n{more}"
    (tmp_path / "pipeline.yaml").write_text(text, "utf-8")
    return tmp_path / "pipeline.yaml"


def run(*words: str | Path, machine: Path) -> subprocess.CompletedProcess[str]:
    """A command on a machine with a cache of its own."""
    return subprocess.run(
        command(*words),
        env={**os.environ, "ISOHOP_CACHE": str(machine), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_tables_in_embeddings_out_on_one_machine_after_another(file, bucket, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    done = run("stage", "build", file, machine=one)
    assert done.returncode == 0, done.stderr
    # Another goes on from there, does all that is left, and nothing of it twice.
    done = run("run", file, machine=other)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 1
    assert isohop.embeddings.read_manifest(f"{bucket}/published/shop").version == 1
    shutil.rmtree(one)
    done = run("run", file, machine=one)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == len(STAGES)
    assert "a-secret-that-nobody-may-see" not in done.stdout + done.stderr

    # The same facts, the same graph, wherever they lie.
    run_ = open_run(read_pipeline(file), "current")
    run_.pull()
    local = build(CHAIN, tmp_path / "graph", "sail")
    assert Graph.open(run_.graph).manifest.certificate == local.manifest.certificate
    table = isohop.read_embeddings(f"{bucket}/published/shop", "customer", verify=True)
    assert table.num_rows == 120

    # A machine that has nothing goes on from that run, learns nothing, and tells the same.
    more = ("--run", "next", "--set", "since=current")
    done = run("run", file, *more, machine=tmp_path / "third")
    assert done.returncode == 0, done.stderr
    assert "teacher and student of run 'current'" in " ".join(done.stdout.split())
    again = isohop.read_embeddings(f"{bucket}/published/shop", "customer", verify=True)
    assert isohop.embeddings.read_manifest(f"{bucket}/published/shop").version == 2
    assert again.equals(table)

    # New customers, by a student that comes down from the store, their rows in a folder of it; and
    # the same from the student's own URL, rows as a file.
    new = table.select(["id"]).slice(0, 3).append_column("name", pa.nulls(3, pa.string()))
    pq.write_table(new, tmp_path / "new.parquet")
    StoredFolder.of(f"{bucket}/new").upload(tmp_path / "new.parquet", "new.parquet")
    student = f"{bucket}/runs/shop/next/student"
    for of, rows, out in ((file, "new", "mine"), (student, "new/new.parquet", "theirs")):
        words = ("--new", f"{bucket}/{rows}", "--entity", "customer", "--out", tmp_path / out)
        done = run("embed", of, *words, machine=tmp_path / f"{out}-cache")
        assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "theirs").equals(pq.read_table(tmp_path / "mine"))
    done = run("embed", student, "--new", f"{bucket}/nowhere", *words[2:], machine=tmp_path / "x")
    assert done.returncode == 1
    assert f"There is nothing in {bucket}/nowhere" in " ".join(done.stderr.split())
    done = run("embed", student, *words[:4], "--out", f"{bucket}/out", machine=tmp_path / "x")
    assert done.returncode == 1
    assert "--out is on this machine" in " ".join(done.stderr.split())

    # What is damaged in the store is made anew there, by the next run.
    embeddings = StoredFolder.of(f"{bucket}/runs/shop/next/embeddings/customer")
    (tmp_path / "broken").write_bytes(b"PAR1")
    run_ = open_run(read_pipeline(file), "next")
    with run_.writing():
        for one in list(embeddings.objects()):
            if one.name.endswith(".parquet"):
                shutil.copy(tmp_path / "broken", run_.embeddings / "customer" / one.name)
    again = (*more, "--set", "publish.keep=7")
    done = run("run", file, *again, machine=tmp_path / "third")
    assert "Run the stage 'embed' again" in " ".join(done.stderr.split())
    done = run("run", file, *again, machine=tmp_path / "fourth")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 3

    past = past_runs(home_of_runs(file))
    assert [one.run.id for one in past] == ["next", "current"]
    for one in past:
        assert [record.stage for record in one.records] == list(STAGES)
        assert one.size > 10_000
    secrets = [
        one.name
        for one in StoredFolder.of(bucket).objects()
        if b"a-secret" in (StoredFolder.of(bucket).read(one.name) or (b"",))[0]
    ]
    assert secrets == []


def test_an_attempt_that_failed_is_told_in_the_store_and_undoes_nothing(file, bucket, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert run("stage", "build", file, machine=one).returncode == 0
    many = ("--set", "features.workers=1000")
    assert run("stage", "features", file, *many, machine=other).returncode
    stored = StoredFolder.of(f"{bucket}/runs/shop/current")
    lines, _ = stored.read("metrics.jsonl")
    told = [json.loads(line) for line in lines.splitlines()]
    assert [(line["stage"], line["state"]) for line in told] == [
        ("build", "done"),
        ("features", "failed"),
    ]
    assert "'features.workers' is 1000" in told[1]["error"]
    # The first machine goes on as if nobody had tried.
    done = run("stage", "build", file, machine=one)
    assert done.stdout.count("done before") == 1


REMOVE = StoredFolder.remove


def interrupted(folder: StoredFolder, names: Sequence[str]) -> None:
    """Ctrl-C after the first object, which is a record."""
    REMOVE(folder, names[:1])
    raise KeyboardInterrupt


def test_a_run_that_is_killed_goes_on_elsewhere_and_old_runs_go(
    file, bucket, tmp_path, monkeypatch
):
    program = command("run", file, "--run", "first")
    environment = {**os.environ, "ISOHOP_CACHE": str(tmp_path / "one")}
    first = subprocess.Popen(program, env=environment, start_new_session=True)
    runs = StoredFolder.of(f"{bucket}/runs/shop/first")
    while runs.read("stages/build.json") is None:
        assert first.poll() is None
        time.sleep(0.1)
    # Somebody else is told that it is being written; and once it was killed, only for a while.
    refused = run("run", file, "--run", "first", machine=tmp_path / "other")
    assert refused.returncode == 1
    told = " ".join(refused.stderr.split())
    assert f"is being written by process {first.pid} on" in told
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    runs.remove([LOCK])  # in place of a minute's patience, which test_object_store.py has
    done = run("stage", "build", file, "--run", "first", machine=tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout

    done = run("stage", "build", file, "--run", "second", machine=tmp_path / "other")
    assert done.returncode == 0, done.stderr
    # The machine that wrote it has nothing of it any more, and nothing was brought down for that.
    written = [path for path in (tmp_path / "other").rglob("@files") if path.parent.name == "first"]
    assert written
    # It stays while somebody reads it, and where removing it is cut short the rest is found.
    home = home_of_runs(file)
    monkeypatch.setenv("ISOHOP_CACHE", str(tmp_path / "third"))
    reader = Run.of(home, "first", READING)
    with reader.reading():
        told = prune(home, 1)
        assert (reader.folder / "graph" / "graph.json").is_file()
    assert ["being read" in one.what for one in told] == [True]
    with monkeypatch.context() as patched:
        patched.setattr(StoredFolder, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prune(home, 1)
    assert runs.read("stages/build.json") is None
    assert runs.read("graph/graph.json") is not None
    done = run("runs", "prune", file, "--keep", "1", machine=tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert str(runs) in "".join(done.stdout.split())
    assert list(runs.objects()) == []
    assert not any(path.exists() for path in written)
    assert [past.run.id for past in past_runs(home_of_runs(file))] == ["second"]
