"""Whole pipelines, on the smallest of the example databases."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import isohop
from isohop.cli import app
from isohop.coldbrew.comparison import Comparison
from isohop.errors import InvalidInput, IsohopError
from isohop.graph import Graph
from isohop.pipeline.pipeline_file import read_pipeline
from isohop.pipeline.running import fingerprint, open_run, run_all, run_stage
from isohop.pipeline.runs import Run
from isohop.pipeline.stages import STAGES
from tests.shop import CHAIN, ROOT, TABLES, chain_from

SMALL = """
features: {dimensions: 8, levels: [4], epochs: 1, steps: 5, vocabulary: 256}
distill: {dimensions: 16, steps: 6, batch: 64, negatives: 8}
publish: {path: published}
report: {sample: 50}
"""


def pipeline_file(folder: Path, more: str = SMALL) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(f"name: shop\nschema: {CHAIN}\nseed: 1\nruns: runs\n{more}", "utf-8")
    return file


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "isohop.cli", *map(str, words)]


def test_tables_in_embeddings_out_and_nothing_is_done_twice(tmp_path, ray):
    file = pipeline_file(tmp_path)
    read = read_pipeline(file)
    run = open_run(read, "current")
    first = run_all(read, run)
    assert [now for _, now in first] == [True] * len(STAGES)
    table = isohop.read_embeddings(tmp_path / "published" / "shop", entity="customer")
    assert table.num_rows == 120
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert (run.folder / "report.html").stat().st_size > 1000
    assert [now for _, now in run_all(read, run)] == [False] * len(STAGES)
    new_customers_are_embedded(file, tmp_path)
    new_customers_come_with_edges(file, run, tmp_path)
    models_are_compared(file, run)
    a_damaged_version_is_published_again(file, run)
    damaged_embeddings_are_made_again(file, run)

    changed = read_pipeline(pipeline_file(tmp_path, SMALL.replace("steps: 6", "steps: 7")))
    again = {record.stage: now for record, now in run_all(changed, run)}
    assert again == {
        "build": False,
        "features": False,
        "distill": True,
        "embed": True,
        "publish": True,
        "report": True,
    }

    other = open_run(changed, "other")
    run_all(changed, other)
    published = tmp_path / "published" / "shop"
    one, two = (
        isohop.read_embeddings(published, entity="customer", version=version) for version in (3, 4)
    )
    assert one.equals(two)  # two runs with one seed
    for name in ("elsewhere", "anywhere"):  # the report tells where, though it is version 1 again
        said = read_pipeline(file, {"distill.steps": "7", "publish.name": name})
        again = [record.stage for record, now in run_all(said, other) if now]
        assert again == ["publish", "report"]
        assert f"{name}/v=000001" in other.report.read_text("utf-8")


def new_customers_are_embedded(file: Path, folder: Path) -> None:
    """By the student of a run that was done, from rows under logical names. What else they have is
    told, and which of it could be edges."""
    rows = folder / "new.parquet"
    new = {"id": [9001, 9002], "name": ["Noor", None], "vip": [1, 0], "city": ["Oslo", None]}
    pq.write_table(pa.table(new), rows)
    asked = ["embed", str(file), "--new", str(rows), "--out", str(folder / "new")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "2 new rows of 'customer' embedded" in done.output
    told = " ".join(done.output.split())
    assert "not read: vip, city" in told
    assert "are read by --edges customer--city--customer.city=FILE" in told
    table = pq.read_table(next((folder / "new").glob("*.parquet")))
    assert table["id"].to_pylist() == [9001, 9002]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)


def new_customers_come_with_edges(file: Path, run: Run, folder: Path) -> None:
    """Of a city that is known, and of one that is not."""
    graph = Graph.open(run.graph)
    edge = next(e for e in graph.edge_types if (e.source, e.role) == ("customer", "city"))
    city = graph.nodes(edge.target)[graph.node_type(edge.target).key[0]][0].as_py()
    rows = folder / "linked.parquet"
    new = {"id": [9001, 9002], "name": ["Noor", "Li"], "city": [city, "Atlantis"]}
    pq.write_table(pa.table(new), rows)
    asked = ["embed", str(file), "--new", str(rows), "--out", str(folder / "linked")]
    done = CliRunner().invoke(app, [*asked, "--edges", f"{edge.name}={rows}"])
    assert done.exit_code == 0, done.output
    assert "2 new rows of 'customer' with 1 edges embedded" in done.output
    assert "1 edges could not be used" in done.output
    table = pq.read_table(next((folder / "linked").glob("*.parquet")))
    assert table["degree"].to_pylist() == [1, 0]
    done = CliRunner().invoke(app, [*asked, "--edges", edge.name])
    assert "is no name and value" in str(done.exception)
    asked[1] = str(run.student)
    done = CliRunner().invoke(app, [*asked, "--edges", f"{edge.name}={rows}"])
    assert "name the pipeline file" in str(done.exception)


def models_are_compared(file: Path, run: Run) -> None:
    """On the graph and the features of a run, which stay as they are, whatever is said now."""
    before = {name: run.record(name) for name in STAGES}
    asked = ["evaluate", str(file), "--seeds", "2", "--as-of", "2026-11-20"]
    done = CliRunner().invoke(app, [*asked, "--set", "label=customer.city"])
    assert "were learned with label: null" in str(done.exception)
    done = CliRunner().invoke(app, [*asked, "--set", "features.steps=7"])
    assert done.exit_code == 0, done.output
    assert "mean ± deviation of 2 seeds" in done.output
    found = Comparison.model_validate_json(run.evaluation.read_bytes())
    assert found.seeds == (1, 2)
    assert {"teacher", "student", "served", "mlp", "gcn"} <= {one.model for one in found.figures}
    assert {name: run.record(name) for name in STAGES} == before


def a_damaged_version_is_published_again(file: Path, run: Run) -> None:
    """By the same command, and once. The report, which tells the version, stays until it is asked
    for."""
    read = read_pipeline(file)
    report = run.record("report")
    next(read.published.rglob("*.parquet")).unlink()
    assert [run_stage(read, run, "publish")[1] for _ in range(2)] == [True, False]
    assert isohop.read_embeddings(read.published, "customer", verify=True).num_rows == 120
    assert run.record("report") == report
    assert "shop/v=000001" in run.report.read_text("utf-8")
    assert run_stage(read, run, "report")[1]
    assert "shop/v=000002" in run.report.read_text("utf-8")


def damaged_embeddings_are_made_again(file: Path, run: Run) -> None:
    """By a run, once somebody has found out that they are."""
    read = read_pipeline(file, {"publish.keep": "4"})
    next(run.embeddings.rglob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="Run the stage 'embed' again: 'isohop run' does"):
        run_all(read, run)
    again = {record.stage: now for record, now in run_all(read, run)}
    assert [stage for stage, now in again.items() if now] == ["embed", "publish", "report"]


def test_options_of_new_rows_are_refused_without_rows(tmp_path):
    file = pipeline_file(tmp_path)
    done = CliRunner().invoke(app, ["embed", str(file), "--out", str(tmp_path / "o")])
    assert "name these with --new" in str(done.exception)
    done = CliRunner().invoke(app, ["embed", str(file), "--new", "rows.parquet"])
    assert "with --out" in str(done.exception)
    done = CliRunner().invoke(
        app, ["embed", str(file), "--new", "rows.parquet", "--out", str(tmp_path / "o")]
    )
    assert "its stage 'embed' is not done" in str(done.exception)


def test_a_run_that_is_told_to_end_says_so_and_nothing_else(tmp_path):
    """While Ray works, which would tell its own stack."""
    process = subprocess.Popen(
        command("run", pipeline_file(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "neighbourhood prediction" in line:
            break
    os.kill(process.pid, signal.SIGTERM)
    said = process.stderr.read()
    assert process.wait() == 128 + signal.SIGTERM
    assert "Ended by SIGTERM" in said
    assert "***" not in said
    assert "Traceback" not in said
    process.stderr.close()


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path):
    file = pipeline_file(tmp_path)
    process = subprocess.Popen(
        command("run", file), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "neighbourhood prediction" in line:  # the middle of the stage `features`
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "published").exists()
    done = subprocess.run(command("run", file), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    assert isohop.read_embeddings(tmp_path / "published", entity="customer").num_rows == 120
    left = [path.name for path in (tmp_path / "runs" / "shop" / "current").iterdir()]
    assert not [name for name in left if name.startswith(".tmp-")]


def test_nothing_is_published_from_a_run_that_failed(tmp_path):
    folder = tmp_path / "schema"
    shutil.copytree(ROOT / "examples" / "shop" / "flat", folder / "data")
    schema = (ROOT / "schemas" / "shop" / "flat.yaml").read_text("utf-8")
    schema = schema.replace("../../examples/shop/flat", "data")
    (folder / "schema.yaml").write_text(schema + "policies: {violations: fail}\n", "utf-8")
    (folder / "data" / "orders.csv").write_text("id,c,town\n1,1,A\n2,1,B\n", "utf-8")
    text = (folder / "schema.yaml").read_text("utf-8")
    text = text.replace(
        "entities:",
        "  orders:\n    columns: {town: customer.town}\n"
        "    references:\n      - {columns: c, table: customer}\nentities:",
    )
    (folder / "schema.yaml").write_text(text, "utf-8")
    file = tmp_path / "pipeline.yaml"
    file.write_text(f"name: shop\nschema: {folder / 'schema.yaml'}\n{SMALL}", "utf-8")
    done = subprocess.run(command("run", file), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "customer.town" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "published").exists()


def test_every_mistake_of_both_files_is_told_at_once(tmp_path):
    file = pipeline_file(
        tmp_path, "labell: x\nlabel: customer.ctiy\nfeatures: {dimension: 8}\npublish: {path: p}\n"
    )
    with pytest.raises(InvalidInput) as caught:
        read_pipeline(file)
    text = str(caught.value)
    assert "Did you mean 'label'?" in text
    assert "Did you mean 'dimensions'?" in text
    assert "Did you mean 'customer.city'?" in text


def test_a_key_is_neither_learned_nor_shown_by_colours(tmp_path):
    more = SMALL.replace("report: {", "report: {colour: {customer: customer.id}, ")
    with pytest.raises(InvalidInput) as told:
        read_pipeline(pipeline_file(tmp_path, "label: customer.id\n" + more))
    assert [one.where.split()[-1] for one in told.value.problems] == [
        "label",
        "report.colour.customer",
    ]


def test_a_label_is_no_attribute_with_a_dot_in_its_name(tmp_path):
    """Where its entity ends could not be told."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "people.csv").write_text("id,home.city\n1,Rome\n2,Oslo\n", "utf-8")
    schema = "database: d\nsource: {path: data}\ntables:\n  people: {key: id}\n"
    schema += "entities: {person: {table: people}}\n"
    (tmp_path / "schema.yaml").write_text(schema, "utf-8")
    more = "publish: {path: published}\nlabel: person.home.city\n"
    file = pipeline_file(tmp_path, more)
    file.write_text(file.read_text("utf-8").replace(str(CHAIN), "schema.yaml"), "utf-8")
    with pytest.raises(InvalidInput, match="has a dot in its name"):
        read_pipeline(file)


def test_urls_that_cannot_be_read_are_told_at_once_and_make_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.yaml").write_text(chain_from("path: gs://bucket/tables"), "utf-8")
    file = pipeline_file(tmp_path).rename(tmp_path / "p.yaml")
    instead = {"schema": "schema.yaml", "runs": "s3:/bucket/runs", "publish.path": "file:///x"}
    with pytest.raises(InvalidInput) as told:
        read_pipeline(file, instead)
    where = [one.where.split()[-1] for one in told.value.problems]
    assert where == ["runs=s3:/bucket/runs", "publish.path=file:///x", "source.path"]
    with pytest.raises(InvalidInput, match=r"schema\.yaml: this is on this machine"):
        read_pipeline(file, {"schema": "s3://bucket/schema.yaml"})
    with pytest.raises(InvalidInput) as told:
        read_pipeline(file, {"schema": "s" * 300, "runs": "s3://[my-bucket]/runs"})
    where = [one.where.split()[-1].partition("=")[0] for one in told.value.problems]
    assert sorted(where) == ["runs", "schema"]
    done = CliRunner().invoke(app, ["build", str(CHAIN), "--out", "gs://bucket/graph"])
    assert "--out is on this machine" in str(done.exception)
    done = CliRunner().invoke(app, ["run", "s3://bucket/pipeline.yaml"])
    assert "PIPELINE.yaml is on this machine" in str(done.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.yaml", "schema.yaml"]


def test_nothing_is_written_among_tables_or_versions_among_runs(tmp_path):
    """It would be read as a table, and pruned as a run."""
    data = tmp_path / "data"
    shutil.copytree(TABLES, data)
    (data / "schema.yaml").write_text(chain_from("path: ."), "utf-8")
    file = pipeline_file(data)
    with pytest.raises(InvalidInput) as told:
        read_pipeline(file, {"schema": "schema.yaml"})
    assert [one.where.split()[-1] for one in told.value.problems] == ["runs", "publish"]
    outside = {"schema": "schema.yaml", "runs": "../out", "publish.path": "../out"}
    with pytest.raises(InvalidInput, match="versions would lie among the runs"):
        read_pipeline(file, outside)
    with pytest.raises(InvalidInput, match="versions would lie among the runs"):
        read_pipeline(file, outside | {"publish.path": "../out/shop", "publish.name": "published"})
    read_pipeline(file, outside | {"publish.name": "shop-embeddings"})
    done = CliRunner().invoke(app, ["build", str(data / "schema.yaml"), "--out", str(data / "g")])
    assert "lies in the folder of the tables" in str(done.exception)
    assert not (data / "g").exists()


def with_model(folder: Path, model: Path) -> Path:
    features = f"features: {{encoder: transformers, model: {model.name}, dimensions: 8}}"
    return pipeline_file(folder, f"{features}\npublish: {{path: p}}\n")


def test_a_text_model_that_cannot_be_used_is_told_before_anything_starts(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(InvalidInput, match=r"features\.model.*config.json is missing"):
        read_pipeline(with_model(tmp_path, tmp_path / "model"))
    with pytest.raises(InvalidInput, match="is not a folder"):
        read_pipeline(with_model(tmp_path, tmp_path / "modell"))
    file = pipeline_file(tmp_path, "features: {model: model}\npublish: {path: p}\n")
    with pytest.raises(InvalidInput, match="folder of the encoder 'transformers'"):
        read_pipeline(file)


def test_other_weights_of_a_text_model_are_other_features(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}", "utf-8")
    read = read_pipeline(with_model(tmp_path, model))
    run = open_run(read, "r")
    run_stage(read, run, "build")
    before = fingerprint(read, run, STAGES["features"])
    assert fingerprint(read, run, STAGES["features"]) == before
    (model / "model.safetensors").write_text("{ }", "utf-8")
    assert fingerprint(read, run, STAGES["features"]) != before


def test_what_a_schema_file_says_decides_and_not_how_it_is_written(tmp_path):
    """Neither comments, layout and quotes nor the order of its keys."""
    schema = chain_from(f"path: {TABLES}")
    file = pipeline_file(tmp_path)
    file.write_text(file.read_text("utf-8").replace(str(CHAIN), "schema.yaml"), "utf-8")
    said = yaml.safe_load(schema)
    backwards = {key: said[key] for key in reversed(said)}
    backwards["tables"] = {name: said["tables"][name] for name in reversed(said["tables"])}
    other = {**said, "policies": {"violations": "unset"}}
    found = []
    for text in (
        schema,
        f"# A word.\n\n{schema}",
        yaml.safe_dump(backwards),
        yaml.safe_dump(other),
    ):
        (tmp_path / "schema.yaml").write_text(text, "utf-8")
        read = read_pipeline(file)
        found.append(fingerprint(read, open_run(read, "r"), STAGES["build"]))
    assert found[0] == found[1] == found[2] != found[3]


def test_a_key_that_only_the_database_declares_is_a_matter_of_the_graph(tmp_path):
    """Rows stay as they are, and so does the schema file."""
    (tmp_path / "schema.yaml").write_text(
        """
        database: shop
        source: {url: "sqlite:///shop.db"}
        tables: {customer: {}, purchase: {}}
        entities: {customer: {table: customer}, purchase: {table: purchase}}
        """,
        "utf-8",
    )
    file = tmp_path / "pipeline.yaml"
    file.write_text(f"name: shop\nschema: schema.yaml\nseed: 1\nruns: runs\n{SMALL}", "utf-8")
    edges = []
    for declared in ("", "REFERENCES customer (id)"):
        (tmp_path / "shop.db").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
            database.executescript(f"""
                CREATE TABLE customer (id INTEGER PRIMARY KEY);
                CREATE TABLE purchase (id INTEGER PRIMARY KEY, customer_id INTEGER {declared});
                INSERT INTO customer VALUES (1), (2);
                INSERT INTO purchase VALUES (7, 1), (8, 2);
            """)
        read = read_pipeline(file)
        run = open_run(read, "current")
        assert run_stage(read, run, "build")[1]
        assert not run_stage(read, run, "build")[1]
        edges.append(len(Graph.open(run.graph).edge_types))
    assert edges == [0, 1]


def test_a_run_ends_before_it_learns_of_an_entity_without_rows(tmp_path):
    """And its graph is there to look at."""
    shutil.copytree(TABLES, tmp_path / "tables")
    (tmp_path / "schema.yaml").write_text(chain_from("path: tables"), "utf-8")
    file = pipeline_file(tmp_path)
    file.write_text(file.read_text("utf-8").replace(str(CHAIN), "schema.yaml"), "utf-8")
    (customers,) = (tmp_path / "tables").glob("customer.*")
    customers.write_text(customers.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    read = read_pipeline(file)
    run = open_run(read, "r")
    with pytest.raises(IsohopError, match=r"'customer' is without .* 'isohop check .*yaml'"):
        run_stage(read, run, "build")
    assert run.record("build") is None
    assert Graph.open(run.graph).node_type("customer").count == 0


def test_a_stage_says_what_it_needs(tmp_path):
    read = read_pipeline(pipeline_file(tmp_path))
    told = "needs the stage 'features' .* 'isohop stage features .*pipeline.yaml --run r' first"
    with pytest.raises(IsohopError, match=told):
        run_stage(read, open_run(read, "r"), "distill")
    assert not open_run(read, "r").folder.exists()
    with pytest.raises(IsohopError, match="Did you mean 'distill'"):
        run_stage(read, open_run(read, "r"), "distil")
    with pytest.raises(IsohopError, match="cannot be the name of a run"):
        open_run(read, "../elsewhere")


def test_a_command_may_say_otherwise_than_the_file(tmp_path):
    file = pipeline_file(tmp_path)
    changed = read_pipeline(file, {"distill.steps": "7", "publish.path": "p"})
    assert changed.settings.distill.steps == 7


def test_a_command_may_say_that_there_is_none(tmp_path):
    more = SMALL.replace("{path: published}", "{path: published, gates: {neighbours: 0.5}}")
    file = pipeline_file(tmp_path, f"{more}label: customer.city\nas_of: 2026-01-01\n")
    gates = ("publish.gates.neighbours", "publish.gates.rows")
    said = dict.fromkeys(("label", "until", "as_of", "since", *gates), "null")
    read = read_pipeline(file, said).settings
    assert {read.label, read.until, read.as_of, read.since} == {None}
    assert {read.publish.gates.neighbours, read.publish.gates.rows} == {None}
    with pytest.raises(InvalidInput, match=r"--set name=null: .* valid string\. Got None"):
        read_pipeline(file, {"name": "null"})


def test_what_a_command_says_is_told_as_that_and_not_by_a_line_of_the_file(tmp_path):
    file = pipeline_file(tmp_path)
    with pytest.raises(InvalidInput) as told:
        read_pipeline(file, {"distill.steps": "0", "label": "customer.town", "report": "x"})
    places = [one.where for one in told.value.problems]
    assert places == ["--set distill.steps=0", "--set report=x", "--set label=customer.town"]


@pytest.mark.parametrize("name", ["a b", ".a", "a/b", "ä", "", "a\n"])
def test_a_name_that_is_none_is_told_once_and_in_words(tmp_path, name):
    file = pipeline_file(tmp_path)
    said = file.read_text("utf-8").replace("name: shop", f"name: {json.dumps(name)}")
    file.write_text(said, "utf-8")
    with pytest.raises(InvalidInput) as told:
        read_pipeline(file)
    (problem,) = told.value.problems
    assert "has letters, digits, '.', '-' and '_'" in problem.what


def test_a_text_model_without_its_folder_is_told_as_missing(tmp_path):
    more = SMALL.replace("features: {", "features: {encoder: transformers, ")
    with pytest.raises(InvalidInput, match="features: 'model' is missing"):
        read_pipeline(pipeline_file(tmp_path, more))


def test_what_a_command_says_is_checked_as_the_file_is(tmp_path):
    file = pipeline_file(tmp_path)
    said = ["distill.step=7", "features.epochs=many", "engine=spork", "report=no"]
    asked = [word for one in said for word in ("--set", one)]
    done = CliRunner().invoke(app, ["run", str(file), *asked])
    assert isinstance(done.exception, InvalidInput)
    text = str(done.exception)
    assert "Did you mean 'steps'?" in text
    for place in ("features.epochs", "engine", "report"):
        assert place in text
    for wrong in (["engine"], ["engine=sail", "engine=spark"]):
        asked = [word for one in wrong for word in ("--set", one)]
        done = CliRunner().invoke(app, ["stage", "build", str(file), *asked])
        assert type(done.exception) is IsohopError


@pytest.mark.parametrize("words", [("run",), ("stage", "build"), ("evaluate",)])
def test_a_moment_that_is_empty_is_not_now(tmp_path, words):
    """As where the variable of a shell is not set."""
    file = pipeline_file(tmp_path)
    done = CliRunner().invoke(app, [*words, str(file), "--as-of", ""])
    assert "--as-of '' is no time" in str(done.exception)


def test_a_student_that_does_not_go_with_its_teacher_embeds_nothing(tmp_path):
    """Once the teacher has learned anew."""
    file = pipeline_file(tmp_path)
    run = open_run(read_pipeline(file), "current")
    run.student.mkdir(parents=True)
    asked = ["embed", str(file), "--new", "rows.parquet", "--out", str(tmp_path / "new")]
    done = CliRunner().invoke(app, asked)
    assert "its stage 'embed' is not done" in str(done.exception)


@pytest.mark.parametrize("said", ["as_of=20260105", "until=20260105", "schedule.start=86400"])
def test_a_number_is_no_day(tmp_path, said):
    """It would be taken for seconds since 1970."""
    file = pipeline_file(tmp_path)
    done = CliRunner().invoke(app, ["stage", "build", str(file), "--set", said])
    assert "is no day and no time: say 2026-11-20" in str(done.exception)
    day = said.partition("=")[0]
    if day != "until":
        assert read_pipeline(file, {day: "2026-01-05"})


def test_a_window_that_no_time_bounds_is_refused(tmp_path):
    schema = chain_from(f"path: {TABLES}")
    file = pipeline_file(tmp_path)
    file.write_text(file.read_text("utf-8").replace(str(CHAIN), "schema.yaml"), "utf-8")
    (tmp_path / "schema.yaml").write_text(schema, "utf-8")
    with pytest.raises(InvalidInput, match="no table says when"):
        read_pipeline(file, {"until": "2026-01-05"})
    # Whether it holds times is seen once rows are read.
    timed = schema.replace(
        "  customer:\n    key: id\n", "  customer:\n    key: id\n    time: name\n"
    )
    (tmp_path / "schema.yaml").write_text(timed, "utf-8")
    assert read_pipeline(file, {"until": "2026-01-05"})


def test_a_stage_tells_its_record_in_a_file(tmp_path):
    file, told = pipeline_file(tmp_path), tmp_path / "record.json"
    asked = ["stage", "build", str(file), "--set", "runs=elsewhere", "--record", str(told)]
    for _ in range(2):  # made, then found
        subprocess.run(command(*asked), capture_output=True, check=True, cwd=tmp_path)
        record = json.loads(told.read_text("utf-8"))
        told.unlink()
        assert record["stage"] == "build"
        assert record["made"][0]["where"] == str(tmp_path / "elsewhere/shop/current/graph")


def test_of_what_was_moved_it_is_told_where_it_is(tmp_path):
    (tmp_path / "here").mkdir()
    read = read_pipeline(pipeline_file(tmp_path / "here"))
    made, _ = run_stage(read, open_run(read, "r"), "build")
    (tmp_path / "here").rename(tmp_path / "there")
    read = read_pipeline(tmp_path / "there" / "pipeline.yaml")
    found, is_new = run_stage(read, run := open_run(read, "r"), "build")
    assert not is_new
    assert [one.what for one in found.made] == [one.what for one in made.made]
    assert found.made[0].where == str(run.graph)
    assert found.made[1:] == made.made[1:]


@pytest.mark.parametrize(
    "cron",
    [
        *("@nightly", "30 2 * *", "0 0 * * * *", "", "$(id) * * * *"),
        *("99 99 * * *", "0 25 * * *", "0-60 * * * *", "0 0 1,32 * *", "0 0 * 0 *", "0 0 * * 8"),
    ],
)
def test_a_schedule_that_is_none_is_told(tmp_path, cron):
    file = pipeline_file(tmp_path, SMALL + f'schedule: {{cron: "{cron}", pol: x}}\n')
    with pytest.raises(InvalidInput, match=r"schedule\.cron") as caught:
        read_pipeline(file)
    assert "Did you mean 'pool'?" in str(caught.value)


@pytest.mark.parametrize("cron", ['"30 2 * * MON-FRI"', '"@hourly"', "null", '"*/5 0 1,15 * *"'])
def test_a_schedule_is_a_preset_or_cron_or_nothing(tmp_path, cron):
    file = pipeline_file(tmp_path, SMALL + f"schedule: {{cron: {cron}, start: 2026-02-03}}\n")
    assert read_pipeline(file).settings.schedule.retries == 2


@pytest.mark.parametrize("catchup", ["1", '"false"', "no"])
def test_whether_to_catch_up_is_true_or_false(tmp_path, catchup):
    file = pipeline_file(tmp_path, SMALL + f"schedule: {{catchup: {catchup}}}\n")
    with pytest.raises(InvalidInput, match=r"schedule\.catchup"):
        read_pipeline(file)


def test_files_name_nothing_outside_of_what_is_allowed(tmp_path, monkeypatch):
    """Of pipeline and schema file, all that do are told at once, before anything is read there."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    shutil.copytree(TABLES, elsewhere / "tables")
    (home / "schema.yaml").write_text(chain_from("path: ../elsewhere/tables"), "utf-8")
    file = home / "pipeline.yaml"
    file.write_text(f"name: shop\nschema: schema.yaml\nruns: runs\n{SMALL}", "utf-8")
    read_pipeline(file)
    monkeypatch.setenv("ISOHOP_ALLOWED", str(home))
    instead = {"runs": "../runs", "publish.path": "s3://bucket/published"}
    with pytest.raises(InvalidInput) as told:
        read_pipeline(file, instead | {"features.encoder": "transformers", "features.model": "/x"})
    outside = [one.where.split()[-1] for one in told.value.problems if "outside" in one.what]
    said = ["runs=../runs", "publish.path=s3://bucket/published", "features.model=/x"]
    assert outside == [*said, "source.path"]
    with pytest.raises(InvalidInput, match="outside"):
        read_pipeline(file, {"schema": str(elsewhere / "no-such-file.yaml")})
    monkeypatch.setenv("ISOHOP_ALLOWED", f"{home};{elsewhere / 'tables'}")
    read_pipeline(file)
