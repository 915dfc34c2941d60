"""The stages `distill` and `embed`, on a small library whose structure is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from isohop.coldbrew.distill import DistillManifest, distill, read_manifest
from isohop.coldbrew.embed import embed
from isohop.coldbrew.inputs import read_inputs
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import FeatureMLP
from isohop.errors import IsohopError
from isohop.graph import Graph
from tests.worlds import TOPICS, library

pytestmark = pytest.mark.usefixtures("ray")

SMALL = DistillSettings(dimensions=32, steps=30, batch=256, negatives=16)


def write_features(graph: Graph, folder: Path, values: dict[str, np.ndarray]) -> Path:
    for name, matrix in values.items():
        (folder / name).mkdir(parents=True)
        feature = pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.astype(np.float32).ravel()), matrix.shape[1]
        )
        table = pa.table({"node_id": np.arange(len(matrix)), "feature": feature})
        pq.write_table(table, folder / name / "part-0.parquet")
    return folder


def topical(graph: Graph, folder: Path, noise: float = 0.6) -> Path:
    """Features that tell a node's topic, with noise."""
    draw = np.random.default_rng(5)
    books = [TOPICS.index(t) for t in graph.nodes("book")["topic"].to_pylist()]
    topics = {"book": np.array(books), "reader": np.arange(40) % 4, "book.shelf": np.arange(4)}
    return write_features(
        graph,
        folder,
        {n: np.eye(4)[t] + noise * draw.normal(size=(len(t), 4)) for n, t in topics.items()},
    )


def read(folder: Path, entity: str) -> pa.Table:
    return ds.dataset(folder / entity).to_table().sort_by("node_id")


def vectors(table: pa.Table, column: str = "embedding") -> np.ndarray:
    flat = table[column].combine_chunks().flatten().to_numpy()
    return flat.reshape(table.num_rows, -1)


def run(
    folder: Path, graph: Graph, features: Path, label: str | None = None
) -> tuple[DistillManifest, Path]:
    manifest = distill(graph.path, features, folder / "m", SMALL, 1, label=label)
    embed(graph.path, features, folder / "m", folder / "e")
    return manifest, folder / "e"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Graph, DistillManifest, Path]:
    """Graph, manifest and embeddings without a label; features lie beside, as ``f``."""
    folder = tmp_path_factory.mktemp("made")
    graph = library(folder / "g")
    return graph, *run(folder, graph, topical(graph, folder / "f", noise=0.2))


def test_only_nodes_without_edges_have_nothing_but_the_student(made):
    graph, _, out = made
    table = read(out, "book")
    assert table.num_rows == 240
    assert table["id"].to_pylist() == graph.nodes("book")["id"].to_pylist()
    for source, degree in zip(
        table["source"].to_pylist(), table["degree"].to_pylist(), strict=True
    ):
        assert degree or source == "student"
        assert source in ("teacher", "student", "blend")
    assert "teacher" in table["source"].to_pylist() or "blend" in table["source"].to_pylist()
    assert not (out / "book.shelf").exists()
    assert np.isfinite(vectors(table)).all()


def test_a_node_without_edges_is_near_its_own_kind(made, tmp_path):
    """The student's vectors and the teacher's live in one space, without content, which both of
    them have, to help."""
    graph, _, out = made
    model = shutil.copytree(out.with_name("m"), tmp_path / "m")
    set_content(model, 0.0)
    embed(graph.path, graph.path.with_name("f"), model, tmp_path / "e")
    table = read(tmp_path / "e", "book")
    topic = np.array(graph.nodes("book")["topic"].to_pylist())
    alone = table["degree"].to_numpy() == 0
    cosine = vectors(table)[alone] @ vectors(table)[~alone].T
    nearest = topic[~alone][cosine.argmax(1)]
    assert (nearest == topic[alone]).mean() > 0.8


def set_content(model: Path, share: float) -> None:
    """As if validation had said so."""
    manifest = read_manifest(model)
    choices = {n: c.model_copy(update={"content": share}) for n, c in manifest.choices.items()}
    manifest = manifest.model_copy(update={"choices": choices})
    (model / "distill.json").write_text(manifest.model_dump_json(), "utf-8")


def test_the_second_half_is_what_features_say_alone_whatever_a_node_has(made, tmp_path):
    graph, _, out = made
    share, features = 0.25, graph.path.with_name("f")
    model = shutil.copytree(out.with_name("m"), tmp_path / "m")
    set_content(model, share)
    embed(graph.path, features, model, tmp_path / "e")
    inputs = read_inputs(graph, features, None)
    widths = {name: features.shape[1] for name, features in inputs.features.items()}
    mlp = FeatureMLP(widths, SMALL.part, 0.0).eval()
    weights = load_file(model / "mlp.safetensors").items()
    mlp.load_state_dict({n.removeprefix("mlp."): v for n, v in weights if n.startswith("mlp.")})
    with torch.no_grad():
        said = functional.normalize(mlp(inputs.features)["book"], dim=1)
    context, content = torch.tensor(vectors(read(tmp_path / "e", "book"))).chunk(2, 1)
    torch.testing.assert_close(content, share**0.5 * said)
    length = torch.full((240,), (1 - share) ** 0.5)
    torch.testing.assert_close(context.norm(dim=1), length)


@pytest.mark.parametrize("content", [0.0, 0.5])
def test_of_an_entity_without_any_edge_among_others_there_is_all_that_its_features_say(
    tmp_path, content
):
    """However little content counts for where there are edges; and that it is so is told."""
    whole = library(tmp_path / "g")
    nodes = {n.name: whole.nodes(n.name) for n in whole.node_types}
    edges = {e.name: whole.edges(e.name) for e in whole.edge_types}
    edges["book--reads--reader"] = edges["book--reads--reader"].slice(0, 0)
    types = [
        e.model_copy(update={"count": 0}) if e.target == "reader" else e for e in whole.edge_types
    ]
    manifest = whole.manifest.model_copy(update={"edge_types": tuple(types)})
    graph = Graph.write(tmp_path / "g2", manifest, nodes, edges)
    told = {n.name: np.eye(n.count, 24) for n in graph.node_types}
    features = write_features(graph, tmp_path / "f", told)
    notes = distill(graph.path, features, tmp_path / "m", SMALL, 1).notes
    assert [note for note in notes if "a space of their own" in note] == [
        "no edge of 'reader' to learn from: its embeddings are projected features, in a space of "
        "their own"
    ]
    set_content(tmp_path / "m", content)
    embed(graph.path, features, tmp_path / "m", tmp_path / "e")
    found = vectors(read(tmp_path / "e", "reader"))
    alike = told["reader"] @ told["reader"].T
    np.testing.assert_allclose(found @ found.T, alike, atol=1e-5)


def test_the_evaluation_has_every_group_and_model(made):
    _, manifest, _ = made
    got = {(row.group, row.model) for row in manifest.evaluation if row.entity == "all"}
    groups = ("overall", "head", "tail", "isolated")
    models = ("teacher", "student", "mlp", "served")
    degrees = {(group, model) for group, model in got if group.startswith("degree ")}
    assert {("degree 2-3", model) for model in models} <= degrees
    types = [
        f"book--{name}{of}"
        for name in ("reads--reader", "shelf--book.shelf")
        for of in ("", ", isolated")
    ]
    assert got - degrees == {(group, model) for group in (*groups, *types) for model in models}
    assert all(0 <= row.value <= 1 and row.count > 0 for row in manifest.evaluation)
    of = {
        row.group: row
        for row in manifest.evaluation
        if (row.entity, row.model, row.metric) == ("all", "served", "mrr")
    }
    for whole, parts in (("overall", types[::2]), ("isolated", types[1::2])):
        assert of[whole].count == sum(of[part].count for part in parts)
        together = sum(of[part].value * of[part].count for part in parts)
        assert of[whole].value == pytest.approx(together / of[whole].count, abs=1e-5)


def test_one_seed_gives_equal_embeddings(made, tmp_path):
    graph, _, out = made
    _, again = run(tmp_path, graph, graph.path.with_name("f"))
    for entity in ("book", "reader"):
        assert read(out, entity).equals(read(again, entity))


def test_confidence_is_the_share_of_answers_that_are_right(tmp_path):
    """On nodes of the test set, which it was not learned from."""
    graph = library(tmp_path / "g")
    manifest, out = run(tmp_path, graph, topical(graph, tmp_path / "f", 0.2), label="book.topic")
    confidence = read(out, "book")["confidence"].to_numpy()
    assert ((confidence >= 0) & (confidence <= 1)).all()
    accuracy = next(
        row.value
        for row in manifest.evaluation
        if (row.metric, row.group, row.model, row.entity)
        == ("accuracy", "overall", "served", "all")
    )
    assert abs(confidence.mean() - accuracy) < 0.1
    assert manifest.calibration["book"] == ()  # of fewer than a hundred answers nothing is said


def test_a_label_is_learned_where_features_hide_it_and_edges_show_it(tmp_path):
    graph = library(tmp_path / "g")
    features = topical(graph, tmp_path / "f", noise=1.5)
    longer = SMALL.model_copy(update={"steps": 100})
    manifest = distill(graph.path, features, tmp_path / "m", longer, 1, label="book.topic")
    accuracy = {
        row.model: row.value
        for row in manifest.evaluation
        if (row.metric, row.group, row.entity) == ("accuracy", "overall", "all")
    }
    assert accuracy["teacher"] > 0.8
    assert accuracy["teacher"] > accuracy["mlp"]


def of_one_topic(folder: Path) -> tuple[Graph, Path]:
    """A library whose books are all of one topic, by what is told of them, and features."""
    graph = library(folder / "g")
    nodes = {n.name: graph.nodes(n.name) for n in graph.node_types}
    same = pa.array(["one"] * 240)
    nodes["book"] = nodes["book"].set_column(3, "topic", same)
    edges = {e.name: graph.edges(e.name) for e in graph.edge_types}
    told = Graph.write(folder / "g2", graph.manifest, nodes, edges)
    return told, topical(graph, folder / "f")


def test_a_label_with_one_class_is_noted_and_not_learned(tmp_path):
    graph, features = of_one_topic(tmp_path)
    manifest, _ = run(tmp_path, graph, features, label="book.topic")
    assert any("fewer than two values" in note for note in manifest.notes)


def test_a_graph_without_edges_gives_every_node_a_student_and_says_why(tmp_path):
    graph = library(tmp_path / "g", edges=False)
    manifest, out = run(tmp_path, graph, topical(graph, tmp_path / "f"))
    assert manifest.skipped is not None
    assert set(read(out, "book")["source"].to_pylist()) == {"student"}
    assert np.isfinite(vectors(read(out, "book"))).all()


def test_features_that_are_no_numbers_or_of_another_graph_are_named(tmp_path):
    graph = library(tmp_path / "g")
    topical(graph, tmp_path / "f")
    bad = {n.name: np.ones((n.count, 4)) for n in graph.node_types}
    bad["reader"][7, 2] = np.nan
    named = r"reader: column 'feature' of node 7 is nan at place 3 of 4"
    with pytest.raises(IsohopError, match=named):
        distill(graph.path, write_features(graph, tmp_path / "n", bad), tmp_path / "m", SMALL, 1)
    assert not (tmp_path / "m").exists()
    bad["reader"] = np.ones((3, 4))
    with pytest.raises(IsohopError, match=r"reader has 3 rows and not one for each of 40"):
        read_inputs(graph, write_features(graph, tmp_path / "o", bad), None)
    with pytest.raises(IsohopError, match="Run the stage 'distill'"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("feature", "named"),
    [([1.0, 1e300], "node 3 is inf at place 2 of 2"), (None, "node 3 is null")],
)
def test_features_that_nobody_of_ours_wrote_are_named_too(tmp_path, feature, named):
    graph = library(tmp_path / "g")
    topical(graph, tmp_path / "f")
    rows = [[1.0, 2.0]] * 40
    rows[3] = feature
    values = pa.array(rows, pa.list_(pa.float64(), 2))
    table = pa.table({"node_id": np.arange(40), "feature": values})
    pq.write_table(table, tmp_path / "f" / "reader" / "part-0.parquet")
    with pytest.raises(IsohopError, match=f"reader: column 'feature' of {named}"):
        read_inputs(graph, tmp_path / "f", None)
