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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isohop.engines.storage import fingerprint
from isohop.errors import InvalidInput, IsohopError, Problem
from isohop.relational.landing import (
    LandedTable,
    Misfits,
    Notes,
    invalid_texts,
    landed_type,
    landing,
    normalise,
)
from isohop.relational.source import (
    SourceColumn,
    SourceTable,
    check_names,
    check_request,
    known_table,
    wrong,
)

Format = Literal["parquet", "csv", "json"]

_SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".csv.zip": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".jsonl.gz": "json",
}
_BATCH_BYTES = 32 << 20
_BATCH_ROWS = 1 << 16
_INT64 = pa.int64()


@dataclass(frozen=True)
class TableFiles:
    """The files of one table; more than one only where they are Parquet parts."""

    name: str
    format: Format
    paths: tuple[Path, ...]


class FolderSource:
    """The tables of a folder; see the module, and `isohop.relational.source.Source`."""

    def __init__(self, folder: Path, nulls: Sequence[str]):
        self._folder = folder
        self._nulls = tuple(nulls)
        self._files = find_tables(folder)
        self._tables: dict[str, SourceTable] | None = None

    def tables(self) -> Mapping[str, SourceTable]:
        if self._tables is None:
            tables, problems = {}, []
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
        paths = self._files[table].paths
        if len(paths) == 1:
            return fingerprint(paths[0])
        return hashlib.sha256("".join(map(fingerprint, paths)).encode()).hexdigest()

    def land(
        self,
        table: str,
        folder: Path,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
    ) -> LandedTable:
        known = known_table(table, self.tables(), str(self._folder))
        files = self._files[table]
        chosen, stated = check_request(known, columns, types)
        mark = self.fingerprint(table)
        if files.format == "parquet":
            if stated:
                where = f"table '{table}', column '{min(stated)}'"
                raise wrong(where, "Parquet files have types of their own.", "Leave 'types' out.")
            return land_parquet(files, folder, chosen, mark)
        reader = CsvFile(files.paths[0], self._nulls) if files.format == "csv" else JsonFile(files.paths[0])
        return land_texts(reader, folder, table, known.column_names, chosen, stated, mark)

    def close(self) -> None:
        pass

    def _table(self, files: TableFiles) -> SourceTable:
        if files.format == "parquet":
            columns = parquet_columns(files)
        else:
            from isohop.relational import csv_files, json_files

            reader = csv_files if files.format == "csv" else json_files
            columns = tuple(SourceColumn(name, None) for name in reader.columns(files.paths[0]))
        names = [column.name for column in columns]
        problems = check_names(names, str(files.paths[0]), "column")
        if problems:
            raise InvalidInput(f"Table '{files.name}' cannot be read", problems)
        return SourceTable(files.name, columns)
