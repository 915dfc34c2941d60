"""RelBench's graph of databases that an audit kept. Runs in an environment with RelBench, and
prints one JSON object a database: nodes, edges, and hops between the pairs (null: no path).

    python relbench_graph.py FOLDER…

RelBench takes keys of one column, numbered from 0, and references of one column. A key of several
columns is therefore none here, and a reference of several columns is left out; a column that refers
to a table in parts stands once for each part.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from relbench.base import Database, Table
from relbench.modeling.graph import make_pkey_fkey_graph


def database(folder: Path) -> tuple[Database, dict[str, pd.DataFrame]]:
    """The tables with their keys numbered, and as they were read."""
    declared = yaml.safe_load((folder / "declared.yaml").read_text("utf-8"))["tables"]
    read = {name: pd.read_parquet(folder / "data" / name) for name in declared}
    numbers = {
        name: pd.Series(np.arange(len(read[name])), index=read[name][table["key"][0]])
        for name, table in declared.items()
        if len(table.get("key") or ()) == 1
    }
    tables = {}
    for name, table in declared.items():
        held, references = {}, {}
        if name in numbers:
            held["__key__"] = np.arange(len(read[name]))
        for index, reference in enumerate(table["references"]):
            if len(reference["columns"]) == 1 and reference["table"] in numbers:
                column = f"__reference_{index}__"
                values = read[name][reference["columns"][0]]
                held[column] = values.map(numbers[reference["table"]])
                references[column] = reference["table"]
        frame = pd.DataFrame(held, index=range(len(read[name])))
        tables[name] = Table(frame, references, "__key__" if name in numbers else None)
    return Database(tables), read


def hops(graph, first: dict[str, int], total: int, start: int, goal: int) -> int | None:
    ends = [graph[kind].edge_index.numpy() for kind in graph.edge_types]
    kinds = graph.edge_types
    source = np.concatenate([e[0] + first[k[0]] for k, e in zip(kinds, ends, strict=True)])
    target = np.concatenate([e[1] + first[k[2]] for k, e in zip(kinds, ends, strict=True)])
    seen = np.zeros(total, bool)
    seen[start] = True
    length = 0
    while not seen[goal]:
        reached = target[seen[source]]
        fresh = np.unique(reached[~seen[reached]])
        if not len(fresh):
            return None
        seen[fresh] = True
        length += 1
    return length


def main() -> None:
    for argument in sys.argv[1:]:
        folder = Path(argument)
        tables, read = database(folder)
        graph, _ = make_pkey_fkey_graph(tables, {name: {} for name in read})
        first, total = {}, 0
        for name, frame in read.items():
            first[name], total = total, total + len(frame)
        found = []
        for pair in json.loads((folder / "pairs.json").read_text("utf-8")):
            nodes = []
            for end in pair:
                for name in end["tables"]:
                    met = np.ones(len(read[name]), bool)
                    for column, value in zip(end["columns"], end["values"], strict=True):
                        met &= (read[name][column] == value).to_numpy()
                    nodes += [first[name] + int(row) for row in np.flatnonzero(met)[:1]]
            found.append(hops(graph, first, total, *nodes) if len(nodes) == 2 else None)
        edges = sum(
            graph[kind].edge_index.shape[1]
            for kind in graph.edge_types
            if not kind[1].startswith("rev_")
        )
        print(json.dumps({"nodes": total, "edges": edges, "hops": found}), flush=True)


if __name__ == "__main__":
    main()
