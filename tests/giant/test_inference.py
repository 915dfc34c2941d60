"""Inference: the features of a node do not depend on how the graph's files are laid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.engines import pieces as in_pieces
from isohop.giant import encoder as in_blocks
from isohop.giant.encoder import load_encoder
from isohop.giant.inference import encode_piece, pieces
from isohop.giant.settings import FeatureSettings
from isohop.giant.training import Trainer
from isohop.graph import Graph
from tests.worlds import library

SMALL = FeatureSettings(
    dimensions=16, multi_scale=True, levels=(4, 16), epochs=1, steps=20, batch=64
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Graph, Path]:
    folder = tmp_path_factory.mktemp("trained")
    graph = library(folder / "g", books=1000)
    trainer = Trainer(graph, SMALL, 1, None, 1)
    trainer.train(20)
    trainer.encoder.save(folder)
    return graph, folder


def features(graph: Graph, encoder: Path, out: Path) -> dict[str, np.ndarray]:
    for piece in pieces(graph):
        encode_piece(piece, str(graph.path), str(encoder), str(out), None)
    found = {}
    for node in graph.node_types:
        table = pq.read_table(out / node.name).sort_by("node_id")
        assert table["node_id"].to_pylist() == list(range(node.count))
        found[node.name] = np.array(table["feature"].to_pylist(), np.float32)
    return found


def laid_out(graph: Graph, path: Path, draw: np.random.Generator) -> Graph:
    """The same nodes, spread at random over files and row groups."""
    tables = {node.name: graph.nodes(node.name) for node in graph.node_types}
    made = Graph.write(path, graph.manifest, {}, {})
    for name, table in tables.items():
        (path / "nodes" / name).mkdir(parents=True)
        order = draw.permutation(table.num_rows)
        for number, some in enumerate(np.split(order, [1, len(order) // 3])):
            file = path / "nodes" / name / f"{draw.integers(1 << 30)}-{number}.parquet"
            pq.write_table(table.take(pa.array(some)), file, row_group_size=300)
    return made


@pytest.mark.parametrize(("piece", "batch"), [(1 << 16, 1 << 14), (100, 30), (7, 7)])
def test_features_are_the_same_for_any_layout_of_files(
    trained, tmp_path, monkeypatch, piece, batch
):
    graph, encoder = trained
    wanted = features(graph, encoder, tmp_path / "wanted")
    monkeypatch.setattr(in_pieces, "PIECE", piece)
    monkeypatch.setattr(in_pieces, "BATCH", batch)
    other = laid_out(graph, tmp_path / "other", np.random.default_rng(piece))
    found = features(other, encoder, tmp_path / "found")
    for name, values in wanted.items():
        assert np.array_equal(found[name], values)


def test_features_are_the_same_however_many_are_left_for_the_last_block(
    trained, tmp_path, monkeypatch
):
    graph, encoder = trained
    wanted = features(graph, encoder, tmp_path / "wanted")["book"]
    for left in (1, 2, 5):
        monkeypatch.setattr(in_blocks, "ENCODED_AT_ONCE", len(wanted) - left)
        found = features(graph, encoder, tmp_path / str(left))["book"]
        assert np.array_equal(found, wanted)


def test_a_type_without_nodes_has_its_columns(trained, tmp_path):
    graph, encoder = trained
    none = graph.node_type("reader").model_copy(update={"count": 0})
    types = tuple(none if node.name == "reader" else node for node in graph.node_types)
    manifest = graph.manifest.model_copy(update={"node_types": types, "edge_types": ()})
    empty = {"reader": graph.nodes("reader").slice(0, 0)}
    empty |= {node.name: graph.nodes(node.name) for node in types if node.count}
    found = features(
        Graph.write(tmp_path / "g", manifest, empty, {}), encoder, tmp_path / "features"
    )
    assert found["reader"].shape[0] == 0
    schema = pq.read_schema(next((tmp_path / "features" / "reader").glob("*.parquet")))
    assert schema.field("feature").type == pa.list_(pa.float32(), SMALL.dimensions)
    assert load_encoder(encoder).dimensions == SMALL.dimensions
