"""An entity's embeddings as points on paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isohop.report.colouring import Colouring

_WIDTH, _HEIGHT, _PAD = 720.0, 520.0, 16.0
_COMPONENTS = 30
_FEWEST_FOR_TSNE = 40


@dataclass(frozen=True)
class Point:
    """A node; ``hollow`` where its embedding is the student's."""

    x: float
    y: float
    name: str
    hollow: bool


@dataclass(frozen=True)
class PointGroup:
    """The points of one colour; ``count`` is of all nodes, drawn or not."""

    label: str
    colour: str
    count: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class EmbeddingMap:
    """The map of one entity."""

    entity: str
    attribute: str
    chosen: bool
    method: str
    drawn: int
    count: int
    width: float
    height: float
    groups: tuple[PointGroup, ...]


def sample_nodes(count: int, sample: int, seed: int) -> np.ndarray:
    """At most ``sample`` of ``count`` nodes, drawn without replacement, ascending."""
    if count <= sample:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, sample, replace=False))


def project(vectors: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, str]:
    """Points (rows, 2) for vectors float32 (rows, d), and the name of what made them.

    Vectors are brought to length 1 first, since cosine is what they are compared by. ``pca`` is
    the two leading principal components; ``tsne`` is t-SNE (van der Maaten and Hinton, JMLR 2008)
    of the 30 leading ones, from the two leading, and is left to PCA under 40 rows.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(norms > 0, norms, 1)).astype(np.float64)
    components = _principal_components(unit, _COMPONENTS)
    plane = np.zeros((len(unit), 2))
    plane[:, : min(2, components.shape[1])] = components[:, :2]
    if method == "pca" or len(unit) < _FEWEST_FOR_TSNE or not np.ptp(plane, axis=0).all():
        return plane, "PCA"
    from sklearn.manifold import TSNE

    spread = plane[:, 0].std()
    tsne = TSNE(
        perplexity=min(30.0, (len(unit) - 1) / 3),
        init=(plane / spread * 1e-4).astype(np.float32),
        max_iter=500,
        random_state=seed,
        n_jobs=1,
    )
    return tsne.fit_transform(components.astype(np.float32)).astype(np.float64), "t-SNE"


def draw_map(
    entity: str,
    points: np.ndarray,
    method: str,
    nodes: np.ndarray,
    names: list[str],
    hollow: np.ndarray,
    colouring: Colouring,
) -> EmbeddingMap:
    """Place ``points`` (drawn, 2) of the sampled ``nodes`` int64 (drawn,) on the paper."""
    places = _fit(points)
    counts = np.bincount(colouring.groups, minlength=len(colouring.labels))
    groups = []
    for number, (label, colour) in enumerate(zip(colouring.labels, colouring.colours, strict=True)):
        members = np.flatnonzero(colouring.groups[nodes] == number)
        if counts[number]:
            drawn = tuple(
                Point(float(places[i, 0]), float(places[i, 1]), names[i], bool(hollow[i]))
                for i in members
            )
            groups.append(PointGroup(label, colour, int(counts[number]), drawn))
    return EmbeddingMap(
        entity=entity,
        attribute=colouring.attribute,
        chosen=colouring.chosen,
        method=method,
        drawn=len(nodes),
        count=len(colouring.groups),
        width=_WIDTH,
        height=_HEIGHT,
        groups=tuple(groups),
    )


def _principal_components(vectors: np.ndarray, wanted: int) -> np.ndarray:
    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    leading = directions[:, np.argsort(values)[::-1][:wanted]]
    # A direction's sign is arbitrary; fixed, so that the same vectors give the same map.
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])])
    components: np.ndarray = centred @ (leading * np.where(signs == 0, 1, signs))
    return components


def _fit(points: np.ndarray) -> np.ndarray:
    """Scale both axes alike, so that the picture is not distorted, and centre it."""
    if len(points) == 0:
        return points
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(high - low, 1e-12)
    room = np.array([_WIDTH, _HEIGHT]) - 2 * _PAD
    scale = float(np.min(room / span)) if np.max(high - low) > 0 else 1.0
    places: np.ndarray = (points - (low + high) / 2) * scale + np.array([_WIDTH, _HEIGHT]) / 2
    return places
