"""The DAG of a pipeline file, as Airflow sees it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization

from tests.airflow.conftest import PIPELINE, ROOT

FILE = ROOT / "airflow_dags" / "isohop.py"


def dag_of(folder, monkeypatch, text=PIPELINE, **environment):
    (folder / "shop.yaml").write_text(text, "utf-8")
    return module_of(folder, monkeypatch, **environment).isohop_shop


def module_of(folder, monkeypatch, **environment):
    monkeypatch.setenv("ISOHOP_PIPELINES", str(folder))
    for name in ("ISOHOP_SPARK_CONN", "ISOHOP_RAY_CONN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("isohop_dags", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_that_is_no_pipeline_hides_no_other_and_is_told(tmp_path, monkeypatch):
    """Nor does a schema file, which may lie there."""
    schema = (ROOT / "schemas" / "shop" / "chain.yaml").read_text("utf-8")
    for name, text in {
        "shop.yaml": PIPELINE,
        "schema.yaml": schema,
        "empty.yaml": "",
        "half.yaml": "name: half\n",
        "broken.yaml": "name: [",
        "shop.yml": PIPELINE,
    }.items():
        (tmp_path / name).write_text(text, "utf-8")
    found = module_of(tmp_path, monkeypatch).dags_of(tmp_path)
    assert len(found["isohop_shop"].tasks) == 7
    wrong = {name: dag for name, dag in found.items() if name != "isohop_shop"}
    assert sorted(wrong) == [
        f"isohop_{n}" for n in ("broken.yaml", "empty.yaml", "half.yaml", "shop.yml")
    ]
    assert "another file is named 'shop' too" in wrong["isohop_shop.yml"].doc_md
    bag = DagBag(FILE)
    assert (bag.import_errors, set(bag.dags)) == ({}, set(found))
    for dag in wrong.values():
        (task,) = dag.tasks
        with pytest.raises(AirflowFailException, match=str(tmp_path)):
            task.execute({})


@pytest.mark.parametrize(
    "schedule",
    [
        'cron: "99 99 * * *"',
        'cron: "@dayly"',
        'cron: "0 25 * * *"',
        "cron: []",
        "catchup: 1",
        'catchup: "false"',
    ],
)
def test_a_schedule_that_airflow_refuses_hides_no_other_dag(tmp_path, monkeypatch, schedule):
    """A DAG that is refused after this file was read would be a mistake of the whole file."""
    wrong = PIPELINE.replace("name: shop", "name: wrong") + f"schedule: {{{schedule}}}\n"
    (tmp_path / "wrong.yaml").write_text(wrong, "utf-8")
    dag_of(tmp_path, monkeypatch)
    bag = DagBag(FILE)
    assert bag.import_errors == {}
    assert sorted(bag.dags) == ["isohop_shop", "isohop_wrong.yaml"]
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    (task,) = bag.dags["isohop_wrong.yaml"].tasks
    with pytest.raises(AirflowFailException, match=r"wrong\.yaml"):
        task.execute({})


def test_reading_the_file_loads_no_engine(tmp_path):
    (tmp_path / "shop.yaml").write_text(PIPELINE, "utf-8")
    code = f"import runpy, sys; runpy.run_path({str(FILE)!r}); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={"ISOHOP_PIPELINES": str(tmp_path), "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"torch", "ray", "pyspark", "isohop"} & {n.partition(".")[0] for n in loaded}


def test_a_stage_waits_for_those_that_it_needs(tmp_path, monkeypatch):
    dag = dag_of(tmp_path, monkeypatch)
    needs = {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks}
    assert needs == {
        "build": [],
        "features": ["build"],
        "distill": ["features"],
        "embed": ["distill"],
        "publish": ["embed"],
        "report": ["embed", "publish"],
        "done": ["publish", "report"],
    }
    # What was not published is no success, though there is a report: a run is what its end is.
    assert [task.task_id for task in dag.leaves] == ["done"]
    # Which of them it needs, and which only to tell what became of it.
    assert dag.get_task("report").trigger_rule == "all_done_min_one_success"
    assert {t.trigger_rule for t in dag.tasks if t.task_id != "report"} == {"all_success"}
    assert dag.max_active_runs == 1
    assert dag.max_active_tasks == 1


def test_the_pipeline_file_says_when_and_how_often(tmp_path, monkeypatch):
    schedule = (
        "schedule: {cron: '30 2 * * *', start: 2026-05-04, catchup: true, retries: 7,"
        " retry_minutes: 0.5, timeout_hours: 3, pool: nightly}\n"
    )
    dag = dag_of(tmp_path, monkeypatch, PIPELINE + schedule)
    assert dag.catchup
    assert dag.start_date.replace(tzinfo=None) == datetime(2026, 5, 4)
    assert "30 2 * * *" in str(dag.schedule)
    for task in dag.tasks:
        assert task.retries == 7
        assert task.retry_delay == timedelta(seconds=30)
        assert task.execution_timeout == timedelta(hours=3)
        assert task.pool == "nightly"


def test_a_run_is_named_after_its_logical_date(tmp_path, monkeypatch):
    name = dag_of(tmp_path, monkeypatch).user_defined_macros["run_name"]
    day, due = datetime(2026, 11, 24), datetime(2026, 11, 25, 3, 4, 5)
    assert name(SimpleNamespace(logical_date=day, run_after=due)) == "20261124T000000"
    assert name(SimpleNamespace(logical_date=None, run_after=due)) == "20261125T030405"


def test_every_stage_sees_what_was_known_by_the_logical_date(tmp_path, monkeypatch):
    dag = dag_of(tmp_path, monkeypatch)
    day = SimpleNamespace(logical_date=datetime(2026, 11, 24), run_after=datetime(2026, 11, 25))
    assert dag.user_defined_macros["as_of"](day) == datetime(2026, 11, 24)
    for task in (dag.get_task(stage) for stage in ("build", "publish", "report")):
        at = task.words.index("--as-of")
        assert task.words[at + 1] == "{{ as_of(dag_run).isoformat() }}"


@pytest.mark.parametrize("value", ["runs'; rm -rf x", "$(id)", "a\nb", "", "{{ x }}"])
def test_a_parameter_is_a_plain_word(tmp_path, monkeypatch, value):
    params = dag_of(tmp_path, monkeypatch).params
    for name in ("runs", "published"):
        with pytest.raises(ValueError, match="Invalid input"):
            params[name] = value
    with pytest.raises(ValueError, match="Invalid input"):
        params["engine"] = value


@pytest.mark.parametrize("path", ["s3://lake/team=ml/isohop", "Läufe (neu)", "a,b+c~1"])
def test_a_path_is_a_plain_word(tmp_path, monkeypatch, path):
    named = PIPELINE.replace("{path: published}", f"{{path: '{path}'}}")
    assert dag_of(tmp_path, monkeypatch, named).params["published"] == path


@pytest.mark.parametrize("cron", ["'@daily'", "null"])
def test_a_path_that_no_shell_may_see_is_told_by_name(tmp_path, monkeypatch, cron):
    wrong = f"{PIPELINE}\nruns: $HOME\nschedule: {{cron: {cron}}}\n"
    (tmp_path / "shop.yaml").write_text(wrong, "utf-8")
    dag = module_of(tmp_path, monkeypatch).dags_of(tmp_path)["isohop_shop.yaml"]
    assert "runs has quotes" in dag.doc_md


def test_a_copy_without_the_job_that_it_submits_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.FILE", shutil.copy(FILE, tmp_path / "dags.py"))
    (tmp_path / "shop.yaml").write_text(PIPELINE, "utf-8")
    found = module_of(tmp_path, monkeypatch, ISOHOP_SPARK_CONN="my_spark").dags_of(tmp_path)
    assert "run_stage.py. Link this file" in found["isohop_shop.yaml"].doc_md


def test_stages_go_to_clusters_where_connections_are_named(tmp_path, monkeypatch):
    clusters = {"ISOHOP_SPARK_CONN": "my_spark", "ISOHOP_RAY_CONN": "my_ray"}
    dag = dag_of(tmp_path, monkeypatch, **clusters)
    kinds = {task.task_id: type(task).__name__ for task in dag.tasks}
    assert kinds.pop("done") == "EmptyOperator"
    assert kinds == {
        "build": "SparkSubmitOperator",
        "features": "SubmitRayJob",
        "distill": "SubmitRayJob",
        "embed": "SubmitRayJob",
        "publish": "Stage",
        "report": "Stage",
    }
    assert dag.params["engine"] == "spark"
    submitted = dag.get_task("build")
    assert submitted.application == str(ROOT / "jobs" / "run_stage.py")
    words = submitted.application_args
    features = dag.get_task("features")
    assert features.job_timeout_seconds == features.execution_timeout == timedelta(hours=12)
    # What is quoted for a shell is still a template.
    entry = features.entrypoint
    assert "'engine={{ params.engine }}'" in entry
    assert entry.startswith(f"timeout {12 * 3600} ")
    assert words[0] == "build"
    assert '"' not in entry


class Tells:
    """As a task's instance, whose stages up to `features` are done."""

    task_id = "distill"

    def xcom_pull(self, task_ids: str) -> object:
        record = {"seconds": 1.5, "size": 7, "made": [{"what": "x", "where": "y"}], "stage": "s"}
        return {"build": "of a cluster", "features": record}.get(task_ids)


@pytest.mark.parametrize(
    ("met", "why"),
    [({"exception": ValueError("no room")}, "no room"), ({}, "Airflow lost the task")],
)
def test_who_asked_for_it_is_told_what_became_of_a_run(tmp_path, monkeypatch, met, why):
    """Where the process of a task was killed, Airflow has no exception."""
    dag = dag_of(tmp_path, monkeypatch)
    (tmp_path / "on_call.py").write_text("told = []\nring = told.append\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "on_call", raising=False)
    monkeypatch.setenv("ISOHOP_NOTIFY", "on_call:ring")
    run = SimpleNamespace(logical_date=datetime(2026, 11, 24), run_after=None)
    (tell,) = dag.get_task("distill").on_failure_callback
    tell({"ti": Tells(), "dag": dag, "dag_run": run, **met})
    (tell,) = dag.get_task("publish").on_success_callback
    tell({"ti": Tells(), "dag": dag, "dag_run": run})
    failed, published = importlib.import_module("on_call").told
    assert failed.pop("why").startswith(why)
    assert failed == {
        "pipeline": "shop",
        "run": "20261124T000000",
        "failed": "distill",
        "stages": {"features": {"seconds": 1.5, "size": 7, "made": [{"what": "x", "where": "y"}]}},
    }
    assert published == failed | {"failed": None, "why": None}


def test_what_a_process_says_at_its_end_is_not_taken_for_its_record(tmp_path, monkeypatch):
    command = tmp_path / "isohop"
    lines = ["#!/bin/sh", "for last; do :; done", "echo '{\"stage\": 1}' > $last", "echo more"]
    command.write_text("\n".join(lines), "utf-8")
    command.chmod(0o755)
    task = module_of(tmp_path, monkeypatch).Stage(task_id="build", words=[str(command)])
    assert task.execute({}) == {"stage": 1}
