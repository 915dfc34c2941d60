"""Parquet files in pieces, for workers that read, compute and write one at a time.

A piece lies within one row group of one file: to look for a range of rows or ids would be to read
everything for each. Memory depends on the piece and not on the data, and nothing but the names of
pieces passes through the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isohop.engines.progress import Progress
from isohop.engines.ray import ended, machines, result_of, with_cores

PIECE = 1 << 16
"""Rows of a piece, at most. What precedes it in its row group is decoded again, which is next to
nothing."""
TEXTS, MANY = 1 << 9, 1 << 10
"""Where a text model reads them, which takes longer than all else by far: rows that a piece has at
least, and pieces that are enough for any number of workers to be done at the same time."""
BATCH = 1 << 14
"""Rows of a piece that are held at once."""
AHEAD = 2
"""Pieces that Ray knows of for each that is worked on."""


def pieces_of(files: Sequence[Path], texts: bool = False) -> Iterator[dict[str, Any]]:
    """Every piece: its ``file``, as ``number`` that file's place among ``files``, its row
    ``group``, as ``start`` its first row there, how many ``rows`` it has, of how many at ``most``,
    and how many of them are read in a ``batch``. ``texts``: whether a text model reads them."""
    every = [pq.read_metadata(file) for file in files]
    most = PIECE
    if texts:
        most = min(PIECE, max(TEXTS, sum(about.num_rows for about in every) // MANY))
    for number, (file, about) in enumerate(zip(files, every, strict=True)):
        # A file without rows is a piece, so that what comes of it has its columns.
        groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)] or [0]
        for group, rows in enumerate(groups):
            # Of one size, so that workers who have as many of them are done at the same time.
            parts = max(1, -(-rows // most))
            for start, end in pairwise(rows * part // parts for part in range(parts + 1)):
                place = {"number": number, "group": group, "start": start}
                held = {"rows": end - start, "most": most, "batch": BATCH}
                yield {"file": str(file), **place, **held}


def in_full_pieces(files: Sequence[Path], names: Sequence[str], out: Path) -> Sequence[Path]:
    """The columns ``names`` of all rows of ``files``, in their order, in as few pieces as can be,
    for what takes as long whatever a piece's rows: the files as they are, or one in ``out``."""
    pieces = list(pieces_of(files))
    if len(pieces) <= max(1, -(-sum(piece["rows"] for piece in pieces) // PIECE)):
        return files
    out.mkdir(parents=True)
    file = out / "rows.parquet"
    stored = pq.read_schema(files[0])
    schema = pa.schema([stored.field(name) for name in names])
    held = [schema.empty_table()]
    with pq.ParquetWriter(file, schema) as writer:
        for piece in pieces:
            for table in rows_of(piece, names):
                held.append(table)
                while sum(one.num_rows for one in held) >= PIECE:
                    every = pa.concat_tables(held)
                    writer.write_table(every.slice(0, PIECE), PIECE)
                    held = [every.slice(PIECE)]
        writer.write_table(pa.concat_tables(held), PIECE)
    return (file,)


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
    end = start + piece["rows"]
    groups = [piece["group"]]
    for batch in opened.iter_batches(piece["batch"], row_groups=groups, columns=list(names)):
        if row >= end:
            return
        if row + batch.num_rows > start:
            own = batch.slice(max(0, start - row))[: end - max(start, row)]
            # A name also selects those that continue it after a dot.
            yield pa.table(own.select(list(names)))
        row += batch.num_rows


def for_each_piece(
    pieces: Iterable[dict[str, Any]],
    act: Callable[..., Any],
    arguments: Mapping[str, Any],
    what: str,
    progress: Progress,
    cores: int = 1,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Have workers of Ray ``act`` on pieces: each piece and what it gave, as they end. Who stops
    asking stops the work. Each takes ``cores``. There are no more of them than have the rows of a
    piece each: one more is a process to start, which takes as long. Ray must be running.

    ``act`` takes a piece, and ``arguments`` by name. Raises as `result_of` does.
    """
    import ray

    task = with_cores(act, cores)
    every = list(pieces)
    waiting = iter(every)
    most_rows = max((piece["most"] for piece in every), default=PIECE)
    useful = max(1, -(-sum(piece["rows"] for piece in every) // most_rows))
    if useful > 1:
        useful *= AHEAD
    running: dict[Any, dict[str, Any]] = {}
    try:
        with progress.task(what, len(every)) as bar:
            while True:
                # As many machines as there are now, each of whose cores finds the next piece ready.
                most = AHEAD * max(1, sum(machine // cores for machine in machines()))
                for piece in islice(waiting, max(0, min(most, useful) - len(running))):
                    running[task.remote(piece, **arguments)] = piece
                if not running:
                    return
                for done in ended([*running]):
                    piece, found = running.pop(done), result_of(done)
                    bar.advance()
                    yield piece, found
    finally:
        for reference in running:
            ray.cancel(reference)
