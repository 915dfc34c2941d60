"""New rows: embeddings of entities that were never seen, from the student bundle alone; where they
come with edges to known nodes (`new_edges.py`), from the run's teacher too.

::

    out/
      part-*.parquet              in the rows' order: the key's columns, embedding
                                  fixed_size_list<float32>, source, confidence float32, degree
                                  (source 'student' and degree 0 without edges)
      _new-rows.json              NewRows: how many there were, and what became of them
      _quarantine/part-*.parquet  rows without a key, or with a value that is none: reason, line
                                  where it is known, raw (what was read of the row, as JSON)
      _quarantine/edges.parquet   edges to unknown nodes, or of no new row that is embedded,
                                  likewise

pyarrow, pandas and Spark pass over names that begin with '_' where they read a folder.

Columns of new rows have the logical names of the key and the attributes; a value that is not known
is null. They are read as a build reads Parquet (`relational/landing.py`), so a value means the same
in both. Other columns are not read, and told. Rows are not compared with each other: what comes
twice is embedded twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from isohop.coldbrew.new_columns import (
    cast_columns,
    check_columns,
    quarantined,
    read_rows,
    reading,
)
from isohop.engines.pieces import for_each_piece, in_full_pieces, part_name, pieces_of
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import all_cores, ray_session
from isohop.engines.storage import (
    disk_full,
    fingerprint,
    folder_atomically,
    is_disk_full,
    write_text_atomically,
)
from isohop.errors import InvalidInput, IsohopError
from isohop.giant.model_folder import reads_texts
from isohop.graph import Graph
from isohop.relational.files import parquet_parts
from isohop.relational.landing import LandedTable
from isohop.relational.parquet_files import land_parquet

if TYPE_CHECKING:
    from isohop.coldbrew.bundle import Bundle
    from isohop.coldbrew.known_graph import KnownGraph
    from isohop.coldbrew.new_edges import EdgeFiles

MANIFEST = "_new-rows.json"
QUARANTINE = "_quarantine"


class NewRows(BaseModel):
    """``_new-rows.json``: ``embedded`` and ``quarantined`` rows are all there were; ``unread``:
    columns that nobody reads; ``notes``: what reading changed; ``edges`` that embedded rows have,
    and those that cannot be used; ``certificate``: of the graph that was learned from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    entity: str
    certificate: str
    embedded: int
    quarantined: int
    edges: int = 0
    edges_quarantined: int = 0
    unread: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class NewEdges:
    """Edges to the nodes of a run: its ``graph``, ``features``, ``model`` and ``credible``, and a
    file or folder by edge type, as `edge_files` takes them."""

    graph: Path
    features: Path
    model: Path
    credible: Path
    files: Mapping[str, Path]


def embed_new(
    student: Path,
    rows: Path,
    out: Path,
    entity: str | None = None,
    progress: Progress = SILENT,
    edges: NewEdges | None = None,
) -> NewRows:
    """Embed the rows of a Parquet file, or of a folder of them, into the folder ``out``, which is
    replaced where an earlier call made it.

    ``student``: a bundle (`bundle.py`). ``entity``: whose rows they are, where it has more than
    one. Raises `InvalidInput` with all that is wrong with the columns of rows, then of edges,
    before any engine starts, and `IsohopError`.
    """
    from isohop.coldbrew.bundle import ENCODER, Bundle, BundleManifest

    manifest = BundleManifest.read(student)
    known = manifest.entity(entity)
    bundle = Bundle.open(student, known.name)
    files = [file.resolve() for file in parquet_parts(rows)]
    more = () if edges is None else edges.files.values()
    for given in (student.resolve(), rows.resolve(), *files, *(one.resolve() for one in more)):
        if given.is_relative_to(out.resolve()):
            raise IsohopError(
                f"{given} lies in {out}, which is replaced as a whole. Choose another folder."
            )
        if out.resolve().is_relative_to(given):
            raise IsohopError(f"{out} lies in {given}, which is read. Choose another folder.")
    problems, unread = check_columns(files, bundle.rows, known.key, known.name)
    if problems:
        raise InvalidInput(f"New rows of '{known.name}' in {files[0]}", problems)
    linked: list[EdgeFiles] = []
    unheard: list[str] = []
    if edges is not None:
        linked, unheard = _linked(edges, bundle, manifest.certificate)
    unread = tuple(n for n in unread if all(n not in one.columns.names for one in linked))
    with folder_atomically(out, MANIFEST) as folder, ray_session():
        landed = _land(files, folder / "landed", bundle.rows, progress)
        arguments: dict[str, Any] = {
            "student": str(student.resolve()),
            "entity": known.name,
            "version": _version(student, edges),
            "out": str(folder.resolve()),
        }
        files = list(landed.paths)
        if linked:  # each piece passes messages over the whole graph
            with reading(rows):
                files = list(in_full_pieces(files, bundle.rows.names, folder / "landed" / "full"))
        small = reads_texts(student / ENCODER) and not linked
        pieces, cores = list(pieces_of(files, small)), 1
        notes, useless = list(landed.notes), None
        if edges is not None and linked:
            from isohop.coldbrew.new_edges import match_edges

            cores = all_cores()  # each worker has the whole graph, so there is one
            of_run = (Graph.open(edges.graph), pieces, bundle.rows, folder / "landed" / "edges")
            with progress.task("reading their edges") as bar:
                matched, useless, more_notes = match_edges(linked, *of_run)
                bar.advance()
            notes += [*more_notes, *unheard]
            paths = (edges.graph, edges.features, edges.model, edges.credible, matched)
            arguments |= {"run": [str(path.resolve()) for path in paths], "threads": cores}
        counts = {"embedded": 0, "quarantined": landed.rejected, "edges": 0}
        what = f"new rows of '{known.name}'"
        for _, told in for_each_piece(pieces, embed_piece, arguments, what, progress, cores):
            counts = {name: count + told[name] for name, count in counts.items()}
        if landed.quarantine is not None:
            (folder / QUARANTINE).mkdir(exist_ok=True)
            shutil.copyfile(landed.quarantine, folder / QUARANTINE / "part-not-read.parquet")
        if useless is not None and useless.num_rows:
            (folder / QUARANTINE).mkdir(exist_ok=True)
            pq.write_table(useless, folder / QUARANTINE / "edges.parquet")
        shutil.rmtree(folder / "landed", ignore_errors=True)
        found = NewRows(
            entity=known.name,
            certificate=manifest.certificate,
            edges_quarantined=0 if useless is None else useless.num_rows,
            unread=unread,
            notes=tuple(notes),
            **counts,
        )
        write_text_atomically(folder / MANIFEST, found.model_dump_json(indent=1) + "\n")
    return found


def _version(student: Path, edges: NewEdges | None) -> str:
    """Of all that workers keep open. A student's manifest has the digests of its other files."""
    from isohop.coldbrew import bundle

    files = [student / bundle.MANIFEST]
    if edges is not None:
        folders = (edges.graph, edges.features, edges.model, edges.credible)
        files += [file for folder in folders for file in sorted(folder.glob("*.json"))]
    return "".join(fingerprint(file) for file in files)


def _linked(edges: NewEdges, bundle: Bundle, certificate: str) -> tuple[list[EdgeFiles], list[str]]:
    """And a note on those that nobody hears."""
    from isohop.coldbrew.distill import read_manifest
    from isohop.coldbrew.new_edges import edge_files

    graph, about = Graph.open(edges.graph), read_manifest(edges.model)
    learned = about.kept_from or about.certificate
    if not about.is_of(graph) or learned != certificate:
        raise IsohopError(
            f"{edges.graph}, {edges.model} and the student are not of one run. Run the stages "
            "'distill' and 'embed' again."
        )
    if about.skipped is not None:
        raise IsohopError(
            f"{edges.model} has not learned what edges say: {about.skipped}. Leave --edges out."
        )
    found = edge_files(graph, about.label, bundle.entity, bundle.rows, edges.files)
    unheard = [
        f"{one.relation.edge_type}: training saw no edge of this type, so none of a new row says "
        "anything"
        for one in found
        if one.relation.edge_type in about.unheard
    ]
    return found, unheard


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
    from isohop.coldbrew.bundle import Bundle

    return Bundle.open(Path(student), entity)


@cache
def _known(graph: str, features: str, model: str, credible: str, version: str) -> KnownGraph:
    """Likewise."""
    from isohop.coldbrew.known_graph import KnownGraph

    return KnownGraph.open(Graph.open(graph), Path(features), Path(model), Path(credible))


def embed_piece(
    piece: dict[str, Any],
    student: str,
    entity: str,
    version: str,
    out: str,
    run: Sequence[str] | None = None,
    threads: int = 1,
) -> dict[str, int]:
    """What a worker does: read, render, encode, embed and write a piece; rows embedded and
    quarantined, and edges of these that are embedded. ``run``: graph, features and model, where
    rows have edges, and the folder of these. Raises `IsohopError`."""
    import torch

    from isohop.engines.determinism import compute_deterministically

    compute_deterministically(threads)
    try:
        embedder = _Embedder(_opened(student, entity, version))
        if run is not None:
            *paths, matched = run
            with torch.no_grad():
                embedder = _Embedder(embedder.bundle, _known(*paths, version), Path(matched))
        return embedder.embed(piece, Path(out))
    except (OSError, pa.ArrowException) as raised:
        if is_disk_full(raised):
            raise disk_full("Embedding new rows") from raised
        raise IsohopError(
            f"The rows of {piece['file']} cannot be embedded: {raised}. Mend this and run the same "
            "command again."
        ) from raised


@dataclass(frozen=True)
class _Encoded:
    """Some rows: the ``key`` of the ``good`` ones, and their ``features``, float32 (good, d_in);
    ``good``: bool (rows,), whether one can be used."""

    key: pa.Table
    features: np.ndarray
    good: np.ndarray

    @classmethod
    def together(cls, parts: Sequence[_Encoded]) -> _Encoded:
        features, good = (
            np.concatenate(every)
            for every in ([one.features for one in parts], [one.good for one in parts])
        )
        return cls(pa.concat_tables([one.key for one in parts]), features, good)


@dataclass(frozen=True)
class _Embedder:
    """``matched``: the folder of new rows' edges to what is ``known``, a file for each piece."""

    bundle: Bundle
    known: KnownGraph | None = None
    matched: Path | None = None

    def embed(self, piece: dict[str, Any], out: Path) -> dict[str, int]:
        """As of `embed_piece`."""
        bundle = self.bundle
        key = bundle.entity.key
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
        edges = None if self.matched is None else pq.read_table(self.matched / target.name)
        embedded = used = seen = 0
        bad: list[pa.Table] = []
        with pq.ParquetWriter(target, schema, use_dictionary=list(key)) as writer:
            encoded: Iterable[_Encoded] = self._encoded(piece, bad)
            if self.known is not None:  # messages pass over all of it for each of them
                encoded = [_Encoded.together(held)] if (held := list(encoded)) else []
            for one in encoded:
                mine = {} if edges is None else _edges_of(edges, seen, one.good)
                heard = () if self.known is None else {of.name for of in self.known.relations}
                mine = {name: ends for name, ends in mine.items() if name in heard}
                served = self._embedded(one, mine, schema)
                writer.write_table(served)
                embedded, seen = embedded + served.num_rows, seen + len(one.good)
                used += sum(len(rows) for _, rows in mine.values())
        if bad:
            (out / QUARANTINE).mkdir(exist_ok=True)
            pq.write_table(pa.concat_tables(bad), out / QUARANTINE / target.name)
        gone = sum(table.num_rows for table in bad)
        return {"embedded": embedded, "quarantined": gone, "edges": used}

    def _encoded(self, piece: dict[str, Any], bad: list[pa.Table]) -> Iterator[_Encoded]:
        """A batch at a time, so that texts of no more are held; what is quarantined goes to
        ``bad``."""
        from isohop.giant.inference import encode_rows

        about = self.bundle.entity
        for table in read_rows(piece, self.bundle.rows.names):
            rows, reasons = cast_columns(table.combine_chunks(), self.bundle.rows, about.key)
            good = reasons == ""
            if not good.all():
                bad.append(quarantined(table, reasons))
            rows = rows.filter(pa.array(good))
            features = encode_rows(self.bundle.encoder, about.name, rows, about.fields)
            yield _Encoded(rows.select(list(about.key)), features, good)

    def _embedded(
        self, rows: _Encoded, edges: Mapping[str, tuple[np.ndarray, np.ndarray]], schema: pa.Schema
    ) -> pa.Table:
        import torch

        from isohop.coldbrew.choosing import Served

        about = self.bundle.entity
        features, believed = torch.from_numpy(rows.features), torch.zeros(len(rows.features))
        degree = np.zeros(len(features), np.int64)
        with torch.no_grad():
            student = self.bundle.student
            guessed, nearness = student.vectors(features)
            if self.known is None:
                taught = student.without_edges(features)
            else:
                heard = {
                    relation: torch.from_numpy(np.stack(edges[relation.name]))
                    for relation in self.known.relations
                    if relation.name in edges
                }
                taught, believed = self.known.teach_new(about.name, features, heard)
                for _, row in heard.values():
                    degree += np.bincount(row.numpy(), minlength=len(degree))
            told = taught, guessed, student.content(features)
            served = Served.of(about.choice, *told, believed, nearness)
        own = {name: rows.key[name] for name in about.key}
        return pa.table(own | served.columns(degree), schema=schema)


def _edges_of(
    edges: pa.Table, start: int, good: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By relation, the known nodes and the rows of the edges of the rows from ``start`` on of a
    piece, which are of ``good`` ones alone; rows are counted among these."""
    place = np.cumsum(good) - 1
    row = edges["row"].to_numpy() - start
    within = (row >= 0) & (row < len(good))
    names = edges["relation"].to_numpy(zero_copy_only=False)
    found = {}
    for name in np.unique(names[within]):
        mine = within & (names == name)
        found[str(name)] = edges["node"].to_numpy()[mine], place[row[mine]]
    return found
