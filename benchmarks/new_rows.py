"""New rows: `isohop embed --new` against the bare encoder and MLPs, and its memory.

    python -m benchmarks.new_rows [--rows 250000 1000000] [--quick] [--json FILE]

A student is distilled from the graph of `giant_scale.py`; rows are papers with texts of their own.

*job*: reading, checking, rendering, hashing, encoding, embedding and writing by Ray, every core;
``µs of a core a row`` without the start of workers, which a few rows tell; ``peak GiB`` of all
processes together. *bare*: as many processes at once as there are cores, one thread each, with the
documents in memory: ``encoder`` hashes and encodes them, ``student`` is MLP₁, the search for latent
neighbours, MLP₂ and the MLP of content.
``throughput against bare`` is what the job does of what so many cores would if they did nothing
else. Times mean something on a machine that does nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from benchmarks.giant_scale import COMMUNITY, SEED, Scattered, texts, words, write_graph
from benchmarks.measure import all_at_once, run_part, show, side_by_side, sizes_asked

from isohop.coldbrew import DistillSettings
from isohop.giant.settings import FeatureSettings

ROWS = (250_000, 1_000_000)
QUICK = (50_000, 100_000)
GRAPH = 50_000
FEW = 1000
BARE = 1 << 16
CHUNK = 1 << 17
ENTITY = "paper"


def write_rows(file: Path, rows: int, at_once: int = CHUNK) -> None:
    vocabulary = words()
    of = Scattered(rows, max(1, rows // COMMUNITY), 7)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, at_once):
            ids = np.arange(start, min(start + at_once, rows))
            draw = np.random.default_rng([SEED, 7, start])
            columns = [pa.array(ids), texts(of.community(ids), vocabulary, draw)]
            writer.write_table(pa.table(columns, schema=schema))


def learn(folder: Path) -> dict[str, float]:
    """Write the student."""
    from isohop.coldbrew.distill import distill
    from isohop.coldbrew.embed import embed
    from isohop.engines.ray import ray_session
    from isohop.giant.features import extract_features

    graph = write_graph(folder / "graph", GRAPH)
    paths = (graph.path, folder / "features")
    with ray_session():
        extract_features(*paths, FeatureSettings(epochs=1.0, steps=50), SEED)
        distill(*paths, folder / "model", DistillSettings(steps=20), SEED)
        embed(*paths, folder / "model", folder / "embeddings", student=folder / "student")
    return {}


def bare(folder: Path) -> dict[str, float]:
    """Microseconds a row, of processes that run beside each other, as the job's do."""
    return side_by_side(_bare, folder)


def _bare(folder: Path) -> dict[str, float]:
    from isohop.coldbrew.bundle import Bundle
    from isohop.engines.determinism import compute_deterministically
    from isohop.giant.documents import render_documents
    from isohop.giant.encoder import encode_all

    compute_deterministically(1)
    bundle = Bundle.open(folder / "student", ENTITY)
    table = pq.read_table(folder / "rows.parquet").slice(0, BARE)
    encoder = bundle.encoder
    documents = render_documents(table, bundle.entity.fields, encoder.vocabulary.characters)
    types = np.full(len(documents), encoder.node_types.index(ENTITY), np.int64)
    found = {}
    for name in ("warm-up", "encoder"):
        all_at_once()
        clock = time.perf_counter()
        features = torch.from_numpy(encode_all(encoder, encoder.prepare(documents), types))
        found[name] = (time.perf_counter() - clock) / len(documents) * 1e6
    with torch.no_grad():
        for name in ("warm-up", "student"):
            all_at_once()
            clock = time.perf_counter()
            bundle.student.vectors(features)
            bundle.student.content(features)
            found[name] = (time.perf_counter() - clock) / len(documents) * 1e6
    del found["warm-up"]
    return found


def job(folder: Path) -> dict[str, float]:
    from isohop.coldbrew.new_rows import embed_new
    from isohop.engines.ray import ray_session

    cores = len(os.sched_getaffinity(0))
    write_rows(folder / "few.parquet", FEW)
    found = {}
    with ray_session():
        for name in ("rows", "few", "rows"):  # the first starts what stays
            clock = time.perf_counter()
            told = embed_new(folder / "student", folder / f"{name}.parquet", folder / name, ENTITY)
            found[f"{name} seconds"] = time.perf_counter() - clock
    seconds = found.pop("rows seconds") - found.pop("few seconds")
    found["µs of a core a row"] = seconds * cores / told.embedded * 1e6
    rows = pq.read_metadata(folder / "rows.parquet").num_rows
    if told.embedded != rows:
        sys.exit(f"{told.embedded:,} rows of {rows:,} have an embedding")
    return found


PARTS = {"learn": learn, "bare": bare, "job": job}


def measured(sizes: list[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="new-rows-") as temporary:
        folder = Path(temporary)
        run_part("benchmarks.new_rows", "learn", folder)
        for rows in sizes:
            write_rows(folder / "rows.parquet", rows)
            # Before and after: a machine is not as fast in one minute as in the next.
            (before, _), (told, cost), (after, _) = (
                run_part("benchmarks.new_rows", part, folder) for part in ("bare", "job", "bare")
            )
            bare = {name: (before[name] + after[name]) / 2 for name in before}
            told["peak GiB"] = cost.memory / 2**30
            told["throughput against bare"] = sum(bare.values()) / told["µs of a core a row"]
            for part, figures in (("bare", bare), ("job", told)):
                found |= {f"{rows}/{part}/all/{name}": value for name, value in figures.items()}
    return found


def main() -> None:
    sizes, file = sizes_asked(__doc__.splitlines()[0], "rows", ROWS, QUICK, PARTS)
    show("New rows", measured(sizes), file)


if __name__ == "__main__":
    main()
