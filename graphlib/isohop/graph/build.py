"""Build: schema file in, graph dataset out, through the engine, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from isohop.engines.frames import read_parquet
from isohop.engines.object_store import is_url
from isohop.engines.progress import SILENT, Progress
from isohop.engines.spark import Engine, spark_session
from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.errors import InvalidInput, IsohopError
from isohop.graph.dataset import Attribute, EdgeType, Graph, GraphManifest, NodeType
from isohop.hops import certificate
from isohop.hops.explain import explain
from isohop.hops.plan import Plan, make_plan
from isohop.hops.schema_file import (
    SchemaFile,
    check_columns,
    check_times,
    check_types,
    left_out_references,
    no_times,
    read_schema_file,
)
from isohop.hops.universal_row import needed_columns
from isohop.relational.as_of import Known
from isohop.relational.integrity import CleanTable, Integrity
from isohop.relational.ledger import Finding, Ledger
from isohop.relational.parts import united
from isohop.relational.source import LandedTable, Source, open_source
from isohop.yaml_file import YamlFile

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from isohop.hops.nodes import Built

EMPTY = "without a row that can be used"
"""What is found of an entity."""
NO_EDGE = (
    "no entity has an edge: each is known by its own attributes alone. If tables refer to each "
    "other, say so under 'references'; 'share: true' makes an attribute's values nodes."
)


@dataclass(frozen=True)
class Planned:
    """A schema file that was read, checked against its source, and planned: no engine yet.
    ``as_of``: where only rows that were known before then are to be seen. ``before``: an earlier
    graph, whose nodes keep their ids."""

    file: YamlFile[SchemaFile]
    schema: SchemaFile
    source: Source
    plan: Plan
    as_of: datetime | None = None
    before: Graph | None = None

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is among the tables, where these are in a folder of this machine: what
        is written there would be read as a table."""
        spec = self.schema.source
        if spec.path is None or spec.package is not None or is_url(spec.path):
            return False
        return path.resolve().is_relative_to((self.file.path.parent / spec.path).resolve())


def plan_schema(path: str | Path) -> Planned:
    """Read and check a schema file and plan its graph.

    Raises `InvalidInput` with every mistake in the file and every disagreement with the source.
    """
    file = read_schema_file(path)
    if file.model is None:
        file.raise_problems()
        raise IsohopError(f"{path} could not be read.")
    try:
        source = united(open_source(file.model.source, file.path.parent), file.model.tables)
        tables = source.tables()
    except InvalidInput as error:
        file.problems.extend(error.problems)
        file.raise_problems()
        raise
    except IsohopError:
        file.raise_problems()  # which no database that answers would mend
        raise
    schema = check_columns(file, tables)
    file.raise_problems()
    columns = {name: tuple(c.name for c in tables[name].columns) for name in schema.tables}
    plan = make_plan(schema, columns, f"schema file {path}")
    left_out = left_out_references(file, schema, tables)
    plan.warnings.extend(f"{where}, {why}" for where, why in left_out)
    return Planned(file, schema, source, plan)


def build(
    schema_file: str | Path,
    out: str | Path,
    engine: Engine = "sail",
    progress: Progress = SILENT,
    as_of: datetime | None = None,
    before: Graph | None = None,
) -> Graph:
    """Build the graph dataset ``out`` from ``schema_file``; see `isohop.graph.dataset`. ``as_of``:
    from rows that were known before then (`isohop.relational.as_of`), in UTC. ``before``: an
    earlier graph, whose nodes keep their ids (`isohop.hops.numbering`)."""
    planned = replace(plan_schema(schema_file), as_of=as_of, before=before)
    with spark_session(engine) as session:
        return construct_graph(planned, out, session, progress)


def construct_graph(
    planned: Planned, out: str | Path, session: SparkSession, progress: Progress = SILENT
) -> Graph:
    """As `build`, in a session that is there already."""
    out = Path(out)
    if planned.holds(out):
        raise IsohopError(
            f"{out} lies in the folder of the tables, where it would be read as one. Choose "
            "another folder."
        )
    with folder_atomically(out, "graph.json") as folder:
        _construct(planned, folder, session, progress)
    return Graph.open(out)


def check(
    schema_file: str | Path,
    engine: Engine = "sail",
    progress: Progress = SILENT,
    as_of: datetime | None = None,
) -> tuple[Plan, Ledger]:
    """The plan and the integrity ledger of a database, with nothing left behind."""
    planned = replace(plan_schema(schema_file), as_of=as_of)
    with (
        spark_session(engine) as session,
        tempfile.TemporaryDirectory(prefix="isohop-check-") as folder,
    ):
        ledger = _construct(planned, Path(folder), session, progress)
    return planned.plan, ledger


def clean_tables(
    planned: Planned,
    session: SparkSession,
    stage: Path,
    quarantine: Path,
    ledger: Ledger,
    progress: Progress = SILENT,
    whole: bool = False,
) -> tuple[dict[str, LandedTable], Mapping[str, CleanTable]]:
    """Every table as it was read, and the rows of it that can be used.

    ``whole``: with the columns, too, that no graph needs.
    """
    schema = planned.schema
    landed = _land(planned, stage / "landed", quarantine, progress, whole)
    if planned.as_of is not None:
        check_times(planned.file, schema, _told(landed))
    else:
        ledger.notes += [
            f"{what} With --as-of it is a mistake."
            for what in no_times(schema, _told(landed)).values()
        ]
    integrity = Integrity(
        session,
        schema.tables,
        schema.policies,
        landed,
        stage / "clean",
        quarantine,
        ledger,
        planned.as_of,
    )
    with progress.task("integrity", 2 * len(schema.tables) + 1) as bar:
        for name in schema.tables:
            bar.note(name)
            integrity.check(name)
            bar.advance()
        check_types(planned.file, schema, _told(integrity.clean))
        bar.note("rows to set aside")
        integrity.take_out_orphans()
        bar.advance()
        for name in schema.tables:
            bar.note(name)
            integrity.check_references(name)
            bar.advance()
    return landed, integrity.clean


def _told(
    tables: Mapping[str, LandedTable] | Mapping[str, CleanTable],
) -> dict[str, dict[str, pa.DataType]]:
    """The types of columns by table, but of those without a value, whose type says nothing."""
    return {
        name: {c: type_ for c, type_ in table.types.items() if c not in table.all_null}
        for name, table in tables.items()
    }


def _construct(planned: Planned, folder: Path, session: SparkSession, progress: Progress) -> Ledger:
    from isohop.hops.construct import construct
    from isohop.hops.facts import Facts

    ledger, stage, quarantine = Ledger(), folder / ".stage", folder / "quarantine"
    landed, clean = clean_tables(planned, session, stage, quarantine, ledger, progress)
    facts = Facts(session, planned.plan, clean, stage, quarantine, ledger)
    nodes, edges = construct(facts, folder, progress, _known_nodes(planned.before, session))
    ledger.close()
    _tell_of_entities(planned, nodes, edges, ledger)
    _write_manifest(planned, nodes, edges, landed, folder)
    write_text_atomically(folder / "ledger.json", ledger.model_dump_json(indent=1))
    shutil.rmtree(stage)
    _drop_engine_files(folder)
    if not ledger.closes:
        wrong = ", ".join(table.table for table in ledger.tables if not table.closes)
        raise IsohopError(
            f"The ledger does not close for {wrong}: rows in are not rows used, quarantined and "
            "unused. This is a fault of Isohop; please report it with the schema file."
        )
    return ledger


def _tell_of_entities(
    planned: Planned, nodes: Mapping[str, Built], edges: Mapping[str, Built], ledger: Ledger
) -> None:
    entities = planned.schema.entities
    for name in entities:
        if not nodes[name].count:
            ledger.findings.append(Finding(kind=EMPTY, where=f"entity '{name}'", count=0))
    if not any(
        edge.count and {edge.triple[0], edge.triple[2]} & set(entities) for edge in edges.values()
    ):
        planned.plan.warnings.append(NO_EDGE)


def _known_nodes(before: Graph | None, session: SparkSession) -> dict[str, DataFrame]:
    if before is None:
        return {}
    folders = {node.name: before.path / "nodes" / node.name for node in before.node_types}
    return {n: read_parquet(session, folder) for n, folder in folders.items()}


def _land(
    planned: Planned, folder: Path, quarantine: Path, progress: Progress, whole: bool
) -> dict[str, LandedTable]:
    landed: dict[str, LandedTable] = {}
    with progress.task("read tables", len(planned.schema.tables)) as bar:
        for name, table in planned.schema.tables.items():
            bar.note(name)
            columns = planned.plan.columns[name]
            if not whole:
                columns = needed_columns(planned.schema, name, columns)
            types = {column: stated for column, stated in table.types.items() if column in columns}
            known = None
            if planned.as_of is not None and table.time is not None:
                known = Known(table.time, planned.as_of)
            landed[name] = planned.source.land(name, folder / name, columns, types, known)
            unreadable = landed[name].quarantine
            if unreadable is not None:
                (quarantine / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(unreadable, quarantine / name / "unreadable.parquet")
            bar.advance()
    return landed


def _write_manifest(
    planned: Planned,
    built_nodes: Mapping[str, Built],
    built_edges: Mapping[str, Built],
    landed: Mapping[str, LandedTable],
    folder: Path,
) -> None:
    plan = planned.plan
    nodes = tuple(
        NodeType(
            name=node.name,
            key=node.key,
            identifiers=tuple(
                key
                for place, key in enumerate(node.key)
                if plan.spec(node.name, key).kind == "identifier" or plan.refers(node.name, place)
            ),
            attributes=_attributes(folder / "nodes" / node.name, built_nodes[node.name]),
            count=built_nodes[node.name].count,
            shared=node.shared,
            time=built_nodes[node.name].time,
        )
        for node in plan.nodes.values()
    )
    edges = tuple(
        EdgeType(
            source=edge.triple[0],
            role=edge.triple[1],
            target=edge.triple[2],
            attributes=_attributes(folder / "edges" / name, edge),
            count=edge.count,
            functional=edge.functional,
            time=edge.time,
        )
        for name, edge in built_edges.items()
    )
    parts = {f"nodes/{n}": built.digest for n, built in built_nodes.items() if built.count}
    parts |= {f"edges/{n}": built.digest for n, built in built_edges.items() if built.count}
    manifest = GraphManifest(
        name=plan.schema.database,
        certificate=certificate.combine(parts.values()),
        certificate_parts=parts,
        numbering=certificate.combine(f"{n} {built.numbering}" for n, built in built_nodes.items()),
        node_types=nodes,
        edge_types=edges,
        inputs={name: table.fingerprint for name, table in landed.items()},
        plan=explain(plan).as_json(),
    )
    write_text_atomically(folder / "graph.json", manifest.model_dump_json(indent=1))


def _attributes(folder: Path, built: Built) -> tuple[Attribute, ...]:
    files = sorted(folder.glob("*.parquet"))
    schema = pq.read_schema(files[0]) if files else pa.schema([])
    return tuple(
        Attribute(
            name=name,
            kind=kind,
            type=_type_name(schema.field(name).type) if name in schema.names else "",
            aggregate=how,
        )
        for name, kind, how in built.attributes
    )


def _type_name(type_: pa.DataType) -> str:
    """Engines name a list's items differently; the type is the same."""
    return f"list<{type_.value_type}>" if pa.types.is_list(type_) else str(type_)


def _drop_engine_files(folder: Path) -> None:
    """Remove what engines leave beside the data: checksums and success markers."""
    leftovers: Iterable[Path] = [*folder.rglob("*.crc"), *folder.rglob("_SUCCESS")]
    for file in leftovers:
        file.unlink()
