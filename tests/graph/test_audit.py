"""The audit: it finds nothing where there is nothing, and the smallest cause where there is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from isohop.cli import app
from isohop.graph.audit import audit
from isohop.hops import proposals
from isohop.relational.refactor import InlineLookup, RenameColumn
from tests.graph.conftest import write_database

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "schemas" / "shop" / "chain.yaml"


def decimals(values: list[str], scale: int) -> pa.Array:
    return pa.array([Decimal(value) for value in values], pa.decimal128(10, scale))


@pytest.mark.parametrize("mapping", [True, False])
def test_no_rewrite_of_the_shop_changes_its_graph(mapping):
    found = audit(SHOP, rewrites=8, seed=3, mapping=mapping)
    assert found.failure is None
    assert found.equal == len(found.trials) == 8
    assert sum(found.applied.values()) >= 8
    for trial in found.trials:
        assert trial.hops == found.original.hops
    assert any(len(found.moved(index)) > 1 for index in range(len(found.pairs)))


@pytest.mark.spark
def test_the_audit_runs_on_spark():
    assert audit(SHOP, rewrites=1, seed=4, engine="spark").equal == 1


@pytest.mark.data
@pytest.mark.parametrize("mapping", [True, False])
def test_no_rewrite_of_a_real_database_changes_its_graph(mapping):
    found = audit(ROOT / "schemas" / "sakila.yaml", rewrites=2, seed=5, mapping=mapping)
    assert found.failure is None, (found.failure, found.error)
    assert found.equal == 2


def test_a_rewrite_that_loses_facts_is_found_and_shrunk(monkeypatch):
    """Renaming is made to lose the values of the column it renames."""
    rename = RenameColumn.__call__

    def losing(self, database):
        from pyspark.sql import functions as F

        after = rename(self, database)
        part = after.parts(self.table)[0]
        relation = after.relations[part]
        if self.column in (database.tables[self.table].key or ()):
            return after
        internal = relation.columns[self.name]
        type_ = dict(relation.frame.dtypes)[internal]
        frame = relation.frame.withColumn(internal, F.lit(None).cast(type_))
        return after.changed({}, {part: replace(relation, frame=frame)})

    monkeypatch.setattr(RenameColumn, "__call__", losing)
    result = CliRunner().invoke(app, ["audit", str(SHOP), "--rewrites", "30", "--seed", "1"])
    assert result.exit_code == 1
    told = result.stderr.strip().splitlines()
    (cause,) = [line for line in told if line.startswith("  ")][-1:]
    assert cause.startswith("  RenameColumn(")
    assert sum(line.startswith("  Re") for line in told) == 1


def test_no_value_of_an_event_is_lost_with_a_lookup_and_its_part(tmp_path, monkeypatch):
    kinds = [proposals._split, proposals._inline]
    monkeypatch.setattr(proposals, "_KINDS", kinds)
    schema = """
    entities: {guest: {table: guest}}
    tables:
      guest: {key: [id]}
      visit:
        key: [id]
        surrogate: true
        references: [{columns: [guest], table: guest}, {columns: [city], table: city}]
      city: {key: [code], references: [{columns: [region], table: region}]}
      region: {key: [id], surrogate: true}
    """
    tables = {
        "guest": {"id": [1, 2]},
        "visit": {"id": [1, 2, 3, 4], "guest": [1, 1, 2, 2], "city": ["A", "B", "C", "A"]},
        "city": {"code": ["A", "B", "C"], "region": [7, 8, 7]},
        "region": {"id": [7, 8], "climate": ["wet", "dry"]},
    }
    found = audit(write_database(tmp_path, schema, tables), rewrites=4, seed=2)
    assert found.failure is None, (found.failure, found.error)
    assert found.refused["InlineLookup"] > 0


def test_a_rewrite_that_leaves_no_schema_is_found(monkeypatch):
    """Inlining is made to say of columns that they are those of an entity that is none."""
    inline = InlineLookup.__call__

    def misnaming(self, database):
        after = inline(self, database)
        name = database.referrers(self.lookup)[0][0]
        table = after.tables[name]
        columns = {column: f"nobody.{called}" for column, called in table.columns.items()}
        return after.changed({name: table.model_copy(update={"columns": columns})}, {})

    monkeypatch.setattr(InlineLookup, "__call__", misnaming)
    monkeypatch.setattr(proposals, "_KINDS", [proposals._inline])
    found = audit(SHOP, rewrites=3, seed=1, steps=1)
    assert [type(rewrite) for rewrite in found.failure or ()] == [InlineLookup]
    assert found.error.startswith("InvalidInput")


COARSE = decimals(["1.2", "2.5", "1.2"], 1)
FINE = decimals(["1.25", "3.75", "2.50"], 2)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([COARSE], [FINE]),
        ([FINE], [COARSE[:2]]),
        (
            [pa.array([b"\xff", b"a", b"a"]), pa.array([1, 2, 1])],
            [pa.array([b"\xff", b"\xff", b"a"]), pa.array([2, 3, 2])],
        ),
    ],
    ids=["finer keys", "coarser keys", "bytes"],
)
def test_keys_of_any_type_are_audited(tmp_path, ours, theirs):
    """One of three rows refers to a row that is there."""
    columns = [f"k{at}" for at in range(len(ours))]
    schema = f"""
    entities: {{price: {{table: price}}, sale: {{table: sale}}}}
    tables:
      price: {{key: {columns}}}
      sale: {{key: [id], references: [{{columns: {columns}, table: price}}]}}
    """
    tables = {
        "price": pa.table(dict(zip(columns, theirs, strict=True))),
        "sale": pa.table({"id": [1, 2, 3], **dict(zip(columns, ours, strict=True))}),
    }
    found = audit(write_database(tmp_path, schema, tables), rewrites=2, seed=5)
    assert found.failure is None, (found.failure, found.error)
    assert found.original.plain_edges == 1


@pytest.mark.parametrize("mapping", [True, False])
def test_tables_whose_files_a_folder_would_hide_are_audited(tmp_path, mapping):
    """A database has names that a folder passes over: Prisma's junction tables are such."""
    with closing(sqlite3.connect(tmp_path / "blog.db")) as opened, opened:
        opened.executescript("""
            CREATE TABLE _post (id INTEGER PRIMARY KEY, title TEXT);
            CREATE TABLE tag (id INTEGER PRIMARY KEY, name TEXT);
            CREATE TABLE _PostToTag (a INTEGER REFERENCES _post, b INTEGER REFERENCES tag, n TEXT);
            INSERT INTO _post VALUES (11, 'x'), (25, 'y'), (18, 'z');
            INSERT INTO tag VALUES (31, 't'), (47, 'u'), (39, 't');
            INSERT INTO _PostToTag VALUES (11, 31, 'p'), (11, 47, 'q'), (25, 31, 'p');
        """)
    raw = {
        "database": "blog",
        "source": {"url": "sqlite:///blog.db"},
        "tables": {name: {} for name in ("_post", "tag", "_PostToTag")},
        "entities": {"post": {"table": "_post"}, "tag": {"table": "tag"}},
    }
    file = tmp_path / "schema.yaml"
    file.write_text(yaml.safe_dump(raw), "utf-8")
    found = audit(file, rewrites=6, seed=2, mapping=mapping)
    assert found.failure is None, (found.failure, found.error)
    assert found.original.plain_edges == 6


def test_an_entity_that_no_table_is_of_keeps_the_name_that_it_is_known_by(tmp_path, monkeypatch):
    """Told names alone, nobody could find it under another."""
    kinds = [kind for kind in proposals._KINDS if "column" in kind.__name__]
    monkeypatch.setattr(proposals, "_KINDS", kinds)
    schema = """
    entities: {customer_id: {key: [customer_id]}}
    tables: {history: {key: [customer_id, since]}}
    """
    history = {
        "customer_id": [n // 3 for n in range(60)],
        "since": [f"2026-01-{n % 3 + 1:02}" for n in range(60)],
        "city": [f"city {n * 7 % 11}" for n in range(60)],
    }
    file = write_database(tmp_path, schema, {"history": history})
    found = audit(file, rewrites=4, seed=5, mapping=False)
    assert found.failure is None, (found.failure, found.error)
    assert found.refused["RenameColumn"] > 0


TOWNS = {
    "mapped": (
        """
        entities: {person: {table: person}, city: {key: [city]}}
        tables: {person: {key: [id], columns: {town: city}}}
        """,
        {"town": ["p", "q", "p", "q", "r", None]},
        {},
        "RenameColumn",
    ),
    "mapped in a role": (
        """
        entities: {person: {table: person}, town: {key: [town]}}
        tables: {person: {key: [id], columns: {home: home_town}}}
        """,
        {"home": ["p", "q", "p", "q", "r", None]},
        {},
        "RenameColumn",
    ),
    "in a role": (
        """
        entities: {person: {table: person}, town: {key: [town]}}
        tables: {person: {key: [id]}}
        """,
        {"town": ["p", "q", "p", "q", "r", None], "home_town": ["p", "p", "q", "r", "q", "q"]},
        {},
        "RenameColumn",
    ),
    "in a lookup": (
        """
        entities: {person: {table: person}, town: {key: [town]}}
        tables:
          person: {key: [id], references: [{columns: [place_id], table: place}]}
          place: {key: [id], surrogate: true}
        """,
        {"place_id": [1, 2, 3, 1, 2, 4]},
        {"place": {"id": [1, 2, 3, 4], "town": ["p", "q", "p", "r"], "size": [1.5, 2, 3, 1.5]}},
        "InlineLookup",
    ),
}


@pytest.mark.parametrize("where", TOWNS)
def test_no_rewrite_takes_the_name_that_an_entity_without_a_table_is_found_by(
    tmp_path, monkeypatch, where
):
    """Where the file maps a column to that name, and where a prefix goes before it."""
    schema, columns, others, kind = TOWNS[where]
    person = {"id": [103, 209, 304, 417, 525, 631], "name": list("abcdef"), **columns}
    monkeypatch.setattr(proposals, "_KINDS", [proposals._rename_column, proposals._inline])
    file = write_database(tmp_path, schema, {"person": person, **others})
    found = audit(file, rewrites=4, seed=5, mapping=False)
    assert found.failure is None, (found.failure, found.error)
    assert found.refused[kind] > 0
