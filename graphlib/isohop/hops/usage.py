"""Which rows reached the graph: the ledger's other side, counted apart from what was taken out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import add, or_
from typing import TYPE_CHECKING

from isohop.engines.frames import all_given, equal, renamed, united, with_digits
from isohop.hops.homing import Occurrence
from isohop.hops.plan import Plan, Root
from isohop.hops.universal_row import references
from isohop.relational.database import Reference
from isohop.relational.integrity import EXAMPLES, CleanTable
from isohop.relational.ledger import Ledger, TableLedger

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NO_ENTITY = "leads to no entity"
NO_REFERRER = "no row refers to it, and it leads to no entity"
TOO_FEW = "event with one participant"
"""Its entity is a node; what the row says of the event has no pair to stand on."""
NOBODY = "event of nobody"
"""An entity that is a node stands in the row, but not the one that all it says is of."""


def _referring(plan: Plan, table: str) -> Iterator[tuple[str, Reference]]:
    """Each reference to ``table``, and whose it is. A 1:1 partner is referred to by the table it is
    a part of."""
    for other in plan.schema.tables:
        for reference, _ in references(plan.schema, other):
            if reference.table != table or other == table:
                continue
            if _is_part(plan, other, table) and not _is_part(plan, table, other):
                # The part's own reference back to its whole: the whole does not hang on it.
                continue
            yield other, reference


def referring_keys(plan: Plan, clean: Mapping[str, CleanTable], table: str) -> Iterator[DataFrame]:
    """For each reference to ``table``: the distinct keys referred to, columns ``f0``, ``f1``, …"""
    for other, reference in _referring(plan, table):
        names = clean[other].names
        columns = [names[column] for column in reference.columns]
        yield (
            clean[other]
            .frame.where(all_given(columns))
            .select(*(renamed(c, f"f{i}") for i, c in enumerate(columns)))
            .distinct()
        )


def _is_reached(plan: Plan, table: str) -> bool:
    """Whether rows of ``table`` can be part of what is said of an entity: rows of a root refer to
    them, or rows of another such table do."""
    reached = {table}
    waiting = [table]
    while waiting:
        for other, _ in _referring(plan, waiting.pop()):
            if plan.roots.get(other) is not None:
                return True
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return False


def _is_part(plan: Plan, table: str, whole: str) -> bool:
    """Whether ``table`` is a 1:1 partner that is joined to ``whole``."""
    return any(
        partner and reference.table == table
        for reference, partner in references(plan.schema, whole)
    )


def count_usage(
    plan: Plan,
    clean: Mapping[str, CleanTable],
    universal: Mapping[str, DataFrame],
    empty: set[str],
    ledger: Ledger,
) -> None:
    """Fill in ``used`` and ``unused`` of every table."""
    for table in plan.schema.tables:
        counted = ledger.table(table)
        root = plan.roots.get(table)
        folded = plan.schema.home(table) is None and any(
            reference.table == table and other != table
            for other in plan.schema.tables
            for reference, _ in references(plan.schema, other)
        )
        if not folded:
            rows = clean[table].rows
            if root is None:
                counted.leave_unused(NO_ENTITY, rows)
                continue
            _count_rows(root, universal[table], counted, NO_ENTITY)
            continue
        reached = _is_reached(plan, table)
        referred = _referred(plan, clean, table) if reached else 0
        counted.used += referred
        if root is None:
            why = NO_REFERRER if reached else NO_ENTITY
            counted.leave_unused(why, clean[table].rows - referred)
        elif table not in empty:
            _count_rows(root, universal[table], counted, NO_REFERRER)


def _referred(plan: Plan, clean: Mapping[str, CleanTable], table: str) -> int:
    key = plan.schema.tables[table].key or ()
    names = clean[table].names
    referred = united(list(referring_keys(plan, clean, table))).distinct()
    ours = [names[column] for column in key]
    return clean[table].frame.join(referred, equal(ours, referred.columns), "left_semi").count()


def _count_rows(root: Root, frame: DataFrame, counted: TableLedger, otherwise: str) -> None:
    """Rows that lead to an entity, rows that do not, and events that lead to too few."""
    from pyspark.sql import functions as F

    participants = root.homes.participants
    entity = reduce(or_, (_given(occurrence) for occurrence in root.homes.occurrences))
    alone = F.lit(False)
    if root.is_event:
        several = min(2, len(participants))
        alone = entity & (reduce(add, (_given(o).cast("int") for o in participants)) < several)
    counts = frame.agg(*(F.count(F.when(rows, 1)) for rows in (entity, ~entity, alone)))
    used, unused, facts_of_one = counts.collect()[0]
    counted.used += used
    counted.leave_unused(otherwise, unused)
    if facts_of_one and len(participants) == 1:
        counted.find(NOBODY, root.table, facts_of_one, policy="in no node")
    elif facts_of_one:
        names = [occurrence.role for occurrence in participants]
        told = ([f"v{value}" for value in occurrence.key] for occurrence in participants)
        keys = [F.concat_ws(", ", *with_digits(frame, columns)) for columns in told]
        shown = [
            F.when(_given(o), key).alias(f"p{at}")
            for at, (o, key) in enumerate(zip(participants, keys, strict=True))
        ]
        rows = frame.where(alone).select(*shown).orderBy(*(f"p{at}" for at in range(len(shown))))
        examples = [
            ", ".join(f"{name} {key}" for name, key in zip(names, row, strict=True) if key)
            for row in rows.limit(EXAMPLES).collect()
        ]
        counted.find(TOO_FEW, root.table, facts_of_one, examples, "in no edge")


def _given(occurrence: Occurrence) -> Column:
    return all_given([f"v{value}" for value in occurrence.key])
