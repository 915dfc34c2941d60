"""The command line, as a person meets it."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOP = ROOT / "schemas" / "shop"
COMMANDS = (
    "check",
    "build",
    "explain",
    "certificate",
    "run",
    "features",
    "distill",
    "embed",
    "evaluate",
    "publish",
    "report",
)


def isohop(
    *words: str | Path, cwd: Path = ROOT, columns: int | None = 200
) -> subprocess.CompletedProcess[str]:
    """``columns``: of the terminal; None where there is none."""
    known = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    width = {} if columns is None else {"COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, "-m", "isohop.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**known, **width, "NO_COLOR": "1"},
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = isohop(command, "--help")
    assert done.returncode == 0
    assert f"isohop {command}" in done.stdout.replace("Usage: isohop", "")


def test_the_certificate_is_one_line_equal_for_equal_facts(tmp_path):
    printed = set()
    for shop in ("chain", "flat"):
        done = isohop("build", SHOP / f"{shop}.yaml", "--out", tmp_path / shop)
        assert done.returncode == 0, done.stderr
        printed.add(isohop("certificate", tmp_path / shop).stdout)
    (line,) = printed
    assert re.fullmatch(r"[0-9a-f]{32}\n", line)
    parts = json.loads(isohop("certificate", tmp_path / "flat", "--json").stdout)
    assert parts["certificate"] == line.strip()
    assert "nodes/customer" in parts["parts"]


def test_names_are_told_whole_in_a_line_where_there_is_no_terminal_and_cut_in_none(tmp_path):
    name = "customer_of_the_shop_" + 4 * "that_has_a_long_name_"
    schema = (SHOP / "flat.yaml").read_text("utf-8").replace("../..", str(ROOT))
    (tmp_path / "s.yaml").write_text(schema.replace("  customer: {table", f"  {name}: {{table"))
    text = (tmp_path / "s.yaml").read_text("utf-8").replace("  customer.c", f"  {name}.c")
    (tmp_path / "s.yaml").write_text(text, "utf-8")
    done = isohop("build", tmp_path / "s.yaml", "--out", tmp_path / "g", columns=None)
    assert f"{name}--city--{name}.city " in done.stdout, done.stderr
    narrow = isohop("build", tmp_path / "s.yaml", "--out", tmp_path / "g", columns=50).stdout
    assert "edge" in narrow
    assert name not in narrow
    assert "…" not in narrow


def test_explain_tells_what_became_of_a_column_and_how_far_things_are():
    done = isohop("explain", SHOP / "chain.yaml")
    assert "folded into customer" in done.stdout
    assert "surrogate key" in done.stdout
    assert re.search(r"same country\s+│\s+4\s+│\s+2", done.stdout)
    mermaid = isohop("explain", SHOP / "chain.yaml", "--mermaid").stdout
    assert mermaid.startswith("flowchart LR")


def test_check_prints_the_ledger():
    done = isohop("check", SHOP / "junction.yaml")
    assert done.returncode == 0, done.stderr
    assert "The sums close" in done.stdout
    ledger = json.loads(isohop("check", SHOP / "junction.yaml", "--json").stdout)
    assert ledger["closes"]
    assert {table["table"]: table["used"] for table in ledger["tables"]}["customer"] == 120


@pytest.mark.parametrize(
    "words",
    [
        ("check", "missing.yaml"),
        ("check", "."),
        ("build", "missing.yaml", "--out", "x"),
        ("certificate", "schemas"),
        ("run", "schemas/shop/flat.yaml"),
        ("stage", "distil", "examples/sakila.yaml"),
        ("features", "missing.yaml"),
        ("run", "README.md/pipeline.yaml"),
        ("run", "x" * 300),
        ("certificate", "x" * 300),
        ("embed", "README.md/x", "--new", "y", "--out", "z"),
    ],
)
def test_a_mistake_of_the_user_has_a_message_and_no_traceback(words):
    done = isohop(*words)
    assert done.returncode in (1, 2)
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda job: job.stem)
def test_every_job_is_a_command(monkeypatch, capsys, job):
    monkeypatch.setattr(sys, "argv", [str(job), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(job), run_name="__main__")
    assert not ended.value.code
    assert "Usage" in capsys.readouterr().out


def test_spark_without_java_says_what_it_needs(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "isohop.cli", "build", SHOP / "flat.yaml"),
            *("--out", tmp_path / "g", "--engine", "spark"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "needs a Java runtime" in done.stderr
    assert shutil.which("java", path=str(tmp_path)) is None


def test_a_folder_of_other_things_is_not_built_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years", "utf-8")
    done = isohop("build", SHOP / "flat.yaml", "--out", tmp_path)
    assert done.returncode == 1
    assert "is not replaced" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
