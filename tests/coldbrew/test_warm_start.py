"""Models that begin with what was learned on an earlier graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from isohop.coldbrew.distiller import Distiller
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.warm_start import warm_start
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.held_out import HELD_OUT
from tests.coldbrew.test_distiller import (
    PAPERS,
    SAMPLED,
    SMALL,
    citations,
    equal,
    learn,
    some_edges,
    train,
    trained,
    weights,
)

TOPIC = "paper.topic"
Made = tuple[Graph, Path]


def saved(folder: Path, settings: DistillSettings = SMALL, label: str | None = None) -> Distiller:
    """It lies in ``m``, its graph and features beside it."""
    distiller = trained(citations(folder, some_edges()), label, settings)
    (folder / "m").mkdir()
    distiller.save(folder / "m")
    return distiller


def warm(
    made: Made, folder: Path, settings: DistillSettings = SMALL, label: str | None = None
) -> Distiller:
    """One that begins with what lies in ``folder``."""
    before = Graph.open(folder / "graph"), folder / "m"
    distiller = Distiller.of(*made, settings, 1, label, 1, before=before)
    warm_start(distiller, made[0], *before)
    return distiller


def grown(folder: Path, topics: np.ndarray | None = None) -> Made:
    """More papers, and other edges."""
    edges = some_edges()
    more = np.random.default_rng(5).integers(0, PAPERS + 10, (60, 2))
    edges = np.unique(np.concatenate([edges[7:], more]), axis=0)
    return citations(folder, edges, PAPERS + 10, topics)


@pytest.mark.parametrize("teacher", ["message-passing", "convolution", "hop-wise"])
@pytest.mark.parametrize("label", [None, TOPIC])
def test_on_the_same_graph_it_begins_where_the_other_ended(tmp_path, teacher, label):
    settings = SMALL.model_copy(update={"teacher": teacher})
    before = saved(tmp_path, settings, label)
    after = warm((before_graph(tmp_path), tmp_path / "features"), tmp_path, settings, label)
    assert equal(before, after)


def before_graph(folder: Path) -> Graph:
    return Graph.open(folder / "graph")


@pytest.mark.parametrize("settings", [SMALL, SAMPLED], ids=["whole", "sampled"])
def test_nodes_that_are_known_keep_their_structural_embeddings(tmp_path, settings):
    before = saved(tmp_path, settings)
    after = warm(grown(tmp_path / "later"), tmp_path, settings)
    rows = []
    for distiller in (before, after):
        state = distiller.teacher.state_dict()
        nodes, table = state["nodes_paper"].tolist(), state["structural.0.paper"]
        rows.append(dict(zip(nodes, table.tolist(), strict=True)))
    assert rows[0].keys() & rows[1].keys()
    assert rows[1].keys() - rows[0].keys()
    for node, row in rows[1].items():
        assert row == rows[0].get(node, [0.0] * len(row))


def test_where_no_step_is_better_it_stays_as_it_was(tmp_path):
    saved(tmp_path)
    made = grown(tmp_path / "later")
    begun = warm(made, tmp_path)
    wild = warm(made, tmp_path, SMALL.model_copy(update={"learning_rate": 2.0, "steps": 3}))
    train(wild, "teacher")
    for name, value in begun.teacher.state_dict().items():
        assert torch.equal(value, wild.teacher.state_dict()[name])


@pytest.mark.parametrize("settings", [SMALL, SAMPLED], ids=["whole", "sampled"])
def test_a_warm_start_that_was_interrupted_ends_as_if_it_had_not_been(tmp_path, settings):
    saved(tmp_path, settings, TOPIC)
    made = grown(tmp_path / "later")
    whole = learn(warm(made, tmp_path, settings, TOPIC))
    begun = warm(made, tmp_path, settings, TOPIC)
    begun.start("teacher")
    begun.train(7)
    begun.save_checkpoint(tmp_path / "c.safetensors")
    again = warm(made, tmp_path, settings, TOPIC)
    again.resume(tmp_path / "c.safetensors")
    again.train(settings.steps)
    again.finish()
    for model in ("mlp", "student"):
        train(again, model)
    assert equal(whole, again)


def test_a_label_with_a_new_value_is_answered_anew_and_all_else_is_kept(tmp_path):
    before = saved(tmp_path, label=TOPIC)
    after = warm(grown(tmp_path / "later", np.arange(PAPERS + 10) % 4), tmp_path, label=TOPIC)
    assert (before.outputs, after.outputs) == (3, 4)
    old, new = weights(before), weights(after)
    same = {name for name in old if "classify" not in name and old[name].shape == new[name].shape}
    assert len(same) > len(old) / 2
    assert all(torch.equal(old[name], new[name]) for name in same)
    assert learn(after).told["student"].answers is not None


def test_nobody_is_asked_for_a_label_that_was_learned_before(tmp_path):
    before = saved(tmp_path, label=TOPIC)
    after = warm(grown(tmp_path / "later"), tmp_path, label=TOPIC)
    assert before.labels is not None
    assert after.labels is not None
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(after.labels, part)[:PAPERS], getattr(before.labels, part))


def test_weights_of_another_form_are_told(tmp_path):
    saved(tmp_path)
    wider = SMALL.model_copy(update={"dimensions": 32})
    with pytest.raises(IsohopError, match="has other weights than are trained here"):
        warm(grown(tmp_path / "later"), tmp_path, wider)


def test_what_was_held_out_lies_beside_a_model(tmp_path):
    saved(tmp_path)
    files = {p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("*.parquet")}
    assert {
        f"{HELD_OUT}/nodes/paper.parquet",
        f"{HELD_OUT}/edges/paper--cites--paper.parquet",
    } <= files
    shutil.rmtree(tmp_path / "m" / HELD_OUT)
    with pytest.raises(IsohopError, match=r"paper.parquet is missing: the model is damaged"):
        warm(grown(tmp_path / "later"), tmp_path)
