"""Whatever fails, the next run completes and gives what an undisturbed one gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.scenarios import SCENARIOS, Usual, undisturbed


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Usual:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=pytest.mark.spark if "Spark" in what else ()) for what in SCENARIOS],
)
def test_the_next_run_gives_what_an_undisturbed_one_gives(what: str, usual: Usual, tmp_path: Path):
    found = SCENARIOS[what](tmp_path / "world", usual, random.Random(what))
    assert found.certificate == usual.result.certificate
    assert found.embeddings.equals(usual.result.embeddings)
