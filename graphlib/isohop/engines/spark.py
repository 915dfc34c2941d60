"""The Spark session: Sail in this process (the default), or Spark.

One code runs on both, so it keeps to what Spark Connect offers. `column` and `frame_columns` name
columns safely; everything else is plain PySpark.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import which
from typing import TYPE_CHECKING, Literal

from isohop.errors import IsohopError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Engine = Literal["sail", "spark"]

_CONNECT_MODE = "SPARK_CONNECT_MODE_ENABLED"

_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}

ENGINE = "isohop.engine"
"""A setting of Sail's sessions, by which they are told from Spark's."""
_DEBUGGING = "spark.python.sql.dataFrameDebugging.enabled"
"""What line of ours named a column, told with errors: a tenth of a small job. Static, so that a
session which others made keeps its own."""

_SAIL_ENVIRONMENT = {
    # Memory that is freed goes back after ten seconds, not after 10 ms: it is wanted again at once,
    # and to be given it anew, in small pages, took half of the time of a large aggregation.
    "MIMALLOC_PURGE_DELAY": "10000",
    "MIMALLOC_ALLOW_LARGE_OS_PAGES": "1",
}


@contextmanager
def spark_session(engine: Engine = "sail") -> Iterator[SparkSession]:
    """A session inside the block. A session that `spark-submit` or Spark Connect gave is used.

    Raises `IsohopError` where the engine cannot start, saying what it needs.
    """
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")
    warnings.filterwarnings("ignore", message=".*No Partition Defined for Window operation.*")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if engine == "sail":
        yield from _sail()
    elif engine == "spark":
        yield from _spark()
    else:
        raise IsohopError(f"There is no engine '{engine}'. Write 'sail' or 'spark'.")


def _sail() -> Iterator[SparkSession]:
    os.environ.setdefault("RUST_LOG", "off")
    for name, value in _SAIL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from pysail.spark import SparkConnectServer  # type: ignore[import-untyped, unused-ignore]
    from pyspark.sql.connect.session import SparkSession as ConnectSession

    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    _, port = server.listening_address
    # The module's builder would hand out a session of another server that this process had before.
    session = ConnectSession.builder.remote(f"sc://127.0.0.1:{port}").create()
    # pyspark.sql.functions asks the environment whether to speak Connect.
    before = os.environ.get(_CONNECT_MODE)
    os.environ[_CONNECT_MODE] = "1"
    try:
        for key, value in {**_SETTINGS, _DEBUGGING: "false", ENGINE: "sail"}.items():
            session.conf.set(key, value)
        yield session  # type: ignore[misc, unused-ignore]
    finally:
        if before is None:
            os.environ.pop(_CONNECT_MODE, None)
        session.stop()
        server.stop()


def _spark() -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    remote = os.environ.get("SPARK_REMOTE")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if not remote and not submitted and which("java") is None and not os.environ.get("JAVA_HOME"):
        raise IsohopError(
            "The engine 'spark' needs a Java runtime (17 or newer) and there is none on the PATH. "
            "Install one, or use the engine 'sail', which needs no Java."
        )
    builder = SparkSession.builder.appName("isohop")
    for key, value in _SETTINGS.items():
        builder = builder.config(key, value)
    if not remote and not submitted:
        cores = os.cpu_count() or 1
        builder = (
            builder.master(f"local[{cores}]")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.ui.enabled", "false")
            .config(_DEBUGGING, "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.sql.shuffle.partitions", str(cores))
            .config("spark.log.level", "ERROR")
            .config("spark.sql.parquet.compression.codec", "zstd")
        )
    session = builder.getOrCreate()
    try:
        yield session
    finally:
        if not submitted:
            session.stop()
