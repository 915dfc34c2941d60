"""Surrogate keys: other numbers, hashes, or natural keys in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isohop.engines.frames import all_given, equal, renamed
from isohop.relational.refactor.database import (
    Columns,
    Database,
    Rewrite,
    any_row,
    fetched,
    key_of,
    numbered,
    orphans,
    require,
    require_key,
    require_nameless,
    without,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def _surrogate_key(database: Database, table: str) -> str:
    declared = database.declared(table)
    require(declared.surrogate, f"the key of '{table}' is a fact, no surrogate")
    require(table not in database.homes, f"'{table}' is an entity's home: its key is a fact")
    key = require_key(database, table)
    tied = {c for r in declared.references or () for c in r.columns}
    require(len(key) == 1 and not tied & set(key), f"the key of '{table}' refers to another table")
    for name, _, reference in database.referrers(table):
        require_nameless(database, name, reference)
        others = [r for r in database.declared(name).references or () if r is not reference]
        require(
            not any(set(r.columns) & set(reference.columns) for r in others),
            f"{', '.join(reference.columns)} of '{name}' refers to other tables too",
        )
        held = set(reference.columns) & set(database.declared(name).key or ())
        require(
            not (held and database.referrers(name)),
            f"{', '.join(sorted(held))} of '{name}' is referred to in its turn",
        )
        require(
            not any_row(orphans(database, name, reference)),
            f"rows of '{name}' refer to rows that '{table}' lacks",
        )
    return key[0]


def _with_keys(database: Database, table: str, mapping: DataFrame) -> Database:
    """The surrogate key of a table and all that refers to it, by (old, new) pairs."""
    key = key_of(database, table)[0]
    places = [(table, key)] + [(n, r.columns[0]) for n, _, r in database.referrers(table)]
    for name, column in places:
        relation = database.relation(name)
        joined = relation.frame.join(mapping, equal([relation.columns[column]], ["old"]), "left")
        columns = {c: "new" if c == column else i for c, i in relation.columns.items()}
        new = database.relation_of(joined, columns)
        database = database.changed({}, {database.parts(name)[0]: new})
    return database


@dataclass(frozen=True)
class Renumber:
    """The surrogate key of a table counts from 1 in another order, which ``seed`` draws."""

    table: str
    seed: int

    def __call__(self, database: Database) -> Database:
        key = _surrogate_key(database, self.table)
        relation = database.relation(self.table)
        number = database.fresh()
        pairs = numbered(relation.frame, relation.internal([key]), self.seed, number)
        mapping = database.relation_of(pairs, {"old": relation.columns[key], "new": number})
        named = mapping.frame.select(*(renamed(i, c) for c, i in mapping.columns.items()))
        return _with_keys(database, self.table, named)

    def inverse(self, before: Database) -> None:
        """Nothing brings the old numbers back."""


@dataclass(frozen=True)
class HashKeys:
    """The surrogate key of a table becomes a hash of itself, 32 hexadecimal digits."""

    table: str
    seed: int

    def __call__(self, database: Database) -> Database:
        from pyspark.sql import functions as F

        key = _surrogate_key(database, self.table)
        relation = database.relation(self.table)
        old = relation.columns[key]
        text = F.concat(F.lit(f"{self.seed}:"), F.col(old).cast("string"))
        named = relation.frame.select(renamed(old, "old"), F.md5(text).alias("new"))
        return _with_keys(database, self.table, named)

    def inverse(self, before: Database) -> Rewrite:
        del before
        return Renumber(self.table, self.seed)


@dataclass(frozen=True)
class NaturalKey:
    """The surrogate key of a table gives way to ``columns``, which identify its rows as well."""

    table: str
    columns: Columns

    def __call__(self, database: Database) -> Database:
        old = _surrogate_key(database, self.table)
        declared, relation = database.declared(self.table), database.relation(self.table)
        tied = {c for r in declared.references or () for c in r.columns}
        require(
            set(self.columns) <= set(relation.columns) - {old} - tied
            and all(declared.columns.get(c, c) is not None for c in self.columns),
            f"a natural key of '{self.table}' has columns of it that are used and do not refer",
        )
        require(
            all(name != self.table for name, *_ in database.referrers(self.table)),
            f"'{self.table}' refers to itself",
        )
        names = relation.internal(self.columns)
        given = relation.frame.where(all_given(names)).select(*names).distinct().count()
        require(
            given == relation.frame.count(),
            f"{', '.join(self.columns)} do not identify the rows of '{self.table}'",
        )
        for name, index, _ in database.referrers(self.table):
            database = self._refer(database, name, index)
        update = without(declared, [old])
        update |= {"key": self.columns, "surrogate": False}
        kept = {c: i for c, i in relation.columns.items() if c != old}
        return database.changed(
            {self.table: declared.model_copy(update=update)},
            {database.parts(self.table)[0]: database.relation_of(relation.frame, kept)},
        )

    def _refer(self, database: Database, name: str, index: int) -> Database:
        table = database.declared(name)
        reference = (table.references or ())[index]
        column = reference.columns[0]
        joined, names, columns = fetched(database, name, reference, self.columns, [column])
        new_columns = tuple(names.values())

        def put(columns: Columns) -> Columns:
            return tuple(n for c in columns for n in (new_columns if c == column else (c,)))

        update = {
            "key": put(table.key) if table.key else None,
            "unique": tuple(put(u) for u in table.unique),
            "columns": {c: m for c, m in table.columns.items() if c != column},
            "references": tuple(
                reference.model_copy(update={"columns": new_columns}) if i == index else r
                for i, r in enumerate(table.references or ())
            ),
        }
        return database.changed(
            {name: table.model_copy(update=update)},
            {database.parts(name)[0]: database.relation_of(joined, columns)},
        )

    def inverse(self, before: Database) -> None:
        """A lookup keyed by facts has no surrogate to go back to."""
