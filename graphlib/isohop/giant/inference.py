"""Inference: features of all nodes by Ray Data, a range of node ids at a time.

Each range is read from the graph's Parquet, rendered, encoded and written by one worker,
so memory depends on the range and not on the graph, and nothing passes through the driver. A range
writes one file named after its first id: the same files for any number of workers.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from isohop.engines.progress import SILENT, Progress
from isohop.giant.documents import document_fields, render_documents
from isohop.graph import Graph

if TYPE_CHECKING:
    from isohop.giant.encoder import Encoder

RANGE = 16_384


@cache
def _opened(graph: str, encoder: str) -> tuple[Graph, Encoder]:
    """Graph and encoder, opened once by each worker process."""
    from isohop.giant.encoder import load_encoder

    return Graph.open(graph), load_encoder(Path(encoder))


def encode_ranges(
    batch: dict[str, Any], graph: str, encoder: str, out: str, label: str | None
) -> dict[str, Any]:
    """What a worker does: read, render, encode and write each range of ``batch``."""
    opened, loaded = _opened(graph, encoder)
    for name, start in zip(batch["node_type"], batch["start"], strict=True):
        _encode(opened, loaded, Path(out), label, str(name), int(start))
    return batch


def _encode(
    graph: Graph, encoder: Encoder, out: Path, label: str | None, name: str, start: int
) -> None:
    from isohop.giant.encoder import encode_all

    fields = document_fields(graph, name, label)
    wanted = (ds.field("node_id") >= start) & (ds.field("node_id") < start + RANGE)
    table = (
        ds.dataset(graph.path / "nodes" / name, format="parquet")
        .to_table(columns=["node_id", *(field.name for field in fields)], filter=wanted)
        .sort_by("node_id")
    )
    documents = render_documents(table, fields, encoder.vocabulary.characters)
    types = np.full(len(documents), encoder.node_types.index(name), np.int64)
    features = encode_all(encoder, encoder.prepare(documents), types)
    write_features(out / name / f"part-{start:012d}.parquet", table["node_id"], features)


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
    import ray.data

    # Ray Data tells every step of every plan; what matters is told by `progress`.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ranges = [
        {"node_type": node.name, "start": start}
        for node in graph.node_types
        # A type without nodes has one empty range, so that its columns are there.
        for start in range(0, max(node.count, 1), RANGE)
    ]
    arguments = {"graph": graph.path, "encoder": encoder, "out": out}
    encoded = ray.data.from_items(ranges, override_num_blocks=len(ranges)).map_batches(
        encode_ranges,  # type: ignore[arg-type]  # extra arguments come by fn_kwargs
        batch_size=1,
        num_cpus=1,
        fn_kwargs={"label": label, **{n: str(path.resolve()) for n, path in arguments.items()}},
    )
    with progress.task("features of all nodes", len(ranges)) as bar:
        for _ in encoded.iter_rows():
            bar.advance()
