"""New rows: embeddings of entities that were never seen, from the student bundle alone.

::

    out/
      new-rows.json               NewRows: how many there were, and what became of them
      part-*.parquet              a row for each new row, in their order: the key's columns,
                                  embedding fixed_size_list<float32>, source 'student', degree 0
      quarantine/part-*.parquet   rows without a key, as they came, with the reason

Columns of new rows have the logical names of the key and the attributes; a value that is not known
is null. Other columns are not read, and told. Rows are not compared with each other: what comes
twice is embedded twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from isohop.engines.pieces import for_each_piece, part_name, pieces_of, rows_of, split
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import ray_session
from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.errors import InvalidInput, IsohopError, Problem, did_you_mean

if TYPE_CHECKING:
    from isohop.coldbrew.bundle import Bundle

NO_KEY = "no value in the key"


MANIFEST = "new-rows.json"


class NewRows(BaseModel):
    """``new-rows.json``: ``embedded`` and ``quarantined`` rows are all there were; ``unread``:
    columns that nobody reads; ``certificate``: of the graph that the student learned from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    entity: str
    certificate: str
    embedded: int
    quarantined: int
    unread: tuple[str, ...]


def embed_new(
    student: Path,
    rows: Path,
    out: Path,
    entity: str | None = None,
    progress: Progress = SILENT,
) -> NewRows:
    """Embed the rows of a Parquet file, or of a folder of them, into the folder ``out``.

    ``student``: a bundle (`bundle.py`). ``entity``: whose rows they are, where it has more than
    one. Raises `InvalidInput` with all that is wrong with the rows' columns, before any engine
    starts, and `IsohopError`.
    """
    from isohop.coldbrew.bundle import Bundle, BundleManifest

    manifest = BundleManifest.read(student)
    known = manifest.entity(entity)
    files = _files(rows)
    unread = _check(files, Bundle.open(student, known.name).rows, known.name)
    with folder_atomically(out, MANIFEST) as folder, ray_session():
        arguments = {"student": student, "out": folder}
        done = for_each_piece(
            list(pieces_of(files)),
            embed_pieces,
            {"entity": known.name, **{n: str(path.resolve()) for n, path in arguments.items()}},
            f"new rows of '{known.name}'",
            progress,
        )
        for told in done:
            if told["error"]:
                raise IsohopError(told["error"])
        found = NewRows(
            entity=known.name,
            certificate=manifest.certificate,
            embedded=sum(told["embedded"] for told in done),
            quarantined=sum(told["quarantined"] for told in done),
            unread=unread,
        )
        write_text_atomically(folder / MANIFEST, found.model_dump_json(indent=1) + "\n")
    return found


def _files(rows: Path) -> list[Path]:
    if not rows.exists():
        raise IsohopError(f"{rows} is not there: no rows to embed.")
    files = [rows] if rows.is_file() else sorted(rows.glob("*.parquet"))
    if not files:
        raise IsohopError(f"{rows} holds no Parquet files.")
    return [file.resolve() for file in files]


def _check(files: Iterable[Path], wanted: pa.Schema, entity: str) -> tuple[str, ...]:
    """The names of columns that are not read. Raises `InvalidInput`."""
    problems: list[Problem] = []
    unread: dict[str, None] = {}
    for file in files:
        try:
            given = pq.read_schema(file)
        except (OSError, pa.ArrowInvalid) as error:
            problems.append(Problem(str(file), f"is not a Parquet file: {error}."))
            continue
        spare = [name for name in given.names if name not in wanted.names]
        unread |= dict.fromkeys(spare)
        for field in wanted:
            where = f"{file}, column '{field.name}'"
            if field.name not in given.names:
                hint = did_you_mean(field.name, spare) if spare else ""
                problems.append(
                    Problem(
                        where,
                        f"is missing; '{entity}' has it as {field.type}. Where values are not "
                        "known, let them be null.",
                        hint,
                    )
                )
            elif not _fits(given.field(field.name).type, field.type):
                held = given.field(field.name).type
                problems.append(Problem(where, f"is {held}, where '{entity}' has {field.type}."))
    if problems:
        raise InvalidInput(f"New rows of '{entity}'", problems)
    return tuple(unread)


def _fits(held: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type are values of the other, whatever they are."""
    if pa.types.is_dictionary(held):
        held = held.value_type
    if pa.types.is_null(held) or held == wanted:
        return True
    for is_kind in (_is_text, _is_number, pa.types.is_temporal):
        if is_kind(held) or is_kind(wanted):
            return is_kind(held) and is_kind(wanted)
    if _is_list(held) and _is_list(wanted):
        return _fits(held.value_type, wanted.value_type)
    return False


def _is_text(held: pa.DataType) -> bool:
    return any(
        is_kind(held)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _is_number(held: pa.DataType) -> bool:
    return pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held)


def _is_list(held: pa.DataType) -> bool:
    return pa.types.is_list(held) or pa.types.is_large_list(held)


@cache
def _opened(student: str, entity: str) -> Bundle:
    """The bundle, opened once by each worker process."""
    import torch

    from isohop.coldbrew.bundle import Bundle

    torch.set_num_threads(1)
    return Bundle.open(Path(student), entity)


def embed_pieces(batch: dict[str, Any], student: str, entity: str, out: str) -> dict[str, Any]:
    """What a worker does with each piece of ``batch``: read, render, encode, embed and write."""
    counts: dict[str, list[Any]] = {"embedded": [], "quarantined": [], "error": []}
    for piece in split(batch):
        embedded = quarantined = 0
        error = ""
        try:
            bundle = _opened(student, entity)
            embedded, quarantined = _embed(bundle, piece, Path(out))
        except IsohopError as raised:
            error = str(raised)  # the driver's to tell, and no traceback
        for name, value in zip(counts, (embedded, quarantined, error), strict=True):
            counts[name].append(value)
    return counts


def _embed(bundle: Bundle, piece: dict[str, Any], out: Path) -> tuple[int, int]:
    """(rows embedded, rows quarantined)."""
    key = list(bundle.entity.key)
    schema = pa.schema(
        [
            *(bundle.rows.field(name) for name in key),
            ("embedding", pa.list_(pa.float32(), bundle.dimensions)),
            ("source", pa.string()),
            ("degree", pa.int64()),
        ]
    )
    target = out / part_name(piece)
    embedded = 0
    bad = []
    with pq.ParquetWriter(target, schema, use_dictionary=key) as writer:
        for table in rows_of(piece, bundle.rows.names):
            has = np.logical_and.reduce([table[name].is_valid().to_numpy() for name in key])
            if not has.all():
                bad.append(table.filter(pa.array(~has)))
            rows = _cast(table.filter(pa.array(has)), bundle.rows, piece)
            writer.write_table(_embedded(bundle, rows, schema))
            embedded += rows.num_rows
    if bad:
        (out / "quarantine").mkdir(exist_ok=True)
        told = pa.concat_tables(bad)
        reason = pa.array([NO_KEY] * told.num_rows)
        pq.write_table(told.append_column("reason", reason), out / "quarantine" / target.name)
    return embedded, sum(table.num_rows for table in bad)


def _cast(table: pa.Table, wanted: pa.Schema, piece: dict[str, Any]) -> pa.Table:
    columns = []
    for field in wanted:
        column = table[field.name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise IsohopError(f"{piece['file']}, column '{field.name}': {error}.") from error
    return pa.table(columns, schema=pa.schema([(field.name, field.type) for field in wanted]))


def _embedded(bundle: Bundle, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    import torch

    from isohop.giant.inference import encode_rows

    fields = bundle.entity.fields
    features = encode_rows(bundle.encoder, bundle.entity.name, rows, fields)
    with torch.no_grad():
        vectors = bundle.student.vectors(torch.from_numpy(features)).numpy()
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1]
    )
    source = pa.array(["student"]).take(pa.array(np.zeros(rows.num_rows, np.int64)))
    degree = pa.array(np.zeros(rows.num_rows, np.int64))
    own = [rows[name] for name in bundle.entity.key]
    return pa.table([*own, values, source, degree], schema=schema)
