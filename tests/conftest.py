"""What every test may use: what programs and data are there, and loud words when they are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Two tests at a time share the cores: a thread that waits lets the other work. Before torch is
# imported, and handed down to all processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"

_NEEDS = {
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what a machine cannot run, loudly; in CI, where all is installed, let it fail."""
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
