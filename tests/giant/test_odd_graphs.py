"""Training on graphs that have little to teach: it ends, and every feature is a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from isohop.giant.documents import document_fields
from isohop.giant.settings import FeatureSettings
from isohop.giant.training import Trainer
from isohop.graph.dataset import Attribute, EdgeType, Graph, GraphManifest, NodeType

COUNT = 300
SETTINGS = FeatureSettings(dimensions=16, multi_scale=True, levels=(4, 64), steps=10, epochs=0.1)
RANDOM = np.random.default_rng(0).integers(0, COUNT, (2, 900))
NONE = np.empty((2, 0), np.int64)
STAR = np.array([np.zeros(COUNT - 1, np.int64), np.arange(1, COUNT)])
ODD = {
    "no node": ([], NONE),
    "one node": (["x"], NONE),
    "one node that is its own neighbour": (["x"], np.zeros((2, 1), np.int64)),
    "no text": ([None] * COUNT, RANDOM),
    "empty texts": ([""] * COUNT, RANDOM),
    "one text for all": (["the same words"] * COUNT, RANDOM),
    "a hub that is everybody's neighbour": ([f"w{i} x" for i in range(COUNT)], STAR),
    "emoji and right-to-left": ([f"🎈 שלום {i % 9} עולם 🎉" for i in range(COUNT)], RANDOM),
    "texts of a megabyte": ([f"word{i} " * 150_000 for i in range(4)], np.array([[0, 2], [1, 3]])),
}


def graph_of(texts: list[str | None], edges: np.ndarray, folder: Path) -> Graph:
    source, target = edges
    ids = np.arange(len(texts))
    text = Attribute(name="text", kind="text", type="string")
    manifest = GraphManifest(
        name="odd",
        certificate="0" * 32,
        node_types=(NodeType(name="a", key=("id",), attributes=(text,), count=len(texts)),),
        edge_types=(EdgeType(source="a", role="r", target="a", count=len(source)),),
    )
    nodes = {"a": pa.table({"node_id": ids, "id": ids, "text": pa.array(texts, pa.string())})}
    facts = {"src": source, "dst": target, "count": np.ones(len(source), np.int64)}
    return Graph.write(folder, manifest, nodes, {"a--r--a": pa.table(facts)})


def test_a_type_of_too_many_nodes_is_predicted_by_clusters_however_few_these_are(tmp_path):
    """Also where the coarsest level would have more clusters than it has nodes."""
    graph = graph_of([f"w{i % 7} x" for i in range(COUNT)], RANDOM, tmp_path / "g")
    chosen = {"multi_scale": False, "labels": 100, "levels": (400, 4096)}
    trainer = Trainer(graph, SETTINGS.model_copy(update=chosen), 1, None, 1)
    (level,) = trainer.levels
    assert 1 < len(level.vectors) <= 100
    assert trainer.train(2)


def test_bytes_are_no_words(tmp_path):
    graph = graph_of(["x"] * COUNT, RANDOM, tmp_path / "g")
    node = graph.node_type("a")
    photo = Attribute(name="photo", kind="category", type="binary")
    photos = pa.array([b"\xff\xd8"] * COUNT)
    manifest = graph.manifest.model_copy(
        update={"node_types": (node.model_copy(update={"attributes": (*node.attributes, photo)}),)}
    )
    nodes = {"a": graph.nodes("a").append_column("photo", photos)}
    edges = {"a--r--a": graph.edges("a--r--a")}
    changed = Graph.write(tmp_path / "h", manifest, nodes, edges)
    assert [field.name for field in document_fields(changed, "a")] == ["text"]


@pytest.mark.parametrize("name", ODD)
def test_every_feature_is_a_number(name, tmp_path):
    texts, edges = ODD[name]
    graph = graph_of(texts, edges, tmp_path / "g")
    trainer = Trainer(graph, SETTINGS, 1, None, 1)
    losses = trainer.train(trainer.steps)
    assert bool(losses) == bool((edges[0] != edges[1]).any())
    for features in (trainer.encode(), trainer.untrained()):
        assert features.shape == (len(texts), 16)
        assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("chosen", "labels"),
    [
        ({}, [COUNT]),
        ({"multi_scale": True}, [4, 64, COUNT]),
        ({"labels": COUNT - 1}, [4, 64]),
        ({"labels": COUNT}, [COUNT]),
    ],
)
def test_clusters_are_predicted_where_they_are_asked_for_or_nodes_are_too_many(
    chosen, labels, tmp_path
):
    graph = graph_of([f"word{i % 20}" for i in range(COUNT)], RANDOM, tmp_path / "g")
    few = SETTINGS.model_copy(update={"multi_scale": False, **chosen})
    trainer = Trainer(graph, few, 1, None, 1)
    assert [len(level.vectors) for level in trainer.levels] == labels
    assert all(np.isfinite(step.loss) for step in trainer.train(trainer.steps))


def test_where_there_is_something_to_learn_it_is_learned_in_one_step_at_least(tmp_path):
    graph = graph_of([f"word{i % 20}" for i in range(COUNT)], RANDOM, tmp_path / "g")
    hardly = SETTINGS.model_copy(update={"steps": 0, "epochs": 0.001})
    assert Trainer(graph, hardly, 1, None, 1).steps == 1


def test_likely_clusters_need_clusters():
    with pytest.raises(ValidationError, match="multi_scale: true"):
        FeatureSettings(hard_negatives=0.5)
