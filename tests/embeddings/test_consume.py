"""Every snippet of ``docs/consume.md`` reads the published files, and reads them right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isohop.embeddings import publish, read_embeddings
from isohop.embeddings.search import embedding_matrix

DOCUMENT = Path(__file__).parents[2] / "docs" / "consume.md"


def _snippets() -> dict[str, str]:
    """The fenced Python code under each heading; the first is what all others go on from."""
    parts = re.split(r"^#+ (.+)$", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)[1:]
    code = {
        heading: "\n".join(re.findall(r"^```python\n(.*?)^```", body, re.MULTILINE | re.DOTALL))
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: text for heading, text in code.items() if text}


FIRST, *OTHERS = _snippets()


@pytest.fixture
def published(tmp_path, entity, run_writer, publication):
    """Two versions, of which the newest is to be read, in more than one file."""
    for number in (1, 2):
        run = run_writer(
            tmp_path / f"run-{number}", {"airport": entity(300, 8, seed=number)}, files=2
        )
        publication["run"] = f"run-{number}"
        publish(run, tmp_path / "published", "nycflights13", **publication)
    return tmp_path / "published" / "nycflights13"


def test_every_way_of_reading_is_documented():
    assert {"pandas", "Polars", "DuckDB", "Spark", "Ray Data"} <= set(OTHERS)


@pytest.mark.parametrize(
    "heading",
    [
        pytest.param(heading, marks=pytest.mark.spark) if heading == "Spark" else heading
        for heading in OTHERS
    ],
)
def test_the_snippet_reads_what_was_published(heading, published, tmp_path):
    if heading == "Spark" and shutil.which("java") is None:
        pytest.skip("NO JAVA ON THIS MACHINE: the Spark snippet of docs/consume.md was NOT run")
    code = _snippets()
    script = tmp_path / "snippet.py"
    script.write_text(
        f"{code[FIRST]}\n{code[heading]}\n"
        "import numpy\nassert vectors.dtype == numpy.float32\nnumpy.save('vectors.npy', vectors)\n"
    )
    environment = {
        **os.environ,
        "PUBLISHED": str(published),
        "ENTITY": "airport",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = embedding_matrix(read_embeddings(published, "airport"))
    assert np.array_equal(np.load(tmp_path / "vectors.npy"), expected)
