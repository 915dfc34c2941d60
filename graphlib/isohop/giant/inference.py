"""Inference: features of all nodes by Ray Data, a piece of the graph's Parquet at a time.

Each piece is read, rendered, encoded and written by one worker, so memory depends on the piece and
not on the graph, and nothing passes through the driver. A piece lies within one row group of one
file, since an engine may spread near ids over all files: to look for a range of ids would be to
read everything for each. The same files for any number of workers, and the same features for any
layout of the graph's files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isohop.engines.progress import SILENT, Progress
from isohop.giant.documents import document_fields, render_documents
from isohop.graph import Graph

if TYPE_CHECKING:
    from isohop.giant.encoder import Encoder

PIECE = 1 << 16
"""Rows of a piece. What precedes it in its row group is decoded again, which is next to nothing."""
BATCH = 1 << 14
"""Rows of a piece that are held at once."""
FEWEST = 64
"""Documents that are encoded at once, at least: BLAS rounds a product of a few rows otherwise than
one of many, and how many are left at the end of a piece is chance."""


@cache
def _opened(graph: str, encoder: str) -> tuple[Graph, Encoder]:
    """Graph and encoder, opened once by each worker process."""
    from isohop.giant.encoder import load_encoder

    return Graph.open(graph), load_encoder(Path(encoder))


def pieces(graph: Graph) -> Iterator[dict[str, Any]]:
    """Every piece: its node type, its file's place among those of the type, its row group and its
    first row there."""
    for node in graph.node_types:
        for number, file in enumerate(_files(graph, node.name)):
            about = pq.read_metadata(file)
            # A file without rows is a piece, so that a type without nodes has its columns.
            groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)] or [0]
            for group, rows in enumerate(groups):
                for start in range(0, max(rows, 1), PIECE):
                    yield {"node_type": node.name, "file": number, "group": group, "start": start}


def _files(graph: Graph, node_type: str) -> list[Path]:
    return sorted((graph.path / "nodes" / node_type).glob("*.parquet"))


def encode_pieces(
    batch: dict[str, Any], graph: str, encoder: str, out: str, label: str | None
) -> dict[str, Any]:
    """What a worker does: read, render, encode and write each piece of ``batch``."""
    opened, loaded = _opened(graph, encoder)
    columns = (batch[column].tolist() for column in ("node_type", "file", "group", "start"))
    for name, file, group, start in zip(*columns, strict=True):
        _encode(opened, loaded, Path(out), label, name, file, group, start)
    return batch


def _encode(
    graph: Graph,
    encoder: Encoder,
    out: Path,
    label: str | None,
    name: str,
    file: int,
    group: int,
    start: int,
) -> None:
    from isohop.giant.encoder import encode_all

    fields = document_fields(graph, name, label)
    names = ["node_id", *(field.name for field in fields)]
    target = out / name / f"part-{file:05d}-{group:05d}-{start:08d}.parquet"
    with FeatureWriter(target, encoder.dimensions) as writer:
        for table in _rows(_files(graph, name)[file], group, start, names):
            documents = render_documents(table, fields, encoder.vocabulary.characters)
            spare = pa.nulls(max(0, FEWEST - len(documents)), pa.large_string())
            prepared = encoder.prepare(pa.concat_arrays([documents, spare]))
            types = np.full(len(prepared), encoder.node_types.index(name), np.int64)
            features = encode_all(encoder, prepared, types)[: len(documents)]
            writer.write(table["node_id"], features)


def _rows(file: Path, group: int, start: int, names: list[str]) -> Iterator[pa.Table]:
    """The columns ``names`` of a piece's rows, a batch at a time."""
    opened = pq.ParquetFile(file)
    if not opened.num_row_groups:
        return
    row = 0
    for batch in opened.iter_batches(BATCH, row_groups=[group], columns=names):
        if row >= start + PIECE:
            return
        if row >= start:
            yield pa.table(batch.select(names))
        row += batch.num_rows


class FeatureWriter:
    """One file of features: ``node_id`` int64, ``feature`` fixed-size-list<float32>."""

    def __init__(self, file: Path, dimensions: int):
        file.parent.mkdir(parents=True, exist_ok=True)
        feature = pa.list_(pa.float32(), dimensions)
        self._schema = pa.schema([("node_id", pa.int64()), ("feature", feature)])
        # Hardly a float comes twice: to look for it is most of the time that writing takes.
        self._writer = pq.ParquetWriter(file, self._schema, use_dictionary=False)

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, node_id: pa.ChunkedArray, features: np.ndarray) -> None:
        values = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        self._writer.write_table(pa.table([node_id, values], schema=self._schema))


def extract(
    graph: Graph, encoder: Path, out: Path, label: str | None, progress: Progress = SILENT
) -> None:
    """Write ``out/<node type>/*.parquet`` for every node type. Ray must be running."""
    import ray
    import ray.data

    # Ray Data tells every step of every plan; what matters is told by `progress`.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = list(pieces(graph))
    arguments = {"graph": graph.path, "encoder": encoder, "out": out}
    encoded = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        encode_pieces,  # type: ignore[arg-type]  # extra arguments come by fn_kwargs
        batch_size=1,
        num_cpus=1,
        fn_kwargs={"label": label, **{n: str(path.resolve()) for n, path in arguments.items()}},
    )
    with progress.task("features of all nodes", len(items)) as bar:
        for _ in encoded.iter_rows():
            bar.advance()
