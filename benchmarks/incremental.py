"""A night after one on which little changed, against a night that learns everything.

    python -m benchmarks.incremental [--quick | --part N] [--warm STEPS] [--json FILE]

Yesterday Gutenberg's catalogue was as it is today, but for one row in a hundred: of works, authors
and subjects half of those were not there, and neither were their links; the other half had another
name. One link in a hundred was not there either. Three runs, each a process of its own: *first*,
that of yesterday, which learns; *next*, today's, which goes on from it (``since``); and the graph
of today alone. With ``--warm`` two more: *warm*, as *next* and trained so many steps further, and
*anew*, which learns today's tables with another seed.

*share*: seconds of a run in those of the first. *next* and the graph of today must have one
certificate. *same neighbours*: of works that both know, the share of their ten nearest that were
so yesterday; *cosine*: mean of theirs to yesterday's vectors. ``--part``: one work in so many, and
what it is linked to. ``--quick``: one in ten, and few steps.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.measure import DATA, ROOT, cost_of, parser_of, show

import isohop
from isohop.coldbrew.distill import read_manifest
from isohop.embeddings.drift import AMONG, same_neighbours
from isohop.embeddings.search import embedding_matrix
from isohop.graph import Graph
from isohop.pipeline.history import past_runs
from isohop.pipeline.pipeline_file import home_of_runs
from isohop.pipeline.runs import Run

SHARE = 0.01
QUICK = 10
ANOTHER_SEED = 8
ENTITIES = {
    "works": ("gutenberg_id", "title"),
    "authors": ("gutenberg_author_id", "author"),
    "subjects": ("subject_id", "subject"),
}
LINKS = {
    "work_authors": ("works", "authors"),
    "work_subjects": ("works", "subjects"),
    "work_languages": ("works",),
}
PIPELINE = """
name: gutenberg
schema: schema.yaml
seed: 7
runs: runs
publish: {path: published}
"""
LITTLE = """
features: {steps: 20}
distill: {steps: 4}
"""


class Catalogue:
    """Gutenberg's tables as they are today, and as they were yesterday. ``part``: one work in so
    many, and what it is linked to."""

    def __init__(self, part: int, seed: int = 1):
        self._draw = np.random.default_rng(seed)
        names = (*ENTITIES, *LINKS)
        self.today = {name: pq.read_table(DATA / "gutenberg" / f"{name}.parquet") for name in names}
        works = self.today["works"]
        kept = {"works": works.filter(pa.array(np.arange(works.num_rows) % part == 0))}
        self.today = self._with(self.today | kept)
        for name in ("authors", "subjects"):
            key, _ = ENTITIES[name]
            linked = [links[key] for links in self.today.values() if key in links.column_names[1:]]
            among = pc.is_in(self.today[name][key], linked[0].combine_chunks())
            self.today[name] = self.today[name].filter(among)
        self.yesterday = self._with(self.today | {name: self._was(name) for name in ENTITIES})
        for name in LINKS:
            table = self.yesterday[name]
            there = self._draw.random(table.num_rows) >= SHARE
            self.yesterday[name] = table.filter(pa.array(there))

    def _was(self, name: str) -> pa.Table:
        table = self.today[name]
        draw = self._draw.random(table.num_rows)
        text = table[ENTITIES[name][1]].combine_chunks()
        renamed = pa.array((draw >= SHARE / 2) & (draw < SHARE))
        was = pc.if_else(renamed, pc.binary_join_element_wise("Formerly", text, " "), text)
        place = table.column_names.index(ENTITIES[name][1])
        renamed_table = table.set_column(place, table.column_names[place], was)
        return renamed_table.filter(pa.array(draw >= SHARE / 2))

    def _with(self, tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
        """Without links to what is not there."""
        found = dict(tables)
        for name, ends in LINKS.items():
            for end in ends:
                key = ENTITIES[end][0]
                there = pc.is_in(found[name][key], tables[end][key].combine_chunks())
                found[name] = found[name].filter(there)
        return found


def write(tables: dict[str, pa.Table], folder: Path) -> None:
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")


def likeness(before: Run, after: Run) -> dict[str, float | None]:
    """How near works are to where they were."""
    tables = [isohop.read_embeddings(run.embeddings, entity="work") for run in (before, after)]
    keys = [table["gutenberg_id"].to_numpy() for table in tables]
    _, *rows = np.intersect1d(*keys, return_indices=True)
    one, other = (
        embedding_matrix(table.take(pa.array(at[:AMONG])))
        for table, at in zip(tables, rows, strict=True)
    )
    return {
        "same neighbours": same_neighbours(one, other),
        "cosine": float((one * other).sum(1).mean()),
    }


def told_of(run: Run) -> dict[str, float | None]:
    """What its evaluation says of what is served."""
    return {
        f"{row.group}/{row.metric}": row.value
        for row in read_manifest(run.model).evaluation
        if row.entity == "all" and row.model == "served" and row.group in ("overall", "isolated")
    }


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], "one work in ten, and few steps")
    parser.add_argument("--part", type=int, default=1, metavar="N", help="one work in so many")
    parser.add_argument("--warm", type=int, metavar="STEPS", help="train the models further, too")
    asked = parser.parse_args()
    if not (DATA / "gutenberg").is_dir():
        sys.exit(f"{DATA / 'gutenberg'} is absent, so nothing is measured.")
    catalogue = Catalogue(QUICK if asked.quick else asked.part)
    with tempfile.TemporaryDirectory(prefix="isohop-incremental-") as name:
        folder = Path(name)
        schema = (ROOT / "schemas" / "gutenberg.yaml").read_text("utf-8")
        schema = schema.replace("../../shared/data/gutenberg", "data")
        (folder / "schema.yaml").write_text(schema, "utf-8")
        pipeline = folder / "pipeline.yaml"
        pipeline.write_text(PIPELINE + (LITTLE if asked.quick else ""), "utf-8")
        (folder / "data").mkdir()
        command = [sys.executable, "-m", "isohop.cli"]
        write(catalogue.yesterday, folder / "data")
        first = cost_of([*command, "run", str(pipeline), "--run", "first"], told=True)
        write(catalogue.today, folder / "data")
        figures = {"gutenberg/first/all/seconds": first.seconds}
        since = ["since=first"]
        settings = {"next": since}
        if asked.warm:
            settings["warm"] = [*since, f"warm_start={asked.warm}"]
            settings["anew"] = [f"seed={ANOTHER_SEED}"]
        for run, instead in settings.items():
            more = [word for one in instead for word in ("--set", one)]
            cost = cost_of([*command, "run", str(pipeline), "--run", run, *more], told=True)
            figures[f"gutenberg/{run}/all/seconds"] = cost.seconds
            figures[f"gutenberg/{run}/all/share"] = cost.seconds / first.seconds
        cost_of([*command, "stage", "build", str(pipeline), "--run", "whole"], told=True)
        runs = {past.run.id: past for past in past_runs(home_of_runs(pipeline))}
        made = [Graph.open(runs[run].run.graph).manifest.certificate for run in ("next", "whole")]
        if len(set(made)) > 1:
            sys.exit(f"the graphs differ: {' and '.join(made)}")
        for run in ("first", *settings):
            for record in runs[run].records:
                figures[f"gutenberg/{run}/{record.stage}/seconds"] = record.seconds
            found = told_of(runs[run].run)
            found |= {} if run == "first" else likeness(runs["first"].run, runs[run].run)
            figures |= {f"gutenberg/{run}/{n}": v for n, v in found.items() if v is not None}
    show("A night on which one row in a hundred is new or has changed", figures, asked.json)


if __name__ == "__main__":
    main()
