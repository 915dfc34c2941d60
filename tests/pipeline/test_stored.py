"""A whole pipeline with every path in an object store, on S3's protocol on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.pipeline.test_pipeline import ROOT, SMALL, command, pipeline_file

import isohop
from isohop.engines.object_store import Mirror, StoredFolder
from isohop.pipeline.history import past_runs, prune
from isohop.pipeline.pipeline_file import read_pipeline
from isohop.pipeline.stages import STAGES, open_run

pytest_plugins = ["tests.s3"]
CHAIN = ROOT / "schemas" / "shop" / "chain.yaml"


def stored_pipeline(folder: Path, url: str) -> Path:
    """Its tables are there already."""
    schema = read_tables(folder, url)
    more = SMALL.replace("path: published", f"path: {url}/published")
    file = pipeline_file(folder, more)
    text = file.read_text("utf-8").replace("runs: runs", f"runs: {url}/runs")
    file.write_text(text.replace(str(CHAIN), str(schema)), "utf-8")
    return file
