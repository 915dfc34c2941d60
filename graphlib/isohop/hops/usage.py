"""Which rows reached the graph: the ledger's other side, counted apart from what was taken out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from isohop.engines.frames import all_given, equal, renamed, united
from isohop.hops.plan import Plan, Root
from isohop.hops.universal_row import references
from isohop.relational.integrity import CleanTable
from isohop.relational.ledger import Ledger

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NO_ENTITY = "leads to no entity"
NO_REFERRER = "no row refers to it, and it leads to no entity"


def referring_keys(plan: Plan, clean: Mapping[str, CleanTable], table: str) -> Iterator[DataFrame]:
    """For each reference to ``table``: the distinct keys referred to, columns ``f0``, ``f1``, …

    A 1:1 partner is referred to by the table it is a part of.
    """
    for other in plan.schema.tables:
        for reference, _ in references(plan.schema, other):
            if reference.table != table or other == table:
                continue
            if _is_part(plan, other, table) and not _is_part(plan, table, other):
                # The part's own reference back to its whole: the whole does not hang on it.
                continue
            names = clean[other].names
            columns = [names[column] for column in reference.columns]
            yield (
                clean[other]
                .frame.where(all_given(columns))
                .select(*(renamed(c, f"f{i}") for i, c in enumerate(columns)))
                .distinct()
            )


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
            used = _with_entity(root, universal[table])
            counted.used += used
            counted.leave_unused(NO_ENTITY, _without_entity(root, universal[table]))
            continue
        referred = _referred(plan, clean, table)
        counted.used += referred
        if root is None:
            counted.leave_unused(NO_REFERRER, clean[table].frame.count() - referred)
        elif table not in empty:
            counted.used += _with_entity(root, universal[table])
            counted.leave_unused(NO_REFERRER, _without_entity(root, universal[table]))


def _referred(plan: Plan, clean: Mapping[str, CleanTable], table: str) -> int:
    key = plan.schema.tables[table].key or ()
    names = clean[table].names
    keys = list(referring_keys(plan, clean, table))
    if not keys:
        return 0
    referred = united(keys).distinct()
    ours = [names[column] for column in key]
    return clean[table].frame.join(referred, equal(ours, referred.columns), "left_semi").count()


def _any_entity(root: Root) -> Column:
    keys = ([f"v{value}" for value in o.key] for o in root.homes.occurrences)
    return reduce(or_, (all_given(key) for key in keys))


def _with_entity(root: Root, frame: DataFrame) -> int:
    return frame.where(_any_entity(root)).count()


def _without_entity(root: Root, frame: DataFrame) -> int:
    return frame.where(~_any_entity(root)).count()
