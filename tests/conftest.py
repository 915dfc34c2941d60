"""What every test may use: what programs and data are there, and loud words when they are not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest

# A thread that waits lets others work. Before torch is imported, and handed down to all processes
# that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Ray's processes wait for the next test instead of ending: most of a small job is their start.
os.environ.setdefault("RAY_num_workers_soft_limit", "8")
# What tests ask of Spark is small: to compile it well took nearly half of the time, and to make
# code of each query a fifth of what was left. Its clusters (tests/clusters) do, as users' do.
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
INTERPRETED = "-Dspark.sql.codegen.wholeStage=false -Dspark.sql.codegen.factoryMode=NO_CODEGEN"
os.environ.setdefault("SPARK_SUBMIT_OPTS", f"{JVM} {INTERPRETED}")

CORES = os.sched_getaffinity(0)
TAKE_MINUTES = (
    "property/test_rewrites",
    "giant/test_fitting",
    "pipeline/test_pipeline",
    "graph/test_build",
    "coldbrew/test_distill",
    "graph/test_audit",
    "pipeline/test_since",
)
"""Files that are begun first, lest one core waits for the other at the end."""

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"

_NEEDS = {
    "airflow": (
        (ROOT / ".venv-airflow").is_dir,
        "no environment of Airflow: no DAG submits to clusters (make test-airflow makes one)",
    ),
    "spark": (lambda: shutil.which("java"), "no Java runtime: the Spark engine is NOT tested"),
    "chromium": (
        lambda: next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None),
        "no Chromium: nobody looked at the report",
    ),
    "postgres": (
        lambda: shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        "no PostgreSQL programs: reading from PostgreSQL is NOT tested",
    ),
    "data": (lambda: DATA.is_dir(), f"the real data is absent: there is no {DATA}"),
}


def pytest_configure() -> None:
    """No example of Hypothesis has a deadline. Each worker of xdist has cores of its own, and so
    has all that it starts: threads of two tests that wait for each other on the same cores take
    several times as long."""
    hypothesis.settings.register_profile("isohop", deadline=None)
    hypothesis.settings.load_profile("isohop")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        mine = sorted(CORES)[int(worker.removeprefix("gw")) % len(CORES) :: workers]
        os.sched_setaffinity(0, mine)


@dataclass
class SharedRay:
    """One Ray for file after file: most of a small job is the start of what it runs in."""

    open: ExitStack = field(default_factory=ExitStack)
    cores: frozenset[int] = frozenset()

    def start(self) -> None:
        """On the cores that this process has, unless it runs on these."""
        from isohop.engines.ray import ray_session

        cores = frozenset(os.sched_getaffinity(0))
        if cores != self.cores:
            self.stop()
            self.open.enter_context(ray_session())
            self.cores = cores

    def stop(self) -> None:
        self.open.close()
        self.cores = frozenset()


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[SharedRay]:
    shared = SharedRay()
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """For what needs several cores: those of the other tests too."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, mine)


@pytest.fixture(scope="module")
def ray(shared_ray: SharedRay) -> None:
    """Ray is there."""
    shared_ray.start()


@pytest.fixture(scope="module")
def ray_on_all_cores(shared_ray: SharedRay, all_cores: None) -> None:
    shared_ray.start()


@pytest.fixture(scope="module")
def no_ray(shared_ray: SharedRay) -> None:
    """For who starts it."""
    shared_ray.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest. Skip what a machine cannot run, loudly; in CI, where all is
    installed, let it fail."""
    first = {str(ROOT / "tests" / f"{name}.py"): at for at, name in enumerate(TAKE_MINUTES)}
    items.sort(key=lambda item: first.get(str(item.path), len(first)))
    for marker, (there, reason) in _NEEDS.items():
        if there() or os.environ.get("CI"):
            continue
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"SKIPPED LOUDLY: {reason}"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """In CI a skip is a failure: everything a test needs is there, or CI is wrong."""
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
