"""Which columns may identify a table's rows, and whether a key means anything: by names and by the
profiles of values alone, so nothing is read."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import combinations
from math import prod

import pyarrow as pa

from isohop.relational import naming
from isohop.relational.profile import NEARLY, ColumnProfile, TableProfile, is_text

SUPPORT = 20
"""So many rows, or distinct values, make it unlikely that something holds by accident."""
OWN_KEY = 5
"""As `_key_name` tells it: the name is the key's of its table."""

_SEQUENCE = naming.wordset(
    "seq sequence line position pos item number num no rank index idx version ordinal step round "
    "lap stop inning year season month day week hour date level part chapter order slot"
)
_CALLED = naming.wordset("name title label code symbol abbreviation abbr short slug isbn email")


def not_quite_keys(table: TableProfile, names: naming.TableNames) -> list[str]:
    """Columns that are called the table's key, whose values do not all differ."""
    return [
        column.name
        for column in table.columns.values()
        if not column.unique and _key_name(table.name, column, names) == OWN_KEY
    ]


def nearest_key(table: TableProfile, names: naming.TableNames) -> str | None:
    """The column that comes nearest to a key of a table that has none; None where none can be."""
    found = [
        (column.distinct >= NEARLY * table.rows, _key_name(table.name, column, names), column)
        for column in table.columns.values()
        if column.integers or column.whole or (is_text(column.type) and column.mean_length <= 64)
    ]
    nearest = max(found, key=lambda one: (*one[:2], one[2].distinct, one[2].name), default=None)
    return nearest[2].name if nearest else None


def single_key(
    table: TableProfile,
    names: naming.TableNames,
    shared: Set[tuple[str, ...]],
    referred: Set[str] = frozenset(),
) -> tuple[str, str] | None:
    """The column that is a table's key, and why; None when there is none.

    Of several the one with the best name, then UUIDs and hashes, whole numbers, codes, the shortest
    texts, and the first in the alphabet. ``shared``: names that other tables use as well.
    ``referred``: columns whose whole numbers others say again and again.
    """
    found = []
    named = bool(not_quite_keys(table, names))
    for column in table.columns.values():
        if not column.unique or (is_text(column.type) and column.mean_length > 64):
            continue
        fit = _key_name(table.name, column, names)
        known = table.rows >= SUPPORT or naming.words(column.name) in shared
        if not fit and known and column.code and not column.integers and column.mean_length <= 16:
            fit = 2  # a code identifies as well as a name does
        if not fit and column.name in referred:
            fit = 2
        if not _worth(table, column, fit) or (named and fit <= 2):
            continue
        kind = 0 if column.opaque else 1 if column.integers else 2 if column.code else 3
        found.append((-fit, kind, column.mean_length, column.name))
    if not found:
        return None
    fit, _, _, name = min(found)
    why = f"{table.rows} distinct values in {table.rows} rows"
    if fit < -2:
        why += ", and the name says that it identifies"
    if len(found) > 1:
        why += f"; {len(found) - 1} other columns have no value twice either"
    return name, why


def repeated(column: ColumnProfile, other: ColumnProfile) -> bool:
    """Whether another column says whole numbers of this one again and again, and no others."""
    low, high = column.minimum, column.maximum
    if not column.integers or low is None or high is None or other.unique:
        return False
    if other.minimum is None or other.maximum is None:
        return False
    return low <= other.minimum and other.maximum <= high


def composite_keys(
    table: TableProfile, refers: Set[tuple[str, ...]], others: Sequence[TableProfile]
) -> list[tuple[str, ...]]:
    """The sets of columns that may be a table's key, to be tested: the smallest first, of these
    what another table holds under the same names and may refer by.

    ``refers``: the columns of its references; ``others``: all other tables.
    """
    ranks: dict[str, int] = {}
    for column in table.columns.values():
        if column.nulls or column.distinct < 2 or pa.types.is_nested(column.type):
            continue
        own = set(naming.words(column.name))
        if (column.name,) in refers:
            ranks[column.name] = 0
        elif pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            continue
        elif naming.is_identifier(column.name):
            ranks[column.name] = 1
        elif pa.types.is_date(column.type) or (column.integers and own & _SEQUENCE):
            ranks[column.name] = 2
        elif column.code or pa.types.is_timestamp(column.type):
            ranks[column.name] = 3
    if table.rows < SUPPORT:
        ranks = {column: rank for column, rank in ranks.items() if rank <= 1}
    chosen = sorted(ranks, key=lambda column: (ranks[column], column))[:6]
    sets = []
    for size in (2, 3, 4):
        for columns in combinations(sorted(chosen), size):
            # Each estimate may be short by a quarter.
            most = prod(1.25 * table.columns[column].distinct for column in columns)
            if most >= table.rows:
                sets.append(columns)
    called = [{naming.words(column) for column in other.columns} for other in others]

    def order(one: tuple[str, ...]) -> tuple[int, bool, int, tuple[str, ...]]:
        ours = {naming.words(column) for column in one}
        alone = not any(ours <= theirs for theirs in called)
        return len(one), alone, sum(ranks[column] for column in one), one

    return sorted(sets, key=order)


def surrogate(column: ColumnProfile) -> tuple[bool, str]:
    """Whether a key's values mean nothing, and why; of the values' profile alone."""
    if column.opaque:
        return True, f"its values are {column.opaque}"
    if not column.integers or column.minimum is None or column.maximum is None:
        return False, "its values are no counter"
    low, high = column.minimum, column.maximum
    shown = f"{column.rows} whole numbers between {low} and {high}"
    years = low >= 1800 and high <= 2100
    dense = high - low + 1 <= 2 * column.rows
    if dense and (low in (0, 1) or (column.rows >= 100 and not years)):
        return True, f"a counter: {shown}"
    return False, f"no counter: {shown}"


def _key_name(table: str, column: ColumnProfile, names: naming.TableNames) -> int:
    """How much a name is a key's, 0 to 5."""
    own = set(naming.words(column.name))
    marked = naming.is_identifier(column.name)
    if own <= naming.IDENTIFIERS:
        return OWN_KEY
    if names.names_table(column.name, table):
        return OWN_KEY if marked else 3
    others = names.candidates(table, column.name, column.integers)
    others.pop(table, None)
    if max(others.values(), default=0) >= naming.ROLE:
        return 1
    if marked:
        return 4 if naming.words(column.name)[0] in naming.words(table) else 3
    return 2 if own & _CALLED else 0


def _worth(table: TableProfile, column: ColumnProfile, fit: int) -> bool:
    """Whether values that all differ do so for a reason."""
    if fit >= 2 or column.opaque or len(table.columns) == 1:
        return True
    if table.rows < SUPPORT:
        return False
    if column.integers and fit == 0:
        # Populations and prices may all differ; what counts rows leaves few gaps.
        return surrogate(column)[0]
    return fit == 1 or column.code
