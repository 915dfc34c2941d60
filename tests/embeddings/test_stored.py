"""Publishing to an object store: a version is seen whole or not at all, whoever is killed or first.

Against a server of S3's protocol on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isohop.embeddings import publish, read_embeddings, read_manifest, reader
from isohop.embeddings.homes import StoredHome
from isohop.embeddings.publisher import PublishedVersion
from isohop.engines.object_store import StoredFolder
from isohop.engines.progress import SilentTask
from isohop.errors import IsohopError
from tests.killing import PATIENCE

pytest_plugins = ["tests.s3"]


def published(embeddings: Path, url: str, run: str = "run-1", keep: int = 5) -> PublishedVersion:
    folder = StoredFolder.of(url)
    facts = {"certificate": "c", "fingerprints": {"build": "b"}}
    return publish(embeddings, folder, "shop", run=run, keep=keep, **facts)


def test_what_is_read_is_what_was_published(bucket, embeddings):
    version = published(embeddings, bucket)
    assert (version.version, version.new) == (1, True)
    assert str(version.path) == f"{bucket}/shop/v=000001"
    for entity in ("airport", "station"):
        there = read_embeddings(f"{bucket}/shop", entity, verify=True)
        assert there.equals(read_embeddings(embeddings, entity))
    assert read_manifest(f"{bucket}/shop") == version.manifest
    again = published(embeddings, bucket)
    assert (again.version, again.new) == (1, False)


def test_only_the_newest_versions_stay_and_numbers_go_on(bucket, embeddings):
    for number in range(1, 5):
        assert published(embeddings, bucket, f"run-{number}", keep=2).version == number
    home = StoredHome(StoredFolder.of(bucket) / "shop")
    assert (home.versions(), home.latest()) == ([3, 4], 4)
    assert {one.name.split("/")[0] for one in home.stored.objects()} == {
        "LATEST",
        "v=000003",
        "v=000004",
    }
    read_embeddings(f"{bucket}/shop", "airport", version=3, verify=True)


def test_a_late_retry_does_not_take_latest_back(bucket, embeddings):
    published(embeddings, bucket, "run-1")
    published(embeddings, bucket, "run-2")
    assert published(embeddings, bucket, "run-1").version == 1
    assert read_manifest(f"{bucket}/shop").version == 2


def test_a_version_that_became_whole_just_now_is_not_tidied_away(bucket, embeddings, monkeypatch):
    """Between a listing of versions and a look at their claims another may finish one."""
    published(embeddings, bucket, "run-1")
    home = StoredHome(StoredFolder.of(bucket) / "shop")
    with monkeypatch.context() as patched:
        patched.setattr(StoredHome, "versions", lambda self: [])
        with home.turn(SilentTask()):
            pass
    assert home.versions() == [1]


def test_who_was_away_for_long_finds_its_number_given_up(bucket, embeddings, monkeypatch):
    upload = StoredFolder.upload

    def slow(self, file, name):
        self.remove([".claim"])  # as another publisher does after a day
        return upload(self, file, name)

    with monkeypatch.context() as patched:
        patched.setattr(StoredFolder, "upload", slow)
        with pytest.raises(IsohopError, match="was given up meanwhile"):
            published(embeddings, bucket)
    assert StoredHome(StoredFolder.of(bucket) / "shop").versions() == []
    assert published(embeddings, bucket).manifest.run == "run-1"


PUBLISHER = """
import sys
from pathlib import Path
from isohop.embeddings import publish
from isohop.engines.object_store import StoredFolder

for run in range(1, 9):  # fewer than a reader tries: where it is slow, each takes one of it away
    publish(Path(sys.argv[1]), StoredFolder.of(sys.argv[2]), "shop", run=f"run-{run}", keep=1,
            certificate="c", fingerprints={})
"""


def test_a_version_that_is_replaced_while_it_is_looked_for_is_looked_for_again(
    bucket, embeddings, monkeypatch
):
    """Between a listing and LATEST, which then names what was not listed; and again while that
    comes down."""
    published(embeddings, bucket, "run-1", keep=1)
    download, replaced = StoredFolder.download, []

    def late(self, name, file):
        if name.endswith("LATEST" if len(replaced) < 2 else ".parquet") and len(replaced) < 3:
            replaced.append(name)
            published(embeddings, bucket, f"late-{len(replaced)}", keep=1)
        return download(self, name, file)

    monkeypatch.setattr(StoredFolder, "download", late)
    table = read_embeddings(bucket, "airport", verify=True)
    assert table.equals(read_embeddings(embeddings, "airport"))
    assert read_manifest(bucket).run == "late-3"
    kept = StoredFolder.of(f"{bucket}/shop").copy()
    assert [path.name for path in sorted(kept.glob("v=*"))] == ["v=000004"]


def test_a_copy_that_another_process_is_about_to_make_is_not_read_in_part(
    bucket, embeddings, monkeypatch
):
    """Nor is one of which it took a file away: between making it and reading it here."""
    published(embeddings, bucket, "run-1")
    locate, taken = reader.locate, []

    def late(path, version):
        if not taken:
            taken.extend(sorted((path / "v=000001" / "airport").glob("*.parquet")))
            for file in taken[:1]:
                file.unlink()
        return locate(path, version)

    monkeypatch.setattr(reader, "locate", late)
    table = read_embeddings(bucket, "airport")
    assert taken
    assert table.equals(read_embeddings(embeddings, "airport"))


def test_a_reader_always_finds_a_whole_version_while_another_publishes(bucket, embeddings):
    published(embeddings, bucket, "run-0")
    expected = read_embeddings(embeddings, "airport")
    home = StoredHome(StoredFolder.of(bucket) / "shop")
    command = [sys.executable, "-c", PUBLISHER, str(embeddings), bucket]
    seen = [read_manifest(bucket).version]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        assert read_embeddings(bucket, "airport", verify=True).equals(expected)
        seen.append(read_manifest(bucket).version)
    assert process.returncode == 0, process.communicate()[1]
    assert seen == sorted(seen)
    assert home.latest() == 9
    assert len(set(seen)) > 1


# The parent prepares a copy of what is published for each trial and forks; the child kills itself
# just before its n-th request, for n = 0, 1, 2, … until it comes through. Nothing of Arrow runs in
# the parent, so forking it is safe.
KILLER = """
import os, signal, sys
from pathlib import Path
from isohop.embeddings.publisher import publish
from isohop.engines import object_store
from isohop.engines.object_store import StoredFolder
from isohop.engines.progress import SilentTask
from isohop.errors import IsohopError

def child(url, left):
    object_store._client.cache_clear()

    def touch(**_):
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    object_store._client().meta.events.register("before-send.s3.*", touch)
    publish(
        Path(sys.argv[1]), StoredFolder.of(url), "shop",
        run="run-2", certificate="c", fingerprints={}, keep=1,
    )

base = StoredFolder.of(sys.argv[2])
for number in range(1000):
    trial = StoredFolder.of(f"{sys.argv[2]}-{number:03d}")
    for one in base.objects():
        trial.put(one.name, base.read(one.name)[0])
    process = os.fork()
    if process == 0:
        try:
            child(str(trial), number)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status):
        print(number + 1)
        sys.exit(os.WEXITSTATUS(status))
"""


def test_kill_9_before_any_request_leaves_a_whole_version_live(bucket, embeddings):
    """And the next publication completes, whatever was left."""
    published(embeddings, bucket, "run-1")
    expected = read_embeddings(embeddings, "airport")
    command = [sys.executable, "-c", KILLER, str(embeddings), bucket]
    done = subprocess.run(command, timeout=PATIENCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    live = []
    for number in range(int(done.stdout)):
        trial = f"{bucket}-{number:03d}"
        live.append(read_manifest(f"{trial}/shop").run)
        assert read_embeddings(f"{trial}/shop", "airport", verify=True).equals(expected)
        after = published(embeddings, trial, "run-3")
        assert read_manifest(f"{trial}/shop") == after.manifest
    assert live == sorted(live)  # the old one up to a moment, from then on the new one
    assert set(live) == {"run-1", "run-2"}
    assert live.count("run-1") > 10


RACER = """
import sys
from pathlib import Path
from isohop.embeddings import publish
from isohop.engines.object_store import StoredFolder
from isohop.engines.progress import SilentTask
from isohop.errors import IsohopError
publish(
    Path(sys.argv[1]), StoredFolder.of(sys.argv[2]), "shop",
    run=sys.argv[3], certificate="c", fingerprints={}, keep=20,
)
"""


def test_racing_publishers_never_overwrite_each_other(bucket, embeddings):
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(embeddings), bucket, f"run-{n}"])
        for n in range(4)
    ]
    assert [racer.wait(PATIENCE) for racer in racers] == [0, 0, 0, 0]
    home = StoredHome(StoredFolder.of(bucket) / "shop")
    assert home.versions() == [1, 2, 3, 4]
    assert {home.manifest(number).run for number in home.versions()} == {
        f"run-{n}" for n in range(4)
    }
    assert home.latest() == 4
    for number in home.versions():
        read_embeddings(f"{bucket}/shop", "station", version=number, verify=True)
