"""No bytes in a file from outside lead to anything but an error of ours, which says where.

Files that a valid one was damaged to, or was written by somebody who means no good: schema and
pipeline files, manifests, records of stages. Student bundles: `tests/coldbrew/test_new_rows.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isohop.embeddings.contract import EmbeddingsManifest, latest_version
from isohop.graph import Graph
from isohop.hops.schema_file import read_schema_file
from isohop.pipeline.pipeline_file import read_pipeline
from isohop.pipeline.runs import Run, StageRecord
from tests.damage import damage_is_told
from tests.pipeline.test_pipeline import pipeline_file

ROOT = Path(__file__).parents[1]


def schema(folder: Path) -> tuple[Path, Callable[[], object]]:
    file = folder / "schema.yaml"
    shutil.copyfile(ROOT / "schemas" / "shop" / "chain.yaml", file)
    return file, lambda: read_schema_file(file)


def pipeline(folder: Path) -> tuple[Path, Callable[[], object]]:
    file = pipeline_file(folder)
    return file, lambda: read_pipeline(file)


def graph(folder: Path) -> tuple[Path, Callable[[], object]]:
    from tests.worlds import library

    library(folder / "graph")
    return folder / "graph" / "graph.json", lambda: Graph.open(folder / "graph")


def record(folder: Path) -> tuple[Path, Callable[[], object]]:
    run = Run(folder)
    run.remember(
        StageRecord(stage="build", fingerprint="f", started="s", seconds=1, size=2, made=())
    )
    return folder / "stages" / "build.json", lambda: run.record("build")


def version(folder: Path) -> tuple[Path, Callable[[], object]]:
    facts: dict[str, Any] = {"name": "shop", "version": 1, "run": "r", "created": "2026-01-01"}
    made = EmbeddingsManifest(**facts, certificate="c", fingerprints={}, entities=(), files={})
    (folder / "manifest.json").write_text(made.model_dump_json(), "utf-8")
    return folder / "manifest.json", lambda: EmbeddingsManifest.read(folder)


def latest(folder: Path) -> tuple[Path, Callable[[], object]]:
    (folder / "LATEST").write_text("v=000001\n", "utf-8")
    return folder / "LATEST", lambda: latest_version(folder)


@pytest.mark.parametrize(
    "make", [schema, pipeline, graph, record, version, latest], ids=lambda m: m.__name__
)
def test_damage_leads_to_an_error_of_ours_or_to_none(
    make: Callable[[Path], tuple[Path, Callable[[], object]]], tmp_path: Path
):
    file, read = make(tmp_path)
    damage_is_told(file, read, times=150)
