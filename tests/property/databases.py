"""Databases for property tests: small, and with everything that makes real ones hard.

Composite keys, NULLs, orphans, a self-reference, several roles to one table, chains of lookup
tables, several components, names in any script, tables without rows.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from hypothesis import strategies as st

from tests.graph.conftest import write_database

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=4)
VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXT),
    "whole": (pa.int64(), st.integers(-3, 3)),
    "real": (pa.float64(), st.sampled_from([-1.5, 0.0, 0.25, 1e9])),
    "day": (pa.date32(), st.dates(dt.date(2020, 1, 1), dt.date(2020, 1, 4))),
    "flag": (pa.bool_(), st.booleans()),
}
LETTERS = "aéßñ名я"


@dataclass
class Written:
    """A schema file's content and the rows of its tables."""

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    entities: dict[str, dict[str, Any]] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, pa.Table] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """As Parquet files with the schema file, whose path is returned."""
        raw = {"tables": self.tables, "entities": self.entities, "attributes": self.attributes}
        return write_database(folder, yaml.safe_dump(raw, allow_unicode=True), self.rows)


@st.composite
def databases(draw: st.DrawFn) -> Written:
    """Two entities, a chain of two lookup tables, two kinds of events, and a table apart."""
    made = Written()
    name = draw(st.sampled_from(LETTERS))
    country, city = f"{name}country", f"{name}city"
    person, shop, visit, note = f"{name}person", f"{name}shop", f"{name} visit", f"{name}note"
    countries = _add(draw, made, country, surrogate=True, most=3)
    cities = _add(draw, made, city, surrogate=True, most=4, refer=[(country, countries, "")])
    shops = _add(draw, made, shop, composite=True, most=3, refer=[(city, cities, "")])
    roles = [(city, cities, ""), (city, cities, "birth_"), (shop, shops, "first_")]
    refer = [role for role in roles if draw(st.booleans())]
    people = _add(draw, made, person, most=5, refer=refer, to_itself=draw(st.booleans()))
    ends = [(person, people, ""), (shop, shops, ""), (person, people, "other_"), (city, cities, "")]
    refer = [ends[0], *(end for end in ends[1:] if draw(st.booleans()))]
    _add(draw, made, visit, surrogate=True, most=8, refer=refer, orphans=True)
    _add(draw, made, note, most=4, keyed=False, refer=[(person, people, "")])
    _add(draw, made, f"{name}apart", most=2)
    made.entities = {person: {"table": person}, shop: {"table": shop}}
    for owner, column in ((person, "v0"), (shop, "v0"), (note, "v0")):
        if column in made.rows[owner].column_names and draw(st.booleans()):
            made.attributes[f"{owner}.{owner}{column}"] = {"kind": "category", "share": True}
            made.tables[owner].setdefault("columns", {})[column] = owner + column
    return made


Keys = list[tuple[Any, ...]]


def _add(
    draw: st.DrawFn,
    made: Written,
    name: str,
    most: int,
    refer: list[tuple[str, Keys, str]] | None = None,
    surrogate: bool = False,
    composite: bool = False,
    keyed: bool = True,
    orphans: bool = False,
    to_itself: bool = False,
) -> Keys:
    """One table with its rows; returns its keys."""
    count = draw(st.integers(0, most))
    columns: dict[str, pa.Array] = {}
    keys: Keys = []
    if keyed:
        numbers = draw(st.permutations(range(1, count + 1)))
        keys = [(n, f"k{n % 2}") if composite else (n,) for n in numbers]
        columns["id"] = pa.array([key[0] for key in keys], pa.int64())
        if composite:
            columns["part"] = pa.array([key[1] for key in keys], pa.string())
    table: dict[str, Any] = {"references": []}
    if keyed:
        table["key"] = ["id", "part"] if composite else ["id"]
    if surrogate:
        table["surrogate"] = True
    targets = [*(refer or []), *([(name, keys, "boss_")] if to_itself else [])]
    for index, (target, theirs, prefix) in enumerate(targets):
        width = 2 if made.tables.get(target, {}).get("key") == ["id", "part"] else 1
        known: list[Any] = [None, *theirs]
        if orphans and target not in (f"{name[0]}city",):
            known.append((99, "k9")[:width])
        chosen = [draw(st.sampled_from(known)) for _ in range(count)]
        names = [f"r{index}_{part}" for part in range(width)]
        for part, column in enumerate(names):
            type_ = pa.int64() if part == 0 else pa.string()
            columns[column] = pa.array([c and c[part] for c in chosen], type_)
        table["references"].append({"columns": names, "table": target, "prefix": prefix})
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=0, max_size=3))
    logical = {}
    for index, kind in enumerate(kinds):
        type_, values = VALUES[kind]
        cells = draw(st.lists(st.none() | values, min_size=count, max_size=count))
        columns[f"v{index}"] = pa.array(cells, type_)
        logical[f"v{index}"] = f"{name}v{index}"
    if logical:
        table["columns"] = logical
    if not columns:
        columns["nothing"] = pa.array([None] * count, pa.string())
    made.tables[name] = table
    made.rows[name] = pa.table(columns)
    return keys
