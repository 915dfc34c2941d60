"""What was held out while a model learned stays held out for who trains it further."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.dataset import GraphManifest
from isohop.graph.earlier import later_nodes
from isohop.graph.held_out import learned_from, parts_of_label, save_held_out
from isohop.graph.holdout import ASIDE, ISOLATED, ISOLATION, NEW, TEST, VALIDATION, VISIBLE
from tests.worlds import library

READS, SHELF = "book--reads--reader", "book--shelf--book.shelf"
APART = (ISOLATION, ASIDE)
SEED = 3


def a_night_later(before: Graph, path: Path, draw: np.random.Generator, new: int = 200) -> Graph:
    """Some books and edges are gone, others new, and every book has another id."""
    count = before.node_type("book").count
    stay = np.flatnonzero(draw.random(count) < 0.95)
    books = before.nodes("book").take(pa.array(stay)).drop_columns("node_id")
    keys = int(np.max(books["id"].to_numpy())) + 1 + np.arange(new)
    fresh = {
        "id": pa.array(keys),
        "title": pa.array([f"river{key}" for key in keys]),
        "topic": pa.array(["river"] * new),
    }
    books = pa.concat_tables([books, pa.table(fresh).select(books.column_names)])
    order = draw.permutation(books.num_rows)
    books = books.take(pa.array(order)).add_column(0, "node_id", pa.array(np.arange(len(order))))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    later = np.full(count, -1)
    later[stay] = place[: len(stay)]
    tables = {}
    for name in (READS, SHELF):
        old = before.edges(name, [])
        source, target = later[old["src"].to_numpy()], old["dst"].to_numpy()
        there = (source >= 0) & (draw.random(len(source)) < 0.95)
        most = before.node_type(before.edge_type(name).target).count
        ends = np.stack([source[there], target[there]])
        added = np.stack([draw.choice(place, 3 * new), draw.integers(0, most, 3 * new)])
        ends = np.unique(np.concatenate([ends, added], 1), axis=1)
        tables[name] = pa.table({"src": ends[0], "dst": ends[1]})
    about = before.manifest.model_dump()
    for node in about["node_types"]:
        node["count"] = books.num_rows if node["name"] == "book" else node["count"]
    about["edge_types"] = [
        edge | {"count": tables[edge_type.name].num_rows}
        for edge, edge_type in zip(about["edge_types"], before.edge_types, strict=True)
    ]
    nodes = {name: before.nodes(name) for name in ("reader", "book.shelf")}
    manifest = GraphManifest.model_validate(about)
    return Graph.write(path, manifest, {"book": books, **nodes}, tables)


def kept(graph: Graph, held: Holdout, folder: Path, parts: np.ndarray | None = None) -> Path:
    edges = {edge.name: graph.edge_index(edge.name) for edge in graph.edge_types}
    save_held_out(folder, edges, held, parts)
    return folder


def by_key(graph: Graph, held: Holdout, name: str) -> dict[tuple[object, object], int]:
    """The state of each edge by the keys of its ends."""
    edge = graph.edge_type(name)
    keys = []
    for node, ends in zip((edge.source, edge.target), graph.edge_index(name), strict=True):
        (key,) = graph.node_type(node).key
        keys.append(graph.nodes(node, [key])[key].take(pa.array(ends)).to_pylist())
    return dict(zip(zip(*keys, strict=True), held.edges[name].tolist(), strict=True))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), nights=st.integers(1, 3))
def test_what_may_have_been_seen_is_not_held_out_and_what_was_held_out_stays_so(seed, nights):
    """Night after night, whether a model learns on or is kept; of what is new some is held out."""
    draw = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = library(folder / "g0", books=700)
        first = hold_out(before, SEED)
        held = kept(before, first, folder / "held0")
        graph = before
        told = [(before, first)]
        for night in range(nights):
            new = 200 if night == nights - 1 else 20
            now = a_night_later(graph, folder / f"g{night + 1}", draw, new)
            learned = learned_from(graph, held, now, later_nodes(graph, now))
            after = hold_out(now, SEED, learned=learned)
            held = kept(now, after, folder / f"held{night + 1}")
            told.append((now, after))
            graph = now
        for edge in (READS, SHELF):
            states = [by_key(one, state, edge) for one, state in told]
            for then, today in pairwise(states):
                for pair in then.keys() & today.keys():
                    assert today[pair] == then[pair]
            last, today = states[-2:]
            fresh = {today[pair] for pair in today.keys() - last.keys()}
            assert {VISIBLE, VALIDATION, TEST, ISOLATED} <= fresh
        seen = after.visible_degree(now)["book"]
        assert (seen[np.isin(after.groups["book"], APART)] == 0).all()
        assert np.isin(after.groups["book"], APART).mean() == pytest.approx(0.13, abs=0.03)


def test_where_nothing_is_new_everything_is_as_it_was(tmp_path):
    graph = library(tmp_path / "g", books=700)
    held = hold_out(graph, SEED)
    folder = kept(graph, held, tmp_path / "h")
    learned = learned_from(graph, folder, graph, later_nodes(graph, graph))
    again = hold_out(graph, SEED, learned=learned)
    for name, groups in held.groups.items():
        assert np.array_equal(np.isin(groups, APART), np.isin(again.groups[name], APART))
    for name, state in held.edges.items():
        assert np.array_equal(state, again.edges[name])


def test_parts_of_a_label_are_those_of_before(tmp_path):
    graph = library(tmp_path / "g", books=700)
    draw = np.random.default_rng(1)
    parts = draw.integers(NEW, 3, 700).astype(np.int8)
    folder = kept(graph, hold_out(graph, SEED), tmp_path / "held", parts)
    now = a_night_later(graph, tmp_path / "now", draw)
    found = parts_of_label(folder, now, "book", later_nodes(graph, now))
    keys = [one.nodes("book", ["id"])["id"].to_pylist() for one in (graph, now)]
    before = dict(zip(keys[0], parts.tolist(), strict=True))
    assert [before.get(key, NEW) for key in keys[1]] == found.tolist()
