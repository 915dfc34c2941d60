"""What engines' processes listen on, and what is said where one of Ray's dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

from isohop.engines.pieces import for_each_piece
from isohop.engines.progress import SILENT
from isohop.engines.ray import ray_session
from isohop.engines.spark import spark_session
from isohop.errors import IsohopError
from tests.killing import PATIENCE, command_of

pytestmark = pytest.mark.usefixtures("no_ray")

WAITS = """
import sys, time
from isohop.engines.pieces import for_each_piece
from isohop.engines.progress import SILENT
from isohop.engines.ray import ray_session
from isohop.errors import IsohopError

def act(piece, begun):
    open(begun, "w").close()
    time.sleep(600)

with ray_session():
    try:
        told = {"begun": sys.argv[1]}
        list(for_each_piece([{"number": 0, "rows": 1, "most": 1}], act, told, "pieces", SILENT))
    except IsohopError as error:
        print(error)
"""


def listening(process: psutil.Process) -> list[tuple[str, str, int]]:
    """Names, addresses and ports of sockets of a process and all that it started."""
    found = []
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # what has ended meanwhile listens to nobody
            found += [
                (one.name(), socket.laddr.ip, socket.laddr.port)
                for socket in one.net_connections("inet")
                if socket.status == psutil.CONN_LISTEN
            ]
    return found


def is_loopback(address: str) -> bool:
    found = ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


INTRUDER = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=10))
"""


def test_nobody_outside_of_the_machine_can_connect_to_ray_and_nobody_else_inside(tmp_path):
    with ray_session():
        import ray

        ray.get(ray.remote(lambda: None).remote())
        intruder = subprocess.run(
            [sys.executable, "-c", INTRUDER, ray.get_runtime_context().gcs_address],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert "Authentication token is missing" in intruder.stderr
        found = listening(psutil.Process())
        programs = [command_of(one) for one in psutil.Process().children(recursive=True)]
    assert {name for name, *_ in found} >= {"gcs_server", "raylet"}
    assert [one for one in found if not is_loopback(one[1])] == []
    # On no port that another Ray may have: it would be tried for seconds.
    assert DEFAULT_DASHBOARD_AGENT_LISTEN_PORT not in {port for *_, port in found}
    # What only a cluster needs is not there, and not waited for.
    assert [p for p in programs if "monitor.py" in p or "dashboard.py" in p] == []


@pytest.mark.parametrize("engine", ["sail", pytest.param("spark", marks=pytest.mark.spark)])
def test_nobody_outside_of_the_machine_can_connect_to_an_engine(engine):
    with spark_session(engine) as session:
        assert session.range(10).repartition(2).count() == 10
        found = listening(psutil.Process())
    assert found
    assert [one for one in found if not is_loopback(one[1])] == []


@pytest.mark.parametrize("fails", [False, True])
def test_logs_of_ray_stay_only_where_something_went_wrong(fails):
    import ray

    folders = []
    with suppress(ValueError), ray_session():
        about = ray.get_runtime_context()
        folders.append(Path(about.get_temp_dir()) / about.get_session_name())
        assert folders[0].is_dir()
        if fails:
            raise ValueError
    assert folders[0].is_dir() == fails


def wrong(piece: dict[str, object]) -> None:
    raise IsohopError("a file of yours is damaged")


def test_an_error_of_ours_comes_back_from_a_worker_as_itself():
    pieces = [{"number": 0, "rows": 1, "most": 1}]
    with ray_session(), pytest.raises(IsohopError, match=r"^a file of yours is damaged$"):
        list(for_each_piece(pieces, wrong, {}, "pieces", SILENT))


@pytest.mark.parametrize("whom", ["raylet", "ray::RuntimeEnvAgent"])
def test_where_a_process_of_ray_dies_all_ends_and_it_is_said(tmp_path, whom):
    """Where there is no machine left, Ray itself would wait for one for ever."""
    begun = tmp_path / "begun"
    run = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(begun)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not begun.exists():
        assert run.poll() is None
        time.sleep(0.05)
    victims = []
    for child in psutil.Process(run.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # some of its helpers end at once
            if child.name() == whom[:15] or child.cmdline()[:1] == [whom]:
                victims.append(child)
    victims[0].kill()  # after it come children of its own, which at first have its name
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, said
    assert "A process of Ray died" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
