"""A home for Airflow, and the smallest of the example databases as a pipeline.

These tests run in an environment of Airflow's own (`make test-airflow`), where Isohop is not
installed; its command is the one that ``ISOHOP_EXECUTABLE`` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIPELINE = f"""
name: shop
schema: {ROOT / "schemas" / "shop" / "chain.yaml"}
seed: 1
features: {{dimensions: 8, levels: [4], epochs: 1, steps: 5, vocabulary: 256}}
distill: {{dimensions: 8, steps: 6, batch: 64, negatives: 8}}
publish: {{path: published}}
report: {{sample: 50}}
"""
CONSUMER = """
from pathlib import Path
from airflow.sdk import DAG, Asset, task

HOME = Path({home!r})

with DAG("consumer", schedule=[Asset(name="isohop/shop", uri=(HOME / "published/shop").as_uri())]):

    @task
    def read(triggering_asset_events=None):
        import pyarrow.parquet as pq

        for events in triggering_asset_events.values():
            for event in events:
                version = Path(event.extra["where"])
                table = pq.read_table(version / "customer")
                norms = [sum(x * x for x in vector.as_py()) for vector in table["embedding"]]
                told = f"{{table.num_rows}} rows, {{min(norms):.3f}} to {{max(norms):.3f}}"
                (HOME / f"read-{{version.name}}").write_text(told, "utf-8")

    read()
"""
"""Of what is published, the vectors themselves, with nothing of Isohop."""
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-store",
    "SHOP_DATABASE": "postgresql://isohop:a-secret-of-the-tables@127.0.0.1:1/shop",
}
"""In the environment of every process."""


@dataclass(frozen=True)
class Home:
    """A folder with ``pipelines/``, ``dags/`` and Airflow's own; and the environment to see it.
    ``python``: that of Airflow."""

    folder: Path
    python: Path
    environment: dict[str, str]

    @classmethod
    def make(
        cls, folder: Path, python: Path, pipeline: str, more: Mapping[str, str] | None = None
    ) -> Home:
        """With one pipeline file. ``more``: of the environment."""
        for name in ("pipelines", "dags"):
            (folder / name).mkdir()
        (folder / "pipelines" / "shop.yaml").write_text(pipeline, "utf-8")
        (folder / "dags" / "isohop.py").symlink_to(ROOT / "airflow_dags" / "isohop.py")
        environment = {
            **os.environ,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # The first import of a provider compiles it, beside all else that a busy machine does.
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
            # Its processes share one SQLite file, and wait for each other.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db?timeout=120",
            # Stages take a machine each.
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "ISOHOP_PIPELINES": str(folder / "pipelines"),
        }
        found = cls(folder, python, environment | dict(more or {}))
        done = found.airflow("db", "migrate")
        assert done.returncode == 0, done.stderr
        return found

    def airflow(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-m", "airflow", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    more = {"ISOHOP_ALLOWED": f"{tmp_path};{ROOT}", **SECRETS}
    return Home.make(tmp_path, Path(sys.executable), PIPELINE, more)
