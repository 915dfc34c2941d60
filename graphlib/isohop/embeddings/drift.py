"""Drift: how one version of embeddings differs from another, and whether that is too much.

Vectors of two runs live in two spaces, so they are not compared with each other: what is compared
is who is near whom. Of some nodes that both versions have, the share of their nearest neighbours
(among nodes that both have) that is the same; 1 where nothing changed, near 0 where nothing stayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from isohop.embeddings.contract import (
    STUDENT,
    EmbeddingsManifest,
    EntityEmbeddings,
    KeyColumn,
    entity_folders,
    parquet_files,
)
from isohop.embeddings.reader import located, whole_files
from isohop.embeddings.search import cosine_nearest
from isohop.embeddings.settings import Gates
from isohop.engines.keys import by_place, places
from isohop.errors import IsohopError, Problem

NEIGHBOURS = 10
"""Of a node, at most; among few nodes half of the others, so that others could be nearer."""
ASKED = 1000
"""Nodes whose neighbours are compared, at most."""
AMONG = 20_000
"""Nodes that both versions have, among which neighbours are found, at most."""


@dataclass(frozen=True)
class Snapshot:
    """One version, or a run's embeddings that are to become one."""

    folder: Path
    entities: Mapping[str, EntityEmbeddings]
    evaluation: Mapping[str, float]

    @classmethod
    def of(cls, folder: Path, manifest: EmbeddingsManifest) -> Snapshot:
        return cls(folder, {one.name: one for one in manifest.entities}, manifest.evaluation)


def snapshot(path: str | Path, version: str | int = "latest") -> Snapshot:
    """Of a published version; ``path`` and ``version`` as in `read_embeddings`. Raises
    `IsohopError`."""
    source = located(path, version)
    if source.manifest is None:
        raise IsohopError(f"{path} was not published. Give a folder of published versions.")
    return Snapshot.of(source.folder, source.manifest)


@dataclass(frozen=True)
class EntityDrift:
    """Of one entity that both versions have. Columns of its ``key``, and ``rows``, of one and the
    other; keys that are ``gone`` and ``new`` in the other, all where key columns differ; mean
    ``norm`` of either's vectors of the nodes that are in both, None where none is; ``neighbours``:
    mean share of the nearest ones that are the same, None where fewer than three nodes are in
    both."""

    name: str
    key: tuple[tuple[KeyColumn, ...], tuple[KeyColumn, ...]]
    rows: tuple[int, int]
    gone: int
    new: int
    sources: tuple[Mapping[str, int], Mapping[str, int]]
    norm: tuple[float, float] | None
    neighbours: float | None

    @property
    def other_key(self) -> str | None:
        """What is told of key columns that differ."""
        if self.key[0] == self.key[1]:
            return None
        one, other = (", ".join(f"{of.name} ({of.type})" for of in key) for key in self.key)
        return f"has other key columns: {one} → {other}"

    @property
    def coverage(self) -> tuple[float, float]:
        """Share of rows that were served by edges, of one and the other."""
        one, other = (
            1 - sources.get(STUDENT, 0) / max(rows, 1)
            for sources, rows in zip(self.sources, self.rows, strict=True)
        )
        return one, other


@dataclass(frozen=True)
class Drift:
    """``gone`` and ``new``: entities that only one of the two has. ``evaluation``: figures of one
    and the other, None where it does not tell them."""

    entities: tuple[EntityDrift, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    evaluation: Mapping[str, tuple[float | None, float | None]]


def drift(one: Snapshot, other: Snapshot) -> Drift:
    """From one version to another. Reads keys as a whole, and of vectors a sample. Raises
    `IsohopError` for files that are damaged."""
    both = [name for name in one.entities if name in other.entities]
    told = dict.fromkeys((*one.evaluation, *other.evaluation))
    return Drift(
        tuple(_entity_drift(name, one, other) for name in both),
        tuple(name for name in one.entities if name not in other.entities),
        tuple(name for name in other.entities if name not in one.entities),
        {name: (one.evaluation.get(name), other.evaluation.get(name)) for name in told},
    )


def problems_of(found: Drift, gates: Gates) -> list[Problem]:
    """Which gates do not let it pass."""
    problems = []

    def fails(gate: str, where: str, what: str, meant: str | None = None) -> None:
        hint = f"If that is meant, publish with {meant or f'another publish.gates.{gate}'}."
        problems.append(Problem(where, what, hint))

    for name in found.gone if gates.rows else ():
        fails("rows", f"entity '{name}'", "was published before and is gone.")
    for one in found.entities:
        rows = one.rows
        if gates.rows is not None and rows[1] < gates.rows * rows[0]:
            what = f"has {rows[1]:,} rows, of {rows[0]:,} before."
            fails("rows", f"entity '{one.name}'", what)
        before, now = one.coverage
        if gates.coverage is not None and now < gates.coverage * before:
            what = (
                f"{percent(now)} of rows are served by edges, less than {100 * gates.coverage:g}% "
                f"of the {percent(before)} before."
            )
            fails("coverage", f"entity '{one.name}'", what)
        # What cannot be compared because keys are gone is no reason to let it pass.
        common = rows[0] - one.gone
        what = f"has {common or 'no'} key{'s' * (common > 1)} of the {rows[0]:,} published before."
        if one.other_key is not None:
            what = f"{one.other_key}."
        if gates.keys is not None and one.other_key is not None:
            fails("keys", f"entity '{one.name}'", what, "publish.gates.keys=null")
        elif gates.keys is not None and common < gates.keys * rows[0]:
            fails("keys", f"entity '{one.name}'", what)
        if gates.norm is not None and one.gone and not common:
            fails("norm", f"entity '{one.name}'", what)
        if gates.neighbours is not None and one.gone and one.neighbours is None:
            fails("neighbours", f"entity '{one.name}'", what)
        if gates.norm is not None and one.norm is not None:
            before, now = one.norm
            if abs(now - before) > gates.norm * before:
                what = f"vectors have a mean norm of {now:.3g}, of {before:.3g} before."
                fails("norm", f"entity '{one.name}'", what)
        same = one.neighbours
        if gates.neighbours is not None and same is not None and same < gates.neighbours:
            what = (
                f"{percent(same)} of nearest neighbours are as before, less than "
                f"{100 * gates.neighbours:g}%."
            )
            fails("neighbours", f"entity '{one.name}'", what)
    for name, (was, told) in found.evaluation.items():
        if gates.evaluation is None or was is None:
            continue
        if told is None:
            what = f"was {was:.3f} and is not told any more."
            fails("evaluation", f"evaluation {name}", what)
        elif was - told > gates.evaluation:
            what = f"fell from {was:.3f} to {told:.3f}, by more than {gates.evaluation:g}."
            fails("evaluation", f"evaluation {name}", what)
    return problems


def percent(share: float) -> str:
    """To one decimal. What is neither none nor all is not told as that."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}"


def _entity_drift(name: str, one: Snapshot, other: Snapshot) -> EntityDrift:
    sides = (one, other)
    about = [side.entities[name] for side in sides]
    keys = (about[0].key, about[1].key)
    rows = (about[0].count, about[1].count)
    common = [np.zeros(0, np.int64)] * 2
    with whole_files(f"{one.folder / name} or {other.folder / name}"):
        data = [_dataset(side.folder, name) for side in sides]
        if keys[0] == keys[1]:
            common = _common(data, [column.name for column in keys[0]])
        count = len(common[0])
        chosen = _spread(count, AMONG)
        vectors = [_vectors(of, at[chosen]) for of, at in zip(data, common, strict=True)]
    norms = [float(np.linalg.norm(of, axis=1).mean()) for of in vectors if len(of)]
    return EntityDrift(
        name,
        keys,
        rows,
        gone=rows[0] - count,
        new=rows[1] - count,
        sources=(about[0].sources, about[1].sources),
        norm=(norms[0], norms[1]) if norms else None,
        neighbours=same_neighbours(*vectors),
    )


def same_neighbours(one: np.ndarray, other: np.ndarray) -> float | None:
    """Mean share of the nearest of a node that are the same in two spaces, float32 (nodes, d) and
    (nodes, d'); of `ASKED` nodes, spread over all. None of so few nodes that none could differ."""
    near_by = min(NEIGHBOURS, (len(one) - 1) // 2)
    if near_by < 1:
        return None
    asked = _spread(len(one), ASKED)
    near = [cosine_nearest(of[asked], of, near_by, asked)[0] for of in (one, other)]
    same = (near[0][:, :, None] == near[1][:, None, :]).any(2)
    return float(same.mean())


def _spread(count: int, most: int) -> np.ndarray:
    """int64, ascending: all numbers below ``count``, or ``most`` of them at even distances."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _dataset(folder: Path, name: str) -> ds.Dataset:
    held = entity_folders(folder).get(name)
    files = [] if held is None else parquet_files(held)
    if not files:
        raise IsohopError(
            f"{folder} is damaged: it has no files of '{name}'. Compare another version, or "
            "publish again."
        )
    return ds.dataset([str(file) for file in files], format="parquet")


def _common(data: Sequence[ds.Dataset], key: list[str]) -> list[np.ndarray]:
    """Rows, int64, of the keys that both have, in the order of the first."""
    tables = [of.to_table(columns=key) for of in data]
    one, other = (
        by_place(table.columns, **{name: np.arange(table.num_rows)})
        for name, table in zip(("row", "other"), tables, strict=True)
    )
    joined = one.join(other, keys=places(len(key)), join_type="inner").sort_by("row")
    return [joined[name].to_numpy() for name in ("row", "other")]


def _vectors(of: ds.Dataset, rows: np.ndarray) -> np.ndarray:
    """float32 (rows, d)."""
    order = np.argsort(rows, kind="stable")
    column = of.take(pa.array(rows[order]), columns=["embedding"])["embedding"].combine_chunks()
    size = column.type.list_size
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), size)
    found = np.empty_like(values)
    found[order] = values
    return found
