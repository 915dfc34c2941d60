"""Inference with a text model: the stage's job against the bare encoder's forward pass.

    python -m benchmarks.text_model [--nodes 4000 12000] [--quick] [--json FILE]

The packaged MiniLM, as it is before training, over the graph of `giant_scale.py`. *job*: tasks of
Ray that read, render, tokenize, encode and write, on every core. *bare*: as many processes at once
as there are cores, one thread each, that encode documents whose tokens and n-grams are there.
``ms of a core a node``: by the difference of two sizes, so that what comes once (workers that start
and load the model) is not in it; it is told apart, as ``once seconds``. ``throughput against bare``
is what the job does of what so many cores would if they did nothing else. Times mean something on
a machine that does nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from benchmarks.giant_scale import SEED, write_graph
from benchmarks.measure import run_part, show, sizes_asked

from isohop.giant.settings import FeatureSettings
from isohop.graph import Graph

NODES = (4000, 12_000)
QUICK = (1000, 3000)
BARE = 2000
SETTINGS = FeatureSettings(encoder="minilm", dimensions=384)


def begin(folder: Path) -> dict[str, float]:
    """Write the encoder of the larger graph."""
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
    """The mean of processes that run beside each other, as the job's do."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, get_context("spawn")) as processes:
        found = list(processes.map(_bare, [folder] * cores))
    return {"ms of a core a node": sum(found) / cores}


def _bare(folder: Path) -> float:
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
    clock = time.perf_counter()
    encode_all(encoder, prepared, types)
    return (time.perf_counter() - clock) / len(documents) * 1e3


def job(folder: Path) -> dict[str, float]:
    """Seconds of both sizes, workers that are new each time."""
    from isohop.engines.ray import ray_session
    from isohop.giant.inference import extract

    seconds, nodes = [], []
    for name in ("few", "graph"):
        graph = Graph.open(folder / name)
        nodes.append(sum(node.count for node in graph.node_types))
        with ray_session():
            clock = time.perf_counter()
            told = extract(graph, folder / "encoder", folder / f"features of {name}", None)
            seconds.append(time.perf_counter() - clock)
        if sum(told.values()) != nodes[-1]:
            sys.exit(f"{sum(told.values()):,} nodes of {nodes[-1]:,} have a feature")
    each = (seconds[1] - seconds[0]) / (nodes[1] - nodes[0])
    cores = len(os.sched_getaffinity(0))
    return {
        "ms of a core a node": each * cores * 1e3,
        "once seconds": seconds[0] - each * nodes[0],
    }


PARTS = {"begin": begin, "bare": bare, "job": job}


def measured(few: int, many: int) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="text-model-") as temporary:
        folder = Path(temporary)
        write_graph(folder / "few", few)
        write_graph(folder / "graph", many)
        for part in PARTS:
            figures, _ = run_part("benchmarks.text_model", part, folder)
            found |= {f"minilm/{part}/all/{name}": value for name, value in figures.items()}
    one = "all/ms of a core a node"
    alone, of_job = found[f"minilm/bare/{one}"], found[f"minilm/job/{one}"]
    return found | {"minilm/job/all/throughput against bare": alone / of_job}


def main() -> None:
    sizes, file = sizes_asked(__doc__.splitlines()[0], "nodes", NODES, QUICK, PARTS)
    if len(sizes) != 2:
        sys.exit("Two numbers of nodes are needed: the figures are of what is between them.")
    show("Inference with a text model", measured(*sorted(sizes)), file)


if __name__ == "__main__":
    main()
