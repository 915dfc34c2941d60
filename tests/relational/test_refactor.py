"""Each rewrite on a small database: what it makes, when it refuses, and what brings it back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from isohop.engines.spark import spark_session
from isohop.graph.audit import open_database
from isohop.graph.build import plan_schema
from isohop.relational.refactor import (
    ChainToStar,
    Database,
    ExtractLookup,
    HashKeys,
    InlineLookup,
    JunctionToReference,
    NaturalKey,
    NotLossless,
    ReferenceToJunction,
    RenameColumn,
    RenameTable,
    Renumber,
    Reorder,
    Rewrite,
    SplitRows,
    StarToChain,
    UniteRows,
    VerticalMerge,
    VerticalSplit,
)
from tests.graph.conftest import write_database

ENGINES = ["sail", pytest.param("spark", marks=pytest.mark.spark)]
SCHEMA = """
entities: {customer: {table: customer}}
tables:
  customer:
    key: [id]
    references: [{columns: [city_id], table: city}]
  city:
    key: [id]
    surrogate: true
    columns: {name: city, 'odd "name`': odd}
    references: [{columns: [country_id], table: country}]
  country: {key: [id], surrogate: true, columns: {name: country}}
  orders: {key: [id], surrogate: true, references: [{columns: [customer], table: customer}]}
"""
ROWS = {
    "customer": {
        "id": [1, 2, 3, 4],
        "name": ["a", "b", None, "d"],
        "born": [1990, 1991, None, None],
        "city_id": [10, 11, 10, None],
    },
    "city": {
        "id": [10, 11],
        "name": ["Köln", "東京"],
        'odd "name`': ["x", None],
        "country_id": [7, 8],
    },
    "country": {"id": [7, 8], "name": ["DE", "JP"]},
    "orders": {
        "id": [1, 2, 3],
        "customer": [1, 1, 4],
        "sum": [1.5, 2.0, None],
        "how": ["c", "c", None],
    },
}


@pytest.fixture(scope="module", params=ENGINES)
def shop(request, tmp_path_factory) -> Iterator[Database]:
    folder = tmp_path_factory.mktemp("shop")
    file = write_database(folder, SCHEMA, ROWS)
    with spark_session(request.param) as session:
        yield open_database(plan_schema(file), session, folder / "opened")


@pytest.fixture(scope="module")
def rows_of_shop(shop, tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    return rows(shop, tmp_path_factory.mktemp("rows"))


def rows(database: Database, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of all physical tables, in one order."""
    database.write(folder)
    found = {}
    for name in database.relations:
        table = ds.dataset(folder / name, format="parquet").to_table()
        table = table.select(sorted(table.column_names))
        found[name] = sorted(table.to_pylist(), key=str)
    return found


REVERSIBLE: list[Rewrite] = [
    VerticalSplit("customer", ("name", "born"), "details"),
    VerticalSplit("customer", ("name",), "details", sparse=True),
    VerticalSplit("customer", ("city_id", "born"), "details"),
    ReferenceToJunction("customer", 0, "lives_in"),
    RenameTable("city", "town"),
    RenameColumn("city", 'odd "name`', "tame"),
    RenameColumn("customer", "city_id", "lives"),
    SplitRows("customer", 3, 5),
    Reorder("orders", 3),
    ExtractLookup("customer", ("name", "born"), "person", ("name",)),
]


@pytest.mark.parametrize("rewrite", REVERSIBLE, ids=lambda r: type(r).__name__)
def test_the_inverse_brings_every_row_back(shop, rows_of_shop, tmp_path, rewrite):
    after = rewrite(shop)
    inverse = rewrite.inverse(shop)
    assert inverse is not None
    back = inverse(after)
    assert rows(back, tmp_path / "back") == rows_of_shop
    if type(rewrite) is not Reorder:
        assert rows(after, tmp_path / "after") != rows_of_shop


def test_a_lookup_with_a_surrogate_key_can_be_inlined_and_extracted(shop, tmp_path):
    inlined = InlineLookup("country")(shop)
    assert "country" not in inlined.tables
    held = rows(inlined, tmp_path / "a")["city"]
    assert {row["name_2"] for row in held} == {"DE", "JP"}
    assert inlined.tables["city"].columns["name_2"] == "country"
    again = InlineLookup("country").inverse(shop)
    assert again is not None
    back = rows(again(inlined), tmp_path / "b")
    assert {row["name_2"] for row in back["country"]} == {"DE", "JP"}
    assert len(back["city"]) == 2


def test_a_chain_becomes_a_star_and_a_chain_again(shop, tmp_path):
    star = ChainToStar("city", 0)(shop)
    assert [r.table for r in star.tables["customer"].references or ()] == ["city", "country"]
    assert star.tables["city"].references == ()
    chain = StarToChain("customer", 0, 1)(star)
    found = rows(chain, tmp_path)
    assert {(row["name"], row["country_id"]) for row in found["city"]} == {("Köln", 7), ("東京", 8)}


@pytest.mark.parametrize("rewrite", [Renumber("city", 3), HashKeys("city", 3)])
def test_new_surrogate_keys_lead_to_the_same_rows(shop, tmp_path, rewrite):
    found = rows(rewrite(shop), tmp_path)
    names = {row["id"]: row["name"] for row in found["city"]}
    lives = {row["id"]: names.get(row["city_id"]) for row in found["customer"]}
    assert lives == {1: "Köln", 2: "東京", 3: "Köln", 4: None}
    assert set(names) != {10, 11}


def test_a_natural_key_takes_the_place_of_a_surrogate(shop, tmp_path):
    after = NaturalKey("city", ("name",))(shop)
    found = rows(after, tmp_path)
    assert {row["id"]: row["name_2"] for row in found["customer"]} == {
        1: "Köln",
        2: "東京",
        3: "Köln",
        4: None,
    }
    assert after.tables["city"].key == ("name",)
    assert not after.tables["city"].surrogate


REFUSED: list[tuple[Rewrite, str]] = [
    (VerticalSplit("customer", ("id",), "x"), "a key column cannot leave"),
    (VerticalSplit("customer", ("name",), "City"), "there is a table"),
    (VerticalSplit("nowhere", ("name",), "x"), "there is no table"),
    (VerticalMerge("customer", "orders"), "does not refer"),
    (JunctionToReference("customer", "orders"), "more than one reference"),
    (ExtractLookup("orders", ("how", "sum"), "x", ("how",)), "do not determine"),
    (ExtractLookup("customer", ("born", "name"), "x", ("born",)), "NULL"),
    (InlineLookup("customer"), "entity's home"),
    (InlineLookup("orders"), "no table refers"),
    (ChainToStar("country", 0), "no such reference"),
    (StarToChain("customer", 0, 1), "no such references"),
    (Renumber("customer", 1), "a fact"),
    (NaturalKey("city", ('odd "name`',)), "do not identify"),
    (UniteRows("city", "x"), "in one piece"),
    (RenameColumn("city", "name", "ID"), "has a column"),
]


@pytest.mark.parametrize(("rewrite", "why"), REFUSED, ids=lambda r: str(r)[:40])
def test_what_would_lose_a_fact_is_refused_with_the_reason(shop, rewrite, why):
    with pytest.raises(NotLossless, match=why):
        rewrite(shop)


def refused(folder: Path, schema: str, tables: dict, rewrite: Rewrite, why: str) -> None:
    file = write_database(folder, schema, tables)
    with spark_session("sail") as session:
        database = open_database(plan_schema(file), session, folder / "opened")
        with pytest.raises(NotLossless, match=why):
            rewrite(database)


def test_a_lookup_row_that_nothing_refers_to_is_not_inlined_away(tmp_path):
    lonely = {**ROWS, "country": {"id": [7, 8, 9], "name": ["DE", "JP", "FR"]}}
    refused(tmp_path, SCHEMA, lonely, InlineLookup("country"), "rows that nothing refers to")


def test_an_orphan_keeps_surrogate_keys_from_being_renumbered(tmp_path):
    orphan = {**ROWS, "customer": {**ROWS["customer"], "city_id": [10, 11, 10, 99]}}
    refused(tmp_path, SCHEMA, orphan, Renumber("city", 1), "rows that 'city' lacks")


def test_a_key_that_is_referred_to_from_further_away_is_not_renumbered(tmp_path):
    schema = """
    entities: {customer: {table: customer}}
    tables:
      customer: {key: [id]}
      orders: {key: [oid], surrogate: true, references: [{columns: [customer], table: customer}]}
      line: {key: [oid, nr], references: [{columns: [oid], table: orders}]}
      parcel: {key: [oid, nr], references: [{columns: [oid, nr], table: line}]}
    """
    lines = {"oid": [5, 5, 6], "nr": [1, 2, 1]}
    tables = {
        "customer": {"id": [1, 2]},
        "orders": {"oid": [5, 6], "customer": [1, 2]},
        "line": {**lines, "sum": [1.5, 2.5, 3.5]},
        "parcel": {**lines, "weight": [10, 20, 30]},
    }
    refused(
        tmp_path, schema, tables, Renumber("orders", 1), "oid of 'line' is referred to in its turn"
    )


def test_columns_are_not_brought_to_a_part_of_the_table_that_has_them(tmp_path):
    schema = SCHEMA + "  address: {key: [id], references: [{columns: [id], table: city}]}"
    tables = {**ROWS, "address": {"id": [10, 11], "street": ["x", "y"]}}
    refused(tmp_path, schema, tables, ChainToStar("city", 0), "'address' is a part of 'city'")


def test_a_lookup_is_not_inlined_into_its_own_part(tmp_path):
    """The part would take the lookup's columns with it, and nothing leads to the part then."""
    schema = """
    entities: {customer: {table: customer}}
    tables:
      customer: {key: [id], references: [{columns: [town], table: city}]}
      city: {key: [town]}
      address: {key: [town], references: [{columns: [town], table: city}]}
    """
    tables = {
        "customer": {"id": [1, 2], "town": ["Ulm", "Bonn"]},
        "city": {"town": ["Ulm", "Bonn"], "river": ["Danube", "Rhine"]},
        "address": {"town": ["Ulm", "Bonn"], "street": ["x", "y"]},
    }
    refused(tmp_path, schema, tables, InlineLookup("city"), "'address' is a part of 'city'")


def test_empty_tables_can_be_rewritten(tmp_path):
    empty = {name: pa.table(columns).slice(0, 0) for name, columns in ROWS.items()}
    file = write_database(tmp_path, SCHEMA, empty)
    with spark_session("sail") as session:
        database = open_database(plan_schema(file), session, tmp_path / "opened")
        for rewrite in [*REVERSIBLE, InlineLookup("country"), Renumber("city", 1)]:
            assert all(not held for held in rows(rewrite(database), tmp_path / "out").values())
