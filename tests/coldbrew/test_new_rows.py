"""Rows that no graph has seen: embedded from the student bundle alone."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from isohop.coldbrew.bundle import Bundle, BundleManifest
from isohop.coldbrew.choice import Choice
from isohop.coldbrew.distill import distill
from isohop.coldbrew.embed import embed
from isohop.coldbrew.new_columns import NO_KEY, _cast, cast_columns, check_columns
from isohop.coldbrew.new_rows import NewRows, embed_new, embed_piece
from isohop.coldbrew.settings import DistillSettings
from isohop.engines import pieces
from isohop.engines.storage import fingerprint
from isohop.errors import InvalidInput, IsohopError
from isohop.giant.settings import FeatureSettings
from isohop.giant.training import Trainer
from isohop.graph import Graph
from isohop.relational.landing import json_texts
from tests.coldbrew.test_distill import read, vectors, write_features
from tests.damage import damage_is_told
from tests.worlds import TOPICS, library

pytestmark = pytest.mark.usefixtures("ray")

FEATURES = FeatureSettings(dimensions=16, levels=(4, 16), epochs=1, steps=60, batch=64)
DISTILL = DistillSettings(dimensions=32, steps=30, batch=256, negatives=16)


@dataclass(frozen=True)
class World:
    graph: Graph
    student: Path
    embeddings: Path


def made(
    folder: Path,
    *,
    edges: bool = True,
    settings: DistillSettings = DISTILL,
    choice: Choice | None = None,
) -> World:
    """``choice``: of books, in place of what was learned."""
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
    learned = distill(graph.path, features, folder / "model", settings, 1, label="book.topic")
    if choice is not None:
        other = learned.model_copy(update={"choices": {**learned.choices, "book": choice}})
        (folder / "model" / "distill.json").write_text(other.model_dump_json(), "utf-8")
    embed(
        graph.path,
        features,
        folder / "model",
        folder / "embeddings",
        student=folder / "student",
        credible=folder / "credible",
    )
    return World(graph, folder / "student", folder / "embeddings")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return made(tmp_path_factory.mktemp("world"))


def new(
    world: World, folder: Path, rows: pa.Table, entity: str = "book"
) -> tuple[NewRows, pa.Table]:
    pq.write_table(rows, folder / "rows.parquet")
    told = embed_new(world.student, folder / "rows.parquet", folder / "out", entity)
    # As anything reads a folder of Parquet, whatever else lies there.
    return told, pq.read_table(folder / "out")


def books(world: World) -> pa.Table:
    return world.graph.nodes("book", ["id", "title"]).drop_columns(["node_id"])


def test_a_row_gets_the_vector_that_it_would_have_had_as_an_isolated_node(world, tmp_path):
    known = read(world.embeddings, "book")
    alone = pc.equal(known["degree"], 0)
    assert pc.sum(alone).as_py() > 10
    told, found = new(world, tmp_path, books(world).filter(alone))
    assert found["id"].to_pylist() == known.filter(alone)["id"].to_pylist()
    assert np.allclose(vectors(found), vectors(known.filter(alone)), atol=1e-5)
    confidence = [one["confidence"].to_numpy() for one in (found, known.filter(alone))]
    assert np.allclose(*confidence, atol=1e-5)
    assert (told.embedded, told.quarantined) == (found.num_rows, 0)


def test_what_the_teacher_says_without_edges_goes_with_the_student_where_it_counts(world, tmp_path):
    """A row gets the vector that isolated nodes have, half of what the teacher made of them."""
    half = Choice(content=0.0, without_edges=0.5)
    both = made(tmp_path / "both", settings=DISTILL.model_copy(update={"steps": 10}), choice=half)
    known = read(both.embeddings, "book")
    isolated = pc.equal(known["degree"], 0)
    _, found = new(both, tmp_path, books(both).filter(isolated))
    assert np.allclose(vectors(found), vectors(known.filter(isolated)), atol=1e-5)
    assert set(found["source"].to_pylist()) == {"student"}
    read_by = read(tmp_path / "both" / "features", "book").filter(isolated)
    features = torch.tensor(vectors(read_by, "feature"))
    student = Bundle.open(both.student, "book").student
    with torch.no_grad():
        said, taught = student.vectors(features)[0], student.without_edges(features)
    assert not torch.allclose(said, taught, atol=0.1)
    context, content = np.split(vectors(found), 2, axis=1)
    assert np.allclose(context, functional.normalize(said + taught, dim=1), atol=1e-5)
    assert not content.any()
    # Nothing is carried that nobody asks.
    bundled = [load_file(one.student / "student.safetensors") for one in (both, world)]
    carried = ["book/teacher.teacher.out.@book.weight" in held for held in bundled]
    assert carried == [True, False]


def test_new_rows_are_near_known_ones_of_their_kind(world, tmp_path):
    """One space for teacher and student: what a new book is about shows in whom it is near."""
    titles = [f"{topic}0 {topic}3 {topic}5 {topic}6" for topic in TOPICS]
    rows = pa.table({"id": [9000, 9001, 9002, 9003], "title": titles})
    _, found = new(world, tmp_path, rows)
    known = read(world.embeddings, "book")
    topic = np.array(world.graph.nodes("book")["topic"].to_pylist())
    connected = known["degree"].to_numpy() > 0
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
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), DISTILL.dimensions)
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


def test_rows_that_cannot_be_embedded_are_kept_apart_and_counted(world, tmp_path):
    rows = pa.table(
        {
            "id": pa.array([1, None, 3, 4.5, float("nan")], pa.float64()),
            "title": pa.array(["river1 river2", "engine1", None, "🚢 שלום", "x"]).cast(
                pa.string_view()
            ),
            "note": ["a", "b", "c", "d", "e"],
        }
    )
    told, found = new(world, tmp_path, rows)
    assert (told.embedded, told.quarantined, told.unread) == (2, 3, ("note",))
    assert found["id"].to_pylist() == [1, 3]
    assert found.schema.field("id").type == pa.int64()
    assert np.isfinite(vectors(found)).all()
    kept = ds.dataset(tmp_path / "out" / "_quarantine").to_table().to_pylist()
    assert [row["reason"] for row in kept] == [
        NO_KEY,
        "column 'id': a value that is no int64",
        NO_KEY,
    ]
    assert "🚢 שלום" in kept[1]["raw"]
    assert "NaN or infinite" in told.notes[0]
    written = (tmp_path / "out" / "_new-rows.json").read_text("utf-8")
    assert NewRows.model_validate_json(written) == told


def test_text_that_is_not_text_is_kept_apart(world, tmp_path):
    broken = pa.array([b"river1", b"\xff\xfe", b"engine1"]).view(pa.string())
    told, found = new(world, tmp_path, pa.table({"id": [1, 2, 3], "title": broken}))
    assert (told.embedded, told.quarantined) == (2, 1)
    assert found["id"].to_pylist() == [1, 3]


@pytest.mark.parametrize(
    "values",
    [
        [["b", 'a"{}\n'], [], None, ["é"]],
        [[1, 2], None, [None, 3]],
        [[1.5], [2.0]],
        [[date(2020, 1, 31)], [], [None, date(1969, 12, 31)]],
        [[datetime(2020, 1, 31, 12, 30), datetime(1969, 1, 1, 0, 0, 0, 5)]],
        [[Decimal("1.50")], [Decimal("-20.25")]],
        [[True, None, False]],
        [],
    ],
)
def test_lists_are_what_they_were(values):
    wanted = pa.array(values).type if values else pa.list_(pa.string())
    landed = json_texts(pa.array(values, wanted))
    assert _cast(landed, wanted).to_pylist() == values


def test_numbers_are_no_dates_of_a_list():
    rows = pa.table({"id": [1, 2], "days": ["[1]", '["2020-01-31"]']})
    schema = pa.schema([("id", pa.int64()), ("days", pa.list_(pa.date32()))])
    found, reasons = cast_columns(rows, schema, ["id"])
    assert found["days"].to_pylist() == [None, [date(2020, 1, 31)]]
    assert reasons.tolist() == ["column 'days': a value that is no list<item: date32[day]>", ""]


@pytest.mark.parametrize(
    ("wanted", "other", "same"),
    [
        (pa.decimal128(10, 0), 4.5, 4.0),
        (pa.decimal128(10, 2), 0.125, 0.1),
        (pa.decimal128(10, 2), 2**60, 7),
        (pa.decimal128(38, 6), Decimal(10**33), Decimal(7 * 10**30)),
        (pa.decimal128(38, 30), 2**63 - 1, 7),
        (pa.float64(), 2**53 + 1, 2**53),
        (pa.int64(), 4.5, 4.0),
    ],
)
def test_a_key_is_no_other_number_than_it_was(wanted, other, same):
    """Or an edge would lead to somebody else."""
    rows = pa.table({"id": [other, same]})
    found, reasons = cast_columns(rows, pa.schema([("id", wanted)]), ["id"])
    assert reasons.tolist() == [f"column 'id': a value that is no {wanted}", ""]
    assert float(found["id"][1].as_py()) == float(same)


def test_a_number_that_is_no_key_may_lose_digits_and_never_more():
    huge = pa.array([Decimal(1), Decimal(10**33 + 1)], pa.decimal128(34, 0))
    rows = pa.table({"id": [1, 2], "price": [0.126, 2.0], "size": [2**53 + 1, 2], "sum": huge})
    kinds = {"price": pa.decimal128(10, 2), "size": pa.float64(), "sum": pa.decimal128(38, 6)}
    schema = pa.schema([("id", pa.int64()), *kinds.items()])
    found, reasons = cast_columns(rows, schema, ["id"])
    assert reasons.tolist() == ["", "column 'sum': a value that is no decimal128(38, 6)"]
    assert found["price"].to_pylist() == [Decimal("0.13"), 2]
    assert found["size"].to_pylist() == [2.0**53, 2.0]


@pytest.mark.parametrize("held", [pa.float64(), pa.bool_(), pa.string(), pa.date32(), pa.null()])
@pytest.mark.parametrize(
    "wanted", [pa.date32(), pa.timestamp("us"), pa.decimal128(9, 2), pa.int64(), pa.bool_()]
)
def test_a_column_in_which_nothing_is_known_is_null_of_whatever_type_it_is(held, wanted):
    schema = pa.schema([("id", pa.int64()), ("when", wanted)])
    rows = pa.table({"id": [1, 2], "when": pa.nulls(2, held)})
    found, reasons = cast_columns(rows, schema, ["id"])
    assert found.schema == schema
    assert found["when"].null_count == 2
    assert (reasons == "").all()


def test_no_rows_give_columns_and_no_rows(world, tmp_path):
    told, found = new(world, tmp_path, books(world).slice(0, 0))
    assert (told.embedded, told.quarantined, found.num_rows) == (0, 0, 0)
    assert found.column_names == ["id", "embedding", "source", "confidence", "degree"]


def test_an_entity_without_any_edge_is_embedded_as_its_nodes_were(tmp_path):
    world = made(tmp_path, edges=False)
    known = read(world.embeddings, "reader")
    rows = world.graph.nodes("reader").drop_columns(["node_id"])
    (tmp_path / "new").mkdir()
    _, found = new(world, tmp_path / "new", rows, "reader")
    assert found["id"].to_pylist() == known["id"].to_pylist()
    assert np.allclose(vectors(found), vectors(known), atol=1e-5)


def test_all_that_is_wrong_with_the_columns_is_told_at_once(world, tmp_path):
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": ["one"], "titel": ["x"]}), rows)
    with pytest.raises(InvalidInput) as raised:
        embed_new(world.student, rows, tmp_path / "out", "book")
    message = str(raised.value)
    assert "column 'id': is string, where 'book' has int64" in message
    assert "column 'title': is missing" in message
    assert "Did you mean 'titel'?" in message
    pq.write_table(pa.Table.from_arrays([[1], ["x"], ["y"]], ["id", "title", "title"]), rows)
    with pytest.raises(InvalidInput, match="two columns are named alike, 'title' and 'title'"):
        embed_new(world.student, rows, tmp_path / "out", "book")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("silent_first", [True, False])
def test_a_file_that_knows_no_type_of_a_column_is_as_one_with_the_type_of_the_others(
    tmp_path, silent_first
):
    for name, type in (("a", pa.null()), ("b", pa.list_(pa.string()))):
        place = name if silent_first else {"a": "b", "b": "a"}[name]
        table = pa.table({"id": [1], "words": pa.nulls(1, type)})
        if type != pa.null():
            table = pa.table({"id": [2], "words": pa.array([["x"]], type)})
        pq.write_table(table, tmp_path / f"{place}.parquet")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    wanted = pa.schema([("id", pa.int64()), ("words", pa.list_(pa.string()))])
    assert check_columns(files, wanted, ["id"], "e") == ([], ())
    (problem,), _ = check_columns(files, wanted.set(1, pa.field("words", pa.string())), ["id"], "e")
    assert "where 'e' has string" in problem.what


def test_files_that_are_no_rows_are_told(world, tmp_path):
    out = tmp_path / "out"
    for path, told in ((tmp_path / "none.parquet", "is not there"), (tmp_path, "no Parquet file")):
        with pytest.raises(InvalidInput, match=told):
            embed_new(world.student, path, out, "book")
    rows = tmp_path / "rows.parquet"
    pq.write_table(books(world), rows, compression="none")
    whole = rows.read_bytes()
    rows.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IsohopError, match=r"rows\.parquet"):
        embed_new(world.student, rows, out, "book")
    # A damaged page behind a sound footer.
    rows.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    with pytest.raises(IsohopError, match=r"rows\.parquet"):
        embed_new(world.student, rows, out, "book")
    assert not out.exists()


def test_what_is_read_is_never_replaced(world, tmp_path):
    out = tmp_path / "out"
    new(world, tmp_path, books(world).slice(0, 3))
    rows = out / "mended.parquet"
    pq.write_table(books(world), rows)
    with pytest.raises(IsohopError, match="is replaced as a whole"):
        embed_new(world.student, rows, out, "book")
    assert rows.exists()


def test_what_is_no_student_of_this_version_is_refused(world, tmp_path):
    rows = tmp_path / "rows.parquet"
    pq.write_table(books(world), rows)
    with pytest.raises(IsohopError, match=r"is no student: bundle\.json is missing"):
        embed_new(tmp_path, rows, tmp_path / "out", "book")
    with pytest.raises(IsohopError, match="--entity: book, reader"):
        embed_new(world.student, rows, tmp_path / "out")
    with pytest.raises(IsohopError, match="Did you mean 'book'"):
        embed_new(world.student, rows, tmp_path / "out", "books")
    other = tmp_path / "other"
    shutil.copytree(world.student, other)
    about = (other / "bundle.json").read_text("utf-8")
    earlier = re.sub(r"\"format\": \d+", '"format": 1', about)
    (other / "bundle.json").write_text(earlier, "utf-8")
    with pytest.raises(IsohopError, match=r"version reads: format: .* 10, and not 1\. "):
        embed_new(other, rows, tmp_path / "out", "book")
    (other / "bundle.json").write_text(about, "utf-8")
    (other / "student.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(IsohopError, match="Copy the whole folder again"):
        embed_new(other, rows, tmp_path / "out", "book")


@pytest.mark.parametrize(
    "name",
    ["bundle.json", "encoder/encoder.json", "student.safetensors", "encoder/encoder.safetensors"],
)
def test_a_damaged_student_is_refused_or_embeds(world, tmp_path, name):
    """Nothing in it is run, and none of it leads to anything but an error of ours."""
    student = tmp_path / "student"
    shutil.copytree(world.student, student)
    file, about = student / name, BundleManifest.read(student)

    def read() -> None:
        if name != "bundle.json":  # as who does damage on purpose would sign it
            signed = about.model_copy(update={"files": {**about.files, name: fingerprint(file)}})
            (student / "bundle.json").write_text(signed.model_dump_json(), "utf-8")
        Bundle.open(student, "book")

    damage_is_told(file, read, times=60)


def test_parts_of_two_students_make_no_third(world, tmp_path):
    """As who copies one while the next is written gets them."""
    shutil.copytree(world.student, tmp_path / "student")
    weights = tmp_path / "student" / "student.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(IsohopError, match=r"'student\.safetensors' is another file"):
        Bundle.open(tmp_path / "student", "book")


def test_what_cannot_be_read_is_told_apart_from_what_cannot_be_written(world, tmp_path):
    pq.write_table(books(world), tmp_path / "rows.parquet")
    (piece,) = pieces.pieces_of([tmp_path / "rows.parquet"])
    about = {"student": str(world.student), "entity": "book", "version": "1"}
    with pytest.raises(IsohopError, match=r"cannot be embedded: .*No such file"):
        embed_piece(dict(piece), **about, out=str(tmp_path / "gone"))
    (tmp_path / "out").mkdir()
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(IsohopError, match=r"rows\.parquet cannot be read"):
        embed_piece(dict(piece), **about, out=str(tmp_path / "out"))
