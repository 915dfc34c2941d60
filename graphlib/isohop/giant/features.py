"""The stage `features`: a graph in, node features out.

::

    features/
      <node type>/part-*.parquet    node_id int64, feature fixed-size-list<float32>
      encoder.safetensors, encoder.json, with a text model also text_model/
      features.json                 FeatureManifest, with curves and diagnostics
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.dataset as ds
from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import ray_session
from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.errors import IsohopError
from isohop.giant.diagnostics import LevelFigures
from isohop.giant.evaluation import EdgeRanks
from isohop.giant.fitting import fit
from isohop.giant.model_folder import copy_encoder
from isohop.giant.settings import FeatureSettings
from isohop.graph import Graph
from isohop.graph.earlier import check_same_types

NOTHING_TO_LEARN = "no visible edge of a node that is no hub; nothing was trained"


class FeatureManifest(BaseModel):
    """``features.json``. ``levels``: the label tree, by destination type, coarse to fine;
    ``curves``: by name [[step, value], …]; ``held_out``: by edge type, and of ``all``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    dimensions: int
    encoder: str
    seed: int
    node_types: Mapping[str, int]
    levels: tuple[LevelFigures, ...] = ()
    curves: Mapping[str, tuple[tuple[int, float], ...]] = {}
    held_out: Mapping[str, EdgeRanks] = {}
    skipped: str | None = None
    """Why nothing was trained, where nothing was."""
    encoded: Mapping[str, int] = {}
    """By node type, documents that were encoded; the others are those of an earlier run."""
    kept_from: str | None = None
    """Certificate of the graph that the encoder learned from, where it is another."""
    seconds: Mapping[str, float] = {}


@dataclass(frozen=True)
class Features:
    """A features dataset on disk, opened."""

    path: Path
    manifest: FeatureManifest

    @classmethod
    def open(cls, path: str | Path) -> Features:
        """Raises `IsohopError` when there is none."""
        path = Path(path)
        file = path / "features.json"
        try:
            return cls(path, FeatureManifest.model_validate_json(file.read_bytes()))
        except (FileNotFoundError, ValidationError) as error:
            raise IsohopError(
                f"{path} is no features dataset of this version. Run the stage 'features'."
            ) from error

    def matrix(self, node_type: str) -> np.ndarray:
        """float32 (nodes, d); row i is node i."""
        table = ds.dataset(self.path / node_type, format="parquet").to_table().sort_by("node_id")
        feature = table["feature"].combine_chunks()
        flat = feature.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(table.num_rows, self.manifest.dimensions)


def extract_features(
    graph: str | Path,
    out: str | Path,
    settings: FeatureSettings,
    seed: int,
    label: str | None = None,
    progress: Progress = SILENT,
    until: date | None = None,
) -> FeatureManifest:
    """Learn features on the graph's visible edges and write those of all nodes.

    ``label``: ``entity.attribute`` that nothing may see. ``until``: the first day whose edges
    nothing may see. Raises `IsohopError`.
    """
    opened = Graph.open(graph)
    out = Path(out)
    training = out.with_name(f"{out.name}.training")
    with ray_session(), folder_atomically(out) as folder:
        manifest = _run(opened, folder, training, settings, seed, label, until, progress)
        write_text_atomically(folder / "features.json", manifest.model_dump_json(indent=1))
    shutil.rmtree(training)
    return manifest


def keep_features(
    graph: str | Path,
    out: str | Path,
    before: tuple[Path, Path],
    label: str | None = None,
    progress: Progress = SILENT,
) -> FeatureManifest:
    """As `extract_features`, with the encoder of an earlier run: nothing is learned, and of its
    documents only those are encoded that are new or have changed. ``before``: that run's graph and
    features. Raises `IsohopError` where its graph has other types."""
    from isohop.giant.inference import extract

    opened, were, earlier = Graph.open(graph), Graph.open(before[0]), Features.open(before[1])
    check_same_types(were, opened)
    clock = time.monotonic()
    with ray_session(), folder_atomically(Path(out)) as folder:
        copy_encoder(earlier.path, folder)
        encoded = extract(opened, folder.resolve(), folder.resolve(), label, progress, before)
        manifest = earlier.manifest.model_copy(
            update={
                "node_types": {node.name: node.count for node in opened.node_types},
                "encoded": encoded,
                "kept_from": earlier.manifest.kept_from or were.manifest.certificate,
                "seconds": {"extract": round(time.monotonic() - clock, 3)},
            }
        )
        write_text_atomically(folder / "features.json", manifest.model_dump_json(indent=1))
    return manifest


def _run(
    graph: Graph,
    folder: Path,
    training: Path,
    settings: FeatureSettings,
    seed: int,
    label: str | None,
    until: date | None,
    progress: Progress,
) -> FeatureManifest:
    from isohop.giant.inference import extract

    clock = time.monotonic()
    fitted = fit(graph, folder, training, settings, seed, label, until, progress)
    seconds = {"train": round(time.monotonic() - clock, 3)}
    here = folder.resolve()
    encoded = extract(graph, here, here, label, progress, told=fitted.told)
    seconds["extract"] = round(time.monotonic() - clock - sum(seconds.values()), 3)
    return FeatureManifest(
        dimensions=settings.dimensions,
        encoder=settings.encoder,
        seed=seed,
        node_types={node.name: node.count for node in graph.node_types},
        levels=tuple(fitted.levels),
        curves=fitted.curves,
        held_out=fitted.held_out,
        skipped=None if fitted.steps else NOTHING_TO_LEARN,
        encoded=encoded,
        seconds=seconds,
    )
