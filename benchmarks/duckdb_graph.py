"""Run `tpch.sql` with DuckDB in a folder that has the tables under ``data/``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb


def main() -> None:
    sql = Path(__file__).with_name("tpch.sql").read_text("utf-8")
    os.chdir(sys.argv[1])
    for folder in (line.split("'")[1] for line in sql.splitlines() if " TO '" in line):
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
    duckdb.connect().execute(sql)


if __name__ == "__main__":
    main()
