"""Infer: a first schema file from a database and the names of its entities.

    relational/inference.py    references, parts of one table, and what is adopted
    relational/keys.py         keys and surrogates
    hops/naming.py             names that tell everything apart
    hops/dependencies.py       what entities determine though no key says so
    hops/attribute_kinds.py    kinds, and attributes worth sharing

What is declared is taken as it is. Each finding carries its evidence as a comment of the file; what
was looked at and left out is in `Inferred.rejected`. A build never guesses: it uses what the file
says, so a person reads it first.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from isohop.engines.frames import read_parquet
from isohop.engines.object_store import is_url
from isohop.engines.progress import SILENT, Progress, Task
from isohop.engines.spark import Engine, spark_session
from isohop.errors import InvalidInput, IsohopError, Problem, did_you_mean
from isohop.graph.build import Planned, clean_tables
from isohop.hops.attribute_kinds import is_shared, kind_of, measure
from isohop.hops.dependencies import Dependency, find_dependencies
from isohop.hops.facts import Facts
from isohop.hops.naming import entity_name, with_names
from isohop.hops.plan import Plan, make_plan
from isohop.hops.schema_file import (
    AttributeSpec,
    Entity,
    SchemaFile,
    check_columns,
    check_names,
    left_out_references,
    name_problem,
)
from isohop.hops.schema_text import schema_text
from isohop.hops.universal_row import crowded, folded_cycles
from isohop.relational.database import Policies, Table
from isohop.relational.inference import (
    Physical,
    infer_physical,
    propose_entities,
    without_key,
)
from isohop.relational.integrity import read_landed
from isohop.relational.ledger import Ledger
from isohop.relational.parts import united
from isohop.relational.source import Source, SourceSpec, open_source
from isohop.relational.texts import TEXT_TYPES
from isohop.yaml_file import StrictModel, YamlFile, read_yaml

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


_SQLITE = "sqlite:///"
_OF_TYPES = "as all their values are; a row with another value is quarantined"


class TablesFile(StrictModel):
    """A schema file that may lack its logical side."""

    database: str | None = None
    source: SourceSpec
    policies: Policies = Policies()
    tables: Mapping[str, Table] = {}
    entities: Mapping[str, Entity] = {}
    attributes: Mapping[str, AttributeSpec] = {}


@dataclass(frozen=True)
class Rejected:
    """What was looked at and not written into the file."""

    what: str
    where: str
    why: str


@dataclass
class Inferred:
    """A schema file that builds, the evidence for each line, and what was left out.

    Without entities ``schema`` is None and ``proposed`` has (table, reason), best first.
    """

    schema: SchemaFile | None
    notes: dict[tuple[str, ...], str] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    proposed: list[tuple[str, str]] = field(default_factory=list)

    def text(self) -> str:
        """The schema file."""
        if self.schema is None:
            raise ValueError("there is no schema without entities")
        heading = (
            f"{self.schema.database}, as isohop infer found it. Read it, mend it, commit it: a "
            "build uses what\nstands here and checks that the data agree."
        )
        return schema_text(self.schema, self.notes, heading)

    def report(self) -> str:
        """What was left out, as Markdown."""
        lines = ["# Looked at and left out", "", "| what | where | why |", "|---|---|---|"]
        for one in sorted(self.rejected, key=lambda r: (r.what, r.where)):
            cells = (one.what, one.where, one.why)
            told = (" ".join(cell.replace("|", "¦").split()) for cell in cells)
            lines.append(f"| {' | '.join(told)} |")
        return "\n".join(lines) + "\n"


def infer(
    source: str,
    entities: Sequence[str] = (),
    engine: Engine = "sail",
    base: Path | None = None,
    progress: Progress = SILENT,
) -> Inferred:
    """Infer a schema file for ``source``: a folder, a database URL, or a schema file.

    ``entities``: names of tables, or of a column that identifies an entity without one. ``base``:
    the folder that the schema file will lie in, which relative paths start from.
    """
    with spark_session(engine) as session:
        return infer_in(session, source, entities, base, progress)


def infer_in(
    session: SparkSession,
    source: str,
    entities: Sequence[str] = (),
    base: Path | None = None,
    progress: Progress = SILENT,
) -> Inferred:
    """As `infer`, in a session that is there already."""
    file, opened, left_out = _open(source, base or Path.cwd())
    with (
        tempfile.TemporaryDirectory(prefix="isohop-infer-") as folder,
        progress.task("infer", 3) as bar,
    ):
        return _Inference(file, opened, session, Path(folder), bar, left_out).run(entities)


def _open(source: str, base: Path) -> tuple[YamlFile[SchemaFile], Source, list[Rejected]]:
    """The declared side of a database as a schema file without entities, its source, and what it
    declares that the file cannot say."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        read = read_yaml(path, TablesFile, "schema file")
        read.raise_problems()
        held = read.model
        if held is None:
            raise IsohopError(f"{path} could not be read.")
        here = path.parent
        spec, lines = held.source, read.lines
        name, tables = held.database or path.stem, held.tables
    else:
        held, here, lines, tables = None, Path.cwd(), {}, {}
        is_database = re.match(r"^(env:|(?!s3:)[a-z][a-z0-9+]*://)", source) is not None
        spec = SourceSpec(url=source) if is_database else _file_or_folder(source)
        name = _named_in(source) if is_database else path.resolve().name or "database"
        name = path.stem if path.is_file() else name
        source = f"database {name}" if is_database else source
        path = Path(name) if is_database else path
    opened = united(open_source(spec, here), tables)
    known = opened.tables()
    schema = SchemaFile.model_construct(
        database=name,
        source=_moved(spec, here, base),
        policies=held.policies if held else Policies(),
        tables=tables or {table: Table() for table in known},
        entities=held.entities if held else {},
        attributes=held.attributes if held else {},
    )
    file = YamlFile(path, source, schema, lines)
    check_names(file, schema)
    file.raise_problems()
    declared = check_columns(file, known)
    file.raise_problems()
    left_out = [
        Rejected("declared reference", where, why)
        for where, why in left_out_references(file, declared, known)
    ]
    return YamlFile(path, source, declared, lines), opened, left_out


def _already(plan: Plan, found: Dependency) -> str | None:
    """Why an entity cannot have what it was found to determine: its own is called so."""
    owner = plan.roots[found.root].homes.named(found.owner)[0]
    node, name = plan.nodes[owner.entity], found.name.removeprefix(owner.prefix)
    taken = {one.lower() for one in (*node.key, *node.attributes)}
    if name.lower() not in taken:
        return None
    return (
        f"{found.why}; but '{node.name}' has a '{name}' of its own. Where both are the same, say "
        "so under 'determines'"
    )


def _named_in(url: str) -> str:
    """What a URL calls its database: all else of it may be a password."""
    from isohop.relational.databases import database_of  # SQLAlchemy and ADBC take a moment

    return Path(database_of(url) or "database").stem


def _file_or_folder(source: str) -> SourceSpec:
    if Path(source).is_file():
        return SourceSpec(url=f"{_SQLITE}{Path(source).resolve()}")
    return SourceSpec(path=source)


def _moved(spec: SourceSpec, here: Path, base: Path) -> SourceSpec:
    """The same place, as seen from another folder."""
    if spec.package is not None:
        return spec
    if spec.path is not None:
        return spec.model_copy(update={"path": _moved_path(spec.path, here, base)})
    if spec.url is not None and spec.url.startswith(_SQLITE):
        file, mark, options = spec.url.removeprefix(_SQLITE).partition("?")
        url = f"{_SQLITE}{_moved_path(file, here, base)}{mark}{options}"
        return spec.model_copy(update={"url": url})
    return spec


def _moved_path(path: str, here: Path, base: Path) -> str:
    if not path or is_url(path) or Path(path).is_absolute():
        return path
    return os.path.relpath(here / path, base)


def _with_key(tables: Mapping[str, Table], name: str) -> str:
    """How a file that infer goes on from says the key of a table that has none."""
    said = []
    for other, table in tables.items():
        key = ("key: COLUMN",) if other == name else ()
        parts = (f"parts: [{', '.join(table.parts)}]",) if table.parts else ()
        said.append(f"{other}: {{{', '.join(key + parts)}}}")
    return f"tables: {{{', '.join(said)}}}"


class _Inference:
    """The steps, each of which leaves a schema that can be planned."""

    def __init__(
        self,
        file: YamlFile[SchemaFile],
        source: Source,
        session: SparkSession,
        folder: Path,
        bar: Task,
        left_out: list[Rejected],
    ):
        if file.model is None:
            raise ValueError("a file without a model cannot be inferred from")
        self.file, self.source, self.declared = file, source, file.model
        self.session, self.folder, self.bar = session, folder, bar
        self.found = Inferred(None, rejected=left_out)

    def run(self, entities: Sequence[str]) -> Inferred:
        self.bar.note("keys and references")
        physical = self._physical(entities)
        self.bar.advance()
        if not entities and not self.declared.entities:
            self.found.proposed = propose_entities(physical)
            return self.found
        schema = self._with_entities(physical, entities)
        # The file's own parts are united already.
        found = {name: Table(parts=parts) for name, parts in physical.parts.items()}
        source = united(self.source, found)
        known = source.tables()
        columns = {name: known[name].column_names for name in schema.tables}
        schema = with_names(self._without_cycles(schema), columns)
        self.bar.note("dependencies")
        facts = self._facts(schema, columns, source, "before")
        schema = with_names(self._with_dependencies(facts, schema), columns)
        self.bar.advance()
        self.bar.note("kinds and shared attributes")
        facts = self._facts(schema, columns, source, "after")
        schema = self._with_kinds(facts, schema)
        self.bar.advance()
        make_plan(schema, columns, self.file.title)
        self.found.schema = schema
        return self.found

    def _physical(self, entities: Sequence[str]) -> Physical:
        clean = {}
        for name in self.declared.tables:
            landed = self.source.land(
                name, self.folder / "landed" / name, types=self.declared.tables[name].types
            )
            clean[name] = read_landed(self.session, landed)
            if landed.rejected:
                why = f"{landed.rejected} of {landed.rows_read} rows cannot be read: "
                why += "; ".join(landed.first_reasons())
                self.found.rejected.append(Rejected("unreadable rows", name, why))
        wanted = {name.lower() for name in entities}
        declared = dict(self.declared.tables)
        physical = infer_physical(clean, declared, wanted, self.source.takes_types)
        for evidence in physical.evidence:
            if evidence.adopted:
                self.found.notes[evidence.place] = evidence.why
            else:
                self.found.rejected.append(Rejected(evidence.what, evidence.where, evidence.why))
        return physical

    def _with_entities(self, physical: Physical, names: Sequence[str]) -> SchemaFile:
        tables = {
            name: table.model_copy(
                update={"parts": self._parts(physical, name), "types": self._types(physical, name)}
            )
            for name, table in physical.tables.items()
        }
        entities = dict(self.declared.entities)
        by_lower = {name.lower(): name for name in tables}
        columns = {c for profile in physical.profiles.values() for c in profile.columns}
        problems = []
        for name in names:
            table = by_lower.get(name.lower())
            if table is not None and tables[table].key:
                entities[entity_name(name)] = Entity(table=table)
            elif table is not None:
                what = without_key(physical, table)
                hint = "Mend that, or say the key in a schema file, and give that to infer: "
                hint += f"'source' and '{_with_key(tables, table)}'."
                problems.append(Problem(f"entity '{name}'", what, hint))
            elif name in columns:
                entities[entity_name(name)] = Entity(key=(name,))
            else:
                hint = did_you_mean(name, [*tables, *columns])
                problems.append(
                    Problem(f"entity '{name}'", "no table or column is so named.", hint)
                )
        if problems:
            raise InvalidInput(self.file.title, problems)
        for entity in entities.values():
            if entity.table in tables and entity.key is None:
                # An entity's key is a fact, whatever it looks like.
                home = tables[entity.table]
                tables[entity.table] = home.model_copy(update={"surrogate": False})
                self.found.notes.pop(("tables", entity.table, "surrogate"), None)
        return SchemaFile(
            database=self.declared.database,
            source=self.declared.source,
            policies=self.declared.policies,
            tables=tables,
            entities=entities,
            attributes=self.declared.attributes,
        )

    def _without_cycles(self, schema: SchemaFile) -> SchemaFile:
        """Tables that refer to each other in a cycle have no universal rows, and those that lead to
        hundreds of places too large ones: a table among them has to be an entity."""
        while cycles := folded_cycles(schema):
            inside = sorted(set(cycles[0]))
            referred = {
                name: sum(
                    r.table == name for t in schema.tables.values() for r in t.references or ()
                )
                for name in inside
            }
            name = max(inside, key=lambda table: (referred[table], table))
            why = f"rows refer in a cycle: {' → '.join(cycles[0])}"
            schema = self._with_entity(schema, name, why)
        while found := crowded(schema):
            table, places, name = found
            why = f"a row of {table} led to {places:,} places"
            schema = self._with_entity(schema, name, why)
        return schema

    def _with_entity(self, schema: SchemaFile, name: str, why: str) -> SchemaFile:
        table = schema.tables[name].model_copy(update={"surrogate": False})
        self.found.notes["entities", name] = f"added, because {why}"
        self.found.notes.pop(("tables", name, "surrogate"), None)
        return schema.model_copy(
            update={
                "tables": {**schema.tables, name: table},
                "entities": {**schema.entities, name: Entity(table=name)},
            }
        )

    def _facts(
        self, schema: SchemaFile, columns: dict[str, tuple[str, ...]], source: Source, name: str
    ) -> Facts:
        """The universal rows by the schema as it is so far."""
        plan = make_plan(schema, columns, self.file.title)
        file = YamlFile(self.file.path, self.file.title, schema, self.file.lines)
        stage, quarantine = self.folder / name, self.folder / name / "quarantine"
        ledger = Ledger()
        planned = Planned(file, schema, source, plan)
        _, clean = clean_tables(planned, self.session, stage, quarantine, ledger)
        facts = Facts(self.session, plan, clean, stage, quarantine, ledger)
        for root in plan.roots.values():
            facts.make(root)
        return facts

    def _parts(self, physical: Physical, name: str) -> tuple[str, ...]:
        """Of a table, by the names that the source has for them."""
        declared = self.declared.tables
        found = [declared[part].parts or (part,) for part in physical.parts.get(name, (name,))]
        parts = tuple(part for several in found for part in several)
        return () if parts == (name,) else parts

    def _types(self, physical: Physical, name: str) -> Mapping[str, str]:
        """Those that are stated, and those that were recognised where the source has none: a build
        goes by them, whatever one cell of a later day holds. What is not said is text."""
        stated = physical.tables[name].types
        if not self.source.takes_types:
            return stated
        recognised = {type_: told for told, type_ in TEXT_TYPES.items() if told != "string"}
        parts = physical.parts.get(name, (name,))
        found: dict[str, str] = {}
        for column in self.source.tables()[parts[0]].columns:
            held = physical.profiles[name].columns[column.name]
            if column.name in stated:
                found[column.name] = stated[column.name]
            elif column.type is None and held.given and held.type in recognised:
                found[column.name] = recognised[held.type]
        declared = {c for part in parts for c in self.declared.tables.get(part, Table()).types}
        new = [column for column in found if column not in declared]
        if new:
            of = f"{', '.join(new)}: " if len(new) < len(found) else ""
            self.found.notes["tables", name, "types"] = f"{of}{_OF_TYPES}"
        return found

    def _with_dependencies(self, facts: Facts, schema: SchemaFile) -> SchemaFile:
        tables = dict(schema.tables)
        for found in find_dependencies(facts):
            where = f"{found.root}: {found.owner} → {found.name}"
            why = found.why if not found.adopted else _already(facts.plan, found)
            if why is not None:
                self.found.rejected.append(Rejected("dependency", where, why))
                continue
            determines = dict(tables[found.root].determines)
            determines[found.owner] = (*determines.get(found.owner, ()), found.name)
            tables[found.root] = tables[found.root].model_copy(update={"determines": determines})
            place = ("tables", found.root, "determines", found.owner)
            told = f"{found.name}: {found.why}"
            self.found.notes[place] = "; ".join(
                [*filter(None, [self.found.notes.get(place)]), told]
            )
        return schema.model_copy(update={"tables": tables})

    def _with_kinds(self, facts: Facts, schema: SchemaFile) -> SchemaFile:
        from isohop.hops.construct import construct

        out = self.folder / "graph"
        nodes, _ = construct(facts, out)
        attributes = dict(schema.attributes)
        for node in facts.plan.nodes.values():
            names = [name for name, _, how in nodes[node.name].attributes if how is None]
            if node.shared or not names:
                continue
            frame = read_parquet(self.session, out / "nodes" / node.name)
            frame = frame.toDF(*(f"c{index}" for index in range(len(frame.columns))))
            at = {
                name: f"c{index}"
                for index, name in enumerate(
                    ["node_id", *node.key, *(n for n, *_ in nodes[node.name].attributes)]
                )
            }
            types = dict(frame.dtypes)
            for name in names:
                spec = self._describe(f"{node.name}.{name}", frame, at[name], types[at[name]])
                if spec is not None:
                    attributes.setdefault(f"{node.name}.{name}", spec)
        for event in facts.plan.events:
            if event.root in facts.empty:
                continue
            frame = facts.frames[event.root]
            types = dict(frame.dtypes)
            for name, value in event.attributes.items():
                column = f"v{value}"
                alone = len(event.participants) == 1
                spec = self._describe(f"{event.name}.{name}", frame, column, types[column], alone)
                if spec is not None:
                    attributes.setdefault(f"{event.name}.{name}", spec)
        return schema.model_copy(update={"attributes": attributes})

    def _describe(
        self, name: str, frame: object, column: str, type_name: str, shareable: bool = True
    ) -> AttributeSpec | None:
        values = measure(frame, column, type_name)  # type: ignore[arg-type]
        kind, why = kind_of(values, type_name)
        shared, because = is_shared(values, kind)
        if because and not shared:
            self.found.rejected.append(Rejected("shared attribute", name, f"{why}; {because}"))
        if kind is None:
            return None
        shared = shared and shareable and name_problem(name, name) is None
        self.found.notes["attributes", name] = f"{why}; {because}" if shared else why
        return AttributeSpec(kind=kind, share=shared)
