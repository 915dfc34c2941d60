"""Publishing to an object store: a version is seen whole or not at all, whoever is killed or first.

Against a server of S3's protocol on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isohop.embeddings import publish, read_embeddings, read_manifest
from isohop.embeddings.homes import StoredHome
from isohop.embeddings.publisher import PublishedVersion
from isohop.engines.object_store import StoredFolder

pytest_plugins = ["tests.s3"]


def published(
    embeddings: Path, url: str, run: str = "run-1", keep: int = 5
) -> PublishedVersion:
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


# Kills itself before its n-th request, for n = 0, 1, 2, … until it comes through.
KILLER = """
import os, signal, sys
from pathlib import Path
from isohop.embeddings.publisher import publish
from isohop.engines import object_store
from isohop.engines.object_store import StoredFolder

left = int(sys.argv[2])

def touch(**_):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

object_store._client().meta.events.register("before-send.s3.*", touch)
publish(
    Path(sys.argv[1]), StoredFolder.of(sys.argv[3]), "shop",
    run="run-2", certificate="c", fingerprints={}, keep=1,
)
"""


def test_kill_9_before_any_request_leaves_a_whole_version_live(bucket, embeddings):
    """And the next publication completes, whatever was left."""
    published(embeddings, bucket, "run-1")
    expected = read_embeddings(embeddings, "airport")
    seen = []
    for number in range(100):
        done = subprocess.run(
            [sys.executable, "-c", KILLER, str(embeddings), str(number), bucket], timeout=120
        )
        manifest = read_manifest(f"{bucket}/shop")
        seen.append(manifest.run)
        assert read_embeddings(f"{bucket}/shop", "airport", verify=True).equals(expected)
        if done.returncode == 0:
            break
        assert done.returncode == -9
    assert seen[0] == "run-1"
    assert seen[-1] == "run-2"
    assert len(seen) > 10  # requests were really cut off
    assert published(embeddings, bucket, "run-3").version > manifest.version


def test_racing_publishers_never_overwrite_each_other(bucket, embeddings):
    program = KILLER.replace("keep=1", "keep=20").replace('"run-2"', "sys.argv[4]")
    racers = [
        subprocess.Popen([sys.executable, "-c", program, str(embeddings), "-1", bucket, f"run-{n}"])
        for n in range(4)
    ]
    assert [racer.wait(120) for racer in racers] == [0, 0, 0, 0]
    home = StoredHome(StoredFolder.of(bucket) / "shop")
    assert home.versions() == [1, 2, 3, 4]
    assert {home.manifest(number).run for number in home.versions()} == {
        f"run-{n}" for n in range(4)
    }
    assert home.latest() == 4
    for number in home.versions():
        read_embeddings(f"{bucket}/shop", "station", version=number, verify=True)
