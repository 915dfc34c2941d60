"""Where a database's tables are: a folder of files, or a database that a URL names.

`open_source` gives the tables' columns, keys and references without reading their rows, and lands
a table: its rows become Parquet that the engines read (see `isohop.relational.landing`).
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from isohop.engines.allowed import forbidden
from isohop.engines.mirror import Mirror
from isohop.engines.object_store import is_url
from isohop.errors import InvalidInput, Problem, did_you_mean
from isohop.relational.as_of import Known
from isohop.relational.landing import LandedTable
from isohop.relational.texts import TEXT_TYPES

__all__ = [
    "LandedTable",
    "Source",
    "SourceColumn",
    "SourceReference",
    "SourceSpec",
    "SourceTable",
    "open_source",
]

_ENVIRONMENT = "env:"


class SourceSpec(BaseModel):
    """``source:`` of the schema file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True
    )

    path: str | None = None
    """Folder of ``table.parquet``, ``table.csv``, ``table.csv.gz``, ``table.csv.zip``,
    ``table.json``, ``table.jsonl``, ``table.jsonl.gz``, or folders ``table/`` of Parquet parts;
    relative to the schema file. Or the URL of one, ``s3://bucket/folder``."""
    package: str | None = None
    """An installed Python package that carries the folder; ``path`` is then relative to it. The
    package is located, never imported."""
    url: str | None = Field(None, repr=False)
    """``sqlite:///file.db`` (relative to the schema file) or ``postgresql://user@host/database``;
    ``env:NAME`` reads the URL from an environment variable, so that no secret is in the file."""
    db_schema: str | None = Field(None, alias="schema")
    """The schema within the database; its default one where this is left out."""
    nulls: tuple[str, ...] = ("",)
    """CSV texts, quoted or not, that mean NULL."""

    @model_validator(mode="after")
    def _one_place(self) -> SourceSpec:
        folder = self.path is not None or self.package is not None
        if folder == (self.url is not None):
            raise ValueError(
                "a source has either 'path' (or 'package', with or without 'path') or 'url'"
            )
        if folder and self.db_schema is not None:
            raise ValueError("'schema' goes with 'url': a folder has no schemas")
        return self


@dataclass(frozen=True)
class SourceColumn:
    """A column before its rows are read."""

    name: str
    type: pa.DataType | None
    """The Arrow type that it lands with; None where only the rows tell (CSV, JSON)."""
    all_null: bool = False
    """True where Parquet's statistics say that it has no value, so that its type says nothing."""


@dataclass(frozen=True)
class SourceReference:
    """A foreign key as the database declares it, column for column.

    Where ``target`` is the key of ``table``, it is in that key's order.
    """

    columns: tuple[str, ...]
    table: str
    target: tuple[str, ...]


@dataclass(frozen=True)
class SourceTable:
    """A table before its rows are read. Files declare no key (None) and no references."""

    name: str
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...] | None = None
    references: tuple[SourceReference, ...] = ()

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


class Source(Protocol):
    """A database's tables. Close it when done: a database holds a transaction open till then."""

    @property
    def takes_types(self) -> bool:
        """Whether types can be stated: not where those that a database declares bind."""
        ...

    def tables(self) -> Mapping[str, SourceTable]:
        """All tables by name, sorted, from headers, footers and catalogues alone.

        JSON has neither, so its rows are read for their keys. Raises `InvalidInput` with all that
        is wrong with any of them.
        """
        ...

    def fingerprint(self, table: str) -> str:
        """SHA-256 over a table's content, as hexadecimal.

        Of files: over their bytes. Of a database, whose tables have no bytes of their own: over the
        landed Parquet files, those that this source landed last, else of all columns landed for
        the purpose.
        """
        ...

    def land(
        self,
        table: str,
        folder: Path,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        known: Known | None = None,
    ) -> LandedTable:
        """Make ``table`` readable by the engines, in ``folder`` where files have to be written.

        ``columns`` limits what is read; ``types`` states types ("string", "integer", "number",
        "boolean", "date", "timestamp") of columns of CSV, JSON and SQLite, and of Parquet that are
        to be read otherwise than they are stored; misfits are quarantined. ``known``: of CSV and
        JSON only rows that were known tell of types, and land; other sources land all. Raises
        `IsohopError` when the data cannot be read at all.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Closing twice is fine."""
        ...


def open_source(spec: SourceSpec, base: Path) -> Source:
    """Open what ``spec`` names; relative paths start at ``base``, the schema file's folder.

    Raises `InvalidInput` when the folder or package is not there, or is not one that can be read,
    and `IsohopError` when a database cannot be reached: another try may reach it.
    """
    if spec.url is not None:
        from isohop.relational.databases import DatabaseSource  # SQLAlchemy and ADBC take a moment

        return DatabaseSource(from_environment(spec.url), spec.db_schema, base)
    from isohop.relational.files import FolderSource

    return FolderSource(_folder(spec, base), spec.nulls)


def unreadable(where: str, what: str, hint: str = "") -> InvalidInput:
    """The one mistake of a source, as an error to raise."""
    return InvalidInput("The source cannot be read", [Problem(where, what, hint)])


def check_allowed(path: str | Path, where: str) -> None:
    """Raises `InvalidInput` where a schema file may not name ``path``."""
    problem = forbidden(path)
    if problem is not None:
        raise unreadable(where, problem)


def known_table(name: str, tables: Mapping[str, SourceTable], where: str) -> SourceTable:
    """The table of that name. Raises `InvalidInput` with a suggestion when there is none."""
    if name not in tables:
        raise unreadable(where, f"there is no table '{name}'.", did_you_mean(name, tables))
    return tables[name]


def check_request(
    table: SourceTable, columns: Sequence[str] | None, types: Mapping[str, str] | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The columns to land, in the table's order, and their stated types, once they are checked.

    Raises `InvalidInput` for columns that the table lacks and types that do not exist.
    """
    known = table.column_names
    types = dict(types or {})
    wanted = set(known if columns is None else columns)
    problems = [
        Problem(f"table '{table.name}'", f"no column '{name}'.", did_you_mean(name, known))
        for name in sorted((wanted | set(types)) - set(known))
    ]
    problems += [
        Problem(
            f"table '{table.name}', column '{column}'",
            f"'{type}' is not a type that can be stated.",
            did_you_mean(type, TEXT_TYPES),
        )
        for column, type in sorted(types.items())
        if type not in TEXT_TYPES
    ]
    if not wanted:
        problems.append(Problem(f"table '{table.name}'", "no column was asked for."))
    if problems:
        raise InvalidInput(f"Table '{table.name}' cannot be read as asked", problems)
    chosen = tuple(name for name in known if name in wanted)
    return chosen, {name: type for name, type in types.items() if name in wanted}


def check_names(names: Iterable[str], where: str, noun: str) -> list[Problem]:
    """What the engines, which ignore case, could not tell apart; and names that are empty."""
    names = list(names)
    problems = []
    for name in names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            what = f"the name of a {noun} is not UTF-8: {name.encode(errors='backslashreplace')!r}."
            problems.append(Problem(where, what, "Convert the file to UTF-8."))
    for position, name in enumerate(names, 1):
        if not name:
            remedy = "Name it, or write the file without its row index."
            problems.append(Problem(where, f"{noun} {position} has no name.", remedy))
    alike = Counter(name.lower() for name in names if name)
    for folded in sorted(name for name, count in alike.items() if count > 1):
        same = " and ".join(f"'{name}'" for name in names if name.lower() == folded)
        what = f"two {noun}s are named alike, {same}: engines do not tell capitals apart."
        problems.append(Problem(where, what, "Rename one."))
    return problems


def from_environment(url: str) -> str:
    """A URL that stands in the environment, where ``url`` says so. Raises `InvalidInput`."""
    if not url.startswith(_ENVIRONMENT):
        return url
    name = url.removeprefix(_ENVIRONMENT)
    value = os.environ.get(name, "")
    if not value:
        raise unreadable(
            "source.url", f"the environment variable {name} is not set.", "Set it to the URL."
        )
    return value


def _folder(spec: SourceSpec, base: Path) -> Path:
    if spec.package is not None:
        root, where = _package_folder(spec.package), "source.package"
    elif spec.path is not None and is_url(spec.path):
        check_allowed(spec.path, "source.path")
        return _stored_folder(spec.path)
    else:
        root, where = base, "source.path"
    folder = root / (spec.path or "")
    if spec.package is None:
        check_allowed(folder, where)
    elif not folder.resolve().is_relative_to(root.resolve()):
        what = f"{spec.path} leaves the package '{spec.package}'."
        raise unreadable("source.path", what, "For another folder name no package.")
    if folder.is_file():
        raise unreadable(where, f"{folder} is a file.", f"Name its folder: {folder.parent}.")
    if not folder.is_dir():
        parent = folder.parent
        beside = (
            [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        )
        hint = did_you_mean(folder.name, beside) if beside else "Give the folder of the tables."
        raise unreadable(where, f"there is no folder {folder}.", hint)
    return folder


def _stored_folder(url: str) -> Path:
    """A local copy of a folder in an object store."""
    mirror = Mirror.of(url)
    if not mirror.pull():
        raise unreadable("source.path", f"there is nothing in {url}.", "Look at the name.")
    return mirror.local


def _package_folder(package: str) -> Path:
    top, *inner = package.split(".")
    # `find_spec` imports the parents of a dotted name, so only the first part is looked up.
    is_name = all(part.isidentifier() for part in (top, *inner))
    found = importlib.util.find_spec(top) if is_name else None
    if found is None:
        remedy = f"Install it into this environment: pip install {top}"
        raise unreadable("source.package", f"the package '{package}' is not installed.", remedy)
    if not found.submodule_search_locations:
        raise unreadable(
            "source.package", f"'{top}' is a module without a folder.", "Name a package."
        )
    folder = Path(next(iter(found.submodule_search_locations))).joinpath(*inner)
    if found.origin is None:  # any folder beside the program is such a package
        check_allowed(folder, "source.package")
    return folder
