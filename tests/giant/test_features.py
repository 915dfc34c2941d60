"""The stage `features`, on a small library whose structure is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.errors import IsohopError
from isohop.giant.documents import document_fields, render_documents
from isohop.giant.features import FeatureManifest, Features, extract_features
from isohop.giant.settings import FeatureSettings
from isohop.giant.targets import neighbourhoods
from isohop.giant.text_matrix import Vocabulary
from isohop.giant.training import Trainer
from isohop.graph import Graph, hold_out
from tests.worlds import library

pytestmark = pytest.mark.usefixtures("ray")

SMALL = FeatureSettings(
    dimensions=16, multi_scale=True, levels=(4, 16), epochs=1, steps=120, batch=64
)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory) -> tuple[Graph, Path, FeatureManifest]:
    """A graph, where its features lie, and what is told of them."""
    folder = tmp_path_factory.mktemp("extracted")
    graph = library(folder / "g")
    return graph, folder / "f", extract_features(graph.path, folder / "f", SMALL, 1)


def test_training_finds_neighbours_that_it_never_saw(extracted):
    _, _, manifest = extracted
    ranks = manifest.held_out["all"]
    assert ranks.trained.hits_at_10 > 0.9
    # Of readers of a book's topic, ten, none is likelier than another, trained or not: by chance
    # it would be 0.1.
    assert ranks.trained.mrr > 0.4
    assert ranks.count > 20
    # The tree's coarsest level is found too, and its clusters are even.
    coarse = next(level for level in manifest.levels if level.target == "book")
    assert coarse.in_beam == 1
    assert coarse.largest - coarse.smallest <= 1
    losses = [loss for _, loss in manifest.curves["loss"]]
    first, middle, last = losses[::2]  # each tells of other nodes than the one before
    assert last < middle < first


def test_every_node_has_one_finite_feature_in_the_order_of_ids(extracted):
    graph, folder, _ = extracted
    opened = Features.open(folder)
    for node in graph.node_types:
        matrix = opened.matrix(node.name)
        assert matrix.shape == (node.count, 16)
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
        table = pq.read_table(folder / node.name)
        assert table.schema.field("feature").type == pa.list_(pa.float32(), 16)


def test_one_seed_gives_equal_features_and_another_does_not(extracted, tmp_path):
    graph, first, _ = extracted
    made = [Features.open(first).matrix("book")]
    for name, seed in (("b", 1), ("c", 2)):
        extract_features(graph.path, tmp_path / name, SMALL, seed)
        made.append(Features.open(tmp_path / name).matrix("book"))
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_a_held_out_edge_reaches_no_target(tmp_path):
    """Swapping the far ends of held-out edges changes no target: nothing can learn from them."""
    graph = library(tmp_path / "g")
    held = hold_out(graph, 1)
    targets = neighbourhoods(graph, held)
    name = "book--reads--reader"
    visible = graph.edge_index(name)[:, held.visible(name)]
    offset = 0
    got = targets["reader"][offset : offset + 240].nonzero()
    assert set(zip(*visible.tolist(), strict=True)) == set(
        zip(got[0].tolist(), got[1].tolist(), strict=True)
    )


def test_the_label_is_in_no_document_and_no_target(tmp_path):
    graph = library(tmp_path / "g")
    assert "topic" not in [f.name for f in document_fields(graph, "book", "book.topic")]
    held = hold_out(graph, 1)
    assert "book.shelf" in neighbourhoods(graph, held)
    assert "book.shelf" not in neighbourhoods(graph, held, "book.shelf")


def test_who_is_known_by_the_label_alone_is_as_one_without_edges(tmp_path):
    """For features too: later stages ask about what these have not seen."""
    graph = library(tmp_path / "g")
    held = Trainer(graph, SMALL, 1, "book.shelf", 1).holdout
    expected = hold_out(graph, 1, "book.shelf")
    for name, state in held.edges.items():
        assert np.array_equal(state, expected.edges[name])


def test_a_graph_without_edges_gets_features_of_text_and_says_so(tmp_path):
    graph = library(tmp_path / "g", edges=False)
    manifest = extract_features(graph.path, tmp_path / "f", SMALL, 1)
    assert manifest.skipped is not None
    assert np.isfinite(Features.open(tmp_path / "f").matrix("book")).all()


def test_missing_text_is_a_state_of_its_own(tmp_path):
    graph = library(tmp_path / "g")
    trainer = Trainer(graph, SMALL, 1, "book.topic", 1)
    rows = trainer.prepared.ngrams
    documents = render_documents(
        graph.nodes("book"), document_fields(graph, "book", "book.topic"), 100
    )
    assert documents[0].as_py() is None
    assert rows[0].nnz == 0
    assert np.isfinite(trainer.encode()[0]).all()


def test_a_loss_that_is_no_number_stops_with_its_step(tmp_path):
    graph = library(tmp_path / "g")
    trainer = Trainer(graph, SMALL, 1, None, 1)
    trainer.train(2)
    trainer.encoder.bag.values[:] = float("nan")
    with pytest.raises(IsohopError, match="loss of step 3 is nan"):
        trainer.train(1)


def test_training_that_went_on_from_a_checkpoint_is_the_same_training(tmp_path):
    graph = library(tmp_path / "g")
    whole = Trainer(graph, SMALL, 1, None, 1)
    whole.train(60)
    whole.save(tmp_path / "training.safetensors")
    losses = whole.train(60)
    again = Trainer(graph, SMALL, 1, None, 1)
    again.resume(tmp_path / "training.safetensors")
    assert again.done == 60
    assert again.train(60) == losses
    assert np.array_equal(again.encode(), whole.encode())


def test_a_key_that_is_called_an_identifier_is_in_no_document(tmp_path):
    """Digits of a catalogue's codes often follow from the very thing that is to be learned."""
    graph = library(tmp_path / "g")
    topic = graph.node_type("book.shelf")
    assert [f.name for f in document_fields(graph, "book.shelf")] == ["value"]
    changed = topic.model_copy(update={"identifiers": ("value",)})
    kept = tuple(n if n.name != "book.shelf" else changed for n in graph.node_types)
    manifest = graph.manifest.model_copy(update={"node_types": kept})
    assert document_fields(Graph(graph.path, manifest), "book.shelf") == ()


def test_any_text_is_only_text():
    texts = pa.array(["", None, "\0", "שלום עולם", "🎈🎈", "a" * 1_000_000, "é", "e\u0301"])
    vocabulary = Vocabulary.learn([texts.cast(pa.large_string())], 1000, 2000)
    matrix = vocabulary.matrix(texts.cast(pa.large_string()))
    assert matrix.shape[0] == len(texts)
    assert np.isfinite(matrix.data).all()
    assert (matrix[6] != matrix[7]).nnz == 0


def test_what_is_no_graph_is_an_error(tmp_path):
    with pytest.raises(IsohopError, match="is not a graph dataset"):
        extract_features(tmp_path, tmp_path / "f", SMALL, 1)
    with pytest.raises(IsohopError, match="Run the stage 'features'"):
        Features.open(tmp_path)
    assert isinstance(library(tmp_path / "g"), Graph)
