"""Homing: which entity each value of a universal row belongs to.

A value belongs to the *minimal* entities in U(T) whose key determines it; if none does, to the
event T. An entity's key is homed like any value, so a foreign key that a smaller entity already
determines moves there too. Whether one entity is smaller than another follows from keys, unique
constraints and `owner.attribute` names alone, so it does not depend on how tables are cut.

Source: `docs/hop-normal-form.md`, construction step 4. Minimal determinants, and not a minimal
cover, because those are unique (transitive reduction of a finite preorder).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from isohop.errors import Problem, did_you_mean
from isohop.hops.schema_file import SchemaFile
from isohop.hops.universal_row import UniversalRow


@dataclass(frozen=True)
class Occurrence:
    """An entity, or a value of a shared attribute, somewhere in a universal row.

    ``key``: values, in the order of the entity's key. ``role``: how it is named there.
    ``determines`` is False for a shared value: it is a value that became a node, and what it
    determines stays with its holder.
    """

    entity: str
    key: tuple[int, ...]
    role: str
    prefix: str = ""
    determines: bool = True
    shared: bool = False

    @property
    def full_name(self) -> str:
        """The prefix and the entity: it tells apart what roles alone do not."""
        return self.prefix + self.entity


@dataclass
class Homes:
    """Where everything in one universal row went.

    ``attributes``: value -> [(occurrence, name)], at the minimal entities. ``parents``: for each
    occurrence, the minimal other occurrences that determine its key. ``event_values``: values that
    no entity determines, by name. ``participants``: occurrences that no other determines.
    """

    occurrences: list[Occurrence]
    attributes: dict[int, list[tuple[Occurrence, str]]] = field(default_factory=dict)
    parents: dict[Occurrence, list[Occurrence]] = field(default_factory=dict)
    participants: list[Occurrence] = field(default_factory=list)
    event_values: dict[int, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def named(self, name: str) -> list[Occurrence]:
        """Occurrences of entities by full name, or else by role, or else by entity."""
        entities = [o for o in self.occurrences if not o.shared]
        full = [o for o in entities if o.full_name == name]
        by_role = [o for o in entities if o.role == name]
        return full or by_role or [o for o in entities if o.entity == name]


def home_values(schema: SchemaFile, row: UniversalRow) -> Homes:
    """Home every named value and every entity key of U(T)."""
    occurrences = [*_occurrences_at_homes(schema, row), *_occurrences_by_name(schema, row)]
    homes = Homes(occurrences)
    _depend_on_owners(schema, row, homes)
    determined = {o: row.closure(frozenset(o.key)) for o in occurrences}
    in_keys = {value for occurrence in occurrences for value in occurrence.key}
    for value, name in row.names.items():
        if value in in_keys:
            continue
        minimal = _minimal(frozenset([value]), occurrences, determined)
        if minimal:
            homes.attributes[value] = [(o, name.removeprefix(o.prefix)) for o in minimal]
        else:
            homes.event_values[value] = name
    _share(schema, row, homes)
    for occurrence in homes.occurrences:
        others = [o for o in occurrences if o != occurrence]
        if not occurrence.shared:
            homes.parents[occurrence] = _minimal(frozenset(occurrence.key), others, determined)
    homes.participants = _participants(homes, determined)
    _check_collisions(schema, row, homes)
    return homes


def _occurrences_at_homes(schema: SchemaFile, row: UniversalRow) -> list[Occurrence]:
    found: dict[tuple[str, tuple[int, ...]], Occurrence] = {}
    for index, key in row.keys.items():
        visit = row.visits[index]
        entity = visit.entity if index else schema.home(visit.table)
        if entity is not None and key:
            role = visit.prefix.strip("_ ") or entity
            found.setdefault((entity, key), Occurrence(entity, key, role, visit.prefix))
    return list(found.values())


def _occurrences_by_name(schema: SchemaFile, row: UniversalRow) -> Iterator[Occurrence]:
    """Entities without a home occur wherever all their key's names do, under one prefix.

    A prefix ends in ``_``: the same column is ``ship_city`` whether it stands in the table itself
    or is reached through a reference with ``prefix: ship_``, so both must mean the same.
    """
    by_name = {name: value for value, name in row.names.items()}
    for name, entity in schema.entities.items():
        if entity.table is not None or entity.key is None:
            continue
        first = entity.key[0]
        prefixes = sorted(
            n.removesuffix(first) for n in by_name if n == first or n.endswith(f"_{first}")
        )
        for prefix in prefixes:
            if all(prefix + key in by_name for key in entity.key):
                values = tuple(by_name[prefix + key] for key in entity.key)
                yield Occurrence(name, values, prefix.strip("_ ") or name, prefix)


def _depend_on_owners(schema: SchemaFile, row: UniversalRow, homes: Homes) -> None:
    """`owner.attribute` says that the owner's key determines the value, wherever both occur;
    `determines` of the root says the same of all that its universal row holds."""
    for value, owner in row.owners.items():
        visit, _ = row.source[value]
        named = [o for o in homes.occurrences if owner in (o.entity, o.role)]
        here = [o for o in named if row.keys.get(visit) == o.key]
        where = f"tables.{row.visits[visit].table}.columns"
        told = f"'{owner}.{row.names[value]}'"
        _depend(schema, row, homes, owner, here, frozenset([value]), where, told)
    for owner, names in schema.tables[row.root].determines.items():
        for name in names:
            where = f"tables.{row.root}.determines.{owner}"
            values = _named(row, homes, name)
            if values is None:
                known = [*row.names.values(), *(o.role for o in homes.occurrences)]
                what = f"a row of '{row.root}' leads to nothing named '{name}', or to several."
                homes.problems.append(Problem(where, what, did_you_mean(name, known)))
            else:
                told = f"'{owner}: [{name}]'"
                _depend(schema, row, homes, owner, [], values, where, told)


def _named(row: UniversalRow, homes: Homes, name: str) -> frozenset[int] | None:
    """The value of that name, or the key of the entity in that role."""
    values = {frozenset([value]) for value, held in row.names.items() if held == name}
    values = values or {frozenset(o.key) for o in homes.named(name)}
    return values.pop() if len(values) == 1 else None


def _depend(
    schema: SchemaFile,
    row: UniversalRow,
    homes: Homes,
    owner: str,
    here: list[Occurrence],
    values: frozenset[int],
    where: str,
    told: str,
) -> None:
    chosen = here or homes.named(owner)
    if len(chosen) > 1:
        homes.problems.append(
            Problem(
                where,
                f"{told}: '{owner}' occurs in {row.root} in {len(chosen)} roles.",
                f"Write one of {', '.join(repr(o.full_name) for o in chosen)} in its place.",
            )
        )
    elif chosen:
        row.dependencies.append((frozenset(chosen[0].key), values))
    elif owner not in schema.entities and owner not in schema.tables:
        known = [*schema.entities, *schema.tables, *(o.role for o in homes.occurrences)]
        homes.problems.append(
            Problem(
                where,
                f"{told}: '{owner}' is no entity, event or role.",
                did_you_mean(owner, known),
            )
        )


def _minimal(
    values: frozenset[int],
    occurrences: list[Occurrence],
    determined: dict[Occurrence, frozenset[int]],
) -> list[Occurrence]:
    """Occurrences that determine ``values`` and determine no smaller one that does as well."""
    able = [
        o
        for o in occurrences
        if o.determines and values <= determined[o] and frozenset(o.key) != values
    ]
    return [
        o
        for o in able
        if not any(
            frozenset(smaller.key) <= determined[o] and not frozenset(o.key) <= determined[smaller]
            for smaller in able
        )
    ]


def _share(schema: SchemaFile, row: UniversalRow, homes: Homes) -> None:
    """Shared attributes become nodes: of their holder, or taking part in the event."""
    for value, held in list(homes.attributes.items()):
        kept: list[tuple[Occurrence, str]] = []
        for holder, name in held:
            spec = schema.attributes.get(f"{holder.entity}.{name}")
            if spec is None or not spec.share:
                kept.append((holder, name))
                continue
            node = Occurrence(
                f"{holder.entity}.{name}", (value,), name, determines=False, shared=True
            )
            homes.occurrences.append(node)
            homes.parents[node] = [holder]
        homes.attributes[value] = kept
    for value, name in list(homes.event_values.items()):
        spec = schema.attributes.get(f"{row.root}.{name}")
        if spec is not None and spec.share:
            node = Occurrence(f"{row.root}.{name}", (value,), name, determines=False, shared=True)
            homes.occurrences.append(node)
            homes.parents[node] = []
            del homes.event_values[value]


def _participants(homes: Homes, determined: dict[Occurrence, frozenset[int]]) -> list[Occurrence]:
    """Occurrences that none but an equivalent one determines; of equivalent ones, the first."""
    ordered = sorted(homes.occurrences, key=lambda o: (o.entity, o.role, o.key))
    chosen: list[Occurrence] = []
    for occurrence in ordered:
        key = frozenset(occurrence.key)
        above = [
            o
            for o in homes.parents[occurrence]
            if occurrence.shared or not frozenset(o.key) <= determined[occurrence]
        ]
        equal = any(
            not c.shared and not occurrence.shared and key <= determined[c]
            for c in chosen
            if frozenset(c.key) <= determined.get(occurrence, frozenset())
        )
        if not above and not equal:
            chosen.append(occurrence)
    return chosen


def _check_collisions(schema: SchemaFile, row: UniversalRow, homes: Homes) -> None:
    """No two values may be one attribute, or what an entity is found by."""
    found_by = {
        row.names[value]: o.entity
        for o in homes.occurrences
        if not o.shared and schema.entities[o.entity].table is None
        for value in o.key
    }
    taken: dict[tuple[str, tuple[int, ...], str], int] = {}
    placed = [
        (occurrence.entity, occurrence.key, name, value)
        for value, held in homes.attributes.items()
        for occurrence, name in held
    ]
    placed += [(row.root, (), name, value) for value, name in homes.event_values.items()]
    placed += [(found_by[n], (), n, value) for value, n in row.names.items() if n in found_by]
    for owner, key, name, value in placed:
        first = taken.setdefault((owner, key, name), value)
        if first != value:
            homes.problems.append(
                Problem(
                    f"tables.{row.visits[row.source[value][0]].table}",
                    f"{row.place(value)} and {row.place(first)} would both be '{owner}.{name}'.",
                    "Give the reference between them a 'prefix', map one under 'columns' "
                    "(null: not used), or mark a counter's table 'surrogate: true'.",
                )
            )
