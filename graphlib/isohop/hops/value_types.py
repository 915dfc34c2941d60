"""Value types: what stands in several tables has one type, whatever each table's column has.

A column without values lands as text, and a number may be whole in one table and not in another.
Engines unite such columns each in its own way, so they are cast before, to what holds all values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from isohop.errors import Problem
from isohop.hops.plan import NodePlan, Plan
from isohop.relational.database import type_family
from isohop.relational.integrity import CleanTable

Value = tuple[str, int]
"""(root, value) of a universal row."""


@dataclass(frozen=True)
class ValueType:
    """A type as Arrow has it, and as the engine calls it."""

    arrow: pa.DataType
    engine: str


@dataclass(frozen=True)
class _Column:
    table: CleanTable
    name: str
    type: ValueType

    @property
    def place(self) -> str:
        return f"{self.table.name}.{self.name}"

    @property
    def empty(self) -> bool:
        return self.name in self.table.all_null


def value_types(
    plan: Plan, clean: Mapping[str, CleanTable]
) -> tuple[dict[Value, ValueType], list[Problem]]:
    """The type of every value that is united with others; problems where no type holds them all."""
    engine = {name: dict(table.frame.dtypes) for name, table in clean.items()}

    def column(value: Value) -> _Column:
        row = plan.roots[value[0]].row
        visit, name = row.source[value[1]]
        table = clean[row.visits[visit].table]
        type_ = ValueType(table.types[name], engine[table.name][table.names[name]])
        return _Column(table, name, type_)

    places = [place for node in plan.nodes.values() for place in _places(node)]
    keys = {(root, value) for root, values in places for value in values}
    types: dict[Value, ValueType] = {}
    problems: list[Problem] = []
    for name, values in _united(plan):
        columns = [column(value) for value in values]
        telling = [c for c in columns if not c.empty]
        # Where none has values, any type does; text is what a file says that knows no better.
        typed = [c for c in columns if not pa.types.is_string(c.type.arrow)] or columns
        common = _common([c.type for c in telling or typed[:1]])
        if common is None:
            first = telling[0]
            other = next(c for c in telling if _common([first.type, c.type]) is None)
            problems.append(
                Problem(
                    name,
                    f"{first.place} is {first.type.arrow} and {other.place} is "
                    f"{other.type.arrow}, and both are '{name}'.",
                    "For CSV and JSON, say the same type for both under 'types:'; else mend the "
                    "source, or map one of them to another name under 'columns'.",
                )
            )
            continue
        types.update(dict.fromkeys(values, common))
        if pa.types.is_floating(common.arrow) and not keys.isdisjoint(values):
            problems += _inexact(name, telling)
    return types, problems


def _inexact(name: str, columns: Sequence[_Column]) -> list[Problem]:
    """Keys that no double is, where all are to be doubles: two of them would be one node."""
    from pyspark.sql import functions as F

    problems = []
    exact = {c.place: c for c in columns if not pa.types.is_floating(c.type.arrow)}
    for column in exact.values():
        other = next(c for c in columns if c.type != column.type)
        given = F.col(column.table.names[column.name])
        kept = given.cast("double").try_cast(column.type.engine)
        lost = column.table.frame.where(given.isNotNull() & ~given.eqNullSafe(kept))
        for row in lost.select(given).limit(1).collect():
            what = (
                f"{column.place} is {column.type.arrow} and {other.place} is {other.type.arrow}, "
                f"both are '{name}', and only a double holds both, which {row[0]} is not."
            )
            hint = "Say the same type for both under 'types:', or mend the source."
            problems.append(Problem(name, what, hint))
    return problems


def _united(plan: Plan) -> list[tuple[str, list[Value]]]:
    """The values that stand together in a key's column or an attribute, by its name."""
    groups: dict[Value, tuple[str, list[Value]]] = {}
    for name, values in _gathered(plan):
        known = [groups[value] for value in values if value in groups]
        everything = [value for _, held in known for value in held] + values
        group = known[0][0] if known else name, list(dict.fromkeys(everything))
        groups.update(dict.fromkeys(group[1], group))
    return list({id(group): group for group in groups.values()}.values())


def _gathered(plan: Plan) -> Iterator[tuple[str, list[Value]]]:
    for node in plan.nodes.values():
        places = _places(node)
        for at, key in enumerate(node.key):
            name = node.name if node.shared else f"{node.name}.{key}"
            yield name, [(root, values[at]) for root, values in places]
        for gathered in node.attributes.values():
            sources = [(s.root, s.values[0]) for s in gathered.sources]
            yield f"{node.name}.{gathered.name}", sources


def _places(node: NodePlan) -> list[tuple[str, tuple[int, ...]]]:
    """(root, key values) wherever its keys stand."""
    held = [(s.root, s.values) for edge in node.held for s in edge.gathered.sources]
    return [*node.occurrences, *held]


def _common(types: Sequence[ValueType]) -> ValueType | None:
    """The type that holds the values of all; None where there is none."""
    distinct = {type_.arrow: type_ for type_ in types}
    if len(distinct) == 1:
        return types[0]
    families = {type_family(arrow) for arrow in distinct}
    if families <= {"integer", "number"}:
        return _number(list(distinct))
    if families == {"date32[day]", "timestamp"}:
        return next(t for t in types if pa.types.is_timestamp(t.arrow))
    return None


def _number(types: Sequence[pa.DataType]) -> ValueType:
    """The decimal that holds them, or a double."""
    if not any(map(pa.types.is_floating, types)):
        decimals = [t if pa.types.is_decimal(t) else pa.decimal128(19, 0) for t in types]
        scale = max(t.scale for t in decimals)
        precision = scale + max(t.precision - t.scale for t in decimals)
        if precision <= 38:
            return ValueType(pa.decimal128(precision, scale), f"decimal({precision},{scale})")
    return ValueType(pa.float64(), "double")
