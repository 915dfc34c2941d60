"""One DAG a pipeline file, one task a stage.

``ISOHOP_PIPELINES``: the folder of pipeline files. ``ISOHOP_EXECUTABLE``: the ``isohop`` command of
an environment of its own, because Airflow's Spark provider replaces pyspark. Reading this file
imports neither torch nor Spark nor Ray, and nothing of Isohop: Airflow reads it again and again.
"""

from __future__ import annotations

import os
import shlex
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from airflow.sdk import DAG

try:
    from airflow.providers.standard.operators.bash import BashOperator
except ImportError as error:
    raise ImportError(
        "Isohop's DAGs need Airflow 3 with its standard provider: "
        "pip install 'apache-airflow>=3' apache-airflow-providers-standard"
    ) from error

STAGES = ("build", "features", "distill", "embed", "publish", "report")
"""As in isohop.pipeline.stages; a test keeps the two equal."""

NEEDS = {
    "build": (),
    "features": ("build",),
    "distill": ("features",),
    "embed": ("distill",),
    "publish": ("embed",),
    "report": ("embed",),
}


def command(stage: str, pipeline: Path) -> str:
    """The shell command of a task. The run is named after the logical date."""
    executable = os.environ.get("ISOHOP_EXECUTABLE", "isohop")
    words = [executable, "stage", stage, str(pipeline)]
    return shlex.join(words) + " --run {{ ts_nodash }}"


def make_dag(pipeline: Path) -> DAG:
    """The DAG of one pipeline file: a task for each stage, in the order of their needs."""
    name = yaml.safe_load(pipeline.read_text("utf-8"))["name"]
    with DAG(
        dag_id=f"isohop_{name}",
        schedule="@daily",
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
        tags=["isohop"],
    ) as dag:
        tasks = {
            stage: BashOperator(task_id=stage, bash_command=command(stage, pipeline))
            for stage in STAGES
        }
        for stage, needs in NEEDS.items():
            for need in needs:
                tasks[need] >> tasks[stage]
    return dag


_FOLDER = os.environ.get("ISOHOP_PIPELINES")
for _file in sorted(Path(_FOLDER).glob("*.y*ml")) if _FOLDER else ():
    globals()[f"isohop_{_file.stem}"] = make_dag(_file)
