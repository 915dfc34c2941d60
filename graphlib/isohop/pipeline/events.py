"""What happens to stages, told to machines.

Each attempt at a stage is a line of JSON in the run's ``metrics.jsonl``: when it began, how long it
took, how much it made, and how it ended. Where ``OPENLINEAGE_URL`` is set (or what else
OpenLineage's own client takes: ``OPENLINEAGE_CONFIG``, …) its beginning and end are events of
OpenLineage too, with the tables that were read and the versions that were published. Who does not
listen stops nobody: an event that cannot be sent is a warning.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import isohop
from isohop.errors import IsohopError

METRICS = "metrics.jsonl"
PRODUCER = f"urn:isohop:{isohop.__version__}"
NAMESPACE = "isohop"
LISTENERS = (
    *("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG"),
    *("OPENLINEAGE__TRANSPORT", "OPENLINEAGE__TRANSPORT__TYPE"),
)
SECONDS_TO_SEND = 10.0
"""That what sends events beside all else has at the end of a stage."""

_log = logging.getLogger("isohop")


@dataclass
class Attempt:
    """At a stage. ``inputs`` and ``outputs``: names of tables and of what is published."""

    pipeline: str
    run: str
    stage: str
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    size: int = 0
    made: Sequence[str] = ()


@contextmanager
def told(attempt: Attempt, folder: Path) -> Iterator[Attempt]:
    """Tell of what the block does; it fills in what it made. ``folder``: of the run."""
    lineage = _Lineage.of(attempt)
    lineage.tell("START")
    clock = time.monotonic()
    try:
        yield attempt
    except BaseException as error:
        attempt.seconds = round(time.monotonic() - clock, 3)
        _line(attempt, folder, "failed", str(error) or type(error).__name__)
        lineage.tell("FAIL", str(error) or type(error).__name__)
        lineage.close()
        raise
    attempt.seconds = round(time.monotonic() - clock, 3)
    _line(attempt, folder, "done")
    lineage.tell("COMPLETE")
    lineage.close()


def _line(attempt: Attempt, folder: Path, state: str, error: str | None = None) -> None:
    about = {
        "pipeline": attempt.pipeline,
        "run": attempt.run,
        "stage": attempt.stage,
        "state": state,
        "started": attempt.started.isoformat(timespec="seconds"),
        "seconds": attempt.seconds,
        "size": attempt.size,
        "made": list(attempt.made),
        **({} if error is None else {"error": error}),
    }
    try:
        with (folder / METRICS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(about, ensure_ascii=False) + "\n")
    except OSError as failed:
        # Among others on a full disk: what the stage says of itself is what matters.
        _log.warning("%s could not be written: %s", folder / METRICS, failed.strerror)


class _Lineage:
    """Of one attempt; silent where nobody asked."""

    def __init__(self, attempt: Attempt, client: Any):
        from openlineage.client.uuid import generate_static_uuid

        self._attempt = attempt
        self._client = client
        name = f"{attempt.pipeline}/{attempt.run}/{attempt.stage}"
        self._id = str(generate_static_uuid(attempt.started, name.encode()))

    @classmethod
    def of(cls, attempt: Attempt) -> _Lineage | _Silence:
        """Raises `IsohopError` where events are asked for and there is nothing to send them by."""
        if not any(os.environ.get(name) for name in LISTENERS):
            return _Silence()
        try:
            from openlineage.client import OpenLineageClient
        except ImportError as error:
            raise IsohopError(
                "To send events of OpenLineage takes its client, which is not installed: "
                "pip install 'isohop[openlineage]'."
            ) from error
        try:
            return cls(attempt, OpenLineageClient())
        except Exception as failed:  # noqa: BLE001  # whatever is wrong with its settings
            _log.warning("OpenLineage cannot be told: %s", failed)
            return _Silence()

    def tell(self, state: str, error: str | None = None) -> None:
        from openlineage.client.event_v2 import (
            InputDataset,
            Job,
            OutputDataset,
            Run,
            RunEvent,
            RunState,
        )
        from openlineage.client.facet_v2 import error_message_run

        attempt = self._attempt
        facets: dict[str, Any] = {}
        if error is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "python")
        event = RunEvent(
            eventType=RunState[state],
            eventTime=datetime.now(UTC).isoformat(),
            producer=PRODUCER,
            run=Run(self._id, facets),
            job=Job(NAMESPACE, f"{attempt.pipeline}.{attempt.stage}"),
            inputs=[InputDataset(NAMESPACE, name) for name in attempt.inputs],
            outputs=[OutputDataset(NAMESPACE, name) for name in attempt.outputs],
        )
        try:
            self._client.emit(event)
        except Exception as failed:  # noqa: BLE001  # whatever a listener's network comes up with
            _log.warning("OpenLineage was not told of '%s': %s", attempt.stage, failed)

    def close(self) -> None:
        """Once all is sent: some transports send in a thread that would end with this process."""
        try:
            sent = self._client.close(SECONDS_TO_SEND)
        except Exception as failed:  # noqa: BLE001  # as above
            _log.warning("OpenLineage was not told of '%s': %s", self._attempt.stage, failed)
            return
        if not sent:
            _log.warning("OpenLineage was not told all of '%s' in time", self._attempt.stage)


class _Silence:
    def tell(self, state: str, error: str | None = None) -> None:
        pass

    def close(self) -> None:
        pass
