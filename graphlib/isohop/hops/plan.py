"""The plan: what each table and column becomes, found without an engine.

`make_plan` turns a schema file and the tables' column names into a `Plan`: one `Root` per table
that contributes facts, and from them the node types with their gathered attributes, the functional
edges, the events. Acting on it is the business of `construct.py`.

Source: `docs/hop-normal-form.md`, construction steps 4 to 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

from isohop.errors import InvalidInput, Problem, did_you_mean
from isohop.hops.homing import Homes, Occurrence, home_values
from isohop.hops.schema_file import AttributeSpec, SchemaFile, name_problem
from isohop.hops.universal_row import (
    UniversalRow,
    base_name,
    crowded,
    folded_cycles,
    references,
    universal_row,
)


@dataclass
class Root:
    """A table from which universal rows are made: all of its rows, or those that no row refers to
    (``unreferenced``: the others reach the graph through the rows that refer to them)."""

    table: str
    unreferenced: bool
    row: UniversalRow
    homes: Homes
    key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()

    @property
    def is_event(self) -> bool:
        """Whether something is left that no entity determines: participants beyond one, or
        values."""
        return len(self.homes.participants) > 1 or bool(self.homes.participants and self.leftovers)

    @property
    def leftovers(self) -> bool:
        """Whether a row is more than its participant: the event is not determined by it."""
        alone = self.homes.participants[0] if self.homes.participants else None
        if alone is None or alone.shared:
            return True
        return not (self.one_row_for(alone.key) or self._one_row_by(self.unique, alone.key))

    def one_row_for(self, values: tuple[int, ...]) -> bool:
        """Whether no two rows share these values: they determine the table's key.

        Of a table without a key no values do: two equal rows are two facts.
        """
        return self._one_row_by((self.key,) if self.key else (), values)

    def keeps_one_row_for(self, values: tuple[int, ...]) -> bool:
        """Likewise, whatever the data are: by keys alone, of which each table keeps one row."""
        return self._one_row_by((self.key,) if self.key else (), values, enforced=True)

    def _one_row_by(
        self,
        candidates: tuple[tuple[str, ...], ...],
        values: tuple[int, ...],
        enforced: bool = False,
    ) -> bool:
        known = self.row.closure(frozenset(values), enforced)
        return any(all(self.row.values[0, c] in known for c in key) for key in candidates)


@dataclass(frozen=True)
class Source:
    """Where values of one attribute or target come from: ``keyed`` when no two rows of the root
    that are kept have one key there, so that none can disagree: by the keys of tables alone, since
    what is declared besides may not hold."""

    root: str
    holder: tuple[int, ...]
    values: tuple[int, ...]
    keyed: bool


@dataclass
class Gathered:
    """One attribute of a node type, or the target of a functional edge, with all its sources."""

    name: str
    sources: list[Source] = field(default_factory=list)


@dataclass
class NodePlan:
    """One node type. ``occurrences``: (root, key values) wherever its keys stand. A shared value
    that an entity determines is a node where it is the one that holds: ``held`` by edges to it."""

    name: str
    key: tuple[str, ...]
    shared: bool = False
    occurrences: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    held: list[FunctionalPlan] = field(default_factory=list)
    attributes: dict[str, Gathered] = field(default_factory=dict)
    multi_valued: list[EventPlan] = field(default_factory=list)


@dataclass
class FunctionalPlan:
    """One functional edge type: the source determines the target. ``mutual``: and is determined by
    it."""

    source: str
    role: str
    target: str
    gathered: Gathered
    mutual: bool = False

    @property
    def name(self) -> str:
        return f"{self.source}--{self.role}--{self.target}"


@dataclass
class EventPlan:
    """One event type: its participants, its attributes, and the pair edges it makes."""

    name: str
    root: str
    participants: tuple[Occurrence, ...]
    attributes: dict[str, int]
    time: int | None
    pairs: list[tuple[str, Occurrence, Occurrence]] = field(default_factory=list)
    """(role, source, target) of each pair edge type."""


@dataclass
class Plan:
    """Everything that the construction needs to know."""

    schema: SchemaFile
    columns: Mapping[str, tuple[str, ...]]
    roots: dict[str, Root]
    nodes: dict[str, NodePlan]
    functional: list[FunctionalPlan]
    events: list[EventPlan]
    warnings: list[str]

    def spec(self, owner: str, attribute: str) -> AttributeSpec:
        return self.schema.attributes.get(f"{owner}.{attribute}", AttributeSpec())

    def refers(self, node: str, place: int) -> bool:
        """Whether the column at a place of a node type's key is a part of another node's key, to
        which a functional edge leads."""
        return any(
            source.holder[place] in source.values
            for edge in self.functional
            if edge.source == node
            for source in edge.gathered.sources
        )


def known_by(plan: Plan, node: str) -> str | None:
    """The attribute of a node type that says when rows of its home became known, where one does."""
    entity = plan.schema.entities.get(node)
    root = None if entity is None or entity.table is None else plan.roots.get(entity.table)
    time = None if root is None else plan.schema.tables[root.table].time
    if root is None or time is None:
        return None
    told = root.table, (root.row.values[0, time],)
    for name, gathered in plan.nodes[node].attributes.items():
        if any((source.root, source.values) == told for source in gathered.sources):
            return name
    return None


def make_plan(
    schema: SchemaFile, columns: Mapping[str, tuple[str, ...]], file_name: str = "schema file"
) -> Plan:
    """Plan the hop normal form. Raises `InvalidInput` with every problem found.

    ``columns``: the names of each table's columns, in any order; the plan does not depend on it.
    """
    columns = {name: tuple(sorted(columns[name])) for name in sorted(schema.tables)}
    cycles = folded_cycles(schema)
    if cycles:
        raise InvalidInput(file_name, [_cycle_problem(cycle) for cycle in cycles])
    _refuse_crowds(schema, file_name)
    problems: list[Problem] = []
    plan = Plan(schema, columns, {}, _declared_nodes(schema), [], [], [])
    referenced = {
        reference.table
        for table in schema.tables
        for reference, _ in references(schema, table)
        if reference.table != table
    }
    for table in sorted(schema.tables):
        row, wrong = universal_row(schema, columns, table)
        homes = home_values(schema, row)
        problems += wrong + homes.problems
        unreferenced = schema.home(table) is None and table in referenced
        if homes.occurrences:
            declared = schema.tables[table]
            plan.roots[table] = Root(
                table, unreferenced, row, homes, declared.key or (), declared.unique
            )
    for root in plan.roots.values():
        _gather(plan, root, problems)
    for root in plan.roots.values():
        if root.is_event:
            _add_event(plan, root, problems)
    _check_attributes(plan, problems)
    _check_names(plan, problems)
    _warn(plan)
    if problems:
        raise InvalidInput(file_name, list(dict.fromkeys(problems)))
    return plan


def _cycle_problem(cycle: list[str]) -> Problem:
    path = " → ".join(cycle)
    what = (
        f"'{cycle[0]}' refers to itself and is no entity: {path}."
        if len(cycle) == 2
        else f"these tables refer to each other in a cycle, and none is an entity: {path}."
    )
    return Problem(f"tables.{cycle[0]}.references", what, f"Declare '{cycle[0]}' an entity.")


def _refuse_crowds(schema: SchemaFile, file_name: str) -> None:
    found = crowded(schema)
    if found is not None:
        table, places, folded = found
        what = f"a row of '{table}' leads to {places:,} places along its references."
        hint = f"Declare '{folded}' an entity: paths stop there."
        raise InvalidInput(file_name, [Problem(f"tables.{table}.references", what, hint)])


def _declared_nodes(schema: SchemaFile) -> dict[str, NodePlan]:
    nodes = {}
    for name, entity in schema.entities.items():
        if entity.table is None:
            key = entity.key or ()
        else:
            home = schema.tables[entity.table]
            key = tuple(
                base_name(home, k)[1] or k if k in home.columns else k
                for k in entity.key or home.key or ()
            )
        nodes[name] = NodePlan(name, tuple(key))
    return nodes


def _gather(plan: Plan, root: Root, problems: list[Problem]) -> None:
    """Add what a root's rows say of each entity: keys, attributes, functional targets."""
    homes = root.homes

    def source(holder: Occurrence, values: tuple[int, ...]) -> Source:
        return Source(root.table, holder.key, values, root.keeps_one_row_for(holder.key))

    targets: dict[tuple[str, Occurrence], Occurrence] = {}
    for occurrence in homes.occurrences:
        node = plan.nodes.setdefault(
            occurrence.entity, NodePlan(occurrence.entity, ("value",), shared=occurrence.shared)
        )
        holders = homes.parents[occurrence]
        if not (occurrence.shared and holders):
            node.occurrences.append((root.table, occurrence.key))
        for holder in holders:
            mutual = occurrence in homes.parents.get(holder, [])
            if mutual and (holder.entity, holder.role) > (occurrence.entity, occurrence.role):
                continue  # they determine each other: written once, in one direction
            role = occurrence.role.removeprefix(holder.prefix) or occurrence.role
            edge = _functional(plan, holder.entity, role, node)
            edge.mutual |= mutual
            edge.gathered.sources.append(source(holder, occurrence.key))
            if targets.setdefault((edge.name, holder), occurrence) != occurrence:
                what = f"'{holder.entity}' has two of '{occurrence.entity}' in the role '{role}'."
                problems.append(_one_role(root, what))
    for value, held in homes.attributes.items():
        for holder, name in held:
            gathered = plan.nodes[holder.entity].attributes.setdefault(name, Gathered(name))
            gathered.sources.append(source(holder, (value,)))


def _functional(plan: Plan, source: str, role: str, target: NodePlan) -> FunctionalPlan:
    for edge in plan.functional:
        if (edge.source, edge.role, edge.target) == (source, role, target.name):
            return edge
    edge = FunctionalPlan(source, role, target.name, Gathered(role))
    plan.functional.append(edge)
    if target.shared:
        target.held.append(edge)
    return edge


def _add_event(plan: Plan, root: Root, problems: list[Problem]) -> None:
    schema, row, homes = plan.schema, root.row, root.homes
    time = schema.tables[root.table].time
    event = EventPlan(
        name=root.table,
        root=root.table,
        participants=tuple(homes.participants),
        attributes={name: value for value, name in sorted(homes.event_values.items())},
        time=row.values[0, time] if time is not None else None,
    )
    plan.events.append(event)
    if len(event.participants) == 1:
        plan.nodes[event.participants[0].entity].multi_valued.append(event)
        return
    plain = all(o.role in (o.entity, o.entity.rpartition(".")[2]) for o in event.participants)
    ends = [tuple(sorted((a.entity, b.entity))) for a, b in combinations(event.participants, 2)]
    for first, second in combinations(event.participants, 2):
        alone = ends.count(tuple(sorted((first.entity, second.entity)))) == 1
        role = event.name if plain and alone else f"{event.name}.{first.role}.{second.role}"
        if (first.entity, first.role) == (second.entity, second.role):
            what = f"'{first.entity}' takes part twice in the role '{first.role}'."
            problems.append(_one_role(root, what))
        event.pairs.append((role, first, second))


def _one_role(root: Root, what: str) -> Problem:
    hint = "Tell the two references apart by a 'prefix'."
    return Problem(f"tables.{root.table}.references", what, hint)


def attribute_owners(plan: Plan) -> dict[str, set[str]]:
    """Every attribute that can be named ``owner.attribute``, by owner, and its key."""
    known = values_of(plan)
    for node in plan.nodes.values():
        if not node.shared:
            known.setdefault(node.name, set()).update(node.key)
    return known


def values_of(plan: Plan) -> dict[str, set[str]]:
    """Every attribute that has values to learn or to show, by owner: without keys."""
    known: dict[str, set[str]] = {}
    for node in plan.nodes.values():
        if node.shared:
            owner, _, name = node.name.rpartition(".")
            known.setdefault(owner, set()).add(name)
        else:
            known.setdefault(node.name, set()).update(node.attributes)
    for event in plan.events:
        known.setdefault(event.name, set()).update(event.attributes)
    return known


def _check_attributes(plan: Plan, problems: list[Problem]) -> None:
    known = attribute_owners(plan)
    everything = [f"{owner}.{name}" for owner, names in known.items() for name in names]
    for name in plan.schema.attributes:
        owner, _, attribute = name.rpartition(".")
        if name not in everything and owner:
            where = [o for o, names in known.items() if attribute in names]
            hint = (
                f"'{attribute}' belongs to '{where[0]}': write '{where[0]}.{attribute}'."
                if where and owner not in where
                else did_you_mean(name, everything)
            )
            problems.append(Problem(f"attributes.{name}", "there is no such attribute.", hint))


RESERVED_KEYS = {"node_id", "embedding", "source", "confidence", "degree"}
"""Columns of the embedding dataset, beside which the key's columns stand."""
RESERVED_ATTRIBUTES = {"node_id"}
RESERVED_FACTS = {"src", "dst", "count"}


def _check_names(plan: Plan, problems: list[Problem]) -> None:
    seen: set[str] = set()
    edges = [
        *((e.source, e.role, e.target) for e in plan.functional),
        *((a.entity, role, b.entity) for e in plan.events for role, a, b in e.pairs),
    ]
    for name in dict.fromkeys([*plan.nodes, *(part for edge in edges for part in edge)]):
        problem = name_problem("tables", name)
        problems += [problem] if problem is not None else []
    for edge in edges:
        name = "--".join(edge)
        if name in seen:
            problems.append(
                Problem(
                    "tables",
                    f"two edge types would be named {name}.",
                    "Give one of the references a 'prefix', or rename the table in the file.",
                )
            )
        seen.add(name)
    for event in plan.events:
        for name in sorted(RESERVED_FACTS & set(event.attributes)):
            problems.append(_reserved(f"tables.{event.root}", name))
        timed = event.time is not None and event.time not in event.attributes.values()
        if timed and "time" in event.attributes:
            problems.append(
                Problem(
                    f"tables.{event.root}",
                    "'time' is an attribute, and what the time of the event is called.",
                    "Map the column to another name under 'columns'.",
                )
            )
    for node in plan.nodes.values():
        taken = RESERVED_KEYS & set(node.key) | RESERVED_ATTRIBUTES & set(node.attributes)
        problems += [_reserved(f"entities.{node.name}", name) for name in sorted(taken)]
        twice = set(node.key) & set(node.attributes)
        for name in sorted(twice):
            problems.append(
                Problem(
                    f"entities.{node.name}",
                    f"'{name}' is both its key and an attribute of it.",
                    "Map one of the two columns to another name under 'columns'.",
                )
            )


def _reserved(where: str, name: str) -> Problem:
    return Problem(
        where,
        f"'{name}' is a column that the datasets need for themselves.",
        "Map it to another name under 'columns'.",
    )


def _warn(plan: Plan) -> None:
    schema = plan.schema
    for table in sorted(schema.tables):
        if schema.home(table) is not None:
            continue
        children = sorted(
            {
                other
                for other in schema.tables
                for reference, partner in references(schema, other)
                if reference.table == table
                and not partner
                and other != table
                # A 1:1 part is one table with what it is a part of.
                and (
                    set(reference.columns) != set(schema.tables[other].key or ())
                    or schema.home(other) is not None
                )
            }
        )
        root = plan.roots.get(table)
        if len(children) > 1 and root is not None and root.homes.participants:
            plan.warnings.append(
                f"{' and '.join(children)} refer to '{table}', which is no entity: which of their "
                f"rows share one row of it is not in the graph. To keep that, declare '{table}' "
                "an entity."
            )
    for table in sorted(set(schema.tables) - set(plan.roots)):
        reached = any(
            visit.table == table for root in plan.roots.values() for visit in root.row.visits
        )
        if not reached:
            plan.warnings.append(
                f"'{table}' leads to no entity, so nothing of it is in the graph. Declare an "
                "entity in it, or a reference to one."
            )
    for name, node in plan.nodes.items():
        if not node.occurrences and not node.held:
            plan.warnings.append(
                f"entity '{name}' occurs in no table: no column is named "
                f"{' or '.join(repr(k) for k in node.key)}."
            )
