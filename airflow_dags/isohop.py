"""One DAG a pipeline file, one task a stage; an asset that stands for what is published.

``ISOHOP_PIPELINES``: the folder of pipeline files. ``ISOHOP_EXECUTABLE``: the ``isohop`` command of
an environment of its own, because Airflow's Spark provider replaces pyspark. ``ISOHOP_SPARK_CONN``
and ``ISOHOP_RAY_CONN``: connections of clusters that stages are submitted to; without them they run
on the worker. ``ISOHOP_NOTIFY``: ``module:function`` of Airflow's environment, which is given a
summary of the run when its version is published, and when a stage has failed. Reading this file
imports neither torch nor Spark nor Ray, and nothing of Isohop: Airflow reads it again and again.

When, and how often again: ``schedule:`` of the pipeline file. A run of the DAG is a run of the
pipeline, named after its logical date, so a task that is tried again goes on where it stopped; it
sees the rows that were known by then, where the schema file says when rows became known. What
a stage made is its task's return value; the asset's event says which version was published.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from airflow.sdk import DAG, Asset, BaseOperator, Param, TriggerRule
from airflow.sdk.exceptions import AirflowException, AirflowFailException

try:
    from airflow.providers.standard.hooks.subprocess import SubprocessHook
    from airflow.providers.standard.operators.empty import EmptyOperator
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
AFTER = {"report": ("publish",)}
"""What a stage tells of and does not need: it waits, whatever becomes of them."""
ON_SPARK = ("build",)
ON_RAY = ("features", "distill", "embed")

SCHEDULE = {
    "cron": "@daily",
    "start": "2026-01-01",
    "catchup": False,
    "retries": 2,
    "retry_minutes": 5.0,
    "timeout_hours": 12.0,
    "pool": "default_pool",
}
"""As in isohop.pipeline.schedule; a test keeps the two equal."""

PARAMS = {"engine": "engine", "runs": "runs", "publish.path": "published"}
"""What a run of a DAG may have in place of what the pipeline file says, by its place there."""
PLAIN = r"^[^'\"`$\\{\}\x00-\x1f\x7f]+$"
"""What a parameter may hold: it becomes a word of a command, maybe on another machine's shell, and
a template's."""
POLL = 10
"""Seconds between two looks at a job of Ray."""
LOST = "Airflow lost the task: its process was killed, or the machine is gone or out of memory."
BAD_FILE = 2
"""Exit code of `isohop` for a file that is wrong, which no second try will mend."""


class Stage(BaseOperator):
    """A stage by the `isohop` command on this worker. Returns its record."""

    template_fields = ("words",)

    def __init__(self, *, words: list[str], **more: Any):
        super().__init__(**more)
        self.words = words
        self._hook = SubprocessHook()

    def execute(self, context: Mapping[str, Any]) -> Any:
        with TemporaryDirectory(prefix="isohop-") as folder:
            told = Path(folder) / "record.json"
            done = self._hook.run_command(command=[*self.words, "--record", str(told)])
            if done.exit_code == BAD_FILE:
                raise AirflowFailException("A file is wrong: the lines above say where.")
            if done.exit_code:
                raise AirflowException(f"The stage failed with exit code {done.exit_code}.")
            record = json.loads(told.read_text("utf-8"))
        for asset in self.outlets:
            made = record["made"][0]
            context["outlet_events"][asset].extra = {"what": made["what"], "where": made["where"]}
        return record

    def on_kill(self) -> None:
        self._hook.send_sigterm()


class Wrong(BaseOperator):
    """A file of which no DAG can be made."""

    def __init__(self, *, told: str, **more: Any):
        super().__init__(**more)
        self.told = told

    def execute(self, context: Mapping[str, Any]) -> Any:
        raise AirflowFailException(self.told)


def run_name(dag_run: Any) -> str:
    """Of the pipeline's run: the logical date; of a run that has none, when it was due."""
    return f"{as_of(dag_run):%Y%m%dT%H%M%S}"


def as_of(dag_run: Any) -> datetime:
    """The moment before which rows were known: the logical date, where there is one."""
    return dag_run.logical_date or dag_run.run_after


def summary_of(context: Mapping[str, Any], why: str | None) -> dict[str, Any]:
    """Of a run so far, plain values: what its stages made, and the one that failed and ``why``."""
    task = context["ti"]
    records = {stage: task.xcom_pull(task_ids=stage) for stage in STAGES}
    return {
        "pipeline": context["dag"].dag_id.removeprefix("isohop_"),
        "run": run_name(context["dag_run"]),
        "failed": None if why is None else task.task_id,
        "why": why,
        # What an operator of a cluster returns is no record.
        "stages": {
            stage: {name: record[name] for name in ("seconds", "size", "made")}
            for stage, record in records.items()
            if isinstance(record, dict)
        },
    }


def tell_failed(context: Mapping[str, Any]) -> None:
    """As `tell`, of a stage that failed. Of one that was lost Airflow has no exception."""
    tell(context, str(context.get("exception") or LOST))


def tell(context: Mapping[str, Any], why: str | None = None) -> None:
    """Log the summary, and give it to the function that ``ISOHOP_NOTIFY`` names."""
    summary = summary_of(context, why)
    logging.getLogger(__name__).info("Summary of the run: %s", json.dumps(summary))
    module, _, name = os.environ.get("ISOHOP_NOTIFY", "").partition(":")
    if module:
        getattr(import_module(module), name)(summary)


def words_of(stage: str, pipeline: Path) -> list[str]:
    """The command of a stage. Templates have no quotes, since a shell may have to quote them."""
    executable = os.environ.get("ISOHOP_EXECUTABLE", "isohop")
    words = [executable, "stage", stage, str(pipeline)]
    words += ["--run", "{{ run_name(dag_run) }}"]
    words += ["--as-of", "{{ as_of(dag_run).isoformat() }}"]
    for key, param in PARAMS.items():
        words += ["--set", f"{key}={{{{ params.{param} }}}}"]
    return words


def task_of(stage: str, pipeline: Path, hours: float, **more: Any) -> BaseOperator:
    """The task of a stage, of so many ``hours`` at most: on the cluster where one is named, else on
    this worker."""
    words = words_of(stage, pipeline)
    spark, ray = os.environ.get("ISOHOP_SPARK_CONN"), os.environ.get("ISOHOP_RAY_CONN")
    if spark and stage in ON_SPARK:
        from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

        job = Path(__file__).resolve().parents[1] / "jobs" / "run_stage.py"
        if not job.is_file():
            raise FileNotFoundError(f"{job}. Link this file to where it was, do not copy it alone")
        return SparkSubmitOperator(
            task_id=stage, conn_id=spark, application=str(job), application_args=words[2:], **more
        )
    if ray and stage in ON_RAY:
        from ray_provider.operators import SubmitRayJob

        # The operator lets a job that takes too long go on, and the next try would find it there.
        seconds = round(3600 * hours)
        return SubmitRayJob(
            task_id=stage,
            conn_id=ray,
            entrypoint=shlex.join(["timeout", str(seconds), *words]),
            runtime_env={},
            job_timeout_seconds=seconds,  # it has ten minutes by itself
            poll_interval=POLL,
            **more,
        )
    return Stage(task_id=stage, words=words, **more)


def make_dag(pipeline: Path, settings: Mapping[str, Any]) -> DAG:
    """The DAG of one pipeline file, and what it holds: a task for each stage, in the order of their
    needs."""
    name, publish = settings["name"], settings["publish"]
    schedule = SCHEDULE | (settings.get("schedule") or {})
    # What Airflow would refuse only after it has read this file, together with all DAGs of it.
    if not isinstance(schedule["catchup"], bool):
        raise ValueError(f"schedule.catchup is true or false, not {schedule['catchup']!r}")
    if not isinstance(schedule["cron"], str | None):
        raise ValueError(f"schedule.cron is a text or null, not {schedule['cron']!r}")
    path, runs = publish.get("path", "published"), settings.get("runs", "runs")
    for key, value in {"publish.path": path, "runs": runs}.items():
        if not re.search(PLAIN, value):
            raise ValueError(f"{key} has quotes, braces, $, \\ or control characters: {value!r}")
    where = path.rstrip("/") if "://" in path else (pipeline.parent / path).resolve().as_uri()
    published = f"{where}/{publish.get('name') or name}"
    start = datetime.combine(date.fromisoformat(str(schedule["start"])), datetime.min.time())
    engine = "spark" if os.environ.get("ISOHOP_SPARK_CONN") else settings.get("engine", "sail")
    with DAG(
        dag_id=f"isohop_{name}",
        schedule=schedule["cron"],
        start_date=start,
        catchup=schedule["catchup"],
        max_active_runs=1,
        max_active_tasks=1,  # one process writes a run at a time
        params={
            "engine": Param(engine, enum=["sail", "spark"]),
            "runs": Param(runs, type="string", pattern=PLAIN),
            "published": Param(path, type="string", pattern=PLAIN),
        },
        default_args={
            "retries": schedule["retries"],
            "retry_delay": timedelta(minutes=schedule["retry_minutes"]),
            "execution_timeout": timedelta(hours=schedule["timeout_hours"]),
            "pool": schedule["pool"],
            "on_failure_callback": tell_failed,
        },
        user_defined_macros={"run_name": run_name, "as_of": as_of},
        tags=["isohop"],
        auto_register=False,  # one that turns out to be wrong is no DAG of this file
    ) as dag:
        embeddings = Asset(name=f"isohop/{name}", uri=published)
        at_publish = {"outlets": [embeddings], "on_success_callback": tell}
        hours = schedule["timeout_hours"]
        more = {"publish": at_publish} | {
            stage: {"trigger_rule": TriggerRule.ALL_DONE_MIN_ONE_SUCCESS} for stage in AFTER
        }
        tasks = {stage: task_of(stage, pipeline, hours, **more.get(stage, {})) for stage in STAGES}
        for stage, needs in NEEDS.items():
            for need in (*needs, *AFTER.get(stage, ())):
                tasks[need] >> tasks[stage]
        # Airflow takes a run for what its last tasks are, and a report may be one of a failure.
        [tasks["publish"], tasks["report"]] >> EmptyOperator(task_id="done")
    return dag


def dag_that_tells(pipeline: Path, what: str) -> DAG:
    """In the place of one that cannot be made: a file must not hide the DAGs of others, and what
    is wrong with it is to be seen where it is looked for."""
    told = f"{pipeline}: {what}"
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", pipeline.name)
    with DAG(dag_id=f"isohop_{name}", schedule=None, doc_md=told, tags=["isohop", "wrong"]) as dag:
        Wrong(task_id="wrong", told=told)
    return dag


def dags_of(folder: Path) -> dict[str, DAG]:
    """By id, those of all pipeline files in ``folder``. A schema file may lie beside them."""
    found: dict[str, DAG] = {}
    for file in sorted(folder.glob("*.y*ml")):
        try:
            settings = yaml.safe_load(file.read_text("utf-8"))
            if isinstance(settings, dict) and "tables" in settings:
                continue
            dag = make_dag(file, settings)
            dag.validate()
            if dag.dag_id in found:
                dag = dag_that_tells(file, f"another file is named '{settings['name']}' too.")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            dag = dag_that_tells(file, f"this is no pipeline file: {error!r}.")
        found[dag.dag_id] = dag
    return found


_FOLDER = os.environ.get("ISOHOP_PIPELINES")
globals().update(dags_of(Path(_FOLDER).resolve()) if _FOLDER else {})
