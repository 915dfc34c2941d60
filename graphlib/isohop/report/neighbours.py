"""Nearest neighbours of a few nodes by name: what the embeddings take to be alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isohop.embeddings.search import cosine_nearest
from isohop.report.colouring import Colouring
from isohop.report.naming import Names


@dataclass(frozen=True)
class Neighbour:
    """One node in a list, with its colour on the map."""

    name: str
    key: str
    colour: str
    similarity: float


@dataclass(frozen=True)
class Example:
    """A node and its nearest neighbours, nearest first."""

    name: str
    key: str
    colour: str
    degree: int
    source: str
    neighbours: tuple[Neighbour, ...]


def choose_examples(degree: np.ndarray, student: np.ndarray, wanted: int) -> np.ndarray:
    """Nodes to show: from the best connected downwards, and one that only the student knows.

    ``degree`` int64 (nodes,) and ``student`` bool (nodes,). Ties go to the lower node id.
    """
    taught = np.flatnonzero(~student)
    taught = taught[np.lexsort((taught, -degree[taught]))]
    alone = np.flatnonzero(student)[:1] if wanted > 1 or len(taught) == 0 else np.array([], int)
    room = min(wanted - len(alone), len(taught))
    # Cubed, so that most come from the well-connected ones, whose names a reader may know.
    places = (np.linspace(0, 1, max(0, room)) ** 3 * (len(taught) - 1)).astype(np.int64)
    chosen = list(dict.fromkeys([*taught[places].tolist(), *alone.tolist()]))
    return np.array(chosen, dtype=np.int64)


def list_neighbours(
    vectors: np.ndarray,
    nodes: np.ndarray,
    names: Names,
    degree: np.ndarray,
    source: np.ndarray,
    colouring: Colouring,
    k: int,
) -> tuple[Example, ...]:
    """The ``k`` nearest neighbours by cosine of some ``nodes`` among all of their entity."""
    if len(nodes) == 0:
        return ()
    rows, cosines = cosine_nearest(vectors[nodes], vectors, k, exclude=nodes)
    found = rows.ravel()
    colours = np.array(colouring.colours)
    neighbours = [
        Neighbour(name, key, str(colour), float(similarity))
        for name, key, colour, similarity in zip(
            names.of(found),
            names.keys_of(found),
            colours[colouring.groups[found]],
            cosines.ravel(),
            strict=True,
        )
    ]
    width = rows.shape[1]
    return tuple(
        Example(
            name=name,
            key=key,
            colour=str(colours[colouring.groups[node]]),
            degree=int(degree[node]),
            source=str(source[node]),
            neighbours=tuple(neighbours[number * width : (number + 1) * width]),
        )
        for number, (node, name, key) in enumerate(
            zip(nodes.tolist(), names.of(nodes), names.keys_of(nodes), strict=True)
        )
    )
