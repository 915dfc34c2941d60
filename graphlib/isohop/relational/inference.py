"""Inference of the physical side: keys, references, surrogate keys, parts of one table.

What is declared is taken as it is; inference fills what is missing. It looks at values, and at
names where values alone would be chance: that integers of one column are among those of another
means nothing. No rule looks at the order of rows or columns, or at how rows lie in files.

Cost: one pass a table for its profile; for each table without a key at most `KEY_TESTS` exact
counts; one semi-join of distinct values for each reference that names, types and ranges suggest.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations, islice
from typing import Literal

from isohop.engines.frames import all_given, equal, renamed
from isohop.relational.database import Reference, Table, type_family
from isohop.relational.integrity import CleanTable
from isohop.relational.naming_evidence import GENERIC, core, likeness, stem, words
from isohop.relational.profile import ColumnProfile, TableProfile, profile

What = Literal["key", "reference", "surrogate", "parts"]
KEY_TESTS = 12
LONGEST_KEY = 64.0
LEAST_SUPPORT = 20
"""Distinct values that a text needs for a reference that no name suggests."""
_INCLUDED = {4: 0.5, 3: 0.5, 2: 0.9, 1: 1.0, 0: 0.99}
"""The least share of distinct values that the target must have, by likeness of names."""
INCLUDED_TOGETHER = 0.95
"""The same for several columns, whose names say little of which table is meant."""
_NUMBERED = re.compile(r"^(?P<stem>.*?[^\W\d_])[_-]?(?:p|part|shard|y)?[_-]?\d+(?:[_-]\d+)*$", re.I)


@dataclass(frozen=True)
class Evidence:
    """One finding: adopted or not, and why. ``place``: the line of the schema file it is about."""

    what: What
    where: str
    place: tuple[str, ...]
    adopted: bool
    why: str


@dataclass
class Physical:
    """The physical side with all that was found; ``parts``: united name -> its tables."""

    tables: dict[str, Table] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    profiles: dict[str, TableProfile] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)

    def note(self, what: What, where: str, place: tuple[str, ...], adopted: bool, why: str) -> None:
        self.evidence.append(Evidence(what, where, place, adopted, why))


def infer_physical(
    tables: Mapping[str, CleanTable], declared: Mapping[str, Table], needed: Collection[str] = ()
) -> Physical:
    """Find what ``declared`` does not say of ``tables`` (same names).

    A database that declares keys is taken at its word, so a table without one stays without,
    unless it is ``needed``; one that declares references has no others.
    """
    found = Physical()
    united = _unite(tables, declared, found)
    for name, table in united.items():
        found.profiles[name] = profile(table)
    declares = any(table.key for table in found.tables.values())
    for name in united:
        if not declares or name in needed:
            found.tables[name] = _with_key(united[name], found.tables[name], found)
    if not any(table.references for table in found.tables.values()):
        _find_references(united, found)
    for name, known in found.tables.items():
        update = {
            "references": known.references or (),
            "surrogate": _surrogate(name, known, found),
        }
        found.tables[name] = known.model_copy(update=update)
    return found


def _unite(
    tables: Mapping[str, CleanTable], declared: Mapping[str, Table], found: Physical
) -> dict[str, CleanTable]:
    """Tables with the same columns whose names differ in a number are parts of one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(tables):
        numbered = _NUMBERED.match(name)
        groups[numbered["stem"].rstrip("_-") if numbered else name].append(name)
    whole: dict[str, str] = {}
    united: dict[str, CleanTable] = {}
    for whole_name, names in sorted(groups.items()):
        if len(names) > 1 and _are_parts(whole_name, names, tables, declared, found):
            frames = [tables[name].frame for name in names]
            first = tables[names[0]]
            rows = sum(tables[name].rows for name in names)
            united[whole_name] = CleanTable(
                whole_name,
                reduce(lambda a, b: a.unionByName(b), frames),
                first.names,
                first.types,
                rows,
            )
            found.parts[whole_name] = tuple(names)
            found.tables[whole_name] = declared[names[0]]
            whole |= dict.fromkeys(names, whole_name)
            continue
        for name in names:
            united[name], found.tables[name] = tables[name], declared[name]
    for name, table in found.tables.items():
        references = [
            r.model_copy(update={"table": whole.get(r.table, r.table)})
            for r in table.references or ()
        ]
        found.tables[name] = table.model_copy(update={"references": tuple(references)})
    return dict(sorted(united.items()))


def _are_parts(
    whole: str,
    names: list[str],
    tables: Mapping[str, CleanTable],
    declared: Mapping[str, Table],
    found: Physical,
) -> bool:
    where, place = f"{whole}: {', '.join(names)}", ("tables", whole, "parts")

    def alike(name: str) -> tuple[object, ...]:
        table = declared[name]
        references = {(r.columns, r.table) for r in table.references or ()}
        return dict(tables[name].types), table.key, references, table.columns

    if any(alike(name) != alike(names[0]) for name in names[1:]):
        why = "names differ in a number alone, but columns, keys or references do as well"
        found.note("parts", where, place, False, why)
        return False
    key = declared[names[0]].key
    if key:
        keys = [tables[n].frame.select(*(tables[n].names[c] for c in key)) for n in names]
        together = reduce(lambda a, b: a.unionByName(b), keys)
        if together.distinct().count() != sum(tables[n].rows for n in names):
            found.note("parts", where, place, False, "rows of several have the same key")
            return False
    why = "the same columns, keys and references, no key twice, names that differ in a number"
    found.note("parts", where, place, True, why)
    return True


def _with_key(table: CleanTable, declared: Table, found: Physical) -> Table:
    if declared.key or not table.rows:
        return declared
    columns = found.profiles[table.name].columns
    for names in islice(_key_candidates(table.name, columns), KEY_TESTS):
        internal = [table.names[name] for name in names]
        distinct = table.frame.select(*internal).distinct().count()
        where = f"{table.name}.{', '.join(names)}"
        if distinct == table.rows:
            why = f"found: {distinct:,} values in {table.rows:,} rows, none NULL"
            found.note("key", where, ("tables", table.name, "key"), True, why)
            return declared.model_copy(update={"key": names})
        why = f"{distinct:,} values in {table.rows:,} rows"
        found.note("key", where, ("tables", table.name, "key"), False, why)
    return declared


def _key_candidates(table: str, columns: Mapping[str, ColumnProfile]) -> Iterator[tuple[str, ...]]:
    """Columns, then pairs and triples of them, likeliest first."""

    def fit(column: ColumnProfile) -> bool:
        short = column.is_text and column.length <= LONGEST_KEY
        return column.nulls == 0 and (short or type_family(column.type) in ("integer", "string"))

    able = {
        name: c
        for name, c in columns.items()
        if fit(c) and (not c.is_text or c.length <= LONGEST_KEY)
    }

    def rank(name: str) -> tuple[int, int, str]:
        inner, ended = core(name)
        held = words(name)
        own = inner == stem(table) or "".join(held) in GENERIC - {"name", "index", "number"}
        return (
            0 if own else 1 if ended else 2,
            0 if able[name].whole or able[name].opaque else 1,
            name,
        )

    order = sorted(able, key=rank)
    yield from ((name,) for name in order if able[name].distinct >= 0.9 * able[name].rows)
    parts = [name for name in order if rank(name)[0] < 2]
    parts += [
        name
        for name, column in sorted(columns.items())
        if column.nulls == 0 and type_family(column.type) in ("date32[day]", "timestamp")
    ]
    parts += [name for name in order if rank(name)[0] == 2 and able[name].length <= 16]
    parts = [name for name in parts if columns[name].distinct > 1][:6]
    rows = max((column.rows for column in columns.values()), default=0)
    for width in (2, 3):
        for names in combinations(parts, width):
            product = 1
            for name in names:
                product *= columns[name].distinct
            if product >= 0.9 * rows:
                yield names


@dataclass(frozen=True)
class _Candidate:
    columns: tuple[str, ...]
    target: str
    likeness: int


def _find_references(tables: Mapping[str, CleanTable], found: Physical) -> None:
    for name in tables:
        chosen: dict[tuple[str, ...], Reference] = {}
        best: dict[tuple[str, ...], tuple[int, float]] = {}
        for candidate in _reference_candidates(name, found):
            key = found.tables[candidate.target].key or ()
            values, missing = _inclusion(
                tables[name], candidate.columns, tables[candidate.target], key
            )
            if not values:
                continue
            share = 1 - missing / values
            where = f"{name}.{', '.join(candidate.columns)} → {candidate.target}"
            place = ("tables", name, "references", ", ".join(candidate.columns))
            named = (
                "the name fits"
                if candidate.likeness > 1
                else "the name is near"
                if candidate.likeness
                else "no name says so"
            )
            why = f"{share:.1%} of {values:,} values are keys of {candidate.target}; {named}"
            better = (candidate.likeness, share)
            alone = len(candidate.columns) == 1
            least = _INCLUDED[candidate.likeness] if alone else INCLUDED_TOGETHER
            if share < least or not values - missing:
                found.note("reference", where, place, False, why)
            elif best.get(candidate.columns, (-1, 0.0)) >= better:
                found.note("reference", where, place, False, f"{why}; another table fits better")
            else:
                best[candidate.columns] = better
                chosen[candidate.columns] = Reference(
                    columns=candidate.columns, table=candidate.target
                )
                found.note("reference", where, place, True, f"found: {why}")
        references = tuple(chosen[columns] for columns in sorted(chosen))
        found.tables[name] = found.tables[name].model_copy(update={"references": references})


def _reference_candidates(table: str, found: Physical) -> Iterator[_Candidate]:
    """What names, types and ranges suggest, the likeliest first for each column."""
    columns = found.profiles[table].columns
    key = found.tables[table].key
    for name, column in columns.items():
        if column.nulls == column.rows:
            continue
        ranked = sorted(
            (
                (-like, target)
                for target in found.tables
                if (like := _suggested(table, column, target, found)) is not None
                and not (key == (name,) and target == table)
            ),
        )
        named = [(like, target) for like, target in ranked if like < 0]
        # A key that is named after its own table is an identity, not a reference.
        if key == (name,) and core(name)[0] == stem(table):
            named = []
        unnamed = [pair for pair in ranked if pair[0] == 0 and key != (name,)]
        for like, target in named or (unnamed if len(unnamed) == 1 else []):
            yield _Candidate((name,), target, -like)
    for target, other in found.tables.items():
        theirs = other.key or ()
        if len(theirs) < 2 or target == table:
            continue
        # Of two tables with one key, one is a part of the other: the latter by name.
        apart = set(theirs) != set(key or ()) or table > target
        # Where a row's own key is among them, the other table holds several rows of each.
        smaller = bool(key) and set(key or ()) < set(theirs)
        held = apart and not smaller and set(theirs) <= set(columns)
        if held and all(_fits(columns[c], found.profiles[target].columns[c]) for c in theirs):
            yield _Candidate(theirs, target, 3)


def _fits(column: ColumnProfile, key: ColumnProfile) -> bool:
    return type_family(column.type) == type_family(key.type)


def _suggested(table: str, column: ColumnProfile, target: str, found: Physical) -> int | None:
    """Likeness of names where a column may refer to a table; None where it may not."""
    key = found.tables[target].key
    if key is None or len(key) != 1:
        return None
    theirs = found.profiles[target].columns[key[0]]
    if not _fits(column, theirs) or not theirs.rows:
        return None
    like = likeness(column.name, table, target, key[0])
    if like:
        return like
    coded = column.is_text and column.length <= LONGEST_KEY and not column.whole
    alike = 0.5 * theirs.length <= column.length <= 2 * theirs.length
    enough = column.distinct >= LEAST_SUPPORT and column.distinct <= 1.1 * theirs.distinct
    return 0 if coded and alike and enough and table != target else None


def _inclusion(
    table: CleanTable, columns: tuple[str, ...], target: CleanTable, key: tuple[str, ...]
) -> tuple[int, int]:
    """(distinct values, those that the target lacks)."""
    from pyspark.sql import functions as F

    ours = [table.names[column] for column in columns]
    values = table.frame.where(all_given(ours)).select(
        *(renamed(c, f"f{i}") for i, c in enumerate(ours))
    )
    keys = target.frame.select(*(renamed(target.names[c], f"k{i}") for i, c in enumerate(key)))
    known = keys.distinct().withColumn("known", F.lit(1))
    met = equal([f"f{i}" for i in range(len(ours))], [f"k{i}" for i in range(len(key))])
    joined = values.distinct().join(known, met, "left")
    count, matched = joined.agg(F.count(F.lit(1)), F.count("known")).collect()[0]
    return count, count - matched


def _surrogate(name: str, table: Table, found: Physical) -> bool:
    if table.surrogate:
        return True
    key = table.key or ()
    referring = {c for r in table.references or () for c in r.columns}
    if len(key) != 1 or key[0] in referring or key[0] in table.columns:
        return False
    column = found.profiles[name].columns[key[0]]
    why = column.opaque or column.counts()
    place = ("tables", name, "surrogate")
    if why:
        found.note("surrogate", f"{name}.{key[0]}", place, True, why)
    elif column.rows:
        told = "neither a counter nor UUIDs nor hashes: a natural key is a fact"
        found.note("surrogate", f"{name}.{key[0]}", place, False, told)
    return bool(why)


def propose_entities(physical: Physical) -> list[tuple[str, str]]:
    """(table, reason) of what rows seem to be about, the likeliest first."""
    referred = {
        name: sum(r.table == name for t in physical.tables.values() for r in t.references or ())
        for name in physical.tables
    }
    ranked = []
    for name, table in physical.tables.items():
        held = {c for r in table.references or () for c in r.columns} | set(table.key or ())
        own = [c for c in physical.profiles[name].columns if c not in held]
        rows = physical.profiles[name].rows
        if not table.key or len(own) < 2 or not rows:
            continue
        if not referred[name] and len(table.references or ()) > 1:
            continue
        reason = (
            f"{rows:,} rows with a key, {len(own)} columns of their own, "
            f"{referred[name]} reference{'s' if referred[name] != 1 else ''} to it"
        )
        ranked.append((-min(referred[name], 3) * min(len(own), 6), -rows, name, reason))
    return [(name, reason) for _, _, name, reason in sorted(ranked)]
