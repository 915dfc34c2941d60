"""What was learned on an earlier graph, kept for a later one of the same types: no training at all.

Nodes go by their keys. A node that is gone takes its structural embedding along, one that is new
has none. Latent neighbours are found among the nodes that the student learned with, as new rows
find them. So what a node is served changes where its features or its edges did, or those of its
neighbours, and nowhere else: `settled`.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from isohop.coldbrew.bundle import Guesser, Student
from isohop.coldbrew.choosing import Served
from isohop.coldbrew.distill import DistillManifest, read_manifest
from isohop.coldbrew.known_graph import model_tensors
from isohop.coldbrew.known_labels import moved_labels
from isohop.coldbrew.labels import CLASSES, parts_with, read_labels
from isohop.coldbrew.student import LatentIndex
from isohop.coldbrew.tables import module_key
from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.graph import Graph, hold_out
from isohop.graph.earlier import NOBODY, check_same_types, later_ids, later_nodes, moved_edges
from isohop.graph.held_out import HELD_OUT, learned_from, parts_of_label, save_held_out
from isohop.graph.holdout import entity_of_label

ROUNDING = 1e-5
"""How far two vectors of length 1 may lie apart, in any direction, and be one: products of tables
that are longer by a row round otherwise."""


def keep_model(
    graph: str | Path, before: tuple[Path, Path], out: str | Path, until: date | None = None
) -> DistillManifest:
    """Write the model of an earlier run as that of ``graph``. ``before``: that run's graph and
    model; ``until``: as of `hold_out`, which decides about what is new, for whoever trains the
    model further. Raises `IsohopError` where its graph has other types."""
    now, earlier = Graph.open(graph), Graph.open(before[0])
    check_same_types(earlier, now)
    model, manifest = before[1], read_manifest(before[1])
    ids = later_nodes(earlier, now)
    later = {name: torch.from_numpy(nodes) for name, nodes in ids.items()}
    with folder_atomically(Path(out)) as folder:
        structural = manifest.structural
        if manifest.skipped is None:
            state = moved_teacher(model_tensors(model, "teacher"), later)
            if manifest.label is not None:
                entity = entity_of_label(manifest.label)
                state = moved_labels(state, later[entity], now.node_type(entity).count)
            places = {name: len(state[f"nodes_{module_key(name)}"]) for name in structural}
            structural = {name: (count,) for name, count in places.items()}
            save_file(state, folder / "teacher.safetensors")
            for name in ("mlp.safetensors", "student.safetensors", CLASSES):
                if (model / name).is_file():
                    shutil.copyfile(model / name, folder / name)
            _move_credible(model, folder, now, ids)
            learned = learned_from(earlier, model / HELD_OUT, now, ids)
            held = hold_out(now, manifest.seed, manifest.label, until=until, learned=learned)
            parts = None
            if manifest.label is not None:
                parts = parts_of_label(model / HELD_OUT, now, entity, ids)
                labels = read_labels(now, manifest.label, held, parts)
                parts = parts_with(labels, parts)
            edges = {edge.name: now.edge_index(edge.name) for edge in now.edge_types}
            save_held_out(folder / HELD_OUT, edges, held, parts)
        kept = manifest.model_copy(
            update={
                "certificate": now.manifest.certificate,
                "numbering": now.manifest.numbering,
                "structural": structural,
                "kept_from": manifest.kept_from or earlier.manifest.certificate,
                "seconds": {},
            }
        )
        write_text_atomically(folder / "distill.json", kept.model_dump_json(indent=1))
    return kept


def moved_teacher(state: dict[str, Tensor], later: dict[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's weights, with structural embeddings where their nodes are now."""
    found = dict(state)
    for name, ids in later.items():
        key = module_key(name)
        now = ids[state[f"nodes_{key}"]]
        there = torch.nonzero(now != NOBODY)[:, 0]
        order = there[now[there].argsort()]
        found[f"nodes_{key}"] = now[order].contiguous()
        for table in [n for n in state if n.startswith("structural.") and n.endswith(f".{key}")]:
            found[table] = state[table][order].contiguous()
    return found


def _move_credible(model: Path, folder: Path, now: Graph, later: dict[str, np.ndarray]) -> None:
    for edge in now.edge_types:
        file = model / "credible" / f"{edge.name}.parquet"
        if not file.is_file():
            continue
        (folder / "credible").mkdir(exist_ok=True)
        judged = moved_edges(pq.read_table(file), edge, later)
        pq.write_table(judged, folder / "credible" / file.name)


def moved_student(student: Student, earlier: np.ndarray, count: int) -> Student:
    """The same, who knows its latent candidates by their ids now. ``earlier``: as of `earlier_ids`,
    of a type that had ``count`` nodes."""
    if not isinstance(student, Guesser):
        return student
    index = student.index
    later = torch.from_numpy(later_ids(earlier, count))
    now = index.candidates.clone()
    now[now != NOBODY] = later[now[now != NOBODY]]  # who was gone before stays so
    found = LatentIndex(now, index.vectors, index.settings, index.centres)
    return replace(student, index=found)


def settled(served: Served, before: pa.Table, earlier: np.ndarray) -> Served:
    """What is served, with the very bytes of before where nothing but rounding differs. ``before``:
    the embeddings of the earlier graph, in the order of its ids; ``earlier``: int64 (nodes,), as of
    `earlier_ids`."""
    known = np.flatnonzero(earlier != NOBODY)
    if not len(known):
        return served
    ours = {
        "embedding": served.vectors.numpy().copy(),
        "confidence": served.confidence.numpy().copy(),
    }
    table = before.take(pa.array(earlier[known])).combine_chunks()
    flat = pa.concat_arrays(table["embedding"].chunks).flatten().to_numpy()
    theirs = {
        "embedding": flat.reshape(len(known), -1),
        "confidence": table["confidence"].to_numpy(),
    }
    same = served.source[known] == table["source"].to_numpy()
    for name, values in theirs.items():
        near = np.isclose(ours[name][known], values, rtol=0, atol=ROUNDING, equal_nan=True)
        same &= near.reshape(len(known), -1).all(1)
    for name, values in theirs.items():
        ours[name][known[same]] = values[same]
    vectors, confidence = (torch.from_numpy(values) for values in ours.values())
    return replace(served, vectors=vectors, confidence=confidence)
