"""Integrity: which rows of the landed tables can be used, by keys and references.

Acts through the engine, one pass over each table for the counts and one more only where something
is wrong. Columns get safe internal names (``c0``, ``c1``, … in the order of their names) here, and
keep them until the graph dataset is written, so that no name from outside reaches an expression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from isohop.engines.frames import (
    all_given,
    distinct_names,
    equal,
    read_parquet,
    staged,
    united,
    with_digits,
    write_parquet,
)
from isohop.relational.as_of import forget_later
from isohop.relational.database import OrphanPolicy, Policies, Reference, Table
from isohop.relational.ledger import Finding, Ledger, TableLedger
from isohop.relational.source import LandedTable

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

EXAMPLES = 5
REASON = "quarantine_reason"
"""Column of quarantined rows, beside their own."""


@dataclass
class CleanTable:
    """A table's usable rows. ``names``: column -> internal name; ``rows``: how many."""

    name: str
    frame: DataFrame
    names: Mapping[str, str]
    types: Mapping[str, pa.DataType]
    rows: int
    all_null: tuple[str, ...] = ()
    """Columns without a value; their type says nothing. Of the rows that landed, until
    `Integrity.check` has looked at those that are used."""

    def select(self, columns: Mapping[str, str]) -> DataFrame:
        """These columns (own name -> name wanted)."""
        from pyspark.sql import functions as F

        return self.frame.select(
            *(F.col(self.names[column]).alias(wanted) for column, wanted in columns.items())
        )


def read_landed(session: SparkSession, landed: LandedTable) -> CleanTable:
    """The landed files as a frame with internal names."""
    columns = sorted(landed.schema.names)
    names = {column: f"c{index}" for index, column in enumerate(columns)}
    types = landed.types
    alike: dict[tuple[pa.Field, ...], list[Path]] = {}
    for path in landed.paths:
        alike.setdefault(landed.narrow.get(path, ()), []).append(path)
    parts = []
    for fields, paths in alike.items():
        narrow = {field.name for field in fields}
        frame = read_parquet(session, *paths)
        # A source's own files, used as they are, may hold more columns than were asked for.
        held = [column for column in frame.columns if column in names]
        frame = frame.toDF(*(names.get(c, f"x{i}") for i, c in enumerate(frame.columns)))
        parts.append(
            frame.select(*(_widened(names[c], types[c]) if c in narrow else names[c] for c in held))
        )
    frame = united(parts).select(*(_one_zero(names[c], types[c]) for c in columns))
    return CleanTable(landed.name, frame, names, types, landed.rows, landed.all_null)


def _one_zero(name: str, type_: pa.DataType) -> Column:
    """Doubles have two zeros, which are equal. Engines group by one, and partition by two."""
    from pyspark.sql import functions as F

    if not pa.types.is_floating(type_):
        return F.col(name)
    zero = F.lit(0.0).cast("float" if pa.types.is_float32(type_) else "double")
    return (F.col(name) + zero).alias(name)


def _widened(name: str, type_: pa.DataType) -> Column:
    from pyspark.sql import functions as F

    return F.col(name).cast("bigint" if pa.types.is_integer(type_) else "double").alias(name)


class Integrity:
    """Checks every table by its keys and references, and takes out what the policies say.

    ``as_of``: only rows that were known before then are there.
    """

    def __init__(
        self,
        session: SparkSession,
        tables: Mapping[str, Table],
        policies: Policies,
        landed: Mapping[str, LandedTable],
        stage: Path,
        quarantine: Path,
        ledger: Ledger,
        as_of: datetime | None = None,
    ):
        self.session = session
        self.tables = tables
        self.policies = policies
        self.stage = stage
        self.quarantine = quarantine
        self.ledger = ledger
        self.replaced = 0
        """How often rows were written that stay; numbers their folders."""
        self.clean = {name: read_landed(session, landed[name]) for name in tables}
        for name, table in landed.items():
            counted = ledger.table(name)
            counted.rows = table.rows_read
            counted.quarantine("unreadable", table.rejected)
            counted.find(
                "unreadable rows", name, table.rejected, table.first_reasons(), "quarantine"
            )
            for note in table.notes:
                ledger.notes.append(f"{name}: {note}")
        if as_of is not None:
            forget_later(tables, self.clean, landed, as_of, ledger)

    def check(self, name: str) -> None:
        """Keys first: null ones, then duplicates. `take_out_orphans` and `check_references` follow
        for all tables."""
        table, clean, counted = self.tables[name], self.clean[name], self.ledger.table(name)
        key = [clean.names[column] for column in table.key or ()]
        without = self._count_nulls(name, key)
        if key:
            if without:
                self._take_out_null_keys(clean, key, table, counted, without)
            self._take_out_duplicates(clean, key, table, counted)
        for unique in table.unique:
            self._report_duplicates(clean, unique, counted)

    def take_out_orphans(self) -> None:
        """Rows whose reference the target lacks, where the policy is *quarantine*; then those that
        referred to them, until every row that is left has what it refers to."""
        strict = {
            name: [r for r in table.references or () if self._policy(r) == "quarantine"]
            for name, table in sorted(self.tables.items())
        }
        pending = [(name, reference) for name, held in strict.items() for reference in held]
        found: dict[tuple[str, Reference], tuple[int, list[str]]] = {}
        while pending:
            name, reference = pending.pop(0)
            count, shown = self._take_out(name, reference)
            if not count:
                continue
            before, shown_before = found.get((name, reference), (0, []))
            found[name, reference] = before + count, (shown_before + shown)[:EXAMPLES]
            again = [(n, r) for n, held in strict.items() for r in held if r.table == name]
            pending += [one for one in again if one not in pending]
        for (name, reference), (count, shown) in found.items():
            self._report_orphans(name, reference, count, shown)

    def _take_out(self, name: str, reference: Reference) -> tuple[int, list[str]]:
        """Set the orphans of one reference aside; how many there are, and examples."""
        clean, counted = self.clean[name], self.ledger.table(name)
        ours, keys, orphans = self._orphans(name, reference)
        count, shown = _counted(orphans, ours)
        if count:
            reason = f"orphaned reference to {reference.table}"
            self._set_aside(clean, orphans, reason, counted, count)
            kept = clean.frame.where(~all_given(ours)).unionByName(
                clean.frame.join(keys, equal(ours, keys.columns), "left_semi")
            )
            self._replace(clean, kept, clean.rows - count)
        return count, shown

    def check_references(self, name: str) -> None:
        """References whose key the target lacks, where the rows stay, by the policy of each."""
        table, clean = self.tables[name], self.clean[name]
        for reference in table.references or ():
            policy = self._policy(reference)
            if policy == "quarantine":
                continue
            ours, keys, orphans = self._orphans(name, reference)
            count, shown = _counted(orphans, ours)
            self._report_orphans(name, reference, count, shown)
            if count and policy == "unset":
                self._unset(table, clean, reference, ours, keys)

    def _policy(self, reference: Reference) -> OrphanPolicy:
        return reference.orphans or self.policies.orphans

    def _orphans(self, name: str, reference: Reference) -> tuple[list[str], DataFrame, DataFrame]:
        """(the referring columns, the target's keys, the rows whose key is not among them)."""
        clean, target = self.clean[name], self.clean[reference.table]
        ours = [clean.names[column] for column in reference.columns]
        key = self.tables[reference.table].key or ()
        keys = target.select({column: f"k{index}" for index, column in enumerate(key)})
        given = clean.frame.where(all_given(ours))
        return ours, keys, given.join(keys, equal(ours, keys.columns), "left_anti")

    def _report_orphans(
        self, name: str, reference: Reference, count: int, shown: list[str]
    ) -> None:
        where = f"{name}.{', '.join(reference.columns)} → {reference.table}"
        policy: str = self._policy(reference)
        if policy == "unset" and not self._free(self.tables[name], reference):
            policy = "kept, since its columns serve the key or another reference"
        self.ledger.table(name).find("orphaned reference", where, count, shown, policy)

    def _unset(
        self,
        table: Table,
        clean: CleanTable,
        reference: Reference,
        ours: list[str],
        keys: DataFrame,
    ) -> None:
        """Read a reference as NULL where its target lacks the key."""
        from pyspark.sql import functions as F

        free = [clean.names[c] for c in self._free(table, reference)]
        known = keys.withColumn("known", F.lit(True))
        joined = clean.frame.join(known, equal(ours, keys.columns), "left")
        kept = joined.select(
            *(
                F.when(F.col("known"), F.col(c)).alias(c) if c in free else F.col(c)
                for c in clean.frame.columns
            )
        )
        self._replace(clean, kept, clean.rows)

    @staticmethod
    def _free(table: Table, reference: Reference) -> list[str]:
        """Of a reference's columns, those that serve nothing else."""
        needed = set(table.key or ()).union(
            *(set(r.columns) for r in table.references or () if r is not reference)
        )
        return [column for column in reference.columns if column not in needed]

    def _count_nulls(self, name: str, key: Sequence[str]) -> int:
        """Tell of columns and references; how many rows lack a part of the ``key``."""
        from pyspark.sql import functions as F

        clean, counted = self.clean[name], self.ledger.table(name)
        references = self.tables[name].references or ()
        columns = list(clean.names)
        measures = [F.count(F.lit(1)).alias("rows")]
        measures += [F.count(clean.names[column]).alias(clean.names[column]) for column in columns]
        measures += [
            F.sum((~all_given([clean.names[c] for c in r.columns])).cast("long")).alias(f"r{i}")
            for i, r in enumerate(references)
        ]
        if key:
            measures.append(F.count(F.when(~all_given(key), 1)).alias("without"))
        row = clean.frame.agg(*measures).collect()[0].asDict()
        # Rows that became known later are out by now: a value of theirs must not tell of a type.
        clean.all_null = tuple(c for c in columns if not row[clean.names[c]])
        if row["rows"] == 0:
            counted.findings.append(Finding(kind="table without rows", where=name, count=0))
            return 0
        for column in columns:
            if column in clean.all_null:
                counted.find("column without values", f"{name}.{column}", row["rows"])
        for index, reference in enumerate(references):
            counted.find(
                "null reference",
                f"{name}.{', '.join(reference.columns)} → {reference.table}",
                row[f"r{index}"] or 0,
                policy="no reference",
            )
        return int(row.get("without", 0))

    def _take_out_null_keys(
        self, clean: CleanTable, key: list[str], table: Table, counted: TableLedger, count: int
    ) -> None:
        where = f"{clean.name}.{', '.join(table.key or ())}"
        counted.find("null key", where, count, policy="quarantine")
        without = clean.frame.where(~all_given(key))
        self._set_aside(clean, without, "null key", counted, count)
        self._replace(clean, clean.frame.where(all_given(key)), clean.rows - count)

    def _take_out_duplicates(
        self, clean: CleanTable, key: list[str], table: Table, counted: TableLedger
    ) -> None:
        """Of the rows of one key the first stays, in the order of all their values."""
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        groups = clean.frame.groupBy(*key).count().where(F.col("count") > 1)
        shown = [_example(row) for row in groups.orderBy(*key).limit(EXAMPLES).collect()]
        if not shown:
            return
        values = with_digits(clean.frame, sorted(clean.frame.columns))
        order = Window.partitionBy(*key).orderBy(*(value.asc_nulls_last() for value in values))
        ranked = clean.frame.withColumn("rank", F.row_number().over(order))
        extra = ranked.where(F.col("rank") > 1).drop("rank")
        count = extra.count()
        where = f"{clean.name}.{', '.join(table.key or ())}"
        counted.find("duplicate key", where, count, shown, "first of each key kept")
        self._set_aside(clean, extra, "duplicate key", counted, count)
        kept = ranked.where(F.col("rank") == 1).drop("rank")
        self._replace(clean, kept, clean.rows - count)

    def _report_duplicates(
        self, clean: CleanTable, unique: Sequence[str], counted: TableLedger
    ) -> None:
        from pyspark.sql import functions as F

        columns = [clean.names[column] for column in unique]
        groups = clean.frame.where(all_given(columns)).groupBy(*columns).count().where("count > 1")
        shown = [_example(r) for r in groups.orderBy(*columns).limit(EXAMPLES).collect()]
        if shown:
            extra = groups.agg(F.sum("count").alias("n"), F.count(F.lit(1)).alias("g")).collect()[0]
            where = f"{clean.name}.{', '.join(unique)}"
            counted.find("not unique", where, extra["n"] - extra["g"], shown, "by 'violations'")

    def _set_aside(
        self, clean: CleanTable, rows: DataFrame, reason: str, counted: TableLedger, count: int
    ) -> None:
        """Write rows to the quarantine under their own column names, with the reason."""
        from pyspark.sql import functions as F

        counted.quarantine(reason, count)
        folder = self.quarantine / clean.name
        part = len(list(folder.glob("*"))) if folder.exists() else 0
        own = {internal: column for column, internal in clean.names.items()}
        # Rows of a quarantine that somebody mended have that column as well.
        (told,) = distinct_names([REASON], clean.names)
        named = rows.select(
            F.lit(reason).alias(told),
            *(F.col(c).alias(own[c]) for c in rows.columns),
        )
        write_parquet(named, folder / f"reason-{part}")

    def _replace(self, clean: CleanTable, frame: DataFrame, rows: int) -> None:
        """Write the rows that stay, so that what follows does not do the work again."""
        self.replaced += 1
        folder = self.stage / f"{clean.name}-{self.replaced}"
        clean.frame = staged(self.session, frame, folder)
        clean.rows = rows


def _counted(orphans: DataFrame, columns: list[str]) -> tuple[int, list[str]]:
    """How many rows there are, and the most frequent of their keys."""
    from pyspark.sql import functions as F

    groups = orphans.groupBy(*columns).count().orderBy(F.desc("count"), *columns)
    shown = [_example(row) for row in groups.limit(EXAMPLES).collect()]
    return orphans.count() if shown else 0, shown


def _example(row: Any) -> str:
    """``(JFK, 2013-01-01) × 3`` from key values and a count."""
    *values, count = row
    text = ", ".join("NULL" if value is None else str(value)[:80] for value in values)
    return f"({text}) × {count}"
