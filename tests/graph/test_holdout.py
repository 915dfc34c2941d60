"""What training may see."""

from __future__ import annotations

import zlib
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from isohop.errors import IsohopError
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType, hold_out
from isohop.graph.build import build
from isohop.graph.dataset import Attribute
from isohop.graph.holdout import (
    ANSWER,
    ASIDE,
    FEWEST_ASIDE,
    HEAD,
    ISOLATED,
    ISOLATION,
    LATER,
    LOOP,
    NEW,
    NO_EDGES,
    TEST,
    VALIDATION,
    VISIBLE,
    Learned,
)
from isohop.graph.label import read_label
from tests.worlds import library

READS = "book--reads--reader"


def test_isolated_nodes_have_no_visible_edge_and_lowest_degree(tmp_path):
    graph = library(tmp_path / "g")
    held = hold_out(graph, 3)
    seen = held.visible_degree(graph)
    for node in graph.entities:
        isolated = held.groups[node.name] == ISOLATION
        assert isolated.any()
        assert (seen[node.name][isolated] == 0).all()
        connected = held.degree[node.name] > 0
        others = connected & ~isolated
        assert held.degree[node.name][isolated].max() <= held.degree[node.name][others].min()
    assert (held.degree["book"][held.groups["book"] == NO_EDGES] == 0).all()


def test_nodes_set_aside_have_no_visible_edge_and_no_hub_is_one(tmp_path):
    graph = library(tmp_path / "g", books=800)
    held, without = hold_out(graph, 3), hold_out(graph, 3, aside=0.0)
    seen = held.visible_degree(graph)
    for node in graph.entities:
        aside = held.groups[node.name] == ASIDE
        share = 0.05 * (held.degree[node.name] > 0).sum()
        assert aside.sum() == (round(share) if share >= FEWEST_ASIDE else 0)
        assert (seen[node.name][aside] == 0).all()
        for group in (HEAD, ISOLATION):
            same = [one.groups[node.name] == group for one in (held, without)]
            assert np.array_equal(*same)
    assert (held.groups["book"] == ASIDE).any()
    for name, state in held.edges.items():
        changed = state != without.edges[name]
        assert (state[changed] == ISOLATED).all()


def test_every_edge_has_one_state_and_all_states_occur(tmp_path):
    graph = library(tmp_path / "g")
    state = hold_out(graph, 3).edges["book--reads--reader"]
    assert set(np.unique(state)) == {VISIBLE, VALIDATION, TEST, ISOLATED}
    assert (state == VISIBLE).mean() > 0.6


def test_the_division_depends_on_graph_and_seed_alone(tmp_path):
    graph = library(tmp_path / "g")
    name = "book--reads--reader"
    assert np.array_equal(hold_out(graph, 3).edges[name], hold_out(graph, 3).edges[name])
    assert not np.array_equal(hold_out(graph, 3).edges[name], hold_out(graph, 4).edges[name])


def test_nodes_can_be_hidden_whatever_their_degree(tmp_path):
    graph = library(tmp_path / "g")
    books = np.argsort(-hold_out(graph, 3).degree["book"])[:5]
    nothing = {"validation": 0.0, "test": 0.0, "isolated": 0.0}
    held = hold_out(graph, 3, hidden={"book": books}, **nothing)
    seen, whole = held.visible_degree(graph)["book"], held.degree["book"]
    assert (seen[books] == 0).all()
    assert (whole[books] > 0).all()
    others = np.setdiff1d(np.arange(len(seen)), books)
    assert np.array_equal(seen[others], whole[others])


def timed(folder, first: list[str | None], time: str = "at_first") -> Graph:
    """Books and readers whose edges, in order, were first seen at these times."""
    graph = library(folder / "plain")
    edges = {edge.name: graph.edges(edge.name) for edge in graph.edge_types}
    times = pa.array(np.resize(np.array(first, "datetime64[s]"), edges[READS].num_rows))
    edges[READS] = edges[READS].append_column("at_first", times)
    about = Attribute(name="at_first", kind="time", type="timestamp[s]", aggregate="first")
    long_ago = pa.array(np.full(len(times), np.datetime64("1970-01-01", "s")))
    edges[READS] = edges[READS].append_column("bound_first", long_ago)
    more = (about.model_copy(update={"name": "bound_first"}),)
    types = tuple(
        edge.model_copy(update={"attributes": (about, *more), "time": time})
        if edge.name == READS
        else edge
        for edge in graph.edge_types
    )
    manifest = graph.manifest.model_copy(update={"edge_types": types})
    nodes = {node.name: graph.nodes(node.name) for node in graph.node_types}
    return Graph.write(folder / "timed", manifest, nodes, edges)


def test_edges_first_seen_on_the_day_or_later_are_out_of_the_window(tmp_path):
    graph = timed(tmp_path, ["2020-01-31T23:59:59", "2020-02-01T00:00:00", "2021-01-01", None])
    held = hold_out(graph, 3, until=date(2020, 2, 1))
    state = held.edges[READS]
    assert (state[0::4] != LATER).all()
    assert (state[1::4] == LATER).all()
    assert (state[2::4] == LATER).all()
    assert (state[3::4] == LATER).all()  # nobody can say that it was before
    assert not held.visible(READS)[state == LATER].any()
    # Edges without times are in any window, and degrees are those of the window.
    assert LATER not in held.edges["book--shelf--book.shelf"]
    assert held.degree["reader"].sum() == (state != LATER).sum()


def test_a_time_that_decides_nothing_may_be_any(tmp_path):
    """A node's own, where nothing is asked that its row tells."""
    graph = library(tmp_path / "g")
    nodes = tuple(
        node.model_copy(update={"time": "pages"}) if node.name == "reader" else node
        for node in graph.node_types
    )
    manifest = graph.manifest.model_copy(update={"node_types": nodes})
    held = hold_out(Graph(graph.path, manifest), 3, until=date(2020, 2, 1))
    assert held.later == {}
    with pytest.raises(IsohopError, match=r"'pages' of 'reader'.*'types:'"):
        hold_out(Graph(graph.path, manifest), 3, "reader.pages", until=date(2020, 2, 1))


def test_a_time_that_says_nothing_is_refused(tmp_path):
    graph = timed(tmp_path, ["2020-01-01"], "seconds")
    hold_out(graph, 3)
    with pytest.raises(IsohopError, match=r"'seconds' of 'book--reads--reader'.*'types:'"):
        hold_out(graph, 3, until=date(2020, 2, 1))


DAYS = ("2019-05-05", "2020-05-05", "2021-05-05", "")
SHOP = """
database: shop
source: {path: data}
tables:
  customer: {key: id}
  shop: {key: id}
  orders:
    key: id
    time: at
    types: {at: date, card: date}
    references: [{columns: customer_id, table: customer}]
  buys:
    time: at
    types: {at: date, card: date}
    references: [{columns: customer_id, table: customer}, {columns: shop, table: shop}]
  visits:
    types: {at: date, card: date}
    references: [{columns: customer_id, table: customer}, {columns: shop, table: shop}]
entities: {customer: {table: customer}, orders: {table: orders}, shop: {table: shop}}
"""


def test_edges_are_as_old_as_the_rows_that_tell_them_say(tmp_path):
    """By the column that the schema file names, of events and of entities, and by no other; where
    it names none, they were there always."""
    data, file = tmp_path / "data", tmp_path / "schema.yaml"
    data.mkdir()
    rows = [f"{n},{n},1,{year},2010-01-01" for n, year in enumerate(DAYS, 1)]
    for name in ("orders", "buys", "visits"):
        lines = ["id,customer_id,shop,at,card", *rows]
        (data / f"{name}.csv").write_text("\n".join(lines), "utf-8")
    (data / "customer.csv").write_text("id\n1\n2\n3\n4\n", "utf-8")
    (data / "shop.csv").write_text("id\n1\n", "utf-8")
    file.write_text(SHOP, "utf-8")
    graph = build(file, tmp_path / "g", "sail")
    held = hold_out(graph, 1, until=date(2020, 5, 5), validation=0, test=0, isolated=0)
    found = {}
    for edge in graph.edge_types:
        later = held.edges[edge.name] == LATER
        end = 0 if edge.source == "customer" else 1
        found[edge.name] = set(graph.edge_index(edge.name)[end][later].tolist())
    assert found == {
        "orders--customer--customer": {1, 2, 3},
        "customer--buys--shop": {1, 2, 3},
        "customer--visits--shop": set(),
    }
    # Text says of no day whether it was before.
    file.write_text(SHOP.replace("at: date", "at: string"), "utf-8")
    graph = build(file, tmp_path / "texts", "sail")
    with pytest.raises(IsohopError, match=r"'at' of '.*'types:'"):
        hold_out(graph, 1, until=date(2020, 5, 5))


@pytest.mark.parametrize("share", [False, True])
def test_the_label_of_what_came_later_is_neither_learned_nor_asked_about(tmp_path, share):
    data, file = tmp_path / "data", tmp_path / "schema.yaml"
    data.mkdir()
    days = ["2020-05-04", "2020-05-05", "", "2019-01-01"]
    rows = [f"{n},{days[n % 4]},{('good', 'bad')[n % 3 > 0]}" for n in range(200)]
    (data / "orders.csv").write_text("\n".join(["id,at,rating", *rows]), "utf-8")
    file.write_text(
        f"""
        database: shop
        source: {{path: data}}
        tables: {{orders: {{key: id, time: at, types: {{at: date}}}}}}
        entities: {{orders: {{table: orders}}}}
        attributes: {{orders.rating: {{kind: category, share: {str(share).lower()}}}}}
        """,
        "utf-8",
    )
    graph = build(file, tmp_path / "g", "sail")
    label = "orders.rating"
    known, of_window = (
        read_label(graph, label, hold_out(graph, 1, label, until=until)).parts != NEW
        for until in (None, date(2020, 5, 5))
    )
    assert known.all()
    assert np.array_equal(of_window, np.isin(np.arange(200) % 4, (0, 3)))


def test_without_a_window_times_do_not_matter(tmp_path):
    graph = timed(tmp_path, ["2020-01-01", None])
    plain = hold_out(library(tmp_path / "other"), 3)
    assert np.array_equal(hold_out(graph, 3).edges[READS], plain.edges[READS])


def test_edges_that_tell_the_label_are_as_if_they_were_not_there(tmp_path):
    graph = library(tmp_path / "g")
    shelf = "book--shelf--book.shelf"
    held = hold_out(graph, 3, "book.shelf")
    types = tuple(edge for edge in graph.edge_types if edge.name != shelf)
    manifest = graph.manifest.model_copy(update={"edge_types": types})
    nodes = {node.name: graph.nodes(node.name) for node in graph.node_types}
    rest = Graph.write(tmp_path / "rest", manifest, nodes, {READS: graph.edges(READS)})
    without = hold_out(rest, 3)
    assert (held.edges[shelf] == ANSWER).all()
    assert np.array_equal(held.edges[READS], without.edges[READS])
    for node in graph.node_types:
        for one, other in (
            (held.groups, without.groups),
            (held.degree, without.degree),
            (held.visible_degree(graph), without.visible_degree(rest)),
        ):
            assert np.array_equal(one[node.name], other[node.name])


CITES = "paper--cites--paper"


def citations(path: Path, ends: np.ndarray, papers: int = 300) -> Graph:
    table = pa.table({"src": ends[0], "dst": ends[1], "count": np.ones(len(ends[0]), np.int64)})
    manifest = GraphManifest(
        name="citations",
        certificate="0" * 32,
        node_types=(NodeType(name="paper", key=("id",), count=papers),),
        edge_types=(EdgeType(source="paper", role="cites", target="paper", count=len(ends[0])),),
    )
    nodes = {"paper": pa.table({"node_id": np.arange(papers), "id": np.arange(papers)})}
    return Graph.write(path, manifest, nodes, {CITES: table})


def one_way(papers: int = 300) -> np.ndarray:
    """(2, edges), none of which leads back."""
    pairs = np.random.default_rng(5).integers(0, papers, (1500, 2))
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0).T


def both_ways(path: Path) -> tuple[Graph, np.ndarray]:
    """And the position of the edge that leads back, for each."""
    ends = one_way()
    loops = np.stack([np.arange(9), np.arange(9)])
    ends = np.unique(np.concatenate([ends, ends[::-1], loops], 1), axis=1)
    place = {pair: at for at, pair in enumerate(zip(*ends.tolist(), strict=True))}
    return citations(path, ends), np.array([place[b, a] for a, b in ends.T.tolist()])


def test_of_two_edges_that_join_the_same_nodes_both_are_seen_or_neither(tmp_path):
    graph, back = both_ways(tmp_path / "g")
    state = hold_out(graph, 3).edges[CITES]
    assert np.array_equal(state, state[back])
    assert {VISIBLE, VALIDATION, TEST} <= set(state)
    assert (state == TEST).mean() < 0.08


def test_an_edge_that_leads_back_along_one_that_a_model_knows_is_as_that_is(tmp_path):
    graph, back = both_ways(tmp_path / "g")
    before = hold_out(graph, 3).edges[CITES]
    known = np.where(np.arange(len(back)) < back, NEW, before % ISOLATED).astype(np.int8)
    groups = hold_out(graph, 3).groups
    held = hold_out(graph, 4, learned=Learned(groups, {CITES: known}))
    state = held.edges[CITES]
    assert np.array_equal(state, state[back])
    assert np.array_equal(state == TEST, before == TEST)


def test_an_edge_from_a_node_to_itself_is_as_if_it_were_not_there(tmp_path):
    """Who is asked where it leads would have the answer in hand."""
    ends = one_way()
    rest = hold_out(citations(tmp_path / "rest", ends), 3)
    loops = np.stack([np.arange(300), np.arange(300)])
    graph = citations(tmp_path / "g", np.concatenate([ends, loops], 1))
    itself = np.equal(*graph.edge_index(CITES))
    for learned in (None, Learned(rest.groups, {CITES: np.full(len(itself), VISIBLE)})):
        held = hold_out(graph, 3, learned=learned)
        assert np.array_equal(held.edges[CITES] == LOOP, itself)
        assert np.array_equal(held.degree["paper"], rest.degree["paper"])
        alone = np.flatnonzero(rest.degree["paper"] == 0)
        assert len(alone)
        assert (held.groups["paper"][alone] == NO_EDGES).all()


def test_where_no_edge_leads_back_each_is_drawn_by_itself(tmp_path):
    ends = one_way()
    state = hold_out(citations(tmp_path / "g", ends), 3, isolated=0).edges[CITES]
    draw = np.random.default_rng([3, *(zlib.crc32(name.encode()) for name in ("edges", CITES))])
    assert np.array_equal(np.flatnonzero(draw.random(len(state)) < 0.1), np.flatnonzero(state))
