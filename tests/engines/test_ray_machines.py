"""Ray's start, and how many cores each of some workers gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from isohop.engines.ray import cores_each, ray_session
from isohop.errors import IsohopError

pytestmark = pytest.mark.usefixtures("no_ray")


@given(st.integers(1, 20), st.lists(st.integers(0, 64), max_size=8))
def test_all_workers_find_a_place_at_once_and_with_one_core_more_they_would_not(workers, machines):
    each = cores_each(workers, machines)
    if each:
        assert sum(machine // each for machine in machines) >= workers
    assert sum(machine // (each + 1) for machine in machines) < workers


def test_a_worker_never_wants_more_than_the_largest_machine_has():
    assert cores_each(1, [1, 1, 1]) == 1  # three cores, but on three machines
    assert cores_each(2, [8, 8]) == 8
    assert cores_each(4, [8, 2]) == 2
    assert cores_each(4, [1, 1, 1]) == 0


@pytest.mark.parametrize("kind", [Exception, RuntimeError, TimeoutError, ConnectionError])
def test_a_start_that_failed_is_tried_once_more_and_then_told(kind, monkeypatch, tmp_path):
    tried = []
    logs = tmp_path / "session"
    logs.mkdir()

    def init(**_: object) -> SimpleNamespace:
        tried.append(1)
        if len(tried) < fails:
            raise kind("The current node timed out during startup.")
        return SimpleNamespace(address_info={"session_dir": str(logs)})

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "1")
    fails = 2
    with pytest.raises(ZeroDivisionError), ray_session():
        raise ZeroDivisionError
    assert logs.exists()  # what went wrong may be told there
    tried.clear()
    with ray_session():
        assert len(tried) == 2
    assert not logs.exists()
    tried.clear()
    fails = 3
    with pytest.raises(IsohopError, match="Ray did not start on this machine"), ray_session():
        pass


def test_ray_client_is_refused_with_what_to_do_instead(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(IsohopError, match="RAY_ADDRESS=host:6379"), ray_session():
        pass
