"""Parquet files in pieces, for workers that read, compute and write one at a time.

A piece lies within one row group of one file: to look for a range of rows or ids would be to read
everything for each. Memory depends on the piece and not on the data, and nothing but the names of
pieces passes through the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isohop.engines.progress import Progress
from isohop.engines.ray import errors_of_ray
from isohop.errors import IsohopError

PIECE = 1 << 16
"""Rows of a piece. What precedes it in its row group is decoded again, which is next to nothing."""
_RETRIED = "\nFailed to apply UDF transform after"
"""From here on Ray Data adds words of its own to an error: on how to try again."""
BATCH = 1 << 14
"""Rows of a piece that are held at once."""


def pieces_of(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Every piece: its ``file``, as ``number`` that file's place among ``files``, its row
    ``group``, as ``start`` its first row there, how many ``rows`` it has at most, and how many of
    them are read in a ``batch``."""
    for number, file in enumerate(files):
        about = pq.read_metadata(file)
        # A file without rows is a piece, so that what comes of it has its columns.
        groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)] or [0]
        for group, rows in enumerate(groups):
            for start in range(0, max(rows, 1), PIECE):
                place = {"number": number, "group": group, "start": start}
                yield {"file": str(file), **place, "rows": PIECE, "batch": BATCH}


def part_name(piece: dict[str, Any]) -> str:
    """Of the file that comes of a piece; files sort as the pieces do."""
    return f"part-{piece['number']:05d}-{piece['group']:05d}-{piece['start']:08d}.parquet"


def rows_of(piece: dict[str, Any], names: Sequence[str]) -> Iterator[pa.Table]:
    """The columns ``names`` of a piece's rows, a batch at a time."""
    # Mapped, since a column of a row group is otherwise read as a whole, however large.
    opened = pq.ParquetFile(piece["file"], memory_map=True)
    if not opened.num_row_groups:
        return
    row, start = 0, piece["start"]
    groups = [piece["group"]]
    for batch in opened.iter_batches(piece["batch"], row_groups=groups, columns=list(names)):
        if row >= start + piece["rows"]:
            return
        if row >= start:
            # A name also selects those that continue it after a dot.
            yield pa.table(batch.select(list(names)))
        row += batch.num_rows


def split(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pieces of a batch as Ray Data hands it to a function: a column for each name."""
    columns = {name: values.tolist() for name, values in batch.items()}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def for_each_piece(
    pieces: Sequence[dict[str, Any]],
    act: Callable[..., dict[str, Any]],
    arguments: dict[str, Any],
    what: str,
    progress: Progress,
    cores: int = 1,
) -> Iterator[dict[str, Any]]:
    """Have workers of Ray Data ``act`` on pieces: what it gave for each, as they end. Who stops
    asking stops the work. Each piece takes ``cores``. Ray must be running.

    ``act`` takes a batch of pieces (see `split`) and ``arguments``, and gives a batch.
    """
    import ray.data

    # Ray Data tells every step of every plan, and each error at length before it raises it; what
    # matters is told by `progress`, and by who asked.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().raise_original_map_exception = True
    done = ray.data.from_items(list(pieces), override_num_blocks=max(1, len(pieces))).map_batches(
        act,
        batch_size=1,
        num_cpus=cores,
        fn_kwargs=arguments,
    )
    try:
        with progress.task(what, len(pieces)) as bar, errors_of_ray():
            for row in done.iter_rows():
                bar.advance()
                yield row
    except IsohopError as error:
        error.args = tuple(str(word).partition(_RETRIED)[0] for word in error.args)
        raise
