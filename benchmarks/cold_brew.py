"""Cold Brew: embeddings where edges are many, few, wrong or missing.

python -m benchmarks.cold_brew [--quick] [--only cora …] [--seeds 1 2 3 4 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from benchmarks.giant import THREADS, built
from benchmarks.measure import DATA, show
from torch import Tensor

from isohop.coldbrew import DistillSettings
from isohop.coldbrew.distiller import Distiller
from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.labels import Labels
from isohop.graph import Graph, hold_out
from isohop.graph.holdout import HEAD, ISOLATION, TAIL

CORA = """
database: cora
source: {path: data}
tables:
  paper: {key: paper_id, columns: {topic: null, split: null}}
  citation:
    key: [paper_id, cited_id]
    references:
      - {columns: paper_id, table: paper}
      - {columns: cited_id, table: paper, prefix: cited_}
entities: {paper: {table: paper}}
"""
ACTOR = """
database: actor
source: {path: data}
tables:
  actor: {key: actor_id, columns: {label: null}}
  link:
    key: [actor_id, linked_id]
    references:
      - {columns: actor_id, table: actor}
      - {columns: linked_id, table: actor, prefix: linked_}
entities: {actor: {table: actor}}
"""
FEW = DistillSettings(
    teacher="hop-wise",
    dimensions=64,
    steps=300,
    learning_rate=0.01,
    weight_decay=5e-4,
    dropout=0.5,
    batch=1024,
)


@dataclass(frozen=True)
class Task:
    """``inputs``: of ``graph``; ``values``: int64 (nodes,) of ``entity``; ``split``: of a seed,
    int8 (nodes,), 0 train, 1 validation, 2 test, -1 neither."""

    name: str
    graph: Graph
    inputs: Inputs
    entity: str
    values: np.ndarray
    split: Callable[[int], np.ndarray]
    settings: DistillSettings


def words(file: str, node: str, count: int) -> Tensor:
    """float32 (nodes, words): a bag of words, rows that sum up to 1."""
    table = pq.read_table(DATA / file)
    row, column = (table[name].to_numpy() for name in (node, "word_id"))
    bag = torch.zeros(count, int(column.max()) + 1)
    bag[torch.from_numpy(row).long(), torch.from_numpy(column).long()] = 1.0
    return bag / bag.sum(1, keepdim=True).clamp(min=1.0)


def inputs_of(graph: Graph, features: dict[str, Tensor]) -> Inputs:
    return Inputs(
        counts={node.name: node.count for node in graph.node_types},
        edge_types={edge.name: (edge.source, edge.target) for edge in graph.edge_types},
        edges={e.name: torch.from_numpy(graph.edge_index(e.name)) for e in graph.edge_types},
        features=features,
        entities=tuple(node.name for node in graph.entities),
    )


def linked(source: str, folder: Path, schema: str) -> Graph:
    data = folder / "data"
    data.mkdir(parents=True)
    for file in (DATA / source).glob("*.parquet"):
        if "word" not in file.name:
            (data / file.name).symlink_to(file)
    return built(folder, schema)


def cora(folder: Path) -> Task:
    graph = linked("cora", folder, CORA)
    table = pq.read_table(DATA / "cora" / "paper.parquet").sort_by("paper_id")
    keys = graph.nodes("paper", ["paper_id"])["paper_id"].to_numpy()
    names = np.array(table["split"].to_pylist())[keys]
    given = np.select([names == "train", names == "val", names == "test"], [0, 1, 2], -1)
    bag = words("cora/paper_word.parquet", "paper_id", len(keys))[torch.from_numpy(keys)]
    topics = table["topic"].to_numpy()[keys]
    return Task(
        "cora",
        graph,
        inputs_of(graph, {"paper": bag}),
        "paper",
        topics,
        lambda seed: given.astype(np.int8),
        FEW,
    )


def actor(folder: Path) -> Task:
    graph = linked("actor", folder, ACTOR)
    table = pq.read_table(DATA / "actor" / "actor.parquet").sort_by("actor_id")
    keys = graph.nodes("actor", ["actor_id"])["actor_id"].to_numpy()
    bag = words("actor/actor_word.parquet", "actor_id", len(keys))[torch.from_numpy(keys)]

    def split(seed: int) -> np.ndarray:
        draw = np.random.default_rng([seed, 60]).random(len(keys))
        return np.digitize(draw, [0.6, 0.8]).astype(np.int8)

    return Task(
        "actor",
        graph,
        inputs_of(graph, {"actor": bag}),
        "actor",
        table["label"].to_numpy()[keys],
        split,
        FEW,
    )


def labels_of(task: Task, split: np.ndarray, isolated: np.ndarray) -> Labels:
    """Isolated nodes that are neither trained nor validated on are tested, whatever the split."""
    train, validation = split == 0, split == 1
    test = ~train & ~validation & ((split == 2) | isolated) & (task.values >= 0)
    masks = [torch.from_numpy(mask) for mask in (train, validation, test)]
    values = torch.from_numpy(task.values.astype(np.int64))
    return Labels(task.entity, values, int(values.max()) + 1, *masks)


def distilled(task: Task, settings: DistillSettings, seed: int, isolated: float) -> Distiller:
    nothing = {"validation": 0.0, "test": 0.0, "isolated": isolated}
    holdout = hold_out(task.graph, seed, **nothing)
    labels = labels_of(task, task.split(seed), holdout.groups[task.entity] == ISOLATION)
    made = Distiller(task.inputs, holdout, labels, settings, seed, THREADS)
    for model in ("teacher", "mlp", "student"):
        made.start(model)
        made.train(settings.steps)
        made.finish()
    return made


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        task = {"cora": cora, "actor": actor}[sys.argv[1]](Path(folder))
        for seed in map(int, sys.argv[2].split(",")):
            settings = task.settings.model_copy(
                update=eval(sys.argv[3]) if len(sys.argv) > 3 else {}
            )
            for isolated in (0.0, 0.1):
                clock = time.monotonic()
                made = distilled(task, settings, seed, isolated)
                for f in made.evaluate():
                    if f.task == "label" and f.entity == "all":
                        print(seed, isolated, f.group, f.model, f.value, f.count)
                print(round(time.monotonic() - clock), flush=True)
