"""Inference with a text model: the stage's job against the bare encoder's forward pass.

    python -m benchmarks.text_model [--nodes 8000] [--quick] [--json FILE]

The packaged MiniLM, as it is before training, over the graph of `giant_scale.py`. *job*: tasks of
Ray that read, render, tokenize, encode and write, on every core. *bare*: as many processes at once
as there are cores, one thread each, that encode documents whose tokens and n-grams are there.
``ms of a core a node`` of the job is of a second one, whose workers are there and have the model;
what the first took more is ``once seconds``. ``throughput against bare`` is what the job does of
what so many cores would if they did nothing else. Times mean something on such a machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.giant_scale import SEED, write_graph
from benchmarks.measure import all_at_once, run_part, show, side_by_side, sizes_asked

from isohop.giant.settings import FeatureSettings
from isohop.graph import Graph

NODES = (8000,)
QUICK = (2000,)
BARE = 2000
SETTINGS = FeatureSettings(encoder="minilm", dimensions=384)


def begin(folder: Path) -> dict[str, float]:
    """Write an encoder of the graph."""
    from isohop.giant.encoder import Encoder
    from isohop.giant.text_matrix import Vocabulary
    from isohop.giant.text_model import TextModel
    from isohop.giant.training import documents_of

    graph = Graph.open(folder / "graph")
    documents = documents_of(graph, SETTINGS, None)
    vocabulary = Vocabulary.learn(documents, SETTINGS.vocabulary, SETTINGS.characters)
    names = tuple(node.name for node in graph.node_types)
    torch.manual_seed(SEED)
    model = TextModel(SETTINGS.text_model, SETTINGS.tokens)
    (folder / "encoder").mkdir()
    Encoder(vocabulary, names, SETTINGS.dimensions, model).save(folder / "encoder")
    return {}


def bare(folder: Path) -> dict[str, float]:
    """Of processes that run beside each other, as the job's do."""
    return side_by_side(_bare, folder)


def _bare(folder: Path) -> dict[str, float]:
    from isohop.engines.determinism import compute_deterministically
    from isohop.giant.encoder import encode_all, load_encoder
    from isohop.giant.training import documents_of

    compute_deterministically(1)
    encoder = load_encoder(folder / "encoder")
    graph = Graph.open(folder / "graph")
    documents = documents_of(graph, SETTINGS, None)[-1].slice(0, BARE)
    prepared = encoder.prepare(documents)
    types = np.full(len(documents), len(encoder.node_types) - 1, np.int64)
    encode_all(encoder, prepared[:100], types[:100])
    all_at_once()
    clock = time.perf_counter()
    encode_all(encoder, prepared, types)
    return {"ms of a core a node": (time.perf_counter() - clock) / len(documents) * 1e3}


def job(folder: Path) -> dict[str, float]:
    from isohop.engines.ray import ray_session
    from isohop.giant.inference import extract

    graph = Graph.open(folder / "graph")
    nodes = sum(node.count for node in graph.node_types)
    seconds = []
    with ray_session():
        for name in ("first", "second"):
            clock = time.perf_counter()
            told = extract(graph, folder / "encoder", folder / name, None)
            seconds.append(time.perf_counter() - clock)
            if sum(told.values()) != nodes:
                sys.exit(f"{sum(told.values()):,} nodes of {nodes:,} have a feature")
    cores = len(os.sched_getaffinity(0))
    each = seconds[1] * cores / nodes
    return {"ms of a core a node": each * 1e3, "once seconds": seconds[0] - seconds[1]}


PARTS = {"begin": begin, "bare": bare, "job": job}


def measured(nodes: int) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="text-model-") as temporary:
        write_graph(Path(temporary) / "graph", nodes)
        for part in PARTS:
            figures, _ = run_part("benchmarks.text_model", part, Path(temporary))
            found |= {f"{nodes}/{part}/all/{name}": value for name, value in figures.items()}
    alone, of_job = (found[f"{nodes}/{part}/all/ms of a core a node"] for part in ("bare", "job"))
    return found | {f"{nodes}/job/all/throughput against bare": alone / of_job}


def main() -> None:
    sizes, file = sizes_asked(__doc__.splitlines()[0], "nodes", NODES, QUICK, PARTS)
    found: dict[str, float] = {}
    for nodes in sizes:
        found |= measured(nodes)
    show("Inference with MiniLM", found, file)


if __name__ == "__main__":
    main()
