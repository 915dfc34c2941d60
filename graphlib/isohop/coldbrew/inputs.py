"""What distillation reads: the graph's edges and the features, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch
from torch import Tensor

from isohop.coldbrew.tables import Table
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.holdout import label_edge


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
    if flat.null_count:
        row = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        raise IsohopError(
            f"{folder}: column 'feature' of node {row} is null. Run the stage 'features' again."
        )
    values = flat.flatten().to_numpy(zero_copy_only=False).reshape(count, width)
    with np.errstate(over="ignore"):  # what is too large is not finite then
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        row, place = np.argwhere(~np.isfinite(values))[0]
        raise IsohopError(
            f"{folder}: column 'feature' of node {row} is {values[row, place]} at place "
            f"{place + 1} of {width}. Run the stage 'features' again."
        )
    return torch.from_numpy(values)
