"""A label as features learn it: of the nodes that training is told of, and of no others."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_limits

from isohop.coldbrew.labels import read_labels
from isohop.giant.cross_fitting import FOLDS
from isohop.giant.documents import document_fields
from isohop.giant.encoder import load_encoder
from isohop.giant.features import Features, extract_features
from isohop.giant.inference import encode_rows
from isohop.giant.settings import FeatureSettings
from isohop.giant.targets import LABEL, NodeIndex, classes_told
from isohop.giant.training import Step, Trainer
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType, hold_out
from isohop.graph.dataset import Attribute
from isohop.graph.label import TESTED, TOLD, Label, read_label

SMALL = FeatureSettings(dimensions=16, steps=150, epochs=1, batch=64)
PAPERS, READERS = 400, 20
STOPS = (100, 150, 170, 210, 390)


def papers(path: Path, edges: bool = True) -> Graph:
    """A word of each title tells the field, others tell nothing, and neither do random readers."""
    draw = np.random.default_rng(0)
    field = draw.integers(0, 3, PAPERS)
    words = np.array([f"noise{number}" for number in range(40)])
    titles = [f"{' '.join(draw.choice(words, 6))} field{one}" for one in field]
    ends = draw.integers(0, PAPERS, 900), draw.integers(0, READERS, 900)
    reads = np.unique(np.stack(ends), axis=1) if edges else np.zeros((2, 0), np.int64)
    title = Attribute(name="title", kind="text", type="string")
    topic = Attribute(name="topic", kind="category", type="string")
    pages = Attribute(name="pages", kind="number", type="int64")
    kinds = {"paper": (title, topic, pages), "reader": ()}
    counts = {"paper": PAPERS, "reader": READERS}
    node_types = tuple(
        NodeType(name=name, key=("id",), attributes=kinds[name], count=count)
        for name, count in counts.items()
    )
    edge = EdgeType(source="paper", role="read", target="reader", count=reads.shape[1])
    nodes = {
        name: pa.table({"node_id": np.arange(count), "id": np.arange(count)})
        for name, count in counts.items()
    }
    nodes["paper"] = nodes["paper"].append_column("title", pa.array(titles))
    nodes["paper"] = nodes["paper"].append_column("topic", pa.array([f"t{one}" for one in field]))
    pages_of = pa.array(100 * field + draw.integers(0, 50, PAPERS))
    nodes["paper"] = nodes["paper"].append_column("pages", pages_of)
    ones = np.ones(reads.shape[1], np.int64)
    return Graph.write(
        path,
        GraphManifest(name="g", certificate="0" * 32, node_types=node_types, edge_types=(edge,)),
        nodes,
        {edge.name: pa.table([*reads, ones], ["src", "dst", "count"])},
    )


def told_of(graph: Graph, label: str = "paper.topic") -> Label:
    found = read_label(graph, label, hold_out(graph, 1, label))
    assert found is not None
    return found


def trained(graph: Graph, told: Label | None, **chosen: object) -> Trainer:
    settings = SMALL.model_copy(update=chosen)
    trainer = Trainer(graph, settings, 1, "paper.topic", 1, told=told)
    trainer.train(trainer.steps)
    return trainer


def told_apart(features: np.ndarray, label: Label) -> float:
    """The share of test nodes that are nearest to the mean of those told of the same class."""
    told, tested = label.parts == TOLD, label.parts == TESTED
    means = np.stack([features[told & (label.values == one)].mean(0) for one in range(3)])
    return float(((features[tested] @ means.T).argmax(1) == label.values[tested]).mean())


def test_what_texts_say_of_the_label_is_learned_where_edges_say_nothing(tmp_path):
    graph = papers(tmp_path / "g")
    label = told_of(graph)
    knowing, without = (
        told_apart(trained(graph, one).encode()[:PAPERS], label) for one in (label, None)
    )
    assert knowing > without + 0.25


def test_a_graph_without_edges_learns_from_the_label_alone(tmp_path):
    graph = papers(tmp_path / "g", edges=False)
    label = told_of(graph)
    assert trained(graph, None).steps == 0
    learned = trained(graph, label)
    assert learned.done == learned.steps > 0
    assert told_apart(learned.encode()[:PAPERS], label) > 0.95


def test_no_feature_depends_on_a_label_that_training_is_not_told(tmp_path):
    graph = papers(tmp_path / "g")
    label = told_of(graph)
    others = np.flatnonzero(label.parts != TOLD)
    values = label.values.copy()
    values[others] = (values[others] + 1) % 3
    told = label.values.copy()
    told[label.parts == TOLD] = (told[label.parts == TOLD] + 1) % 2
    given, of_others, of_told = (
        trained(graph, one, steps=50).encode()
        for one in (label, replace(label, values=values), replace(label, values=told))
    )
    assert np.array_equal(given, of_others)
    assert not np.array_equal(given, of_told)


def test_features_are_told_of_the_nodes_that_distillation_learns_from(tmp_path):
    graph = papers(tmp_path / "g")
    labels = read_labels(graph, "paper.topic", hold_out(graph, 1, "paper.topic"))
    told = classes_told(told_of(graph), NodeIndex.of(graph))
    rows, classes = told.nonzero()
    assert np.array_equal(rows, np.flatnonzero(labels.train.numpy()))
    assert np.array_equal(classes, labels.values.numpy()[rows])


def test_of_no_steps_nothing_is_learned(tmp_path):
    graph = papers(tmp_path / "g")
    found = [trained(graph, None), trained(graph, told_of(graph), label_share=0.0)]
    assert np.array_equal(*(one.encode() for one in found))


def test_a_number_is_told_by_ranges_of_as_many_nodes_each(tmp_path):
    graph = papers(tmp_path / "g")
    label = told_of(graph, "paper.pages")
    classes = label.told_as_classes(4)
    told = label.parts == TOLD
    assert np.array_equal(classes >= 0, told)
    sizes = np.bincount(classes[told])
    assert len(sizes) == 4
    assert sizes.max() - sizes.min() <= 10  # nodes of the same number are in one range
    order = np.argsort(label.values[told], kind="stable")
    assert (np.diff(classes[told][order]) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 1e300])
def test_of_a_number_that_hardly_differs_there_are_as_many_ranges_as_values(value):
    values = np.where(np.arange(100) < 90, value, value / 2 - 1)
    label = Label("paper", values, (), np.zeros(100, np.int8))
    classes = label.told_as_classes(16)
    assert len(np.unique(classes)) == 2
    assert len(np.unique(classes[:90])) == 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, list[Step], np.ndarray]:
    """Where a graph and a checkpoint at each of STOPS lie, what all steps told, and what was
    learned."""
    folder = tmp_path_factory.mktemp("saved")
    graph = papers(folder / "g")
    whole = Trainer(graph, SMALL, 1, "paper.topic", 1, told=told_of(graph))
    told: list[Step] = []
    for done in STOPS:
        told += whole.train(done - whole.done)
        whole.save(folder / f"{done}.safetensors")
    assert whole.done == whole.steps == 390
    return folder, told, whole.encode()


@pytest.mark.parametrize("done", STOPS)
def test_training_goes_on_from_a_checkpoint_in_any_round(saved, done):
    """And between them, and at the end: 150 steps without the label, then four times 60."""
    folder, told, learned = saved
    graph = Graph.open(folder / "g")
    again = Trainer(graph, SMALL, 1, "paper.topic", 1, told=told_of(graph))
    again.resume(folder / f"{done}.safetensors")
    assert again.train(390) == told[done:]
    assert again.done == again.steps == 390
    assert np.array_equal(again.encode(), learned)


def test_so_it_does_where_classes_compete_with_a_few_by_how_common_they_are(tmp_path):
    graph = papers(tmp_path / "g")
    few = SMALL.model_copy(
        update={"steps": 10, "epochs": 0.01, "batch": 2, "negatives": 2, "log_q": True}
    )

    def anew() -> Trainer:
        return Trainer(graph, few, 1, "paper.topic", 1, told=told_of(graph))

    whole = anew()
    at_once = whole.train(whole.steps)
    for done in range(4, whole.steps, 2):
        begun = anew()
        begun.train(done)
        begun.save(tmp_path / "c.safetensors")
        again = anew()
        again.resume(tmp_path / "c.safetensors")
        assert again.train(again.steps) == at_once[done:]
        assert np.array_equal(again.encode(), whole.encode())


def test_nobody_s_feature_knows_its_own_label(tmp_path):
    """But as much of the others': of a fold no feature changes with what its nodes are."""
    graph = papers(tmp_path / "g")
    label = told_of(graph)
    learned = trained(graph, label)
    fitting = learned.cross_fitting
    found = learned.encode()
    for fold in range(FOLDS):
        nodes = fitting.of(fold)
        values = label.values.copy()
        values[nodes] = (values[nodes] + 1) % 3
        others = trained(graph, replace(label, values=values)).encode()
        same = np.isclose(others, found, atol=1e-4).all(1)
        assert same[nodes].all()
        assert not same[fitting.told[fitting.fold != fold]].any()


def test_the_stage_writes_to_each_who_is_told_what_its_own_round_gave(ray, tmp_path):
    """And to all others what the encoder that is kept gives them."""
    graph = papers(tmp_path / "g")
    label = told_of(graph)
    manifest = extract_features(graph.path, tmp_path / "f", SMALL, 1, "paper.topic")
    assert manifest.skipped is None
    assert manifest.encoded == {"paper": PAPERS, "reader": READERS}
    assert [path.name for path in tmp_path.iterdir() if "training" in path.name] == []
    matrix = Features.open(tmp_path / "f").matrix("paper")
    cores = len(os.sched_getaffinity(0))
    with threadpool_limits(cores):  # as many as the worker has
        learned = Trainer(graph, SMALL, 1, "paper.topic", cores, told=label)
        learned.train(learned.steps)
        assert np.allclose(matrix, learned.encode()[:PAPERS], atol=1e-3)
    kept = load_encoder(tmp_path / "f")
    fields = document_fields(graph, "paper", "paper.topic")
    again = encode_rows(kept, "paper", graph.nodes("paper"), fields)
    same = np.isclose(matrix, again, atol=1e-5).all(1)
    assert np.array_equal(same, label.parts != TOLD)


def test_of_hubs_alone_nothing_is_learned_and_all_have_features(tmp_path):
    graph = papers(tmp_path / "g")
    learned = trained(graph, told_of(graph), hub_degree=1)
    assert learned.steps == 0
    assert learned.cross_fitting is None
    assert np.allclose(np.linalg.norm(learned.encode(), axis=1), 1, atol=1e-5)


def test_a_label_of_one_class_is_not_learned(ray, tmp_path):
    graph = papers(tmp_path / "g")
    one = pa.array(["t0"] * PAPERS)
    nodes = {name: graph.nodes(name) for name in ("paper", "reader")}
    at = nodes["paper"].schema.get_field_index("topic")
    nodes["paper"] = nodes["paper"].set_column(at, "topic", one)
    edge = graph.edge_types[0].name
    same = Graph.write(tmp_path / "one", graph.manifest, nodes, {edge: graph.edges(edge)})
    with_label = extract_features(same.path, tmp_path / "a", SMALL, 1, "paper.topic")
    assert with_label.curves["loss"][-1][0] == SMALL.steps


@pytest.mark.parametrize("multi_scale", [True, False])
def test_the_label_is_no_level_of_a_label_tree(tmp_path, multi_scale):
    graph = papers(tmp_path / "g")
    chosen = {"multi_scale": multi_scale, "levels": (2,), "steps": 2, "epochs": 0.1}
    found = [trained(graph, told, **chosen).levels for told in (None, told_of(graph))]
    described = [[(level.target, level.level) for level in levels] for levels in found]
    assert described[0] == described[1]
    assert LABEL not in [target for target, _ in described[0]]
