"""Logical names for a schema that nobody wrote: no two things share one.

A reference gets a prefix where its column says a role (``manager_staff_id`` → ``manager_``), and
wherever what it reaches would otherwise have a name that is taken. Pure Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isohop.errors import IsohopError
from isohop.hops.homing import Homes, home_values
from isohop.hops.plan import RESERVED_ATTRIBUTES, RESERVED_FACTS, RESERVED_KEYS
from isohop.hops.schema_file import SchemaFile, name_problem, why_no_entity
from isohop.hops.universal_row import UniversalRow, references, universal_row
from isohop.relational.database import Reference, Table

Columns = Mapping[str, tuple[str, ...]]
_ENDING = re.compile(r"(?i)[_ ]*(id|key|code|no|nr|num|number|fk|sk|uuid|guid|ref)s?$")


def with_names(schema: SchemaFile, columns: Columns) -> SchemaFile:
    """The schema with prefixes and column names that tell everything apart.

    Those that it has stay, unless two things share one.
    """
    schema = _replaced(schema, {n: _with_roles(schema, n) for n in schema.tables})
    limit = 20 + 4 * sum(len(held) for held in columns.values())
    for _ in range(limit):
        changed = next(_mended(schema, columns), None)
        if changed is None:
            return schema
        schema = changed
    raise IsohopError(
        "No set of names could be found that tells all columns apart. Write 'prefix' and 'columns' "
        "in the schema file by hand, for the tables with most references."
    )


def _replaced(schema: SchemaFile, tables: Mapping[str, Table]) -> SchemaFile:
    return schema.model_copy(update={"tables": {**schema.tables, **tables}})


def _with_roles(schema: SchemaFile, name: str) -> Table:
    """Prefixes of references whose column says a role, and of those to tables that fold: an
    address that a product has from its supplier is a ``supplier_address``."""
    table = schema.tables[name]
    found: list[Reference] = []
    for reference in table.references or ():
        taken = {r.prefix for r in found}
        stem = _role(reference, schema.tables[reference.table].key or ())
        if schema.home(reference.table) is None:
            stem = stem or _clean(reference.table)
        prefix = f"{stem}_" if stem else ""
        if stem and prefix in taken:
            prefix = _free(stem, taken)
        found.append(
            reference if reference.prefix else reference.model_copy(update={"prefix": prefix})
        )
    return table.model_copy(update={"references": tuple(found)})


def _role(reference: Reference, key: tuple[str, ...]) -> str:
    """What a referring column says beyond the name of its target: "" for ``customer_id``, and
    wherever it has the key's own name."""
    if len(reference.columns) > 1:
        return ""
    column = reference.columns[0]
    if len(key) == 1 and column.lower() == key[0].lower():
        return ""
    own = key[0] if len(key) == 1 and len(key[0]) > 3 else reference.table
    for ending in (own, reference.table, reference.table.rstrip("s")):
        for whole in (f"{ending}_id", f"{ending}id", ending):
            if column.lower().endswith(whole.lower()):
                return _clean(column[: len(column) - len(whole)])
    return _clean(_ENDING.sub("", column))


def entity_name(name: str) -> str:
    """What an entity is called of which a table or a column has that name: the same, if it can."""
    if why_no_entity(name) is None:
        return name
    stem = _clean(name.replace("=", "_"))
    return stem if stem and why_no_entity(stem) is None else f"{stem}_entity".strip("_")


def _clean(text: str) -> str:
    return re.sub(r'[./\\:*?"<>|\s-]+', "_", text).strip("_")


def _free(stem: str, taken: set[str]) -> str:
    names = (f"{stem}_", *(f"{stem}{number}_" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


@dataclass(frozen=True)
class _Clash:
    """Two places of a universal row that share a name: (visit, value that the place holds)."""

    first: tuple[int, int]
    second: tuple[int, int]


def _mended(schema: SchemaFile, columns: Columns) -> Iterator[SchemaFile]:
    """The schema with one clash less, for the first that there is."""
    for name in sorted(schema.tables):
        row, _ = universal_row(schema, columns, name)
        homes = home_values(schema, row)
        for clash in _clashes(schema, row, homes):
            yield _determined(schema, _apart(schema, row, clash), columns)
        for value, taken in _forbidden(schema, row, homes):
            yield _determined(schema, _renamed(schema, row, value, taken), columns)


def _determined(before: SchemaFile, after: SchemaFile, columns: Columns) -> SchemaFile:
    """``after``, whose names are others, with `determines` by these."""
    tables = {}
    for name in (name for name, table in after.tables.items() if table.determines):
        old, new = (_names_of(schema, columns, name) for schema in (before, after))
        roles, values = (
            {was[what]: now[what] for what in was if what in now}
            for was, now in zip(old, new, strict=True)
        )
        both = {**roles, **values}
        determines = {
            roles.get(owner, owner): tuple(both.get(one, one) for one in held)
            for owner, held in after.tables[name].determines.items()
        }
        tables[name] = after.tables[name].model_copy(update={"determines": determines})
    return _replaced(after, tables)


def _names_of(
    schema: SchemaFile, columns: Columns, name: str
) -> tuple[Mapping[Any, str], Mapping[Any, str]]:
    """What entities, by their keys, and values are called in the rows of a root."""
    row, _ = universal_row(schema, columns, name)
    occurrences = home_values(schema, row).occurrences
    return {(one.entity, one.key): one.role for one in occurrences}, row.names


def _clashes(schema: SchemaFile, row: UniversalRow, homes: Homes) -> Iterator[_Clash]:
    names: dict[str, int] = {}
    for value, name in sorted(row.names.items()):
        first = names.setdefault(name.lower(), value)
        if first != value:
            places = [_named_at(schema, row, one)[0] for one in (first, value)]
            yield _Clash((places[0], first), (places[1], value))
    roles: dict[tuple[str, str], tuple[int, ...]] = {}
    for occurrence in homes.occurrences:
        if occurrence.shared:
            continue
        key = roles.setdefault((occurrence.entity, occurrence.role), occurrence.key)
        if key != occurrence.key:
            places = [
                next(v for v, k in row.keys.items() if k == one) for one in (key, occurrence.key)
            ]
            yield _Clash((places[0], key[0]), (places[1], occurrence.key[0]))


def _forbidden(
    schema: SchemaFile, row: UniversalRow, homes: Homes
) -> Iterator[tuple[int, set[str]]]:
    """Values whose name a dataset needs for itself, or that a role or a key has already,
    and those that give a role a name that no edge type can have."""
    roles = {o.role.lower() for o in homes.occurrences if not o.shared}
    in_keys = {value for o in homes.occurrences for value in o.key}
    odd = {value for o in homes.occurrences for value in o.key if name_problem("", o.role)}
    for value, name in sorted(row.names.items()):
        taken = set(RESERVED_FACTS | RESERVED_ATTRIBUTES)
        if value in in_keys:
            taken |= RESERVED_KEYS
        else:
            taken |= roles
        held = homes.attributes.get(value, [])
        for holder, _ in held:
            taken |= {row.names.get(k, "").lower() for k in holder.key}
        short = {name, *(called for _, called in held)}
        if {one.lower() for one in short} & taken or "." in name or value in odd:
            yield value, taken


def _apart(schema: SchemaFile, row: UniversalRow, clash: _Clash) -> SchemaFile:
    one, other = row.path(clash.first[0]), row.path(clash.second[0])
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    for visit in (*other[shared:], *one[shared:]):
        changed = _prefixed(schema, row, visit)
        if changed is not None:
            return changed
    return _renamed(schema, row, clash.second[1], {name.lower() for name in row.names.values()})


def _prefixed(schema: SchemaFile, row: UniversalRow, index: int) -> SchemaFile | None:
    """Another prefix for the reference by which a visit was reached; None where it has none."""
    visit = row.visits[index]
    name = row.visits[visit.parent or 0].table
    table = schema.tables[name]
    held = list(table.references or ())
    at = next(
        (i for i, r in enumerate(held) if (r.table, r.columns) == (visit.table, visit.columns)),
        None,
    )
    if at is None or visit.optional:
        return None
    reference = held[at]
    # Prefixes of all tables: another one may lead to the same names.
    taken = {r.prefix for t in schema.tables.values() for r in t.references or ()}
    stem = _role(reference, visit.key)
    if not stem and len(reference.columns) == 1:
        stem = _clean(_ENDING.sub("", reference.columns[0]))
    stem = stem or _clean(reference.table)
    held[at] = reference.model_copy(update={"prefix": _free(stem, taken)})
    return _replaced(schema, {name: table.model_copy(update={"references": tuple(held)})})


def _renamed(schema: SchemaFile, row: UniversalRow, value: int, taken: set[str]) -> SchemaFile:
    """Another name for the column that names a value."""
    place, column = _named_at(schema, row, value)
    name = row.visits[place].table
    table = schema.tables[name]
    stem = f"{_clean(name)}_{_clean(column) or 'column'}"
    prefix = row.visits[place].prefix
    used = taken | {(prefix + str(m)).lower() for m in table.columns.values() if m}
    names = (stem, *(f"{stem}{number}" for number in range(2, len(used) + 3)))
    new = next(one for one in names if (prefix + one).lower() not in used)
    return _replaced(
        schema, {name: table.model_copy(update={"columns": {**table.columns, column: new}})}
    )


def _named_at(schema: SchemaFile, row: UniversalRow, value: int) -> tuple[int, str]:
    """(visit, column) from which a value has its name."""
    return next(
        (visit, column)
        for (visit, column), held in sorted(row.values.items())
        if held == value and _names_it(schema, row, visit, column)
    )


def _names_it(schema: SchemaFile, row: UniversalRow, visit: int, column: str) -> bool:
    """Whether this column is where a value has its name from."""
    reached = row.visits[visit]
    if reached.entity is not None and visit:
        return False
    table = schema.tables[reached.table]
    referring = {c for r, _ in references(schema, reached.table) for c in r.columns}
    if column in table.columns:
        return table.columns[column] is not None
    return column not in referring and not (table.surrogate and column in (table.key or ()))
