"""Explain: what each table and column became and why, and what that does to distances."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from isohop.hops.plan import Plan, Root
from isohop.hops.universal_row import UniversalRow, base_name, references


@dataclass(frozen=True)
class Fate:
    """What a table (``column`` empty) or a column became, and why."""

    table: str
    column: str
    became: str
    why: str


@dataclass(frozen=True)
class Distance:
    """Hops between two node types: in a graph with one node per row and one edge per foreign key
    (``before``; None: no path, the value is only a column), and in the normal form."""

    source: str
    target: str
    by: str
    before: int | None
    after: int


@dataclass(frozen=True)
class Explanation:
    """Everything that `isohop explain` prints."""

    database: str
    fates: tuple[Fate, ...]
    distances: tuple[Distance, ...]
    warnings: tuple[str, ...]
    mermaid: str

    def as_json(self) -> dict[str, Any]:
        """For graph.json and the report."""
        return {
            "tables": [asdict(fate) for fate in self.fates],
            "distances": [asdict(distance) for distance in self.distances],
            "warnings": list(self.warnings),
            "mermaid": self.mermaid,
        }


def explain(plan: Plan) -> Explanation:
    """Tell a plan in words and as a diagram."""
    fates: list[Fate] = []
    for table in sorted(plan.schema.tables):
        fates.append(_table_fate(plan, table))
        fates += [_column_fate(plan, table, column) for column in plan.columns[table]]
    return Explanation(
        plan.schema.database,
        tuple(fates),
        tuple(_distances(plan)),
        tuple(plan.warnings),
        _mermaid(plan),
    )


def _table_fate(plan: Plan, table: str) -> Fate:
    entity = plan.schema.home(table)
    if entity is not None:
        return Fate(table, "", f"entity {entity}", "its rows are the entity's home")
    reached = sorted(
        {
            root.table
            for root in plan.roots.values()
            for visit in root.row.visits[1:]
            if visit.table == table and root.table != table
        }
    )
    event = next((e for e in plan.events if e.root == table), None)
    if event is not None and not reached:
        names = " × ".join(o.role for o in event.participants)
        if len(event.participants) == 1:
            holder = event.participants[0].entity
            return Fate(table, "", f"multi-valued attributes of {holder}", "one participant")
        return Fate(table, "", f"event {table}: {names}", "no table refers to it")
    if reached:
        extra = "; rows that nothing refers to become an event" if event else ""
        return Fate(
            table, "", f"folded into {', '.join(reached)}{extra}", "it is reached by N:1 references"
        )
    if table in plan.roots:
        owners = sorted({o.entity for o in plan.roots[table].homes.occurrences if not o.shared})
        return Fate(
            table, "", f"attributes of {', '.join(owners)}", "an entity's key determines its rows"
        )
    return Fate(table, "", "nothing", "it leads to no entity")


def _column_fate(plan: Plan, table: str, column: str) -> Fate:
    found: dict[str, str] = {}
    for root in plan.roots.values():
        for visit in root.row.visits:
            if visit.table != table or (visit.entity is not None and visit.index):
                continue
            value = root.row.values.get((visit.index, column))
            if value is not None:
                found.update(_value_fates(plan, root, value))
    if found:
        return Fate(table, column, "; ".join(found), "; ".join(dict.fromkeys(found.values())))
    declared = plan.schema.tables[table]
    _, base = base_name(declared, column)
    if base is None:
        return Fate(table, column, "not used", "the schema file maps it to null")
    if column in (declared.key or ()) and declared.surrogate:
        return Fate(table, column, "nothing", "a surrogate key: it serves the joins and vanishes")
    if any(column in reference.columns for reference in declared.references or ()):
        return Fate(table, column, "nothing", "a reference: it serves the join and vanishes")
    return Fate(table, column, "not used", "its table leads to no entity")


def _value_fates(plan: Plan, root: Root, value: int) -> dict[str, str]:
    fates: dict[str, str] = {}
    for occurrence in root.homes.occurrences:
        if value not in occurrence.key:
            continue
        if occurrence.shared:
            holders = ", ".join(o.entity for o in root.homes.parents[occurrence])
            why = f"shared; an edge to each {holders or 'participant of ' + root.table}"
            fates[f"nodes {occurrence.entity}"] = why
        else:
            role = "" if occurrence.role == occurrence.entity else f" as {occurrence.role}"
            fates[f"key of {occurrence.entity}{role}"] = "identifies the entity"
    for holder, name in root.homes.attributes.get(value, []):
        fates[f"{holder.entity}.{name}"] = f"determined by the key of {holder.entity}"
    if value in root.homes.event_values:
        name = root.homes.event_values[value]
        fates[f"{root.table}.{name}"] = "no entity's key determines it: it stays with the event"
    del plan
    return fates


def _distances(plan: Plan) -> list[Distance]:
    places = {name: place for name in plan.nodes if (place := _place(plan, name)) is not None}
    neighbours: dict[str, set[str]] = {table: set() for table in plan.schema.tables}
    for table in plan.schema.tables:
        for reference in plan.schema.tables[table].references or ():
            neighbours[table].add(reference.table)
            neighbours[reference.table].add(table)
    edges = [
        (e.source, e.target, e.role, [(s.root, s.holder, s.values) for s in e.gathered.sources])
        for e in plan.functional
    ] + [
        (a.entity, b.entity, role, [(event.root, a.key, b.key)])
        for event in plan.events
        for role, a, b in event.pairs
    ]
    found = []
    for source, target, role, ends in edges:
        before = None
        if source in places and target in places:
            before = (
                min(_apart(plan.roots[root].row, one, other) for root, one, other in ends)
                if source == target
                else _shortest(neighbours, places[source], places[target])
            )
        found.append(Distance(source, target, role, before, 1))
        if target in plan.nodes and plan.nodes[target].shared:
            twice = None if before is None else 2 * before
            found.append(Distance(source, source, f"same {role}", twice, 2))
    return found


def _place(plan: Plan, node: str) -> str | None:
    """The table whose rows are the node's in a plain graph; None where it is only a column."""
    entity = plan.schema.entities.get(node)
    if entity is not None:
        return entity.table
    for root in plan.roots.values():
        for occurrence in root.homes.occurrences:
            if occurrence.entity == node:
                visit, _ = root.row.source[occurrence.key[0]]
                table = root.row.visits[visit].table
                if table != root.table:
                    return table
    return None


def _apart(row: UniversalRow, one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """References between the rows of two entities that occur in a universal row, by their keys."""
    first, second = (
        [set(row.path(visit)) for visit, held in row.keys.items() if held == key]
        for key in (one, other)
    )
    return min(len(here ^ there) for here, there in product(first, second))


def _shortest(neighbours: Mapping[str, set[str]], start: str, goal: str) -> int | None:
    queue, seen = deque([(start, 0)]), {start}
    while queue:
        table, hops = queue.popleft()
        if table == goal:
            return hops
        for other in sorted(neighbours[table] - seen):
            seen.add(other)
            queue.append((other, hops + 1))
    return None


def _mermaid(plan: Plan) -> str:
    """Tables on the left, the graph on the right, what became what between them."""
    lines = ["flowchart LR", "  subgraph tables"]
    tables = {name: f"t{index}" for index, name in enumerate(sorted(plan.schema.tables))}
    nodes = {name: f"n{index}" for index, name in enumerate(plan.nodes)}
    lines += [f'    {tables[name]}[("{_label(name)}")]' for name in tables]
    for table in tables:
        for reference, partner in references(plan.schema, table):
            if not partner:
                label = f'|"{_label(reference.prefix)}"|' if reference.prefix else ""
                lines.append(f"    {tables[table]} -->{label} {tables[reference.table]}")
    lines += ["  end", "  subgraph graph"]
    for name, node in plan.nodes.items():
        left, right = ("((", "))") if not node.shared else ("([", "])")
        lines.append(f'    {nodes[name]}{left}"{_label(name)}"{right}')
    for edge in plan.functional:
        arrow = f'-->|"{_label(edge.role)}"|'
        lines.append(f"    {nodes[edge.source]} {arrow} {nodes[edge.target]}")
    for event in plan.events:
        for role, first, second in event.pairs:
            arrow = f'---|"{_label(role)}"|'
            lines.append(f"    {nodes[first.entity]} {arrow} {nodes[second.entity]}")
    lines.append("  end")
    for name, entity in plan.schema.entities.items():
        if entity.table in tables:
            lines.append(f"  {tables[entity.table]} ==> {nodes[name]}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    """Text inside a Mermaid label: quotes and markup as entities."""
    return "".join(c if c.isalnum() or c in " _-.,/" else f"#{ord(c)};" for c in text)
