"""The physical side of a database, found in its data: parts, keys, references, surrogate keys.

What is declared is taken as it is; only what is missing is looked for, and each finding carries its
evidence. Names propose and values decide: no reference rests on integers that happen to lie in each
other's range, only on ones that meet keys which are few and far between. Thresholds look at values
alone, so files, rows and columns may come in any order.

Cost: two passes a table (`isohop.relational.profile`), ``TESTS`` more at most where only several
columns can be the key, and one join a referred table for all columns that may refer to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from isohop.engines.frames import all_given, equal, united
from isohop.relational import naming
from isohop.relational.database import ColumnType, Reference, Table, type_family
from isohop.relational.integrity import CleanTable
from isohop.relational.keys import (
    SUPPORT,
    composite_keys,
    nearest_key,
    not_quite_keys,
    repeated,
    single_key,
    surrogate,
)
from isohop.relational.profile import ColumnProfile, TableProfile, is_text, profile
from isohop.relational.uniting import unite

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

OVERLAP = {
    naming.CERTAIN: 0.5,
    naming.NAMED: 0.5,
    naming.ROLE: 0.5,
    naming.LOOSE: 0.8,
    naming.GUESS: 0.95,
    0: 0.95,
}
"""The share of distinct values that must be keys, by how well the name fits; 0: no name does."""
TARGETS = 4
"""So many tables at most are tested for one column: those whose names fit best."""
SCATTERED = 4
"""Keys of which there are so many times fewer than whole numbers between them are met by no
accident."""
TOGETHER = 16
TESTS = 8
"""So many composite keys at most are tested for one table, of up to four columns each."""


@dataclass(frozen=True)
class Evidence:
    """Why something was adopted, or was not: ``where`` is "orders.customer_id -> customer".

    ``place``: the keys under which the schema file says it.
    """

    what: Literal["key", "reference", "surrogate", "type", "union"]
    where: str
    place: tuple[str, ...]
    adopted: bool
    why: str


@dataclass(frozen=True)
class Physical:
    """The physical side. ``parts``: united table -> its parts; all else is by united names.
    ``rows``: those that it was found in."""

    tables: dict[str, Table]
    rows: Mapping[str, CleanTable]
    parts: dict[str, tuple[str, ...]]
    profiles: dict[str, TableProfile]
    evidence: list[Evidence]


@dataclass(frozen=True)
class _Candidate:
    """A reference that may be. ``fit``: how well the name fits, 0 when the values alone speak."""

    table: str
    columns: tuple[str, ...]
    target: str
    fit: int

    @property
    def where(self) -> str:
        return f"{self.table}.{', '.join(self.columns)} -> {self.target}"


def infer_physical(
    tables: Mapping[str, CleanTable],
    declared: Mapping[str, Table],
    needed: Collection[str] = (),
    takes_types: bool = True,
) -> Physical:
    """Find what ``declared`` (by table; tables may be missing) does not say about ``tables``.

    ``takes_types``: whether the source lets types be stated, as those of columns of doubles that
    refer by whole numbers: what has no NULL for whole numbers, as pandas, keeps them so.

    A database that declares keys is taken at its word, so a table without one stays without, unless
    it is ``needed`` (names in lower case); and one that declares references has no others.
    """
    united = unite(tables, declared)
    search = _Search(united.tables, united.declared, united.profiles, takes_types)
    if any(table.key for table in united.declared.values()):
        search.with_keys = {name for name in united.tables if name.lower() in needed}
    if any(table.references for table in united.declared.values()):
        search.with_references = False
    search.evidence += [
        Evidence("union", where, ("tables", stem, "parts"), adopted, why)
        for stem, where, adopted, why in united.evidence
    ]
    search.tell_of_spellings()
    search.find_keys()
    search.find_references()
    search.find_composite_keys()
    search.find_composite_references()
    return Physical(search.result(), united.tables, united.parts, search.profiles, search.evidence)


@dataclass
class _Search:
    tables: Mapping[str, CleanTable]
    declared: Mapping[str, Table]
    profiles: dict[str, TableProfile]
    takes_types: bool = True
    types: dict[str, dict[str, ColumnType]] = field(default_factory=dict)
    """Those to be stated, so that references hold."""
    keys: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    references: dict[str, list[Reference]] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    with_keys: Set[str] | None = None
    """Tables whose key may be looked for; None: all."""
    with_references: bool = True

    def __post_init__(self) -> None:
        for name in sorted(self.tables):
            if name not in self.profiles:
                self.profiles[name] = profile(self.tables[name])
            self.keys[name] = self._declared(name).key or None
            self.references[name] = list(self._declared(name).references or ())

    def tell_of_spellings(self) -> None:
        """Of columns whose texts say dates or numbers in a way that is not read."""
        for name in sorted(self.tables):
            for column in self.profiles[name].columns.values():
                if column.spelling is None or column.name in self._declared(name).types:
                    continue
                why = f"its values look like {column.spelling.kind}, as '{column.example}', but are"
                why += f" read as texts: {column.spelling.instead}"
                if self.takes_types:
                    why += f", or say 'types: {{{column.name}: string}}'"
                place = ("tables", name, "types", column.name)
                where = f"{name}.{column.name}"
                self.evidence.append(Evidence("type", where, place, False, why))

    def find_keys(self) -> None:
        """Single keys, of the columns whose values all differ."""
        names = naming.TableNames(dict.fromkeys(self.tables))
        called: dict[tuple[str, ...], list[tuple[str, ColumnProfile]]] = {}
        for name, held in self.profiles.items():
            for column in held.columns.values():
                called.setdefault(naming.words(column.name), []).append((name, column))
        shared = {words for words, columns in called.items() if len(columns) > 1}
        for name in sorted(self.tables):
            if self._without_key(name):
                held = self.profiles[name]
                referred = {
                    column.name
                    for column in held.columns.values()
                    if any(
                        other != name and repeated(column, theirs)
                        for other, theirs in called[naming.words(column.name)]
                    )
                }
                found = single_key(held, names, shared, referred)
                if found is not None:
                    key, why = found
                    self.keys[name] = (key,)
                    self.evidence.append(self._key(name, (key,), True, why))
                    continue
                for key in not_quite_keys(held, names):
                    why = f"some of its {held.rows} rows have the same value or none; mend that, or"
                    why += " say the key: no other column is taken for it"
                    self.evidence.append(self._key(name, (key,), False, why))

    def find_references(self) -> None:
        """References of one column to keys of one column."""
        singles = {name: _only(key) for name, key in self.keys.items()}
        names = naming.TableNames(singles)
        candidates: dict[tuple[str, str], list[_Candidate]] = {}
        for name in sorted(self.tables):
            if self._without_references(name):
                for held in self.profiles[name].columns.values():
                    column = self._referring(name, held)
                    found = self._candidates(name, column, names, singles)
                    if found:
                        candidates[name, column.name] = found
        measured = self._measure([one for found in candidates.values() for one in found])
        for (name, _), found in sorted(candidates.items()):
            self._choose(name, found, measured)

    def find_composite_keys(self) -> None:
        """The smallest set of columns that identifies a row, for tables without a key."""
        for name in sorted(self.tables):
            if not self._without_key(name) or self.profiles[name].rows < 2:
                continue
            clean, held = self.tables[name], self.profiles[name]
            rows = held.rows
            refers = {r.columns for r in self.references[name]}
            others = [table for other, table in self.profiles.items() if other != name]
            sets = composite_keys(held, refers, others)
            for columns in sets[:TESTS]:
                chosen = clean.frame.select(*(clean.names[column] for column in columns))
                distinct = chosen.distinct().count()
                if distinct == rows:
                    self.keys[name] = columns
                    why = f"no two of {rows} rows have the same values, and no single column does"
                    self.evidence.append(self._key(name, columns, True, why))
                    break
                why = f"{distinct} distinct values in {rows} rows"
                self.evidence.append(self._key(name, columns, False, why))
            if not self.keys[name] and len(sets) > TESTS:
                why = f"{TESTS} of {len(sets)} sets of columns that may be the key were tested"
                self.evidence.append(self._key(name, ("…",), False, why))

    def find_composite_references(self) -> None:
        """References of several columns, named like the key that they refer to."""
        composite = {n: key for n, key in self.keys.items() if key is not None and len(key) > 1}
        names = naming.TableNames(dict.fromkeys(self.tables))
        candidates: dict[str, list[_Candidate]] = {}
        for name in sorted(self.tables):
            if not self._without_references(name):
                continue
            for target, key in sorted(composite.items()):
                if target == name or self._refers_back(target, name, key):
                    continue
                if set(self.keys[name] or ()) == set(key) and target > name:
                    continue
                columns = self._named_like(name, target, key, names)
                if columns is not None:
                    one = _Candidate(name, columns, target, naming.NAMED)
                    candidates.setdefault(name, []).append(one)
        for found in candidates.values():
            found[:] = found[:TARGETS]
        measured = self._measure([one for found in candidates.values() for one in found])
        for name, found in sorted(candidates.items()):
            for one in found:
                self._choose(name, [one], measured)

    def result(self) -> dict[str, Table]:
        """The tables with all that was found, surrogate keys among it."""
        found = {}
        for name in sorted(self.tables):
            declared, key = self._declared(name), self.keys[name]
            is_surrogate = declared.surrogate
            column = _only(key)
            if column is not None and "surrogate" not in declared.model_fields_set:
                is_surrogate, why = surrogate(self.profiles[name].columns[column])
                if any(r.columns == key and r.table != name for r in self.references[name]):
                    is_surrogate, why = False, "it refers to another table"
                place = ("tables", name, "surrogate")
                where = f"{name}.{column}"
                self.evidence.append(Evidence("surrogate", where, place, is_surrogate, why))
            found[name] = declared.model_copy(
                update={
                    "key": key,
                    "surrogate": is_surrogate,
                    "references": tuple(self.references[name]),
                    "types": {**declared.types, **self.types.get(name, {})},
                }
            )
        return found

    @staticmethod
    def _key(name: str, columns: Sequence[str], adopted: bool, why: str) -> Evidence:
        where = f"{name}.{', '.join(columns)}"
        return Evidence("key", where, ("tables", name, "key"), adopted, why)

    def _without_key(self, name: str) -> bool:
        return not self.keys[name] and (self.with_keys is None or name in self.with_keys)

    def _without_references(self, name: str) -> bool:
        return self.with_references and not self._declared(name).references

    def _declared(self, name: str) -> Table:
        return self.declared.get(name, Table())

    def _referring(self, name: str, column: ColumnProfile) -> ColumnProfile:
        """As the column would be as a reference: of whole numbers, where that can be stated."""
        if not column.whole or not self.takes_types or column.name in self._declared(name).types:
            return column
        return replace(column, type=pa.int64(), integers=True)

    def _candidates(
        self,
        name: str,
        column: ColumnProfile,
        names: naming.TableNames,
        singles: Mapping[str, str | None],
    ) -> list[_Candidate]:
        """The tables that a column may refer to, best first."""
        if not column.given or pa.types.is_nested(column.type):
            return []
        is_double = pa.types.is_floating(column.type)
        fits = names.candidates(name, column.name, column.integers or is_double)
        self._tell_of_types(name, column, fits, singles)
        if is_double:
            return []
        is_key = singles[name] == column.name
        if is_key and names.names_table(column.name, name):
            return []
        found = []
        for target, fit in sorted(fits.items()):
            key = singles[target]
            if key is None or (target == name and is_key):
                continue
            held = self.profiles[target].columns[key]
            if is_key and not names.names_table(column.name, target):
                # Two tables of one key: the smaller one refers to the larger.
                ours, theirs = self.profiles[name].rows, self.profiles[target].rows
                if (ours, target) > (theirs, name):
                    continue
                if column.integers and not names.related(column.name, target):
                    continue
            if self._comparable(column, held):
                found.append(_Candidate(name, (column.name,), target, fit))
        found.sort(key=lambda one: (-one.fit, one.target))
        if not found and not fits and column.distinct >= SUPPORT * 0.8:
            if column.integers:
                found = self._among_scattered(name, column, singles)
            elif is_text(column.type):
                found = self._by_values(name, column, singles)
        return found[:TARGETS]

    def _tell_of_types(
        self,
        name: str,
        column: ColumnProfile,
        fits: Mapping[str, int],
        singles: Mapping[str, str | None],
    ) -> None:
        """Of tables that a column is called after, and whose keys are of another type."""
        counted = type_family(column.type) in ("integer", "number", "string")
        for target, fit in sorted(fits.items()):
            key = singles[target]
            if key is None or (target == name and key == column.name):
                continue
            if fit < (naming.GUESS if counted else naming.NAMED):
                continue  # 'next' is said of a day as well
            held = self.profiles[target].columns[key]
            if held.given and type_family(column.type) != type_family(held.type):
                where = _Candidate(name, (column.name,), target, fit).where
                place = ("tables", name, "references", column.name)
                why = f"{_FITS[fit].removeprefix('and ')}, but it is {column.type} and the key is "
                why += f"{held.type}; "
                why += "say one type for both under 'types'" if self.takes_types else "mend one"
                self.evidence.append(Evidence("reference", where, place, False, why))

    def _by_values(
        self, name: str, column: ColumnProfile, singles: Mapping[str, str | None]
    ) -> list[_Candidate]:
        """Tables whose keys look like these texts."""
        if not (column.opaque or column.code):
            return []
        near = []
        for target, key in sorted(singles.items()):
            if key is None or target == name:
                continue
            held = self.profiles[target].columns[key]
            if not is_text(held.type) or column.opaque != held.opaque or not held.code:
                continue
            if held.integers or column.distinct > 1.25 * held.distinct:
                continue
            if singles[name] == column.name and not (column.opaque and held.rows > column.rows):
                continue
            apart = abs(column.mean_length - held.mean_length)
            if apart <= 0.2 * held.mean_length:
                near.append((apart, target))
        return [_Candidate(name, (column.name,), target, 0) for _, target in sorted(near)]

    def _among_scattered(
        self, name: str, column: ColumnProfile, singles: Mapping[str, str | None]
    ) -> list[_Candidate]:
        """Tables whose keys are scattered whole numbers, for whole numbers that are said to
        identify, though not what."""
        if not naming.is_identifier(column.name) or singles[name] == column.name:
            return []
        found = []
        for target, key in sorted(singles.items()):
            if key is None:
                continue
            held = self.profiles[target].columns[key]
            if held.minimum is None or held.maximum is None:
                continue
            scattered = held.maximum - held.minimum >= SCATTERED * held.distinct
            if scattered and self._comparable(column, held):
                found.append(_Candidate(name, (column.name,), target, 0))
        return found

    def _comparable(self, ours: ColumnProfile, theirs: ColumnProfile) -> bool:
        if type_family(ours.type) != type_family(theirs.type) or not theirs.given:
            return False
        if ours.minimum is None or ours.maximum is None:
            return True
        if theirs.minimum is None or theirs.maximum is None:
            return True
        return ours.minimum <= theirs.maximum and theirs.minimum <= ours.maximum

    def _measure(self, candidates: Sequence[_Candidate]) -> dict[_Candidate, tuple[int, int]]:
        """Distinct values of each candidate, and how many of them are keys of its target.

        One join a target, for all that may refer to it (`TOGETHER` at a time: engines plan deep
        unions by recursion).
        """
        from pyspark.sql import functions as F

        by_target: dict[str, list[_Candidate]] = {}
        for one in candidates:
            by_target.setdefault(one.target, []).append(one)
        measured: dict[_Candidate, tuple[int, int]] = {}
        batches = [
            (target, group[start : start + TOGETHER])
            for target, group in sorted(by_target.items())
            for start in range(0, len(group), TOGETHER)
        ]
        for target, group in batches:
            key = self.keys[target] or ()
            held = self._values(target, key, "k").distinct().withColumn("known", F.lit(1))
            asked = united(
                [
                    self._values(one.table, one.columns, "v")
                    .distinct()
                    .withColumn("candidate", F.lit(number))
                    for number, one in enumerate(group)
                ]
            )
            on = equal([f"v{i}" for i in range(len(key))], [f"k{i}" for i in range(len(key))])
            counted = asked.join(held, on, "left").groupBy("candidate")
            rows = counted.agg(F.count(F.lit(1)), F.count("known")).collect()
            measured |= dict.fromkeys(group, (0, 0))
            measured |= {group[number]: (distinct, known) for number, distinct, known in rows}
        return measured

    def _values(self, name: str, columns: Sequence[str], prefix: str) -> DataFrame:
        """These columns' values where none is NULL, with types that compare."""
        from pyspark.sql import functions as F

        clean = self.tables[name]
        chosen: list[Column] = []
        for index, column in enumerate(columns):
            value, type_ = F.col(clean.names[column]), clean.types[column]
            whole = self._referring(name, self.profiles[name].columns[column]).integers
            if pa.types.is_integer(type_) or (pa.types.is_floating(type_) and whole):
                value = value.cast("long")
            chosen.append(value.alias(f"{prefix}{index}"))
        given = clean.frame.where(all_given([clean.names[column] for column in columns]))
        return given.select(*chosen)

    def _choose(
        self,
        name: str,
        found: Sequence[_Candidate],
        measured: Mapping[_Candidate, tuple[int, int]],
    ) -> None:
        """Adopt at most one of the candidates of one column, and say why."""
        good = [one for one in found if self._holds(one, *measured[one])]
        good.sort(key=lambda one: (-one.fit, -measured[one][1], one.target))
        if good and good[0].fit == 0 and len(good) > 1:
            good = []
        for one in found:
            distinct, known = measured[one]
            why = f"{known} of {distinct} distinct values are keys of {one.target}"
            why += f", {_FITS[one.fit]}"
            adopted = bool(good) and one == good[0]
            if adopted:
                reference = Reference(columns=one.columns, table=one.target)
                self.references[name].append(reference)
                self._state(name, one.columns)
                if known < distinct:
                    why += f"; {distinct - known} are orphans"
            elif good:
                why += f"; {good[0].target} fits better"
            else:
                why += "; too little"
            place = ("tables", name, "references", ", ".join(one.columns))
            self.evidence.append(Evidence("reference", one.where, place, adopted, why))

    def _state(self, name: str, columns: Sequence[str]) -> None:
        """Of the columns of a reference, those that are doubles are whole numbers."""
        held = self.profiles[name]
        for column in columns:
            if pa.types.is_floating(held.columns[column].type):
                self.types.setdefault(name, {})[column] = "integer"
        known = {c: self._referring(name, held.columns[c]) for c in columns}
        self.profiles[name] = replace(held, columns={**held.columns, **known})

    def _holds(self, one: _Candidate, distinct: int, known: int) -> bool:
        if not known or known < OVERLAP[one.fit] * distinct:
            return False
        if one.fit == 0:
            return distinct >= SUPPORT
        if len(one.columns) > 1:
            # Two tables that connect the same things have keys alike without referring.
            key = set(self.keys[one.target] or ())
            refers = {r.columns[0] for r in self.references[one.target] if len(r.columns) == 1}
            alike = key <= refers
            share = 0.99 if alike else 0.95
            return known >= share * distinct and (distinct >= SUPPORT or not alike)
        return True

    def _refers_back(self, target: str, name: str, key: tuple[str, ...]) -> bool:
        """Whether the target's key already holds a reference to the table, as its details do."""
        return any(r.table == name and set(r.columns) <= set(key) for r in self.references[target])

    def _named_like(
        self, name: str, target: str, key: tuple[str, ...], names: naming.TableNames
    ) -> tuple[str, ...] | None:
        """Columns of ``name`` that are called like the key's columns; like the target, where one of
        these is a bare `id`: another table's is its own."""
        columns = self.profiles[name].columns
        held = {column: self._referring(name, p) for column, p in columns.items()}
        called = {"".join(naming.words(c)): p for c, p in held.items()}
        of_target = [p for c, p in held.items() if names.names_table(c, target)]
        found = []
        for column in key:
            ours = called.get("".join(naming.words(column)))
            if set(naming.words(column)) <= naming.BARE:
                ours = of_target[0] if len(of_target) == 1 else None
            theirs = self.profiles[target].columns[column]
            if ours is None or not ours.given or not self._comparable(ours, theirs):
                return None
            found.append(ours.name)
        return tuple(found)


_FITS = {
    naming.CERTAIN: "and the name is the key's and the table's",
    naming.NAMED: "and the name is the key's or the table's",
    naming.ROLE: "and the name is the table's after a role",
    naming.LOOSE: "and the name has the table's in it",
    naming.GUESS: "and the name may mean the table",
    0: "and no name says so",
}


def without_key(physical: Physical, name: str) -> str:
    """Why a table has no key: by how much the column fails that comes nearest to one."""
    from pyspark.sql import functions as F

    held = physical.profiles[name]
    if not held.rows:
        return "its table is empty, so that nothing tells what identifies its rows."
    what = "its table has no key, and no column or two identify its rows"
    nearest = nearest_key(held, naming.TableNames(dict.fromkeys(physical.tables)))
    if nearest is None:
        return f"{what}."
    clean = physical.rows[name]
    (row,) = clean.frame.agg(F.count_distinct(F.col(clean.names[nearest]))).collect()
    what += f": '{nearest}' has {row[0]} distinct values in {held.rows} rows"
    nulls = held.columns[nearest].nulls
    if row[0] == held.rows:
        return f"its table has no key: '{nearest}' has no value twice, and nothing else says so."
    return f"{what}, {nulls} without any." if nulls else f"{what}."


def propose_entities(physical: Physical) -> list[tuple[str, str]]:
    """The tables that things are about, and why, best first.

    No junctions (all references), no lookups (one thing said of each row), and no transactions that
    nothing refers to.
    """
    referring: dict[str, list[str]] = {name: [] for name in physical.tables}
    for name, table in physical.tables.items():
        for reference in table.references or ():
            if reference.table in referring and reference.table != name:
                referring[reference.table].append(name)
    found = []
    for name, table in physical.tables.items():
        refers = {column for r in table.references or () for column in r.columns}
        key = set(table.key or ())
        own = [
            column.name
            for column in physical.profiles[name].columns.values()
            if column.name not in key | refers
            and column.given
            and not pa.types.is_timestamp(column.type)
        ]
        count = len(referring[name])
        outward = {r.table for r in table.references or ()} - {name}
        if not key or key <= refers or len(own) < 2:
            continue
        if len(outward) >= 2 and (not count or len(own) <= len(outward)):
            continue
        rows = physical.profiles[name].rows
        tables = len(set(referring[name]))
        reason = f"{rows} rows with {len(own)} attributes of their own; "
        reason += f"{count} references from {tables} tables" if count else "nothing refers to it"
        found.append((-(2 * count + min(len(own), 10) - len(outward)), name, reason))
    return [(name, reason) for _, name, reason in sorted(found)]


def _only(key: tuple[str, ...] | None) -> str | None:
    return key[0] if key is not None and len(key) == 1 else None
