"""A folder of table files: Parquet, CSV or JSON, one file or one folder of Parquet parts a table.

::

    <folder>/
      customer.parquet                          or
      customer/*.parquet                        parts (also in subfolders) of one schema, or
      customer.csv  customer.csv.gz             with a header, separated by commas, or
      customer.csv.zip                          holding one file, or
      customer.json                             an array of objects, or one object a line, or
      customer.jsonl  customer.jsonl.gz         one object a line

Names that start with '.' or '_' are passed over, and so is every other file; a ``.json`` file that
holds one object spread over lines describes something and is no table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isohop.engines.storage import fingerprint
from isohop.errors import InvalidInput, Problem
from isohop.relational.as_of import Known
from isohop.relational.json_files import JsonFile, is_description
from isohop.relational.landing import LandedTable
from isohop.relational.parquet_files import land_parquet, parquet_columns
from isohop.relational.source import (
    SourceColumn,
    SourceTable,
    check_names,
    check_request,
    known_table,
    unreadable,
)
from isohop.relational.text_files import CsvFile, TextFile, land_texts

Format = Literal["parquet", "csv", "json"]

HIDDEN = (".", "_")
"""What the names begin with that a folder source passes over."""

_SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".csv.zip": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".jsonl.gz": "json",
}


@dataclass(frozen=True)
class TableFiles:
    """The files of one table; more than one only where they are Parquet parts."""

    name: str
    format: Format
    paths: tuple[Path, ...]


class FolderSource:
    """The tables of a folder; see the module, and `isohop.relational.source.Source`."""

    takes_types = True

    def __init__(self, folder: Path, nulls: Sequence[str]):
        self._folder = folder
        self._nulls = tuple(nulls)
        self._files = find_tables(folder)
        self._tables: dict[str, SourceTable] | None = None

    def tables(self) -> Mapping[str, SourceTable]:
        if self._tables is None:
            tables: dict[str, SourceTable] = {}
            problems: list[Problem] = []
            for name, files in self._files.items():
                try:
                    tables[name] = self._table(files)
                except InvalidInput as error:
                    problems += error.problems
            if problems:
                raise InvalidInput(f"Tables in {self._folder} cannot be read", problems)
            self._tables = tables
        return self._tables

    def fingerprint(self, table: str) -> str:
        known_table(table, self.tables(), str(self._folder))
        marks = []
        for path in self._files[table].paths:
            try:
                marks.append(fingerprint(path))
            except OSError as error:
                raise unreadable(str(path), f"cannot be read: {error}.", "Is it there?") from error
        return marks[0] if len(marks) == 1 else hashlib.sha256("".join(marks).encode()).hexdigest()

    def land(
        self,
        table: str,
        folder: Path,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        known: Known | None = None,
    ) -> LandedTable:
        held = known_table(table, self.tables(), str(self._folder))
        files = self._files[table]
        chosen, stated = check_request(held, columns, types)
        mark = self.fingerprint(table)
        if files.format == "parquet":
            return land_parquet(files.paths, folder, table, chosen, mark, stated)
        return land_texts(self._text_file(files), folder, table, chosen, stated, mark, known)

    def close(self) -> None:
        pass

    def _table(self, files: TableFiles) -> SourceTable:
        if files.format == "parquet":
            return SourceTable(files.name, parquet_columns(files.paths))
        names = self._text_file(files).columns()
        problems = check_names(names, str(files.paths[0]), "column")
        if problems:
            raise InvalidInput(f"Table '{files.name}' cannot be read", problems)
        return SourceTable(files.name, tuple(SourceColumn(name, None) for name in names))

    def _text_file(self, files: TableFiles) -> TextFile:
        path = files.paths[0]
        return CsvFile(path, self._nulls) if files.format == "csv" else JsonFile(path)


def find_tables(folder: Path) -> dict[str, TableFiles]:
    """The tables of ``folder``, sorted by name.

    Raises `InvalidInput` when there are none, when two files hold one table, or when names differ
    in capitals only.
    """
    found: dict[str, list[TableFiles]] = {}
    for path in sorted(folder.iterdir()):
        for files in _table_at(path):
            found.setdefault(files.name, []).append(files)
    problems = check_names(found, str(folder), "table")
    for name, candidates in found.items():
        if len(candidates) > 1:
            shown = " and ".join(files.paths[0].name for files in candidates)
            what = f"two files hold table '{name}': {shown}."
            problems.append(Problem(str(folder), what, "Leave one of them."))
    if not found:
        shown = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        what = f"there is no table in it, only {shown}."
        problems.append(Problem(str(folder), what, f"Tables are files {', '.join(_SUFFIXES)}."))
    if problems:
        raise InvalidInput(f"The folder {folder} cannot be read", problems)
    return {name: files for name, (files,) in sorted(found.items())}


def parquet_parts(path: Path) -> tuple[Path, ...]:
    """The Parquet files of one table: the file ``path``, or all in the folder ``path``.

    Raises `InvalidInput` where there are none.
    """
    found = list(_table_at(path)) if path.exists() else []
    if [files.format for files in found] != ["parquet"]:
        what = "is no Parquet file and no folder of them." if path.exists() else "is not there."
        raise unreadable(str(path), what, "Name a Parquet file, or a folder of Parquet files.")
    return found[0].paths


def _table_at(path: Path) -> Iterator[TableFiles]:
    if _is_hidden(path):
        return
    if path.is_dir():
        inside = [part.relative_to(path) for part in sorted(path.rglob("*.parquet"))]
        inside = [part for part in inside if not any(map(_is_hidden, [part, *part.parents]))]
        if any("=" in str(part.parent) for part in inside):
            what = "its subfolders hold a column in their names."
            raise unreadable(str(path), what, "Write that column into the Parquet files.")
        if inside:
            yield TableFiles(path.name, "parquet", tuple(path / part for part in inside))
        return
    lower = path.name.lower()
    for suffix, format in _SUFFIXES.items():
        if lower.endswith(suffix) and len(lower) > len(suffix):
            if suffix == ".json" and is_description(path):
                return
            yield TableFiles(path.name[: -len(suffix)], format, (path,))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(HIDDEN)
