"""Tables stored in parts: rows split over several physical tables, or a table under another name.

A schema file's table is a name for facts; ``parts`` says which of the source's tables hold its rows
now. `united` makes a source in which each such table is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from isohop.errors import InvalidInput, Problem, did_you_mean
from isohop.relational.as_of import Known
from isohop.relational.database import Table
from isohop.relational.landing import LandedTable, landing
from isohop.relational.source import Source, SourceColumn, SourceReference, SourceTable


def united(source: Source, tables: Mapping[str, Table]) -> Source:
    """``source`` with the tables that have parts; the very same where none has."""
    parts = {name: table.parts for name, table in tables.items() if table.parts}
    return _United(source, parts) if parts else source


class _United:
    """A `Source` of the united tables, and of those that have no parts."""

    def __init__(self, source: Source, parts: Mapping[str, tuple[str, ...]]):
        self._source = source
        self._parts = parts
        self._tables: dict[str, SourceTable] | None = None

    @property
    def takes_types(self) -> bool:
        return self._source.takes_types

    def tables(self) -> Mapping[str, SourceTable]:
        """As of a source. Raises `InvalidInput` where parts are missing or do not match."""
        if self._tables is None:
            physical = self._source.tables()
            problems = [
                Problem(
                    f"tables.{name}.parts",
                    f"the source has no table '{part}'.",
                    did_you_mean(part, physical),
                )
                for name, parts in self._parts.items()
                for part in parts
                if part not in physical
            ]
            if problems:
                raise InvalidInput("The source does not hold all parts", problems)
            logical = {part: name for name, parts in self._parts.items() for part in parts}
            tables = {
                name: _renamed_targets(table, logical)
                for name, table in physical.items()
                if name not in logical
            }
            for name, parts in self._parts.items():
                held = [_renamed_targets(physical[part], logical) for part in parts]
                problems += _mismatches(name, held)
                tables[name] = _one_table(name, held)
            if problems:
                raise InvalidInput("Parts of one table do not match", problems)
            self._tables = dict(sorted(tables.items()))
        return self._tables

    def fingerprint(self, table: str) -> str:
        parts = self._parts.get(table, (table,))
        return _combined(parts, [self._source.fingerprint(part) for part in parts])

    def land(
        self,
        table: str,
        folder: Path,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        known: Known | None = None,
    ) -> LandedTable:
        if table not in self._parts:
            return self._source.land(table, folder, columns, types, known)
        parts = self._parts[table]
        landed = [
            self._source.land(part, folder / f"part-{number}", columns, types, known)
            for number, part in enumerate(parts)
        ]
        schema = _common_schema(table, landed)
        landed = [
            one
            if one.schema.equals(schema)
            else _typed(one, schema, folder / f"part-{number}-typed")
            for number, one in enumerate(landed)
        ]
        return LandedTable(
            name=table,
            paths=tuple(path for one in landed for path in one.paths),
            schema=schema,
            rows=sum(one.rows for one in landed),
            rows_read=sum(one.rows_read for one in landed),
            quarantine=_one_file(landed, folder / "quarantine.parquet"),
            notes=tuple(
                f"{part}: {note}"
                for part, one in zip(parts, landed, strict=True)
                for note in one.notes
            ),
            fingerprint=_combined(parts, [one.fingerprint for one in landed]),
            all_null=_all_null(landed),
            narrow={path: columns for one in landed for path, columns in one.narrow.items()},
            later=sum(one.later for one in landed),
            untold=sum(one.untold for one in landed),
        )

    def close(self) -> None:
        self._source.close()


def _renamed_targets(table: SourceTable, logical: Mapping[str, str]) -> SourceTable:
    references = tuple(
        replace(reference, table=logical.get(reference.table, reference.table))
        for reference in table.references
    )
    return replace(table, references=references)


def _mismatches(name: str, parts: Sequence[SourceTable]) -> list[Problem]:
    first = set(parts[0].column_names)
    problems = []
    for part in parts[1:]:
        lacking, more = first - set(part.column_names), set(part.column_names) - first
        told = [f"'{part.name}' lacks {', '.join(sorted(lacking))}"] if lacking else []
        told += [f"'{part.name}' has {', '.join(sorted(more))} besides"] if more else []
        if told:
            problems.append(
                Problem(
                    f"tables.{name}.parts",
                    f"compared with '{parts[0].name}', {' and '.join(told)}.",
                    "Parts are the rows of one table, so they have the same columns.",
                )
            )
    return problems


def _one_table(name: str, parts: Sequence[SourceTable]) -> SourceTable:
    """What the parts declare alike."""
    columns = []
    for column in parts[0].columns:
        same = [c for part in parts for c in part.columns if c.name == column.name]
        types = {c.type for c in same if not c.all_null}
        type_ = types.pop() if len(types) == 1 else (column.type if not types else None)
        columns.append(SourceColumn(column.name, type_, all(c.all_null for c in same)))
    key = parts[0].key if all(part.key == parts[0].key for part in parts) else None
    shared: list[SourceReference] = [
        reference
        for reference in parts[0].references
        if all(reference in part.references for part in parts)
    ]
    return SourceTable(name, tuple(columns), key, tuple(shared))


def _common_schema(name: str, landed: Sequence[LandedTable]) -> pa.Schema:
    fields, problems = [], []
    for column in landed[0].schema.names:
        types = {
            one.schema.field(column).type: one.name
            for one in landed
            if column not in one.all_null and one.rows
        } or {landed[0].schema.field(column).type: landed[0].name}
        if len(types) > 1:
            told = ", ".join(f"{type_} in '{part}'" for type_, part in types.items())
            problems.append(
                Problem(
                    f"tables.{name}.parts",
                    f"column '{column}' is {told}.",
                    f"Say which under tables.{name}.types, or mend the source.",
                )
            )
        fields.append(pa.field(column, next(iter(types))))
    if problems:
        raise InvalidInput("Parts of one table do not match", problems)
    return pa.schema(fields)


def _typed(landed: LandedTable, schema: pa.Schema, folder: Path) -> LandedTable:
    """``landed`` with the types of ``schema``: columns of another hold no value here."""
    with landing(folder) as arriving:
        arriving.begin(schema)
        for path in landed.paths:
            for batch in pq.ParquetFile(path).iter_batches(columns=schema.names):
                # A name also selects those that continue it after a dot.
                columns = [
                    batch.column(field.name).cast(field.type)
                    if landed.schema.field(field.name).type == field.type
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                arriving.write(pa.record_batch(columns, schema=schema))
    typed = arriving.landed(landed.name, folder, landed.fingerprint)
    return replace(landed, paths=typed.paths, schema=schema, narrow={})


def _all_null(landed: Sequence[LandedTable]) -> tuple[str, ...]:
    with_rows = [set(one.all_null) for one in landed if one.rows]
    return tuple(sorted(set.intersection(*with_rows or [set(landed[0].schema.names)])))


def _one_file(landed: Sequence[LandedTable], path: Path) -> Path | None:
    """The quarantined rows of all parts, in one file."""
    files = [one.quarantine for one in landed if one.quarantine is not None]
    if len(files) < 2:
        return files[0] if files else None
    with pq.ParquetWriter(path, pq.read_schema(files[0])) as writer:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches():
                writer.write_batch(batch)
    return path


def _combined(parts: Sequence[str], fingerprints: Sequence[str]) -> str:
    if len(fingerprints) == 1:
        return fingerprints[0]
    digest = hashlib.sha256()
    for part, fingerprint in sorted(zip(parts, fingerprints, strict=True)):
        digest.update(f"{part}\0{fingerprint}\n".encode())
    return digest.hexdigest()
