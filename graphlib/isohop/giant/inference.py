"""Inference: features of documents by a trained encoder, of all nodes by workers of Ray.

Each piece of the graph's files (`engines/pieces.py`) is read, rendered, encoded and written by one
worker. The same files for any number of workers, and the same features for any layout of the
graph's files.

With an earlier graph and the features that the same encoder gave it, a document that stands where
it stood then keeps its feature and is not encoded again. Nor is that of a node whose feature the
encoder's training gave (`cross_fitting.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from isohop.engines.pieces import for_each_piece, part_name, pieces_of, rows_of
from isohop.engines.progress import SILENT, Progress
from isohop.giant.documents import Field, document_fields, render_documents
from isohop.giant.model_folder import reads_texts
from isohop.graph import Graph
from isohop.graph.holdout import entity_of_label

if TYPE_CHECKING:
    from isohop.giant.encoder import Encoder

FEWEST = 64
"""Documents that are encoded at once, at least: BLAS rounds a product of a few rows otherwise than
one of many, and how many are left at the end of a piece is chance."""


@cache
def _opened(graph: str, encoder: str) -> tuple[Graph, Encoder]:
    """Graph and encoder, opened once by each worker process."""
    from isohop.giant.encoder import load_encoder

    return Graph.open(graph), load_encoder(Path(encoder))


def pieces(graph: Graph, texts: bool = False) -> Iterator[dict[str, Any]]:
    """The pieces of the graph's node files, as of `pieces_of`, each with its ``node_type``."""
    for node in graph.node_types:
        files = sorted((graph.path / "nodes" / node.name).glob("*.parquet"))
        for piece in pieces_of([file.resolve() for file in files], texts):
            yield {"node_type": node.name, **piece}


def encode_piece(
    piece: dict[str, Any],
    graph: str,
    encoder: str,
    out: str,
    label: str | None,
    before: tuple[str, str] | None = None,
    told: str | None = None,
) -> int:
    """What a worker does: read, render, encode and write a piece; how many documents it encoded.
    ``before``: an earlier graph, and its features by the same encoder. ``told``: a file of features
    of nodes of the label's entity."""
    opened, loaded = _opened(graph, encoder)
    kept = None if before is None else (Graph.open(before[0]), Path(before[1]))
    name = piece["node_type"]
    fields = document_fields(opened, name, label)
    encoded = 0
    with FeatureWriter(Path(out) / name / part_name(piece), loaded.dimensions) as writer:
        for table in rows_of(piece, ["node_id", *(field.name for field in fields)]):
            documents = render_documents(table, fields, loaded.vocabulary.characters)
            ids = table["node_id"].to_numpy()
            features = np.empty((len(ids), loaded.dimensions), np.float32)
            new = np.ones(len(ids), bool)
            if kept is not None:
                new = ~_take_kept(*kept, name, label, loaded, ids, documents, features)
            encoded += int(new.sum())
            if told is not None and label is not None and name == entity_of_label(label):
                new &= ~_take_told(told, ids, features)
            if new.any():
                features[new] = encode_documents(loaded, name, documents.filter(pa.array(new)))
            writer.write(table["node_id"], features)
    return encoded


def _take_kept(
    graph: Graph,
    of_all: Path,
    node_type: str,
    label: str | None,
    encoder: Encoder,
    ids: np.ndarray,
    documents: pa.Array,
    features: np.ndarray,
) -> np.ndarray:
    """Fill ``features`` (rows, d) of the nodes ``ids`` whose ``documents`` are as before; which
    they are, boolean (rows,). ``graph`` and ``of_all``: the earlier graph and its features."""
    fields = document_fields(graph, node_type, label)
    nodes = _among(ids, graph.path / "nodes" / node_type, [field.name for field in fields])
    held = _among(ids, of_all / node_type, ["feature"])
    known = nodes["node_id"].to_numpy()
    if not len(known) or not np.array_equal(known, held["node_id"].to_numpy()):
        return np.zeros(len(ids), bool)
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    were = render_documents(nodes, fields, encoder.vocabulary.characters).take(pa.array(place))
    same = pc.equal(documents, were).fill_null(False)
    neither = pc.and_(pc.is_null(documents), pc.is_null(were))
    kept = pc.or_(same, neither).to_numpy(zero_copy_only=False) & (known[place] == ids)
    flat = held["feature"].combine_chunks().flatten().to_numpy()
    features[kept] = flat.reshape(len(known), -1)[place[kept]]
    return kept


def _take_told(file: str, ids: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Fill ``features`` (rows, d) of the nodes ``ids`` that a file has; which they are, boolean
    (rows,)."""
    held = _among(ids, Path(file), ["feature"])
    known = held["node_id"].to_numpy()
    if not len(known):
        return np.zeros(len(ids), bool)
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    told = known[place] == ids
    flat = held["feature"].combine_chunks().flatten().to_numpy()
    features[told] = flat.reshape(len(known), -1)[place[told]]
    return told


def _among(ids: np.ndarray, path: Path, columns: Sequence[str]) -> pa.Table:
    """``node_id`` and other columns of the nodes from the first to the last of ``ids``, in their
    order."""
    among = (pc.field("node_id") >= int(ids.min())) & (pc.field("node_id") <= int(ids.max()))
    found = ds.dataset(path, format="parquet").to_table(["node_id", *columns], filter=among)
    return found.sort_by("node_id").combine_chunks()


def encode_rows(
    encoder: Encoder, node_type: str, table: pa.Table, fields: Sequence[Field]
) -> np.ndarray:
    """The features of ``table``'s rows, float32 (rows, d)."""
    documents = render_documents(table, fields, encoder.vocabulary.characters)
    return encode_documents(encoder, node_type, documents)


def encode_documents(encoder: Encoder, node_type: str, documents: pa.Array) -> np.ndarray:
    """The features of ``documents``, large_string (rows,): float32 (rows, d)."""
    from isohop.giant import encoder as of_encoder

    last = len(documents) % of_encoder.ENCODED_AT_ONCE
    spare = pa.nulls(max(0, FEWEST - last) if last else 0, pa.large_string())
    prepared = encoder.prepare(pa.concat_arrays([documents, spare]))
    types = np.full(len(prepared), encoder.node_types.index(node_type), np.int64)
    return of_encoder.encode_all(encoder, prepared, types)[: len(documents)]


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
    graph: Graph,
    encoder: Path,
    out: Path,
    label: str | None,
    progress: Progress = SILENT,
    before: tuple[Path, Path] | None = None,
    told: Path | None = None,
) -> dict[str, int]:
    """Write ``out/<node type>/*.parquet`` for every node type; how many documents of each were
    encoded. ``before`` and ``told``: as `encode_piece` has them. Ray must be running."""
    arguments = {"graph": graph.path, "encoder": encoder, "out": out}
    more: dict[str, Any] = {name: str(path.resolve()) for name, path in arguments.items()}
    more |= {"label": label, "before": before and tuple(str(path.resolve()) for path in before)}
    more["told"] = None if told is None else str(told.resolve())
    encoded = dict.fromkeys((node.name for node in graph.node_types), 0)
    every = pieces(graph, reads_texts(encoder))
    for piece, new in for_each_piece(every, encode_piece, more, "features of all nodes", progress):
        encoded[piece["node_type"]] += new
    return encoded
