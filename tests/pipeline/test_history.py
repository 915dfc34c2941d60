"""The runs of a pipeline: told, compared and pruned; and one writer a run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isohop import terminal
from isohop.cli import app
from isohop.errors import IsohopError
from isohop.pipeline.history import differences, past_run, past_runs, prune
from isohop.pipeline.pipeline_file import Pipeline, read_pipeline
from isohop.pipeline.running import dependencies, open_run, run_stage
from isohop.pipeline.runs import (
    Made,
    Run,
    StageRecord,
    fingerprint_of,
    next_number,
    size_of,
    told_apart,
)
from isohop.pipeline.stages import STAGES
from tests.pipeline.test_pipeline import SMALL, command, pipeline_file
from tests.shop import CHAIN, TABLES, chain_from

HOLDS = """
import sys, time
from pathlib import Path
from isohop.pipeline.runs import Run
with Run(Path(sys.argv[1])).writing():
    print("writing", flush=True)
    time.sleep(600)
"""


def done(pipeline: Pipeline, run_id: str, day: int, *stages: str, clock: int | None = None) -> Run:
    """A run whose stages left records, as if they had been done; by a ``clock`` that was wrong."""
    run = open_run(pipeline, run_id)
    for name in stages:
        depends = dependencies(pipeline, run, STAGES[name])
        for output in STAGES[name].outputs:
            (run.folder / output).mkdir(parents=True)
        run.remember(
            StageRecord(
                stage=name,
                fingerprint=fingerprint_of(depends),
                started=f"2026-11-{clock or day:02d}T00:00:00+00:00",
                number=day,
                seconds=1.5,
                size=10,
                made=(Made(what="something", where=name),),
                depends=told_apart(depends),
            )
        )
    return run


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    return read_pipeline(pipeline_file(tmp_path))


@pytest.fixture
def held(pipeline):
    """A run that another process writes."""
    run = done(pipeline, "held", 1, "build")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(run.folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    yield run, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_refused_and_told_who_the_first_is(pipeline, held):
    run, process = held
    for stage in ("build", "features"):
        with pytest.raises(IsohopError, match=f"is being written by process {process.pid} on"):
            run_stage(pipeline, run, stage)
    told = subprocess.run(
        command("run", pipeline.file.path, "--run", "held"), capture_output=True, text=True
    )
    assert told.returncode == 1
    assert "--run" in told.stderr
    assert "Traceback" not in told.stderr


def test_new_rows_are_not_embedded_by_a_run_that_is_being_written(pipeline, held, tmp_path):
    """Its features may be others than its model by then."""
    out = tmp_path / "out"
    words = command("embed", pipeline.file.path, "--run", "held", "--new", "x", "--out", out)
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 1
    assert "Run 'held' is being written" in told.stderr


def test_a_dead_writers_lock_is_taken_over(held):
    run, process = held
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with run.writing():
        assert (run.folder / ".lock").read_text("utf-8").startswith(f"process {os.getpid()} on ")


def test_runs_are_listed_the_newest_first_and_shown(pipeline):
    done(pipeline, "b", 3, "build", "features")
    done(pipeline, "a", 5, "build")
    done(pipeline, "c", 4)
    (open_run(pipeline, "a").folder.parent / "notes").mkdir()  # not a run
    assert [past.run.id for past in past_runs(pipeline.runs)] == ["a", "b"]
    told = CliRunner().invoke(app, ["runs", "list", str(pipeline.file.path)])
    assert told.exit_code == 0
    assert "build, features" in told.output
    told = CliRunner().invoke(app, ["runs", "show", str(pipeline.file.path), "b"])
    assert "1.5 s" in told.output
    with pytest.raises(IsohopError, match=r"no run 'bb'.*Did you mean 'b'"):
        past_run(pipeline.runs, "bb")


def test_runs_whose_names_begin_alike_are_told_apart_in_a_narrow_terminal(pipeline, monkeypatch):
    for day in (3, 4):
        done(pipeline, f"warehouse-2026-11-{day:02d}T04-00-00", day, "build")
    monkeypatch.setattr(terminal.out, "width", 60)
    told = CliRunner().invoke(app, ["runs", "list", str(pipeline.file.path)]).output
    assert "…" not in told
    first = "".join(line.split("│")[1].strip() for line in told.splitlines() if "│" in line)
    assert first == "warehouse-2026-11-04T04-00-00warehouse-2026-11-03T04-00-00"


def test_a_run_that_cannot_go_on_from_itself_says_so(tmp_path, caplog):
    file = pipeline_file(tmp_path)
    monday = read_pipeline(file, {"since": "latest", "as_of": "2026-11-23"})
    run = done(monday, "current", 1, "build")
    tuesday = read_pipeline(file, {"since": "latest", "as_of": "2026-11-24"})
    run_stage(tuesday, run, "build")
    assert caplog.text == ""
    done(tuesday, "current", 2, "features", "distill", "embed")
    run_stage(read_pipeline(file, {"since": "latest"}), run, "build")
    assert "Run 'current' learns anew" in caplog.text
    assert "--run" in caplog.text


def test_a_run_that_learns_though_there_are_others_says_why(tmp_path, caplog):
    """Once, of the newest."""
    file = pipeline_file(tmp_path)
    whole = ("build", "features", "distill", "embed")
    done(read_pipeline(file, {"distill.steps": "8"}), "monday", 1, *whole)
    done(read_pipeline(file), "tuesday", 2, *whole)
    read = read_pipeline(file, {"since": "latest", "distill.steps": "7", "seed": "2"})
    run = open_run(read, "wednesday")
    run_stage(read, run, "build")
    run_stage(read, run, "build")
    (told,) = caplog.messages
    assert told.startswith("Run 'wednesday' learns anew: 'since: latest' cannot be run 'tuesday'")
    assert "it has other distill.steps, seed" in told


def test_what_goes_away_while_a_run_is_measured_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345")
    (tmp_path / "model" / "gone").symlink_to("nowhere")  # as if it went once it was listed
    monkeypatch.setattr(Path, "is_file", lambda self: self.name in ("weights", "gone"))
    assert size_of(tmp_path) == 5


def test_what_is_newer_no_clock_decides(pipeline):
    for day in range(1, 5):
        done(pipeline, f"r{day}", day, "build", clock=9 - day)
    prune(pipeline.runs, 2)
    assert [past.run.id for past in past_runs(pipeline.runs)] == ["r4", "r3"]
    assert next_number(pipeline.runs) == 5


def test_no_run_yet_is_an_empty_list(pipeline):
    assert past_runs(pipeline.runs) == []
    told = CliRunner().invoke(app, ["runs", "list", str(pipeline.file.path)]).output
    assert "".join(told.split()) == f"Norunsin{pipeline.runs}."
    assert prune(pipeline.runs, 1) == []


def test_two_runs_differ_in_what_was_changed_and_in_nothing_else(tmp_path, pipeline):
    done(pipeline, "old", 1, "build", "features", "distill", "embed")
    changed = read_pipeline(pipeline_file(tmp_path, SMALL.replace("steps: 6", "steps: 7")))
    done(changed, "new", 2, "build", "features", "distill")
    old, new = (past_run(pipeline.runs, name) for name in ("old", "new"))
    told = [(one.stage, one.what, one.one, one.other) for one in differences(old, new)]
    assert told == [
        ("distill", "settings.distill.steps", "6", "7"),
        ("embed", "stage", "done", "not done"),
    ]
    assert differences(old, old) == []
    shown = CliRunner().invoke(app, ["runs", "diff", str(pipeline.file.path), "old", "new"])
    assert "settings.distill.steps" in shown.output


def test_a_record_names_each_input_and_is_short(pipeline):
    done(pipeline, "old", 1, "build")
    before = past_run(pipeline.runs, "old").records[0].depends
    assert {"inputs.customer", "inputs.city", "schema", "version"} <= set(before)
    assert all(len(value) <= 100 for value in before.values())


def test_pruning_keeps_the_newest_and_removes_what_was_left_behind(pipeline):
    runs = [done(pipeline, f"r{day}", day, "build", "features") for day in range(1, 5)]
    newest = runs[-1].folder
    (newest / ".tmp-model-0123456789ab" / "inside" / ".tmp-x").mkdir(parents=True)
    (newest / "features.training").mkdir()
    (newest / "model.training").mkdir()  # of a stage that is not done: it can go on from there
    (newest.parent / ".tmp-r0-0123456789ab").mkdir()
    told = prune(pipeline.runs, 2)
    assert len(told) == 5
    assert sorted(path.name for path in newest.parent.iterdir()) == ["r3", "r4"]
    left = {path.name for path in newest.iterdir()}
    assert left == {"graph", "features", "model.training", "stages", ".lock"}
    assert prune(pipeline.runs, 2) == []


def test_a_run_that_is_being_written_is_not_pruned(pipeline, held):
    run, _ = held
    done(pipeline, "newer", 9, "build")
    told = prune(pipeline.runs, 1)
    assert run.folder.is_dir()
    assert "left alone" in told[0].what


@pytest.mark.parametrize("run_id", ["../x", "", ".hidden", "a/b", "a\\b"])
def test_a_run_lies_in_the_folder_of_runs(pipeline, run_id):
    with pytest.raises(IsohopError, match="cannot be the name of a run"):
        open_run(pipeline, run_id)


def test_a_run_that_others_go_on_from_is_not_pruned(pipeline):
    done(pipeline, "good", 1, "build", "features", "distill", "embed")
    done(pipeline, "before", 2, "build", "features", "distill", "embed")
    done(pipeline, "newest", 3, "build", "features", "distill", "embed")
    begun = done(pipeline, "begun", 4, "build")
    record = begun.record("build")
    begun.remember(record.model_copy(update={"depends": {"since.run": '"before"'}}))
    told = [made.what for made in prune(pipeline.runs, 1)]
    assert told == [
        "left alone: it is what 'since: latest' is",
        "left alone: run 'begun' goes on from it",
        "removed run 'good'",
    ]
    assert {past.run.id for past in past_runs(pipeline.runs)} == {"begun", "newest", "before"}


def test_a_run_that_is_removed_keeps_none_that_it_went_on_from(pipeline, held):
    """Unlike one that another process is writing."""
    whole = ("build", "features", "distill", "embed")
    for day, name in enumerate(("before", "of held", "old", "good"), 2):
        done(pipeline, name, day, *whole, *(("publish",) if name == "good" else ()))
    begun = done(pipeline, "begun", 6, "build")
    for run, since in ((begun, "before"), (held[0], "of held")):
        record = run.record("build")
        run.remember(record.model_copy(update={"depends": {"since.run": f'"{since}"'}}))
    for day in (7, 8):
        done(pipeline, f"refused{day}", day, *whole)
    told = {Path(made.where).name: made.what for made in prune(pipeline.runs, 1)}
    assert told["good"] == "left alone: it is what 'since: latest' is"
    assert told["of held"] == "left alone: run 'held' goes on from it"
    assert "is being written" in told["held"]
    assert {past.run.id for past in past_runs(pipeline.runs)} == {
        *("refused8", "good", "held", "of held")
    }


def test_the_run_that_the_latest_is_stays_though_newer_ones_were_refused(pipeline):
    whole = ("build", "features", "distill", "embed")
    done(pipeline, "old", 1, *whole, "publish")
    done(pipeline, "good", 2, *whole, "publish")
    for day in (3, 4, 5):
        done(pipeline, f"refused{day}", day, *whole)
    prune(pipeline.runs, 2)
    assert {past.run.id for past in past_runs(pipeline.runs)} == {"good", "refused4", "refused5"}


def test_a_folder_of_versions_is_no_run(pipeline):
    """Also where what somebody published by hand lies among the runs."""
    done(pipeline, "new", 2, "build")
    versions = pipeline.runs / "published"
    (versions / "v=000001").mkdir(parents=True)
    for name in ("LATEST", ".lock"):
        (versions / name).touch()
    assert [past.run.id for past in past_runs(pipeline.runs)] == ["new"]
    prune(pipeline.runs, 1)
    assert (versions / "v=000001").is_dir()


def test_a_record_tells_nothing_of_the_schema_file_but_that_it_is_another(tmp_path, pipeline):
    run = done(pipeline, "r", 1, "build")
    assert len(run.record("build").depends["schema"]) == 64 + len('""')


def test_published_versions_outlive_their_runs(pipeline, tmp_path):
    done(pipeline, "old", 1, "build")
    done(pipeline, "new", 2, "build")
    version = Path(tmp_path / "published" / "shop" / "v=000001")
    version.mkdir(parents=True)
    prune(pipeline.runs, 1)
    assert version.is_dir()


def test_runs_are_told_and_pruned_though_their_tables_are_gone(tmp_path):
    """And though one of them has a record that nobody can read: that one stays, and is told."""
    (tmp_path / "schema.yaml").write_text(chain_from("path: tables"), "utf-8")
    shutil.copytree(TABLES, tmp_path / "tables")
    file = pipeline_file(tmp_path)
    file.write_text(file.read_text("utf-8").replace(str(CHAIN), "schema.yaml"), "utf-8")
    read = read_pipeline(file)
    for day in range(1, 4):
        done(read, f"r{day}", day, "build", "features")
    broken = read.runs / "r1" / "stages" / "features.json"
    broken.write_text("{", "utf-8")
    shutil.rmtree(tmp_path / "tables")
    told = {
        words: CliRunner().invoke(app, ["runs", words[0], str(file), *words[1:]])
        for words in (("list",), ("show", "r1"), ("diff", "r1", "r2"), ("prune", "--keep", "1"))
    }
    assert {words: of.exit_code for words, of in told.items()} == dict.fromkeys(told, 0)
    assert "build, features (damaged)" in told["list",].output
    assert "r1/stages/features.json" in "".join(told["show", "r1"].output.split())
    assert "damaged" in told["diff", "r1", "r2"].output
    assert "left alone" in told["prune", "--keep", "1"].output
    assert sorted(path.name for path in read.runs.iterdir()) == ["r1", "r3"]
