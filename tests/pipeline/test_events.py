"""What machines are told of a run."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from isohop.errors import IsohopError
from isohop.pipeline.events import METRICS
from isohop.pipeline.pipeline_file import read_pipeline
from isohop.pipeline.running import open_run, run_stage
from tests.pipeline.test_pipeline import command, pipeline_file


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict]]:
    """What an OpenLineage server on loopback hears."""
    events: list[dict] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield events
    server.shutdown()
    thread.join()
    server.server_close()


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]


def test_a_stage_that_is_done_is_a_line_and_two_events(heard, tmp_path):
    pipeline = read_pipeline(pipeline_file(tmp_path))
    run = open_run(pipeline, "current")
    record, _ = run_stage(pipeline, run, "build")
    run_stage(pipeline, run, "build")  # done already: nothing happens, so nothing is told
    [line] = lines(run.folder)
    assert (line["stage"], line["state"], line["run"]) == ("build", "done", "current")
    assert (line["seconds"], line["size"]) == (record.seconds, record.size)
    assert [event["eventType"] for event in heard] == ["START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in heard}) == 1
    assert heard[0]["job"]["name"] == "shop.build"
    tables = ["shop.city", "shop.country", "shop.customer"]
    assert sorted(one["name"] for one in heard[1]["inputs"]) == tables


@pytest.mark.parametrize("how", ["apart", "at once"])
def test_what_is_sent_beside_all_else_is_heard_though_the_process_ends(heard, tmp_path, how):
    url = os.environ["OPENLINEAGE_URL"]
    transport = {
        "apart": {"OPENLINEAGE__TRANSPORT__TYPE": "async_http", "OPENLINEAGE__TRANSPORT__URL": url},
        "at once": {"OPENLINEAGE__TRANSPORT": json.dumps({"type": "http", "url": url})},
    }[how]
    told = {name: value for name, value in os.environ.items() if "OPENLINEAGE" not in name}
    words = command("stage", "build", pipeline_file(tmp_path), "--run", "night")
    subprocess.run(words, env=told | transport, check=True, capture_output=True)
    assert [event["eventType"] for event in heard] == ["START", "COMPLETE"]


def test_a_stage_that_fails_says_why(heard, tmp_path):
    pipeline = read_pipeline(pipeline_file(tmp_path))
    run = open_run(pipeline, "current")
    run_stage(pipeline, run, "build")
    for name in ("features", "distill", "embed"):  # as if they had been done, and were lost
        run.remember(run.record("build").model_copy(update={"stage": name}))
    with pytest.raises(IsohopError) as failed:
        run_stage(pipeline, run, "publish")
    line = lines(run.folder)[-1]
    assert (line["stage"], line["state"]) == ("publish", "failed")
    assert line["error"] == str(failed.value)
    assert heard[-1]["eventType"] == "FAIL"
    assert heard[-1]["run"]["facets"]["errorMessage"]["message"] == str(failed.value)


def test_nobody_needs_to_listen(tmp_path, monkeypatch, caplog):
    for name, value in {"TYPE": "http", "URL": "http://127.0.0.1:9", "RETRY__TOTAL": "0"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    pipeline = read_pipeline(pipeline_file(tmp_path))
    run = open_run(pipeline, "current")
    run_stage(pipeline, run, "build")
    assert run.record("build") is not None
    assert "OpenLineage was not told of 'build'" in caplog.text
