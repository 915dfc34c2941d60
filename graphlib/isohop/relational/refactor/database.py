"""A database that can be rewritten, and what every rewrite asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from isohop.engines.frames import all_given, equal, renamed, staged, write_parquet
from isohop.errors import IsohopError
from isohop.relational.database import Reference, Table

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

Columns = tuple[str, ...]


class NotLossless(IsohopError):
    """The rewrite would lose or invent a fact of this database, or has no meaning in it."""


@dataclass(frozen=True)
class Relation:
    """The rows of one physical table; ``columns``: own name -> internal name, in their order."""

    frame: DataFrame
    columns: Mapping[str, str]

    def internal(self, columns: Iterable[str]) -> list[str]:
        return [self.columns[column] for column in columns]

    def keys(self, columns: Iterable[str]) -> DataFrame:
        """These columns as ``k0``, ``k1``, …, to be joined to."""
        names = self.internal(columns)
        return self.frame.select(*(renamed(name, f"k{i}") for i, name in enumerate(names)))


@dataclass(frozen=True)
class Database:
    """Tables as the schema file describes them, and the rows of each physical table.

    ``homes``: tables that are homes of entities, whose keys are facts. ``folder``: where rows are
    staged.
    """

    session: SparkSession
    folder: Path
    tables: Mapping[str, Table]
    relations: Mapping[str, Relation]
    homes: frozenset[str]
    numbers: Iterator[int] = field(default_factory=count, compare=False)

    def declared(self, table: str) -> Table:
        """A table's description. Raises `NotLossless` where there is no such table (any more)."""
        if table not in self.tables:
            raise NotLossless(f"there is no table '{table}'")
        return self.tables[table]

    def parts(self, table: str) -> Columns:
        """The physical tables that hold the rows of ``table``."""
        return self.declared(table).parts or (table,)

    def relation(self, table: str) -> Relation:
        """The rows of a table that lies in one piece."""
        parts = self.parts(table)
        if len(parts) > 1:
            raise NotLossless(f"'{table}' lies in {len(parts)} parts: unite them first")
        return self.relations[parts[0]]

    def referrers(self, table: str) -> list[tuple[str, int, Reference]]:
        """(table, position, reference) of every reference to ``table``."""
        return [
            (name, index, reference)
            for name, other in self.tables.items()
            for index, reference in enumerate(other.references or ())
            if reference.table == table
        ]

    def fresh(self) -> str:
        """An internal name that no other column of the database has."""
        return f"x{next(self.numbers)}"

    def relation_of(self, frame: DataFrame, columns: Mapping[str, str]) -> Relation:
        """A relation with internal names of its own: ``columns`` are own name -> frame's name."""
        names = {column: self.fresh() for column in columns}
        chosen = frame.select(*(renamed(columns[c], name) for c, name in names.items()))
        folder = self.folder / f"relation-{next(self.numbers)}"
        return Relation(staged(self.session, chosen, folder), names)

    def changed(
        self,
        tables: Mapping[str, Table | None],
        relations: Mapping[str, Relation | None],
    ) -> Database:
        """With these tables and relations put in place of their likes; None: taken out."""
        kept_tables = {**self.tables, **tables}
        kept_relations = {**self.relations, **relations}
        return replace(
            self,
            tables={name: table for name, table in kept_tables.items() if table is not None},
            relations={name: rel for name, rel in kept_relations.items() if rel is not None},
        )

    def write(self, folder: Path) -> None:
        """Every physical table as ``<folder>/<table>/*.parquet``, under its own column names."""
        for name, relation in self.relations.items():
            named = relation.frame.select(*(renamed(i, c) for c, i in relation.columns.items()))
            write_parquet(named, folder / name)
            for leftover in (*(folder / name).glob("*.crc"), *(folder / name).glob("_SUCCESS")):
                leftover.unlink()


class Rewrite(Protocol):
    """A function from database to database. Its fields say it all, so it can be shown and kept."""

    def __call__(self, database: Database) -> Database:
        """The rewritten database. Raises `NotLossless`."""
        ...

    def inverse(self, before: Database) -> Rewrite | None:
        """What brings ``before`` back, up to the order and the names of columns; None where
        nothing does."""
        ...


def require(condition: bool, why: str) -> None:
    if not condition:
        raise NotLossless(why)


def key_of(database: Database, table: str) -> Columns:
    key = database.declared(table).key
    require(bool(key), f"'{table}' has no key")
    return key or ()


def require_key(database: Database, table: str) -> Columns:
    """The key, which must identify the rows: given, and no two alike."""
    key, relation = key_of(database, table), database.relation(table)
    names = relation.internal(key)
    rows = relation.frame.count()
    given = relation.frame.where(all_given(names)).select(*names).distinct().count()
    require(rows == given, f"the key of '{table}' is NULL or the same in some rows")
    return key


def require_free(database: Database, table: str, columns: Sequence[str]) -> None:
    """Columns that can leave their table: in no key, constraint or reference that stays."""
    declared, leaving = database.declared(table), set(columns)
    held = set(database.relation(table).columns)
    require(bool(leaving) and leaving <= held, f"'{table}' has no such columns")
    require(not leaving & set(declared.key or ()), f"a key column cannot leave '{table}'")
    require(declared.time not in leaving, f"the time of '{table}' cannot leave it")
    for tied in [*declared.unique, *(r.columns for r in declared.references or ())]:
        require(
            set(tied) <= leaving or not set(tied) & leaving,
            f"{', '.join(tied)} of '{table}' belong together",
        )


def require_nameless(database: Database, table: str, reference: Reference) -> None:
    """A reference to a surrogate key that is no attribute of its own."""
    named = database.declared(table).columns
    require(
        all(named.get(column) is None for column in reference.columns),
        f"{', '.join(reference.columns)} of '{table}' is an attribute as well as a reference",
    )


def require_no_part(database: Database, table: str, reference: Reference) -> None:
    """A 1:1 part and what it is a part of are one table, which would then have columns twice."""
    part = set(reference.columns) == set(database.declared(table).key or ())
    require(not part, f"'{table}' is a part of '{reference.table}'")


def new_name(wanted: str, taken: Iterable[str]) -> str:
    """``wanted``, or with a number; engines do not tell capitals apart."""
    lower = {name.lower() for name in taken}
    names = [wanted, *(f"{wanted}_{number}" for number in range(2, len(lower) + 3))]
    return next(name for name in names if name.lower() not in lower)


def require_new(database: Database, name: str) -> None:
    taken = {t.lower() for t in [*database.tables, *database.relations]}
    require(name.lower() not in taken, f"there is a table '{name}' already")


def _logical(table: Table, column: str, prefix: str = "") -> str | None:
    """A column's entry under ``columns`` once it is reached with ``prefix`` in place of none."""
    if column not in table.columns:
        return prefix + column.replace(".", "_")
    mapped = table.columns[column]
    if mapped is None:
        return None
    owner, dot, name = mapped.rpartition(".")
    return f"{owner}{dot}{prefix}{name}"


def moved_names(
    table: Table, columns: Mapping[str, str], prefix: str = ""
) -> dict[str, str | None]:
    """The entries under ``columns`` of columns that move (own name -> new name).

    A column that refers and has no entry stays without one: its target's key names it.
    """
    referring = {c for r in table.references or () for c in r.columns}
    entries: dict[str, str | None] = {}
    for column, new in columns.items():
        if column in referring and column not in table.columns:
            continue
        logical = _logical(table, column, prefix)
        if logical != new:
            entries[new] = logical
    return entries


def without(table: Table, columns: Iterable[str]) -> dict[str, Any]:
    """What is left of a table's description without some columns."""
    gone = set(columns)
    return {
        "columns": {c: m for c, m in table.columns.items() if c not in gone},
        "unique": tuple(u for u in table.unique if not set(u) & gone),
        "references": tuple(r for r in table.references or () if not set(r.columns) & gone),
    }


def orphans(database: Database, table: str, reference: Reference) -> DataFrame:
    """Rows whose reference names a key that its table lacks."""
    ours, theirs = database.relation(table), database.relation(reference.table)
    columns = ours.internal(reference.columns)
    keys = theirs.keys(key_of(database, reference.table))
    given = ours.frame.where(all_given(columns))
    return given.join(keys, equal(columns, keys.columns), "left_anti")


def fetched(
    database: Database,
    table: str,
    reference: Reference,
    columns: Iterable[str],
    leaving: Iterable[str] = (),
) -> tuple[DataFrame, dict[str, str], dict[str, str]]:
    """The rows of ``table`` with ``columns`` of the row that each refers to.

    Returns the frame, the new name of each column, and the columns of the table as they are then
    (own name -> internal name), without those ``leaving``.
    """
    ours, theirs = database.relation(table), database.relation(reference.table)
    gone = set(leaving)
    held = {c: i for c, i in ours.columns.items() if c not in gone}
    names, fresh = {}, {}
    for column in columns:
        names[column] = new_name(reference.prefix + column, held)
        fresh[column] = held[names[column]] = database.fresh()
    key = theirs.internal(key_of(database, reference.table))
    target = theirs.frame.select(
        *(renamed(name, f"k{i}") for i, name in enumerate(key)),
        *(renamed(theirs.columns[c], name) for c, name in fresh.items()),
    )
    met = equal(ours.internal(reference.columns), [f"k{i}" for i in range(len(key))])
    return ours.frame.join(target, met, "left"), names, held


def any_row(frame: DataFrame) -> bool:
    return bool(frame.limit(1).count())


def unreferenced(database: Database, table: str) -> DataFrame:
    relation = database.relation(table)
    rest, key = relation.frame, relation.internal(key_of(database, table))
    for name, _, reference in database.referrers(table):
        keys = database.relation(name).keys(reference.columns)
        rest = rest.join(keys, equal(key, keys.columns), "left_anti")
    return rest


def null_safe(ours: Sequence[str], theirs: Sequence[str]) -> Column:
    from pyspark.sql import functions as F

    return reduce(and_, (F.col(a).eqNullSafe(F.col(b)) for a, b in zip(ours, theirs, strict=True)))


def numbered(frame: DataFrame, columns: Sequence[str], seed: int, name: str) -> DataFrame:
    """Distinct rows with a counter from 1, in an order that the seed draws."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    order = Window.orderBy(F.xxhash64(F.lit(seed), *columns), *columns)
    distinct = frame.select(*columns).distinct()
    return distinct.withColumn(name, F.row_number().over(order).cast("bigint"))
