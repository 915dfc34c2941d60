"""An S3 server on loopback, in a process of its own (moto)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isohop.engines import object_store

BUCKET = "isohop-test"
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its endpoint."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as server,
    ):
        assert server.stdout is not None
        lines = (line.decode() for line in server.stdout)
        found = next((f for line in lines if (f := re.fullmatch(r"port (\d+)\n", line))), None)
        assert found, log.read_text("utf-8")
        yield f"http://127.0.0.1:{found[1]}"
        server.kill()


def environment(endpoint: str, cache: Path) -> dict[str, str]:
    """What a process needs to find it."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-see",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "ISOHOP_CACHE": str(cache),
    }


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a folder that is empty, for this process and those that it starts."""
    for name, value in environment(s3_server, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    object_store._client.cache_clear()
    client = object_store._client()
    client.create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    object_store._client.cache_clear()


__all__ = ["BUCKET", "bucket", "environment", "s3_server"]
