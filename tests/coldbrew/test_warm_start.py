"""Models that begin with what was learned on an earlier graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from isohop.coldbrew import distiller as of_all_models
from isohop.coldbrew import judging, reliability
from isohop.coldbrew.distill import DistillManifest
from isohop.coldbrew.distiller import Distiller
from isohop.coldbrew.keeping import keep_model
from isohop.coldbrew.known_graph import KnownGraph
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.tables import module_key
from isohop.coldbrew.training import Training
from isohop.coldbrew.validation import Validation
from isohop.engines.workers import ALONE
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.held_out import HELD_OUT
from isohop.graph.holdout import TEST, VALIDATION
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
)

TOPIC = "paper.topic"
Made = tuple[Graph, Path]


def saved(folder: Path, settings: DistillSettings = SMALL, label: str | None = None) -> Distiller:
    """It lies in ``m``, its graph and features beside it."""
    distiller = trained(citations(folder, some_edges()), label, settings)
    save(distiller, folder, label)
    return distiller


def save(distiller: Distiller, folder: Path, label: str | None) -> None:
    (folder / "m").mkdir()
    distiller.save(folder / "m")
    about = distiller.about()
    kept = {name: about[name] for name in ("settings", "choices", "outputs", "structural")}
    manifest = DistillManifest(seed=1, label=label, **kept)
    (folder / "m" / "distill.json").write_text(manifest.model_dump_json(), "utf-8")


def warm(
    made: Made, folder: Path, settings: DistillSettings = SMALL, label: str | None = None
) -> Distiller:
    """One that begins with what lies in ``folder``."""
    before = Graph.open(folder / "graph"), folder / "m"
    return Distiller.of(*made, settings, 1, label, 1, before=before)


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


def test_its_teacher_is_judged_by_weighed_messages_from_the_start_and_anew_half_way(
    tmp_path, monkeypatch
):
    """What it begins with may have learned by them. Here they are better at first and not half-way,
    which a checkpoint knows."""
    monkeypatch.setattr(reliability, "FEWEST", 10)
    saved(tmp_path)
    better = iter(range(100))

    def score(validation: Validation, *_: object) -> float:
        return float(next(better)) if validation.distiller.done == 0 else 0.0

    monkeypatch.setattr(Validation, "score", score)
    later = grown(tmp_path / "later")
    distiller, resumed = warm(later, tmp_path), warm(later, tmp_path)
    distiller.start("teacher")
    assert distiller.weighed
    distiller.train(SMALL.steps // 2)
    assert distiller.weighed
    distiller.train(1)
    assert not distiller.weighed
    distiller.save_checkpoint(tmp_path / "c.safetensors")
    resumed.resume(tmp_path / "c.safetensors")
    assert not resumed.weighed
    for one in (distiller, resumed):
        one.train(SMALL.steps)
    assert equal(distiller, resumed)


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_it_learns_links_beside_a_label_if_the_other_did(tmp_path, monkeypatch, weight):
    saved(tmp_path, SMALL.model_copy(update={"link_weight": weight}), TOPIC)
    monkeypatch.setattr(of_all_models, "links_are_in_the_way", None)  # nobody asks
    after = warm(grown(tmp_path / "later"), tmp_path, label=TOPIC)
    after.start("teacher")
    assert after.settings.link_weight == weight

    # In between a graph of which no label is known that could be learned.
    between = tmp_path / "between"
    alike = np.zeros(PAPERS + 10, np.int64)
    without = learn(warm(grown(between, alike), tmp_path, label=TOPIC))
    assert without.labels is None
    assert not any("no link prediction" in note for note in without.about()["notes"])
    save(without, between, TOPIC)
    after = warm(grown(tmp_path / "last"), between, label=TOPIC)
    after.start("teacher")
    assert after.settings.link_weight == weight


@pytest.mark.parametrize("worth", [True, False], ids=["worth", "harm"])
def test_what_learned_without_structural_embeddings_goes_on_without(tmp_path, monkeypatch, worth):
    def displace(distiller: Distiller) -> None:
        if not worth:
            distiller.teacher.structural.displace()

    with monkeypatch.context() as patched:
        patched.setattr(judging, "displace", displace)
        patched.setattr(Validation, "score", lambda *_: 0.0)  # the last weights stay
        assert saved(tmp_path).teacher.structural.learned == worth
    distiller = warm(grown(tmp_path / "later"), tmp_path)
    monkeypatch.setattr(Validation, "score", lambda *_: 0.0)
    train(distiller, "teacher")
    assert distiller.teacher.structural.learned == worth


def before_graph(folder: Path) -> Graph:
    return Graph.open(folder / "graph")


@pytest.mark.parametrize("settings", [SMALL, SAMPLED], ids=["whole", "sampled"])
def test_nodes_that_are_known_keep_their_structural_embeddings(tmp_path, settings):
    before = saved(tmp_path, settings)
    after = warm(grown(tmp_path / "later"), tmp_path, settings)
    rows = []
    for distiller in (before, after):
        state = distiller.teacher.state_dict()
        key = module_key("paper")
        nodes, table = state[f"nodes_{key}"].tolist(), state[f"structural.0.{key}"]
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


@pytest.mark.parametrize(("values", "outputs"), [((0, 1, 2, 3), 4), ((1, 2, 7), 3), ((9, 8), 2)])
def test_answers_about_values_of_a_label_that_were_there_are_kept(tmp_path, values, outputs):
    """By the value, wherever it stands among the others now."""
    before = saved(tmp_path, label=TOPIC)
    topics = np.array(values)[np.arange(PAPERS + 10) % len(values)]
    after = warm(grown(tmp_path / "later", topics), tmp_path, label=TOPIC)
    assert (before.outputs, after.outputs) == (3, outputs)
    old, new = before.teacher.state_dict(), after.teacher.state_dict()
    for at, value in enumerate(sorted(values)):
        for layer in ("linear", "added.4") if value < 3 else ():
            name = f"classify.{layer}.weight"
            assert torch.equal(new[name][at], old[name][value])
        if value < 3:
            assert torch.equal(new["known.vectors"][at], old["known.vectors"][value])
    assert torch.equal(after.teacher.known.known, after.labels.train)
    others = ("classify.linear.", "classify.added.4.", "known.", "nodes_", "structural.")
    same = [name for name in old if not name.startswith(others)]
    assert all(torch.equal(old[name], new[name]) for name in same)
    assert learn(after).told["student"].answers is not None


def test_a_model_that_is_kept_hears_the_labels_that_it_knew_and_no_others(tmp_path):
    before = saved(tmp_path, label=TOPIC)
    graph, features = grown(tmp_path / "later")
    keep_model(graph.path, (tmp_path / "graph", tmp_path / "m"), tmp_path / "kept")
    known = KnownGraph.open(graph, features, tmp_path / "kept").teacher.known
    assert torch.equal(known.known[:PAPERS], before.labels.train)
    assert not known.known[PAPERS:].any()
    with torch.no_grad():
        assert torch.equal(known()[:PAPERS], before.teacher.known())


def test_a_label_that_was_not_learned_before_is_learned(tmp_path):
    saved(tmp_path)
    after = learn(warm(grown(tmp_path / "later"), tmp_path, label=TOPIC))
    assert after.told["teacher"].answers is not None


def test_a_label_that_is_not_known_for_a_night_is_of_the_same_part_again(tmp_path):
    saved(tmp_path, label=TOPIC)
    before = Graph.open(tmp_path / "graph"), tmp_path / "m"
    topics = np.full(PAPERS + 10, None)
    night = Distiller.of(*grown(tmp_path / "night", topics), SMALL, 1, TOPIC, 1, before=before)
    assert night.labels is None
    night.save(tmp_path / "night")
    parts = [
        pq.read_table(folder / HELD_OUT / "label.parquet").sort_by("node_id")
        for folder in (tmp_path / "m", tmp_path / "night")
    ]
    assert parts[0].equals(parts[1])


def test_a_type_of_which_no_node_is_known_is_told(tmp_path):
    saved(tmp_path)
    made = citations(tmp_path / "other", some_edges())
    file = made[0].path / "nodes" / "paper" / "part-0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "id", table["id"].cast(pa.string())), file)
    with pytest.raises(IsohopError, match="its key is of another type"):
        warm(made, tmp_path)


@pytest.mark.parametrize("steps", range(1, 21))
def test_any_number_of_steps_can_be_taken(steps):
    layer = torch.nn.Linear(1, 1)

    class Nothing:
        module = layer

        def loss(self, _batch: object) -> torch.Tensor:
            return layer(torch.ones(1, 1)).sum()

    settings = SMALL.model_copy(update={"steps": steps})
    training = Training("nothing", Nothing(), settings, steps, (1,), ALONE, lambda _step: None)
    assert len(training.train(steps)[0]) == steps


def test_nobody_is_asked_for_a_label_that_was_learned_before(tmp_path):
    before = saved(tmp_path, label=TOPIC)
    after = warm(grown(tmp_path / "later"), tmp_path, label=TOPIC)
    assert before.labels is not None
    assert after.labels is not None
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(after.labels, part)[:PAPERS], getattr(before.labels, part))


def test_some_of_what_came_in_while_a_model_was_kept_is_asked_about_later(tmp_path):
    saved(tmp_path, label=TOPIC)
    made = grown(tmp_path / "night")
    keep_model(made[0].path, (tmp_path / "graph", tmp_path / "m"), tmp_path / "night" / "m")
    after = warm(made, tmp_path / "night", label=TOPIC)
    (cites,) = after.inputs.edges.values()
    (before,) = (Graph.open(tmp_path / "graph").edge_index(e.name) for e in made[0].edge_types)
    known = set(map(tuple, before.T.tolist()))
    new = np.array([pair not in known for pair in map(tuple, cites.T.tolist())])
    (states,) = after.holdout.edges.values()
    apart = np.isin(states, (VALIDATION, TEST))
    assert apart[new].any()
    # It stays as it was decided in that night.
    (file,) = (tmp_path / "night" / "m" / HELD_OUT / "edges").iterdir()
    decided = [column.to_pylist() for column in pq.read_table(file).columns]
    expected = np.stack([*cites[:, apart].numpy(), states[apart]])
    assert sorted(zip(*decided, strict=True)) == sorted(map(tuple, expected.T.tolist()))
    parts = pq.read_table(tmp_path / "night" / "m" / HELD_OUT / "label.parquet")
    assert after.labels is not None
    assert parts["node_id"].to_pylist() == list(range(PAPERS + 10))
    assert parts["part"].to_pylist() == after.labels.parts.tolist()


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
