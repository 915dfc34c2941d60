"""What to call a node in front of a person: a text attribute of it, else its key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isohop.embeddings.contract import MEASURES
from isohop.graph.dataset import Graph

_LONGEST = 64
_TITLE_LENGTH = 120
"""A text attribute longer than this on average is a description rather than a name."""


@dataclass(frozen=True)
class Names:
    """Names of an entity's nodes; row i is node i."""

    keys: pa.Array | pa.ChunkedArray
    titles: pa.Array | None

    @classmethod
    def of_entity(cls, graph: Graph | None, entity: str, embeddings: pa.Table) -> Names:
        """The first text attribute that is short enough to be a name, and the key."""
        columns = [name for name in embeddings.column_names if name not in MEASURES]
        keys = [as_text(embeddings.column(name)) for name in columns]
        key = pc.binary_join_element_wise(*keys, " · ") if len(keys) > 1 else keys[0]
        return cls(key, _titles(graph, entity, embeddings.num_rows))

    def of(self, nodes: np.ndarray) -> list[str]:
        """Names of some nodes: the title, or the key where there is none."""
        rows = pa.array(nodes)
        keys = [shorten(key) for key in self.keys.take(rows).to_pylist()]
        if self.titles is None:
            return keys
        titles = self.titles.take(rows).to_pylist()
        return [shorten(t) if t else key for t, key in zip(titles, keys, strict=True)]

    def keys_of(self, nodes: np.ndarray) -> list[str]:
        """Keys of some nodes; empty where the name is the key already."""
        if self.titles is None:
            return [""] * len(nodes)
        return [shorten(key, 24) for key in self.keys.take(pa.array(nodes)).to_pylist()]


def shorten(text: str | None, longest: int = _LONGEST) -> str:
    """One line of at most ``longest`` characters, without control characters."""
    start = (text or "")[: 4 * longest]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def first_values(column: pa.ChunkedArray) -> pa.Array:
    """The column; of a multi-valued attribute the first value, NULL where there is none."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if not pa.types.is_list(array.type):
        return array
    some = pc.fill_null(pc.greater(pc.list_value_length(array), 0), False)
    starts = pc.if_else(some, array.offsets.slice(0, len(array)), pa.scalar(None, pa.int32()))
    return array.values.take(starts)


def as_text(column: pa.ChunkedArray) -> pa.Array:
    """The first values as strings; NULL stays NULL."""
    array = first_values(column)
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return pa.array([None if v is None else v.hex() for v in array.to_pylist()], pa.string())
    return pc.cast(array, pa.string())


def _titles(graph: Graph | None, entity: str, rows: int) -> pa.Array | None:
    if graph is None or entity not in {node.name for node in graph.node_types}:
        return None
    node_type = graph.node_type(entity)
    texts = [attribute.name for attribute in node_type.attributes if attribute.kind == "text"]
    if not texts or node_type.count != rows:
        return None
    for name in texts:
        column = as_text(graph.nodes(entity, [name]).column(name))
        length = pc.mean(pc.utf8_length(column)).as_py()
        if length is not None and length <= _TITLE_LENGTH:
            return column
    return as_text(graph.nodes(entity, texts[:1]).column(texts[0]))
