"""Rows that became known later: they cannot change what was known as of a moment."""

from __future__ import annotations

import json
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from isohop.cli import app
from isohop.errors import InvalidInput
from isohop.graph import Graph
from isohop.graph.build import build, check
from isohop.pipeline.pipeline_file import read_pipeline
from isohop.relational.as_of import NOTHING_SAYS

NOON = datetime(2026, 11, 20, 12)
SCHEMA = """
database: shop
source: {path: data}
tables:
  customer: {key: id, time: joined, columns: {joined: null}}
  orders:
    key: id
    surrogate: true
    time: at
    references:
      - {columns: customer_id, table: customer}
      - {columns: product_id, table: product}
  product: {key: id}
entities: {customer: {table: customer}, product: {table: product}}
"""
ENGINES = ["sail", pytest.param("spark", marks=pytest.mark.spark)]


def write(folder: Path, customers: list, orders: list, zone: str | None = None) -> Path:
    """``customers``: (id, name, joined); ``orders``: (id, customer, product, at)."""
    (folder / "data").mkdir(parents=True)
    stamp = pa.timestamp("us", zone)
    tables = {
        "customer": pa.table(
            {
                "id": pa.array([c[0] for c in customers], pa.int64()),
                "name": pa.array([c[1] for c in customers], pa.string()),
                "joined": pa.array([c[2] for c in customers], pa.date32()),
            }
        ),
        "orders": pa.table(
            {
                "id": pa.array([o[0] for o in orders], pa.int64()),
                "customer_id": pa.array([o[1] for o in orders], pa.int64()),
                "product_id": pa.array([o[2] for o in orders], pa.int64()),
                "at": pa.array([o[3] for o in orders], stamp),
            }
        ),
        "product": pa.table({"id": pa.array([1, 2, 3]), "name": ["soap", "tea", "oil"]}),
    }
    for name, table in tables.items():
        pq.write_table(table, folder / "data" / f"{name}.parquet")
    (folder / "schema.yaml").write_text(SCHEMA, "utf-8")
    return folder / "schema.yaml"


def graph_of(file: Path, engine: str, as_of: datetime | None = None) -> Graph:
    return build(file, file.parent / "graph", engine, as_of=as_of)


hours = st.none() | st.integers(-60, 60).map(lambda hour: NOON + timedelta(hours=hour))
days = st.none() | st.integers(-3, 3).map(lambda day: NOON.date() + timedelta(days=day))
names = st.sampled_from(["Ada", "Bo", None])
some_customers = st.lists(st.tuples(names, days), max_size=6)
some_orders = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), hours), max_size=10)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_came_later_change_nothing(engine):
    """A graph as of a moment is the graph of a database in which they are not yet, whichever engine
    built that."""

    @settings(
        max_examples=12 if engine == "sail" else 2,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=[Phase.generate],
    )
    @given(some_customers, some_orders)
    def holds(drawn_customers: list, drawn_orders: list) -> None:
        customers = [(index, *of) for index, of in enumerate(drawn_customers)]
        orders = [(index, *of) for index, of in enumerate(drawn_orders)]
        known = (
            [c for c in customers if c[2] is not None and c[2] < NOON.date()],
            [o for o in orders if o[3] is not None and o[3] < NOON],
        )
        with tempfile.TemporaryDirectory() as folder:
            whole = write(Path(folder) / "whole", customers, orders)
            then = write(Path(folder) / "then", *known)
            as_of = graph_of(whole, engine, NOON)
            assert as_of.manifest.certificate == graph_of(then, "sail").manifest.certificate
            rows = {
                t["table"]: t
                for t in json.loads((as_of.path / "ledger.json").read_text())["tables"]
            }
            for table, read, kept in (
                ("customer", customers, known[0]),
                ("orders", orders, known[1]),
            ):
                later = [n for why, n in rows[table]["unused"].items() if "known" in why]
                assert sum(later) == len(read) - len(kept)

    holds()


PRICED = """
database: shop
source: {path: data}
tables:
  customer: {key: id}
  orders:
    key: id
    surrogate: true
    time: at
    columns: {x: customer.x}
    references: [{columns: customer_id, table: customer}]
entities: {customer: {table: customer}}
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_value_of_a_column_says_nothing_of_types_before_it_is_known(tmp_path, engine):
    """A column that had no value yet has the type of what it is united with."""
    orders = pa.table(
        {
            "id": [1, 2],
            "customer_id": [1, 2],
            "x": pa.array([None, 2.5], pa.float64()),
            "at": [NOON - timedelta(days=1), NOON],
        }
    )
    graphs = []
    for rows in (2, 1):
        data = tmp_path / f"{rows}" / "data"
        data.mkdir(parents=True)
        pq.write_table(pa.table({"id": [1, 2], "x": [3, None]}), data / "customer.parquet")
        pq.write_table(orders.slice(0, rows), data / "orders.parquet")
        file = data.parent / "schema.yaml"
        file.write_text(PRICED, "utf-8")
        graphs.append(graph_of(file, engine, NOON))
    as_of, then = graphs
    assert as_of.node_types == then.node_types
    assert as_of.manifest.certificate == then.manifest.certificate


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_of_that_very_moment_is_not_known_yet(tmp_path, engine):
    orders = [(i, 1, 1 + i, NOON + timedelta(microseconds=i - 1)) for i in range(3)]
    file = write(tmp_path, [(1, "Ada", NOON.date() - timedelta(days=1))], orders)
    graph = graph_of(file, engine, NOON)
    assert [edge.count for edge in graph.edge_types] == [1]


def test_moments_are_in_utc_whatever_zone_names_them(tmp_path):
    customers = [(1, "Ada", NOON.date() - timedelta(days=5))]
    file = write(tmp_path, customers, [(0, 1, 1, NOON)], zone="UTC")
    edges = {}
    for moment in ("2026-11-20T12:00", "2026-11-20T13:30+01:00", "2026-11-20T12:30Z", "2026-11-21"):
        asked = ["build", str(file), "--out", str(tmp_path / "out"), "--as-of", moment]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output
        edges[moment] = sum(edge.count for edge in Graph.open(tmp_path / "out").edge_types)
    assert list(edges.values()) == [0, 1, 1, 1]


TEXTS = """
database: shop
source: {path: data}
tables: {orders: {key: id, time: at}}
entities: {orders: {table: orders}}
"""
KNOWN = ("2026-11-19", "2026-11-19T09:00:00", "2026-11-20T14:30:00+03:00")
LATER = ("2026-11-20", "2026-11-20 12:00", "2026-11-21", "2026-11-20T11:00:00-05:00")
UNTOLD = ("soon", None)
whens = st.sampled_from([*KNOWN, *LATER, *UNTOLD])
prices = st.sampled_from([7, 1250, 2.5, "n/a", "true", None])


def write_texts(folder: Path, rows: list[dict], suffix: str) -> Path:
    (folder / "data").mkdir(parents=True)
    lines = [json.dumps(row) for row in rows]
    if suffix == "csv":
        shown = [["" if value is None else str(value) for value in row.values()] for row in rows]
        lines = [",".join(line) for line in [["id", "price", "at"], *shown]]
    (folder / "data" / f"orders.{suffix}").write_text("\n".join(lines), "utf-8")
    (folder / "schema.yaml").write_text(TEXTS, "utf-8")
    return folder / "schema.yaml"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_of_texts_that_came_later_say_nothing_of_types_either(suffix):
    """What a column of CSV or JSON holds is read off the rows that were known."""

    @settings(
        max_examples=12,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=[Phase.generate],
    )
    @given(st.lists(st.tuples(prices, whens), max_size=6))
    def holds(drawn: list) -> None:
        first = [{"id": 0, "price": 3, "at": "2026-11-18"}]
        rows = first + [{"id": n, "price": p, "at": at} for n, (p, at) in enumerate(drawn, 1)]
        known = first + [row for row in rows[1:] if row["at"] in KNOWN]
        with tempfile.TemporaryDirectory() as folder:
            whole = write_texts(Path(folder) / "whole", rows, suffix)
            then = graph_of(write_texts(Path(folder) / "then", known, suffix), "sail")
            as_of = graph_of(whole, "sail", NOON)
            assert as_of.manifest.certificate == then.manifest.certificate
            assert as_of.node_types == then.node_types
            told = json.loads((as_of.path / "ledger.json").read_text("utf-8"))["tables"][0]
            assert told["rows"] == len(rows)
            assert sum(told["unused"].values()) == len(rows) - len(known)
            untold = [row for row in rows if row["at"] in UNTOLD]
            assert told["unused"].get("'at' does not say when it became known", 0) == len(untold)

    holds()


def test_a_text_that_is_no_time_of_the_type_that_is_stated_is_quarantined(tmp_path):
    rows = [{"id": n, "price": 1, "at": at} for n, at in enumerate(["2026-11-18", "soon", None])]
    file = write_texts(tmp_path, rows, "csv")
    file.write_text(TEXTS.replace("time: at", "time: at, types: {at: date}"), "utf-8")
    (told,) = json.loads((graph_of(file, "sail", NOON).path / "ledger.json").read_text())["tables"]
    assert (told["used"], told["quarantined"]) == (1, {"unreadable": 1})
    assert list(told["unused"].values()) == [1]


@pytest.mark.parametrize("stated", ["", ", types: {at: string}"])
def test_a_column_of_texts_of_which_none_is_a_time_is_told(tmp_path, stated):
    rows = [{"id": n, "price": 1, "at": at} for n, at in enumerate(["18/11/2026", "soon", None])]
    file = write_texts(tmp_path, rows, "csv")
    file.write_text(TEXTS.replace("time: at", f"time: at{stated}"), "utf-8")
    with pytest.raises(InvalidInput, match=r"orders\.at is string, which does not say when"):
        build(file, tmp_path / "out", as_of=NOON)


def test_what_is_no_time_is_told(tmp_path):
    file = write(tmp_path, [(1, "Ada", NOON.date())], [(0, 1, 1, NOON)])
    for said in ("yesterday", "20260105", "2026", "0001-01-01T00:00+05:00"):
        done = CliRunner().invoke(app, ["check", str(file), "--as-of", said])
        assert "is no time: say 2026-11-20" in str(done.exception)
    text = SCHEMA.replace("time: at", "time: product_id").replace("time: joined", "time: name")
    file.write_text(text, "utf-8")
    with pytest.raises(InvalidInput) as caught:
        build(file, tmp_path / "out", as_of=NOON)
    told = str(caught.value)
    assert "orders.product_id is int64, which does not say when" in told
    assert "customer.name is string" in told
    # Without a moment they need be none, but are told as well.
    _, ledger = check(file)
    assert [note for note in ledger.notes if "does not say when" in note] == [
        f"{what}, which does not say when a row became known. With --as-of it is a mistake."
        for what in ("customer.name is string", "orders.product_id is int64")
    ]


def test_a_time_without_values_says_nothing(tmp_path):
    file = write(tmp_path, [(1, None, None)], [(0, 1, 1, NOON)])
    file.write_text(SCHEMA.replace("time: joined", "time: name"), "utf-8")
    graph = build(file, tmp_path / "out", as_of=NOON + timedelta(days=1))
    assert "'name' does not say when" in (graph.path / "ledger.json").read_text("utf-8")


def test_where_nothing_says_when_all_is_known_and_that_is_told(tmp_path):
    file = write(tmp_path, [(1, "Ada", None)], [(0, 1, 1, None)])
    file.write_text(SCHEMA.replace("time: at", "").replace("time: joined,", ""), "utf-8")
    graph = build(file, tmp_path / "out", as_of=NOON)
    assert sum(edge.count for edge in graph.edge_types) == 1
    assert NOTHING_SAYS in (graph.path / "ledger.json").read_text("utf-8")


def test_a_pipeline_may_be_as_of_a_moment(tmp_path):
    file = write(tmp_path, [], [])
    pipeline = tmp_path / "pipeline.yaml"
    about = f"name: shop\nschema: {file}\nas_of: 2026-11-20\npublish: {{path: published}}\n"
    pipeline.write_text(about, "utf-8")
    assert read_pipeline(pipeline).settings.as_of == datetime(2026, 11, 20)
    changed = read_pipeline(pipeline, {"as_of": "2026-11-20T01:00:00+01:00"})
    assert changed.settings.as_of == datetime(2026, 11, 20)
