"""How much of a graph depends on the schema: Isohop and RelBench on the same rewritten databases.

    python -m benchmarks.invariance [--quick] [--trials N] [--relbench PYTHON] [--json FILE]

For Sakila, Gutenberg and the USDA's nutrients: databases rewritten by up to five random lossless
rewrites each. Isohop with the mapping and with none (keys, references and entity names alone);
RelBench's ``make_pkey_fkey_graph`` on the databases that the first form made. RelBench needs an
environment of its own:

    python3.11 -m venv relbench && relbench/bin/pip install relbench pytorch_frame torch_geometric
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import DATA, ROOT, parser_of
from rich.console import Console
from rich.table import Table

from isohop.graph.audit import Audit, audit
from isohop.graph.infer import infer

# The entities of the USDA's database; it has no schema file of ours, so `infer` writes it.
USDA = ("food", "nutrient_def", "reference")
AT_ONCE = 10


def schemas(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, schema file) of each database that is there."""
    for name in ("sakila", "gutenberg", "usda_nutrients"):
        if not (DATA / name).is_dir():
            print(f"{name}: {DATA / name} is absent, so it is NOT measured", file=sys.stderr)
        elif name == "usda_nutrients":
            file = folder / "usda_nutrients.yaml"
            file.write_text(infer(str(DATA / name), USDA, base=folder).text(), "utf-8")
            yield name, file
        else:
            yield name, ROOT / "schemas" / f"{name}.yaml"


def of_relbench(python: Path, kept: Path) -> list[dict]:
    """What RelBench makes of the databases in ``kept``, the original first."""
    script = Path(__file__).with_name("relbench_graph.py")
    folders = sorted(kept.iterdir(), key=lambda folder: int(folder.name))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = []
    for start in range(0, len(folders), AT_ONCE):
        command = [str(python), str(script), *map(str, folders[start : start + AT_ONCE])]
        # What is run is the interpreter that the user names.
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            sys.exit(f"RelBench failed:\n{done.stderr[-3000:]}")
        found += [json.loads(line) for line in done.stdout.splitlines()]
    return found


def spread(hops: Sequence[int | None]) -> str:
    """``2–6``, ``2–none``: least and most."""
    given = [h for h in hops if h is not None]
    ends = [str(min(given)) if given else "none", "none" if None in hops else str(max(given))]
    return "–".join(dict.fromkeys(ends))


def equal(found: Audit, trials: int) -> str:
    return f"{found.equal} of {trials}"


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], "Sakila alone, five trials")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--relbench", type=Path, metavar="PYTHON", help="of its environment")
    parser.add_argument("--only", help="one database")
    asked = parser.parse_args()
    trials = 5 if asked.quick else asked.trials
    if asked.relbench is None:
        print("no --relbench PYTHON: RelBench is NOT measured", file=sys.stderr)
    console = Console()
    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="invariance-") as temporary:
        folder = Path(temporary)
        for name, schema in schemas(folder):
            if (asked.quick and name != "sakila") or (asked.only or name) != name:
                continue
            clock = time.monotonic()
            kept = folder / name
            mapped = audit(schema, trials, seed=1, keep=kept)
            inferred = audit(schema, trials, seed=2, mapping=False)
            peers = of_relbench(asked.relbench, kept) if asked.relbench else []
            figures[name] = report(console, name, trials, mapped, inferred, peers)
            figures[name]["seconds"] = time.monotonic() - clock
            console.print(f"{name}: {figures[name]['seconds']:,.0f} s\n")
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1, default=str) + "\n", "utf-8")


def report(
    console: Console,
    name: str,
    trials: int,
    mapped: Audit,
    inferred: Audit,
    peers: list[dict],
) -> dict:
    """Print one database's tables; the same as a dictionary."""
    graphs = Table(title=f"{name}: the same graph", title_justify="left")
    for column in ("", "equal to the original's", "nodes", "edges"):
        graphs.add_column(column, justify="left" if not column else "right")
    for title, found in (
        ("Isohop, with the mapping", mapped),
        ("Isohop, with no mapping", inferred),
    ):
        outcomes = [found.original, *found.trials]
        graphs.add_row(
            title,
            equal(found, trials),
            spread([o.nodes for o in outcomes]),
            spread([o.edges for o in outcomes]),
        )
    if peers:
        first = peers[0]
        same = sum(
            (peer["nodes"], peer["edges"]) == (first["nodes"], first["edges"]) for peer in peers[1:]
        )
        graphs.add_row(
            "RelBench (same numbers only)",
            f"{same} of {len(peers) - 1}",
            spread([peer["nodes"] for peer in peers]),
            spread([peer["edges"] for peer in peers]),
        )
    console.print(graphs)
    for title, found in (("with the mapping", mapped), ("with no mapping", inferred)):
        if found.failure is not None:
            console.print(f"{title}: {found.failure} {found.error}", style="bold red")
    hops = Table(title=f"{name}: hops, least–most over all", title_justify="left")
    for column in ("pair", "Isohop", "RelBench"):
        hops.add_column(column, overflow="fold")
    told = {}
    for index, pair in enumerate(mapped.pairs):
        ours = spread([o.hops[index] for o in [mapped.original, *mapped.trials]])
        theirs = spread([peer["hops"][index] for peer in peers]) if peers else "not measured"
        hops.add_row(str(pair), ours, theirs)
        told[str(pair)] = {"isohop": ours, "relbench": theirs}
    console.print(hops)
    return {
        "mapping": equal(mapped, trials),
        "no mapping": equal(inferred, trials),
        "relbench": f"{same} of {len(peers) - 1}" if peers else "not measured",
        "hops": told,
    }


if __name__ == "__main__":
    main()
