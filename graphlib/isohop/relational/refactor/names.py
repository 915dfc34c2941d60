"""Other names of tables and columns."""

from __future__ import annotations

from dataclasses import dataclass

from isohop.relational.refactor.database import (
    Columns,
    Database,
    Relation,
    Rewrite,
    moved_names,
    require,
    require_new,
)


@dataclass(frozen=True)
class RenameTable:
    """A physical table gets another name."""

    table: str
    name: str

    def __call__(self, database: Database) -> Database:
        relation = database.relation(self.table)
        if self.name != self.table or self.name in database.relations:
            require_new(database, self.name)
        (before,) = database.parts(self.table)
        parts = () if self.name == self.table else (self.name,)
        table = database.declared(self.table).model_copy(update={"parts": parts})
        return database.changed({self.table: table}, {before: None, self.name: relation})

    def inverse(self, before: Database) -> Rewrite | None:
        (name,) = before.parts(self.table)
        return RenameTable(self.table, name)


@dataclass(frozen=True)
class RenameColumn:
    """A column gets another name; its logical name stays."""

    table: str
    column: str
    name: str

    def __call__(self, database: Database) -> Database:
        table, relation = database.declared(self.table), database.relation(self.table)
        require(self.column in relation.columns, f"'{self.table}' has no such column")
        taken = {c.lower() for c in relation.columns if c != self.column}
        require(self.name.lower() not in taken, f"'{self.table}' has a column '{self.name}'")
        new = {self.column: self.name}

        def put(columns: Columns) -> Columns:
            return tuple(new.get(c, c) for c in columns)

        columns = {c: m for c, m in table.columns.items() if c != self.column}
        update = {
            "key": put(table.key) if table.key else None,
            "unique": tuple(put(u) for u in table.unique),
            "time": new.get(table.time, table.time) if table.time else None,
            "columns": columns | moved_names(table, new),
            "references": tuple(
                r.model_copy(update={"columns": put(r.columns)}) for r in table.references or ()
            ),
        }
        held = {new.get(c, c): i for c, i in relation.columns.items()}
        return database.changed(
            {self.table: table.model_copy(update=update)},
            {database.parts(self.table)[0]: Relation(relation.frame, held)},
        )

    def inverse(self, before: Database) -> Rewrite:
        del before
        return RenameColumn(self.table, self.name, self.column)
