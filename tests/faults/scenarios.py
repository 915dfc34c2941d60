"""What goes wrong at night, done on purpose, with real processes.

Each scenario disturbs a whole pipeline, on the smallest example database, and then runs it once
more as an operator would. It ends well where that run completes, its graph and embeddings are those
of a run that nothing disturbed, and nothing is left behind but what `isohop runs prune` removes.
`benchmarks/faults.py` repeats them and keeps the table of `docs/reliability.md`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

import isohop
from isohop.embeddings import read_manifest
from isohop.engines import object_store
from isohop.engines.mirror import Mirror
from isohop.engines.object_store import StoredFolder
from isohop.engines.storage import TEMPORARY
from isohop.graph import Graph
from isohop.pipeline.stages import STAGES
from tests.clusters.machines import ROOT, process, standalone, wait_for
from tests.killing import command_of
from tests.s3 import BUCKET, environment, s3
from tests.shop import TABLES, chain_from

NAME = "shop"
SETTINGS = """
seed: 1
features: {dimensions: 8, levels: [4], epochs: 1, steps: 5, vocabulary: 256}
distill: {dimensions: 16, steps: 6, batch: 64, negatives: 8}
report: {sample: 50}
"""
PATIENCE = 900
AHEAD = """
import sys
from datetime import datetime, timedelta

from isohop.cli import main
from isohop.embeddings import publisher
from isohop.pipeline import events


class Ahead(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=400)


# All of its modules that ask for the time of day.
events.datetime = publisher.datetime = Ahead
sys.exit(main())
"""
PUBLISHER = """
import sys
from pathlib import Path

from isohop.embeddings import publish

embeddings, published, name, versions = sys.argv[1:]
for number in range(int(versions)):
    publish(
        Path(embeddings), Path(published), name,
        run=f"run-{number}", certificate="c", fingerprints={}, keep=1,
    )
"""
SECONDS_OF_WORK = 10.0
"""Of an executor of Spark that builds, about."""


@dataclass(frozen=True)
class Result:
    """What must be the same whatever happened."""

    certificate: str
    embeddings: pa.Table


@dataclass(frozen=True)
class Pipeline:
    """``file``: the pipeline file; ``home``: where its runs and versions are, a folder or a URL."""

    file: Path
    home: str
    more: Mapping[str, str]

    @classmethod
    def make(
        cls,
        folder: Path,
        home: str | None = None,
        tables: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Pipeline:
        """With tables of its own, where they are not said."""
        folder.mkdir(parents=True, exist_ok=True)
        if tables is None:
            shutil.copytree(TABLES, folder / "tables")
            tables = "tables"
        home = home or str(folder / "home")
        (folder / "schema.yaml").write_text(chain_from(f"path: {tables}"), "utf-8")
        places = f"runs: {home}/runs\npublish: {{path: {home}/published}}\n"
        file = folder / "pipeline.yaml"
        file.write_text(f"name: {NAME}\nschema: schema.yaml\n{places}{SETTINGS}", "utf-8")
        return cls(file, home, more or {})

    def start(
        self, *words: str, program: tuple[str, str] = ("-m", "isohop.cli")
    ) -> subprocess.Popen[str]:
        """In a session of its own, with all that it starts."""
        return subprocess.Popen(
            [sys.executable, *program, *(words or ("run",)), str(self.file)],
            env={**os.environ, "COLUMNS": "10000", **self.more},  # nothing is folded
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        """To its end: exit code, and what it said."""
        started = self.start(*words)
        said, _ = started.communicate(timeout=PATIENCE)
        return started.returncode, " ".join(said.split())

    def completes(self) -> Result:
        """Run it, as an operator does after a fault. Raises `AssertionError` where it fails."""
        code, said = self.run()
        assert code == 0, said
        assert "Traceback" not in said, said
        return self.result()

    def record(self, stage: str) -> Path:
        """Of a stage that is done; of a run in a folder."""
        return Path(self.home) / "runs" / NAME / "current" / "stages" / f"{stage}.json"

    def result(self) -> Result:
        published = f"{self.home}/published/{NAME}"
        folder = Path(self.home) / "runs" / NAME / "current"
        if object_store.is_url(self.home):
            mirror = Mirror.of(f"{self.home}/runs/{NAME}/current")
            mirror.pull()
            folder = mirror.local
        table = isohop.read_embeddings(published, "customer", verify=True)
        return Result(Graph.open(folder / "graph").manifest.certificate, table)

    def is_tidy_after_pruning(self) -> None:
        """Of a home in an object store: there, and in what this machine has of it."""
        code, said = self.run("runs", "prune")
        assert code == 0, said
        here = Path(self.home)
        names: list[str] = []
        if object_store.is_url(self.home):
            here = Path(self.more["ISOHOP_CACHE"])
            names = [one.name for one in StoredFolder.of(self.home).objects()]
        names += [str(path.relative_to(here)) for path in here.rglob("*")]
        assert names
        assert [
            name for name in names if f"/{TEMPORARY}" in f"/{name}" or ".training" in name
        ] == []


def kill_all(process: subprocess.Popen[str]) -> None:
    """``kill -9`` of a process and of all that it started, at once."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.communicate()


@dataclass(frozen=True)
class Usual:
    """What a run gives that nothing disturbs; the ``seconds`` that it takes, and those from its
    start to the end of each stage."""

    result: Result
    seconds: float
    ends: Mapping[str, float]


def undisturbed(folder: Path) -> Usual:
    pipeline = Pipeline.make(folder)
    began = time.time()
    result = pipeline.completes()
    seconds = time.time() - began
    ends = {stage: pipeline.record(stage).stat().st_mtime - began for stage in STAGES}
    return Usual(result, seconds, ends)


def kill_after(seconds: float, run: subprocess.Popen[str]) -> None:
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        kill_all(run)


def killed_in_a_stage(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """Any stage, the short ones as often as the long ones, by ``kill -9`` at any moment of it."""
    stages = list(STAGES)
    number = draw.randrange(len(stages))
    begin = usual.ends[stages[number - 1]] if number else 0.0
    for trial in range(10):
        pipeline = Pipeline.make(folder / str(trial))
        run = pipeline.start()
        while number and not pipeline.record(stages[number - 1]).exists():
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.01)
        kill_after(draw.uniform(0.0, usual.ends[stages[number]] - begin), run)
        if run.returncode == -signal.SIGKILL and not pipeline.record(stages[number]).exists():
            break  # else the stage was faster
    else:
        raise AssertionError(f"'{stages[number]}' was never killed")
    result = pipeline.completes()
    pipeline.is_tidy_after_pruning()
    return result


def a_worker_killed(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """A process of Ray, while the run goes on: it completes, or says what happened."""
    pipeline = Pipeline.make(folder)
    run = pipeline.start()
    wait = draw.uniform(0.0, usual.seconds / 4)
    seen = None
    while run.poll() is None:
        workers = _workers(run)
        seen = seen or (time.monotonic() if workers else None)
        if workers and seen is not None and time.monotonic() - seen > wait:
            with suppress(psutil.NoSuchProcess):  # it ended by itself: another one
                draw.choice(workers).kill()
                break
        time.sleep(0.05)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode in (0, 1), said
    if run.returncode:
        assert "Traceback" not in said, said
    result = pipeline.completes()
    pipeline.is_tidy_after_pruning()
    return result


def _workers(run: subprocess.Popen[str]) -> list[psutil.Process]:
    if run.poll() is not None:
        return []
    children = psutil.Process(run.pid).children(recursive=True)
    return [process for process in children if command_of(process).startswith("ray::")]


def two_at_once(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """The second is refused and told which process is at it; it does no harm."""
    pipeline = Pipeline.make(folder)
    first = pipeline.start()
    while not list(Path(pipeline.home).rglob(".lock")):
        assert first.poll() is None
        time.sleep(0.05)
    time.sleep(draw.uniform(0.0, usual.seconds / 4))
    code, said = pipeline.run()
    assert first.poll() is None, "the first was faster"
    assert code == 1, said
    assert f"is being written by process {first.pid} on" in said, said
    said, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, said
    result = pipeline.completes()
    pipeline.is_tidy_after_pruning()
    return result


def clock_set_back(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """After a run that was killed, or had just ended."""
    pipeline = Pipeline.make(folder)
    kill_after(draw.uniform(0.0, 1.5 * usual.seconds), pipeline.start(program=("-c", AHEAD)))
    result = pipeline.completes()
    pipeline.is_tidy_after_pruning()
    return result


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of some bytes. Needs the rights to mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_full(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """Runs and versions on a disk that ends somewhere in the middle, and is made larger then."""
    with small_disk(folder / "disk", size=draw.randrange(1 << 12, 1 << 18)) as disk:
        pipeline = Pipeline.make(folder / "pipeline", home=str(disk))
        code, said = pipeline.run()
        assert code == 1, f"{code}: {said}"
        assert "Traceback" not in said, said
        assert "No space left" in said, said
        grow = ["mount", "-o", f"remount,size={1 << 26}", str(disk)]
        subprocess.run(grow, check=True)
        result = pipeline.completes()
        pipeline.is_tidy_after_pruning()
        return result


def truncated_input(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """A Parquet file whose writer did not live to end it: told by name, and what is live stays."""
    pipeline = Pipeline.make(folder)
    csv = draw.choice(sorted((folder / "tables").glob("*.csv")))
    file = csv.with_suffix(".parquet")
    pq.write_table(pc.read_csv(csv), file)
    csv.unlink()
    before = pipeline.completes()
    whole = file.read_bytes()
    file.write_bytes(whole[: draw.randrange(len(whole))])
    code, said = pipeline.run()
    assert code == 2, said
    assert file.name in said, said
    assert "Traceback" not in said, said
    assert pipeline.result().embeddings.equals(before.embeddings)
    file.write_bytes(whole)
    result = pipeline.completes()
    pipeline.is_tidy_after_pruning()
    return result


def a_bad_line(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """An object store that refuses, or cuts off, one request in twenty."""
    folder.mkdir(parents=True)
    seed = draw.randrange(1 << 30)
    with s3(folder / "server.log", faults=0.05, seed=seed) as endpoint:
        more = environment(endpoint, folder / "cache")
        with _environment(more):
            url = f"s3://{BUCKET}/{folder.name}"
            object_store._client().create_bucket(Bucket=BUCKET)
            tables = folder / "tables"
            shutil.copytree(TABLES, tables)
            Mirror(StoredFolder.of(f"{url}/tables"), tables).push()
            pipeline = Pipeline.make(folder / "pipeline", url, f"{url}/tables", more)
            result = pipeline.completes()
            pipeline.is_tidy_after_pruning()
            return result


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    object_store._client.cache_clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        object_store._client.cache_clear()


def an_executor_killed(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """Of Spark's own cluster, while it builds: Spark makes another, and the build completes."""
    folder.mkdir(parents=True)
    job = ROOT / "jobs" / "run_stage.py"
    with standalone(folder) as cluster:
        longest = SECONDS_OF_WORK
        for trial in range(10):
            pipeline = Pipeline.make(folder / f"pipeline-{trial}")
            with pipeline.file.open("a", encoding="utf-8") as file:
                file.write("engine: spark\n")
            log = folder / f"driver-{trial}.log"
            submission = cluster.submission(job, "build", pipeline.file)
            with process(log, *submission, more=cluster.environment) as driver:
                wait_for(lambda: bool(cluster.executors()), "an executor")
                time.sleep(draw.uniform(0.0, longest))
                victims = cluster.executors()
                with suppress(psutil.NoSuchProcess):  # it ended by itself: another trial
                    if victims and driver.poll() is None:
                        draw.choice(victims).kill()
                        assert driver.wait(PATIENCE) == 0, log.read_text("utf-8")[-4000:]
                        break
            longest /= 2  # it was faster
        else:
            raise AssertionError("no executor was ever killed")
    built = pipeline.record("build").stat().st_mtime_ns
    result = pipeline.completes()
    assert pipeline.record("build").stat().st_mtime_ns == built, "the graph was built anew"
    pipeline.is_tidy_after_pruning()
    return result


def published_while_read(folder: Path, usual: Usual, draw: random.Random) -> Result:
    """A hundred versions, each in the place of the one before, and a process that reads what is
    live in a loop: it never finds a broken version, nor one that is older than what it saw."""
    pipeline = Pipeline.make(folder)
    before = pipeline.completes()
    run = Path(pipeline.home) / "runs" / NAME / "current" / "embeddings"
    published = Path(pipeline.home) / "published"
    versions = 100
    words = [sys.executable, "-c", PUBLISHER, str(run), str(published), NAME, str(versions)]
    seen: list[int] = []
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as publisher:
        while publisher.poll() is None:
            time.sleep(draw.uniform(0.0, 0.02))
            table = isohop.read_embeddings(published / NAME, "customer", verify=True)
            assert table.equals(before.embeddings)
            seen.append(read_manifest(published / NAME).version)
        said = publisher.communicate()[1]
    assert publisher.returncode == 0, said
    assert seen == sorted(seen)
    assert len(set(seen)) > 1, "nothing was published while it read"
    assert read_manifest(published / NAME).version == 1 + versions
    result = pipeline.completes()
    pipeline.is_tidy_after_pruning()
    return result


SCENARIOS = {
    "a stage, any of them, killed (kill -9) at any moment of it": killed_in_a_stage,
    "a worker of Ray killed": a_worker_killed,
    "an executor of Spark killed": an_executor_killed,
    "two runs at once": two_at_once,
    "a hundred versions published while another process reads in a loop": published_while_read,
    "the clock set back by a year": clock_set_back,
    "disk full": disk_full,
    "a truncated Parquet file": truncated_input,
    "every path on S3, one request in twenty fails": a_bad_line,
}
"""Each takes a folder, what is usual, and where its moments come from."""
