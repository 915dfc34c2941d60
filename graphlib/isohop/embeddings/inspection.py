"""What must hold of a run's embeddings before anybody may see them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from isohop.embeddings.contract import (
    MEASURES,
    SOURCES,
    EntityEmbeddings,
    KeyColumn,
    entity_folders,
    parquet_files,
)
from isohop.engines.progress import SILENT, Progress
from isohop.errors import InvalidInput, Problem

_EXAMPLES = 3
_BATCH = 1 << 14
"""Rows held at once: 16 MB of vectors at 256 dimensions."""
_AGAIN = "Run the stage 'embed' again: 'isohop run' does."


class UnfitEmbeddings(InvalidInput):
    """A run's embeddings are not as the stage `embed` writes them."""


def inspect_embeddings(embeddings: Path, progress: Progress = SILENT) -> list[EntityEmbeddings]:
    """Check all entities of a run's embeddings and say what they hold.

    Reads every value once, a batch at a time; only key columns are held whole. Raises
    `UnfitEmbeddings` with all problems of all entities.
    """
    title = f"The embeddings in {embeddings} cannot be published"
    if not embeddings.is_dir():
        raise UnfitEmbeddings(title, [Problem(str(embeddings), "there is no such folder.", _AGAIN)])
    folders = entity_folders(embeddings)
    problems: list[Problem] = []
    entities: list[EntityEmbeddings] = []
    if not folders:
        problems.append(Problem(str(embeddings), "there is no entity in it.", _AGAIN))
    with progress.task("Checking embeddings", total=len(folders)) as task:
        for name, folder in folders.items():
            task.note(name)
            entity, found = _inspect_entity(name, folder)
            problems += found
            if entity is not None:
                entities.append(entity)
            task.advance()
    if problems:
        raise UnfitEmbeddings(title, problems)
    return entities


def _inspect_entity(name: str, folder: Path) -> tuple[EntityEmbeddings | None, list[Problem]]:
    files = parquet_files(folder)
    if not files:
        return None, [Problem(str(folder), "there is no Parquet file in it.", _AGAIN)]
    schemas, problems = _schemas(files)
    if problems:
        return None, problems
    problems = _schema_problems(folder, schemas[0])
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        problems += _same_schema(file, files[0], schema, schemas[0])
    if problems:
        return None, problems
    key = [field for field in schemas[0] if field.name not in MEASURES]
    dataset = ds.dataset([str(file) for file in files], schema=schemas[0], format="parquet")
    try:
        count, sources, problems = _measure_problems(folder, dataset)
        problems += _key_problems(folder, dataset, [field.name for field in key])
    except (pa.ArrowInvalid, OSError) as error:
        first_line = str(error).splitlines()[0]
        return None, [Problem(str(folder), f"its files cannot be read: {first_line}.", _AGAIN)]
    entity = EntityEmbeddings(
        name=name,
        count=count,
        dimensions=schemas[0].field("embedding").type.list_size,
        key=tuple(KeyColumn(name=field.name, type=str(field.type)) for field in key),
        sources=sources,
    )
    return entity, problems


def _schemas(files: Sequence[Path]) -> tuple[list[pa.Schema], list[Problem]]:
    schemas, problems = [], []
    for file in files:
        try:
            schemas.append(pq.read_schema(file).remove_metadata())
        except (pa.ArrowInvalid, OSError) as error:
            first_line = str(error).splitlines()[0]
            problems.append(Problem(str(file), f"not a Parquet file: {first_line}.", _AGAIN))
    return schemas, problems


def _schema_problems(folder: Path, schema: pa.Schema) -> list[Problem]:
    problems: list[Problem] = []

    def problem(column: str, what: str, hint: str = _AGAIN) -> None:
        problems.append(Problem(f"{folder}, column '{column}'", what, hint))

    names = schema.names
    for column in sorted({name for name in names if names.count(name) > 1}):
        hint = "Map the key's column to another attribute name in the schema file."
        problem(column, "it is there more than once.", hint if column in MEASURES else _AGAIN)
    if problems:
        return problems
    wanted = {
        "node_id": pa.int64(),
        "source": pa.string(),
        "confidence": pa.float32(),
        "degree": pa.int64(),
    }
    for column, kind in wanted.items():
        if column not in names:
            problem(column, "it is missing.")
        elif schema.field(column).type != kind:
            problem(column, f"its type is {schema.field(column).type}; it must be {kind}.")
    if "embedding" not in names:
        problem("embedding", "it is missing.")
    else:
        kind = schema.field("embedding").type
        if not (pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()):
            problem("embedding", f"its type is {kind}; it must be fixed_size_list<float32>[d].")
        elif kind.list_size < 1:
            problem("embedding", "its vectors have no dimensions.")
    keys = [field for field in schema if field.name not in MEASURES]
    if not keys:
        problems.append(Problem(str(folder), "there is no key column.", _AGAIN))
    for field in keys:
        if pa.types.is_nested(field.type):
            problem(field.name, f"its type is {field.type}; a key's column must hold single values")
    return problems


def _same_schema(file: Path, first: Path, schema: pa.Schema, wanted: pa.Schema) -> list[Problem]:
    if schema.equals(wanted):
        return []
    mine = {(field.name, str(field.type)) for field in schema}
    other = {(field.name, str(field.type)) for field in wanted}
    extra = ", ".join(f"{name} {kind}" for name, kind in sorted(mine - other)) or "nothing else"
    lost = ", ".join(f"{name} {kind}" for name, kind in sorted(other - mine)) or "nothing"
    what = f"its columns differ from those of {first.name}: it has {extra} and lacks {lost}."
    if mine == other:
        what = f"its columns come in another order than those of {first.name}."
    return [Problem(str(file), what, _AGAIN)]


def _measure_problems(
    folder: Path, dataset: ds.Dataset
) -> tuple[int, dict[str, int], list[Problem]]:
    """Rows, rows by source, and what is wrong with the columns that every entity has."""
    size = dataset.schema.field("embedding").type.list_size
    count = 0
    sources = dict.fromkeys(SOURCES, 0)
    nulls = {name: 0 for name in MEASURES if name != "confidence"}
    wrong_ids: list[str] = []
    unknown_sources: set[str] = set()
    not_finite: list[int] = []
    not_finite_count = negative = unsure = 0
    batches = dataset.to_batches(columns=list(MEASURES), batch_size=_BATCH, batch_readahead=2)
    for batch in batches:
        rows = batch.num_rows
        for column in nulls:
            nulls[column] += batch.column(column).null_count
        ids = batch.column("node_id").fill_null(-1).to_numpy()
        expected = np.arange(count, count + rows)
        if not wrong_ids:
            wrong_ids = [
                f"row {row} has {ids[row - count]}"
                for row in expected[ids != expected][:_EXAMPLES].tolist()
            ]
        vectors = batch.column("embedding")
        values = vectors.flatten().to_numpy(zero_copy_only=False)
        if vectors.null_count == 0:
            nulls["embedding"] += int(vectors.flatten().null_count)
            bad = np.flatnonzero(~np.isfinite(values.reshape(rows, size)).all(axis=1))
            not_finite_count += len(bad)
            not_finite += ids[bad[: max(0, _EXAMPLES - len(not_finite))]].tolist()
        counts = batch.column("source").value_counts()
        for source, number in zip(counts.field(0).to_pylist(), counts.field(1), strict=True):
            if source in sources:
                sources[source] += number.as_py()
            elif source is not None:
                unknown_sources.add(source)
        confidence = batch.column("confidence").drop_null()
        unsure += int(np.sum(~((confidence.to_numpy() >= 0) & (confidence.to_numpy() <= 1))))
        negative += pc.sum(pc.less(batch.column("degree"), 0)).as_py() or 0
        count += rows

    problems: list[Problem] = []

    def problem(column: str, what: str, hint: str = _AGAIN) -> None:
        problems.append(Problem(f"{folder}, column '{column}'", what, hint))

    if count == 0:
        what = "the entity has no rows, and publishing it would empty what consumers read."
        problems.append(Problem(str(folder), what, "Look at its table, or remove the entity."))
    for column, number in nulls.items():
        if number:
            problem(column, f"{number} values are NULL.")
    if wrong_ids and not nulls["node_id"]:
        examples = ", ".join(wrong_ids)
        problem("node_id", f"ids are not dense from 0 and ascending, row by row: {examples}.")
    if not_finite_count:
        examples = ", ".join(str(node) for node in not_finite)
        hint = "Training diverged or its input holds NaN: look at the report's training curves."
        problem("embedding", f"{not_finite_count} vectors hold NaN or infinity: {examples}.", hint)
    if unknown_sources:
        examples = ", ".join(repr(source) for source in sorted(unknown_sources)[:_EXAMPLES])
        problem("source", f"it must be 'teacher', 'student' or 'blend'; it holds {examples}.")
    if unsure:
        problem("confidence", f"{unsure} values are not from 0 to 1.")
    if negative:
        problem("degree", f"{negative} values are negative.")
    return count, sources, problems


def _key_problems(folder: Path, dataset: ds.Dataset, key: list[str]) -> list[Problem]:
    table = dataset.to_table(columns=key)
    where = f"{folder}, key ({', '.join(key)})"
    hint = "The entity's key in the schema file must identify its rows."
    problems = [
        Problem(where, f"{table.column(name).null_count} values of '{name}' are NULL.", hint)
        for name in key
        if table.column(name).null_count
    ]
    groups = table.group_by(key).aggregate([([], "count_all")])
    repeated = groups.filter(pc.greater(groups.column("count_all"), 1))
    if repeated.num_rows:
        rows = repeated.slice(0, _EXAMPLES).select(key).to_pylist()
        examples = "; ".join(", ".join(str(row[name])[:60] for name in key) for row in rows)
        what = f"{repeated.num_rows} keys are there more than once: {examples}."
        problems.append(Problem(where, what, hint))
    return problems
