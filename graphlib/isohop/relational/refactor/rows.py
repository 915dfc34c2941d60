"""Rows split over tables and united, and in another order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from isohop.engines.frames import renamed, united
from isohop.relational.refactor.database import Database, Relation, Rewrite, require, require_new


@dataclass(frozen=True)
class SplitRows:
    """The rows of a table go to ``parts`` tables, by a hash of each that ``seed`` draws."""

    table: str
    parts: int
    seed: int

    def __call__(self, database: Database) -> Database:
        from pyspark.sql import functions as F

        relation = database.relation(self.table)
        (whole,) = database.parts(self.table)
        names = [f"{whole}_{number}" for number in range(1, self.parts + 1)]
        for name in names:
            require_new(database, name)
        columns = list(relation.columns.values())
        bucket = F.pmod(F.xxhash64(F.lit(self.seed), *columns), F.lit(self.parts))
        held = {
            name: database.relation_of(relation.frame.where(bucket == number), relation.columns)
            for number, name in enumerate(names)
        }
        table = database.declared(self.table).model_copy(update={"parts": tuple(names)})
        return database.changed({self.table: table}, {whole: None, **held})

    def inverse(self, before: Database) -> Rewrite:
        return UniteRows(self.table, before.parts(self.table)[0])


@dataclass(frozen=True)
class UniteRows:
    """The parts of a table become one, ``into``."""

    table: str
    into: str

    def __call__(self, database: Database) -> Database:
        parts = database.parts(self.table)
        require(len(parts) > 1, f"'{self.table}' lies in one piece")
        if self.into not in parts and self.into != self.table:
            require_new(database, self.into)
        relations = [database.relations[part] for part in parts]
        first = list(relations[0].columns)
        names = [f"u{index}" for index in range(len(first))]
        frames = [
            r.frame.select(*(renamed(r.columns[c], n) for c, n in zip(first, names, strict=True)))
            for r in relations
        ]
        whole = united(frames)
        new = database.relation_of(whole, dict(zip(first, names, strict=True)))
        update = {"parts": () if self.into == self.table else (self.into,)}
        table = database.declared(self.table).model_copy(update=update)
        gone: dict[str, Relation | None] = dict.fromkeys(parts)
        return database.changed({self.table: table}, {**gone, self.into: new})

    def inverse(self, before: Database) -> Rewrite:
        return SplitRows(self.table, len(before.parts(self.table)), 0)


@dataclass(frozen=True)
class Reorder:
    """Rows and columns of a table in another order, which ``seed`` draws."""

    table: str
    seed: int

    def __call__(self, database: Database) -> Database:
        from pyspark.sql import functions as F

        changed: dict[str, Relation | None] = {}
        for part in database.parts(self.table):
            relation = database.relations[part]
            names = list(relation.columns)
            names.sort(key=lambda c: hashlib.blake2b(f"{self.seed}:{c}".encode()).digest())
            everything = sorted(relation.columns.values())
            frame = relation.frame.orderBy(F.xxhash64(F.lit(self.seed), *everything))
            changed[part] = database.relation_of(frame, {c: relation.columns[c] for c in names})
        return database.changed({}, changed)

    def inverse(self, before: Database) -> Rewrite:
        del before
        return Reorder(self.table, self.seed)
