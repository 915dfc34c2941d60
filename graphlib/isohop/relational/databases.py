"""The tables of a database: SQLite and PostgreSQL.

SQLAlchemy reflects tables, keys and references and writes every statement; ADBC streams the rows in
Arrow batches, in one read-only transaction for all tables (PostgreSQL: repeatable read), so that
what is landed is one state of the database. Rows come in the order of the key, or of all columns,
so that equal contents land as equal files.

Views are no tables here, nor are the partitions of a PostgreSQL table, which come with it.
"""

from __future__ import annotations

import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import adbc_driver_manager
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import URL, Inspector

from isohop.engines.storage import fingerprint
from isohop.errors import InvalidInput, Problem, did_you_mean
from isohop.relational.landing import LandedTable, Landing, landing
from isohop.relational.source import (
    SourceColumn,
    SourceReference,
    SourceTable,
    check_names,
    check_request,
    known_table,
    unreadable,
)

_FAILURES = (sa.exc.SQLAlchemyError, adbc_driver_manager.Error, pa.ArrowException, OSError)
_CONNECT_SECONDS = "15"


class Query(Protocol):
    """How one table's rows are asked for, and what becomes of the batches of the answer."""

    statement: sa.Select[Any]
    schema: pa.Schema

    def land(self, batch: pa.RecordBatch, line: int, landing: Landing) -> None:
        """Write the rows of one batch of the answer; ``line`` is the first one's number."""
        ...


class Database(Protocol):
    """What differs between the kinds of database."""

    dialect: sa.Dialect

    def engine(self) -> sa.Engine:
        """For reflection."""
        ...

    def stream(self) -> Any:
        """A new ADBC connection, in a read-only transaction."""
        ...

    def column(self, type: sa.types.TypeEngine[Any]) -> pa.DataType | None: ...

    def query(...)
