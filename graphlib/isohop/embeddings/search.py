"""Who is near whom: exact nearest neighbours by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isohop.embeddings.contract import MEASURES
from isohop.embeddings.reader import read_embeddings
from isohop.engines.keys import by_place, places
from isohop.errors import InvalidInput, IsohopError, Problem

_BLOCK_VALUES = 1 << 24
"""Similarities held at once: 64 MB."""


def cosine_nearest(
    queries: np.ndarray, vectors: np.ndarray, k: int, exclude: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` rows of ``vectors`` with the largest cosine to each query, exactly.

    ``queries`` (q, d) and ``vectors`` (n, d) are float32. ``exclude``, int64 (q,), names one row
    of ``vectors`` to leave out for each query: itself. Returns rows int64 (q, k') and cosines
    float32 (q, k'), best first, ties by row, where k' is ``k`` or as many rows as there are. The
    cosine with a vector of zeros is 0. Never holds more than a block of similarities, so memory is
    O(n + d n), not O(q n).
    """
    if k < 1:
        raise IsohopError(f"The 'k' parameter must be 1 or more. Got {k} instead.")
    queries, vectors = _unit(queries), _unit(vectors)
    available = len(vectors) - (0 if exclude is None else 1)
    k = max(0, min(k, available))
    rows = np.empty((len(queries), k), np.int64)
    cosines = np.empty((len(queries), k), np.float32)
    block = max(1, _BLOCK_VALUES // max(1, len(vectors)))
    for start in range(0, len(queries) if k else 0, block):
        part = slice(start, start + block)
        similarity = queries[part] @ vectors.T
        if exclude is not None:
            similarity[np.arange(len(similarity)), exclude[part]] = -np.inf
        threshold = np.partition(similarity, -k, axis=1)[:, -k]
        for offset, row in enumerate(similarity):
            # All that reach the k-th value, so that ties at the edge are broken by row as well.
            candidates = np.flatnonzero(row >= threshold[offset])
            best = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
            rows[start + offset] = best
            cosines[start + offset] = row[best]
    return rows, cosines


def nearest(
    path: str | Path,
    entity: str | None = None,
    *,
    ids: Sequence[int] | None = None,
    keys: Sequence[Any] | None = None,
    k: int = 10,
    version: str | int = "latest",
) -> pa.Table:
    """The ``k`` nearest neighbours of some nodes among their own entity, the node itself left out.

    The nodes are given by ``ids`` (node ids) or by ``keys`` (single values, or tuples for a key of
    several columns). ``path``, ``entity`` and ``version`` as in `read_embeddings`.

    Returns a row a pair, in the order asked: ``query`` int64 (the node id asked for), ``rank``
    int64 from 1, ``similarity`` float32 (cosine), ``node_id`` int64 and the key's columns of the
    neighbour. Raises `IsohopError` for unknown ids or keys, all of them at once.
    """
    if (ids is None) == (keys is None):
        raise IsohopError("nearest needs either 'ids' or 'keys', not both.")
    table = read_embeddings(path, entity, version=version)
    key = [name for name in table.column_names if name not in MEASURES]
    if keys is not None:
        wanted = _rows_of_keys(table.select(key), keys)
    else:
        given = np.asarray(ids)
        if given.size and not np.issubdtype(given.dtype, np.integer):
            raise IsohopError(f"Node ids are whole numbers. Got {given.dtype} instead.")
        wanted = given.astype(np.int64)
        unknown = wanted[(wanted < 0) | (wanted >= table.num_rows)]
        if len(unknown):
            problems = [Problem(f"node {node}", "there is no such node.") for node in unknown]
            raise InvalidInput(f"Node ids go from 0 to {table.num_rows - 1}", problems)
    vectors = embedding_matrix(table)
    rows, cosines = cosine_nearest(vectors[wanted], vectors, k, exclude=wanted)
    neighbours = table.select(["node_id", *key]).take(pa.array(rows.ravel()))
    columns = {
        "query": pa.array(np.repeat(wanted, rows.shape[1])),
        "rank": pa.array(np.tile(np.arange(1, rows.shape[1] + 1), len(wanted))),
        "similarity": pa.array(cosines.ravel()),
    }
    names = [*columns, *neighbours.column_names]
    return pa.Table.from_arrays([*columns.values(), *neighbours.columns], names=names)


def embedding_matrix(table: pa.Table) -> np.ndarray:
    """The ``embedding`` column as a float32 array (rows, dimensions)."""
    column = table.column("embedding")
    size = column.type.list_size
    if table.num_rows == 0:
        return np.empty((0, size), np.float32)
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]).reshape(-1, size)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def _as_stored(values: list[Any], wanted: pa.DataType) -> pa.Array:
    """Of a fraction where whole numbers are wanted pyarrow takes what is before the point; here it
    is an error as any other value that is none."""
    made = pa.array(values, wanted)
    if pa.types.is_integer(wanted):
        pa.array(values).cast(wanted)
    return made


def _rows_of_keys(table: pa.Table, keys: Sequence[Any]) -> np.ndarray:
    """The row of each key; raises `InvalidInput` with all that are not there."""
    names = table.column_names
    tuples = [key if isinstance(key, tuple) else (key,) for key in keys]
    problems = [
        Problem(f"key {key!r}", f"a key has {len(names)} values: {', '.join(names)}.")
        for key, values in zip(keys, tuples, strict=True)
        if len(values) != len(names)
    ]
    if problems:
        raise InvalidInput("Keys cannot be looked up", problems)
    order = np.arange(len(tuples))
    try:
        columns = [
            _as_stored([values[position] for values in tuples], table.schema.field(name).type)
            for position, name in enumerate(names)
        ]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        types = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise IsohopError(f"Keys cannot be looked up: {error}. The key is ({types}).") from error
    asked = by_place(columns, asked=order)
    numbered = by_place(table.columns, row=np.arange(table.num_rows))
    found = asked.join(numbered, keys=places(len(names)), join_type="left outer").sort_by("asked")
    missing = pc.filter(found.column("asked"), pc.is_null(found.column("row"))).to_pylist()
    if missing:
        problems = [Problem(f"key {keys[row]!r}", "there is no such node.") for row in missing]
        raise InvalidInput("Keys cannot be looked up", problems)
    return np.asarray(found.column("row"), dtype=np.int64)
