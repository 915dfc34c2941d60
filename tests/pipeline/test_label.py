"""A label, named in a pipeline file, from tables to embeddings: it is learned, and hidden from all
that learns it, as whatever kind of attribute it is stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import isohop
from isohop.cli import app
from isohop.coldbrew.distill import read_manifest
from isohop.pipeline.pipeline_file import read_pipeline
from isohop.pipeline.running import open_run, run_all

pytestmark = pytest.mark.usefixtures("ray")

PAINTERS, PAINTINGS, STYLES = 12, 400, ("baroque", "cubist", "gothic")
SCHEMA = {
    "database": "gallery",
    "source": {"path": "data"},
    "tables": {
        "painter": {"key": "painter_id"},
        "painting": {
            "key": "painting_id",
            "references": [{"columns": "painter_id", "table": "painter"}],
        },
    },
    "entities": {"painter": {"table": "painter"}, "painting": {"table": "painting"}},
}
SMALL = {
    "name": "gallery",
    "schema": "schema.yaml",
    "seed": 1,
    "runs": "runs",
    "features": {"dimensions": 16, "levels": [4], "epochs": 1, "steps": 10, "vocabulary": 512},
    "distill": {"dimensions": 16, "steps": 100, "batch": 512, "negatives": 16},
    "publish": {"path": "published"},
    "report": {"sample": 50, "map": "pca"},
}
KINDS = {
    "an attribute": ("painting.style", {"kind": "category"}),
    "a shared attribute": ("painting.style", {"kind": "category", "share": True}),
    "a number": ("painting.year", {"kind": "number"}),
}


def pipeline_file(folder: Path, label: str, attribute: dict[str, object]) -> Path:
    """Each painter has one style and one time, which only the painter's other paintings tell."""
    draw = np.random.default_rng(3)
    painter = draw.integers(0, PAINTERS, PAINTINGS)
    (folder / "data").mkdir()
    painters = {"painter_id": range(PAINTERS), "name": [f"painter {n}" for n in range(PAINTERS)]}
    paintings = {
        "painting_id": range(PAINTINGS),
        "painter_id": painter,
        "title": [f"number {n % 7}" for n in range(PAINTINGS)],
        "style": [STYLES[p % 3] for p in painter],
        "year": 1500 + 10 * painter + draw.integers(0, 5, PAINTINGS),
    }
    del paintings["year" if label == "painting.style" else "style"]  # either tells the other
    for name, table in (("painter", painters), ("painting", paintings)):
        pq.write_table(pa.table(table), folder / "data" / f"{name}.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA | {"attributes": {label: attribute}}))
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"label": label}), "utf-8")
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_is_learned_and_no_new_row_needs_it(tmp_path, kind):
    label, attribute = KINDS[kind]
    file = pipeline_file(tmp_path, label, attribute)
    pipeline = read_pipeline(file)
    run = open_run(pipeline, "current")
    run_all(pipeline, run)
    found = {
        row.model: row.value
        for row in read_manifest(run.model).evaluation
        if (row.task, row.entity, row.group) == ("label", "all", "overall")
    }
    # By chance a third is right, or none of the variance told; a title says nothing.
    assert found["teacher"] > 0.7 > 0.55 > found["mlp"]
    assert found["served"] > 0.65
    table = isohop.read_embeddings(tmp_path / "published" / "gallery", "painting")
    assert table.num_rows == PAINTINGS
    name = label.partition(".")[2]
    assert name not in table.column_names

    rows = tmp_path / "new.parquet"
    new = {"painting_id": [9001], "title": ["number 3"], name: ["no such value"]}
    pq.write_table(pa.table(new), rows)
    asked = ["embed", str(file), "--new", str(rows), "--entity", "painting"]
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert f"not read: {name}" in " ".join(done.output.split())
    assert json.loads((tmp_path / "new" / "_new-rows.json").read_text("utf-8"))["embedded"] == 1


def test_a_graph_of_one_node_type_is_learned_from(tmp_path):
    """Papers and what they cite; of which some cite nothing."""
    draw = np.random.default_rng(4)
    (tmp_path / "data").mkdir()
    papers = {"paper_id": range(120), "title": [f"words of kind {n % 4}" for n in range(120)]}
    citing = draw.integers(0, 100, 400)
    pairs = np.unique(np.stack([citing, (citing + 4 * draw.integers(1, 25, 400)) % 100]), axis=1)
    cites = {"paper_id": pairs[0], "cited_id": pairs[1]}
    for name, table in (("paper", papers), ("cites", cites)):
        pq.write_table(pa.table(table), tmp_path / "data" / f"{name}.parquet")
    references = [
        {"columns": "paper_id", "table": "paper"},
        {"columns": "cited_id", "table": "paper", "prefix": "cited_"},
    ]
    schema = {
        "database": "papers",
        "source": {"path": "data"},
        "tables": {
            "paper": {"key": "paper_id"},
            "cites": {"key": ["paper_id", "cited_id"], "references": references},
        },
        "entities": {"paper": {"table": "paper"}},
    }
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema), "utf-8")
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(SMALL), "utf-8")
    pipeline = read_pipeline(tmp_path / "pipeline.yaml")
    run = open_run(pipeline, "current")
    run_all(pipeline, run)
    table = isohop.read_embeddings(tmp_path / "published" / "gallery", "paper")
    vectors = np.stack(table["embedding"].to_numpy())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    apart = table["degree"].to_numpy() == 0
    assert apart.sum() >= 20
    assert set(np.array(table["source"].to_pylist())[apart]) == {"student"}
    nearest = (vectors[apart] @ vectors[~apart].T).argmax(1)
    kind = table["node_id"].to_numpy() % 4
    assert (kind[~apart][nearest] == kind[apart]).mean() > 0.9
