"""``kill -9`` at any moment of a publication leaves a whole version live, old or new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isohop.embeddings import publish, read_embeddings, read_manifest
from isohop.embeddings.contract import latest_version, versions
from tests.killing import PATIENCE

# The parent prepares a copy of the published folder for each trial and forks; the child kills
# itself just before its n-th touch of the file system, for n = 0, 1, 2, … until it comes through.
# Nothing of Arrow runs in the parent, so forking it is safe.
KILLER = """
import os, shutil, signal, sys
from pathlib import Path
from isohop.embeddings.publisher import publish

embeddings, published, trials = map(Path, sys.argv[1:])
TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.listdir"}

def child(trial, touches_left):
    def hook(event, arguments):
        nonlocal touches_left
        if event in TOUCHES and str(arguments[0]).startswith(str(trial)):
            if touches_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            touches_left -= 1
    sys.addaudithook(hook)
    publish(embeddings, trial, "shop", run="run-2", certificate="c", fingerprints={}, keep=1)

for number in range(1000):
    trial = trials / f"{number:03d}"
    shutil.copytree(published, trial)
    process = os.fork()
    if process == 0:
        try:
            child(trial, number)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


@pytest.fixture
def trials(embeddings, tmp_path):
    """The published folder as each killed process left it, in the order of the moments."""
    publish(
        embeddings, tmp_path / "published", "shop", run="run-1", certificate="c", fingerprints={}
    )
    arguments = [embeddings, tmp_path / "published", tmp_path / "trials"]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *map(str, arguments)], timeout=PATIENCE, check=False
    )
    assert done.returncode == 0
    return sorted((tmp_path / "trials").iterdir())


def test_a_publisher_killed_at_any_moment_leaves_a_whole_version_live(embeddings, trials):
    expected = read_embeddings(embeddings, "airport")
    live = []
    for trial in trials:
        for entity in ("airport", "station"):
            read_embeddings(trial, entity, verify=True)
        assert read_embeddings(trial, "airport").equals(expected)
        live.append(read_manifest(trial).run)
        for folder in versions(trial / "shop").values():
            assert (folder / "manifest.json").is_file()
    # There is one moment at which the new version goes live, and no way back.
    assert live == sorted(live)
    assert set(live) == {"run-1", "run-2"}
    assert len(trials) > 20

    # The next publication, be it the retry or another run, finishes what the killed one left.
    for number, trial in enumerate(trials):
        run = f"run-{2 + number % 2}"
        version = publish(
            embeddings, trial, "shop", run=run, certificate="c", fingerprints={}, keep=1
        )
        home: Path = trial / "shop"
        assert latest_version(home) == version.version
        assert {path.name for path in home.iterdir()} == {".lock", "LATEST", version.path.name}
        assert read_manifest(trial).run == run
        assert read_embeddings(trial, "airport", verify=True).equals(expected)
