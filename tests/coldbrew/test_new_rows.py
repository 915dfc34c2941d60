"""Rows that no graph has seen: embedded from the student bundle alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from isohop.coldbrew.distill import distill
from isohop.coldbrew.embed import embed
from isohop.coldbrew.new_rows import NO_KEY, NewRows, embed_new
from isohop.coldbrew.settings import DistillSettings
from isohop.engines import pieces
from isohop.engines.ray import ray_session
from isohop.errors import InvalidInput, IsohopError
from isohop.giant.settings import FeatureSettings
from isohop.giant.training import Trainer
from isohop.graph import Graph
from tests.coldbrew.test_distill import read, vectors, write_features
from tests.worlds import TOPICS, library

FEATURES = FeatureSettings(dimensions=16, levels=(4, 16), epochs=1, steps=60, batch=64)
DISTILL = DistillSettings(dimensions=16, steps=30, batch=256, negatives=16)


@pytest.fixture(scope="module", autouse=True)
def ray():
    with ray_session():
        yield


@dataclass(frozen=True)
class World:
    graph: Graph
    student: Path
    embeddings: Path


def made(folder: Path, *, edges: bool = True) -> World:
    graph = library(folder / "graph", edges=edges)
    trainer = Trainer(graph, FEATURES, 1, "book.topic", 1)
    trainer.train(60)
    values = trainer.encode()
    features = write_features(
        graph,
        folder / "features",
        {n.name: values[trainer.index.rows(n.name)] for n in graph.node_types},
    )
    trainer.encoder.save(features)
    distill(graph.path, features, folder / "model", DISTILL, 1)
    embed(graph.path, features, folder / "model", folder / "embeddings", student=folder / "student")
    return World(graph, folder / "student", folder / "embeddings")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return made(tmp_path_factory.mktemp("world"))


def new(
    world: World, folder: Path, rows: pa.Table, entity: str = "book"
) -> tuple[NewRows, pa.Table]:
    pq.write_table(rows, folder / "rows.parquet")
    told = embed_new(world.student, folder / "rows.parquet", folder / "out", entity)
    files = sorted((folder / "out").glob("*.parquet"))
    return told, pa.concat_tables([pq.read_table(file) for file in files])


def books(world: World) -> pa.Table:
    return world.graph.nodes("book").drop_columns(["node_id"])


def test_a_row_gets_the_vector_that_it_would_have_had_as_an_isolated_node(world, tmp_path):
    known = read(world.embeddings, "book")
    alone = pc.equal(known["source"], "student")
    assert pc.sum(alone).as_py() > 10
    told, found = new(world, tmp_path, books(world).filter(alone))
    assert found["id"].to_pylist() == known.filter(alone)["id"].to_pylist()
    assert np.allclose(vectors(found), vectors(known.filter(alone)), atol=1e-5)
    assert (told.embedded, told.quarantined) == (found.num_rows, 0)


def test_new_rows_are_near_known_ones_of_their_kind(world, tmp_path):
    """One space for teacher and student: what a new book is about shows in whom it is near."""
    titles = [f"{topic}0 {topic}3 {topic}5 {topic}6" for topic in TOPICS]
    rows = pa.table({"id": pa.array([9000, 9001, 9002, 9003]), "title": titles, "topic": TOPICS})
    _, found = new(world, tmp_path, rows)
    known = read(world.embeddings, "book")
    topic = np.array(world.graph.nodes("book")["topic"].to_pylist())
    connected = np.array(known["source"].to_pylist()) == "teacher"
    nearest = np.argsort(-vectors(found) @ vectors(known)[connected].T, axis=1)[:, :5]
    assert (topic[connected][nearest] == np.array(TOPICS)[:, None]).mean() > 0.8


def test_the_bundle_alone_is_enough(world, tmp_path):
    moved = World(world.graph, tmp_path / "copied", world.embeddings)
    shutil.copytree(world.student, moved.student)
    gone = world.graph.path.with_name("gone")
    world.graph.path.rename(gone)
    try:
        told, found = new(
            moved, tmp_path, pa.table({"id": [1], "title": ["river1"], "topic": ["x"]})
        )
    finally:
        gone.rename(world.graph.path)
    assert told.embedded == found.num_rows == 1
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert (found["source"].to_pylist(), found["degree"].to_pylist()) == (["student"], [0])


def test_a_row_is_embedded_the_same_whatever_lies_beside_it(world, tmp_path, monkeypatch):
    rows = books(world)
    _, whole = new(world, tmp_path, rows)
    monkeypatch.setattr(pieces, "PIECE", 64)
    monkeypatch.setattr(pieces, "BATCH", 16)
    many = tmp_path / "many"
    many.mkdir()
    for number, start in enumerate(range(0, rows.num_rows, 100)):
        file = many / f"{number}.parquet"
        pq.write_table(rows.slice(start, 100), file, row_group_size=70)
    embed_new(world.student, many, tmp_path / "other", "book")
    parts = [pq.read_table(file) for file in sorted((tmp_path / "other").glob("*.parquet"))]
    assert len(parts) > 3
    other = pa.concat_tables(parts)
    assert other["id"].equals(whole["id"])
    assert np.allclose(vectors(other), vectors(whole), atol=1e-5)


def test_rows_without_a_key_are_kept_apart_and_counted(world, tmp_path):
    rows = pa.table(
        {
            "id": pa.array([1, None, 3, None], pa.int64()),
            "title": pa.array(["river1 river2", "engine1", None, "🚢 שלום"]),
            "topic": pa.array([None, None, None, None], pa.string()),
            "note": ["a", "b", "c", "d"],
        }
    )
    told, found = new(world, tmp_path, rows)
    assert (told.embedded, told.quarantined, told.unread) == (2, 2, ("note",))
    assert found["id"].to_pylist() == [1, 3]
    assert np.isfinite(vectors(found)).all()
    kept = ds.dataset(tmp_path / "out" / "quarantine").to_table()
    assert kept["title"].to_pylist() == ["engine1", "🚢 שלום"]
    assert set(kept["reason"].to_pylist()) == {NO_KEY}
    written = (tmp_path / "out" / "new-rows.json").read_text("utf-8")
    assert NewRows.model_validate_json(written) == told


def test_no_rows_give_columns_and_no_rows(world, tmp_path):
    told, found = new(world, tmp_path, books(world).slice(0, 0))
    assert (told.embedded, told.quarantined, found.num_rows) == (0, 0, 0)
    assert found.column_names == ["id", "embedding", "source", "degree"]


def test_an_entity_without_any_edge_is_embedded_as_its_nodes_were(tmp_path):
    world = made(tmp_path, edges=False)
    known = read(world.embeddings, "reader")
    rows = world.graph.nodes("reader").drop_columns(["node_id"])
    (tmp_path / "new").mkdir()
    _, found = new(world, tmp_path / "new", rows, "reader")
    assert found["id"].to_pylist() == known["id"].to_pylist()
    assert np.allclose(vectors(found), vectors(known), atol=1e-5)


def test_all_that_is_wrong_with_the_columns_is_told_at_once(world, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["one"], "titel": ["x"]}), folder / "a.parquet")
    (folder / "b.parquet").write_text("id,title\n1,x\n", "utf-8")
    with pytest.raises(InvalidInput) as raised:
        embed_new(world.student, folder, tmp_path / "out", "book")
    message = str(raised.value)
    assert "a.parquet, column 'id': is string, where 'book' has int64" in message
    assert "a.parquet, column 'title': is missing" in message
    assert "Did you mean 'titel'?" in message
    assert "b.parquet: is not a Parquet file" in message
    assert not (tmp_path / "out").exists()


def test_a_value_that_does_not_fit_is_told_without_a_traceback(world, tmp_path):
    rows = pa.table({"id": [1.5], "title": ["x"], "topic": ["y"]})
    with pytest.raises(IsohopError, match=r"rows.parquet, column 'id': .*1.5"):
        new(world, tmp_path, rows)
    assert not (tmp_path / "out").exists()


def test_what_is_no_student_of_this_version_is_refused(world, tmp_path):
    rows = tmp_path / "rows.parquet"
    pq.write_table(books(world), rows)
    with pytest.raises(IsohopError, match=r"is no student: bundle\.json is missing"):
        embed_new(tmp_path, rows, tmp_path / "out", "book")
    with pytest.raises(IsohopError, match="--entity: book, reader"):
        embed_new(world.student, rows, tmp_path / "out")
    with pytest.raises(IsohopError, match="Did you mean 'book'"):
        embed_new(world.student, rows, tmp_path / "out", "books")
    with pytest.raises(IsohopError, match="is not there"):
        embed_new(world.student, tmp_path / "none.parquet", tmp_path / "out", "book")
    other = tmp_path / "other"
    shutil.copytree(world.student, other)
    about = (other / "bundle.json").read_text("utf-8")
    (other / "bundle.json").write_text(about.replace('"format": 1', '"format": 2'), "utf-8")
    with pytest.raises(IsohopError, match="not a student that this version reads"):
        embed_new(other, rows, tmp_path / "out", "book")
    (other / "bundle.json").write_text(about, "utf-8")
    (other / "student.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(IsohopError, match="Copy the whole folder again"):
        embed_new(other, rows, tmp_path / "out", "book")
