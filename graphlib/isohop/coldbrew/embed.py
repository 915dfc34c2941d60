"""The stage `embed`: embeddings of every entity, from the teacher where it has edges, else from the
student.

The teacher passes messages over the whole graph, held-out edges included: they were held out to
measure, not to be forgotten. Written as `isohop.embeddings` reads it: key columns, node_id,
embedding, source, degree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isohop.coldbrew.distill import DistillManifest, read_manifest
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import all_cores, ray_session, result_of, with_all_cores
from isohop.engines.storage import folder_atomically
from isohop.errors import IsohopError
from isohop.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

ROWS_A_FILE = 1_000_000


def embed(
    graph: str | Path,
    features: str | Path,
    model: str | Path,
    out: str | Path,
    progress: Progress = SILENT,
) -> None:
    """Write ``out/<entity>/*.parquet`` for every entity. Raises `IsohopError`."""
    opened = Graph.open(graph)
    if read_manifest(Path(model)).certificate not in (None, opened.manifest.certificate):
        raise IsohopError(
            f"{model} was distilled from another graph than {graph}. Run the stage 'distill' again."
        )
    with ray_session(), folder_atomically(Path(out)) as folder:
        task = with_all_cores(_embed)
        with progress.task("embeddings of every entity") as bar:
            paths = (opened.path, Path(features), Path(model), folder)
            result_of(task.remote(*(str(path.resolve()) for path in paths), all_cores()))
            bar.advance()


def _embed(graph: str, features: str, model: str, out: str, threads: int) -> None:
    import torch

    from isohop.coldbrew.inputs import read_inputs
    from isohop.coldbrew.message_passing import MessageGraph

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    opened, manifest = Graph.open(graph), read_manifest(Path(model))
    inputs = read_inputs(opened, Path(features), manifest.label)
    messages = MessageGraph(inputs.counts, inputs.edge_types, inputs.edges)
    degree = messages.degrees()
    with torch.no_grad():
        if manifest.skipped is None:
            vectors = _vectors(inputs, messages, Path(model), manifest)
        else:
            vectors = {n: _projected(x, manifest) for n, x in inputs.features.items()}
    for name in inputs.entities:
        connected = (degree[name] > 0) & torch.tensor(manifest.skipped is None)
        _write(opened, Path(out) / name, name, vectors[name], degree[name], connected.numpy())


def _vectors(
    inputs: object, messages: object, model: Path, manifest: DistillManifest
) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    from isohop.coldbrew.inputs import Inputs
    from isohop.coldbrew.message_passing import MessageGraph
    from isohop.coldbrew.student import Student, latent_index
    from isohop.coldbrew.teacher import Teacher

    if not isinstance(inputs, Inputs) or not isinstance(messages, MessageGraph):
        raise TypeError("inputs and messages are made by _embed")
    structural = {
        name: torch.zeros(count, dtype=torch.int64)
        for name, (count,) in manifest.structural.items()
    }
    teacher = Teacher(inputs, structural, manifest.settings, manifest.classes)
    _load(teacher, load_file(model / "teacher.safetensors"), model)
    widths = {name: inputs.features[name].shape[1] for name in inputs.entities}
    student = Student(widths, manifest.settings)
    _load(student, load_file(model / "student.safetensors"), model)
    taught = teacher.eval()(messages, inputs.features, {})
    out = dict(taught)
    degree = messages.degrees()
    student.eval()
    for name in inputs.entities:
        alone = torch.nonzero(degree[name] == 0)[:, 0]
        if not len(alone):
            continue
        labelled = manifest.classes and name == (manifest.label or "").rpartition(".")[0]
        if len(alone) == len(degree[name]) and not labelled:
            # No node of this type has an edge, so the student of this type has learned nothing.
            out[name] = _projected(inputs.features[name], manifest)
            continue
        own = {name: inputs.features[name][alone]}
        index = latent_index(taught[name], degree[name] > 0, manifest.settings, manifest.seed)
        guessed = student.first.mlp_of(name, own[name])
        latent = {name: index.latent(guessed)}
        values = student.second.mlp_of(name, torch.cat([own[name], latent[name]], 1))
        out[name] = taught[name].index_copy(0, alone, values)
    return out


def _load(module: nn.Module, state: Mapping[str, Tensor], model: Path) -> None:
    """Raises `IsohopError` where the weights are those of another graph or other features."""
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise IsohopError(
            f"{model} was distilled from another graph or other features. Run the stage 'distill' "
            "again."
        ) from error


def _projected(features: Tensor, manifest: DistillManifest) -> Tensor:
    """Features on their first principal axes: all there is where nothing could be learned."""
    import torch
    from torch.nn import functional

    size = manifest.settings.dimensions
    axes = torch.linalg.eigh(features.T @ features).eigenvectors.flip(1)[:, :size]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    sign = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    projected = features @ (axes * sign)
    padded = functional.pad(projected, (0, size - projected.shape[1]))
    return functional.normalize(padded, dim=1)


def _write(
    graph: Graph,
    folder: Path,
    name: str,
    vectors: Tensor,
    degree: Tensor,
    connected: np.ndarray,
) -> None:
    node = graph.node_type(name)
    values = vectors.numpy().astype(np.float32)
    if not np.isfinite(values).all():
        raise IsohopError(
            f"embeddings of '{name}' are not finite. Nothing is written. Run 'distill' again with "
            "a lower 'distill.learning_rate'."
        )
    nodes = graph.nodes(name, node.key)
    columns = {key: nodes[key] for key in node.key}
    columns["node_id"] = nodes["node_id"]
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()), values.shape[1]
    )
    columns["source"] = pa.array(
        np.where(connected, "teacher", "student").astype(object), pa.string()
    )
    columns["degree"] = pa.array(degree.numpy())
    table = pa.table(columns)
    folder.mkdir(parents=True)
    for part, start in enumerate(range(0, max(table.num_rows, 1), ROWS_A_FILE)):
        pq.write_table(table.slice(start, ROWS_A_FILE), folder / f"part-{part:05d}.parquet")
