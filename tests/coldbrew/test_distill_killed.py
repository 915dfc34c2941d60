"""Distillation on Ray Train: several workers, workers that die, and a run that dies as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from isohop.coldbrew.distill import DistillManifest, distill, read_manifest
from isohop.coldbrew.settings import DistillSettings
from isohop.engines.progress import SILENT, Progress
from isohop.errors import IsohopError
from tests.coldbrew.test_distill import topical
from tests.killing import Killer, Reader, run_and_kill
from tests.worlds import library

pytestmark = pytest.mark.usefixtures("ray_on_all_cores")

SMALL = DistillSettings(dimensions=32, steps=60, batch=64, negatives=16)
SAMPLED = SMALL.model_copy(update={"steps": 150, "full_graph": 0, "fanout": 4})
"""So many steps that a worker still takes some once it is known that it is to be killed."""


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> Path:
    """A folder with a graph ``g``, features ``f`` and the model ``m`` that nothing disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    graph = library(folder / "g")
    distill(graph.path, topical(graph, folder / "f"), folder / "m", SAMPLED, 1)
    return folder


def same(one: Path, other: Path) -> bool:
    names = ("teacher.safetensors", "student.safetensors")
    models = [{name: load_file(folder / name) for name in names} for folder in (one, other)]
    equal = all(
        np.array_equal(value, models[1][name][key])
        for name, tensors in models[0].items()
        for key, value in tensors.items()
    )
    told = [read_manifest(folder).model_copy(update={"seconds": {}}) for folder in (one, other)]
    return equal and told[0] == told[1]


def test_a_worker_that_is_killed_costs_steps_and_changes_nothing(quiet, tmp_path):
    killer = Killer("student", after=30)
    distill(quiet / "g", quiet / "f", tmp_path / "m", SAMPLED, 1, progress=killer)
    assert len(killer.killed) == 1
    assert same(quiet / "m", tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_run_that_was_killed_as_a_whole_goes_on_from_its_last_checkpoint(quiet, tmp_path):
    program = (
        "import sys; from isohop.coldbrew.distill import distill;"
        "from isohop.coldbrew.settings import DistillSettings;"
        "distill(*sys.argv[1:4], DistillSettings.model_validate_json(sys.argv[4]), 1)"
    )
    asked = [str(quiet / "g"), str(quiet / "f"), str(tmp_path / "m"), SAMPLED.model_dump_json()]
    run_and_kill(program, asked, tmp_path / "m.training", '"mlp", "step": 40')
    assert not (tmp_path / "m").exists()
    reader = Reader("student", tmp_path / "m.training")
    distill(quiet / "g", quiet / "f", tmp_path / "m", SAMPLED, 1, progress=reader)
    assert reader.text.count('"teacher", "step": 150') == 1
    seconds = read_manifest(tmp_path / "m").seconds
    assert list(seconds) == ["teacher", "mlp", "student", "evaluate"]
    assert same(quiet / "m", tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def distill_alike(
    quiet: Path, out: Path, workers: int, progress: Progress = SILENT
) -> DistillManifest:
    """Without dropout, and where all neighbours are heard, nothing that workers draw differs."""
    alike = {"steps": 60, "dropout": 0.0, "latent_dropout": 0.0, "fanout": 100, "workers": workers}
    asked = quiet / "g", quiet / "f", out, SAMPLED.model_copy(update=alike), 1, "book.topic"
    return distill(*asked, progress=progress)


@pytest.fixture(scope="module")
def two(quiet) -> Path:
    """The model of two workers that nothing disturbed."""
    distill_alike(quiet, quiet / "two", 2)
    return quiet / "two"


def test_two_workers_share_each_batch_and_learn_what_one_learns(quiet, two, tmp_path):
    found = [distill_alike(quiet, tmp_path / "m", 1), read_manifest(two)]
    for model in ("teacher", "mlp", "student"):
        losses = [np.array(manifest.curves[f"{model}/loss"])[:, 1] for manifest in found]
        # Nothing differs but sums of floats.
        assert np.allclose(*losses, rtol=0.02)


def test_a_group_goes_on_from_its_last_checkpoint_where_a_worker_is_killed(quiet, two, tmp_path):
    """And each with its share of the structural embeddings."""
    places = read_manifest(two).structural
    assert any(count > 2 for (count,) in places.values())
    killer = Killer("teacher", after=30, workers=2)
    distill_alike(quiet, tmp_path / "m", 2, killer)
    assert len(killer.killed) == 1
    assert same(two, tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_more_workers_than_cores_are_an_error_and_do_not_wait(quiet, tmp_path):
    many = SMALL.model_copy(update={"workers": 1000})
    with pytest.raises(IsohopError, match=r"distill.workers"):
        distill(quiet / "g", quiet / "f", tmp_path / "m", many, 1)
    assert not (tmp_path / "m").exists()
