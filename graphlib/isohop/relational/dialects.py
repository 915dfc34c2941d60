"""What SQLite and PostgreSQL do differently: connecting, types, and which rows can land."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection

from isohop.errors import did_you_mean
from isohop.relational.landing import NON_FINITE, Landing, Misfits, Notes, invalid_texts, normalise
from isohop.relational.source import check_allowed, unreadable
from isohop.relational.texts import TEXT_TYPES, misfit, misfits, read_texts, without

SqlType = sa.types.TypeEngine[Any]
Ask = Callable[[sa.ClauseElement], Mapping[str, Any]]
"""Puts a statement to the database and gives the one row of the answer."""

_CONNECT_SECONDS = "15"
_DIGITS = 38
"""What a decimal128 holds."""
_INT64 = sa.literal(-(2**63), sa.Numeric), sa.literal(2**63 - 1, sa.Numeric)


def identifier(name: str) -> sa.sql.quoted_name:
    """A name that is always quoted, whatever is in it."""
    return sa.sql.quoted_name(name, True)


class Sqlite:
    """A SQLite file. Its values have types of their own, whatever their column declares."""

    dialect: sa.Dialect = sqlite.dialect(paramstyle="named")
    takes_types = True

    def __init__(self, url: URL, base: Path):
        if not url.database or url.database == ":memory:":
            raise unreadable("source.url", "it names no file.", "Write sqlite:///file.db.")
        self._path = (base / url.database).resolve()
        check_allowed(self._path, "source.url")
        if not self._path.is_file():
            folder = self._path.parent
            beside = [file.name for file in folder.iterdir()] if folder.is_dir() else []
            hint = did_you_mean(self._path.name, beside)
            raise unreadable("source.url", f"there is no file {self._path}.", hint)

    @property
    def _read_only(self) -> str:
        return f"file:{quote(str(self._path))}?mode=ro"

    def engine(self) -> sa.Engine:
        def connect() -> sqlite3.Connection:
            return sqlite3.connect(self._read_only, uri=True, check_same_thread=False)

        return sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool)

    def stream(self) -> Any:
        import adbc_driver_sqlite.dbapi

        return adbc_driver_sqlite.dbapi.connect(self._read_only)

    def partitions(self, connection: Connection, schema: str | None) -> set[str]:
        return set()

    def types(
        self, connection: Connection, table: str, reflected: Sequence[Mapping[str, Any]]
    ) -> dict[str, SqlType]:
        # SQLite and so SQLAlchemy take every name that they do not know for NUMERIC.
        details = sa.func.pragma_table_xinfo(table).table_valued("name", "type")
        declared = {row.name: row.type for row in connection.execute(sa.select(details))}
        types: dict[str, SqlType] = {}
        for column in reflected:
            name = column["name"]
            known = declared[name].upper().startswith(("NUMERIC", "DECIMAL"))
            guessed = isinstance(column["type"], sa.NUMERIC) and not known
            types[name] = sa.types.NullType() if guessed else column["type"]
        return types

    def landed_type(self, type: SqlType) -> pa.DataType | None:
        text_type = _sqlite_type(type)
        return text_type and (TEXT_TYPES[text_type] if text_type in TEXT_TYPES else pa.binary())

    def plan(
        self,
        table: sa.TableClause,
        types: Mapping[str, SqlType],
        stated: Mapping[str, str],
        ask: Ask,
        notes: Notes,
    ) -> _SqlitePlan:
        found = {name: stated.get(name) or _sqlite_type(type) for name, type in types.items()}
        unknown = [name for name, type in found.items() if type is None]
        if unknown:
            kinds = [
                sa.func.max(sa.func.typeof(sa.column(identifier(name))) == kind).label(f"{i}{kind}")
                for i, name in enumerate(unknown)
                for kind in _STORED
            ]
            answer = ask(sa.select(*kinds).select_from(table))
            for i, name in enumerate(unknown):
                found[name] = _type_of_content({k for k in _STORED if answer[f"{i}{k}"]})
        return _SqlitePlan({name: type or "string" for name, type in found.items()}, stated)


_STORED = ("integer", "real", "text", "blob")
_FITTING: Mapping[str, tuple[str, ...]] = {
    "integer": ("integer",),
    "number": ("integer", "real"),
    "binary": ("text", "blob"),
}
"""Storage classes that a value of a type may have; of the others: all but blob."""


def _sqlite_type(type: SqlType) -> str | None:
    """A key of ``TEXT_TYPES`` or "binary"; None where only the values tell."""
    for classes, name in (
        (sa.types.NullType, None),
        (sa.Boolean, "boolean"),
        (sa.Integer, "integer"),
        (sa.Date, "date"),
        (sa.DateTime, "timestamp"),
        (sa.Numeric, "number"),
        (sa.Float, "number"),
        (sa.LargeBinary, "binary"),
    ):
        if isinstance(type, classes):
            return name
    return "string"


def _type_of_content(kinds: set[str]) -> str:
    if kinds == {"integer"}:
        return "integer"
    if kinds == {"blob"}:
        return "binary"
    return "number" if kinds and kinds <= {"integer", "real"} else "string"


class _SqlitePlan:
    """Two columns are selected for each: its value, never NULL and of one storage class, and its
    state: '' where the value fits, 'n' for NULL, '!' and the value as text where it does not fit.
    """

    def __init__(self, types: Mapping[str, str], stated: Mapping[str, str]):
        self._types = types
        # Values of these are parsed, as SQLite has no such type or another one is stated.
        self._parsed = {name for name, type in types.items() if name in stated or type in _PARSED}
        self.selects: Sequence[sa.ColumnElement[Any]] = [
            labelled
            for index, (name, type) in enumerate(types.items())
            for labelled in self._select(index, name, type)
        ]
        self.schema = pa.schema(
            [(name, TEXT_TYPES.get(type, pa.binary())) for name, type in types.items()]
        )

    def _select(self, index: int, name: str, type: str) -> list[sa.ColumnElement[Any]]:
        column: sa.ColumnElement[Any] = sa.column(identifier(name))
        stored = sa.func.typeof(column)
        # `quote` gives the digits of a number that a cast to text would round away.
        text = sa.case((stored == "real", sa.func.quote(column)), else_=sa.cast(column, sa.Text))
        value: sa.ColumnElement[Any]
        if name in self._parsed or type == "string":
            fits = stored != "blob"
            value = sa.func.coalesce(text, "")
        else:
            fits = stored.in_(_FITTING[type])
            if type == "binary":
                value = sa.func.coalesce(sa.cast(column, sa.LargeBinary), sa.func.zeroblob(0))
            elif type == "integer":
                value = sa.case((fits, column), else_=0)
            else:
                value = sa.case((fits, sa.cast(column, sa.REAL)), else_=sa.cast(0, sa.REAL))
        state = sa.case((column.is_(None), "n"), (fits, ""), else_=sa.literal(_UNFIT).concat(text))
        return [value.label(f"v{index}"), state.label(f"s{index}")]

    def land(self, batch: pa.RecordBatch, line: int, landing: Landing) -> None:
        if not batch.num_rows:
            return  # without values ADBC does not know the types
        wrong = Misfits()
        landed, shown = [], []
        for index, (name, type) in enumerate(self._types.items()):
            values, state = batch.column(2 * index), batch.column(2 * index + 1)
            values = pc.if_else(pc.equal(state, ""), values, None)
            unfit = pc.starts_with(state, _UNFIT)
            shown.append(values)
            rows = np.flatnonzero(unfit.to_numpy(zero_copy_only=False))
            if len(rows):
                marked = state.cast(pa.binary()).take(pa.array(rows)).to_pylist()
                texts = [text[len(_UNFIT) :] for text in marked]
                reasons = [misfit(name, t.decode(errors="backslashreplace"), type) for t in texts]
                wrong.add(rows, reasons)
                shown[-1] = pc.replace_with_mask(
                    _bytes(values), unfit, pa.array(texts, pa.binary())
                )
            rows = invalid_texts(values)
            if len(rows):
                wrong.add(rows, [f"column {name}: not UTF-8"] * len(rows))
                values = without(values, rows)
            if name in self._parsed:
                rows, reasons = misfits(values, type, name)
                wrong.add(rows, reasons)
                values = read_texts(without(values, rows), type, name, landing.notes)
            elif type == "number":
                values = landing.notes.non_finite(name, values)
            landed.append(values)
        lines = np.arange(line, line + batch.num_rows)
        raw = pa.record_batch(shown, names=self.schema.names)
        landing.sift(pa.record_batch(landed, schema=self.schema), wrong, lines, raw)


_UNFIT = "!"
_PARSED = ("boolean", "date", "timestamp")
_FILES = (
    *("passfile", "servicefile", "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslkeylogfile"),
    "sslrootcert",
)
"""What in a URL of PostgreSQL names a file."""
_OF_SYSTEM = ("sslrootcert", "system")
"""The certificates that the system trusts, which no file of that name holds."""


def _bytes(values: pa.Array) -> pa.Array:
    is_text = pa.types.is_binary(values.type) or pa.types.is_string(values.type)
    return (values if is_text else values.cast(pa.string())).cast(pa.binary())


class Postgres:
    """A PostgreSQL server.

    numeric(p, s) lands as decimal128(p, s) where that has room; other numeric as int64 where all
    values are whole and fit, else as double. What Arrow or the engines lack (uuid, json, enum,
    arrays, intervals, times of day, network addresses, …) lands as PostgreSQL's text for it.
    """

    dialect: sa.Dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    takes_types = False

    def __init__(self, url: URL, base: Path):
        named = [item for item in url.query.items() if item[0] in _FILES and item != _OF_SYSTEM]
        files = [file for _, file in named]
        files += [host for host in (url.host, url.query.get("host")) if host and "/" in str(host)]
        for file in files:
            check_allowed(str(file), "source.url")
        if "connect_timeout" not in url.query:
            url = url.update_query_dict({"connect_timeout": _CONNECT_SECONDS})
        self._url = url

    def engine(self) -> sa.Engine:
        url = self._url.set(drivername="postgresql+psycopg")
        return sa.create_engine(url, poolclass=sa.pool.NullPool)

    def stream(self) -> Any:
        import adbc_driver_postgresql.dbapi

        url = self._url.set(drivername="postgresql")
        url = url.update_query_dict({"client_encoding": "utf8"})
        stream = adbc_driver_postgresql.dbapi.connect(url.render_as_string(hide_password=False))
        with stream.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return stream

    def partitions(self, connection: Connection, schema: str | None) -> set[str]:
        tables = sa.table(
            "pg_class",
            *map(sa.column, ("relname", "relnamespace", "relispartition")),
            schema="pg_catalog",
        )
        schemas = sa.table(
            "pg_namespace", sa.column("oid"), sa.column("nspname"), schema="pg_catalog"
        )
        found = sa.select(tables.c.relname).where(
            tables.c.relispartition,
            tables.c.relnamespace == schemas.c.oid,
            schemas.c.nspname == (schema or sa.func.current_schema()),
        )
        return set(connection.execute(found).scalars())

    def types(
        self, connection: Connection, table: str, reflected: Sequence[Mapping[str, Any]]
    ) -> dict[str, SqlType]:
        return {column["name"]: _base_type(column["type"]) for column in reflected}

    def landed_type(self, type: SqlType) -> pa.DataType | None:
        for classes, landed in _POSTGRES:
            if isinstance(type, classes):
                return landed
        if isinstance(type, sa.Numeric):
            digits, scale = type.precision, type.scale or 0
            if digits is None:
                return None
            return pa.decimal128(digits, scale) if 0 <= scale <= digits <= _DIGITS else pa.float64()
        return pa.string()

    def plan(
        self,
        table: sa.TableClause,
        types: Mapping[str, SqlType],
        stated: Mapping[str, str],
        ask: Ask,
        notes: Notes,
    ) -> _PostgresPlan:
        landed = {name: self.landed_type(type) for name, type in types.items()}
        counts: dict[str, sa.ColumnElement[bool]] = {}
        for name, type in landed.items():
            column: sa.ColumnElement[Any] = sa.column(identifier(name))
            if type is None:
                whole = sa.and_(column == sa.func.trunc(column), column.between(*_INT64))
                counts[name] = sa.not_(whole)
            elif pa.types.is_temporal(type):
                counts[name] = sa.not_(sa.func.isfinite(column))
        if counts:
            found = [
                sa.func.count().filter(condition).label(f"n{index}")
                for index, condition in enumerate(counts.values())
            ]
            answer = ask(sa.select(*found).select_from(table))
            for index, name in enumerate(counts):
                if landed[name] is None:
                    landed[name] = pa.float64() if answer[f"n{index}"] else pa.int64()
                else:
                    notes.count(name, "infinite, read as NULL", answer[f"n{index}"])
        return _PostgresPlan({name: type or pa.string() for name, type in landed.items()})


_POSTGRES: tuple[tuple[type[SqlType], pa.DataType], ...] = (
    (sa.Boolean, pa.bool_()),
    (sa.Integer, pa.int64()),
    (sa.Float, pa.float64()),
    (sa.Date, pa.date32()),
    (sa.DateTime, pa.timestamp("us")),
    (sa.LargeBinary, pa.binary()),
)


def _base_type(type: SqlType) -> SqlType:
    """Of a domain, the type that it restricts."""
    return _base_type(type.data_type) if isinstance(type, postgresql.DOMAIN) else type


class _PostgresPlan:
    """One column is selected for each, as what it lands as or, of decimals, as text."""

    def __init__(self, types: Mapping[str, pa.DataType]):
        self.schema = pa.schema(list(types.items()))
        self.selects: Sequence[sa.ColumnElement[Any]] = [
            self._select(sa.column(identifier(field.name)), field.type).label(f"v{index}")
            for index, field in enumerate(self.schema)
        ]

    def _select(self, column: sa.ColumnElement[Any], type: pa.DataType) -> sa.ColumnElement[Any]:
        if pa.types.is_temporal(type):
            return sa.case((sa.func.isfinite(column), column))
        if pa.types.is_integer(type):
            return sa.cast(column, sa.BigInteger)
        if pa.types.is_floating(type):
            return sa.cast(column, sa.Double)
        if pa.types.is_string(type) or pa.types.is_decimal(type):
            return sa.cast(column, sa.Text)
        return column

    def land(self, batch: pa.RecordBatch, line: int, landing: Landing) -> None:
        wrong = Misfits()
        landed = []
        for field, values in zip(self.schema, batch.columns, strict=True):
            rows = invalid_texts(values)
            if len(rows):
                wrong.add(rows, [f"column {field.name}: not UTF-8"] * len(rows))
            if pa.types.is_decimal(field.type):
                finite = pc.invert(pc.is_in(values, pa.array(_NO_NUMBERS)))
                lost = pc.sum(pc.invert(finite)).as_py() or 0
                landing.notes.count(field.name, NON_FINITE, lost)
                values = pc.if_else(finite, values, None)
            landed.append(normalise(values, field.type, field.name, landing.notes))
        lines = np.arange(line, line + batch.num_rows)
        rows = pa.record_batch(landed, schema=self.schema)
        landing.sift(rows, wrong, lines, rows)


_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
