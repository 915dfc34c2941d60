"""RelBench's graph builder on five tables of Parquet, read beforehand; prints its seconds. Runs in
an environment with RelBench.

    python relbench_reviews.py FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd
from relbench.base import Database, Table
from relbench.modeling.graph import make_pkey_fkey_graph
from torch_frame import stype

REFERENCES = {
    "countries": {},
    "cities": {"country_id": "countries"},
    "customers": {"city_id": "cities"},
    "products": {},
    "reviews": {"customer_id": "customers", "product_id": "products"},
}
COLUMNS = {
    "countries": {"country": stype.categorical},
    "cities": {"city": stype.categorical},
    "customers": {"age": stype.numerical, "segment": stype.categorical},
    "products": {"price": stype.numerical, "category": stype.categorical},
    "reviews": {"rating": stype.numerical, "day": stype.timestamp},
}


def main() -> None:
    folder = Path(sys.argv[1])
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in REFERENCES}
    clock = time.monotonic()
    tables = {n: Table(frames[n], REFERENCES[n], "id") for n in REFERENCES}
    make_pkey_fkey_graph(Database(tables), {n: dict(COLUMNS[n]) for n in REFERENCES})
    print(time.monotonic() - clock)


if __name__ == "__main__":
    main()
