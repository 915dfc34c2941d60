"""The tables of a database: SQLite or PostgreSQL, by URL.

SQLAlchemy reflects tables, keys and references and writes every statement; ADBC streams the rows in
Arrow batches, in one read-only transaction for all tables (PostgreSQL: repeatable read), so that
what lands is one state of the database. Rows come in the order of the key, or of all columns, so
that equal contents land as equal files.

Views are no tables here, nor are the partitions of a PostgreSQL table, which come with it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote_plus

import adbc_driver_manager
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Inspector

from isohop.engines.storage import fingerprint
from isohop.errors import InvalidInput, IsohopError, did_you_mean
from isohop.relational.as_of import Known
from isohop.relational.dialects import Ask, Postgres, Sqlite, SqlType, identifier
from isohop.relational.landing import LandedTable, Landing, Notes, landing
from isohop.relational.source import (
    SourceColumn,
    SourceReference,
    SourceTable,
    check_names,
    check_request,
    from_environment,
    known_table,
    unreadable,
)

_KINDS: Mapping[str, type[Sqlite] | type[Postgres]] = {
    "sqlite": Sqlite,
    "postgresql": Postgres,
    "postgres": Postgres,
}
_FAILURES = (sa.exc.SQLAlchemyError, adbc_driver_manager.Error, pa.ArrowException, OSError)


class Plan(Protocol):
    """What to select of a table, and how the answer lands."""

    selects: Sequence[sa.ColumnElement[Any]]
    schema: pa.Schema

    def land(self, batch: pa.RecordBatch, line: int, landing: Landing) -> None:
        """Land one batch of the answer; ``line`` is the number of its first row."""
        ...


class Database(Protocol):
    """A kind of database."""

    dialect: sa.Dialect
    takes_types: bool
    """Whether types can be stated, as the database's own do not bind."""

    def engine(self) -> sa.Engine:
        """What reflects."""
        ...

    def stream(self) -> Any:
        """A new ADBC connection, in a read-only transaction from its first statement on."""
        ...

    def partitions(self, connection: Connection, schema: str | None) -> set[str]:
        """Tables whose rows are another table's."""
        ...

    def types(
        self, connection: Connection, table: str, reflected: Sequence[Mapping[str, Any]]
    ) -> dict[str, SqlType]:
        """The declared type of each column; `sa.types.NullType` where only the values tell."""
        ...

    def landed_type(self, type: SqlType) -> pa.DataType | None:
        """What a column lands as; None where only the values tell."""
        ...

    def plan(
        self,
        table: sa.TableClause,
        types: Mapping[str, SqlType],
        stated: Mapping[str, str],
        ask: Ask,
        notes: Notes,
    ) -> Plan:
        """How to read the columns of ``types``, with the types that are stated for some."""
        ...


@dataclass(frozen=True)
class _Catalogue:
    """What reflection told."""

    tables: dict[str, SourceTable]
    types: dict[str, dict[str, SqlType]]


class DatabaseSource:
    """The tables of one schema; see the module, and `isohop.relational.source.Source`."""

    def __init__(self, url: str, schema: str | None, base: Path):
        """Connect once, so that a wrong address is known at once. Raises `IsohopError`; of what is
        wrong in a file, `InvalidInput`."""
        self._url = _parse(url)
        self._schema = schema
        self._database: Database = _KINDS[self._url.get_backend_name()](self._url, base)
        self._catalogue: _Catalogue | None = None
        self._stream: Any = None
        self._fingerprints: dict[str, str] = {}
        self._engine = self._database.engine()
        with self._failures("cannot be opened"), self._engine.connect() as connection:
            schemas = sa.inspect(connection).get_schema_names()
        if schema is not None and schema not in schemas:
            hint = did_you_mean(schema, schemas)
            raise unreadable("source.schema", f"there is no schema '{schema}'.", hint)

    @property
    def takes_types(self) -> bool:
        return self._database.takes_types

    def tables(self) -> Mapping[str, SourceTable]:
        if self._catalogue is None:
            with (
                self._failures("cannot be reflected"),
                self._engine.connect() as connection,
                warnings.catch_warnings(),
            ):
                # Types that SQLAlchemy does not know are no mistake: they are read as text.
                warnings.simplefilter("ignore", sa.exc.SAWarning)
                self._catalogue = self._reflect(connection)
        return self._catalogue.tables

    def fingerprint(self, table: str) -> str:
        known_table(table, self.tables(), self._shown)
        if table not in self._fingerprints:
            with tempfile.TemporaryDirectory() as folder:
                self.land(table, Path(folder) / "table")
        return self._fingerprints[table]

    def land(
        self,
        table: str,
        folder: Path,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        known: Known | None = None,
    ) -> LandedTable:
        held = known_table(table, self.tables(), self._shown)
        chosen, stated = check_request(held, columns, types)
        if stated and not self.takes_types:
            where = f"table '{table}', column '{min(stated)}'"
            raise unreadable(where, "the database states its type.", "Leave 'types' out.")
        with self._failures(f"table '{table}' cannot be read"), landing(folder) as arriving:
            clause = sa.table(identifier(table), schema=self._schema and identifier(self._schema))
            sql_types = {name: self._types(table)[name] for name in chosen}
            plan = self._database.plan(clause, sql_types, stated, self._ask, arriving.notes)
            arriving.begin(plan.schema)
            statement = sa.select(*plan.selects).select_from(clause)
            order = [sa.column(identifier(name)) for name in held.key or ()] or plan.selects
            line = 1
            for batch in self._rows(statement.order_by(*order)):
                plan.land(batch, line, arriving)
                line += batch.num_rows
        landed = arriving.landed(table, folder, "")
        files = [*landed.paths, *([landed.quarantine] if landed.quarantine else [])]
        self._fingerprints[table] = "-".join(map(fingerprint, files))
        return replace(landed, fingerprint=self._fingerprints[table])

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._engine.dispose()

    def __del__(self) -> None:
        if getattr(self, "_stream", None) is not None:
            self._stream.close()

    @property
    def _shown(self) -> str:
        # A query may hold passwords as well.
        return self._url.set(query={}).render_as_string(hide_password=True)

    def _types(self, table: str) -> dict[str, SqlType]:
        return self._catalogue.types[table] if self._catalogue else {}

    def _rows(self, statement: sa.ClauseElement) -> Iterator[pa.RecordBatch]:
        if self._stream is None:
            self._stream = self._database.stream()
        text = statement.compile(
            dialect=self._database.dialect, compile_kwargs={"literal_binds": True}
        )
        with self._stream.cursor() as cursor:
            cursor.execute(str(text))
            yield from cursor.fetch_record_batch()

    def _ask(self, statement: sa.ClauseElement) -> dict[str, Any]:
        """The one row of an answer."""
        (row,) = pa.Table.from_batches(self._rows(statement)).to_pylist()
        return dict(row)

    def _reflect(self, connection: Connection) -> _Catalogue:
        inspector = sa.inspect(connection)
        names = sorted(
            set(inspector.get_table_names(self._schema))
            - self._database.partitions(connection, self._schema)
        )
        if not names:
            where = self._schema or inspector.default_schema_name or "main"
            hint = "Name another schema: " + did_you_mean("", inspector.get_schema_names())
            raise unreadable(self._shown, f"there is no table in schema '{where}'.", hint)
        problems = check_names(names, self._shown, "table")
        catalogue = _Catalogue({}, {})
        for name in names:
            reflected = inspector.get_columns(name, self._schema)
            types = self._database.types(connection, name, reflected)
            problems += check_names(types, f"table '{name}'", "column")
            columns = tuple(
                SourceColumn(column, self._database.landed_type(type))
                for column, type in types.items()
            )
            key = inspector.get_pk_constraint(name, self._schema)["constrained_columns"]
            catalogue.types[name] = types
            catalogue.tables[name] = SourceTable(name, columns, tuple(key) or None)
        if problems:
            raise InvalidInput(f"{self._shown} cannot be read", problems)
        for name, table in catalogue.tables.items():
            references = tuple(self._references(inspector, name, catalogue.tables))
            catalogue.tables[name] = replace(table, references=references)
        return catalogue

    def _references(
        self, inspector: Inspector, name: str, tables: Mapping[str, SourceTable]
    ) -> Iterator[SourceReference]:
        """Those to tables of this source, in a fixed order; others have no table to point to."""
        own = {self._schema, None if self._schema else inspector.default_schema_name}
        found = []
        for key in inspector.get_foreign_keys(name, self._schema):
            target = _spelt(key["referred_table"], tables)
            if target not in tables or key["referred_schema"] not in {None, *own}:
                continue
            own_key = tables[target].key or ()
            (theirs, ours) = ([c.name for c in tables[of].columns] for of in (target, name))
            referred = [_spelt(one, theirs) for one in key["referred_columns"]] or own_key
            referring = [_spelt(one, ours) for one in key["constrained_columns"]]
            if len(referred) != len(referring):
                continue  # SQLite lets one refer to a key that is not there
            pairs = list(zip(referred, referring, strict=True))
            if {column for column, _ in pairs} == set(own_key):
                pairs.sort(key=lambda pair: own_key.index(pair[0]))
            target_columns, columns = zip(*pairs, strict=True)
            found.append(SourceReference(columns, target, target_columns))
        yield from sorted(found, key=lambda one: (one.columns, one.table))

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Name the database, and never its password, in what goes wrong."""
        try:
            yield
        except InvalidInput:
            raise
        except _FAILURES as error:
            self.close()  # the transaction is lost
            reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
            for secret in filter(
                None, (self._url.password, *self._url.normalized_query.get("password", ()))
            ):
                for written in (secret, quote_plus(secret)):
                    reason = reason.replace(written, "***")
            # Not a mistake in a file, or not surely: another try may find the database there.
            raise IsohopError(
                f"The source {self._shown} {what}: {reason.rstrip('.')}. {_REMEDY}"
            ) from None


_REMEDY = "Check the URL, that the database can be reached, and that you may read it."


def _spelt(name: str, names: Iterable[str]) -> str:
    """As it stands among ``names``: SQLite takes any capitals where a reference names something."""
    by_lower = {one.lower(): one for one in names} | {one: one for one in names}
    return by_lower.get(name, by_lower.get(name.lower(), name))


def database_of(url: str) -> str | None:
    """The name of the database, or the path of its file, that a source's URL names. Raises
    `InvalidInput`."""
    return _parse(from_environment(url)).database


def _parse(url: str) -> URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        what = "this is no database URL."  # it is not shown, as it may hold a password
        raise unreadable("source.url", what, _EXAMPLES) from None
    if parsed.get_backend_name() not in _KINDS:
        what = f"'{parsed.drivername}' is no kind of database that can be read."
        raise unreadable("source.url", what, _EXAMPLES)
    return parsed


_EXAMPLES = "Write sqlite:///file.db or postgresql://user@host/database."
