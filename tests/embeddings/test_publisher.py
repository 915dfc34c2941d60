"""Publishing: versions appear whole or not at all, and never replace one another."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from isohop.embeddings import PublishSettings, homes, publish, read_embeddings, read_manifest
from isohop.embeddings.contract import latest_version, versions
from isohop.embeddings.publisher import is_published
from isohop.embeddings.settings import Gates
from isohop.errors import InvalidInput, IsohopError
from tests.killing import PATIENCE

SOME = {"certificate": "c", "fingerprints": {}}


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def test_a_version_says_what_it_is(embeddings, tmp_path, publication):
    version = publish(embeddings, tmp_path / "published", "shop", **publication)
    assert version.path == tmp_path / "published" / "shop" / "v=000001"
    assert (version.path.parent / "LATEST").read_text() == "v=000001\n"
    manifest = json.loads((version.path / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert (manifest["version"], manifest["run"], manifest["name"]) == (1, "run-1", "shop")
    assert manifest["certificate"] == publication["certificate"]
    assert manifest["fingerprints"] == publication["fingerprints"]
    assert datetime.fromisoformat(manifest["created"]).utcoffset() == timedelta(0)
    assert manifest["entities"][0] == {
        "name": "airport",
        "count": 20,
        "dimensions": 4,
        "key": [{"name": "code", "type": "string"}],
        "sources": {"teacher": 15, "student": 5, "blend": 0},
    }
    assert version.manifest == read_manifest(tmp_path / "published")
    for path, file in manifest["files"].items():
        assert (version.path / path).stat().st_size == file["size"]
        assert (version.path / path).read_bytes() == (embeddings / path).read_bytes()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.one_of(
        st.lists(st.text(), min_size=1, max_size=20, unique=True),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20, unique=True),
        st.lists(st.datetimes(), min_size=1, max_size=20, unique=True),
    ),
    dimensions=st.integers(1, 5),
    files=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_read_is_what_was_published(
    tmp_path_factory, entity, run_writer, keys, dimensions, files, seed
):
    folder = tmp_path_factory.mktemp("round-trip")
    table = entity(len(keys), dimensions, seed, {"key": pa.array(keys)})
    run = run_writer(folder / "embeddings", {"thing": table}, files)
    publish(run, folder / "published", "shop", run="r", **SOME)
    assert read_embeddings(folder / "published", verify=True).equals(table)
    assert read_embeddings(run).equals(table)


def test_nothing_is_visible_of_embeddings_that_are_refused(
    tmp_path, entity, run_writer, embeddings, publication
):
    publish(embeddings, tmp_path / "published", "shop", **publication)
    before = _content(tmp_path / "published")
    table = entity(key={"code": ["same"] * 20})
    bad = run_writer(tmp_path / "bad", {"airport": table})
    with pytest.raises(InvalidInput):
        publish(bad, tmp_path / "published", "shop", run="run-2", **SOME)
    assert _content(tmp_path / "published") == before


def test_publishing_again_what_is_published_changes_nothing(embeddings, tmp_path, publication):
    first = publish(embeddings, tmp_path / "published", "shop", **publication)
    before = _content(tmp_path / "published")
    again = publish(embeddings, tmp_path / "published", "shop", **publication)
    assert (first.new, again.new) == (True, False)
    assert again.path == first.path
    assert _content(tmp_path / "published") == before


def test_another_run_of_the_same_content_is_a_version_of_its_own(embeddings, tmp_path):
    publish(embeddings, tmp_path, "shop", run="run-1", **SOME)
    assert publish(embeddings, tmp_path, "shop", run="run-2", **SOME).version == 2


def test_other_content_of_the_same_run_is_a_version_of_its_own(
    embeddings, tmp_path, entity, run_writer
):
    publish(embeddings, tmp_path, "shop", run="run-1", **SOME)
    other = run_writer(tmp_path / "other", {"airport": entity(seed=9)})
    assert publish(other, tmp_path, "shop", run="run-1", **SOME).version == 2


def test_what_a_run_had_once_goes_live_again(embeddings, tmp_path, entity, run_writer):
    """Bad rows came, and were taken out again."""
    bad = run_writer(tmp_path / "bad", {"airport": entity(seed=9)})
    for number, files in enumerate((embeddings, bad, embeddings), 1):
        assert publish(files, tmp_path, "shop", run="run-1", **SOME).version == number
        assert latest_version(tmp_path / "shop") == number


def break_a_bit(folder: Path) -> None:
    file = next(folder.rglob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        break_a_bit,
        lambda folder: next(folder.rglob("*.parquet")).unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "airport" / "more.parquet").write_bytes(b"more"),
        shutil.rmtree,
    ],
)
def test_a_damaged_version_is_published_again_as_another(embeddings, tmp_path, damage):
    publish(embeddings, tmp_path, "shop", run="run-1", **SOME)
    damage(tmp_path / "shop" / "v=000001")
    assert not is_published(tmp_path / "shop", 1, "run-1")
    again = publish(embeddings, tmp_path, "shop", run="run-1", gates=Gates(), **SOME)
    assert (again.version, again.new) == (2, True)
    assert read_embeddings(tmp_path / "shop", "airport", verify=True).num_rows == 20


def test_what_went_because_later_ones_came_was_published(embeddings, tmp_path):
    for run in range(3):
        publish(embeddings, tmp_path, "shop", run=f"run-{run}", keep=2, **SOME)
    shutil.rmtree(tmp_path / "shop" / "v=000003")
    there = [is_published(tmp_path / "shop", n, f"run-{n - 1}") for n in (1, 2, 3)]
    assert there == [True, True, False]
    # The number is another run's now.
    assert not is_published(tmp_path / "shop", 2, "run-0")


def test_gates_look_at_the_newest_version_that_is_whole(embeddings, tmp_path, entity, run_writer):
    for run in range(2):
        publish(embeddings, tmp_path, "shop", run=f"run-{run}", **SOME)
    break_a_bit(tmp_path / "shop" / "v=000002")
    fewer = run_writer(tmp_path / "fewer", {"airport": entity(3)})
    with pytest.raises(InvalidInput, match="has 3 rows, of 20 before"):
        publish(fewer, tmp_path, "shop", run="run-2", gates=Gates(), **SOME)


def test_without_latest_nothing_is_published_but_gates_hold(
    embeddings, tmp_path, entity, run_writer
):
    publish(embeddings, tmp_path, "shop", run="run-1", **SOME)
    (tmp_path / "shop" / "LATEST").unlink()
    fewer = run_writer(tmp_path / "fewer", {"airport": entity(3)})
    with pytest.raises(InvalidInput, match="has 3 rows, of 20 before"):
        publish(fewer, tmp_path, "shop", run="run-2", gates=Gates(), **SOME)
    assert not is_published(tmp_path / "shop", 1, "run-1")
    again = publish(embeddings, tmp_path, "shop", run="run-1", gates=Gates(), **SOME)
    assert (again.version, again.new, latest_version(tmp_path / "shop")) == (1, False, 1)
    assert is_published(tmp_path / "shop", 1, "run-1")


def test_the_same_files_of_another_graph_are_a_version_of_their_own(embeddings, tmp_path):
    """Its manifest names that graph."""
    for number, certificate in enumerate(("c", "d"), 1):
        about = {"certificate": certificate, "fingerprints": {}}
        made = publish(embeddings, tmp_path, "shop", run="run-1", **about)
        assert (made.version, made.manifest.certificate) == (number, certificate)


def test_a_late_retry_does_not_take_latest_back(embeddings, tmp_path):
    publish(embeddings, tmp_path, "shop", run="run-1", **SOME)
    publish(embeddings, tmp_path, "shop", run="run-2", **SOME)
    assert publish(embeddings, tmp_path, "shop", run="run-1", **SOME).version == 1
    assert latest_version(tmp_path / "shop") == 2


def test_only_the_newest_versions_stay(embeddings, tmp_path):
    for run in range(5):
        publish(embeddings, tmp_path, "shop", run=f"run-{run}", keep=2, **SOME)
    assert list(versions(tmp_path / "shop")) == [4, 5]
    assert {path.name for path in (tmp_path / "shop").iterdir()} == {
        "LATEST",
        ".lock",
        "v=000004",
        "v=000005",
    }


def test_retention_never_removes_what_latest_names(embeddings, tmp_path):
    for run in range(3):
        publish(embeddings, tmp_path, "shop", run=f"run-{run}", **SOME)
    (tmp_path / "shop" / "LATEST").write_text("v=000001\n")
    publish(embeddings, tmp_path, "shop", run="run-0", keep=1, **SOME)
    assert list(versions(tmp_path / "shop")) == [1, 3]
    assert latest_version(tmp_path / "shop") == 1
    assert read_embeddings(tmp_path / "shop", "airport", verify=True).num_rows == 20


@pytest.mark.parametrize("what", ["version", "leftover"])
def test_what_cannot_be_removed_keeps_nothing_from_being_published(
    embeddings, tmp_path, monkeypatch, caplog, what
):
    """A file that is open somewhere on a network, or another user's."""
    publish(embeddings, tmp_path, "shop", run="run-0", **SOME)
    if what == "leftover":
        (tmp_path / "shop" / ".tmp-version-0123456789ab" / "airport").mkdir(parents=True)

    def stuck(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", stuck)
        for run in (1, 2):
            keep = 1 if what == "version" else 5
            made = publish(embeddings, tmp_path, "shop", run=f"run-{run}", keep=keep, **SOME)
            assert made.version == run + 1
    assert latest_version(tmp_path / "shop") == 3
    assert ("could not be removed" in caplog.text) == (what == "version")
    publish(embeddings, tmp_path, "shop", run="run-3", keep=1, **SOME)
    left = {path.name for path in (tmp_path / "shop").iterdir()}
    assert left == {"LATEST", ".lock", "v=000004"}


@pytest.mark.parametrize("half", [False, True])
def test_where_locks_do_not_reach_a_version_is_whole_or_is_not_there(
    embeddings, tmp_path, monkeypatch, half
):
    """Another publisher takes the files of one for those of a killed process, and may not be done
    with removing them."""
    copy = homes._copy

    def copies(*told: object) -> None:
        copy(*told)
        monkeypatch.setattr("isohop.embeddings.homes._copy", copy)
        if half:
            monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
        publish(embeddings, tmp_path, "shop", run="run-2", **SOME)

    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    monkeypatch.setattr("isohop.embeddings.homes._copy", copies)
    with pytest.raises(IsohopError, match="could not be published"):
        publish(embeddings, tmp_path, "shop", run="run-1", **SOME)
    assert list(versions(tmp_path / "shop")) == [1]
    table = read_embeddings(tmp_path / "shop", "airport", verify=True)
    assert table.num_rows == 20


def test_an_entity_may_be_called_as_a_file(tmp_path, entity, run_writer):
    run_writer(tmp_path / "run", {"x.parquet": entity()})
    made = [publish(tmp_path / "run", tmp_path, "shop", run="r", **SOME) for _ in range(2)]
    assert [(one.version, one.new) for one in made] == [(1, True), (1, False)]


def test_numbers_are_never_used_twice(embeddings, tmp_path):
    publish(embeddings, tmp_path, "shop", run="run-1", **SOME)
    publish(embeddings, tmp_path, "shop", run="run-2", **SOME)
    shutil.rmtree(tmp_path / "shop" / "v=000002")
    assert publish(embeddings, tmp_path, "shop", run="run-3", **SOME).version == 3


def test_embeddings_that_change_while_they_are_copied_are_not_published(
    embeddings, tmp_path, entity, run_writer
):
    class Meddler:
        """Rewrites the run's files once copying begins."""

        def task(self, description, total=None):
            if description == "Publishing":
                shutil.rmtree(embeddings)
                run_writer(embeddings, {"airport": entity(seed=5), "station": entity()}, files=2)
            from isohop.engines.progress import SILENT

            return SILENT.task(description, total)

    with pytest.raises(IsohopError, match="changed while it was being published"):
        publish(embeddings, tmp_path, "shop", run="run-1", progress=Meddler(), **SOME)
    assert not versions(tmp_path / "shop")
    assert latest_version(tmp_path / "shop") is None


def test_a_folder_that_cannot_be_written_is_an_error_with_its_place(embeddings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IsohopError, match="could not be published"):
        publish(embeddings, tmp_path / "file", "shop", run="run-1", **SOME)


@pytest.mark.parametrize("name", ["", "../shop", "a/b", ".hidden", "v=000001", "LATEST"])
def test_a_name_is_a_plain_folder(name, embeddings, tmp_path):
    with pytest.raises(IsohopError, match="cannot name"):
        publish(embeddings, tmp_path, name, run="run-1", **SOME)
    with pytest.raises(ValidationError, match="cannot name"):
        PublishSettings(name=name)


def test_settings_refuse_what_they_do_not_know():
    assert PublishSettings() == PublishSettings(path="published", name=None, keep=5)
    for wrong in ({"kepe": 3}, {"keep": 0}):
        with pytest.raises(ValidationError):
            PublishSettings(**wrong)


PUBLISHER = """
import sys
from pathlib import Path
from isohop.embeddings import publish
embeddings, published, first, last = sys.argv[1:]
sys.stdin.readline()
for run in range(int(first), int(last)):
    version = publish(Path(embeddings), Path(published), "shop", run=f"run-{run}",
                      certificate="c", fingerprints={}, keep=100)
    print(run, version.version, flush=True)
"""


def _start_publisher(embeddings: Path, published: Path, runs: range) -> subprocess.Popen:
    arguments = [str(embeddings), str(published), str(runs.start), str(runs.stop)]
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_racing_publishers_never_overwrite_each_other(embeddings, tmp_path):
    runs = [range(start, start + 5) for start in (0, 5, 10)]
    processes = [_start_publisher(embeddings, tmp_path, part) for part in runs]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = {}
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        said |= {int(run): int(version) for run, version in map(str.split, output.splitlines())}
    assert sorted(said.values()) == list(range(1, 16))
    assert latest_version(tmp_path / "shop") == 15
    for run, version in said.items():
        assert read_manifest(tmp_path, version=version).run == f"run-{run}"
        assert read_embeddings(tmp_path, "station", version=version, verify=True).num_rows == 3
