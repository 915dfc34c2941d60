"""The graph dataset, built through the engines: what a user relies on."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import random
import sqlite3
from collections import deque
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from isohop.cli import app
from isohop.errors import InvalidInput, IsohopError
from isohop.giant.documents import document_fields
from isohop.graph import Graph
from isohop.graph.build import EMPTY, Planned, build, check, plan_schema
from isohop.hops.usage import NOBODY
from tests.graph.conftest import write_database

ROOT = Path(__file__).parents[2]
ENGINES = ["sail", pytest.param("spark", marks=pytest.mark.spark)]
SHOPS = ["chain", "star", "flat", "junction"]


def ledger(graph: Graph) -> dict:
    return json.loads((graph.path / "ledger.json").read_text("utf-8"))


def test_a_part_of_a_key_that_is_another_nodes_key_is_no_name(tmp_path):
    """An edge says it: what is held out of edges must not stand in what is read as text."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "route.csv").write_text("code\nA\nB\n")
    (tmp_path / "data" / "stop.csv").write_text("route_code,place\nA,Rome\nB,Oslo\nA,Oslo\n")
    (tmp_path / "schema.yaml").write_text(
        """
        database: bus
        source: {path: data}
        tables:
          route: {key: code}
          stop: {key: [route_code, place], references: [{columns: route_code, table: route}]}
        entities: {route: {table: route}, stop: {table: stop}}
        """
    )
    graph = build(tmp_path / "schema.yaml", tmp_path / "graph")
    assert graph.node_type("stop").identifiers == ("route_code",)
    assert [field.name for field in document_fields(graph, "stop")] == ["place"]
    assert [field.name for field in document_fields(graph, "route")] == ["code"]


def rows_of(graph: Graph, table: str) -> dict:
    return next(t for t in ledger(graph)["tables"] if t["table"] == table)


def hops(graph: Graph, one: tuple[str, int], other: tuple[str, int]) -> int | None:
    """Length of the shortest path between two nodes."""
    near: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for edge in graph.edge_types:
        for source, target in graph.edge_index(edge.name).T.tolist():
            near.setdefault((edge.source, source), []).append((edge.target, target))
            near.setdefault((edge.target, target), []).append((edge.source, source))
    queue, seen = deque([(one, 0)]), {one}
    while queue:
        node, length = queue.popleft()
        if node == other:
            return length
        for neighbour in near.get(node, []):
            if neighbour not in seen:
                seen.add(neighbour)
                queue.append((neighbour, length + 1))
    return None


@pytest.mark.parametrize("engine", ENGINES)
def test_four_schemas_of_the_same_facts_are_one_graph(tmp_path, engine):
    """Spark, which is slow at small ones, builds the one that differs most."""
    by = {shop: engine if shop == "junction" else "sail" for shop in SHOPS}
    graphs = [
        build(ROOT / "schemas" / "shop" / f"{shop}.yaml", tmp_path / shop, built_by)
        for shop, built_by in by.items()
    ]
    assert len({graph.manifest.certificate for graph in graphs}) == 1
    for graph in graphs:
        # Customers 1 and 21 live in one city; 1 and 4 in one country, in two cities.
        ids = {key: node for node, key in enumerate(graph.nodes("customer")["id"].to_pylist())}
        assert hops(graph, ("customer", ids[1]), ("customer", ids[21])) == 2
        assert hops(graph, ("customer", ids[1]), ("customer", ids[4])) == 2


CUSTOMERS = "entities: {customer: {table: customer}}\ntables: {customer: {key: id}}"
FLAT = CUSTOMERS + "\nattributes: {customer.city: {kind: category, share: true}}"
LOOKUP = """
entities: {customer: {table: customer}}
attributes: {customer.city: {kind: category, share: true}}
tables:
  customer: {key: id, references: [{columns: city_id, table: city}]}
  city: {key: id, surrogate: true, columns: {name: city}}
"""
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
cities = st.lists(st.none() | words, min_size=1, max_size=12)
slow = settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def flat(values: list[str | None]) -> dict:
    ids = pa.array(range(len(values)), pa.int64())
    return {"customer": {"id": ids, "city": pa.array(values, pa.string())}}


def looked_up(values: list[str | None], seed: int) -> dict:
    """The same facts with a lookup table, its surrogate keys drawn anew, all rows shuffled."""
    draw = random.Random(seed)
    distinct = sorted({value for value in values if value is not None})
    keys = dict(zip(distinct, draw.sample(range(1000), len(distinct)), strict=True))
    order = list(range(len(values)))
    draw.shuffle(order)
    return {
        "customer": {
            "id": pa.array(order, pa.int64()),
            "city_id": pa.array([keys.get(values[i]) for i in order], pa.int64()),
        },
        "city": {
            "id": pa.array(list(keys.values()), pa.int64()),
            "name": pa.array(list(keys), pa.string()),
        },
    }


@slow
@given(values=cities, seed=st.integers(0, 99))
def test_a_lookup_table_changes_nothing(make, values, seed):
    one, other = make(FLAT, flat(values)), make(LOOKUP, looked_up(values, seed))
    assert one.manifest.certificate == other.manifest.certificate
    for node in one.node_types:
        assert one.nodes(node.name).equals(other.nodes(node.name))
    for edge in one.edge_types:
        assert one.edges(edge.name).equals(other.edges(edge.name))


@slow
@given(values=cities, at=st.integers(0, 11), instead=st.none() | words)
def test_a_changed_fact_changes_the_certificate(make, values, at, instead):
    at %= len(values)
    changed = [*values[:at], instead, *values[at + 1 :]]
    same = (
        make(FLAT, flat(values)).manifest.certificate
        == make(FLAT, flat(changed)).manifest.certificate
    )
    assert same == (values == changed)


DIRTY = """
policies: {{orphans: {0}}}
entities: {{customer: {{table: customer}}, product: {{table: product}}}}
tables:
  customer: {{key: id}}
  product: {{key: [shop, number]}}
  orders:
    key: id
    surrogate: true
    references:
      - {{columns: customer, table: customer}}
      - {{columns: [shop, number], table: product}}
"""
DIRT = {
    "customer": {"id": [1, 2, 2, 3, None], "name": ["a", "b", "c", "d", "e"]},
    "product": {
        "shop": ["x", "x", "y", None],
        "number": [1, 2, 1, 1],
        "price": [1.5, 2.5, float("nan"), 4.0],
    },
    "orders": {
        "id": [1, 2, 3, 4, 5, 6],
        "customer": [1, 2, 9, None, 3, None],
        "shop": ["x", "x", "y", "y", "z", None],
        "number": [1, 2, 1, 1, 1, 1],
        "price_paid": [1.0, 0.1, 0.2, 4.0, float("inf"), 6.0],
    },
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("policy", "customers", "used", "edges"),
    [("keep", 4, 5, 4), ("unset", 3, 5, 2), ("quarantine", 3, 3, 2)],
)
def test_bad_rows_are_counted_and_the_sums_close(make, engine, policy, customers, used, edges):
    graph = make(DIRTY.format(policy), DIRT, engine)
    assert ledger(graph)["closes"]
    assert rows_of(graph, "customer")["quarantined"] == {"null key": 1, "duplicate key": 1}
    assert rows_of(graph, "product")["quarantined"] == {"null key": 1}
    assert graph.node_type("customer").count == customers
    orders = rows_of(graph, "orders")
    kinds = {(f["kind"], f["count"]) for f in orders["findings"]}
    assert ("orphaned reference", 1) in kinds
    assert orders["used"] == used
    assert graph.edge_type("customer--orders--product").count == edges
    if policy == "quarantine":
        set_aside = pq.read_table(graph.path / "quarantine" / "orders")
        assert sorted(set_aside["id"].to_pylist()) == [3, 5]
        assert set(set_aside.column_names) >= {"customer", "shop", "price_paid"}
    if engine != "sail":
        same(graph, make(DIRTY.format(policy), DIRT))


def same(one: Graph, other: Graph) -> None:
    """By two engines: rows, ids, and what the ledger tells."""
    assert one.manifest.certificate == other.manifest.certificate
    assert ledger(one) == ledger(other)
    for node in one.node_types:
        assert one.nodes(node.name).equals(other.nodes(node.name))
    for edge in one.edge_types:
        assert one.edges(edge.name).equals(other.edges(edge.name))


def test_row_order_and_number_of_files_change_nothing(tmp_path):
    one = build(write_database(tmp_path / "one", DIRTY.format("keep"), DIRT), tmp_path / "g1")
    file = write_database(tmp_path / "two", DIRTY.format("keep"), DIRT)
    orders = pq.read_table(tmp_path / "two" / "data" / "orders.parquet")
    (tmp_path / "two" / "data" / "orders.parquet").unlink()
    (tmp_path / "two" / "data" / "orders").mkdir()
    for part, rows in enumerate(([5, 1], [0, 4, 2], [3])):
        piece = orders.take(rows)
        pq.write_table(piece, tmp_path / "two" / "data" / "orders" / f"{part}.parquet")
    other = build(file, tmp_path / "g2")
    assert one.manifest.certificate == other.manifest.certificate
    for edge in one.edge_types:
        assert one.edges(edge.name).equals(other.edges(edge.name))


PEOPLE = """
policies: {{violations: {0}}}
entities: {{person: {{table: person}}}}
tables:
  person: {{key: id}}
  orders:
    key: id
    surrogate: true
    columns: {{person_city: person.city}}
    references: [{{columns: person, table: person}}]
"""
ORDERS = {
    "person": {"id": [1, 2]},
    "orders": {
        "id": [1, 2, 3, 4],
        "person": [1, 1, 1, 2],
        "person_city": ["Rome", "Oslo", "Rome", "Bonn"],
    },
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("policy", "city"), [("majority", ["Rome", "Bonn"]), ("unset", [None, "Bonn"])]
)
def test_two_values_for_one_key_follow_the_policy_and_are_shown(make, engine, policy, city):
    graph = make(PEOPLE.format(policy), ORDERS, engine)
    assert graph.nodes("person")["city"].to_pylist() == city
    (finding,) = ledger(graph)["findings"]
    assert (finding["kind"], finding["where"], finding["count"]) == (
        "violated dependency",
        "person.city",
        1,
    )
    assert "Oslo" in " ".join(finding["examples"])
    lost = pq.read_table(graph.path / "quarantine" / "person.city")
    assert "Oslo" in lost["value_0"].to_pylist()


def test_rows_of_a_table_called_as_an_attribute_are_not_lost_from_quarantine(make):
    """Two kinds of bad data, one of a dependency and one of a table that is called the same."""
    schema = PEOPLE.format("majority") + "\n  person.city: {key: id}\n"
    twice = {"id": [1, 1], "name": ["Rome", "Oslo"]}
    graph = make(schema, {**ORDERS, "person.city": twice})
    quarantine = graph.path / "quarantine"
    files = list(quarantine.rglob("*.parquet"))
    reasons = [r for f in files for r in pq.read_table(f)["quarantine_reason"].to_pylist()]
    assert sorted(reasons) == ["duplicate key", "violated dependency of person.city"]


@pytest.mark.parametrize(
    ("policy", "cities"), [("majority", ["Bonn", "Rome"]), ("unset", ["Bonn"])]
)
def test_an_outvoted_value_is_no_node(make, policy, cities):
    shared = PEOPLE.format(policy) + "\nattributes: {person.city: {kind: category, share: true}}"
    graph = make(shared, ORDERS)
    assert graph.nodes("person.city")["value"].to_pylist() == cities
    edges = graph.edges("person--city--person.city")
    assert sorted(edges["dst"].to_pylist()) == list(range(len(cities)))


@pytest.mark.parametrize("engine", ENGINES)
def test_events_of_which_one_participant_is_known_are_told(make, engine):
    held = {
        "customer": {"id": [1, 2]},
        "product": {"shop": ["x"], "number": [1]},
        "orders": {
            "id": [1, 2, 3, 4],
            "customer": [1, 2, 2, None],
            "shop": ["x", "x", None, None],
            "number": [1, None, None, None],
        },
    }
    graph = make(DIRTY.format("keep"), held, engine)
    (table,) = [t for t in ledger(graph)["tables"] if t["table"] == "orders"]
    assert (table["used"], sum(table["unused"].values())) == (3, 1)
    (finding,) = [f for f in table["findings"] if f["kind"] == "event with one participant"]
    assert finding["count"] == 2
    assert set(finding["examples"]) == {"customer 2"}
    assert graph.edges("customer--orders--product").num_rows == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_said_of_nobody_is_counted(make, engine):
    """A city is known by it, and who lives there and paid is not."""
    schema = """
    entities: {customer: {key: [customer]}, city: {key: [city]}}
    tables:
      orders: {key: id, surrogate: true, columns: {city: customer.city}}
    """
    held = {"id": [1, 2, 3], "customer": [1, None, 1], "paid": [5, 7, 6]}
    graph = make(schema, {"orders": held | {"city": ["Oslo", "Rome", "Oslo"]}}, engine)
    (table,) = ledger(graph)["tables"]
    assert (table["used"], table["unused"]) == (3, {})
    assert [(f["kind"], f["count"]) for f in table["findings"]] == [(NOBODY, 1)]


@pytest.mark.parametrize("engine", ENGINES)
def test_of_rows_with_one_key_the_first_stays_whatever_types_they_have(make, engine):
    held = {"id": [1, 1, 2], "a": pa.array([b"b", b"\xff", b"a"]), "b": [True, False, None]}
    schema = "{entities: {customer: {table: customer}}, tables: {customer: {key: id}}}"
    graph = make(schema, {"customer": held}, engine)
    assert graph.nodes("customer")["a"].to_pylist() == [b"b", b"a"]
    assert rows_of(graph, "customer")["quarantined"] == {"duplicate key": 1}


def test_a_violated_dependency_can_stop_the_build_and_leaves_nothing(tmp_path):
    file = write_database(tmp_path, PEOPLE.format("fail"), ORDERS)
    with pytest.raises(IsohopError, match=r"person\.city.*violations: fail"):
        build(file, tmp_path / "graph")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "schema.yaml"}


@pytest.mark.parametrize("engine", ENGINES)
def test_tables_without_rows_and_columns_without_values_are_handled(make, engine):
    tables = {
        "customer": pa.table({"id": pa.array([], pa.int64()), "name": pa.array([], pa.string())}),
        "product": {"shop": ["x"], "number": [1], "price": pa.nulls(1)},
        "orders": pa.schema(
            [
                ("id", pa.int64()),
                ("customer", pa.int64()),
                ("shop", pa.string()),
                ("number", pa.int64()),
            ]
        ).empty_table(),
    }
    graph = make(DIRTY.format("keep"), tables, engine)
    assert ledger(graph)["closes"]
    assert graph.nodes("customer").num_rows == 0
    assert graph.edges("customer--orders--product").num_rows == 0
    kinds = {f["kind"] for t in ledger(graph)["tables"] for f in t["findings"]}
    assert {"table without rows", "column without values"} <= kinds
    empty = [f["where"] for f in ledger(graph)["findings"] if f["kind"] == EMPTY]
    assert empty == ["entity 'customer'"]


def test_an_entity_without_rows_fails_a_check_and_that_none_has_an_edge_is_told(tmp_path):
    """Where there are rows, and none of them can be used, too."""
    schema = "tables: {customer: {key: id}}\nentities: {customer: {table: customer}}"
    for name, ids, code in (("good", [1, 2], 0), ("bad", [None, None], 1)):
        rows = pa.table({"id": pa.array(ids, pa.int64()), "name": ["a", "b"]})
        file = write_database(tmp_path / name, schema, {"customer": rows})
        for more in ([], ["--json"]):
            done = CliRunner().invoke(app, ["check", str(file), *more])
            assert done.exit_code == code
            assert (f"entity 'customer': {EMPTY}" in str(done.exception)) == (code == 1)
            assert ("no entity has an edge" in done.output) == (not more)
        done = CliRunner().invoke(app, ["build", str(file), "--out", str(tmp_path / name / "g")])
        assert "no entity has an edge" in done.output


@pytest.mark.parametrize("engine", ENGINES)
def test_any_name_and_any_value_is_only_data(make, engine):
    long = "x" * 1_000_000
    schema = """
    entities: {größe: {table: größe}}
    tables:
      größe: {key: "a `b` . c"}
    """
    name = "select 'x'; -- \" 名前"
    graph = make(
        schema,
        {
            "größe": {
                "a `b` . c": ["1", "ü🎈", "'; drop"],
                name: [long, None, "\0"],
                "e\u0301": [1, 2, 3],
            }
        },
        engine,
    )
    nodes = graph.nodes("größe")
    assert nodes["a `b` . c"].to_pylist() == sorted(["1", "ü🎈", "'; drop"])
    assert sorted(v or "" for v in nodes[name].to_pylist()) == ["", "\0", long]


def test_timestamps_in_nanoseconds_are_read(make):
    times = pa.array([1_600_000_000_123_456_789, None], pa.timestamp("ns", "Europe/Oslo"))
    graph = make(CUSTOMERS, {"customer": {"id": [1, 2], "seen": times}})
    assert str(graph.nodes("customer").schema.field("seen").type) == "timestamp[us]"
    assert graph.nodes("customer")["seen"].null_count == 1


def test_an_event_of_one_is_a_multi_valued_attribute(make):
    graph = make(
        """
        entities: {person: {table: person}}
        tables:
          person: {key: id}
          phone: {key: [person, phone], references: [{columns: person, table: person}]}
        """,
        {"person": {"id": [1, 2]}, "phone": {"person": [1, 1], "phone": ["b", "a"]}},
    )
    assert graph.nodes("person")["phone_phone"].to_pylist() == [["a", "b"], None]
    assert graph.nodes("person")["phone_count"].to_pylist() == [2, None]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_event_in_two_tables_is_one_whichever_of_them_refers_to_the_other(make, engine):
    parts = {
        "customer": {"id": [1, 2]},
        "product": {"id": [7, 8]},
        "orders": {"id": [1, 2, 3], "c": [1, 2, 1], "p": [7, 8, 8]},
        "amounts": {"id": [1, 2, 3], "amount": [5, 6, 7]},
    }
    there, back = ", {columns: id, table: amounts}", "{columns: id, table: orders}"
    graphs = [
        make(
            f"""
            tables:
              customer: {{key: id}}
              product: {{key: id}}
              orders:
                key: id
                surrogate: true
                references: [{{columns: c, table: customer}}, {{columns: p, table: product}}{one}]
              amounts: {{key: id, surrogate: true, references: [{other}]}}
            entities: {{customer: {{table: customer}}, product: {{table: product}}}}
            """,
            parts,
            engine,
        )
        for one, other in (("", back), (there, back))
    ]
    for graph in graphs:
        assert graph.edge_type("customer--orders--product").count == 3
        assert {table: rows_of(graph, table)["used"] for table in ("orders", "amounts")} == {
            "orders": 3,
            "amounts": 3,
        }
    assert len({graph.manifest.certificate for graph in graphs}) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mean_is_as_exact_as_a_double_whatever_the_unit_and_the_order(make, engine):
    """Masses in kilogrammes of particles, distances in metres of stars, debts."""
    draw = random.Random(1)
    units = [10.0**power for power in range(-12, 24, 3)]
    groups = [
        [sign * unit * draw.random() for _ in range(3)] for unit in units for sign in (1.0, -1.0)
    ]
    groups += [[1e20, -1e20, 3e-12], [0.1, 0.2, 0.6], [-0.0, -0.0, -0.0]]
    schema = """
    entities: {a: {table: a}, b: {table: b}}
    tables:
      a: {key: id}
      b: {key: id}
      weighs: {references: [{columns: a, table: a}, {columns: b, table: b}]}
    """
    rows = [(a, value) for a, group in enumerate(groups) for value in group]
    made = []
    for ordered in (rows, rows[::-1]):
        found = {"a": [a for a, _ in ordered], "x": [value for _, value in ordered]}
        tables = {
            "a": {"id": list(range(len(groups)))},
            "b": {"id": [1]},
            "weighs": {**found, "b": [1] * len(ordered)},
        }
        made.append(make(schema, tables, engine).edges("a--weighs--b").to_pylist())
    assert made[0] == made[1]
    assert [edge["src"] for edge in made[0]] == list(range(len(groups)))
    means = [edge["x_mean"] for edge in made[0]]
    assert means == pytest.approx([math.fsum(group) / 3 for group in groups], rel=1e-12, abs=1e-24)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_a_key_has_one_zero(make, engine, kind):
    """Rounding makes two: 0.0 and -0.0 are equal."""
    cells = {
        "lat": [51.5, 51.5, 51.5],
        "lon": pa.array([0.0, -0.0, 0.5], kind),
        "height": [5, 7, 9],
    }
    schema = "entities: {cell: {table: cell}}\ntables: {cell: {key: [lat, lon]}}"
    graph = make(schema, {"cell": cells}, engine)
    found = {tuple(row.values())[1:] for row in graph.nodes("cell").to_pylist()}
    assert found == {(51.5, 0.0, 5), (51.5, 0.5, 9)}
    assert [f["kind"] for f in rows_of(graph, "cell")["findings"]] == ["duplicate key"]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_event_of_one_participant_is_told_whatever_its_key_is_made_of(make, engine):
    """UUIDs are bytes that are no text."""
    keys = pa.array([bytes([255, n] * 8) for n in range(3)], pa.binary())
    schema = """
    entities: {u: {table: u}, p: {table: p}}
    tables:
      u: {key: id}
      p: {key: id}
      buy: {references: [{columns: u, table: u}, {columns: p, table: p}]}
    """
    tables = {"u": {"id": keys}, "p": {"id": [1, 2]}, "buy": {"u": keys, "p": [1, 2, None]}}
    graph = make(schema, tables, engine)
    (finding,) = rows_of(graph, "buy")["findings"][-1:]
    assert (finding["kind"], finding["count"]) == ("event with one participant", 1)
    assert "FF02" in finding["examples"][0]


def test_parallel_edges_are_one_with_count_and_aggregates(make):
    graph = make(
        """
        entities: {a: {table: a}, b: {table: b}}
        tables:
          a: {key: id}
          b: {key: id}
          buys: {references: [{columns: a, table: a}, {columns: b, table: b}]}
        """,
        {
            "a": {"id": [1]},
            "b": {"id": [1]},
            "buys": {
                "a": [1, 1, 1],
                "b": [1, 1, 1],
                "price": [0.1, 0.2, 0.6],
                "how": ["x", "y", "x"],
            },
        },
    )
    (edge,) = graph.edges("a--buys--b").to_pylist()
    assert edge["count"] == 3
    assert edge["price_mean"] == pytest.approx(0.3, abs=1e-8)
    assert (edge["price_min"], edge["price_max"], edge["how"]) == (0.1, 0.6, ["x", "y"])


def test_every_mistake_in_a_file_is_told_at_once_before_an_engine_starts(tmp_path):
    file = write_database(tmp_path, CUSTOMERS, flat(["a"]))
    file.write_text(
        """
database: d
source: {path: data}
tables:
  customer: {key: idd, colums: {city: town}}
  orders: {key: id, references: [{columns: [c], table: custmer}]}
entities:
  customer: {table: customer}
  ghost: {table: nowhere}
""",
        "utf-8",
    )
    with pytest.raises(InvalidInput) as caught:
        check(file)
    text = str(caught.value)
    for expected in (
        "'idd'",
        "Did you mean 'columns'",
        "Did you mean 'customer'",
        "'nowhere'",
        "orders",
    ):
        assert expected in text
    assert "schema.yaml:5" in text


def test_types_that_never_match_are_a_mistake(tmp_path):
    schema = """
    entities: {a: {table: a}}
    tables:
      a: {key: id}
      b: {references: [{columns: a, table: a}]}
    """
    file = write_database(tmp_path, schema, {"a": {"id": [1]}, "b": {"a": ["1"], "x": [1]}})
    with pytest.raises(InvalidInput, match=r"b\.a is string and a\.id is int64"):
        check(file)


DECLARED = """
CREATE TABLE item (order_id INT, line INT, what TEXT, PRIMARY KEY (order_id, line));
CREATE TABLE cust (id INTEGER PRIMARY KEY, code INT UNIQUE);
CREATE TABLE ship (
  id INTEGER PRIMARY KEY, order_id INT, line INT, code INT REFERENCES cust (code),
  FOREIGN KEY (order_id, line) REFERENCES item (order_id, line));
"""


def declared(folder: Path, tables: str) -> Planned:
    """Planned over a database that declares keys and references of its own."""
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as database:
        database.executescript(DECLARED)
    entities = "{ship: {table: ship}, item: {table: item}, cust: {table: cust}}"
    source = '{url: "sqlite:///shop.db"}'
    text = f"database: d\nsource: {source}\ntables: {tables}\nentities: {entities}\n"
    (folder / "schema.yaml").write_text(text, "utf-8")
    return plan_schema(folder / "schema.yaml")


def test_a_reference_to_a_part_of_a_key_that_only_the_database_declares_is_a_mistake(tmp_path):
    reference = "{references: [{columns: [order_id], table: item}]}"
    with pytest.raises(InvalidInput, match="1 columns refer to 'item', whose key has 2: order_id"):
        declared(tmp_path, f"{{ship: {reference}, item: {{}}, cust: {{}}}}")


def test_a_declared_reference_is_taken_in_any_order_of_the_key_and_told_where_it_is_not(tmp_path):
    planned = declared(tmp_path, "{ship: {}, item: {key: [line, order_id]}, cust: {}}")
    (reference,) = planned.schema.tables["ship"].references or ()
    assert (reference.table, reference.columns) == ("item", ("line", "order_id"))
    (told,) = planned.plan.warnings
    assert "ship.code refers to cust.code, which is not the key of 'cust'" in told


def test_a_database_needs_no_key_or_reference_written_again(tmp_path):
    """What the database declares is taken; the result is that of the four schemas."""
    chain = ROOT / "examples" / "shop" / "chain"
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.executescript(
            """
            CREATE TABLE country (id INTEGER PRIMARY KEY, name TEXT);
            CREATE TABLE city (
              id INTEGER PRIMARY KEY, name TEXT, country_id INTEGER REFERENCES country (id));
            CREATE TABLE customer (
              id INTEGER PRIMARY KEY, name TEXT, city_id INTEGER REFERENCES city (id));
            """
        )
        for table in ("country", "city", "customer"):
            rows = list(csv.reader((chain / f"{table}.csv").open(encoding="utf-8")))[1:]
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    (tmp_path / "schema.yaml").write_text(
        """
database: shop
source: {url: "sqlite:///shop.db"}
tables:
  customer: {}
  city: {surrogate: true, columns: {name: city}}
  country: {surrogate: true, columns: {name: country}}
entities: {customer: {table: customer}}
attributes:
  customer.city: {kind: category, share: true}
  customer.country: {kind: category, share: true}
""",
        "utf-8",
    )
    ours = build(tmp_path / "schema.yaml", tmp_path / "graph").manifest.certificate
    files = build(ROOT / "schemas" / "shop" / "chain.yaml", tmp_path / "files")
    assert ours == files.manifest.certificate


@pytest.mark.data
@pytest.mark.parametrize("name", ["sakila", "gutenberg"])
def test_real_databases_build_and_their_ledgers_close(tmp_path, name):
    graph = build(ROOT / "schemas" / f"{name}.yaml", tmp_path / "graph")
    assert ledger(graph)["closes"]
    counts = {node.name: node.count for node in graph.node_types}
    expected = {"sakila": {"film": 1000, "customer": 599}, "gutenberg": {"work": 78766}}[name]
    assert counts.items() >= expected.items()


BOUGHT = """
entities: {customer: {table: customer}, product: {table: product}}
tables:
  customer: {key: id}
  product: {key: id}
  orders:
    key: id
    surrogate: true
    columns: {rating: customer.rating}
    references:
      - {columns: customer_id, table: customer}
      - {columns: product_id, table: product}
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [0, 1])
def test_a_column_without_values_has_the_type_of_what_it_is_united_with(make, engine, rows):
    tables = {
        "customer": {"id": [1, 2], "rating": [3, None]},
        "product": {"id": [7]},
        "orders": {
            "id": pa.array([1][:rows], pa.int64()),
            "customer_id": pa.nulls(rows),
            "product_id": pa.array([7][:rows], pa.int64()),
            "rating": pa.nulls(rows, pa.string()),
        },
    }
    graph = make(BOUGHT, tables, engine)
    assert graph.nodes("customer").to_pylist() == [
        {"node_id": 0, "id": 1, "rating": 3},
        {"node_id": 1, "id": 2, "rating": None},
    ]
    assert graph.edge_type("customer--orders--product").count == 0
    rating = next(a for a in graph.node_type("customer").attributes if a.name == "rating")
    assert (rating.kind, rating.type) == ("number", "int64")


@pytest.mark.parametrize("engine", ENGINES)
def test_whole_numbers_in_one_table_and_others_in_another_are_numbers(make, engine):
    tables = {
        "customer": {"id": [1, 2], "rating": [3, None]},
        "product": {"id": [7]},
        "orders": {"id": [1], "customer_id": [2], "product_id": [7], "rating": [2.5]},
    }
    graph = make(BOUGHT, tables, engine)
    assert graph.nodes("customer")["rating"].to_pylist() == [3.0, 2.5]


def test_columns_of_which_none_has_values_need_not_agree(make):
    tables = {
        "customer": {"id": [1], "rating": pa.nulls(1, pa.int64())},
        "product": {"id": pa.nulls(0)},
        "orders": {c: pa.nulls(0) for c in ("id", "customer_id", "product_id", "rating")},
    }
    graph = make(BOUGHT, tables)
    assert graph.nodes("customer").to_pylist() == [{"node_id": 0, "id": 1, "rating": None}]


def test_text_in_one_table_and_numbers_in_another_are_refused_by_name(make):
    tables = {
        "customer": {"id": [1, 2], "rating": ["good", None]},
        "product": {"id": [7]},
        "orders": {"id": [1], "customer_id": [2], "product_id": [7], "rating": [2]},
    }
    with pytest.raises(InvalidInput, match=r"customer\.rating is string and orders\.rating is int"):
        make(BOUGHT, tables)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [pa.int64(), pa.decimal128(21, 2)])
def test_keys_that_no_double_tells_apart_are_refused(make, engine, kind):
    """Two devices would be one, or none: as doubles they are the same number."""
    schema = """
    entities: {device: {key: device}}
    tables: {reading: {key: id}, repair: {key: id}}
    """

    def tables(*devices):
        seen = pa.array([Decimal(device) for device in devices]).cast(kind)
        repaired = pa.array([float(devices[0]), None])
        return {
            "reading": pa.table({"id": list(range(len(devices))), "device": seen}),
            "repair": pa.table({"id": [1, 2], "device": repaired}),
        }

    known = make(schema, tables(10**12 + 1, 7), engine)
    assert known.node_type("device").count == 2
    for least in (2**53, -(2**53) - 1, 2**63 - 2):
        with pytest.raises(InvalidInput) as error:
            make(schema, tables(least, least + 1), engine)
        assert "reading.device is " in str(error.value)
        assert "repair.device is double" in str(error.value)


BY_EMAIL = """
policies: {{violations: {0}}}
entities: {{customer: {1}}}
tables:
  customer:
    key: id
    surrogate: true
    unique: [[email]]
    references: [{{columns: c, table: city}}]
  city: {{key: id, surrogate: true, columns: {{name: city}}}}
attributes: {{customer.city: {{share: true}}}}
"""


@pytest.mark.parametrize("policy", ["majority", "unset", "fail"])
@pytest.mark.parametrize("entity", ["{table: customer, key: email}", "{key: email}"])
def test_a_declared_key_that_two_rows_share_is_a_violation(make, policy, entity):
    """No table's own key: what is declared unique need not be."""
    tables = {
        "customer": {"id": [1, 2, 3], "email": ["a", "a", "b"], "age": [5, 6, 7], "c": [1, 2, 2]},
        "city": {"id": [1, 2], "name": ["Oslo", "Rome"]},
    }
    if policy == "fail":
        with pytest.raises(IsohopError, match="have more than one value"):
            make(BY_EMAIL.format(policy, entity), tables)
        return
    graph = make(BY_EMAIL.format(policy, entity), tables)
    kept = policy == "majority"
    assert graph.nodes("customer").to_pylist() == [
        {"node_id": 0, "email": "a", "age": 5 if kept else None},
        {"node_id": 1, "email": "b", "age": 7},
    ]
    assert graph.edge_type("customer--city--customer.city").count == 1 + kept
    found = {f["where"]: f["count"] for f in ledger(graph)["findings"]}
    assert found == {"customer.age": 1, "customer--city--customer.city": 1}


def test_a_key_that_is_said_to_be_another_entitys_attribute_is_checked(make):
    schema = """
    entities: {customer: {table: customer}}
    tables:
      customer: {key: id}
      orders:
        key: id
        columns: {id: customer.first_order}
        references: [{columns: customer_id, table: customer}]
    """
    tables = {"customer": {"id": [1, 2]}, "orders": {"id": [1, 2, 3], "customer_id": [1, 1, 2]}}
    graph = make(schema, tables)
    assert graph.nodes("customer")["first_order"].to_pylist() == [1, 3]
    assert [f["where"] for f in ledger(graph)["findings"]] == ["customer.first_order"]


ODD = "x/../../../../odd"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_attribute_may_be_called_what_no_folder_can_be(make, engine):
    """Nothing is written anywhere but in the graph, also of the values that violate."""
    schema = f"""
    entities: {{customer: {{table: customer}}}}
    tables:
      customer: {{key: id}}
      orders:
        key: id
        surrogate: true
        references: [{{columns: customer_id, table: customer}}]
        determines: {{customer: ["{ODD}", "é ?.[*]"]}}
    """
    orders = {"id": [1, 2, 3], "customer_id": [1, 1, 1], ODD: ["a", "b", "a"], "é ?.[*]": [1, 1, 2]}
    graph = make(schema, {"customer": {"id": [1]}, "orders": orders}, engine)
    assert graph.nodes("customer")[ODD].to_pylist() == ["a"]
    assert graph.nodes("customer")["é ?.[*]"].to_pylist() == [1]
    written = {path.name for path in (graph.path / "quarantine").iterdir()}
    assert written == {"customer.x%2f..%2f..%2f..%2f..%2fodd", "customer.é %3f.%5b%2a%5d"}
    lost = pq.read_table(next((graph.path / "quarantine").glob("*odd")))
    assert lost["value_0"].to_pylist() == ["b"]
    assert {path.name for path in graph.path.parent.iterdir()} == {"data", "schema.yaml", "graph"}


@pytest.mark.parametrize("engine", ENGINES)
def test_files_may_be_called_as_engines_write_patterns(tmp_path, engine):
    """Each is read, and no other that such a pattern fits."""
    schema = """
    entities: {customer: {table: customer}}
    tables: {customer: {key: id}}
    """
    folder = tmp_path / "a [b]*"
    file = write_database(folder, schema, {})
    parts = folder / "data" / "customer"
    parts.mkdir()
    for number, name in enumerate(("part[1]", "part{2}", "part?", "part*", "part\\3")):
        table = pa.table({"id": [number], "name": [name]})
        pq.write_table(table, parts / f"{name}.parquet")
    for other in ("a b*", "a [b]-other"):
        (tmp_path / other).mkdir()
        write_database(tmp_path / other, schema, {"customer": {"id": [9], "name": ["another"]}})
    graph = build(file, folder / "{graph}", engine)
    names = graph.nodes("customer")["name"].to_pylist()
    assert names == ["part[1]", "part{2}", "part?", "part*", "part\\3"]
    again = build(file, tmp_path / "graph", engine)
    assert again.manifest.certificate == graph.manifest.certificate


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_rows_of_a_table_called_as_a_pattern_are_set_aside(make, engine):
    schema = """
    entities: {x: {table: "x[1]"}}
    tables: {"x[1]": {key: id}}
    """
    graph = make(schema, {"x[1]": {"id": [1, 1, 2, None, 3], "v": list("abcde")}}, engine)
    assert graph.nodes("x")["v"].to_pylist() == ["a", "c", "e"]


@pytest.mark.parametrize("engine", ENGINES)
def test_paths_are_followed_as_the_system_does(tmp_path, engine):
    """What lies above a link's target is not what lies above the link."""
    schema = """
    source: {path: link/../data}
    entities: {customer: {table: customer}}
    tables: {customer: {key: id}}
    """
    (tmp_path / "far" / "deep").mkdir(parents=True)
    write_database(tmp_path / "far", schema, {"customer": {"id": [1], "name": ["meant"]}})
    file = write_database(tmp_path, schema, {"customer": {"id": [1], "name": ["another"]}})
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    graph = build(file, tmp_path / "link" / ".." / "graph", engine)
    assert graph.nodes("customer")["name"].to_pylist() == ["meant"]
    assert (tmp_path / "far" / "graph").is_dir()


@pytest.mark.parametrize(("note", "wrong"), [(["a", "b"], True), ([None, None], False)])
def test_a_mean_of_texts_is_a_mistake_of_the_schema_file(make, note, wrong):
    schema = """
    entities: {customer: {table: customer}}
    tables:
      customer: {key: id}
      orders: {key: id, surrogate: true, references: [{columns: customer_id, table: customer}]}
    attributes: {orders.note: {kind: number}}
    """
    orders = {"id": [1, 2], "customer_id": [1, 1], "note": pa.array(note, pa.string())}
    tables = {"customer": {"id": [1]}, "orders": pa.table(orders)}
    if not wrong:
        assert make(schema, tables).nodes("customer").num_rows == 1
        return
    with pytest.raises(InvalidInput, match=r"orders\.note: its kind is to be 'number'"):
        make(schema, tables)


CASCADE = """
policies: {orphans: quarantine}
entities: {a: {table: a}, b: {table: b}}
tables:
"""
CASCADED = {
    "a": "a: {key: id, references: [{columns: up, table: a, prefix: up_}]}",
    "b": "b: {key: id, references: [{columns: a, table: a}, {columns: c, table: c}]}",
    "c": "c: {key: id, surrogate: true, references: [{columns: b, table: b, prefix: of_}]}",
}


BOSSES = "emp: {key: eid, references: [{columns: boss, table: emp, prefix: boss_}]}"


def test_who_is_whose_boss_is_a_fact(make):
    schema = f"{{entities: {{emp: {{table: emp}}}}, tables: {{{BOSSES}}}}}"
    one = make(schema, {"emp": {"eid": ["Ann", "Bob"], "boss": [None, "Ann"]}})
    other = make(schema, {"emp": {"eid": ["Ann", "Bob"], "boss": ["Bob", None]}})
    assert one.manifest.certificate != other.manifest.certificate
    # Of two who determine each other neither is the first.
    mutual = schema.replace("key: eid", "key: eid, unique: [[boss]]")
    made = [
        make(mutual, {"emp": {"eid": ["Ann", "Bob", "Cid"], "boss": pair}})
        for pair in ([None, "Ann", None], ["Bob", None, None])
    ]
    assert made[0].manifest.certificate == made[1].manifest.certificate


@pytest.mark.parametrize("engine", ENGINES)
def test_the_order_of_key_columns_is_no_fact(make, engine):
    """Also where both hold the same values: from where to where, of stations."""
    told = [
        make(
            f"""
            entities: {{way: {{table: way}}}}
            tables:
              way: {{key: [{key}]}}
              trip: {{key: id, surrogate: true, references: [{{columns: [{refers}], table: way}}]}}
            """,
            {
                "way": {"a": [1, 2, 3], "b": [2, 3, 1], "km": [10, 20, 30]},
                "trip": {"id": [1, 2], "x": [2, 2], "y": [3, 3], "seats": [4, 5]},
            },
            engine,
        )
        for key, refers in (("a, b", "x, y"), ("b, a", "y, x"))
    ]
    assert told[0].manifest.certificate == told[1].manifest.certificate


def test_rows_that_cannot_be_read_are_a_finding_with_examples(tmp_path):
    file = write_database(tmp_path, "entities: {p: {table: p}}\ntables: {p: {key: id}}", {})
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "p.csv").write_text("id,x\n1,a\n2,b,c\n", "utf-8")
    graph = build(file, tmp_path / "graph")
    (finding,) = rows_of(graph, "p")["findings"]
    assert (finding["kind"], finding["count"]) == ("unreadable rows", 1)
    assert finding["examples"] == ["row 3: 3 fields instead of 2"]


@pytest.mark.parametrize("columns", ["p_id", "p_id, q_id"])
def test_a_table_that_says_nothing_is_as_one_that_is_not_there(make, columns):
    entities = "p: {table: p}, q: {table: q}"
    tables = "p: {key: id}, q: {key: id}"
    rows = {"p": {"id": [1], "x": ["a"]}, "q": {"id": [2]}}
    alone = make(f"{{entities: {{{entities}}}, tables: {{{tables}}}}}", rows)
    held = [f"{{columns: {c}, table: {c[0]}}}" for c in columns.split(", ")]
    more = f"{tables}, e: {{key: id, references: [{', '.join(held)}]}}"
    schema = f"{{entities: {{{entities}}}, tables: {{{more}}}}}"
    for ids, to in (([], []), ([1], [None])):
        empty = {"id": pa.array(ids, pa.int64()), "v": pa.array([3.5][: len(ids)], pa.float64())}
        empty |= {c: pa.array(to, pa.int64()) for c in columns.split(", ")}
        graph = make(schema, rows | {"e": empty})
        assert graph.manifest.certificate == alone.manifest.certificate


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_made_of_facts_gives_way_to_what_has_its_name_already(make, engine):
    schema = """
    entities: {customer: {table: customer}, city: {table: city}}
    tables:
      customer: {key: id}
      city: {key: name}
      orders: {references: [{columns: customer_id, table: customer}]}
      node: {columns: {id: id}, references: [{columns: customer_id, table: customer}]}
      stay:
        references:
        - {columns: customer_id, table: customer}
        - {columns: city, table: city}
    """
    tables = {
        "customer": {"id": [1], "Orders_Count": [7]},
        "city": {"name": ["x"]},
        "orders": {"customer_id": [1, 1], "amount": [1.5, 2.5]},
        "stay": {"customer_id": [1], "city": ["x"], "temp": [1.5], "temp_max": ["high"]},
        "node": {"customer_id": [1], "id": ["x"]},
    }
    graph = make(schema, tables, engine)
    (row,) = graph.nodes("customer").to_pylist()
    assert (row["Orders_Count"], row["orders_count_"], row["orders_amount_max"]) == (7, 2, 2.5)
    (edge,) = graph.edges("city--stay--customer").to_pylist()
    assert (edge["temp_max"], edge["temp_max_"]) == (["high"], 1.5)
    assert row["node_id_"] == ["x"]


def test_rows_that_nothing_of_an_entity_leads_to_are_not_used(make):
    schema = """
    entities: {p: {table: p}}
    tables:
      p: {key: id}
      city: {key: city_id, references: [{columns: country_id, table: country}]}
      country: {key: country_id}
    """
    tables = {
        "p": {"id": [1]},
        "city": {"city_id": [1, 2], "country_id": [5, 5]},
        "country": {"country_id": [5], "name": ["x"]},
    }
    graph = make(schema, tables)
    for table, count in (("city", 2), ("country", 1)):
        told = rows_of(graph, table)
        assert (told["used"], told["unused"]) == (0, {"leads to no entity": count})


def test_a_reference_that_only_the_key_says_cannot_be_unset_and_the_ledger_says_so(make):
    schema = """
    policies: {orphans: unset}
    entities: {orders: {table: orders}}
    tables:
      orders: {key: oid}
      lines: {key: [oid, line], references: [{columns: oid, table: orders}]}
    """
    tables = {"orders": {"oid": [1]}, "lines": {"oid": [1, 9], "line": [1, 1], "qty": [5, 6]}}
    graph = make(schema, tables)
    (told,) = (f for f in rows_of(graph, "lines")["findings"] if "orphan" in f["kind"])
    assert "kept" in told["policy"]
    assert sorted(graph.nodes("orders")["oid"].to_pylist()) == [1, 9]


@pytest.mark.parametrize("engine", ENGINES)
def test_bytes_may_be_a_key(make, engine):
    keys = pa.array([b"\xff\x00", b"\x00\x01", b"a"], pa.binary())
    schema = "{entities: {c: {table: c}}, tables: {c: {key: id}}}"
    graph = make(schema, {"c": {"id": keys, "x": [1, 2, 3]}}, engine)
    assert graph.nodes("c")["id"].to_pylist() == [b"\x00\x01", b"a", b"\xff\x00"]


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_were_in_quarantine_before_may_go_there_again(make, engine):
    schema = "{entities: {c: {table: c}}, tables: {c: {key: id}}}"
    rows = {"id": [1, 1, None], "Quarantine_Reason": ["null key", None, "null key"]}
    graph = make(schema, {"c": rows}, engine)
    lost = pq.read_table(graph.path / "quarantine" / "c").sort_by("quarantine_reason_")
    assert lost["quarantine_reason_"].to_pylist() == ["duplicate key", "null key"]
    assert lost["Quarantine_Reason"].to_pylist() == [None, "null key"]


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_rows_that_refer_to_quarantined_ones_are_quarantined_in_any_order_of_tables(make, order):
    """Along chains of any length, within a table and round cycles; each row once."""
    tables = {
        "a": {"id": [1, 2, 3, 4], "up": [9, 1, 2, None]},
        "b": {"id": [1, 2, 3], "a": [3, 4, 4], "c": [1, 2, 3]},
        "c": {"id": [1, 2, 3], "b": [2, 1, 3]},
    }
    schema = CASCADE + "".join(f"  {CASCADED[name]}\n" for name in order)
    graph = make(schema, tables)
    assert ledger(graph)["closes"]
    assert graph.nodes("a")["id"].to_pylist() == [4]
    assert graph.nodes("b")["id"].to_pylist() == [3]
    lost = {t: sum(rows_of(graph, t)["quarantined"].values()) for t in order}
    assert lost == {"a": 3, "b": 2, "c": 2}
    for table, count in lost.items():
        assert len(pq.read_table(graph.path / "quarantine" / table)) == count
    findings = [f for t in order for f in rows_of(graph, t)["findings"]]
    orphans = [f["where"] for f in findings if f["kind"] == "orphaned reference"]
    assert sorted(orphans) == ["a.up → a", "b.a → a", "b.c → c", "c.b → b"]
    assert graph.edge_type("a--up--a").count == 0
