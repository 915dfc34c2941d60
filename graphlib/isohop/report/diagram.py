"""The logical graph as a drawing: boxes for node types, lines for edge types.

Placed by stress majorisation (Gansner, Koren, North, "Graph drawing by stress majorization", GD
2004) from a classical scaling of the hop distances, so the same graph is always drawn the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from isohop.graph.dataset import EdgeType, GraphManifest, NodeType

_WIDTH = 1040.0
_HOP_X, _HOP_Y = 250.0, 150.0
_HEIGHT = 46.0
_MARGIN = 34.0
_CHARACTER = 7.6
"""Rough width of one character of a node type's name."""
_SMALL, _LINE = 6.2, 15.0
"""Likewise of a label's, and its height."""
_ROOM = 26.0, 34.0
"""Between boxes, beside and above each other; labels need none."""


@dataclass(frozen=True)
class Box:
    """A node type, by its centre and size."""

    name: str
    caption: str
    shared: bool
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Link:
    """An edge type as a Bézier curve from border to border, its label at ``(x, y)``.

    ``points``: the control points (3 or 4, 2).
    """

    points: np.ndarray
    role: str
    """Empty where the target's name says it already."""
    count: int
    thickness: float
    functional: bool
    title: str
    x: float
    y: float

    @property
    def path(self) -> str:
        """For SVG."""
        kind = "Q" if len(self.points) == 3 else "C"
        start, *others = (f"{x:.1f} {y:.1f}" for x, y in self.points)
        return f"M{start}{kind}{' '.join(others)}"


@dataclass(frozen=True)
class Diagram:
    """All of it, with the corner and the size of the view box."""

    left: float
    top: float
    width: float
    height: float
    boxes: tuple[Box, ...]
    links: tuple[Link, ...]


def draw_graph(manifest: GraphManifest) -> Diagram:
    """Lay out a graph's node types and edge types."""
    nodes = manifest.node_types
    captions = [f"{node.count:,} {'values' if node.shared else 'nodes'}" for node in nodes]
    sizes = np.array(
        [
            [max(len(node.name), 0.85 * len(caption)) * _CHARACTER + 30, _HEIGHT]
            for node, caption in zip(nodes, captions, strict=True)
        ]
    ).reshape(-1, 2)
    places = _without_overlaps(_places(nodes, manifest.edge_types), sizes, _ROOM)
    boxes = {
        node.name: Box(node.name, caption, node.shared, *place.tolist(), *size.tolist())
        for node, caption, place, size in zip(nodes, captions, places, sizes, strict=True)
    }
    links = _legible(_links(manifest.edge_types, boxes))
    low, high = _extent(places, sizes, links)
    width = max(_WIDTH, float(high[0] - low[0]) + 2 * _MARGIN)
    height = float(high[1] - low[1]) + 2 * _MARGIN
    left, top = float(low[0] + high[0] - width) / 2, float(low[1]) - _MARGIN
    return Diagram(left, top, width, height, tuple(boxes.values()), tuple(links))


def _extent(
    places: np.ndarray, sizes: np.ndarray, links: Sequence[Link]
) -> tuple[np.ndarray, np.ndarray]:
    """The corners (2,) of all that is drawn: boxes, curves and labels."""
    if not len(places):
        return np.zeros(2), np.ones(2)
    shares = np.linspace(0, 1, 17)
    curves = [_on_curve(link.points, share) for link in links for share in shares]
    centres, labels = _labels(links)
    middle = np.concatenate([places, centres, *(point[None] for point in curves)])
    half = np.zeros_like(middle)
    half[: len(places) + len(links)] = np.concatenate([sizes, labels]) / 2
    return (middle - half).min(axis=0), (middle + half).max(axis=0)


def _places(nodes: Sequence[NodeType], edges: Sequence[EdgeType]) -> np.ndarray:
    """Centres (node types, 2) whose distances follow the hop distances."""
    number = {node.name: position for position, node in enumerate(nodes)}
    count = len(nodes)
    if count < 2:
        return np.zeros((count, 2))
    pairs = np.array(
        [(number[edge.source], number[edge.target]) for edge in edges], dtype=np.int64
    ).reshape(-1, 2)
    adjacency = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    hops = shortest_path(adjacency.tocsr(), directed=False, unweighted=True)
    finite = hops[np.isfinite(hops)]
    hops[~np.isfinite(hops)] = finite.max() + 1.0
    # Values hang close to their entity; leaves of one centre still need room around it.
    weight = 1.0 / np.maximum(hops, 1.0) ** 2
    np.fill_diagonal(weight, 0.0)
    centred = np.eye(count) - 1.0 / count
    values, vectors = np.linalg.eigh(-0.5 * centred @ hops**2 @ centred)
    places = vectors[:, -2:][:, ::-1] * np.sqrt(np.maximum(values[-2:][::-1], 1e-3))
    places *= np.where(places[np.abs(places).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    # Types with the same neighbours fall on one point; a small spiral tells them apart.
    turn = np.arange(count) * 2.399963
    places = places + 0.3 * np.column_stack([np.cos(turn), np.sin(turn)])
    laplacian = np.diag(weight.sum(axis=1)) - weight
    inverse = np.linalg.pinv(laplacian)
    for _ in range(300):
        difference = places[:, None] - places[None]
        distance = np.maximum(np.linalg.norm(difference, axis=2), 1e-9)
        pull = (weight * hops / distance)[:, :, None] * difference
        places = inverse @ pull.sum(axis=1)
    scaled: np.ndarray = places * [_HOP_X, _HOP_Y]
    return scaled


def _without_overlaps(
    places: np.ndarray, sizes: np.ndarray, room: tuple[float, float]
) -> np.ndarray:
    """Push boxes apart, along the shorter way, until none touches another."""
    places = places.copy()
    for _ in range(500):
        difference = places[:, None] - places[None]
        needed = (sizes[:, None] + sizes[None]) / 2 + room
        overlap = needed - np.abs(difference)
        touching = (overlap > 0).all(axis=2)
        np.fill_diagonal(touching, False)
        if not touching.any():
            break
        sideways = overlap[:, :, 0] < overlap[:, :, 1] * 1.5
        direction = np.where(difference >= 0, 1.0, -1.0)
        order = np.arange(len(places))
        tied = difference == 0
        direction[tied] = np.sign(order[:, None] - order[None])[:, :, None].repeat(2, 2)[tied]
        move = np.where(
            np.stack([sideways, ~sideways], axis=2), direction * (overlap * 0.27 + 0.5), 0.0
        )
        places += np.where(touching[:, :, None], move, 0.0).sum(axis=1)
    return places


def _links(edges: Sequence[EdgeType], boxes: dict[str, Box]) -> list[Link]:
    between: Counter[frozenset[str]] = Counter()
    total = Counter(frozenset((edge.source, edge.target)) for edge in edges)
    largest = max((edge.count for edge in edges), default=1)
    links = []
    for edge in edges:
        pair = frozenset((edge.source, edge.target))
        position = between[pair]
        between[pair] += 1
        source, target = boxes[edge.source], boxes[edge.target]
        if edge.source == edge.target:
            points = _loop(source, position)
        else:
            bend = 56.0 * (position - (total[pair] - 1) / 2)
            # A bend is measured from one side, whichever way round the edge type is written.
            points = _curve(source, target, bend if edge.source < edge.target else -bend)
        x, y = _on_curve(points, 0.5).tolist()
        links.append(
            Link(
                points=points,
                role="" if target.shared and target.name.endswith(f".{edge.role}") else edge.role,
                count=edge.count,
                thickness=1.2 + 2.4 * math.log1p(edge.count) / math.log1p(max(largest, 1) + 1),
                functional=edge.functional,
                title=f"{edge.source} — {edge.role} — {edge.target}: {edge.count:,} edges",
                x=x,
                y=y,
            )
        )
    return links


def _legible(links: Sequence[Link]) -> list[Link]:
    """With labels that do not lie over each other."""
    moved = _without_overlaps(*_labels(links), (0.0, 0.0))
    return [
        replace(link, x=float(x), y=float(y)) for link, (x, y) in zip(links, moved, strict=True)
    ]


def _labels(links: Sequence[Link]) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sizes (links, 2) of the labels."""
    texts = [f"{link.role} {link.count:,}".strip() for link in links]
    sizes = np.array([[_SMALL * len(text), _LINE] for text in texts]).reshape(-1, 2)
    return np.array([[link.x, link.y] for link in links]).reshape(-1, 2), sizes


def _curve(source: Box, target: Box, bend: float) -> np.ndarray:
    ends = np.array([[source.x, source.y], [target.x, target.y]])
    along = ends[1] - ends[0]
    across = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-9)
    control = ends.mean(axis=0) + across * bend
    return np.array([_border(source, control), control, _border(target, control)])


def _on_curve(points: np.ndarray, share: float) -> np.ndarray:
    """The point (2,) at a share of the way along a Bézier curve (de Casteljau)."""
    while len(points) > 1:
        points = (1 - share) * points[:-1] + share * points[1:]
    point: np.ndarray = points[0]
    return point


def _border(box: Box, towards: np.ndarray) -> np.ndarray:
    """Where the line from the box's centre leaves it, and a little beyond."""
    centre = np.array([box.x, box.y])
    direction = towards - centre
    half = np.array([box.width / 2 + 3, box.height / 2 + 3])
    scale = float(np.min(half / np.maximum(np.abs(direction), 1e-9)))
    border: np.ndarray = centre + direction * min(scale, 1.0)
    return border


def _loop(box: Box, position: int) -> np.ndarray:
    half, rise = 20.0 + 16 * position, 52.0 + 30 * position
    top = box.y - box.height / 2 - 3
    sides = [-half, -half - 18, half + 18, half]
    return np.column_stack([np.add(box.x, sides), [top, top - rise, top - rise, top]])
