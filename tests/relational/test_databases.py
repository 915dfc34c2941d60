"""Databases: reflected, streamed in one state, and landed by declared types."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from isohop.errors import InvalidInput, IsohopError
from isohop.relational.landing import LandedTable
from isohop.relational.source import (
    Source,
    SourceReference,
    SourceSpec,
    open_source,
)
from tests.relational.conftest import PASSWORD


def _rows(table: LandedTable) -> list[dict[str, Any]]:
    return pq.read_table(list(table.paths)).to_pylist()


def _rejected(table: LandedTable) -> list[dict[str, Any]]:
    return [] if table.quarantine is None else pq.read_table(table.quarantine).to_pylist()


def _types(table: LandedTable) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


@contextmanager
def _sqlite(folder: Path, script: str, *rows: tuple[str, list[Any]]) -> Iterator[Source]:
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        connection.executescript(script)
        for statement, values in rows:
            connection.executemany(statement, values)
        connection.commit()
    with closing(open_source(SourceSpec(url="sqlite:///shop.db"), folder)) as source:
        yield source


@contextmanager
def _postgres(url: str, *statements: str, schema: str | None = None) -> Iterator[Source]:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]
    spec = SourceSpec(url=url, schema=schema)
    with closing(open_source(spec, Path("nowhere"))) as source:
        yield source


def test_sqlite_keys_and_references_are_reflected(tmp_path: Path) -> None:
    script = """
        CREATE TABLE country (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE city (country INT REFERENCES Country, no INT, name, PRIMARY KEY (country, no));
        CREATE TABLE person (home INT, no INT, other INT REFERENCES country (ID),
                             FOREIGN KEY (HOME, no) REFERENCES city (Country, NO));
        CREATE TABLE keyless (x INT);
        CREATE TABLE lost (x INT REFERENCES keyless, y INT REFERENCES gone (id));
        CREATE VIEW everyone AS SELECT * FROM person;
    """
    with _sqlite(tmp_path, script) as source:
        tables = source.tables()
    assert list(tables) == ["city", "country", "keyless", "lost", "person"]
    assert tables["lost"].references == ()
    assert tables["country"].key == ("id",)
    assert tables["city"].key == ("country", "no")
    assert tables["city"].references == (SourceReference(("country",), "country", ("id",)),)
    assert tables["person"].key is None
    assert tables["person"].references == (
        SourceReference(("home", "no"), "city", ("country", "no")),
        SourceReference(("other",), "country", ("id",)),
    )


def test_sqlite_columns_land_by_declared_type(tmp_path: Path) -> None:
    script = """
        CREATE TABLE t (i INTEGER PRIMARY KEY, big BIGINT, r REAL, n NUMERIC, d DECIMAL(10, 2),
                        s VARCHAR(9), b BOOLEAN, da DATE, ts DATETIME, ti TIME, bl BLOB);
    """
    values = [
        (1, 2**63 - 1, 0.1, 2, 2.5, "ü", 1, "2020-02-29", "2020-02-29 10:00:00", "10:00", b"\xff"),
        (2, None, 1e300, None, None, "", "false", None, "2020-02-29T10:00:00Z", None, b""),
        (3, -1, float("inf"), 1.5, 3, None, None, "2020-02-29 00:00:00", None, None, None),
    ]
    statement = f"INSERT INTO t VALUES ({', '.join('?' * 11)})"
    with _sqlite(tmp_path, script, (statement, values)) as source:
        declared = {column.name: str(column.type) for column in source.tables()["t"].columns}
        table = source.land("t", tmp_path / "landed")
    day, noon = dt.date(2020, 2, 29), dt.datetime(2020, 2, 29, 10)
    assert [tuple(row.values()) for row in _rows(table)] == [
        (1, 2**63 - 1, 0.1, 2.0, 2.5, "ü", True, day, noon, "10:00", b"\xff"),
        (2, None, 1e300, None, None, "", False, None, noon, None, b""),
        (3, -1, None, 1.5, 3.0, None, None, day, None, None, None),
    ]
    assert _types(table) == declared
    assert table.notes == ("column 'r': 1 NaN or infinite, read as NULL",)


def test_sqlite_values_that_do_not_fit_quarantine_their_row(tmp_path: Path) -> None:
    script = "CREATE TABLE t (i INTEGER PRIMARY KEY, n INT, r REAL, da DATE, s TEXT);"
    values = [
        (1, "abc", 1.5, None, "a"),
        (2, 5, "much", "2020-02-30", "b"),
        (3, 1.5, 2, None, b"\xff"),
        (4, None, None, None, None),
    ]
    text = "INSERT INTO t VALUES (5, 1, 1, NULL, CAST(x'ff61' AS TEXT))"
    insert = "INSERT INTO t VALUES (?, ?, ?, ?, ?)"
    with _sqlite(tmp_path, script, (insert, values), (text, [()])) as source:
        table = source.land("t", tmp_path / "landed")
    assert [row["i"] for row in _rows(table)] == [4]
    assert (table.rows, table.rows_read) == (1, 5)
    rejected = _rejected(table)
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (1, "column n: 'abc' is not an integer"),
        (2, "column r: 'much' is not a number; column da: '2020-02-30' is not a date"),
        (3, "column n: '1.5' is not an integer; column s: '\\xff' is not a string"),
        (5, "column s: not UTF-8"),
    ]
    assert '"abc"' in rejected[0]["raw"]


def test_sqlite_columns_without_a_known_type_land_by_content(tmp_path: Path) -> None:
    script = "CREATE TABLE t (a, b STRING, c WHATEVER, d, e, f);"
    values = [(1, "x", 1.5, b"\xff", None, 1), (2, "007", 2, None, None, "x")]
    with _sqlite(tmp_path, script, ("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", values)) as source:
        assert [column.type for column in source.tables()["t"].columns] == [None] * 6
        table = source.land("t", tmp_path / "landed")
    assert [tuple(row.values()) for row in _rows(table)] == [
        (1, "x", 1.5, b"\xff", None, "1"),
        (2, "7", 2.0, None, None, "x"),  # SQLite itself made 7 of 007: STRING is numeric to it
    ]
    assert table.all_null == ("e",)


def test_sqlite_types_can_be_stated(tmp_path: Path) -> None:
    script = "CREATE TABLE t (i TEXT, r TEXT, d INTEGER);"
    values = [("007", 0.1, 20200229), ("x", None, 1)]
    with _sqlite(tmp_path, script, ("INSERT INTO t VALUES (?, ?, ?)", values)) as source:
        table = source.land(
            "t", tmp_path / "a", types={"i": "integer", "r": "number", "d": "string"}
        )
    assert _rows(table) == [{"i": 7, "r": 0.1, "d": "20200229"}]
    assert _rejected(table)[0]["reason"] == "column i: 'x' is not an integer"


def test_names_may_be_anything(tmp_path: Path) -> None:
    name, column = 'ta.b"l`e %(x)s :y ü', "co l\"u.m'n %s ?"
    quoted, column_quoted = name.replace('"', '""'), column.replace('"', '""')
    script = (
        f'CREATE TABLE "{quoted}" ("{column_quoted}" TEXT, "select" INT, PRIMARY KEY ("select"));'
    )
    with _sqlite(tmp_path, script, (f'INSERT INTO "{quoted}" VALUES (?, ?)', [("a", 1)])) as source:
        assert source.tables()[name].key == ("select",)
        assert _rows(source.land(name, tmp_path / "landed")) == [{column: "a", "select": 1}]


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    script = "CREATE TABLE t (i INT, s TEXT, d DATE, x); CREATE TABLE u (i INT);"
    with _sqlite(tmp_path, script) as source:
        table = source.land("t", tmp_path / "landed")
    assert (table.rows, table.rows_read, table.all_null) == (0, 0, ("i", "s", "d", "x"))
    assert _types(table) == {"i": "int64", "s": "string", "d": "date32[day]", "x": "string"}


def test_late_values_of_another_kind_are_no_surprise(tmp_path: Path) -> None:
    values: list[tuple[Any, ...]] = [(n, None, 1) for n in range(5000)]
    values += [(5000, 2.5, "x"), (5001, 1, b"\xff")]
    script = "CREATE TABLE t (i INTEGER PRIMARY KEY, r REAL, n INT);"
    with _sqlite(tmp_path, script, ("INSERT INTO t VALUES (?, ?, ?)", values)) as source:
        table = source.land("t", tmp_path / "landed")
    assert (table.rows, table.rows_read) == (5000, 5002)
    assert [row["row"] for row in _rejected(table)] == [5001, 5002]


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    script = "CREATE TABLE t (i INT, bad INT, s TEXT);"
    with _sqlite(tmp_path, script, ("INSERT INTO t VALUES (?, ?, ?)", [(1, "x", "a")])) as source:
        table = source.land("t", tmp_path / "landed", columns=["s", "i"])
    assert _rows(table) == [{"i": 1, "s": "a"}]


def test_names_that_differ_in_capitals_and_empty_databases_are_errors(tmp_path: Path) -> None:
    with _sqlite(tmp_path, "") as source, pytest.raises(InvalidInput, match="no table"):
        source.tables()
    with pytest.raises(InvalidInput, match=r"no schema 'mian'\. Did you mean 'main'"):
        open_source(SourceSpec(url="sqlite:///shop.db", schema="mian"), tmp_path).tables()


def test_a_fingerprint_is_of_the_rows_whatever_their_order(tmp_path: Path) -> None:
    marks = []
    for name, values in (
        ("a", [(1, "x"), (2, "y"), (2, None)]),
        ("b", [(2, None), (2, "y"), (1, "x")]),
        ("c", [(2, None), (2, "y"), (1, "z")]),
    ):
        (tmp_path / name).mkdir()
        script = "CREATE TABLE t (i INT, s TEXT);"
        with _sqlite(tmp_path / name, script, ("INSERT INTO t VALUES (?, ?)", values)) as source:
            marks.append(source.fingerprint("t"))
            assert source.land("t", tmp_path / name / "landed").fingerprint == marks[-1]
    assert marks[0] == marks[1] != marks[2]


def test_sqlite_is_never_written_to(tmp_path: Path) -> None:
    with _sqlite(tmp_path, "CREATE TABLE t (i INT);") as source:
        before = (tmp_path / "shop.db").read_bytes()
        source.land("t", tmp_path / "landed")
    assert (tmp_path / "shop.db").read_bytes() == before


NOON = dt.datetime(2020, 2, 29, 10)
UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
POSTGRES_TYPES: dict[str, tuple[str, str, Any, str]] = {
    "smallint": ("smallint", "-5", -5, "int64"),
    "bigint": ("bigint", "9223372036854775807", 2**63 - 1, "int64"),
    "real": ("real", "0.25", 0.25, "double"),
    "double": ("double precision", "0.1", 0.1, "double"),
    "money_": ("numeric(10, 2)", "1.10", Decimal("1.10"), "decimal128(10, 2)"),
    "whole": ("numeric", "9007199254740993", 2**53 + 1, "int64"),
    "wide": ("numeric(60, 2)", "1.5", 1.5, "double"),
    "flag": ("boolean", "true", True, "bool"),
    "day": ("date", "2020-02-29", dt.date(2020, 2, 29), "date32[day]"),
    "local": ("timestamp", "2020-02-29 10:00:00", NOON, "timestamp[us]"),
    "instant": ("timestamptz", "2020-02-29 12:00:00+02", NOON, "timestamp[us]"),
    "bytes": ("bytea", "\\x00ff", b"\0\xff", "binary"),
    "text": ("text", "ü ''x''", "ü 'x'", "string"),
    "fixed": ("char(5)", "ab", "ab", "string"),
    "uuid": ("uuid", UUID.upper(), UUID, "string"),
    "json": ("jsonb", '{"a": [1]}', '{"a": [1]}', "string"),
    "mood": ("mood", "calm", "calm", "string"),
    "email": ("email", "a@b", "a@b", "string"),
    "amount": ("amount", "7", 7, "int64"),
    "array": ("text[]", "{x,y}", "{x,y}", "string"),
    "clock": ("time", "10:00", "10:00:00", "string"),
    "span": ("interval", "1 day", "1 day", "string"),
    "network": ("inet", "10.0.0.1", "10.0.0.1/32", "string"),
}  # fmt: skip


@pytest.mark.postgres
def test_postgres_types_land(tmp_path: Path, postgres: str) -> None:
    columns = ", ".join(f'"{name}" {type}' for name, (type, *_) in POSTGRES_TYPES.items())
    values = ", ".join(f"'{text}'" for _, text, *_ in POSTGRES_TYPES.values())
    nulls = ", ".join(["NULL"] * len(POSTGRES_TYPES))
    with _postgres(
        postgres,
        "CREATE TYPE mood AS ENUM ('calm', 'wild')",
        "CREATE DOMAIN email AS text CHECK (value LIKE '%@%')",
        "CREATE DOMAIN amount AS int CHECK (value > 0)",
        f"CREATE TABLE t ({columns})",
        f"INSERT INTO t VALUES ({values}), ({nulls})",
    ) as source:
        declared = {column.name: column.type for column in source.tables()["t"].columns}
        table = source.land("t", tmp_path / "landed")
    assert _types(table) == {name: type for name, (*_, type) in POSTGRES_TYPES.items()}
    for row in _rows(table):
        if row["bigint"] is None:
            assert set(row.values()) == {None}
        else:
            assert row == {name: value for name, (_, _, value, _) in POSTGRES_TYPES.items()}
    assert declared.pop("whole") is None  # only the values tell
    assert declared == {field.name: field.type for field in table.schema if field.name != "whole"}


@pytest.mark.postgres
def test_postgres_values_that_are_no_numbers_or_days_are_null(
    tmp_path: Path, postgres: str
) -> None:
    with _postgres(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(5, 2), w numeric, r real, d date,"
        " ts timestamptz)",
        "INSERT INTO t VALUES (1, 'NaN', 'NaN', '-Infinity', 'infinity', '-infinity'),"
        " (2, 1.5, 2.5, 3.5, '2020-02-29', '2020-02-29 00:00Z')",
    ) as source:
        table = source.land("t", tmp_path / "landed")
    first, second = _rows(table)
    assert first == {"id": 1, "n": None, "w": None, "r": None, "d": None, "ts": None}
    assert list(second.values())[1:4] == [Decimal("1.50"), 2.5, 3.5]
    assert [note.split(": ")[0] for note in table.notes] == [
        f"column '{name}'" for name in ("d", "n", "r", "ts", "w")
    ]


@pytest.mark.postgres
def test_postgres_keys_references_and_partitions_are_reflected(
    tmp_path: Path, postgres: str
) -> None:
    with _postgres(
        postgres,
        "CREATE SCHEMA shop",
        "CREATE TABLE elsewhere (id int PRIMARY KEY)",
        'CREATE TABLE shop."Ci.ty %(a)s" (a int, b int, PRIMARY KEY (b, a))',
        'CREATE TABLE shop.sale (id int PRIMARY KEY, x int REFERENCES elsewhere, ca int, cb int,'
        ' FOREIGN KEY (ca, cb) REFERENCES shop."Ci.ty %(a)s" (a, b))',
        "CREATE TABLE shop.log (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE shop.log_1 PARTITION OF shop.log FOR VALUES FROM (0) TO (10)",
        "CREATE VIEW shop.seen AS SELECT * FROM shop.sale",
        'INSERT INTO shop."Ci.ty %(a)s" VALUES (1, 2)',
        "INSERT INTO shop.log VALUES (1), (2)",
        schema="shop",
    ) as source:  # fmt: skip
        tables = source.tables()
        log = source.land("log", tmp_path / "log")
        city = source.land("Ci.ty %(a)s", tmp_path / "city")
    assert sorted(tables) == ["Ci.ty %(a)s", "log", "sale"]
    assert tables["Ci.ty %(a)s"].key == ("b", "a")
    # `elsewhere` is in another schema, so there is no table to refer to.
    assert tables["sale"].references == (SourceReference(("cb", "ca"), "Ci.ty %(a)s", ("b", "a")),)
    assert log.rows == 2
    assert _rows(city) == [{"a": 1, "b": 2}]


@pytest.mark.postgres
def test_postgres_tables_land_from_one_state(tmp_path: Path, postgres: str) -> None:
    with _postgres(
        postgres,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY)",
        "INSERT INTO a VALUES (1)",
    ) as source:
        assert source.land("a", tmp_path / "a").rows == 1
        with psycopg.connect(postgres) as connection:
            connection.execute("INSERT INTO a VALUES (2)")
            connection.execute("INSERT INTO b VALUES (2)")
        assert source.land("b", tmp_path / "b").rows == 0
        assert source.land("a", tmp_path / "a").rows == 1


@pytest.mark.postgres
def test_postgres_rows_come_in_the_order_of_the_key(tmp_path: Path, postgres: str) -> None:
    with _postgres(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, s text)",
        "INSERT INTO t SELECT n, 'x' || n FROM generate_series(60000, 1, -1) n",
        "UPDATE t SET s = s || 'y' WHERE id % 7 = 0",
    ) as source:
        table = source.land("t", tmp_path / "landed")
    assert [row["id"] for row in _rows(table)] == list(range(1, 60001))


@pytest.mark.postgres
def test_postgres_password_never_shows(postgres: str, tmp_path: Path) -> None:
    wrong = postgres.replace("p%40ss", "p%40ssword")
    errors = []
    for url in (wrong, postgres + "x", f"{postgres}?password=geheim", f"{wrong}?sslmode=nonsense"):
        # Not for sure a mistake in a file: Airflow tries again.
        with pytest.raises(IsohopError) as caught:
            open_source(SourceSpec(url=url), tmp_path)
        errors.append(str(caught.value))
    with _postgres(postgres, "CREATE TABLE t (id int)") as source:
        with pytest.raises(InvalidInput) as caught:
            source.land("t", tmp_path / "landed", types={"id": "string"})
        errors.append(str(caught.value))
        source.tables()
        with psycopg.connect(postgres) as connection:
            connection.execute("DROP TABLE t")
        with pytest.raises(IsohopError) as caught:
            source.land("t", tmp_path / "landed")
        errors.append(str(caught.value))
    assert "does not exist" in errors[-1]
    for error in errors:
        assert PASSWORD not in error
        assert "wörd" not in error
        assert "geheim" not in error
        assert "%40ss" not in error


@pytest.mark.postgres
def test_postgres_url_may_come_from_the_environment(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE", postgres)
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE t (id int)")
    source = open_source(SourceSpec(url="env:SHOP_DATABASE"), tmp_path)
    assert list(source.tables()) == ["t"]
    source.close()
