"""Infer: a schema file that builds as it is, and that finds what no key says."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from isohop.cli import app
from isohop.errors import InvalidInput, IsohopError
from isohop.graph import Graph
from isohop.graph.build import build
from isohop.graph.infer import Inferred, Rejected, _moved, infer
from isohop.relational.source import SourceSpec, open_source

ROOT = Path(__file__).parents[2]
ENGINES = ["sail", pytest.param("spark", marks=pytest.mark.spark)]
SHOPS = ["flat", "junction", "chain", "star"]


def written(folder: Path, tables: dict[str, dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def built(found: Inferred, folder: Path) -> Graph:
    file = folder / "inferred.yaml"
    file.write_text(found.text(), "utf-8")
    return build(file, folder / "graph")


@pytest.mark.parametrize("engine", ENGINES)
def test_four_schemas_with_keys_alone_are_one_graph(tmp_path, engine):
    """Nothing but keys, references and the name of the entity is told. Spark, which is slow at
    small ones, looks at the one that differs most."""
    certificates = set()
    for shop in SHOPS:
        told = yaml.safe_load((ROOT / "schemas" / "shop" / f"{shop}.yaml").read_text("utf-8"))
        path = (ROOT / "schemas" / "shop" / told["source"]["path"]).resolve()
        tables = {
            name: {
                "key": table.get("key"),
                "references": [
                    {"columns": r["columns"], "table": r["table"]}
                    for r in table.get("references", [])
                ],
            }
            for name, table in told["tables"].items()
        }
        file = tmp_path / f"{shop}.yaml"
        file.write_text(yaml.safe_dump({"source": {"path": str(path)}, "tables": tables}), "utf-8")
        entity = next(e["table"] for e in told["entities"].values())
        by = engine if shop == "junction" else "sail"
        found = infer(str(file), [entity], by, tmp_path)
        (tmp_path / shop).mkdir()
        certificates.add(built(found, tmp_path / shop).manifest.certificate)
    assert len(certificates) == 1


def orders(wrong: int) -> dict[str, dict]:
    """2,000 orders by 100 customers, whose city stands in every order; some are wrong."""
    draw = random.Random(1)
    who = [draw.randrange(100) for _ in range(2000)]
    cities = [f"city {n % 30}" for n in who]
    for at in range(wrong):
        cities[at * 7] = "nowhere"
    return {
        "customer": {"id": list(range(100)), "name": [f"n{n}" for n in range(100)]},
        "orders": {
            "id": list(range(1, 2001)),
            "customer_id": who,
            "city": cities,
            "sum": [draw.random() for _ in who],
            "how": [draw.choice(["card", "cash"]) for _ in who],
        },
    }


@pytest.mark.parametrize(
    ("engine", "wrong"),
    [("sail", 0), ("sail", 2), pytest.param("spark", 2, marks=pytest.mark.spark)],
)
def test_a_dependency_that_no_key_says_is_found_and_its_violations_reported(
    tmp_path, engine, wrong
):
    source = written(tmp_path / "data", orders(wrong))
    found = infer(str(source), ["customer"], engine, tmp_path)
    assert found.schema is not None
    assert found.schema.tables["orders"].determines == {"customer": ("city",)}
    assert f"{wrong} against it" in found.notes["tables", "orders", "determines", "customer"]
    graph = built(found, tmp_path)
    # Of two cities of a customer the one that most orders give is his; there is one for each.
    assert graph.edge_type("customer--city--customer.city").count == 100
    ledger = json.loads((graph.path / "ledger.json").read_text("utf-8"))
    assert ledger["closes"]
    violated = [f for f in ledger["findings"] if f["kind"] == "violated dependency"]
    assert sum(f["count"] for f in violated) == wrong
    assert all("nowhere" in "".join(f["examples"]) for f in violated)


def test_what_holds_by_chance_in_a_small_table_is_not_adopted(tmp_path):
    tables = orders(0)
    small = {name: {c: v[:20] for c, v in table.items()} for name, table in tables.items()}
    small["customer"] = tables["customer"]
    found = infer(str(written(tmp_path / "data", small)), ["customer"], base=tmp_path)
    assert found.schema is not None
    assert not found.schema.tables["orders"].determines


def test_without_entities_it_proposes_some_and_stops(tmp_path):
    found = infer(str(written(tmp_path / "data", orders(0))))
    assert found.schema is None
    assert found.proposed[0][0] in ("customer", "orders")
    assert all(reason for _, reason in found.proposed)


def test_a_table_that_refers_to_itself_becomes_an_entity_and_it_is_said(tmp_path):
    tables = orders(0)
    tables["staff"] = {"id": list(range(10)), "manager_id": [None, *range(9)], "x": ["a"] * 10}
    tables["orders"]["staff_id"] = [n % 10 for n in range(2000)]
    found = infer(str(written(tmp_path / "data", tables)), ["customer"], base=tmp_path)
    assert found.schema is not None
    assert found.schema.entities["staff"].table == "staff"
    assert "staff → staff" in found.notes["entities", "staff"]
    built(found, tmp_path)


def test_parts_of_a_table_are_found_and_united(tmp_path):
    tables = orders(0)
    whole = tables.pop("orders")
    for part, odd in (("orders_2023", 0), ("orders_2024", 1)):
        tables[part] = {c: [v for i, v in enumerate(vs) if i % 2 == odd] for c, vs in whole.items()}
    found = infer(str(written(tmp_path / "parts", tables)), ["customer"], base=tmp_path)
    one = infer(str(written(tmp_path / "whole", orders(0))), ["customer"], base=tmp_path)
    assert found.schema is not None
    assert found.schema.tables["orders"].parts == ("orders_2023", "orders_2024")
    united = built(found, tmp_path).manifest.certificate
    assert united == built(one, tmp_path).manifest.certificate


def test_mistakes_are_named_with_what_was_meant(tmp_path):
    source = str(written(tmp_path / "data", orders(0)))
    with pytest.raises(InvalidInput, match="Did you mean 'customer'"):
        infer(source, ["custmer"])
    result = CliRunner().invoke(app, ["infer", str(tmp_path / "nowhere"), "--entities", "x"])
    assert isinstance(result.exception, InvalidInput)
    assert "no folder" in str(result.exception)


def test_of_an_entity_without_a_key_it_is_told_what_comes_nearest_to_one(tmp_path):
    """And how to say that it is the key all the same."""
    numbers = ["", "1", *map(str, range(1, 121))]
    (tmp_path / "data").mkdir()
    text = "\n".join(["Kundennr,town", *(f"{number},town" for number in numbers)])
    (tmp_path / "data" / "kunde.csv").write_text(text, "utf-8")
    (tmp_path / "data" / "leer.csv").write_text("id,name\n", "utf-8")
    with pytest.raises(InvalidInput) as refused:
        infer(str(tmp_path / "data"), ["kunde", "leer"], base=tmp_path)
    told = str(refused.value)
    assert "'Kundennr' has 120 distinct values in 122 rows, 1 without any." in told
    assert "entity 'leer': its table is empty" in told
    assert "tables: {kunde: {key: COLUMN}, leer: {}}" in told
    (tmp_path / "own.yaml").write_text(
        "source: {path: data}\ntables: {kunde: {key: Kundennr}, leer: {}}", "utf-8"
    )
    found = infer(str(tmp_path / "own.yaml"), ["kunde"], base=tmp_path)
    assert built(found, tmp_path).node_type("kunde").count == 120


def test_of_tables_in_parts_it_is_told_by_the_names_that_the_source_has(tmp_path):
    """What is told can be said."""
    tables = orders(0)
    whole = tables.pop("orders")
    for part, odd in (("orders_2023", 0), ("orders_2024", 1)):
        tables[part] = {c: [v for i, v in enumerate(vs) if i % 2 == odd] for c, vs in whole.items()}
    tables["customer"] = {"id": [1, *range(1, 100)], "name": ["n"] * 100}
    with pytest.raises(InvalidInput) as refused:
        infer(str(written(tmp_path / "data", tables)), ["customer"], base=tmp_path)
    said = re.search(r"tables: \{.*\}(?=')", str(refused.value))
    text = "source: {path: data}\n" + said[0].replace("COLUMN", "id")
    (tmp_path / "own.yaml").write_text(text, "utf-8")
    found = infer(str(tmp_path / "own.yaml"), ["customer"], base=tmp_path)
    assert found.schema.tables["orders"].parts == ("orders_2023", "orders_2024")


def test_what_numpy_and_r_write_in_place_of_whole_numbers_costs_no_row(tmp_path):
    data = texts(tmp_path / "data")
    rows = (data / "orders.csv").read_text("utf-8").splitlines()
    for at, odd in ((3, "nan"), (5, "1e+03")):
        first, _, *others = rows[at].split(",")
        rows[at] = ",".join([first, odd, *others])
    (data / "orders.csv").write_text("\n".join(rows), "utf-8")
    found = infer(str(data), ["customer", "orders"], base=tmp_path)
    assert found.schema.tables["orders"].types["customer_id"] == "integer"
    built(found, tmp_path)
    ledger = json.loads((tmp_path / "graph" / "ledger.json").read_text("utf-8"))
    kinds = [one["kind"] for table in ledger["tables"] for one in table["findings"]]
    assert "unreadable rows" not in kinds


def test_the_file_and_the_report_are_written(tmp_path):
    source = str(written(tmp_path / "data", orders(0)))
    file = tmp_path / "shop.yaml"
    result = CliRunner().invoke(app, ["infer", source, "--entities", "customer", "-o", str(file)])
    assert result.exit_code == 0, result.output
    assert f"source: {{path: {source}}}" in file.read_text("utf-8")
    assert (tmp_path / "shop.left-out.md").read_text("utf-8").startswith("# Looked at and left out")
    build(file, tmp_path / "graph")
    # What a person has mended is not written over.
    file.write_text(file.read_text("utf-8") + "# mine\n", "utf-8")
    words = ["infer", source, "--entities", "customer", "-o", str(file)]
    assert "is there already" in str(CliRunner().invoke(app, words).exception)
    assert file.read_text("utf-8").endswith("# mine\n")
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0
    assert not file.read_text("utf-8").endswith("# mine\n")


def test_the_file_finds_the_database_from_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("shop.db") as database:
        database.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)")
        database.execute("INSERT INTO customer VALUES (1, 'a'), (2, 'b')")
    (tmp_path / "schemas").mkdir()
    found = infer("sqlite:///shop.db", ["customer"], base=tmp_path / "schemas")
    (tmp_path / "schemas" / "shop.yaml").write_text(found.text(), "utf-8")
    assert build(tmp_path / "schemas" / "shop.yaml", tmp_path / "g").nodes("customer").num_rows == 2


def test_where_nothing_looks_like_an_entity_infer_says_so(tmp_path):
    source = written(tmp_path / "data", {"note": {"text": ["a", "a"]}})
    done = CliRunner().invoke(app, ["infer", str(source)])
    assert "No table looks like an entity" in done.output


def test_rows_that_cannot_be_read_are_told_with_what_is_wrong(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"{i},n{i}" for i in range(9)]
    (data / "person.csv").write_text("\n".join(["id,name", *rows, "9,a,b"]), "utf-8")
    found = infer(str(data), ["person"])
    (told,) = [one for one in found.rejected if one.what == "unreadable rows"]
    assert told.where == "person"
    assert told.why == "1 of 10 rows cannot be read: row 11: 3 fields instead of 2"


def test_bytes_are_an_attribute_like_any_other(tmp_path):
    photos = pa.array([b"\x00\xff", b"\xff", None] * 10, pa.binary())
    source = written(tmp_path / "data", {"emp": {"id": range(30), "photo": photos}})
    assert infer(str(source), ["emp"]).schema is not None


def test_a_declared_reference_that_the_file_cannot_say_is_told(tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.executescript("""
            CREATE TABLE customer (id INTEGER PRIMARY KEY, code TEXT UNIQUE, name TEXT);
            INSERT INTO customer VALUES (1, 'a', 'Ada'), (2, 'b', 'Bea');
            CREATE TABLE orders (
                id INTEGER PRIMARY KEY, code TEXT REFERENCES customer (code), total REAL);
            INSERT INTO orders VALUES (7, 'a', 1.5), (8, 'b', 2.5);
        """)
    found = infer(f"sqlite:///{tmp_path}/shop.db", ["customer"])
    (told,) = (one for one in found.rejected if one.what == "declared reference")
    assert told.where == "orders.code refers to customer.code"
    assert "not the key of 'customer'" in told.why
    assert told.where in found.report()


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        ({"path": "data"}, {"path": "../data"}),
        ({"path": "s3://warehouse/shop"}, {"path": "s3://warehouse/shop"}),
        ({"url": "sqlite:///shop.db?timeout=9"}, {"url": "sqlite:///../shop.db?timeout=9"}),
        ({"url": "sqlite:////data/shop.db"}, {"url": "sqlite:////data/shop.db"}),
        ({"url": "postgresql://me@host/shop"}, {"url": "postgresql://me@host/shop"}),
    ],
)
def test_a_source_is_the_same_from_another_folder(given, moved):
    spec = SourceSpec.model_validate(given)
    assert _moved(spec, Path("/a"), Path("/a/schemas")) == SourceSpec.model_validate(moved)


def test_a_column_may_be_called_what_fills_several_lines(tmp_path):
    (tmp_path / "data").mkdir()
    rows = [f"{n},{('red', 'green', 'blue', 'grey')[n % 4]}" for n in range(40)]
    text = "\n".join(['id,"kind\nof: #it"', *rows])
    (tmp_path / "data" / "customer.csv").write_text(text, "utf-8")
    found = infer(str(tmp_path / "data"), ["customer"], base=tmp_path)
    (tmp_path / "schema.yaml").write_text(found.text(), "utf-8")
    assert '"customer.kind\\nof: #it": {kind: category}' in found.text()
    assert build(tmp_path / "schema.yaml", tmp_path / "g").node_type("customer").count == 40
    rejected = replace(found, rejected=(Rejected("a\nb", "c|d", "e\r\nf"),))
    assert rejected.report().splitlines()[4:] == ["| a b | c¦d | e f |"]


def bought(columns: dict[str, object], customer: dict[str, object] | None = None) -> dict:
    """2,000 orders of 100 customers, who determine what else there is."""
    draw = random.Random(1)
    who = [draw.randrange(100) for _ in range(2000)]
    numbers = {"id": list(range(1000, 1100))}
    return {
        "customers": {**numbers, **(customer or {})},
        "orders": {
            "id": list(range(5000, 7000)),
            "buyer_id": [1000 + one for one in who],
            **{name: [made(one) for one in who] for name, made in columns.items()},
        },
    }


REFERS = """
database: d
source: {path: data}
tables:
  customers: {key: id}
  orders: {key: id, references: [{columns: buyer_id, table: customers}]}
"""


def inferred(folder: Path, tables: dict, schema: str = REFERS) -> Inferred:
    written(folder / "data", tables)
    (folder / "t.yaml").write_text(schema, "utf-8")
    return infer(str(folder / "t.yaml"), ["customers"], base=folder)


@pytest.mark.parametrize("own", [range(100), [f"n{one}" for one in range(100)]])
def test_what_an_entity_says_of_itself_is_never_outvoted_by_what_others_say(tmp_path, own):
    """Whatever types the two are of."""
    found = inferred(tmp_path, bought({"buyer_score": lambda one: one * 7 % 31}, {"score": own}))
    (told,) = [one for one in found.rejected if one.where == "orders: buyer → buyer_score"]
    assert "'customers' has a 'score' of its own" in told.why
    graph = built(found, tmp_path)
    nodes = graph.nodes("customers").sort_by("id")
    assert nodes["score"].to_pylist() == list(own)
    assert "violated" not in (graph.path / "ledger.json").read_text("utf-8")


def test_a_column_may_be_called_as_a_key_of_whom_it_is_said(tmp_path):
    tables = bought({"buyer_id": lambda one: f"X{one * 7 % 31}"})
    tables["orders"]["buyer"] = [int(one[1:]) % 100 + 1000 for one in tables["orders"]["buyer_id"]]
    found = inferred(tmp_path, tables, REFERS.replace("columns: buyer_id", "columns: buyer"))
    assert built(found, tmp_path).node_type("customers").count == 100


@pytest.mark.parametrize("name", ["count", "src", "node_id"])
def test_what_an_entity_determines_may_be_called_as_what_a_dataset_needs(tmp_path, name):
    found = inferred(tmp_path, bought({f"buyer_{name}": lambda one: one * 7 % 31}))
    graph = built(found, tmp_path)
    (attribute,) = (
        one.name for one in graph.node_type("customers").attributes if one.name != "orders_count"
    )
    assert attribute != name
    nodes = graph.nodes("customers").to_pylist()
    assert all(node[attribute] == (node["id"] - 1000) * 7 % 31 for node in nodes)


@pytest.mark.parametrize(
    ("table", "entity"), [("all", "all_entity"), ("_post", "post"), ("a=b", "a_b"), ("x y", "x y")]
)
def test_an_entity_is_called_as_its_table_where_it_can_be(tmp_path, table, entity):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute(f'CREATE TABLE "{table}" (id INTEGER PRIMARY KEY, name TEXT)')
        database.execute(f"INSERT INTO \"{table}\" VALUES (1, 'a'), (2, 'b')")
    found = infer(f"sqlite:///{tmp_path}/shop.db", [table], base=tmp_path)
    assert built(found, tmp_path).node_type(entity).count == 2


def test_a_column_called_as_an_entity_leaves_what_the_entity_determines(tmp_path):
    """Of the file that was given: the column gets another name, and the owner keeps his."""
    tables = {
        "store": {"sid": [f"s{one}" for one in range(10)]},
        "trip": {
            "id": [f"t{one}" for one in range(200)],
            "store": [f"note {one % 37}" for one in range(200)],
            "store_id": [f"s{one % 10}" for one in range(200)],
            "manager": [f"m{one % 10 // 2}" for one in range(200)],
        },
    }
    written(tmp_path / "data", tables)
    (tmp_path / "t.yaml").write_text(
        """
        database: d
        source: {path: data}
        tables:
          store: {key: sid}
          trip:
            key: id
            references: [{columns: store_id, table: store}]
            determines: {store: [manager]}
        """,
        "utf-8",
    )
    found = infer(str(tmp_path / "t.yaml"), ["trip", "store"], base=tmp_path)
    trip = yaml.safe_load(found.text())["tables"]["trip"]
    assert trip["determines"] == {"store": ["manager"]}
    assert trip["columns"] == {"store": "trip_store"}
    assert built(found, tmp_path).node_type("store").count == 10


def test_a_file_with_parts_can_be_inferred_from_and_so_can_what_comes_of_it(tmp_path):
    years = {
        f"orders_{2023 + part}": {
            "id": list(range(1 + 50 * part, 51 + 50 * part)),
            "who": [f"w{n % 9}" for n in range(50)],
        }
        for part in range(3)
    }
    written(tmp_path / "data", {**years, "person": {"name": [f"w{n}" for n in range(9)]}})
    first = infer(str(tmp_path / "data"), ["person"], base=tmp_path)
    (tmp_path / "own.yaml").write_text(first.text(), "utf-8")
    again = infer(str(tmp_path / "own.yaml"), base=tmp_path)
    one, other = (yaml.safe_load(found.text())["tables"]["orders"] for found in (first, again))
    assert sorted(one["parts"]) == sorted(other["parts"]) == sorted(years)
    by_hand = {"database": "d", "source": {"path": "data"}}
    by_hand["tables"] = {"orders": {"parts": sorted(years)[:2], "key": "id"}}
    (tmp_path / "some.yaml").write_text(yaml.safe_dump(by_hand), "utf-8")
    some = infer(str(tmp_path / "some.yaml"), ["orders"], base=tmp_path)
    assert built(some, tmp_path).node_type("orders").count >= 100


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://u:geheim@127.0.0.1/", "database"),
        ("postgresql://u:ge/heim@127.0.0.1", "database"),
        ("postgresql://u:geheim@127.0.0.1/shop?password=geheim", "shop"),
        ("env:SHOP_URL", "shop"),
    ],
)
def test_nothing_that_is_inferred_from_a_server_has_its_password(tmp_path, monkeypatch, url, name):
    tables = written(tmp_path / "data", {"person": {"id": [1, 2], "name": ["a", "b"]}})
    opened = open_source(SourceSpec(path=str(tables)), tmp_path)
    monkeypatch.setattr("isohop.graph.infer.open_source", lambda *_: opened)
    monkeypatch.setenv("SHOP_URL", "postgresql://u:geheim@127.0.0.1/shop")
    assert yaml.safe_load(infer(url, ["person"]).text())["database"] == name
    with pytest.raises(InvalidInput) as error:
        infer(url, ["preson"])
    assert "heim" not in str(error.value)
    assert f"database {name}" in str(error.value)


def test_an_object_store_is_a_folder_of_tables(tmp_path, monkeypatch):
    """And no kind of database that nobody knows."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(IsohopError) as refused:
        infer("s3://warehouse/shop")
    assert "kind of database" not in str(refused.value)


def test_names_of_tables_that_are_not_there_are_told_at_once(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("customer", "orders"):
        pq.write_table(pa.table({"id": [1], "customer_id": [1]}), tmp_path / f"data/{name}.parquet")
    file = tmp_path / "tables.yaml"
    file.write_text(
        "source: {path: data}\nentities: {customer: {table: custmer}}\n"
        "tables:\n  customer: {key: id}\n"
        "  orders: {key: id, references: [{columns: customer_id, table: custmer}]}\n",
        "utf-8",
    )
    with pytest.raises(InvalidInput) as refused:
        infer(str(file))
    assert str(refused.value).count("there is no table 'custmer'") == 2


DAYS = [f"2024-01-{1 + one % 28:02d}" for one in range(40)]


def texts(folder: Path, stray: str = "") -> Path:
    """Orders in CSV and what they cost in JSON, which say no types; ``stray``: one cell more."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{one},{1000 + one % 7},{day},note {one % 9}" for one, day in enumerate(DAYS)]
    extra = [stray] if stray else []
    text = "\n".join(["id,customer_id,day,note", *rows, *extra])
    (folder / "orders.csv").write_text(text + "\n", "utf-8")
    people = [f"{1000 + one},name {one},{'true' if one % 2 else 'false'}" for one in range(7)]
    (folder / "customer.csv").write_text("\n".join(["id,name,active", *people]), "utf-8")
    bills = [{"orders_id": one, "sum": one + 0.5, "at": f"{d}T08:00"} for one, d in enumerate(DAYS)]
    (folder / "bill.json").write_text(json.dumps(bills), "utf-8")
    return folder


def test_the_types_that_were_recognised_in_texts_are_written(tmp_path):
    """So that a build goes by them: texts stay texts, which need not be said."""
    found = infer(str(texts(tmp_path / "data")), ["customer", "orders"], base=tmp_path)
    tables = yaml.safe_load(found.text())["tables"]
    assert {name: table.get("types") for name, table in tables.items()} == {
        "customer": {"id": "integer", "active": "boolean"},
        "orders": {"id": "integer", "customer_id": "integer", "day": "date"},
        "bill": {"orders_id": "integer", "sum": "number", "at": "timestamp"},
    }
    certificate = built(found, tmp_path).manifest.certificate
    for table in tables.values():
        table.pop("types")
    file = tmp_path / "untyped.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(found.text()), "tables": tables}), "utf-8")
    assert build(file, tmp_path / "untyped").manifest.certificate == certificate


@pytest.mark.parametrize("stray", ["n.n.,1000,2024-01-01,x", "40,n/a,2024-01-01,x"])
def test_a_stray_cell_of_a_later_day_costs_its_row_and_no_column_its_type(tmp_path, stray):
    found = infer(str(texts(tmp_path / "data")), ["customer", "orders"], base=tmp_path)
    before = built(found, tmp_path).manifest
    texts(tmp_path / "data", stray)
    graph = build(tmp_path / "inferred.yaml", tmp_path / "next")
    assert graph.manifest.certificate == before.certificate
    ledger = json.loads((graph.path / "ledger.json").read_text("utf-8"))
    (told,) = [one for table in ledger["tables"] for one in table["findings"]]
    assert (told["kind"], told["where"]) == ("unreadable rows", "orders")
    assert "is not an integer" in told["examples"][0]


def test_what_pandas_keeps_as_doubles_has_its_edges(tmp_path):
    gaps = [None if one % 4 == 0 else float(one % 100) for one in range(2000)]
    tables = orders(0)
    tables["orders"]["customer_id"] = gaps
    found = infer(str(written(tmp_path / "data", tables)), ["customer", "orders"], base=tmp_path)
    assert "types: {customer_id: integer}" in found.text()
    assert built(found, tmp_path).edge_type("orders--customer--customer").count == 1500


def test_types_that_a_file_says_stay_when_one_goes_on_from_it(tmp_path):
    texts(tmp_path / "data")
    file = tmp_path / "own.yaml"
    tables = {"orders": {"types": {"day": "string"}}, "customer": {}, "bill": {}}
    file.write_text(yaml.safe_dump({"source": {"path": "data"}, "tables": tables}), "utf-8")
    found = infer(str(file), ["customer"], base=tmp_path)
    types = yaml.safe_load(found.text())["tables"]["orders"]["types"]
    assert types == {"id": "integer", "customer_id": "integer", "day": "string"}
    (tmp_path / "first.yaml").write_text(found.text(), "utf-8")
    again = infer(str(tmp_path / "first.yaml"), base=tmp_path)
    told, more = (yaml.safe_load(one.text())["tables"] for one in (found, again))
    assert {n: t["types"] for n, t in more.items()} == {n: t["types"] for n, t in told.items()}


def test_types_are_written_where_a_source_has_none(tmp_path):
    """SQLite lets a column declare none; what it declares, and Parquet, need not be said again."""
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, age, note, p)")
        rows = [(one, f"n{one}", 20 + one, f"x {one % 3}", one / 4) for one in range(9)]
        database.executemany("INSERT INTO customer VALUES (?, ?, ?, ?, ?)", rows)
    found = infer(f"sqlite:///{tmp_path}/shop.db", ["customer"], base=tmp_path)
    assert found.schema is not None
    assert found.schema.tables["customer"].types == {"age": "integer", "p": "number"}
    assert built(found, tmp_path).node_type("customer").count == 9
    stored = infer(str(written(tmp_path / "data", orders(0))), ["customer"], base=tmp_path)
    assert stored.schema is not None
    assert not any(table.types for table in stored.schema.tables.values())
