"""Small graphs with known structure, for tests of what is learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from isohop.graph import EdgeType, Graph, GraphManifest, NodeType
from isohop.graph.dataset import Attribute

TOPICS = ("river", "engine", "violin", "harvest")


def library(path: Path, books: int = 240, seed: int = 0, *, edges: bool = True) -> Graph:
    """Books on four topics, each with words of its topic, linked to readers of that topic and to
    the shared value of its shelf. Some books have no edges at all; one has no text."""
    draw = np.random.default_rng(seed)
    topic = draw.integers(0, len(TOPICS), books)
    words = [[f"{name}{index}" for index in range(8)] for name in TOPICS]
    titles: list[str | None] = [
        " ".join(draw.choice(words[t], 4)) + " " + str(draw.choice(["old", "new", "blue"]))
        for t in topic
    ]
    titles[0] = None
    readers = 40
    reader_topic = np.arange(readers) % len(TOPICS)
    linked = np.arange(books) % 12 != 5
    pairs = []
    for book in np.flatnonzero(linked) if edges else []:
        mine = np.flatnonzero(reader_topic == topic[book])
        pairs += [(book, reader) for reader in draw.choice(mine, 3, replace=False)]
    reads = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    shelved = np.flatnonzero(linked) if edges else np.zeros(0, np.int64)
    shelf = np.stack([shelved, topic[shelved]], 1)
    nodes = {
        "book": pa.table(
            {
                "node_id": np.arange(books),
                "id": np.arange(books) + 100,
                "title": pa.array(titles, pa.string()),
                "topic": pa.array([TOPICS[t] for t in topic]),
            }
        ),
        "reader": pa.table(
            {
                "node_id": np.arange(readers),
                "id": [f"r{index:02d}" for index in range(readers)],
                "taste": pa.array([f"likes {TOPICS[t]}0 {TOPICS[t]}1" for t in reader_topic]),
            }
        ),
        "book.shelf": pa.table(
            {"node_id": np.arange(4), "value": pa.array([f"shelf {t}" for t in range(4)])}
        ),
    }
    tables = {
        "book--reads--reader": pa.table(
            {"src": reads[:, 0], "dst": reads[:, 1], "count": np.ones(len(reads), np.int64)}
        ),
        "book--shelf--book.shelf": pa.table(
            {"src": shelf[:, 0], "dst": shelf[:, 1], "count": np.ones(len(shelf), np.int64)}
        ),
    }
    text = Attribute(name="title", kind="text", type="string")
    manifest = GraphManifest(
        name="library",
        certificate="0" * 32,
        node_types=(
            NodeType(
                name="book",
                key=("id",),
                attributes=(text, Attribute(name="topic", kind="category", type="string")),
                count=books,
            ),
            NodeType(
                name="reader",
                key=("id",),
                attributes=(Attribute(name="taste", kind="text", type="string"),),
                count=readers,
            ),
            NodeType(name="book.shelf", key=("value",), count=4, shared=True),
        ),
        edge_types=(
            EdgeType(source="book", role="reads", target="reader", count=len(reads)),
            EdgeType(
                source="book",
                role="shelf",
                target="book.shelf",
                count=len(shelf),
                functional=True,
            ),
        ),
    )
    return Graph.write(path, manifest, nodes, tables)
