"""A chain of lookup tables, and a star of them."""

from __future__ import annotations

from dataclasses import dataclass

from isohop.engines.frames import all_given, equal
from isohop.relational.database import Reference
from isohop.relational.refactor.database import (
    Database,
    Rewrite,
    any_row,
    fetched,
    key_of,
    moved_names,
    new_name,
    orphans,
    require,
    require_free,
    require_key,
    require_no_part,
    unreferenced,
    without,
)
from isohop.relational.refactor.lookups import through


@dataclass(frozen=True)
class ChainToStar:
    """T → L → M becomes T → L and T → M, for every table T that refers to the lookup L.

    ``reference``: position of L's reference to M.
    """

    lookup: str
    reference: int

    def __call__(self, database: Database) -> Database:
        lookup = database.declared(self.lookup)
        require(self.lookup not in database.homes, f"'{self.lookup}' is an entity's home")
        require(self.reference < len(lookup.references or ()), "there is no such reference")
        inner = (lookup.references or ())[self.reference]
        require(inner.table != self.lookup, f"'{self.lookup}' refers to itself")
        require_free(database, self.lookup, inner.columns)
        require_key(database, self.lookup)
        referrers = database.referrers(self.lookup)
        require(bool(referrers), f"no table refers to '{self.lookup}'")
        theirs = database.relation(self.lookup)
        lost = unreferenced(database, self.lookup)
        require(
            not any_row(lost.dropna("all", subset=theirs.internal(inner.columns))),
            f"'{self.lookup}' has rows that nothing refers to",
        )
        for name, _, outer in referrers:
            require(name != self.lookup, f"'{self.lookup}' refers to itself")
            require_no_part(database, name, outer)
            database = self._hoist(database, name, outer, inner)
        kept = {c: i for c, i in theirs.columns.items() if c not in inner.columns}
        return database.changed(
            {self.lookup: lookup.model_copy(update=without(lookup, inner.columns))},
            {database.parts(self.lookup)[0]: database.relation_of(theirs.frame, kept)},
        )

    def _hoist(self, database: Database, name: str, outer: Reference, inner: Reference) -> Database:
        table, lookup = database.declared(name), database.declared(self.lookup)
        joined, names, columns = fetched(database, name, outer, inner.columns)
        update = {
            "columns": {**table.columns, **moved_names(lookup, names, outer.prefix)},
            "references": (
                *(table.references or ()),
                through(outer, inner, names),
            ),
        }
        return database.changed(
            {name: table.model_copy(update=update)},
            {database.parts(name)[0]: database.relation_of(joined, columns)},
        )

    def inverse(self, before: Database) -> Rewrite | None:
        referrers = before.referrers(self.lookup)
        if len(referrers) != 1:
            return None
        name, index, _ = referrers[0]
        return StarToChain(name, index, len(before.declared(name).references or ()))


@dataclass(frozen=True)
class StarToChain:
    """T → L and T → M becomes T → L → M. ``via``, ``reference``: positions of the two in T."""

    table: str
    via: int
    reference: int

    def __call__(self, database: Database) -> Database:
        table, ours = database.declared(self.table), database.relation(self.table)
        references = table.references or ()
        require(
            max(self.via, self.reference) < len(references) and self.via != self.reference,
            "there are no such references",
        )
        outer, inner = references[self.via], references[self.reference]
        lookup = outer.table
        require(lookup not in database.homes, f"'{lookup}' is an entity's home")
        require(
            len(database.referrers(lookup)) == 1 and inner.table != lookup,
            f"not only '{self.table}' refers to '{lookup}', or it would refer to itself",
        )
        require_free(database, self.table, inner.columns)
        require_key(database, lookup)
        require(
            inner.prefix.startswith(outer.prefix),
            "the two references have names that do not go one behind the other",
        )
        require(
            not set(inner.columns) & set(table.columns),
            "the reference has a logical name of its own",
        )
        via, far = ours.internal(outer.columns), ours.internal(inner.columns)
        loose = ours.frame.where(~all_given(via)).dropna("all", subset=far)
        lost = orphans(database, self.table, outer).dropna("all", subset=far)
        require(
            not any_row(loose) and not any_row(lost),
            f"rows of '{self.table}' refer to '{inner.table}' and to no row of '{lookup}'",
        )
        pairs = ours.frame.where(all_given(via)).select(*via, *far).distinct()
        require(
            pairs.count() == pairs.select(*via).distinct().count(),
            f"'{lookup}' does not determine '{inner.table}' in '{self.table}'",
        )
        theirs = database.relation(lookup)
        names, taken = {}, set(theirs.columns)
        for column in inner.columns:
            names[column] = new_name(column, taken)
            taken.add(names[column])
        key = theirs.internal(key_of(database, lookup))
        joined = theirs.frame.join(pairs, equal(key, via), "left")
        moved = Reference(
            columns=tuple(names.values()),
            table=inner.table,
            prefix=inner.prefix.removeprefix(outer.prefix),
            orphans=inner.orphans,
        )
        declared = database.declared(lookup)
        kept = {c: i for c, i in ours.columns.items() if c not in inner.columns}
        columns = {**theirs.columns, **{names[c]: ours.columns[c] for c in inner.columns}}
        return database.changed(
            {
                self.table: table.model_copy(update=without(table, inner.columns)),
                lookup: declared.model_copy(
                    update={"references": (*(declared.references or ()), moved)}
                ),
            },
            {
                database.parts(self.table)[0]: database.relation_of(ours.frame, kept),
                database.parts(lookup)[0]: database.relation_of(joined, columns),
            },
        )

    def inverse(self, before: Database) -> Rewrite:
        lookup = (before.declared(self.table).references or ())[self.via].table
        return ChainToStar(lookup, len(before.declared(lookup).references or ()))
