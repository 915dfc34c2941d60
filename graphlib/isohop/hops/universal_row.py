"""Universal rows: a table joined along its N:1 references through all that is not an entity.

U(T) is T left-joined along its references, transitively, through every table that is not the home
of an entity; of a referenced entity only its key is taken. Columns that a join makes equal are one
*value* of the universal row. Pure Python: what the joins are, not the joining.

Source: `docs/hop-normal-form.md`, construction steps 1 to 3; the universal relation is due to
Maier, Ullman and Vardi (1984).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from isohop.errors import Problem
from isohop.hops.schema_file import SchemaFile
from isohop.relational.database import Reference, Table


@dataclass(frozen=True)
class Visit:
    """One table reached from the root, by one path of references. The root is visit 0."""

    index: int
    table: str
    parent: int | None
    columns: tuple[str, ...]
    """The parent's columns that hold the key of this table."""
    key: tuple[str, ...]
    """This table's columns that they are joined to."""
    prefix: str
    """What goes before the names of this visit's columns: the prefixes along the path."""
    entity: str | None
    """The entity whose home this is, when the path stops here; None for the root."""
    optional: bool = False
    """A 1:1 partner of its parent that may be missing: no orphan."""
    orphans: str = "keep"


@dataclass
class UniversalRow:
    """The visits of U(root), the values they hold, and what determines what.

    A *value* is a set of (visit, column) that joins make equal, named by an integer;
    ``source[value]`` is its member nearest the root. ``dependencies`` are pairs (determinant
    values, determined values); those of ``enforced`` hold whatever the data are, as of the rows
    of one key of a table one is kept.
    """

    root: str
    visits: list[Visit]
    values: dict[tuple[int, str], int] = field(default_factory=dict)
    source: dict[int, tuple[int, str]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """Logical name of each value that has one; surrogate keys and unused columns have none."""
    owners: dict[int, str] = field(default_factory=dict)
    """Where the schema file says `owner.attribute`: the owner, an entity, an event or a role."""
    keys: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Values of the entity key at each visit where the path stops, and at a root that is a home."""
    dependencies: list[tuple[frozenset[int], frozenset[int]]] = field(default_factory=list)
    enforced: list[tuple[frozenset[int], frozenset[int]]] = field(default_factory=list)

    def closure(self, values: frozenset[int], enforced: bool = False) -> frozenset[int]:
        """All values that ``values`` determine (Armstrong's axioms, to the fixed point)."""
        known = set(values)
        dependencies = self.enforced if enforced else self.dependencies
        grown = True
        while grown:
            grown = False
            for determinant, determined in dependencies:
                if determinant <= known and not determined <= known:
                    known |= determined
                    grown = True
        return frozenset(known)

    def path(self, visit: int) -> list[int]:
        """The visits from below the root to this one."""
        path: list[int] = []
        while self.visits[visit].parent is not None:
            path.insert(0, visit)
            visit = self.visits[visit].parent or 0
        return path

    def place(self, value: int) -> str:
        """``table.column`` of a value, for messages."""
        visit, column = self.source[value]
        return f"{self.visits[visit].table}.{column}"


def references(schema: SchemaFile, table: str) -> Iterator[tuple[Reference, bool]]:
    """The references of a table, then its 1:1 partners: tables whose key refers to its key.

    A partner is a vertical part of the same table, so it is joined to it (True). The home of
    another entity is no part, whatever its key refers to. Of two tables that refer to each other
    so, and are no homes, the one with more references is the whole, as if only its part referred.
    """
    ours = schema.tables[table]
    for reference in ours.references or ():
        yield reference, _is_whole(schema, table, reference)
    if ours.key is None:
        return
    mutual = {r.table for r in ours.references or () if _same_key(r, ours)}
    for name, other in schema.tables.items():
        if name == table or name in mutual or schema.home(name) is not None:
            continue
        for reference in other.references or ():
            if reference.table == table and _same_key(reference, other):
                in_their_order = dict(zip(reference.columns, ours.key, strict=True))
                columns = tuple(in_their_order[column] for column in other.key or ())
                yield Reference(columns=columns, table=name, prefix=""), True


def _is_whole(schema: SchemaFile, table: str, tie: Reference) -> bool:
    """Whether a reference is one way of a tie that goes both ways, and leads to the part."""
    ours, theirs = schema.tables[table], schema.tables[tie.table]
    if schema.home(table) is not None or schema.home(tie.table) is not None:
        return False
    back = any(r.table == table and _same_key(r, theirs) for r in theirs.references or ())
    first = (-len(ours.references or ()), table) < (-len(theirs.references or ()), tie.table)
    return _same_key(tie, ours) and back and first


def _same_key(reference: Reference, table: Table) -> bool:
    return table.key is not None and sorted(reference.columns) == sorted(table.key)


def folded_cycles(schema: SchemaFile) -> list[list[str]]:
    """Cycles of references among tables that are no entity's home. Each is an error.

    1:1 ties lead both ways, so they alone are no cycle: tables that they tie are one.
    """
    steps: dict[str, list[tuple[str, bool]]] = {}
    for name, table in schema.tables.items():
        if schema.home(name) is None:
            steps[name] = [
                (reference.table, partner or _same_key(reference, table))
                for reference, partner in references(schema, name)
                if schema.home(reference.table) is None
            ]
    found: dict[frozenset[str], list[str]] = {}
    for name, there in steps.items():
        for target, tie in there:
            back = None if tie else _path(steps, target, name)
            if back is not None:
                found.setdefault(frozenset(back), [name, *back])
    return list(found.values())


def _path(steps: Mapping[str, list[tuple[str, bool]]], first: str, last: str) -> list[str] | None:
    """The shortest path of references between two tables, both included."""
    paths = {first: [first]}
    queue = deque([first])
    while queue and last not in paths:
        here = queue.popleft()
        for target, _ in steps[here]:
            if target not in paths:
                paths[target] = [*paths[here], target]
                queue.append(target)
    return paths.get(last)


MOST_PLACES = 256
"""Places that a row may lead to. Paths multiply where tables fold into each other."""


def crowded(schema: SchemaFile) -> tuple[str, int, str] | None:
    """(table, places, folded table that most paths lead to) where a row leads to too many places;
    None where none does. There are no `folded_cycles`."""
    places: dict[str, int] = {}

    def count(table: str) -> int:
        if table not in places:
            places[table] = 1  # 1:1 partners lead back: once is enough
            places[table] += sum(
                1 if schema.home(r.table) is not None else count(r.table)
                for r, _ in references(schema, table)
            )
        return places[table]

    worst = max(schema.tables, key=lambda table: (count(table), table))
    if places[worst] <= MOST_PLACES:
        return None
    gains: dict[str, int] = {}
    for table in schema.tables:
        for reference, partner in references(schema, table):
            if not partner and schema.home(reference.table) is None:
                gained = gains.get(reference.table, 0) + places[reference.table]
                gains[reference.table] = gained
    return worst, places[worst], max(gains, key=lambda table: (gains[table], table))


def universal_row(
    schema: SchemaFile, columns: Mapping[str, tuple[str, ...]], root: str
) -> tuple[UniversalRow, list[Problem]]:
    """U(root). ``columns`` has every table's column names; problems name what cannot be placed."""
    walk = _Walk(schema, columns, UniversalRow(root, _visits(schema, root)))
    walk.expose_entity_keys()
    walk.unite()
    walk.name()
    walk.depend()
    return walk.row, walk.problems


def base_name(table: Table, column: str) -> tuple[str | None, str | None]:
    """(owner, name) of a column by the schema file; the name is None where it is not used."""
    if column not in table.columns:
        return None, column
    mapped = table.columns[column]
    if mapped is None:
        return None, None
    owner, dot, name = mapped.rpartition(".")
    return (owner, name) if dot else (None, mapped)


def needed_columns(schema: SchemaFile, table: str, columns: Iterable[str]) -> tuple[str, ...]:
    """The columns of a table that a graph can need: those that are used, and those of keys and
    references. All of them where that is none, since its rows are counted."""
    declared = schema.tables[table]
    held = {declared.time, *(declared.key or ())}
    held.update(*declared.unique, *(reference.columns for reference in declared.references or ()))
    held.update(*(e.key or () for e in schema.entities.values() if e.table == table))
    columns = tuple(columns)
    needed = (c for c in columns if c in held or base_name(declared, c)[1] is not None)
    return tuple(needed) or columns


def _visits(schema: SchemaFile, root: str) -> list[Visit]:
    visits = [Visit(0, root, None, (), (), "", None)]
    queue = deque([0])
    while queue:
        here = visits[queue.popleft()]
        for reference, partner in references(schema, here.table):
            if _led_back(schema, visits, here, reference) is not None:
                continue
            visit = _visit(schema, len(visits), here, reference, partner)
            visits.append(visit)
            if visit.entity is None:
                queue.append(visit.index)
    return visits


def _visit(
    schema: SchemaFile, index: int, parent: Visit, reference: Reference, partner: bool
) -> Visit:
    return Visit(
        index=index,
        table=reference.table,
        parent=parent.index,
        columns=reference.columns,
        key=schema.tables[reference.table].key or (),
        prefix=parent.prefix + reference.prefix,
        entity=schema.home(reference.table),
        optional=partner,
        orphans=reference.orphans or schema.policies.orphans,
    )


def _led_back(
    schema: SchemaFile, visits: list[Visit], here: Visit, reference: Reference
) -> Visit | None:
    """The visit to which a reference leads back along the 1:1 ties by which this one was reached;
    None where it leads on."""
    if not _same_key(reference, schema.tables[here.table]):
        return None
    while here.parent is not None:
        parent = visits[here.parent]
        if sorted(here.columns) != sorted(schema.tables[parent.table].key or ()):
            return None
        if parent.table == reference.table:
            return parent
        here = parent
    return None


class _Walk:
    """The making of one universal row."""

    def __init__(
        self, schema: SchemaFile, columns: Mapping[str, tuple[str, ...]], row: UniversalRow
    ):
        self.schema = schema
        self.columns = columns
        self.row = row
        self.problems: list[Problem] = []
        self.key_places: dict[int, list[tuple[int, str]]] = {}
        self.open = [visit.index for visit in row.visits if visit.entity is None]
        """Visits all of whose columns are in the universal row; of others only keys are."""
        self.exposed: dict[int, list[str]] = {
            visit.index: list(visit.key if visit.entity else columns[visit.table])
            for visit in row.visits
        }

    def expose_entity_keys(self) -> None:
        """Find each entity's key where the entity occurs, going on from its home where the key is
        not a column of it: a natural key behind a surrogate is reached by the home's references,
        one in a 1:1 part by the tie to it."""
        for visit in list(self.row.visits):
            entity = visit.entity if visit.index else self.schema.home(visit.table)
            if entity is None:
                continue
            home = self.schema.tables[visit.table]
            names = self.schema.entities[entity].key or home.key or ()
            places = [self._key_place(visit, name) for name in names]
            for name, place in zip(names, places, strict=True):
                if place is None:
                    self.problems.append(
                        Problem(
                            f"entities.{entity}.key",
                            f"'{name}' is neither a column of its home '{visit.table}' nor "
                            "reached from it.",
                            f"Columns: {', '.join(self.columns[visit.table])}.",
                        )
                    )
            self.key_places[visit.index] = [place for place in places if place is not None]

    def _key_place(self, visit: Visit, name: str) -> tuple[int, str] | None:
        found = self._search(visit.table, name)
        if found is None:
            return None
        path, column = found
        here = visit
        for reference, partner in path:
            here = self._follow(here, reference, partner)
        if column not in self.exposed[here.index]:
            self.exposed[here.index].append(column)
        return here.index, column

    def _follow(self, here: Visit, reference: Reference, partner: bool) -> Visit:
        """The visit that a reference leads to: at a root it is there, at a stop it is made, unless
        the stop was reached from there."""
        back = _led_back(self.schema, self.row.visits, here, reference)
        if back is not None:
            return back
        for visit in self.row.visits:
            if (visit.parent, visit.table, visit.columns) == (
                here.index,
                reference.table,
                reference.columns,
            ):
                return visit
        visit = _visit(self.schema, len(self.row.visits), here, reference, partner)
        self.row.visits.append(visit)
        self.exposed[visit.index] = list(visit.key)
        held = self.exposed[here.index]
        held.extend(column for column in visit.columns if column not in held)
        return visit

    def _search(self, home: str, name: str) -> tuple[list[tuple[Reference, bool]], str] | None:
        Path = list[tuple[Reference, bool]]
        queue: deque[tuple[str, str, Path]] = deque([(home, "", [])])
        while queue:
            table, prefix, path = queue.popleft()
            for column in self.columns[table]:
                _, base = base_name(self.schema.tables[table], column)
                if (base is not None and prefix + base == name) or (not path and column == name):
                    return path, column
            passed = {home, *(reference.table for reference, _ in path)}
            for reference, partner in references(self.schema, table):
                # Ties lead back: once along a path is enough.
                inside = reference.table not in passed
                if inside and self.schema.home(reference.table) is None:
                    step = prefix + reference.prefix, [*path, (reference, partner)]
                    queue.append((reference.table, *step))
        return None

    def unite(self) -> None:
        """Give one number to all that joins make equal; numbers follow the visits from the root."""
        for visit in self.row.visits:
            joined: dict[str, int] = {}
            if visit.parent is not None:
                joined = {
                    key: self.row.values[visit.parent, column]
                    for column, key in zip(visit.columns, visit.key, strict=True)
                }
            for column in self.exposed[visit.index]:
                value = joined.get(column)
                if value is None:
                    value = len(self.row.source)
                    self.row.source[value] = (visit.index, column)
                self.row.values[visit.index, column] = value
        self.row.keys = {
            visit: tuple(self.row.values[place] for place in places)
            for visit, places in self.key_places.items()
        }

    def name(self) -> None:
        """Logical names, the one nearest the root first. A referencing column has none of its own
        (its target's key names it) unless the file maps it; a surrogate key has none at all."""
        for index in self.open:
            visit = self.row.visits[index]
            table = self.schema.tables[visit.table]
            referring = {c for r in table.references or () for c in r.columns}
            for column in self.exposed[index]:
                owner, base = base_name(table, column)
                surrogate = table.surrogate and column in (table.key or ())
                silent = column in referring and column not in table.columns
                if base is None or surrogate or silent:
                    continue
                value = self.row.values[index, column]
                if value not in self.row.names:
                    self.row.names[value] = visit.prefix + base
                    if owner is not None:
                        self.row.owners[value] = owner

    def depend(self) -> None:
        """Dependencies: keys and unique constraints, and entity keys both ways."""
        for visit in self.row.visits:
            table = self.schema.tables[visit.table]
            everything = self._values(visit.index, self.exposed[visit.index])
            for determinant in (table.key or (), *table.unique):
                if determinant and all((visit.index, c) in self.row.values for c in determinant):
                    dependency = self._values(visit.index, determinant), everything
                    self.row.dependencies.append(dependency)
                    if determinant == table.key:
                        self.row.enforced.append(dependency)
            if visit.index in self.row.keys:
                self.row.dependencies.append((frozenset(self.row.keys[visit.index]), everything))

    def _values(self, visit: int, columns: Iterable[str]) -> frozenset[int]:
        return frozenset(self.row.values[visit, column] for column in columns)
