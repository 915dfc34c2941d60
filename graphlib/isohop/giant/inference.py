"""Inference: features of all nodes by Ray Data, a range of node ids at a time.

Each range is read from the graph's Parquet, rendered, encoded and written by one worker,
so memory depends on the range and not on the graph, and nothing passes through the driver. A range
writes one file named after its first id: the same files for any number of workers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from isohop.engines.progress import SILENT, Progress
from isohop.giant.documents import document_fields, render_documents
from isohop.graph import Graph

RANGE = 16_384


class EncodeRange:
    """The stateful worker: opens the graph and the encoder once."""

    def __init__(self, graph: str, encoder: str, out: str, label: str | None, threads: int):
        import torch

        from isohop.giant.encoder import load_encoder

        torch.set_num_threads(threads)
        self.graph = Graph.open(graph)
        self.encoder = load_encoder(Path(encoder))
        self.out = Path(out)
        self.label = label

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for name, start in zip(batch["node_type"], batch["start"], strict=True):
            self._encode(str(name), int(start))
        return batch

    def _encode(self, name: str, start: int) -> None:
        import numpy as np

        from isohop.giant.training import encode_all

        fields = document_fields(self.graph, name, self.label)
        wanted = (ds.field("node_id") >= start) & (ds.field("node_id") < start + RANGE)
        table = (
            ds.dataset(self.graph.path / "nodes" / name, format="parquet")
            .to_table(columns=["node_id", *(field.name for field in fields)], filter=wanted)
            .sort_by("node_id")
        )
        documents = render_documents(table, fields, self.encoder.vocabulary.characters)
        marker = self.encoder.node_types.index(name)
        types = np.full(len(documents), marker, np.int64)
        features = encode_all(self.encoder, self.encoder.prepare(documents), types)
        write_features(self.out / name / f"part-{start:012d}.parquet", table["node_id"], features)


def write_features(file: Path, node_id: pa.ChunkedArray, features: Any) -> None:
    """``node_id`` int64, ``feature`` fixed-size-list<float32>."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"node_id": node_id, "feature": values}), file)


def extract(
    graph: Graph, encoder: Path, out: Path, label: str | None, progress: Progress = SILENT
) -> None:
    """Write ``out/<node type>/*.parquet`` for every node type. Ray must be running."""
    import ray

    ranges = [
        {"node_type": node.name, "start": start}
        for node in graph.node_types
        # A type without nodes has one empty range, so that its columns are there.
        for start in range(0, max(node.count, 1), RANGE)
    ]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    encoded = ray.data.from_items(ranges, override_num_blocks=len(ranges)).map_batches(
        EncodeRange,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
        fn_constructor_args=(str(graph.path), str(encoder), str(out), label, 1),
    )
    with progress.task("features of all nodes", len(ranges)) as bar:
        for _ in encoded.iter_rows():
            bar.advance()
