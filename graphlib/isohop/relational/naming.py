"""What names tell: the words of a name, and which tables a column's name may mean.

One reading for all styles: ``CustomerID``, ``customer_id``, ``customerid`` and ``id-customer`` all
name a customer. Names only ever propose; the values decide (`isohop.relational.inference`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


def wordset(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


IDENTIFIERS = wordset(
    "id ids key code cd no nr num number nbr fk pk sk uuid guid ref identifier iden oid"
)
"""Words that say: this identifies something."""

BARE = IDENTIFIERS - wordset("code cd no nr num number nbr ref oid")
"""Those of them that by themselves name the row that has them, and no other."""

_PLAIN = wordset(
    "name title label type kind status date time year value text order int integer row record rec "
    "auto sys system internal global object obj entry seq sequence line item index idx unique"
)
"""Words that mean something else in every table, so that equal names tell nothing."""

_TABLE_NOISE = wordset("tbl table tb dim fact fct stg src vw data list info master")
_COUNTS = wordset("num number count total n qty quantity sum avg mean max min of per")
_OWN = wordset(
    "parent manager mgr supervisor boss reports mentor leader chief predecessor successor "
    "previous prev next superior father mother sire dam root ancestor referrer"
)
"""Roles that one row of a table has for another row of it."""

_RUN_TOGETHER = ("identifier", "uuid", "guid", "code", "key", "num", "id", "no", "nr", "fk")
_WORD = re.compile(r"[A-ZÀ-ÖØ-Þ]+(?![a-zß-öø-ÿ])|[^\W\d_]+?(?=[A-ZÀ-ÖØ-Þ]|[\W\d_]|$)|\d+")
_MONTHS = wordset(
    "jan feb mar apr may jun jul aug sep oct nov dec january february march april june july "
    "august september october november december"
)
_PARTS = wordset("p part q quarter h y year m month w week d day shard chunk")

CERTAIN, NAMED, ROLE, LOOSE, GUESS = 5, 4, 3, 2, 1
"""How well a name fits: the very key's name and its table's; either; with a role before it; with a
role after it or run together; an abbreviation, or a role within the same table."""


def words(name: str) -> tuple[str, ...]:
    """The words of a name, lower case: ``ShipCityID2`` → ship, city, id, 2."""
    text = unicodedata.normalize("NFC", name)
    return tuple(match.group().casefold() for match in _WORD.finditer(text))


def singular(word: str) -> str:
    """An English plural's singular; other words as they are."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "uses")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word


def stem_of_part(name: str) -> str | None:
    """``orders`` for ``orders_2023``, ``orders-p1`` and ``orders 2023 jan``; None for no part."""
    found = list(_WORD.finditer(name))
    last, digits = len(found), False
    while last > 1:
        word = found[last - 1].group().casefold()
        if word.isdigit():
            digits = True
        elif not (word in _MONTHS or (digits and word in _PARTS)):
            break
        last -= 1
    if not digits or last == len(found):
        return None
    return re.sub(r"[\W_]+$", "", name[: found[last].start()]) or None


def is_identifier(name: str) -> bool:
    """Whether a name says that its values identify something."""
    found = words(name)
    while len(found) > 1 and found[-1].isdigit():
        found = found[:-1]  # a second phone identifies as little as the first
    return bool(found) and (
        found[-1] in IDENTIFIERS or found[0] in {"id", "fk", "pk"} or _core(found) != found
    )


@dataclass
class TableNames:
    """Which tables a column may mean; ``keys`` has each table's single key column or None."""

    keys: Mapping[str, str | None]
    _spellings: dict[str, set[str]] = field(default_factory=dict)
    _tails: dict[str, set[str]] = field(default_factory=dict)
    _key_names: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shared = _shared_prefix([words(table) for table in self.keys])
        for table, key in sorted(self.keys.items()):
            for spelling in spellings(table, shared):
                self._spellings.setdefault(spelling, set()).add(table)
            own = words(table)
            for start in range(1, len(own)):
                for spelling in _both(own[start:]):
                    self._tails.setdefault(spelling, set()).add(table)
            if key is not None and specific(key):
                self._key_names.setdefault("".join(words(key)), set()).add(table)

    def names_table(self, column: str, table: str) -> bool:
        """Whether a column's name is the table's, with or without a word for identifier."""
        core = "".join(_core(words(column)))
        return table in self._spellings.get(core, ()) or table in self._spellings.get(
            "".join(singular(word) for word in _core(words(column))), ()
        )

    def related(self, column: str, table: str) -> bool:
        """Whether a word of the column starts a word of the table's name, or the other way."""
        pairs = [(one, other) for one in _core(words(column)) for other in words(table)]
        return any(
            min(len(one), len(other)) > 2 and (one.startswith(other) or other.startswith(one))
            for one, other in pairs
        )

    def candidates(self, table: str, column: str, integers: bool) -> dict[str, int]:
        """Tables that ``table.column`` may refer to, with how well the name fits."""
        found: dict[str, int] = {}

        def add(tables: Iterable[str], fit: int) -> None:
            for one in tables:
                found[one] = max(found.get(one, 0), fit)

        own = words(column)
        core = _core(own)
        marked = core != own
        whole = "".join(own)
        same = self._key_names.get(whole, set())
        add(same if len(same) == 1 else (t for t in same if self.related(column, t)), NAMED)
        for start in range(1, len(own)):
            add(self._key_names.get("".join(own[start:]), ()), ROLE)
        for start in range(len(core)):
            for stop in range(len(core), start, -1):
                spelled = "".join(core[start:stop])
                fit = NAMED if stop - start == len(core) else ROLE if stop == len(core) else LOOSE
                if fit == LOOSE and not marked:
                    continue
                if integers and not marked and (_COUNTS & set(own) or _plural(core[stop - 1])):
                    continue
                if integers and not marked and fit < NAMED and core[stop - 1] in _PLAIN:
                    continue  # by a `sort_order` of whole numbers rows are sorted
                add(self._spellings.get(spelled, ()), fit)
                if marked or not integers:
                    add(self._tails.get(spelled, ()), min(fit, ROLE) - 1)
        if marked:
            joined = "".join(core)
            for start in range(1, len(joined) - 3):
                add(self._spellings.get(joined[start:], ()), LOOSE)
            if not found and len(joined) >= 3:
                for spelling, tables in self._spellings.items():
                    if spelling.startswith(joined):
                        add(tables, GUESS)
        for start in range(1, len(whole) - 4):
            add(self._key_names.get(whole[start:], ()), LOOSE)
        for one, fit in found.items():
            if fit == NAMED and one in self._key_names.get(whole, ()):
                found[one] = CERTAIN if self.names_table(column, one) else NAMED
        if _OWN & set(own) and not any(fit >= NAMED for fit in found.values()):
            add([table], GUESS)
        return found


def specific(name: str) -> bool:
    """Whether a key's name tells which key it is: ``customer_id`` does, ``id`` does not."""
    return any(
        word not in IDENTIFIERS and word not in _PLAIN and not word.isdigit()
        for word in words(name)
    )


def spellings(table: str, shared: int = 0) -> set[str]:
    """How a table may be called: run together, in the singular, without what says nothing."""
    own = words(table)
    found = _both(own)
    for left in (own[shared:], tuple(word for word in own if word not in _TABLE_NOISE)):
        if left and len("".join(left)) > 2:
            found |= _both(left)
    return found - {""}


def _both(own: Sequence[str]) -> set[str]:
    if not own:
        return set()
    last = singular(own[-1])
    each = "".join(singular(word) for word in own)
    return {"".join(own), "".join([*own[:-1], last]), each}


def _core(own: tuple[str, ...]) -> tuple[str, ...]:
    """Without the words for identifier, at either end or run together with the last one."""
    core = own
    while len(core) > 1 and (core[-1] in IDENTIFIERS or core[-1].isdigit()):
        core = core[:-1]
    if len(core) > 1 and core[0] in {"id", "fk", "pk"}:
        core = core[1:]
    if core == own and core:
        for ending in _RUN_TOGETHER:
            if core[-1].endswith(ending) and len(core[-1]) >= len(ending) + 3:
                return (*core[:-1], core[-1][: -len(ending)])
    return core


def _plural(word: str) -> bool:
    return singular(word) != word


def _shared_prefix(names: Sequence[Sequence[str]]) -> int:
    """How many first words all tables have in common."""
    if len(names) < 3:
        return 0
    count = 0
    while all(len(name) > count + 1 and name[count] == names[0][count] for name in names):
        count += 1
    return count
