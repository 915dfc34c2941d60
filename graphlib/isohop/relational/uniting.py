"""Tables that are split by rows: ``orders_2023`` and ``orders_2024`` are one table of orders.

They have the same columns and types, the same declarations, a common stem with a number or date
behind it, and, which is counted, no key in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from isohop.engines.frames import united
from isohop.relational import naming
from isohop.relational.database import Reference, Table
from isohop.relational.integrity import CleanTable
from isohop.relational.profile import TableProfile, profile


@dataclass
class United:
    """All tables, parts united. ``evidence``: (stem, where, adopted, why) of each finding."""

    tables: dict[str, CleanTable]
    declared: dict[str, Table]
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    profiles: dict[str, TableProfile] = field(default_factory=dict)
    evidence: list[tuple[str, str, bool, str]] = field(default_factory=list)


def unite(tables: Mapping[str, CleanTable], declared: Mapping[str, Table]) -> United:
    """Unite the parts of tables; references to a part become references to the whole."""
    found = United(dict(tables), dict(declared))
    renamed: dict[str, str] = {}
    groups = _groups(tables, declared)
    for stem, names, why in _of_other_types(tables, groups):
        found.evidence.append((stem, f"{', '.join(names)} -> {stem}", False, why))
    for stem, names in sorted(groups.items()):
        where = f"{', '.join(names)} -> {stem}"
        if stem in tables and stem not in names:
            found.evidence.append((stem, where, False, f"another table is called {stem}"))
            continue
        whole = _whole(stem, [tables[name] for name in names])
        profiled = profile(whole)
        key = declared.get(names[0], Table()).key
        overlap = _overlap(whole, profiled, key, [tables[name] for name in names])
        if overlap:
            found.evidence.append((stem, where, False, overlap))
            continue
        why = f"{len(names)} tables with the same columns, and no key is in two of them"
        found.evidence.append((stem, where, True, why))
        for name in names:
            del found.tables[name]
            found.declared.pop(name, None)
            renamed[name] = stem
        found.tables[stem] = whole
        found.declared[stem] = declared.get(names[0], Table())
        found.parts[stem], found.profiles[stem] = tuple(names), profiled
    for name, table in found.declared.items():
        found.declared[name] = _redirected(table, renamed)
    _report_alike(found)
    return found


def _groups(
    tables: Mapping[str, CleanTable], declared: Mapping[str, Table]
) -> dict[str, list[str]]:
    """Stem -> the tables that may be its parts, sorted; two at least."""
    by_stem = _by_stem(tables)
    stems = {name: stem for stem, names in by_stem.items() for name in names}
    parts = {}
    for stem, names in by_stem.items():
        if stem in tables:
            names = sorted([*names, stem])
        shapes = {_shape(tables[n], declared.get(n, Table()), stems) for n in names}
        if stem in tables and len(shapes) > 1:
            # The table of that name is another one: its name is taken all the same.
            names = [n for n in names if n != stem]
            shapes = {_shape(tables[n], declared.get(n, Table()), stems) for n in names}
        if len(names) > 1 and len(shapes) == 1:
            parts[stem] = names
    return parts


def _by_stem(tables: Mapping[str, CleanTable]) -> dict[str, list[str]]:
    """Stem -> the tables whose names say that they are its parts, sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(tables):
        stem = naming.stem_of_part(name)
        if stem is not None:
            found.setdefault(stem, []).append(name)
    return found


def _of_other_types(
    tables: Mapping[str, CleanTable], groups: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, list[str], str]]:
    """Stems whose tables are no parts for no other reason than that a column has other types in
    some, as codes may have that begin with 0 in one alone: (stem, tables, why)."""
    for stem, names in _by_stem(tables).items():
        columns = {frozenset(tables[name].types) for name in names}
        if stem in groups or stem in tables or len(names) < 2 or len(columns) > 1:
            continue
        several = {
            column: sorted({str(tables[name].types[column]) for name in names})
            for column in sorted(tables[names[0]].types)
        }
        told = [f"{column} is {' or '.join(t)}" for column, t in several.items() if len(t) > 1]
        if told:
            why = "the same columns, but of other types: " + ", ".join(told)
            yield stem, names, why + "; say one type for all under 'types'"


def _shape(table: CleanTable, declared: Table, stems: Mapping[str, str]) -> str:
    """What parts have in common, as text; a reference to a part counts as one to its stem."""
    columns = sorted((name, str(type_)) for name, type_ in table.types.items())
    return f"{columns} {_redirected(declared, stems).model_dump_json()}"


def _redirected(table: Table, renamed: Mapping[str, str]) -> Table:
    if table.references is None or not any(r.table in renamed for r in table.references):
        return table
    seen: dict[tuple[object, ...], Reference] = {}
    for reference in table.references:
        target = renamed.get(reference.table, reference.table)
        seen.setdefault((reference.columns, target), reference.model_copy(update={"table": target}))
    return table.model_copy(update={"references": tuple(seen.values())})


def _whole(name: str, parts: Sequence[CleanTable]) -> CleanTable:
    frame = united([part.frame for part in parts])
    rows = sum(part.rows for part in parts)
    return CleanTable(name, frame, parts[0].names, parts[0].types, rows)


def _overlap(
    whole: CleanTable,
    profiled: TableProfile,
    key: Sequence[str] | None,
    parts: Sequence[CleanTable],
) -> str | None:
    """Why these are no parts of one table; None when no key is in two of them."""
    from pyspark.sql import functions as F

    if key:
        columns = (F.col(whole.names[column]) for column in key)
        distinct = whole.frame.agg(F.count_distinct(*columns)).collect()[0][0]
        if distinct < profiled.rows:
            return f"{profiled.rows} rows have only {distinct} distinct keys"
        return None
    if any(column.unique for column in profiled.columns.values()):
        return None
    profiles = [profile(part) for part in parts]
    for column in sorted(whole.names):
        if naming.is_identifier(column) and all(p.columns[column].unique for p in profiles):
            return f"{column} identifies the rows of each, and they have values of it in common"
    return None


def _report_alike(found: United) -> None:
    """Tables of one shape whose names do not say that they are parts are only reported."""
    shapes: dict[str, list[str]] = {}
    for name, table in sorted(found.tables.items()):
        if len(table.types) > 2:
            shapes.setdefault(str(sorted((n, str(t)) for n, t in table.types.items())), []).append(
                name
            )
    for names in shapes.values():
        if len(names) > 1:
            why = "the same columns, but nothing in the names says that they are one table"
            found.evidence.append((names[0], ", ".join(names), False, why))
