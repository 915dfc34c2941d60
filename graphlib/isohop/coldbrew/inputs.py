"""What distillation reads: the graph's edges and the features, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from torch import Tensor

from isohop.coldbrew.tables import Table
from isohop.errors import IsohopError
from isohop.giant.targets import label_edge
from isohop.graph import Graph


@dataclass(frozen=True)
class Inputs:
    """``features``: node type -> float32 (nodes, d). ``edges``: edge type -> int64 (2, edges), the
    label's edge type left out. ``entities``: node types that get embeddings."""

    counts: Mapping[str, int]
    edge_types: Mapping[str, tuple[str, str]]
    edges: Mapping[str, Tensor]
    features: Table
    entities: tuple[str, ...]


def read_inputs(graph: Graph, features: Path, label: str | None) -> Inputs:
    """Raises `IsohopError` for features that do not fit the graph or are no numbers."""
    hidden = label_edge(graph, label)
    kept = [edge for edge in graph.edge_types if edge.name != hidden]
    return Inputs(
        counts={node.name: node.count for node in graph.node_types},
        edge_types={edge.name: (edge.source, edge.target) for edge in kept},
        edges={edge.name: torch.from_numpy(graph.edge_index(edge.name)) for edge in kept},
        features={
            node.name: _read_features(features / node.name, node.count) for node in graph.node_types
        },
        entities=tuple(node.name for node in graph.entities),
    )


def _read_features(folder: Path, count: int) -> Tensor:
    if not folder.is_dir():
        raise IsohopError(f"{folder} is missing: run the stage 'features' on this graph.")
    table = ds.dataset(folder, format="parquet").to_table().sort_by("node_id")
    if not np.array_equal(table["node_id"].to_numpy(), np.arange(count)):
        raise IsohopError(
            f"{folder} has {table.num_rows} rows and not one for each of {count} nodes: the graph "
            "was built anew. Run the stage 'features' again."
        )
    width = table.schema.field("feature").type.list_size
    flat = table["feature"].combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks)
    values = flat.flatten().to_numpy(zero_copy_only=False).reshape(count, width)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise IsohopError(
            f"{folder}: the feature of node {row} is not finite. Run the stage 'features' again."
        )
    return torch.from_numpy(values.astype(np.float32))


@dataclass(frozen=True)
class Labels:
    """``classes``: int64 (nodes,), -1 where there is none. Split by seed: masks (nodes,)."""

    entity: str
    classes: Tensor
    count: int
    train: Tensor
    validation: Tensor
    test: Tensor


def read_labels(graph: Graph, label: str, isolated: np.ndarray, seed: int) -> Labels | None:
    """The classes of ``entity.attribute``: 60 % train, 20 % validation, 20 % test; ``isolated``
    nodes (boolean) are test nodes. None where training would see fewer than two classes."""
    entity, _, attribute = label.rpartition(".")
    count = graph.node_type(entity).count
    classes = np.full(count, -1, np.int64)
    hidden = label_edge(graph, label)
    if hidden is not None:
        source, target = graph.edge_index(hidden)
        classes[source] = target
    else:
        column = graph.nodes(entity, [attribute])[attribute]
        if pa.types.is_list(column.type):
            raise IsohopError(
                f"label '{label}' has several values a node, so it cannot be a class. Choose an "
                "attribute with one."
            )
        encoded = pc.dictionary_encode(column.combine_chunks().cast(pa.string()))
        words = encoded.dictionary.to_pylist()
        order = np.argsort(np.array(words, object)) if words else np.zeros(0, np.int64)
        rank = np.empty(len(words), np.int64)
        rank[order] = np.arange(len(words))
        codes = pc.fill_null(encoded.indices, -1).to_numpy()
        classes = np.where(codes >= 0, rank[codes] if len(rank) else -1, -1).astype(np.int64)
    draw = np.random.default_rng([seed, 20]).random(count)
    known = classes >= 0
    test = known & (isolated | (draw >= 0.8))
    validation = known & ~test & (draw >= 0.6)
    train = known & ~test & ~validation
    if len(np.unique(classes[train])) < 2:
        return None
    parts = (torch.from_numpy(part) for part in (classes, train, validation, test))
    tensors = list(parts)
    return Labels(entity, tensors[0], int(classes.max()) + 1, *tensors[1:])
