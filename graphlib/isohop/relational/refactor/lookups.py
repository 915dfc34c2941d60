"""Columns to a lookup table and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isohop.engines.frames import all_given
from isohop.relational.database import Reference, Table
from isohop.relational.refactor.database import (
    Columns,
    Database,
    Rewrite,
    any_row,
    fetched,
    moved_names,
    new_name,
    null_safe,
    numbered,
    require,
    require_free,
    require_key,
    require_nameless,
    require_new,
    require_no_part,
    unreferenced,
    without,
)


@dataclass(frozen=True)
class ExtractLookup:
    """``columns`` of a table move to a lookup table, one row for each distinct combination.

    ``natural``: those of them that identify the row and stay in the table; where there are none
    the lookup has a surrogate key, ``surrogate``, numbered in an order that ``seed`` draws.
    """

    table: str
    columns: Columns
    into: str
    natural: Columns = ()
    surrogate: str = "id"
    seed: int = 0

    def __call__(self, database: Database) -> Database:
        require_new(database, self.into)
        moving = tuple(c for c in self.columns if c not in self.natural)
        require(set(self.natural) <= set(self.columns), "a natural key is among the columns")
        require_free(database, self.table, moving)
        table = database.declared(self.table)
        for unique in table.unique:
            require(not set(unique) & set(moving), f"{', '.join(unique)} identify '{self.table}'")
        return self._natural(database) if self.natural else self._surrogate(database)

    def _lookup(self, table: Table, key: Columns, surrogate: bool) -> Table:
        columns = set(self.columns)
        return Table(
            key=key,
            surrogate=surrogate,
            columns=moved_names(table, {c: c for c in self.columns}),
            references=tuple(r for r in table.references or () if set(r.columns) <= columns),
        )

    def _surrogate(self, database: Database) -> Database:
        table, relation = database.declared(self.table), database.relation(self.table)
        require(
            self.surrogate not in self.columns, f"'{self.surrogate}' is one of the columns already"
        )
        names = relation.internal(self.columns)
        number = database.fresh()
        given = relation.frame.dropna("all", subset=names)
        lookup = database.relation_of(
            numbered(given, names, self.seed, number),
            {self.surrogate: number, **dict(zip(self.columns, names, strict=True))},
        )
        key = lookup.columns[self.surrogate]
        joined = relation.frame.join(
            lookup.frame, null_safe(names, lookup.internal(self.columns)), "left"
        )
        kept = {c: i for c, i in relation.columns.items() if c not in self.columns}
        reference = new_name(f"{self.into}_{self.surrogate}", kept)
        rest = without(table, self.columns)
        rest["references"] = (*rest["references"], Reference(columns=(reference,), table=self.into))
        return database.changed(
            {
                self.table: table.model_copy(update=rest),
                self.into: self._lookup(table, (self.surrogate,), surrogate=True),
            },
            {
                database.parts(self.table)[0]: database.relation_of(
                    joined, {**kept, reference: key}
                ),
                self.into: lookup,
            },
        )

    def _natural(self, database: Database) -> Database:
        table, relation = database.declared(self.table), database.relation(self.table)
        moving = tuple(c for c in self.columns if c not in self.natural)
        referring = {c for r in table.references or () for c in r.columns}
        require(not referring & set(self.natural), "a natural key that refers is a part, no lookup")
        key, names = relation.internal(self.natural), relation.internal(self.columns)
        keyless = relation.frame.where(~all_given(key))
        require(
            not any_row(keyless.dropna("all", subset=relation.internal(moving))),
            f"where {', '.join(self.natural)} is NULL other columns are not",
        )
        rows = relation.frame.where(all_given(key)).select(*names).distinct()
        require(
            rows.count() == rows.select(*key).distinct().count(),
            f"{', '.join(self.natural)} do not determine {', '.join(moving)}",
        )
        rest = without(table, moving)
        rest["columns"] = {c: m for c, m in rest["columns"].items() if c not in self.natural}
        rest["references"] = (
            *rest["references"],
            Reference(columns=self.natural, table=self.into),
        )
        kept = {c: i for c, i in relation.columns.items() if c not in moving}
        return database.changed(
            {
                self.table: table.model_copy(update=rest),
                self.into: self._lookup(table, self.natural, surrogate=False),
            },
            {
                database.parts(self.table)[0]: database.relation_of(relation.frame, kept),
                self.into: database.relation_of(rows, dict(zip(self.columns, names, strict=True))),
            },
        )

    def inverse(self, before: Database) -> Rewrite:
        del before
        return InlineLookup(self.into)


def through(outer: Reference, inner: Reference, names: Mapping[str, str]) -> Reference:
    """The reference that stands for two, one behind the other; ``names``: of the inner columns."""
    return Reference(
        columns=tuple(names[c] for c in inner.columns),
        table=inner.table,
        prefix=outer.prefix + inner.prefix,
        orphans=inner.orphans,
    )


@dataclass(frozen=True)
class InlineLookup:
    """The columns of a lookup table move into every table that refers to it."""

    lookup: str

    def __call__(self, database: Database) -> Database:
        declared = database.declared(self.lookup)
        referrers = database.referrers(self.lookup)
        require(self.lookup not in database.homes, f"'{self.lookup}' is an entity's home")
        require(bool(referrers), f"no table refers to '{self.lookup}'")
        require(
            not declared.unique and declared.time is None,
            f"'{self.lookup}' has a time, or columns that identify its rows beside its key",
        )
        key = require_key(database, self.lookup)
        tied = {c for r in declared.references or () for c in r.columns}
        require(
            not tied & set(key) and all(r.table != self.lookup for r in declared.references or ()),
            f"'{self.lookup}' is a part of another table, or refers to itself",
        )
        require(
            not any_row(unreferenced(database, self.lookup)),
            f"'{self.lookup}' has rows that nothing refers to",
        )
        for name, _, reference in referrers:
            require_no_part(database, name, reference)
        tables = {name for name, *_ in referrers}
        for name in sorted(tables):
            for index in reversed(range(len(database.declared(name).references or ()))):
                if (database.declared(name).references or ())[index].table == self.lookup:
                    database = self._into(database, name, index)
        part = database.parts(self.lookup)[0]
        return database.changed({self.lookup: None}, {part: None})

    def _into(self, database: Database, name: str, index: int) -> Database:
        table, lookup = database.declared(name), database.declared(self.lookup)
        reference = (table.references or ())[index]
        theirs = database.relation(self.lookup)
        others = [r for i, r in enumerate(table.references or ()) if i != index]
        shared = {c for r in others for c in r.columns} & set(reference.columns)
        require(not shared, f"{', '.join(sorted(shared))} of '{name}' refers to other tables too")
        leaving: set[str] = set()
        if lookup.surrogate:
            require_free(database, name, reference.columns)
            require_nameless(database, name, reference)
            leaving = set(reference.columns)
            require(
                not any(set(u) & leaving for u in table.unique),
                f"{', '.join(reference.columns)} identify the rows of '{name}'",
            )
        rest = (c for c in theirs.columns if c not in (lookup.key or ()))
        joined, names, columns = fetched(database, name, reference, rest, leaving)
        moved = moved_names(lookup, names, reference.prefix)
        if not lookup.surrogate:
            # The columns that referred now name themselves, as the lookup's key named them.
            mapped = {
                k: c
                for c, k in zip(reference.columns, lookup.key or (), strict=True)
                if c not in table.columns
            }
            moved |= moved_names(lookup, mapped, reference.prefix)
        update = without(table, leaving)
        update["columns"] |= moved
        update["references"] = (
            *others,
            *(through(reference, r, names) for r in lookup.references or ()),
        )
        return database.changed(
            {name: table.model_copy(update=update)},
            {database.parts(name)[0]: database.relation_of(joined, columns)},
        )

    def inverse(self, before: Database) -> Rewrite | None:
        referrers = before.referrers(self.lookup)
        if len(referrers) != 1 or not before.declared(self.lookup).surrogate:
            return None
        name, _, reference = referrers[0]
        after = self(before)
        new = set(after.relation(name).columns) - (
            set(before.relation(name).columns) - set(reference.columns)
        )
        columns = tuple(c for c in after.relation(name).columns if c in new)
        surrogate = (before.declared(self.lookup).key or ("id",))[0]
        return ExtractLookup(name, columns, self.lookup, surrogate=surrogate)
