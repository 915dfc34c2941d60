"""What names of tables and columns say: in snake_case, camelCase, or run together."""

from __future__ import annotations

import re

# fmt: off
GENERIC = frozenset((
    "id", "key", "code", "no", "nr", "num", "number", "pk", "fk", "sk", "uuid", "guid",
    "ref", "name", "idx", "index",
))
# fmt: on
"""Endings that say that a column identifies something, and not what."""
# fmt: off
ITSELF = frozenset((
    "parent", "manager", "boss", "supervisor", "reportsto", "reports", "predecessor",
    "successor", "previous", "prev", "next", "master", "root", "original", "superior",
    "mgr",
))
# fmt: on
"""What a column is called that refers to another row of its own table."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")
_DECORATION = ("tbl", "dim", "fact", "fct", "stg", "ref", "lkp", "lookup", "t", "d", "f")


def words(name: str) -> list[str]:
    """``CustomerID`` and ``customer_id`` → [customer, id]; lower case."""
    return [word.lower() for word in _WORDS.findall(name)]


def singular(word: str) -> str:
    """``cities`` → ``city``, ``boxes`` → ``box``, ``orders`` → ``order``."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def stem(table: str) -> str:
    """A table's name as one word in the singular, without what warehouses put before it."""
    held = words(table)
    while len(held) > 1 and held[0] in _DECORATION:
        held = held[1:]
    if len(held) > 1 and held[-1] in ("dim", "fact", "table", "lookup"):
        held = held[:-1]
    return "".join([*held[:-1], singular(held[-1])]) if held else table.lower()


def core(column: str) -> tuple[str, bool]:
    """A column's name without its generic ending, as one word, and whether it had one."""
    held = words(column)
    if len(held) > 1 and held[-1] in GENERIC:
        return "".join([*held[:-2], singular(held[-2])]), True
    if len(held) == 1:
        for ending in ("id", "key", "code", "no", "sk", "uuid"):
            if held[0].endswith(ending) and len(held[0]) > len(ending) + 2:
                return singular(held[0].removesuffix(ending)), True
    return "".join([*held[:-1], singular(held[-1])]) if held else column.lower(), False


def likeness(column: str, table: str, target: str, key: str) -> int:
    """How far names say that ``column`` of ``table`` holds ``key`` of ``target``: 0 to 4.

    4: it has the key's name and the table's (``customer_id`` → customers.customer_id or .id);
    3: one of the two; 2: with a role before it (``ship_city_id`` → cities); 1: an abbreviation, or
    a word for another row of the same table (``reports_to``).
    """
    joined, of_key = "".join(words(column)), "".join(words(key))
    inner, ended = core(column)
    name = stem(target)
    special = of_key not in GENERIC and len(of_key) > 2
    same_key, same_name = special and joined == of_key, inner == name
    if same_name and (ended or same_key):
        return 4
    if same_key or same_name:
        return 3
    with_role = special and len(of_key) > 3 and joined.endswith(of_key)
    if with_role or (len(name) > 2 and inner.endswith(name)):
        return 2
    last = words(column)[: -1 if ended and len(words(column)) > 1 else None]
    if table == target and ({"".join(last), inner} | set(last)) & ITSELF:
        return 1
    if ended and len(inner) > 2 and name.startswith(inner):
        return 1
    return 0
