"""A table and its 1:1 parts; a junction table is the part that holds one reference."""

from __future__ import annotations

from dataclasses import dataclass

from isohop.engines.frames import all_given, equal
from isohop.relational.database import Reference, Table
from isohop.relational.refactor.database import (
    Columns,
    Database,
    NotLossless,
    Rewrite,
    any_row,
    key_of,
    moved_names,
    new_name,
    orphans,
    require,
    require_free,
    require_key,
    require_new,
    without,
)


@dataclass(frozen=True)
class VerticalSplit:
    """``columns`` of a table move to a 1:1 part of it, ``into``, with the same key.

    ``sparse``: the part leaves out the rows in which all of them are NULL.
    """

    table: str
    columns: Columns
    into: str
    sparse: bool = False

    def __call__(self, database: Database) -> Database:
        require_new(database, self.into)
        key = require_key(database, self.table)
        require_free(database, self.table, self.columns)
        whole, relation = database.declared(self.table), database.relation(self.table)
        leaving = set(self.columns)
        part = Table(
            key=key,
            unique=tuple(u for u in whole.unique if set(u) <= leaving),
            columns=moved_names(whole, {c: c for c in self.columns}),
            references=(
                Reference(columns=key, table=self.table),
                *(r for r in whole.references or () if set(r.columns) <= leaving),
            ),
        )
        frame = relation.frame
        if self.sparse:
            frame = frame.dropna("all", subset=relation.internal(self.columns))
        kept = {c: i for c, i in relation.columns.items() if c not in leaving}
        moved = {c: relation.columns[c] for c in (*key, *self.columns)}
        return database.changed(
            {
                self.table: whole.model_copy(update=without(whole, leaving)),
                self.into: part,
            },
            {
                database.parts(self.table)[0]: database.relation_of(relation.frame, kept),
                self.into: database.relation_of(frame, moved),
            },
        )

    def inverse(self, before: Database) -> Rewrite:
        del before
        return VerticalMerge(self.table, self.into)


@dataclass(frozen=True)
class VerticalMerge:
    """The 1:1 part of a table comes back into it."""

    table: str
    part: str

    def __call__(self, database: Database) -> Database:
        whole, part = database.declared(self.table), database.declared(self.part)
        require(self.part not in database.homes, f"'{self.part}' is an entity's home")
        tie = self._tie(database)
        require(
            not database.referrers(self.part) and part.time is None,
            f"'{self.part}' is more than a part of '{self.table}': others refer to it, or it has "
            "a time",
        )
        require_key(database, self.table)
        require_key(database, self.part)
        require(
            not any_row(orphans(database, self.part, tie)),
            f"'{self.part}' has rows that '{self.table}' lacks",
        )
        ours, theirs = database.relation(self.table), database.relation(self.part)
        names = self._names(database)
        moving = {c: theirs.columns[c] for c in names}
        joined = ours.frame.join(
            theirs.frame.select(*theirs.internal(tie.columns), *moving.values()),
            equal(ours.internal(whole.key or ()), theirs.internal(tie.columns)),
            "left",
        )
        references = [
            r.model_copy(update={"columns": tuple(names[c] for c in r.columns)})
            for r in part.references or ()
            if r is not tie
        ]
        update = {
            "columns": {**whole.columns, **moved_names(part, names)},
            "unique": (*whole.unique, *(tuple(names[c] for c in u) for u in part.unique)),
            "references": (*(whole.references or ()), *references),
        }
        columns = {**ours.columns, **{names[c]: i for c, i in moving.items()}}
        return database.changed(
            {self.table: whole.model_copy(update=update), self.part: None},
            {
                database.parts(self.part)[0]: None,
                database.parts(self.table)[0]: database.relation_of(joined, columns),
            },
        )

    def _tie(self, database: Database) -> Reference:
        key = set(key_of(database, self.part))
        for reference in database.declared(self.part).references or ():
            if reference.table == self.table and set(reference.columns) == key:
                others = [
                    r for r in database.declared(self.part).references or () if r != reference
                ]
                shared = any(set(r.columns) & key for r in others)
                require(not shared, f"the key of '{self.part}' refers to several tables")
                return reference
        raise NotLossless(f"the key of '{self.part}' does not refer to '{self.table}'")

    def _names(self, database: Database) -> dict[str, str]:
        taken = set(database.relation(self.table).columns)
        names = {}
        for column in database.relation(self.part).columns:
            if column not in (database.declared(self.part).key or ()):
                names[column] = new_name(column, taken)
                taken.add(names[column])
        return names

    def inverse(self, before: Database) -> Rewrite:
        return VerticalSplit(self.table, tuple(self._names(before).values()), self.part)


@dataclass(frozen=True)
class ReferenceToJunction:
    """A reference of a table moves to a junction table, keyed by the table's key."""

    table: str
    reference: int
    into: str

    def __call__(self, database: Database) -> Database:
        return self._split(database)(database)

    def _split(self, database: Database) -> VerticalSplit:
        references = database.declared(self.table).references or ()
        require(self.reference < len(references), f"'{self.table}' has no such reference")
        columns = references[self.reference].columns
        relation = database.relation(self.table)
        names = relation.internal(columns)
        partly = relation.frame.dropna("all", subset=names).where(~all_given(names))
        require(not any_row(partly), f"a reference of '{self.table}' is given in part")
        return VerticalSplit(self.table, columns, self.into, sparse=True)

    def inverse(self, before: Database) -> Rewrite:
        del before
        return JunctionToReference(self.table, self.into)


@dataclass(frozen=True)
class JunctionToReference:
    """A junction table that holds one reference for a key of ``table`` becomes a reference."""

    table: str
    junction: str

    def __call__(self, database: Database) -> Database:
        self._reference(database)
        return VerticalMerge(self.table, self.junction)(database)

    def _reference(self, database: Database) -> Reference:
        junction = database.declared(self.junction)
        rest = set(database.relation(self.junction).columns) - set(junction.key or ())
        for reference in junction.references or ():
            if set(reference.columns) == rest:
                return reference
        raise NotLossless(f"'{self.junction}' holds more than one reference")

    def inverse(self, before: Database) -> Rewrite:
        self._reference(before)
        return ReferenceToJunction(
            self.table, len(before.declared(self.table).references or ()), self.junction
        )
