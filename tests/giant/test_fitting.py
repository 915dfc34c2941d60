"""Fitting on Ray Train: several workers, workers that die, and a run that dies as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isohop.engines.ray import ray_session
from isohop.errors import IsohopError
from isohop.giant.features import Features, extract_features
from isohop.giant.fitting import TRAINING
from isohop.giant.settings import FeatureSettings
from tests.killing import Killer, Reader, run_and_kill
from tests.worlds import library

SMALL = FeatureSettings(
    dimensions=16, multi_scale=True, levels=(4, 16), epochs=1, steps=400, batch=64
)


@pytest.fixture(scope="module", autouse=True)
def ray(all_cores):
    with ray_session():
        yield


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> Path:
    """A folder with a graph ``g`` and the features ``f`` of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    extract_features(library(folder / "g").path, folder / "f", SMALL, 1)
    return folder


def test_a_worker_that_is_killed_costs_steps_and_changes_nothing(quiet, tmp_path):
    killer = Killer(TRAINING, after=250)
    extract_features(quiet / "g", tmp_path / "shot", SMALL, 1, progress=killer)
    assert len(killer.killed) == 1
    one, other = Features.open(quiet / "f"), Features.open(tmp_path / "shot")
    assert np.array_equal(one.matrix("book"), other.matrix("book"))
    assert one.manifest.curves == other.manifest.curves
    names = [sorted(p.name for p in features.path.iterdir()) for features in (one, other)]
    assert names[0] == names[1]
    assert [p.name for p in tmp_path.iterdir()] == ["shot"]


def test_a_run_that_was_killed_as_a_whole_goes_on_from_its_last_checkpoint(quiet, tmp_path):
    program = (
        "import sys; from isohop.giant.features import extract_features;"
        "from isohop.giant.settings import FeatureSettings;"
        "extract_features(sys.argv[1], sys.argv[2],"
        " FeatureSettings.model_validate_json(sys.argv[3]), 1)"
    )
    asked = [str(quiet / "g"), str(tmp_path / "f"), SMALL.model_dump_json()]
    run_and_kill(program, asked, tmp_path / "f.training", '"step": 250')
    assert not (tmp_path / "f").exists()
    reader = Reader(TRAINING, tmp_path / "f.training")
    extract_features(quiet / "g", tmp_path / "f", SMALL, 1, progress=reader)
    assert reader.text.count('"step": 200,') == 1
    assert reader.text.count('"step": 225,') == 2
    one, other = Features.open(quiet / "f"), Features.open(tmp_path / "f")
    assert np.array_equal(one.matrix("book"), other.matrix("book"))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_two_workers_share_each_batch_and_learn_what_one_learns(quiet, tmp_path):
    both = SMALL.model_copy(update={"workers": 2})
    manifest = extract_features(quiet / "g", tmp_path / "f", both, 1)
    alone = Features.open(quiet / "f").manifest
    losses = [np.array([loss for _, loss in m.curves["loss"]]) for m in (alone, manifest)]
    # Dropout differs between workers, the batches and the gradients' sums do not.
    assert np.allclose(*losses, rtol=0.01)
    assert manifest.held_out["all"].trained.mrr >= alone.held_out["all"].trained.mrr - 0.05


def test_hard_negatives_are_the_same_on_all_workers(tmp_path):
    """Each finds its own; were they not shared, the sums of gradients would not fit."""
    hard = {"workers": 2, "hard_negatives": 0.5, "negatives": 12, "steps": 50}
    graph = library(tmp_path / "g")
    manifest = extract_features(graph.path, tmp_path / "f", SMALL.model_copy(update=hard), 1)
    losses = [loss for _, loss in manifest.curves["loss"]]
    assert losses[-1] < losses[0]


def test_more_workers_than_cores_are_an_error_and_do_not_wait(quiet, tmp_path):
    many = SMALL.model_copy(update={"workers": 1000})
    with pytest.raises(IsohopError, match=r"features.workers"):
        extract_features(quiet / "g", tmp_path / "f", many, 1)
    assert not (tmp_path / "f").exists()


def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(quiet, tmp_path):
    wild = SMALL.model_copy(update={"learning_rate": 1e30})
    said = r"the (loss|gradient) of step .* is .*, on the batch of nodes"
    with pytest.raises(IsohopError, match=said):
        extract_features(quiet / "g", tmp_path / "f", wild, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["f.training"]


def test_what_was_learned_is_kept_until_the_features_are_there(quiet, tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise IsohopError("no room on the disk")

    with monkeypatch.context() as patched:
        patched.setattr("isohop.giant.inference.extract", fails)
        with pytest.raises(IsohopError, match="no room"):
            extract_features(quiet / "g", tmp_path / "f", SMALL, 1)
    reader = Reader(TRAINING, tmp_path / "f.training")
    extract_features(quiet / "g", tmp_path / "f", SMALL, 1, progress=reader)
    assert reader.text.count('"step": 400,') == 1
    one, other = Features.open(quiet / "f"), Features.open(tmp_path / "f")
    assert np.array_equal(one.matrix("book"), other.matrix("book"))
