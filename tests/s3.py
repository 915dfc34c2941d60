"""An S3 server on loopback, in a process of its own (moto)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isohop.engines import object_store

BUCKET = "isohop-test"
SERVER = """
import random, socket, sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

store = DomainDispatcherApplication(create_backend_app)
share, draw = float(sys.argv[1]), random.Random(int(sys.argv[2]))

def faulty(environ, start_response):
    # A request may be refused, or cut off before anything was done, or after.
    fault = draw.choice(["refused", "before", "after"]) if draw.random() < share else ""
    if fault == "refused":
        start_response("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]
    if fault == "after":
        b"".join(store(environ, lambda *_: None))
    if fault:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError("cut off")
    return store(environ, start_response)

server = make_server("127.0.0.1", 0, faulty, threaded=True)
print("port", server.port, flush=True)
server.serve_forever()
"""


@contextmanager
def s3(log: Path, faults: float = 0.0, seed: int = 1) -> Iterator[str]:
    """A server's endpoint. ``faults``: the share of requests that fail; ``seed``: which ones."""
    program = [sys.executable, "-c", SERVER, str(faults), str(seed)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors) as server,
    ):
        assert server.stdout is not None
        line = server.stdout.readline().decode()
        found = re.fullmatch(r"port (\d+)\n", line)
        assert found, log.read_text("utf-8")
        try:
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            server.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its endpoint."""
    with s3(tmp_path_factory.mktemp("s3") / "log") as endpoint:
        yield endpoint


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
