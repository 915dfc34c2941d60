"""Whatever fails, the next run completes and gives what an undisturbed one gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.scenarios import SCENARIOS, Result, undisturbed


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, float]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("what", SCENARIOS)
def test_the_next_run_gives_what_an_undisturbed_one_gives(
    what: str, expected: tuple[Result, float], tmp_path: Path
):
    result, seconds = expected
    found = SCENARIOS[what](tmp_path / "world", seconds, random.Random(what))
    assert found.certificate == result.certificate
    assert found.embeddings.equals(result.embeddings)
