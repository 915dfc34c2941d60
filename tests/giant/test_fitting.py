"""Fitting on Ray: several workers, and one that dies. A run that dies as a whole is in
tests/coldbrew/test_distill_killed.py, by the same engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isohop.coldbrew import DistillSettings
from isohop.coldbrew.distill import distill
from isohop.errors import IsohopError
from isohop.giant.features import Features, extract_features
from isohop.giant.fitting import TRAINING
from isohop.giant.settings import FeatureSettings
from isohop.graph import Graph
from tests.killing import Killer, Reader
from tests.worlds import library

pytestmark = pytest.mark.usefixtures("ray_on_all_cores")

SMALL = FeatureSettings(
    dimensions=16, multi_scale=True, levels=(4, 16), epochs=1, steps=400, batch=64
)


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


def test_two_workers_share_each_batch_and_learn_what_one_learns(quiet, tmp_path):
    """Each finds hard negatives of its own: were they not shared, gradients would not add up."""
    hard = {"hard_negatives": 0.5, "negatives": 12, "steps": 100}
    found = []
    for workers in (1, 2):
        settings = SMALL.model_copy(update={**hard, "workers": workers})
        found.append(extract_features(quiet / "g", tmp_path / str(workers), settings, 1))
    losses = [np.array([loss for _, loss in m.curves["loss"]]) for m in found]
    # Dropout differs between workers, the batches and the gradients' sums do not.
    assert np.allclose(*losses, rtol=0.01)
    alone, shared = (m.held_out["all"].trained.mrr for m in found)
    assert shared >= alone - 0.05


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


def written_again(graph: Graph, path: Path, **changed: object) -> Graph:
    """The same facts, whose one edge type is told otherwise: the certificate is the same."""
    edges = {edge.name: graph.edges(edge.name) for edge in graph.edge_types}
    first, *others = graph.edge_types
    other = first.model_copy(update=changed)
    edges[other.name] = edges.pop(first.name)
    told = graph.manifest.model_copy(update={"edge_types": (other, *others)})
    return Graph.write(path, told, {n.name: graph.nodes(n.name) for n in graph.node_types}, edges)


@pytest.mark.parametrize("changed", [{}, {"role": "is_read_by"}, {"time": "count"}])
def test_training_goes_on_for_the_same_names_and_times_alone(quiet, tmp_path, monkeypatch, changed):
    """What is held out depends on them, and would have been learned before."""
    keys = []

    def train(*told: object) -> None:
        keys.append(told[3])
        raise IsohopError("enough")

    before = Graph.open(quiet / "g")
    after = written_again(before, tmp_path / "again", **changed)
    assert before.manifest.certificate == after.manifest.certificate
    features = quiet / "f"
    for stage in ("giant.fitting", "coldbrew.distill"):
        monkeypatch.setattr(f"isohop.{stage}.train", train)
    for graph in (before, after):
        with pytest.raises(IsohopError, match="enough"):
            extract_features(graph.path, tmp_path / "f", SMALL, 1)
        with pytest.raises(IsohopError, match="enough"):
            distill(graph.path, features, tmp_path / "m", DistillSettings(), 1)
    assert (keys[0] == keys[2], keys[1] == keys[3]) == (not changed, not changed)


def test_what_was_learned_is_kept_until_the_features_are_there(quiet, tmp_path, monkeypatch):
    def fails(*_: object, **__: object) -> None:
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
