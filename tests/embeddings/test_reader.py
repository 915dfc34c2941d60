"""Reading by path, entity, version and columns; every mistake says what to do."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import isohop
from isohop.embeddings import publish, read_embeddings, read_manifest
from isohop.errors import InvalidInput, IsohopError


@pytest.fixture
def published(embeddings, tmp_path, publication):
    publish(embeddings, tmp_path / "published", "shop", **publication)
    return tmp_path / "published"


def test_it_is_a_name_of_the_library_itself():
    assert isohop.read_embeddings is read_embeddings


def test_all_paths_to_the_same_embeddings_read_the_same(published, embeddings):
    expected = read_embeddings(embeddings, "airport")
    for path in (
        published,
        published / "shop",
        published / "shop" / "v=000001",
        embeddings.parent,
        str(published),
    ):
        assert read_embeddings(path, "airport").equals(expected)


def test_a_run_with_other_tables_beside_its_embeddings_reads_the_same(embeddings, entity):
    expected = read_embeddings(embeddings, "airport")
    for name in ("stages", "credible"):
        (embeddings.parent / name).mkdir()
    pq.write_table(entity(), embeddings.parent / "credible" / "airport--by--plane.parquet")
    assert read_embeddings(embeddings.parent, "airport").equals(expected)


def test_an_entity_is_needed_only_where_there_are_several(embeddings, entity, run_writer, tmp_path):
    with pytest.raises(IsohopError, match=r"which entity.*'airport', 'station'"):
        read_embeddings(embeddings)
    alone = run_writer(tmp_path / "alone", {"airport": entity()})
    assert read_embeddings(alone).num_rows == 20


def test_a_data_frame_has_a_float32_array_a_row(published):
    frame = read_embeddings(published, "station", as_="pandas")
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == [
        "origin",
        "hour",
        "node_id",
        "embedding",
        "source",
        "confidence",
        "degree",
    ]
    assert np.stack(frame["embedding"].to_list()).shape == (3, 6)
    assert frame["embedding"][0].dtype == np.float32


def test_columns_come_in_the_order_asked_for(published):
    table = read_embeddings(published, "airport", columns=["embedding", "code"])
    assert table.column_names == ["embedding", "code"]


def test_an_older_version_is_read_by_number_or_name(published, embeddings, entity, run_writer):
    other = run_writer(published.parent / "other", {"airport": entity(seed=9)})
    publish(other, published, "shop", run="run-2", certificate="c", fingerprints={})
    first = read_embeddings(embeddings, "airport")
    for version in (1, "1", "v=000001"):
        assert read_embeddings(published, "airport", version=version).equals(first)
    assert not read_embeddings(published, "airport").equals(first)
    assert read_manifest(published, version=1).run == "run-1"


MISTAKES = {
    "a misspelt entity": ({"entity": "airprot"}, "Did you mean 'airport'?"),
    "a misspelt column": (
        {"entity": "airport", "columns": ["embeding"]},
        "no column 'embeding'. Did you mean 'embedding'?",
    ),
    "a version that is not there": ({"entity": "airport", "version": 7}, "Versions there: 1"),
    "a version that is none": ({"entity": "airport", "version": "new"}, "must be 'latest'"),
    "another form": ({"entity": "airport", "as_": "polars"}, "must be 'arrow' or 'pandas'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_says_what_is_there_instead(name, published):
    arguments, message = MISTAKES[name]
    with pytest.raises(IsohopError) as caught:
        read_embeddings(published, **arguments)
    assert message in str(caught.value)


def test_a_misspelt_path_is_suggested(published):
    with pytest.raises(IsohopError, match="Did you mean 'shop'"):
        read_embeddings(published / "shopp", "airport")


def test_a_folder_of_several_names_asks_for_one(published, embeddings):
    publish(embeddings, published, "store", run="r", certificate="c", fingerprints={})
    with pytest.raises(IsohopError, match="more than one name"):
        read_embeddings(published, "airport")


def test_a_folder_without_embeddings_is_not_read_as_empty(tmp_path):
    with pytest.raises(IsohopError, match="holds no embeddings"):
        read_embeddings(tmp_path)


def test_a_run_has_neither_versions_nor_checksums(embeddings):
    with pytest.raises(IsohopError, match="cannot be asked"):
        read_embeddings(embeddings, "airport", version=1)
    with pytest.raises(IsohopError, match="was not published"):
        read_embeddings(embeddings, "airport", verify=True)
    with pytest.raises(IsohopError, match="was not published"):
        read_manifest(embeddings)


def test_verify_finds_a_changed_bit_a_missing_file_and_a_strange_one(published):
    folder = published / "shop" / "v=000001" / "airport"
    file = folder / "part-0.parquet"
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(bytes(content))
    (folder / "part-1.parquet").rename(folder / "part-2.parquet")
    with pytest.raises(InvalidInput) as caught:
        read_embeddings(published, "airport", verify=True)
    assert len(caught.value.problems) == 3
    assert read_embeddings(published, "station", verify=True).num_rows == 3


def test_a_damaged_manifest_or_latest_is_named(published):
    (published / "shop" / "v=000001" / "manifest.json").write_text("{}")
    with pytest.raises(IsohopError, match=r"manifest\.json is not a manifest"):
        read_embeddings(published, "airport")
    (published / "shop" / "LATEST").write_text("newest\n")
    with pytest.raises(IsohopError, match="names no version"):
        read_embeddings(published, "airport")


def test_importing_the_package_loads_no_engine():
    code = (
        "import sys, isohop.embeddings; from isohop.embeddings import PublishSettings;"
        "heavy = {'pyarrow', 'numpy', 'pandas', 'torch', 'ray', 'pyspark'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_version_that_is_replaced_between_any_two_looks_is_looked_for_again(
    published, embeddings, publication, monkeypatch
):
    """Retention removes it: what is gone is no version without that entity, nor a damaged one."""
    expected = read_embeddings(embeddings, "airport")
    stat, left = Path.stat, 0

    def late(path, **more):
        nonlocal left
        if "v=0" in str(path):
            left -= 1
            if left == 0:
                newer = publication | {"run": f"late-{looks}", "keep": 1}
                publish(embeddings, published, "shop", **newer)
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", late)
    for looks in count(1):
        left = looks
        assert read_embeddings(published, "airport", verify=True).equals(expected)
        if left > 0:
            break
    assert looks > 3
    assert read_manifest(published).version == looks
