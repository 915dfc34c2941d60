"""Ids of nodes that an earlier graph knew."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from isohop.engines.spark import spark_session
from isohop.errors import IsohopError
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType
from isohop.graph.build import build
from isohop.graph.earlier import NOBODY, check_same_types, earlier_ids, later_ids
from isohop.hops.numbering import numbered_after
from tests.graph.conftest import write_database
from tests.graph.test_as_of import some_customers, some_orders, write

ENGINES = ["sail", pytest.param("spark", marks=pytest.mark.spark)]
KEYS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("aé漢")), unique=True, max_size=16)


@pytest.fixture(scope="module", params=ENGINES)
def session(request) -> Iterator[object]:
    with spark_session(request.param) as opened:
        yield opened


def ids_of(session, before: list, now: list) -> dict:
    known = session.createDataFrame(
        [(number, *key) for number, key in enumerate(before)],
        "node_id bigint, k0 bigint, k1 string",
    )
    keys = session.createDataFrame(now, "k0 bigint, k1 string")
    counted = numbered_after(
        keys, ["k0", "k1"], len(now), known, lambda frame, _: (frame, frame.count())
    )
    rows = counted.collect()
    assert len(rows) == len(now)
    return {(row["k0"], row["k1"]): row["node_id"] for row in rows}


def holds(session, before: list, now: list, again: bool = True) -> None:
    """Dense; known keys keep their number unless it is past the end; rows have no order."""
    found = ids_of(session, before, now)
    assert found.keys() == set(now)
    assert sorted(found.values()) == list(range(len(now)))
    kept = {key: number for number, key in enumerate(before) if key in found and number < len(now)}
    assert {key: found[key] for key in kept} == kept
    if again:
        assert ids_of(session, before, now[::-1]) == found
    others = sorted(set(now) - kept.keys())
    assert [found[key] for key in others] == sorted(found[key] for key in others)


def test_known_keys_keep_their_numbers_on_every_engine(session):
    before = [(3, "a"), (1, "é"), (7, "漢"), (2, "a")]
    holds(session, before, [*before, (0, "a"), (9, "a")])
    holds(session, before, [(2, "a"), (3, "a")], again=False)
    holds(session, [], before, again=False)
    holds(session, before, [], again=False)


@pytest.fixture(scope="module")
def sail() -> Iterator[object]:
    with spark_session("sail") as opened:
        yield opened


@settings(max_examples=15)
@given(before=KEYS, now=KEYS)
def test_known_keys_keep_their_numbers(sail, before, now):
    holds(sail, before, now)


@settings(
    max_examples=8,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(some_customers, some_orders, some_customers, some_orders)
def test_a_graph_that_goes_on_from_an_earlier_one_is_that_of_a_full_build(
    sail, customers, orders, customers_now, orders_now
):
    """By certificate, whatever came, went or changed; who is known keeps its id, and ids are
    dense."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            write(folder / when, *([(i, *row) for i, row in enumerate(rows)] for rows in tables))
            for when, tables in (
                ("before", (customers, orders)),
                ("now", (customers_now, orders_now)),
            )
        ]
        before = build(files[0], folder / "1")
        on, anew = build(files[1], folder / "2", before=before), build(files[1], folder / "3")
        assert on.manifest.certificate == anew.manifest.certificate
        for node in on.node_types:
            ids = [
                dict(zip(*(table[c].to_pylist() for c in ("id", "node_id")), strict=True))
                for table in (graph.nodes(node.name) for graph in (before, on))
            ]
            assert sorted(ids[1].values()) == list(range(node.count))
            kept = {key: number for key, number in ids[0].items() if key in ids[1]}
            assert all(ids[1][key] == n for key, n in kept.items() if n < node.count)


def test_keys_with_a_dot_in_their_name_keep_their_numbers(tmp_path):
    schema = "{tables: {c: {key: cust.no}}, entities: {c: {table: c}}}"
    made = None
    for day, keys in enumerate((["b", "c"], ["a", "b", "c"])):
        file = write_database(tmp_path / str(day), schema, {"c": {"cust.no": keys}})
        made = build(file, tmp_path / f"graph-{day}", before=made)
    assert made.nodes("c")["cust.no"].to_pylist() == ["b", "c", "a"]


def graph(folder, keys: pa.Array, edge: str = "knows") -> Graph:
    nodes = pa.table({"node_id": np.arange(len(keys)), "id": keys})
    ends = pa.table({"src": [0], "dst": [1], "count": [1]})
    manifest = GraphManifest(
        name="g",
        certificate="0" * 32,
        node_types=(NodeType(name="person", key=("id",), count=len(keys)),),
        edge_types=(EdgeType(source="person", role=edge, target="person", count=1),),
    )
    return Graph.write(folder, manifest, {"person": nodes}, {manifest.edge_types[0].name: ends})


def test_nodes_are_found_by_their_keys(tmp_path):
    before = graph(tmp_path / "before", pa.array(["x", "y", "z", "é"]))
    now = graph(tmp_path / "now", pa.array(["é", "new", "x"]))
    earlier = earlier_ids(before, now, "person")
    assert earlier.tolist() == [3, NOBODY, 0]
    assert later_ids(earlier, 4).tolist() == [2, NOBODY, NOBODY, 0]


def test_keys_of_another_type_are_other_keys(tmp_path):
    before = graph(tmp_path / "before", pa.array(["1", "2"]))
    now = graph(tmp_path / "now", pa.array([1, 2, 3]))
    assert earlier_ids(before, now, "person").tolist() == [NOBODY] * 3


def test_a_graph_of_other_types_is_told_with_its_types(tmp_path):
    before = graph(tmp_path / "before", pa.array([1, 2]))
    check_same_types(before, before)
    other = graph(tmp_path / "now", pa.array([1, 2]), edge="likes")
    with pytest.raises(IsohopError, match="only now: person--likes--person"):
        check_same_types(before, other)
    more = replace(before, manifest=before.manifest.model_copy(update={"edge_types": ()}))
    with pytest.raises(IsohopError, match="only before: person--knows--person"):
        check_same_types(before, more)
