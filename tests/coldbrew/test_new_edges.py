"""Rows that no graph has seen, with edges to nodes of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from isohop.coldbrew.choice import Choice
from isohop.coldbrew.credible import read_credible, write_credible
from isohop.coldbrew.distill import DistillManifest, read_manifest
from isohop.coldbrew.embed import embed
from isohop.coldbrew.known_graph import KnownGraph
from isohop.coldbrew.message_passing import Relation, relations_of
from isohop.coldbrew.new_edges import BAD_ROW, NO_ROW, EdgeFiles, edges_named, match_edges
from isohop.coldbrew.new_rows import NewEdges, NewRows, embed_new
from isohop.coldbrew.structural import structural_nodes
from isohop.coldbrew.tables import module_key
from isohop.coldbrew.teacher import BODIES, Teacher
from isohop.engines import pieces
from isohop.engines.pieces import pieces_of
from isohop.errors import InvalidInput, IsohopError
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType
from isohop.graph.label import TOLD
from tests.coldbrew.test_distill import read, vectors
from tests.coldbrew.test_new_rows import DISTILL, World, books, made
from tests.coldbrew.test_teacher import COUNTS, GRAPH, TYPES, inputs, settings, teacher

NOWHERE = DISTILL.model_copy(update={"structural_degree": 1000})
"""No node has a place in the graph beyond its features and edges, as no new row has."""
ALL = Choice(blend=(0.0, 0.0, 0.0, 9.0))
"""The teacher alone: a student finds a node among its own latent neighbours when it comes anew."""
WRITTEN = ("author", "paper")
READS, SHELF = "book--reads--reader", "book--shelf--book.shelf"


@pytest.fixture(scope="module")
def world(tmp_path_factory, ray) -> World:
    return made(tmp_path_factory.mktemp("world"), settings=NOWHERE, choice=ALL)


def known_graph(kind: str) -> KnownGraph:
    of = teacher(kind)
    manifest = DistillManifest(seed=1, label=None, settings={"dimensions": 10})
    return KnownGraph(inputs(), manifest, of, {}, GRAPH)


def edges_of(entity: str, rows: torch.Tensor) -> dict:
    """The edges of known nodes, as if the nodes came anew as rows in that order."""
    place = torch.full((COUNTS[entity],), -1)
    place[rows] = torch.arange(len(rows))
    found = {}
    for relation in relations_of(TYPES):
        if relation.target == entity:
            source, target = GRAPH.ends(relation)
            mine = place[target] >= 0
            if relation.source == entity:
                mine &= source != target
            found[relation] = torch.stack([source[mine], place[target[mine]]])
    return found


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("entity", COUNTS)
def test_a_row_with_the_edges_of_a_node_gets_the_vector_of_that_node(kind, entity):
    known = known_graph(kind)
    rows = torch.randperm(COUNTS[entity], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        taught, degree = known.teach()
        of_rows = known.teach_new(
            entity, known.inputs.features[entity][rows], edges_of(entity, rows)
        )
    assert torch.allclose(of_rows[0], taught[entity][rows], atol=1e-5)
    assert torch.equal(of_rows[1], degree[entity][rows])
    assert (of_rows[1] > 0).any()
    assert (of_rows[1] == 0).any()


@pytest.mark.parametrize("kind", BODIES)
def test_a_node_that_lost_all_its_edges_is_as_a_row_that_has_none(kind):
    """What it learned of a place in the graph is no longer so."""
    places = {**structural_nodes(GRAPH, 2), "author": torch.tensor([0, 5])}
    of = Teacher(inputs(), places, settings(kind)).eval()
    torch.nn.init.normal_(of.structural[0][module_key("author")])
    manifest = DistillManifest(seed=1, label=None, settings={"dimensions": 10})
    known = KnownGraph(inputs(), manifest, of, {}, GRAPH)
    rows = inputs().features["author"][5:]
    with torch.no_grad():
        taught, degree = known.teach()
        as_row, _ = known.teach_new("author", rows, {})
    assert degree["author"][5] == 0
    torch.testing.assert_close(taught["author"][5:], as_row)
    # A new paper of that author hears of no such place either.
    relation = next(one for one in known.relations if (one.source, one.target) == WRITTEN)
    edge = {relation: torch.tensor([[5], [0]])}
    with torch.no_grad():
        papers = []
        for _ in range(2):
            papers.append(known.teach_new("paper", inputs().features["paper"][:1], edge)[0])
            of.structural[0][module_key("author")].data += 3.0
    torch.testing.assert_close(*papers)


@pytest.mark.parametrize("kind", BODIES)
def test_a_row_does_not_depend_on_those_that_come_with_it(kind):
    known = known_graph(kind)
    rows = torch.arange(20)
    with torch.no_grad():
        together, _ = known.teach_new(
            "paper", known.inputs.features["paper"][rows], edges_of("paper", rows)
        )
        alone, _ = known.teach_new(
            "paper", known.inputs.features["paper"][4:5], edges_of("paper", rows[4:5])
        )
    assert torch.allclose(alone[0], together[4], atol=1e-5)


def new(world: World, folder: Path, rows: pa.Table, **edges: pa.Table) -> tuple[NewRows, pa.Table]:
    """``edges``: of 'reads' and 'shelf'."""
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / "rows.parquet")
    files = {}
    for name, table in edges.items():
        files[{"reads": READS, "shelf": SHELF}[name]] = folder / f"{name}.parquet"
        pq.write_table(table, folder / f"{name}.parquet")
    told = of_run(world, folder, files)
    parts = sorted((folder / "out").glob("*.parquet"))
    return told, pa.concat_tables([pq.read_table(part) for part in parts])


def of_run(world: World, folder: Path, files: dict[str, Path]) -> NewRows:
    run = world.graph.path.parent
    edges = NewEdges(world.graph.path, run / "features", run / "model", run / "credible", files)
    return embed_new(world.student, folder / "rows.parquet", folder / "out", "book", edges=edges)


def known_edges(world: World) -> dict[str, pa.Table]:
    """All edges of books, as the tables of a warehouse have them."""
    book, reader = (
        world.graph.nodes(name, ["id"])["id"].to_numpy(False) for name in ("book", "reader")
    )
    shelf = world.graph.nodes("book.shelf", ["value"])["value"].to_numpy(False)
    reads, shelved = (world.graph.edge_index(name) for name in (READS, SHELF))
    return {
        "reads": pa.table({"id": book[reads[0]], "known_id": reader[reads[1]]}),
        "shelf": pa.table({"id": book[shelved[0]], "shelf": shelf[shelved[1]]}),
    }


def test_rows_with_edges_are_served_as_such_nodes_are(world, tmp_path, monkeypatch):
    """Every book comes anew, with all edges that it has. Where training knows the label of one, its
    double hears of that, and the book itself does not."""
    monkeypatch.setattr(pieces, "PIECE", 100)
    known = read(world.embeddings, "book")
    told, found = new(world, tmp_path / "all", books(world), **known_edges(world))
    degree = known["degree"].to_numpy()
    assert (told.embedded, told.edges, told.edges_quarantined) == (len(degree), degree.sum(), 0)
    for column in ("id", "degree", "source"):
        assert found[column].to_pylist() == known[column].to_pylist()
    assert set(found["source"].to_pylist()) == {"student", "teacher"}
    parts = pq.read_table(world.graph.path.parent / "model" / "holdout" / "label.parquet")
    unknown = np.ones(len(degree), bool)
    unknown[parts["node_id"].to_numpy()[parts["part"].to_numpy() == TOLD]] = False
    assert 0 < unknown.sum() < len(unknown)
    confidence = [one["confidence"].to_numpy()[unknown] for one in (found, known)]
    assert np.allclose(*confidence, atol=1e-4, equal_nan=True)
    assert np.allclose(vectors(found)[unknown], vectors(known)[unknown], atol=1e-4)
    # Edges tell: without them the same rows are elsewhere.
    _, without = new(world, tmp_path / "none", books(world))
    linked = degree > 0
    assert ((vectors(without) * vectors(known)).sum(1)[linked] < 0.999).mean() > 0.9


def test_rows_in_many_small_parts_are_embedded_in_few(world, tmp_path, monkeypatch):
    """Messages pass over the graph for each piece of them."""
    _, one = new(world, tmp_path / "one", books(world), **known_edges(world))
    folder = tmp_path / "many"
    (folder / "rows.parquet").mkdir(parents=True)
    rows = books(world)
    for number, start in enumerate(range(0, rows.num_rows, 50)):
        part = folder / "rows.parquet" / f"{number:03d}.parquet"
        pq.write_table(rows.slice(start, 50), part, row_group_size=10)
    for name, table in known_edges(world).items():
        pq.write_table(table, folder / f"{name}.parquet")
    files = {READS: folder / "reads.parquet", SHELF: folder / "shelf.parquet"}
    told = of_run(world, folder, files)
    assert told.embedded == rows.num_rows
    (part,) = (folder / "out").glob("*.parquet")
    found = pq.read_table(part)
    assert found["id"].equals(one["id"])
    assert np.allclose(vectors(found), vectors(one), atol=1e-5)
    pieces_in = pieces.in_full_pieces
    monkeypatch.setattr(pieces, "PIECE", 70)
    few = pieces_in(
        sorted((folder / "rows.parquet").iterdir()), rows.column_names, tmp_path / "few"
    )
    sizes = [piece["rows"] for piece in pieces_of(few)]
    assert sizes == [70] * (rows.num_rows // 70) + [rows.num_rows % 70]
    assert pq.read_table(few[0]).equals(rows)


def test_a_file_of_edges_that_is_damaged_is_told(world, tmp_path):
    """A page of it, behind a sound footer."""
    edges = known_edges(world)["reads"]
    pq.write_table(edges, tmp_path / "reads.parquet", compression="none")
    whole = (tmp_path / "reads.parquet").read_bytes()
    (tmp_path / "reads.parquet").write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    pq.write_table(books(world), tmp_path / "rows.parquet")
    with pytest.raises(IsohopError, match=r"reads\.parquet cannot be read"):
        of_run(world, tmp_path, {READS: tmp_path / "reads.parquet"})


@pytest.mark.parametrize("name", ["teacher.safetensors", "mlp.safetensors", "student.safetensors"])
def test_a_model_that_is_damaged_is_told(world, tmp_path, name):
    run = world.graph.path.parent
    shutil.copytree(run / "model", tmp_path / "model")
    whole = (tmp_path / "model" / name).read_bytes()
    for content in (None, b"", whole[: len(whole) // 2], b"\xff" * 100):
        (tmp_path / "model" / name).unlink()
        if content is not None:
            (tmp_path / "model" / name).write_bytes(content)
        with pytest.raises(IsohopError, match=r"damaged.*stage 'distill' again"):
            embed(world.graph.path, run / "features", tmp_path / "model", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (tmp_path / "model" / name).touch()


def test_credible_edges_that_are_damaged_are_told(world, tmp_path):
    judged = {READS: torch.rand(world.graph.edge_type(READS).count)}
    write_credible(tmp_path, world.graph, judged)
    file = tmp_path / f"{READS}.parquet"
    whole = file.read_bytes()
    pq.write_table(pq.read_table(file).slice(1), file)
    for content in (file.read_bytes(), whole[: len(whole) // 2], b""):
        file.write_bytes(content)
        with pytest.raises(IsohopError, match="Run the stage 'embed' again"):
            read_credible(tmp_path, world.graph, [READS])
    file.unlink()
    with pytest.raises(IsohopError, match="Run the stage 'embed' again"):
        read_credible(tmp_path, world.graph, [READS])


def test_edges_that_nobody_hears_count_for_no_degree_of_a_new_row_nor_of_a_known_one(
    world, tmp_path
):
    """Training saw none of their type."""
    run = world.graph.path.parent
    about = read_manifest(run / "model").model_copy(update={"unheard": (READS,)})
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model" / "distill.json").write_text(about.model_dump_json(), "utf-8")
    shutil.copytree(run / "features", tmp_path / "features")
    embed(
        world.graph.path,
        tmp_path / "features",
        tmp_path / "model",
        tmp_path / "embeddings",
        student=tmp_path / "student",
        credible=tmp_path / "credible",
    )
    known = read(tmp_path / "embeddings", "book")
    parts = (tmp_path / name for name in ("features", "model", "credible"))
    pq.write_table(books(world), tmp_path / "rows.parquet")
    for name, table in known_edges(world).items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    files = {READS: tmp_path / "reads.parquet", SHELF: tmp_path / "shelf.parquet"}
    edges = NewEdges(world.graph.path, *parts, files)
    out = tmp_path / "out"
    told = embed_new(tmp_path / "student", tmp_path / "rows.parquet", out, "book", edges=edges)
    found = pq.read_table(out)
    assert told.edges == sum(known["degree"].to_pylist())
    assert any(note.startswith(f"{READS}: training saw no edge") for note in told.notes)
    assert max(known["degree"].to_pylist()) == 1
    for column in ("id", "degree", "source"):
        assert found[column].to_pylist() == known[column].to_pylist()


def test_one_file_may_hold_rows_and_edges(world, tmp_path):
    rows = pa.table(
        {
            "id": [9001, 9002, 9003],
            "title": ["river1 river2", "river1 river2", None],
            "shelf": ["shelf 0", None, "shelf 0"],
        }
    )
    told, found = new(world, tmp_path, rows, shelf=rows)
    assert (told.edges, told.edges_quarantined, told.unread) == (2, 0, ())
    assert found["degree"].to_pylist() == [1, 0, 1]
    assert np.isfinite(vectors(found)).all()


def test_edges_that_cannot_be_used_are_kept_apart_and_counted(world, tmp_path):
    rows = pa.table(
        {"id": [9001, 9002, 9002, None], "title": ["river1", "engine1", "engine1", "x"]}
    )
    reads = pa.table(
        {
            "id": pa.array([9001, 9001, 9001, 9002, 7, None, 9002], pa.int32()),
            "known_id": ["r00", "r00", "r999", "r01", "r01", "r01", None],
        }
    )
    told, found = new(world, tmp_path, rows, reads=reads)
    assert (told.embedded, told.quarantined) == (3, 1)
    # The edge that comes twice is one; the row that comes twice has its edge twice.
    assert found["degree"].to_pylist() == [1, 1, 1]
    assert (told.edges, told.edges_quarantined) == (3, 3)
    kept = pq.read_table(tmp_path / "out" / "_quarantine" / "edges.parquet").to_pylist()
    assert [row["reason"] for row in kept] == [
        "the graph knows no such 'reader'",
        NO_ROW,
        "no value in the key",
    ]
    assert '"r999"' in kept[0]["raw"]
    assert len(ds.dataset(tmp_path / "out" / "_quarantine").to_table()) == 4


def test_edges_that_cannot_be_read_are_kept_apart_too(world, tmp_path):
    broken = pa.array([b"r00", b"\xff\xfe", b"r01"]).view(pa.string())
    reads = pa.table({"id": [9001.0, 9001.0, float("nan")], "known_id": broken})
    rows = pa.table({"id": [9001], "title": ["river1"]})
    told, _ = new(world, tmp_path, rows, reads=reads)
    assert (told.edges, told.edges_quarantined) == (1, 2)
    assert f"{READS}: column 'id': 1 NaN or infinite, read as NULL" in told.notes


def test_edges_of_a_row_that_is_kept_apart_are_kept_apart_too(tmp_path):
    """But for those that another row of the same key has."""
    graph = _people(tmp_path)
    pages = [4.5, 3.0, 4.5, 1.0]
    rows = pa.table({"edge": [1, 2, 3, 3], "row": [3, 4, 5, 5], "pages": pages})
    pq.write_table(rows, tmp_path / "rows.parquet")
    lives = {"edge": [1, 2, 3, 4], "row": [3, 4, 5, 6], "known_row": [7, 7, 7, 7]}
    wanted = rows.schema.set(2, pa.field("pages", pa.int64()))
    matched, useless = _matched_of(tmp_path, graph, wanted, pa.table(lives))
    assert matched["row"].to_pylist() == [1, 3]
    assert [row["reason"] for row in useless.to_pylist()] == [BAD_ROW, NO_ROW]


def test_columns_of_keys_may_have_any_name(tmp_path):
    graph = _people(tmp_path)
    rows = pa.table({"edge": [1, 2], "row": [3, 4]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    lives = rows.append_column("known_row", pa.array([8, 7]))
    matched, useless = _matched_of(tmp_path, graph, rows.schema, lives)
    assert useless.num_rows == 0
    assert matched["node"].to_pylist() == [1, 0]
    assert matched["row"].to_pylist() == [0, 1]


def _people(folder: Path) -> Graph:
    """Persons, whose key has two columns, of which there are none; each lives in a city."""
    person = NodeType(name="person", key=("edge", "row"), count=0)
    city = NodeType(name="city", key=("row",), count=2)
    lives = EdgeType(source="person", role="lives", target="city", count=0)
    none = pa.array([], pa.int64())
    return Graph.write(
        folder / "graph",
        GraphManifest(
            name="g", certificate="0" * 32, node_types=(person, city), edge_types=(lives,)
        ),
        {
            "person": pa.table({"node_id": none, "edge": none, "row": none}),
            "city": pa.table({"node_id": [0, 1], "row": [7, 8]}),
        },
        {lives.name: pa.table({"src": none, "dst": none, "count": none})},
    )


def _matched_of(
    folder: Path, graph: Graph, rows: pa.Schema, lives: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """What becomes of ``lives`` of new persons, which lie in the folder: what matches, and what
    cannot be used."""
    pq.write_table(lives, folder / "lives.parquet")
    (edge,) = graph.edge_types
    relation = Relation(edge.name, "city", "person", reverse=True)
    columns = pa.schema([(name, pa.int64()) for name in ("edge", "row", "known_row")])
    files = EdgeFiles(relation, (folder / "lives.parquet",), columns, ("edge", "row"), ("row",))
    some = list(pieces_of([folder / "rows.parquet"]))
    found, useless, _ = match_edges([files], graph, some, rows, folder / "made")
    (matched,) = (pq.read_table(file) for file in found.glob("*.parquet"))
    return matched, useless


def test_no_rows_and_no_edges(world, tmp_path):
    nothing = {name: table.slice(0, 0) for name, table in known_edges(world).items()}
    told, found = new(world, tmp_path / "rows", books(world), **nothing)
    assert (told.embedded, told.edges) == (found.num_rows, 0)
    told, found = new(world, tmp_path / "none", books(world).slice(0, 0), **known_edges(world))
    assert (told.embedded, told.edges, found.num_rows) == (0, 0, 0)
    assert told.edges_quarantined == sum(map(len, known_edges(world).values()))


def test_all_that_is_wrong_with_edges_is_told_at_once(world, tmp_path):
    pq.write_table(books(world), tmp_path / "rows.parquet")
    wrong = tmp_path / "wrong.parquet"
    pq.write_table(pa.table({"id": ["one"], "knwon_id": ["r00"]}), wrong)
    with pytest.raises(InvalidInput) as raised:
        of_run(world, tmp_path, {READS: wrong, "book--shelf--shelf": wrong})
    message = str(raised.value)
    assert "column 'id': is string, where" in message
    assert "column 'known_id': is missing" in message
    assert "Did you mean 'knwon_id'?" in message
    assert "is no edge type of 'book'" in message
    assert f"Did you mean '{SHELF}'?" in message
    assert not (tmp_path / "out").exists()


def test_edges_of_another_run_are_refused(world, tmp_path):
    pq.write_table(books(world), tmp_path / "rows.parquet")
    other = made(tmp_path / "other")
    about = other.graph.path / "graph.json"
    about.write_text(about.read_text("utf-8").replace("0" * 32, "1" * 32), "utf-8")
    edges = NewEdges(other.graph.path, tmp_path, world.graph.path.parent / "model", tmp_path, {})
    with pytest.raises(IsohopError, match="are not of one run"):
        embed_new(world.student, tmp_path / "rows.parquet", tmp_path / "out", "book", edges=edges)


def test_a_column_that_names_known_nodes_is_told_by_its_edge_type_but_for_the_label(world):
    """A label's edges are none that rows may come with."""
    columns = ("shelf", "colour")
    assert edges_named(world.graph, None, "book", columns) == [SHELF]
    assert edges_named(world.graph, "book.shelf", "book", columns) == []
