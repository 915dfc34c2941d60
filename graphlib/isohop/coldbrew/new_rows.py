"""New rows: embeddings of entities that were never seen, from the student bundle alone.

::

    out/
      new-rows.json               NewRows: how many there were, and what became of them
      part-*.parquet              the others, in their order: the key's columns, embedding
                                  fixed_size_list<float32>, source 'student', confidence float32,
                                  degree 0
      quarantine/part-*.parquet   rows without a key, or with a value that is none: reason, line
                                  where it is known, raw (what was read of the row, as JSON)

Columns of new rows have the logical names of the key and the attributes; a value that is not known
is null. They are read as a build reads Parquet (`relational/landing.py`), so a value means the same
in both. Other columns are not read, and told. Rows are not compared with each other: what comes
twice is embedded twice.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from isohop.engines.pieces import for_each_piece, part_name, pieces_of, rows_of, split
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import ray_session
from isohop.engines.storage import fingerprint, folder_atomically, write_text_atomically
from isohop.errors import InvalidInput, IsohopError, Problem
from isohop.relational.files import parquet_parts
from isohop.relational.landing import LandedTable, raw_rows, refused
from isohop.relational.parquet_files import land_parquet, parquet_columns

if TYPE_CHECKING:
    from isohop.coldbrew.bundle import Bundle

NO_KEY = "no value in the key"
MANIFEST = "new-rows.json"
QUARANTINE = "quarantine"


class NewRows(BaseModel):
    """``new-rows.json``: ``embedded`` and ``quarantined`` rows are all there were; ``unread``:
    columns that nobody reads; ``notes``: what reading changed; ``certificate``: of the graph that
    the student learned from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    entity: str
    certificate: str
    embedded: int
    quarantined: int
    unread: tuple[str, ...]
    notes: tuple[str, ...]


def embed_new(
    student: Path,
    rows: Path,
    out: Path,
    entity: str | None = None,
    progress: Progress = SILENT,
) -> NewRows:
    """Embed the rows of a Parquet file, or of a folder of them, into the folder ``out``, which is
    replaced where an earlier call made it.

    ``student``: a bundle (`bundle.py`). ``entity``: whose rows they are, where it has more than
    one. Raises `InvalidInput` with all that is wrong with the rows' columns, before any engine
    starts, and `IsohopError`.
    """
    from isohop.coldbrew.bundle import Bundle, BundleManifest

    manifest = BundleManifest.read(student)
    known = manifest.entity(entity)
    bundle = Bundle.open(student, known.name)
    files = [file.resolve() for file in parquet_parts(rows)]
    for given in (student.resolve(), rows.resolve(), *files):
        if given.is_relative_to(out.resolve()):
            raise IsohopError(
                f"{given} lies in {out}, which is replaced as a whole. Choose another folder."
            )
    unread = _check(files, bundle.rows, known.name)
    with folder_atomically(out, MANIFEST) as folder, ray_session():
        landed = _land(files, folder / "landed", bundle.rows, progress)
        arguments = {
            "student": str(student.resolve()),
            "entity": known.name,
            "version": "".join(fingerprint(file) for file in sorted(student.glob("*.*"))),
            "out": str(folder.resolve()),
        }
        pieces = list(pieces_of(landed.paths))
        embedded, quarantined = 0, landed.rows_read - landed.rows
        what = f"new rows of '{known.name}'"
        for told in for_each_piece(pieces, embed_pieces, arguments, what, progress):
            if told["error"]:
                raise IsohopError(told["error"])
            embedded += told["embedded"]
            quarantined += told["quarantined"]
        if landed.quarantine is not None:
            (folder / QUARANTINE).mkdir(exist_ok=True)
            shutil.copyfile(landed.quarantine, folder / QUARANTINE / "part-not-read.parquet")
        shutil.rmtree(folder / "landed", ignore_errors=True)
        found = NewRows(
            entity=known.name,
            certificate=manifest.certificate,
            embedded=embedded,
            quarantined=quarantined,
            unread=unread,
            notes=landed.notes,
        )
        write_text_atomically(folder / MANIFEST, found.model_dump_json(indent=1) + "\n")
    return found


def _check(files: Sequence[Path], wanted: pa.Schema, entity: str) -> tuple[str, ...]:
    """The names of columns that are not read. Raises `InvalidInput`."""
    given = {column.name: column for column in parquet_columns(files)}
    stored = pq.read_schema(files[0])
    spare = [name for name in given if name not in wanted.names]
    problems = []
    for field in wanted:
        where = f"column '{field.name}'"
        if field.name not in given:
            what = f"is missing; '{entity}' has it as {field.type}."
            near = get_close_matches(field.name, spare, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else "Let it be null where it is not known."
            problems.append(Problem(where, what, hint))
        elif not given[field.name].all_null:
            held = stored.field(field.name).type
            if not _fits(held, given[field.name].type, field.type):
                what = f"is {held}, where '{entity}' has {field.type}."
                problems.append(Problem(where, what))
    if problems:
        raise InvalidInput(f"New rows of '{entity}' in {files[0]}", problems)
    return tuple(spare)


def _fits(held: pa.DataType, landed: pa.DataType | None, wanted: pa.DataType) -> bool:
    """Whether values of a type may be values of the other. ``landed``: as which ``held`` is read;
    None where the rows tell how wide their numbers are."""
    if _is_list(wanted):
        return _is_list(held)
    if _is_text(wanted):
        return landed is not None and _is_text(landed) and not pa.types.is_nested(held)
    if _is_number(wanted):
        return landed is None or _is_number(landed)
    return bool(landed == wanted)


def _is_text(held: pa.DataType) -> bool:
    return pa.types.is_string(held) or pa.types.is_large_string(held)


def _is_number(held: pa.DataType) -> bool:
    return pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held)


def _is_list(held: pa.DataType) -> bool:
    return pa.types.is_list(held) or pa.types.is_large_list(held)


def _land(
    files: Sequence[Path], folder: Path, wanted: pa.Schema, progress: Progress
) -> LandedTable:
    with progress.task("reading new rows") as bar:
        landed = land_parquet(files, folder, "new rows", wanted.names, "")
        bar.advance()
    return landed


@cache
def _opened(student: str, entity: str, version: str) -> Bundle:
    """The bundle, opened once by each worker process; one that was made anew is another."""
    import torch

    from isohop.coldbrew.bundle import Bundle

    torch.set_num_threads(1)
    return Bundle.open(Path(student), entity)


def embed_pieces(
    batch: dict[str, Any], student: str, entity: str, version: str, out: str
) -> dict[str, Any]:
    """What a worker does with each piece of ``batch``: read, render, encode, embed and write."""
    counts: dict[str, list[Any]] = {"embedded": [], "quarantined": [], "error": []}
    for piece in split(batch):
        embedded = quarantined = 0
        error = ""
        try:
            bundle = _opened(student, entity, version)
            embedded, quarantined = _embed(bundle, piece, Path(out))
        except IsohopError as raised:
            error = str(raised)  # the driver's to tell, without a traceback
        except (OSError, pa.ArrowException) as raised:
            error = f"{piece['file']} cannot be read: {raised}. Write the file again."
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
            ("confidence", pa.float32()),
            ("degree", pa.int64()),
        ]
    )
    target = out / part_name(piece)
    embedded = 0
    bad: list[pa.Table] = []
    with pq.ParquetWriter(target, schema, use_dictionary=key) as writer:
        for table in rows_of(piece, bundle.rows.names):
            rows, reasons = _read(table.combine_chunks(), bundle)
            good = pc.equal(reasons, "")
            if not pc.all(good).as_py():
                bad.append(_quarantined(table, reasons))
            rows = rows.filter(good)
            writer.write_table(_embedded(bundle, rows, schema))
            embedded += rows.num_rows
    if bad:
        (out / QUARANTINE).mkdir(exist_ok=True)
        pq.write_table(pa.concat_tables(bad), out / QUARANTINE / target.name)
    return embedded, sum(table.num_rows for table in bad)


def _read(table: pa.Table, bundle: Bundle) -> tuple[pa.Table, pa.Array]:
    """The rows with the types of the entity, and why each cannot be embedded ('' where it can)."""
    reasons = np.full(table.num_rows, "", object)
    columns = []
    for field in bundle.rows:
        column = _one(table[field.name])
        try:
            values = _cast(column, field.type)
        except pa.ArrowInvalid:
            misfits = refused(column, partial(_cast, wanted=field.type))
            reasons[misfits] = f"column '{field.name}': a value that is no {field.type}"
            fits = np.ones(len(column), bool)
            fits[misfits] = False
            values = _cast(pc.if_else(pa.array(fits), column, None), field.type)
        if field.name in bundle.entity.key:
            lacks = values.is_null().to_numpy(zero_copy_only=False) & (reasons == "")
            reasons[lacks] = NO_KEY
        columns.append(values)
    return pa.table(columns, names=bundle.rows.names), pa.array(reasons, pa.string())


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _cast(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Raises `pa.ArrowInvalid` for a value that is none of the type."""
    if _is_list(wanted):
        return _parsed(values.cast(pa.string()), wanted)
    if pa.types.is_decimal(wanted) and pa.types.is_integer(values.type):
        values = values.cast(pa.decimal128(38, max(0, min(19, wanted.scale))))
    return values.cast(wanted)


def _parsed(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Lists, which land as JSON texts."""
    if not len(texts):
        return pa.array([], wanted)
    told = pc.binary_join_element_wise('{"v":', pc.fill_null(texts, "null"), "}", "")
    lines = "\n".join(told.to_pylist()).encode()
    schema = pa.schema([("v", wanted)])
    options = pyarrow.json.ParseOptions(explicit_schema=schema)
    read = pyarrow.json.ReadOptions(block_size=len(lines) + 1)
    return _one(pyarrow.json.read_json(io.BytesIO(lines), read, options)["v"])


def _quarantined(table: pa.Table, reasons: pa.Array) -> pa.Table:
    bad = pc.not_equal(reasons, "")
    rows = table.filter(bad)
    raw = [text for batch in rows.to_batches() for text in raw_rows(batch)]
    parts = {
        "reason": reasons.filter(bad),
        "line": pa.nulls(rows.num_rows, pa.int64()),
        "raw": pa.array(raw, pa.string()),
    }
    return pa.table(parts)


def _embedded(bundle: Bundle, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    import torch

    from isohop.coldbrew.choosing import confidence_alone
    from isohop.giant.inference import encode_rows

    fields = bundle.entity.fields
    features = encode_rows(bundle.encoder, bundle.entity.name, rows, fields)
    with torch.no_grad():
        vectors, nearness = bundle.student.vectors(torch.from_numpy(features))
        confidence = confidence_alone(bundle.entity.choice, nearness).numpy()
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.numpy().astype(np.float32).ravel()), vectors.shape[1]
    )
    source = pa.repeat(pa.scalar("student"), rows.num_rows)
    degree = pa.repeat(pa.scalar(0, pa.int64()), rows.num_rows)
    own = [rows[name] for name in bundle.entity.key]
    certain = pa.array(confidence.astype(np.float32), from_pandas=True)
    return pa.table([*own, values, source, certain, degree], schema=schema)
