"""Random rewrites to try on a database, and which of them leave the schema file's word as it was.

A rewrite that is lossless for the data may still say more, or less, than the schema file: a lookup
table keyed by a store's number declares that a store determines the lookup's columns.
`says_the_same` compares what each entity determines before and after.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import pyarrow as pa

from isohop.errors import InvalidInput
from isohop.hops.plan import make_plan
from isohop.hops.schema_file import SchemaFile
from isohop.hops.universal_row import base_name
from isohop.relational.files import HIDDEN
from isohop.relational.integrity import CleanTable
from isohop.relational.keys import surrogate
from isohop.relational.profile import profile
from isohop.relational.refactor import (
    ChainToStar,
    Database,
    ExtractLookup,
    HashKeys,
    InlineLookup,
    JunctionToReference,
    NaturalKey,
    NotLossless,
    ReferenceToJunction,
    RenameColumn,
    RenameTable,
    Renumber,
    Reorder,
    Rewrite,
    SplitRows,
    StarToChain,
    UniteRows,
    VerticalMerge,
    VerticalSplit,
)

_LETTERS = "abcefgijklnorstuvxz"  # without those that stand for parts and spans of time
Proposal = Callable[[Database, random.Random], Rewrite | None]


def propose(database: Database, draw: random.Random) -> Rewrite:
    """A rewrite of some kind, each as likely; whether it is lossless it must find out itself."""
    while True:
        rewrite = draw.choice(_KINDS)(database, draw)
        if rewrite is not None:
            return rewrite


def says_the_same(schema: SchemaFile, before: Database, rewrite: Rewrite, after: Database) -> bool:
    """Whether keys and constraints let each entity determine what it did, and no more.

    Only of the rewrites that make or drop a key of facts: of all others it holds by construction,
    and to ask would hide their faults.
    """
    if not isinstance(rewrite, ExtractLookup | InlineLookup | NaturalKey | StarToChain):
        return True
    try:
        told, tells = _determined(schema, before), _determined(schema, after)
    except InvalidInput:
        return True  # No schema is left to compare: a build tells why.
    return all(tells[root] == told[root] for root in told.keys() & tells.keys())


def require_recognisable(
    schema: SchemaFile, database: Database, rewrite: Rewrite, after: Database
) -> None:
    """Refuse what no reader of keys and values could see through, told nothing else.

    A natural key that looks like a counter is taken for a surrogate; to a table in parts no
    reference can be declared; an entity without a table is known by the name of its column, to
    which a role may be put before.
    """
    for name in sorted(c for e in schema.entities.values() if e.table is None for c in e.key or ()):
        before, now = _otherwise_called(database, name), _otherwise_called(after, name)
        if now - before or not any(name in _columns(after, table) for table in after.tables):
            raise NotLossless(f"an entity without a table is known by the name '{name}'")
    if isinstance(rewrite, SplitRows) and database.referrers(rewrite.table):
        raise NotLossless(f"no reference to the parts of '{rewrite.table}' can be declared")
    if isinstance(rewrite, ExtractLookup | NaturalKey):
        table = rewrite.into if isinstance(rewrite, ExtractLookup) else rewrite.table
        declared, relation = after.declared(table), after.relation(table)
        if declared.surrogate or len(declared.key or ()) != 1:
            return
        (key,) = declared.key or ()
        types = {"string": pa.string(), "bigint": pa.int64()}
        type_ = types.get(dict(relation.frame.dtypes)[relation.columns[key]], pa.null())
        names = {key: relation.columns[key]}
        column = profile(CleanTable(table, relation.frame, names, {key: type_}, 0)).columns[key]
        if surrogate(column)[0]:
            raise NotLossless(f"{key} of '{table}' would be taken for a surrogate key")


def free_name(database: Database, stem: str) -> str:
    """A name that is free and that a folder source sees. No number is in it: that would make it
    look like a part of a table."""
    stem = stem.lstrip("".join(HIDDEN)) or "table"
    taken = {name.lower() for name in [*database.tables, *database.relations]}
    letters = ("".join(pair) for pair in product(("", *_LETTERS), _LETTERS))
    return next(f"{stem}_{n}" for n in letters if f"{stem}_{n}".lower() not in taken)


def columns_called(database: Database, name: str) -> Iterator[tuple[str, str, str]]:
    """(table, column, logical name) of the columns of that logical name, in whatever role."""
    for table, declared in database.tables.items():
        for column in _columns(database, table):
            _, called = base_name(declared, column)
            if called is not None and (called == name or called.endswith(f"_{name}")):
                yield table, column, called


Determined = dict[str, dict[tuple[str, str], frozenset[str]]]


def _determined(schema: SchemaFile, database: Database) -> Determined:
    columns = {name: _columns(database, name) for name in database.tables}
    plan = make_plan(schema.model_copy(update={"tables": dict(database.tables)}), columns)
    return {
        name: {
            (o.entity, o.role): frozenset(
                root.row.names[value]
                for value in root.row.closure(frozenset(o.key))
                if value in root.row.names
            )
            for o in root.homes.occurrences
        }
        for name, root in plan.roots.items()
    }


def _otherwise_called(database: Database, name: str) -> set[tuple[str, str]]:
    """Columns whose logical name is this one, in whatever role, while their own is another."""
    found = columns_called(database, name)
    return {(table, column) for table, column, called in found if called != column}


def _columns(database: Database, table: str) -> tuple[str, ...]:
    return tuple(database.relations[database.parts(table)[0]].columns)


def _table(
    database: Database, draw: random.Random, fit: Callable[[str], bool] = lambda _: True
) -> str | None:
    """A table that lies in one piece and fits."""
    found = [n for n in sorted(database.tables) if len(database.parts(n)) == 1 and fit(n)]
    return draw.choice(found) if found else None


def _units(database: Database, table: str) -> list[tuple[str, ...]]:
    """Columns that can move, those of one reference or constraint together."""
    declared = database.declared(table)
    tied = [*(r.columns for r in declared.references or ()), *declared.unique]
    fixed = {*(declared.key or ()), *([declared.time] if declared.time else [])}
    alone = set(_columns(database, table)) - fixed - {c for unit in tied for c in unit}
    units = [unit for unit in tied if not set(unit) & fixed] + [(c,) for c in alone]
    return sorted(dict.fromkeys(units))


def _some(units: Sequence[tuple[str, ...]], draw: random.Random, most: int) -> tuple[str, ...]:
    chosen = draw.sample(units, draw.randint(1, min(most, len(units))))
    return tuple(dict.fromkeys(column for unit in chosen for column in unit))


def _split(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(database, draw, lambda n: bool(database.declared(n).key and _units(database, n)))
    if table is None:
        return None
    columns = _some(_units(database, table), draw, 4)
    return VerticalSplit(table, columns, free_name(database, f"{table}_part"), draw.random() < 0.3)


def _parts_of(database: Database) -> list[tuple[str, str]]:
    """(table, part): tables whose key refers to another table's key."""
    return sorted(
        (reference.table, name)
        for name, table in database.tables.items()
        for reference in table.references or ()
        if table.key and set(reference.columns) == set(table.key) and name not in database.homes
    )


def _merge(database: Database, draw: random.Random) -> Rewrite | None:
    found = _parts_of(database)
    return VerticalMerge(*draw.choice(found)) if found else None


def _junction(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(
        database,
        draw,
        lambda n: bool(database.declared(n).references and database.declared(n).key),
    )
    if table is None:
        return None
    index = draw.randrange(len(database.declared(table).references or ()))
    return ReferenceToJunction(table, index, free_name(database, f"{table}_link"))


def _from_junction(database: Database, draw: random.Random) -> Rewrite | None:
    found = _parts_of(database)
    return JunctionToReference(*draw.choice(found)) if found else None


def _extract(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(database, draw, lambda n: bool(_units(database, n)))
    if table is None:
        return None
    columns = _some(_units(database, table), draw, 3)
    into = free_name(database, f"{table}_lookup")
    return ExtractLookup(table, columns, into, (), f"{into}_id", draw.randrange(1000))


def _extract_natural(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(database, draw, lambda n: len(_units(database, n)) > 1)
    if table is None:
        return None
    first, *rest = draw.sample(
        _units(database, table), draw.choice((2, 2, 3)) if len(_units(database, table)) > 2 else 2
    )
    columns = tuple(dict.fromkeys((*first, *(c for unit in rest for c in unit))))
    return ExtractLookup(table, columns, free_name(database, f"{table}_lookup"), first)


def _inline(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(
        database, draw, lambda n: n not in database.homes and bool(database.referrers(n))
    )
    return InlineLookup(table) if table else None


def _to_star(database: Database, draw: random.Random) -> Rewrite | None:
    def fit(name: str) -> bool:
        referred = bool(database.referrers(name)) and name not in database.homes
        return referred and bool(database.declared(name).references)

    table = _table(database, draw, fit)
    if table is None:
        return None
    return ChainToStar(table, draw.randrange(len(database.declared(table).references or ())))


def _to_chain(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(database, draw, lambda n: len(database.declared(n).references or ()) > 1)
    if table is None:
        return None
    via, reference = draw.sample(range(len(database.declared(table).references or ())), 2)
    return StarToChain(table, via, reference)


def _with_surrogate(database: Database, draw: random.Random) -> str | None:
    return _table(
        database, draw, lambda n: database.declared(n).surrogate and n not in database.homes
    )


def _renumber(database: Database, draw: random.Random) -> Rewrite | None:
    table = _with_surrogate(database, draw)
    return Renumber(table, draw.randrange(1000)) if table else None


def _hash(database: Database, draw: random.Random) -> Rewrite | None:
    table = _with_surrogate(database, draw)
    return HashKeys(table, draw.randrange(1000)) if table else None


def _natural(database: Database, draw: random.Random) -> Rewrite | None:
    table = _with_surrogate(database, draw)
    if table is None or not _units(database, table):
        return None
    return NaturalKey(table, _some(_units(database, table), draw, 2))


def _split_rows(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(database, draw)
    return SplitRows(table, draw.choice((2, 3)), draw.randrange(1000)) if table else None


def _unite(database: Database, draw: random.Random) -> Rewrite | None:
    found = [name for name in sorted(database.tables) if len(database.parts(name)) > 1]
    if not found:
        return None
    table = draw.choice(found)
    return UniteRows(table, free_name(database, table))


def _rename_table(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(database, draw)
    return RenameTable(table, free_name(database, "renamed")) if table else None


def _rename_column(database: Database, draw: random.Random) -> Rewrite | None:
    table = _table(database, draw)
    if table is None:
        return None
    columns = _columns(database, table)
    taken = {column.lower() for column in columns}
    name = next(f"renamed_{n}" for n in range(len(taken) + 1) if f"renamed_{n}" not in taken)
    return RenameColumn(table, draw.choice(sorted(columns)), name)


def _reorder(database: Database, draw: random.Random) -> Rewrite | None:
    return Reorder(draw.choice(sorted(database.tables)), draw.randrange(1000))


_KINDS: tuple[Proposal, ...] = (
    _split,
    _merge,
    _junction,
    _from_junction,
    _extract,
    _extract_natural,
    _inline,
    _inline,
    _to_star,
    _to_chain,
    _renumber,
    _hash,
    _natural,
    _split_rows,
    _unite,
    _rename_table,
    _rename_column,
    _reorder,
)
