"""A PostgreSQL server of the tests' own, from the system's programs."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.ports import free_port

PASSWORD = "p@ss:wörd/1"
"""A password with everything that a URL has to escape."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server on loopback, without a database, that lives as long as the tests."""
    programs = _programs()
    as_server = _unprivileged()
    # Short and readable for the server's user, which pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if as_server:
            shutil.chown(folder, "postgres")
            shutil.chown(secret, "postgres")
        data, port = folder / "data", free_port()

        def call(program: str, *arguments: str) -> None:
            command = [*as_server, str(programs / program), "-D", str(data), *arguments]
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            if done.returncode:
                pytest.fail(f"{program} failed: {done.stderr.decode()}{done.stdout.decode()}")

        call(
            "initdb",
            *("-U", "tester", "-E", "UTF8", "--locale=C", "--no-sync"),
            *("--auth=scram-sha-256", f"--pwfile={secret}"),
        )
        options = f"-k {folder} -h 127.0.0.1 -p {port} -c fsync=off -c max_connections=20"
        # The log goes to a file: a pipe would stay open as long as the server runs.
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://tester:{_escaped(PASSWORD)}@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{postgres_server}/{name}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _programs() -> Path:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3].split(".")[0]),
    )
    return versions[-1].parent


def _unprivileged() -> list[str]:
    """What goes before a command, as PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.fail("root cannot start PostgreSQL without the user 'postgres'")
    runuser = shutil.which("runuser")
    if runuser is None:
        pytest.fail("root cannot start PostgreSQL without the program runuser")
    return [runuser, "-u", "postgres", "--"]


def _escaped(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
