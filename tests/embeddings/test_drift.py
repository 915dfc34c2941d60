"""How versions differ, and what is not published because of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers
from typer.testing import CliRunner

from isohop import terminal
from isohop.cli import app
from isohop.embeddings import publish, read_embeddings, read_manifest
from isohop.embeddings.drift import drift, percent, same_neighbours, snapshot
from isohop.embeddings.settings import Gates
from isohop.errors import InvalidInput, IsohopError
from tests.embeddings.conftest import make_entity, write_run

SOME = {"certificate": "c", "fingerprints": {}}


def published(folder: Path, run: str, entities, figures=None, **gates) -> int:
    embeddings = write_run(folder / run, entities, files=2)
    version = publish(
        embeddings,
        folder / "published",
        "shop",
        run=run,
        evaluation=figures,
        gates=Gates(**gates),
        **SOME,
    )
    return version.version


def home(folder: Path) -> Path:
    return folder / "published" / "shop"


def turned(table: pa.Table, order: np.ndarray | None = None, seed: int = 0) -> pa.Table:
    """The same vectors in a space that is turned, the nodes in another order."""
    rows = np.arange(table.num_rows) if order is None else order
    size = table.schema.field("embedding").type.list_size
    values = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, size)
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    moved = (values @ axes).astype(np.float32)[rows]
    found = table.take(pa.array(rows))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(moved.ravel()), size)
    found = changed(found, "embedding", vectors)
    return changed(found, "node_id", pa.array(np.arange(len(rows))))


def test_another_space_and_another_order_are_no_drift(tmp_path):
    table = make_entity(300, 8)
    order = np.random.default_rng(1).permutation(300)
    published(tmp_path, "a", {"airport": table})
    published(tmp_path, "b", {"airport": turned(table, order)}, neighbours=0.99)
    (one,) = drift(snapshot(home(tmp_path), 1), snapshot(home(tmp_path), 2)).entities
    assert (one.rows, one.gone, one.new) == ((300, 300), 0, 0)
    assert one.neighbours > 0.99
    assert one.norm[0] == pytest.approx(one.norm[1], rel=1e-4)


def test_what_is_gone_and_new_is_counted(tmp_path):
    ten = {"code": [f"node {row}" for row in range(5, 15)]}
    published(tmp_path, "a", {"airport": make_entity(10), "plane": make_entity(3)})
    published(
        tmp_path, "b", {"airport": make_entity(10, key=ten), "airline": make_entity(3)}, rows=0
    )
    found = drift(snapshot(home(tmp_path), 1), snapshot(home(tmp_path)))
    assert (found.gone, found.new) == (("plane",), ("airline",))
    assert (found.entities[0].gone, found.entities[0].new) == (5, 5)
    assert drift(snapshot(home(tmp_path), 2), snapshot(home(tmp_path), 2)).entities[0].gone == 0


@settings(max_examples=50)
@given(
    numbers.arrays(
        np.float32,
        st.tuples(st.integers(0, 40), st.integers(1, 6)),
        elements=st.floats(-3, 3, width=32),
    )
)
def test_a_space_has_the_neighbours_of_itself(values):
    found = same_neighbours(values, values)
    assert found is None if len(values) < 3 else found == 1.0


def test_spaces_that_have_nothing_to_do_with_each_other_share_few_neighbours():
    one, other = (
        np.random.default_rng(s).normal(size=(1000, 8)).astype(np.float32) for s in (1, 2)
    )
    assert same_neighbours(one, other) < 0.03


def changed(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def alone(table: pa.Table) -> pa.Table:
    """As if no node had an edge any more."""
    return changed(table, "source", pa.array(["student"] * table.num_rows))


def longer(table: pa.Table) -> pa.Table:
    """With vectors of twice the length."""
    held = table["embedding"].combine_chunks()
    twice = pa.array(held.flatten().to_numpy() * 2)
    vectors = pa.FixedSizeListArray.from_arrays(twice, held.type.list_size)
    return changed(table, "embedding", vectors)


def renamed(table: pa.Table) -> pa.Table:
    """As if all keys were others."""
    return changed(table, "code", pa.array([f"other {n}" for n in range(table.num_rows)]))


@pytest.mark.parametrize(
    ("after", "gates", "told"),
    [
        ({"airport": make_entity(9)}, {"rows": 0.5}, "has 9 rows, of 20 before"),
        ({"plane": make_entity(20)}, {"rows": 0.5}, "'airport': was published before and is gone"),
        (
            {"airport": make_entity(20, seed=5)},
            {"neighbours": 0.9},
            "nearest neighbours are as before",
        ),
        ({"airport": make_entity(20)}, {"evaluation": 0.05}, "fell from 0.500 to 0.400"),
        (
            {"airport": alone(make_entity(20))},
            {"coverage": 0.9},
            "0.0% of rows .* of the 75.0% before",
        ),
        ({"airport": longer(make_entity(20))}, {"norm": 0.5}, "have a mean norm of"),
        # Where nothing can be compared nothing passes.
        ({"airport": renamed(make_entity(20))}, {"norm": 9.0}, "has no key of the 20 published"),
        (
            {"airport": renamed(make_entity(20))},
            {"neighbours": 0.1},
            "has no key of the 20 published",
        ),
        ({"airport": renamed(make_entity(20))}, {"keys": 0.1}, "has no key of the 20 published"),
    ],
)
def test_what_a_gate_does_not_let_pass_is_not_published(tmp_path, after, gates, told):
    published(tmp_path, "a", {"airport": make_entity(20)}, {"overall/mrr": 0.5, "old/mrr": 1.0})
    before = sorted(path.name for path in home(tmp_path).iterdir())
    with pytest.raises(InvalidInput, match=told) as caught:
        published(tmp_path, "b", after, {"overall/mrr": 0.4}, **gates)
    assert "version 1 stays the last" in str(caught.value)
    assert f"publish.gates.{next(iter(gates))}" in str(caught.value)
    assert sorted(path.name for path in home(tmp_path).iterdir()) == before
    assert (home(tmp_path) / "LATEST").read_text() == "v=000001\n"
    # Where it is meant, another gate lets it pass.
    wide = {"rows": 0.0, "neighbours": None, "evaluation": None, "coverage": 0.0, "norm": None}
    embeddings = tmp_path / "b"
    told = publish(embeddings, tmp_path / "published", "shop", run="b", gates=Gates(**wide), **SOME)
    assert told.version == 2


@pytest.mark.parametrize("rows", [3, 11])
def test_among_few_nodes_neighbours_differ_too(tmp_path, rows):
    published(tmp_path, "a", {"airport": make_entity(rows)})
    with pytest.raises(InvalidInput, match="nearest neighbours are as before"):
        published(tmp_path, "b", {"airport": make_entity(rows, seed=99)}, neighbours=1.0)
    published(tmp_path, "c", {"airport": make_entity(rows)}, neighbours=1.0)


@pytest.mark.parametrize("stay", [1, 2])
def test_neighbours_of_too_few_that_stayed_do_not_pass(tmp_path, stay):
    published(tmp_path, "a", {"airport": make_entity(40)})
    codes = [f"node {row}" if row < stay else f"other {row}" for row in range(40)]
    after = {"airport": make_entity(40, key={"code": codes})}
    with pytest.raises(InvalidInput, match=f"has {stay} keys? of the 40 published before"):
        published(tmp_path, "b", after, neighbours=0.1)


def test_of_so_few_that_all_stayed_nothing_is_strange(tmp_path):
    for run in ("a", "b"):
        published(tmp_path, run, {"airport": make_entity(2)}, neighbours=1.0)


def test_a_figure_that_is_gone_is_no_good_one(tmp_path):
    """Each, though others are still told: those that are new make up for none."""
    entities = {"airport": make_entity(20)}
    published(tmp_path, "a", entities, {"overall/mrr": 0.5, "overall/accuracy": 0.9})
    now = {"overall/mrr": 0.5, "tail/mrr": 0.9}
    with pytest.raises(InvalidInput, match=r"accuracy: was 0\.900 and is not told") as caught:
        published(tmp_path, "b", entities, now, evaluation=0.5)
    assert "mrr" not in str(caught.value)
    assert published(tmp_path, "c", entities, now) == 2


def test_what_is_no_worse_passes_every_gate(tmp_path):
    strict = {"rows": 1.0, "neighbours": 1.0, "evaluation": 0.0, "coverage": 1.0, "norm": 0.0}
    table = make_entity(30)
    published(tmp_path, "a", {"airport": table}, {"overall/mrr": 0.5}, **strict)
    assert published(tmp_path, "b", {"airport": table}, {"overall/mrr": 0.6}, **strict) == 2
    assert read_manifest(home(tmp_path)).evaluation == {"overall/mrr": 0.6}


def test_publishing_again_what_is_published_passes_no_gate(tmp_path):
    """A retry of a publication that is done does no harm, whatever came after."""
    published(tmp_path, "a", {"airport": make_entity(30)})
    published(tmp_path, "b", {"airport": make_entity(3)}, rows=0)
    again = publish(
        tmp_path / "a", tmp_path / "published", "shop", run="a", gates=Gates(rows=1), **SOME
    )
    assert (again.version, again.new) == (1, False)


def test_where_the_live_version_is_gone_there_is_nothing_to_be_worse_than(tmp_path):
    published(tmp_path, "a", {"airport": make_entity(30)})
    shutil.rmtree(home(tmp_path) / "v=000001")
    assert published(tmp_path, "b", {"airport": make_entity(3)}, rows=1.0) == 2


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ({"other": ["x"]}, "code (string) → other (string)"),
        ({"code": pa.array([7])}, "code (string) → code (int64)"),
    ],
)
def test_what_consumers_join_by_stays_unless_that_is_meant(tmp_path, key, told):
    """By default; that a campaign of today is none of yesterday's is no mistake."""
    published(tmp_path, "a", {"airport": make_entity(1)})
    published(tmp_path, "b", {"airport": renamed(make_entity(1))})
    with pytest.raises(InvalidInput, match=re.escape(f"other key columns: {told}")) as caught:
        published(tmp_path, "c", {"airport": make_entity(1, key=key)})
    assert "publish.gates.keys=null" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ({"other": ["x"]}, "code (string) → other (string)"),
        ({"code": pa.array([7])}, "code (string) → code (int64)"),
    ],
)
def test_where_key_columns_differ_that_is_told_and_nothing_of_what_is_not_compared(
    tmp_path, key, told
):
    published(tmp_path, "a", {"airport": make_entity(1)})
    after = {"airport": make_entity(1, key=key)}
    with pytest.raises(InvalidInput, match=re.escape(f"other key columns: {told}")):
        published(tmp_path, "b", after, keys=None, norm=9.0)
    published(tmp_path, "c", after, keys=None)
    (one,) = drift(snapshot(home(tmp_path), 1), snapshot(home(tmp_path), 2)).entities
    assert (one.gone, one.new, one.norm, one.neighbours) == (1, 1, None, None)
    done = CliRunner().invoke(app, ["diff", str(home(tmp_path)), "1", "2"])
    assert f"airport has other key columns: {told}" in done.output
    assert "0.000" not in done.output


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "0.0%"),
        (0.0004, "<0.1%"),
        (0.003, "0.3%"),
        (0.997, "99.7%"),
        (0.9996, ">99.9%"),
        (1.0, "100.0%"),
    ],
)
def test_what_is_neither_none_nor_all_is_not_told_as_that(share, told):
    assert percent(share) == told


def test_a_key_may_have_any_name(tmp_path):
    key = {"row 0": [f"a{n}" for n in range(9)], "k0": [*range(9)]}
    published(tmp_path, "a", {"airport": make_entity(9, key=key)})
    published(tmp_path, "b", {"airport": make_entity(9, key=key)})
    (one,) = drift(snapshot(home(tmp_path), 1), snapshot(home(tmp_path), 2)).entities
    assert (one.gone, one.new) == (0, 0)


def test_damaged_files_are_named(tmp_path):
    for run in ("a", "b"):
        published(tmp_path, run, {"airport": make_entity(20)})
    file = next((home(tmp_path) / "v=000002").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(IsohopError, match="v=000002/airport is damaged"):
        drift(snapshot(home(tmp_path), 1), snapshot(home(tmp_path), 2))
    with pytest.raises(IsohopError, match="v=000002/airport is damaged"):
        read_embeddings(home(tmp_path))


def test_files_that_are_missing_are_named(tmp_path):
    for run in ("a", "b"):
        published(tmp_path, run, {"airport": make_entity(20)})
    gone = home(tmp_path) / "v=000002" / "airport"
    for file in gone.iterdir():
        file.unlink()
    for _ in ("no file", "no folder"):
        with pytest.raises(IsohopError, match="v=000002 is damaged: it has no files of 'airport'"):
            drift(snapshot(home(tmp_path), 1), snapshot(home(tmp_path), 2))
        if gone.is_dir():
            gone.rmdir()


def test_versions_are_compared_on_the_command_line(tmp_path, monkeypatch):
    before = {"overall/mrr": 0.5, "overall/accuracy": 0.9}
    published(tmp_path, "a", {"airport": make_entity(20)}, before)
    now = {"tail/mrr": 0.3, "overall/mrr": 0.4}
    published(tmp_path, "b", {"airport": make_entity(18)}, now)
    monkeypatch.setattr(terminal.out, "width", 200)
    done = CliRunner().invoke(app, ["diff", str(home(tmp_path)), "1", "2"])
    assert done.exit_code == 0, done.output
    assert "20 → 18" in done.output
    assert "25.0% → 22.2%" in done.output
    assert "overall/mrr: 0.500 → 0.400" in done.output
    assert "overall/accuracy: 0.900 → not told" in done.output
    assert "tail/mrr: not told → 0.300" in done.output
    monkeypatch.setattr(terminal.out, "width", 50)
    assert "…" not in CliRunner().invoke(app, ["diff", str(home(tmp_path)), "1", "2"]).output
    done = CliRunner().invoke(app, ["diff", str(home(tmp_path)), "1", "7"])
    assert "there is no version 7" in str(done.exception)
    for words in (["2"], ["1", "1"], ["2", "latest"]):
        done = CliRunner().invoke(app, ["diff", str(home(tmp_path)), *words])
        assert "would be compared with itself" in str(done.exception)
    with pytest.raises(IsohopError, match="was not published"):
        snapshot(tmp_path / "a")
