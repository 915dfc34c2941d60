"""Building a graph at size: Isohop against SQL written by hand, and against other graph builders.

    python -m benchmarks.build_graph [--scale 0.1 1 10] [--repeats 3] [--engines sail duckdb spark]
        [--tpchgen PROGRAM] [--relbench PYTHON] [--gsprocessing PYTHON] [--json FILE]

(a) TPC-H with entities customer, part, supplier, tables as Parquet: `isohop build` on Sail and on
Spark, ledger and certificate included, and the same node and edge tables by `tpch.sql` in DuckDB,
which checks nothing. (b) Customers, cities, countries, products and a million reviews: `isohop
build` on Sail, RelBench's ``make_pkey_fkey_graph`` on frames that are in memory already, and
GraphStorm's GSProcessing on the same files: five node types and the four references as edge types.

Each is a process of its own from start to end, the median of the repeats; memory is the peak of all
its processes. Needs ``pip install tpchgen-cli``. RelBench and GSProcessing each need an environment
of their own; GSProcessing's is that of the folder ``graphstorm-processing`` of awslabs/graphstorm,
with ``pyspark==3.5.6``, ``pyarrow<20`` and ``numpy<2``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.measure import ROOT, Cost, cost_of
from rich.console import Console
from rich.table import Table

ISOHOP = str(Path(sys.executable).with_name("isohop"))
REVIEWS = """
database: reviews
source: {path: data}
tables:
  countries: {key: id, surrogate: true}
  cities: {key: id, surrogate: true, references: [{columns: country_id, table: countries}]}
  customers: {key: id, references: [{columns: city_id, table: cities}]}
  products: {key: id}
  reviews:
    time: day
    references:
      - {columns: customer_id, table: customers}
      - {columns: product_id, table: products}
entities: {customer: {table: customers}, product: {table: products}}
attributes:
  customer.city: {kind: category, share: true}
  customer.country: {kind: category, share: true}
"""


# Node features, as those of RelBench; cities and countries have none, which spares GSProcessing
# wide one-hot rows.
GSPROCESSING_FEATURES = {
    "customers": {"age": "numerical", "segment": "categorical"},
    "products": {"price": "numerical", "category": "categorical"},
    "reviews": {"rating": "numerical"},
}
GSPROCESSING_EDGES = (
    ("cities", "country_id", "countries"),
    ("customers", "city_id", "cities"),
    ("reviews", "customer_id", "customers"),
    ("reviews", "product_id", "products"),
)


def generate(tpchgen: str, scale: float, folder: Path) -> None:
    data = folder / "data"
    command = [tpchgen, "parquet", "-s", f"{scale:g}", "--output-dir", str(data)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 what the user names
    shutil.copy(Path(__file__).with_name("tpch.yaml"), folder / "schema.yaml")


def generate_reviews(folder: Path) -> int:
    """Five tables of 1.12 million rows; returns how many."""
    draw = np.random.default_rng(7)
    data = folder / "data"
    data.mkdir()
    counts = {"countries": 120, "cities": 5_000, "customers": 95_000, "products": 20_000}
    reviews = 1_000_000

    def ids(name: str) -> pa.Array:
        return pa.array(np.arange(counts[name]))

    def some(name: str, count: int) -> pa.Array:
        return pa.array(draw.integers(0, counts[name], count))

    def called(stem: str, numbers: np.ndarray) -> pa.Array:
        return pa.array([f"{stem} {number}" for number in numbers])

    tables = {
        "countries": {"country": called("country", np.arange(counts["countries"]))},
        "cities": {
            "city": called("city", np.arange(counts["cities"])),
            "country_id": some("countries", counts["cities"]),
        },
        "customers": {
            "age": draw.integers(18, 90, counts["customers"]),
            "segment": called("segment", draw.integers(0, 8, counts["customers"])),
            "city_id": some("cities", counts["customers"]),
        },
        "products": {
            "price": draw.gamma(2.0, 20.0, counts["products"]).round(2),
            "category": called("category", draw.integers(0, 40, counts["products"])),
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table({"id": ids(name), **columns}), data / f"{name}.parquet")
    days = np.datetime64("2024-01-01", "us") + draw.integers(0, 730, reviews) * 86_400_000_000
    facts = {
        "id": np.arange(reviews),
        "customer_id": some("customers", reviews),
        "product_id": some("products", reviews),
        "rating": draw.integers(1, 6, reviews),
        "day": days,
    }
    pq.write_table(pa.table(facts), data / "reviews.parquet")
    (folder / "schema.yaml").write_text(REVIEWS, "utf-8")
    return sum(counts.values()) + reviews


def gsprocessing_config() -> dict:
    """The tables of `generate_reviews` and their references, as GSProcessing wants to be told."""

    def data(table: str) -> dict:
        return {"format": "parquet", "files": [f"{table}.parquet"]}

    def features(table: str) -> dict:
        held = GSPROCESSING_FEATURES.get(table, {})
        made = [{"column": c, "transformation": {"name": kind}} for c, kind in held.items()]
        return {"features": made} if made else {}

    nodes = ("countries", "cities", "customers", "products", "reviews")
    graph = {
        "nodes": [{"data": data(t), "type": t, "column": "id", **features(t)} for t in nodes],
        "edges": [
            {
                "data": data(table),
                "source": {"column": "id", "type": table},
                "dest": {"column": column, "type": target},
                "relation": {"type": column},
            }
            for table, column, target in GSPROCESSING_EDGES
        ],
    }
    return {"version": "gsprocessing-v1.0", "graph": graph}


def command_of(what: str, folder: Path) -> list[str]:
    if what == "duckdb":
        return [sys.executable, str(Path(__file__).with_name("duckdb_graph.py")), str(folder)]
    graph = str(folder / what)
    return [ISOHOP, "build", str(folder / "schema.yaml"), "--out", graph, "--engine", what]


def median(what: str, folder: Path, repeats: int) -> Cost:
    costs = [cost_of(command_of(what, folder)) for _ in range(repeats)]
    return Cost(
        statistics.median(cost.seconds for cost in costs), max(cost.memory for cost in costs)
    )


def check_same(ours: Path, theirs: Path) -> None:
    """Both wrote the same tables: rows, keys, counts and means. Raises `SystemExit` if not."""
    connection = duckdb.connect()
    for made in sorted([*theirs.glob("nodes/*"), *theirs.glob("edges/*")]):
        kind = made.relative_to(theirs)
        told = []
        for root in (ours, theirs):
            files = [str(file) for file in (root / kind).glob("*.parquet")]
            table = connection.read_parquet(files)
            numbers = ["count(*)"]
            for column, type_ in sorted(zip(table.columns, map(str, table.types), strict=True)):
                if type_ in ("BIGINT", "INTEGER", "DOUBLE"):
                    quoted = column.replace('"', '""')
                    numbers.append(f'sum("{quoted}"::DOUBLE)')
                else:
                    numbers.append("0")
            told.append((sorted(table.columns), table.aggregate(", ".join(numbers)).fetchall()[0]))
        same = told[0][0] == told[1][0] and np.allclose(told[0][1], told[1][1], rtol=1e-9)
        if not same:
            sys.exit(f"{kind}: {told[0]} in {ours}, {told[1]} in {theirs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, nargs="*", default=[0.1, 1.0, 10.0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["sail", "duckdb", "spark"])
    parser.add_argument("--tpchgen", default=shutil.which("tpchgen-cli"), metavar="PROGRAM")
    parser.add_argument("--relbench", type=Path, metavar="PYTHON", help="of its environment")
    parser.add_argument("--gsprocessing", type=Path, metavar="PYTHON", help="of its environment")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    asked = parser.parse_args()
    figures: dict[str, float] = {}
    table = Table(title="Build a graph", title_justify="left")
    for column in ("tables", "rows", "by", "seconds", "against DuckDB", "peak memory"):
        table.add_column(column, justify="left" if column in ("tables", "by") else "right")
    with tempfile.TemporaryDirectory(prefix="build-graph-") as temporary:
        if asked.tpchgen is None:
            print("no tpchgen-cli: TPC-H is NOT measured", file=sys.stderr)
        else:
            for scale in asked.scale:
                folder = Path(temporary) / f"tpch-{scale:g}"
                generate(asked.tpchgen, scale, folder)
                tpch(asked, table, figures, scale, folder)
                shutil.rmtree(folder)
        reviews(asked, table, figures, Path(temporary) / "reviews")
    Console().print(table)
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def tpch(
    asked: argparse.Namespace, table: Table, figures: dict[str, float], scale: float, folder: Path
) -> None:
    rows = sum(pq.read_metadata(file).num_rows for file in (folder / "data").glob("*.parquet"))
    costs = {what: median(what, folder, asked.repeats) for what in asked.engines}
    peer = costs.get("duckdb")
    for what, cost in costs.items():
        if peer is not None and what != "duckdb":
            check_same(folder / what, folder)
        ratio = "" if peer is None else f"{cost.seconds / peer.seconds:.2f}×"
        memory = f"{cost.memory / 2**30:.1f} GiB"
        table.add_row(f"TPC-H {scale:g}", f"{rows:,}", what, f"{cost.seconds:.1f}", ratio, memory)
        figures[f"tpch-{scale:g}/{what}/seconds"] = cost.seconds
        figures[f"tpch-{scale:g}/{what}/bytes"] = cost.memory


def reviews(
    asked: argparse.Namespace, table: Table, figures: dict[str, float], folder: Path
) -> None:
    folder.mkdir()
    rows = f"{generate_reviews(folder):,}"
    cost = median("sail", folder, asked.repeats)
    memory = f"{cost.memory / 2**30:.1f} GiB"
    table.add_row("reviews", rows, "sail", f"{cost.seconds:.1f}", "", memory)
    figures["reviews/sail/seconds"] = cost.seconds
    if asked.relbench is None:
        print("no --relbench PYTHON: RelBench is NOT measured", file=sys.stderr)
    else:
        took = of_relbench(asked, folder)
        table.add_row("reviews", rows, "RelBench, in memory", f"{took:.1f}", "", "")
        figures["reviews/relbench/seconds"] = took
    if asked.gsprocessing is None:
        print("no --gsprocessing PYTHON: GSProcessing is NOT measured", file=sys.stderr)
        return
    (folder / "data" / "graph.json").write_text(json.dumps(gsprocessing_config()), "utf-8")
    command = [str(asked.gsprocessing), "-m", "graphstorm_processing.distributed_executor"]
    command += ["--input-prefix", str(folder / "data"), "--config-filename", "graph.json"]
    command += ["--output-prefix", str(folder / "gsprocessing"), "--graph-name", "reviews"]
    command += ["--add-reverse-edges", "False"]
    costs = [cost_of(command) for _ in range(asked.repeats)]
    took = statistics.median(cost.seconds for cost in costs)
    memory = f"{max(cost.memory for cost in costs) / 2**30:.1f} GiB"
    table.add_row("reviews", rows, "GSProcessing", f"{took:.1f}", "", memory)
    figures["reviews/gsprocessing/seconds"] = took


def of_relbench(asked: argparse.Namespace, folder: Path) -> float:
    """Seconds that RelBench takes for the tables, the median."""
    script = Path(__file__).with_name("relbench_reviews.py")
    seconds = []
    for _ in range(asked.repeats):
        # What is run is the interpreter that the user names.
        done = subprocess.run(  # noqa: S603
            [str(asked.relbench), str(script), str(folder / "data")],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        if done.returncode:
            sys.exit(f"RelBench failed:\n{done.stderr[-3000:]}")
        seconds.append(float(done.stdout.split()[-1]))
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
