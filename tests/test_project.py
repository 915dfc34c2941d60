"""Promises about the project as a whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_folder_graphlib_does_not_hide_the_standard_library():
    assert "TopologicalSorter" in run("from graphlib import TopologicalSorter as t; print(t)")


def test_importing_isohop_loads_no_heavy_package():
    loaded = run("import isohop, sys; print(*sys.modules)").split()
    heavy = {"torch", "dgl", "ray", "pyspark", "pandas", "pyarrow", "numpy", "sklearn", "faiss"}
    assert not heavy & {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    "package", ["giant", "coldbrew", "embeddings", "report", "relational", "hops", "graph"]
)
def test_importing_a_package_loads_no_engine(package):
    loaded = run(f"import isohop.{package}, sys; print(*sys.modules)").split()
    assert not {"torch", "dgl", "ray", "pyspark"} & {name.partition(".")[0] for name in loaded}


def test_a_dag_has_a_task_for_each_stage():
    """The DAG file repeats what is here, because reading it must not import Isohop."""
    from isohop.pipeline.schedule import ScheduleSettings
    from isohop.pipeline.stages import RAY, STAGES

    tree = ast.parse((ROOT / "airflow_dags" / "isohop.py").read_text("utf-8"))
    constants = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("STAGES", "NEEDS", "SCHEDULE", "ON_RAY")
    }
    assert constants["STAGES"] == tuple(STAGES)
    assert constants["NEEDS"] == {name: stage.needs for name, stage in STAGES.items()}
    assert constants["ON_RAY"] == RAY
    assert constants["SCHEDULE"] == ScheduleSettings().model_dump(mode="json")


def test_the_readme_names_its_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "make demo" in text
    assert "make test" in text
