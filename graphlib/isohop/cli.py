"""The command line: `isohop`. Thin: each command reads its arguments, calls one function, prints.

A mistake of the user's ends with exit code 2 (mistakes, which are listed) or 1 (the work failed), a
message, and never a traceback.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

import isohop
from isohop.engines.storage import disk_full, is_disk_full
from isohop.errors import InvalidInput, IsohopError
from isohop.terminal import (
    TerminalProgress,
    err,
    out,
    print_audit,
    print_comparison,
    print_differences,
    print_drift,
    print_ledger,
    print_runs,
    print_summary,
    print_warnings,
)

if TYPE_CHECKING:
    from isohop.coldbrew.new_rows import NewRows
    from isohop.pipeline.runs import Run

app = typer.Typer(
    name="isohop",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Entity embeddings from relational tables, independent of how the tables are laid out.",
)


def _path(parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Raises `IsohopError` for a URL, where none can be."""
    return None if path is None else _here(parameter.metavar or parameter.opts[0], str(path))


def _here(what: str, path: str) -> Path:
    """Raises `IsohopError` for a URL, where none can be."""
    from isohop.engines.object_store import is_url

    if is_url(path):
        raise IsohopError(f"{what} is on this machine, and {path} is not: name a path.")
    return Path(path)


SchemaPath = Annotated[
    Path, typer.Argument(metavar="SCHEMA.yaml", callback=_path, help="The schema file.")
]
PipelinePath = Annotated[
    Path, typer.Argument(metavar="PIPELINE.yaml", callback=_path, help="The pipeline file.")
]
RunId = Annotated[
    str, typer.Option("--run", help="Name of the run: a folder under the pipeline's 'runs'.")
]


Instead = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="In place of what the pipeline file says: engine=spark, label=null for none.",
    ),
]


AsOf = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="From rows alone that were known before then, by each table's 'time'."
    ),
]


class Engine(StrEnum):
    """As in isohop.engines.spark, for Typer."""

    sail = "sail"
    spark = "spark"


EngineName = Annotated[
    Engine, typer.Option("--engine", help="'sail' (in this process, no Java) or 'spark'.")
]


@app.command(epilog="Example: `isohop check schemas/nycflights13.yaml`")
def check(
    schema: SchemaPath,
    engine: EngineName = Engine.sail,
    as_of: AsOf = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
) -> None:
    """Check a schema file against its data and print the integrity ledger.

    Exit code 1 where an entity is left without a row that can be used.
    """
    from isohop.graph.build import EMPTY
    from isohop.graph.build import check as check_schema

    plan, ledger = check_schema(schema, engine.value, TerminalProgress(), _moment(as_of))
    if as_json:
        print(ledger.model_dump_json(indent=1))
    else:
        print_ledger(plan, ledger)
    empty = [finding.where for finding in ledger.findings if finding.kind == EMPTY]
    if empty:
        raise IsohopError(f"{', '.join(empty)}: {EMPTY}, so there is nothing to learn of.")


@app.command(epilog="Example: `isohop build schemas/nycflights13.yaml --out graph`")
def build(
    schema: SchemaPath,
    to: Annotated[Path, typer.Option("--out", callback=_path, help="Folder of the graph dataset.")],
    engine: EngineName = Engine.sail,
    as_of: AsOf = None,
) -> None:
    """Build the graph dataset, in hop normal form."""
    from isohop.graph.build import build as build_graph

    clock = time.monotonic()
    graph = build_graph(schema, to, engine.value, TerminalProgress(), _moment(as_of))
    table = Table(title=escape(f"{graph.manifest.name} → {to}"), title_justify="left")
    for column in ("type", "what", "count"):
        right = column == "count"
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for node in graph.node_types:
        table.add_row("value" if node.shared else "entity", escape(node.name), f"{node.count:,}")
    for edge in graph.edge_types:
        table.add_row("edge", escape(edge.name), f"{edge.count:,}")
    out.print(table)
    print_warnings(graph.manifest.plan["warnings"])
    out.print(f"certificate {graph.manifest.certificate}   {time.monotonic() - clock:.1f} s")


@app.command(epilog="Example: `isohop infer data/shop --entities customer,product -o shop.yaml`")
def infer(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of tables, a database URL, or a schema file that has tables only.",
        ),
    ],
    entities: Annotated[
        str,
        typer.Option(help="What gets a node: tables, or columns that identify something."),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=_path,
            help="The schema file to write; what was left out goes to NAME.left-out.md.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write it though there is a file of that name.")
    ] = False,
    engine: EngineName = Engine.sail,
) -> None:
    """Find keys, references, dependencies and kinds, and write a first schema file.

    Without --entities it proposes some, with reasons, and stops.
    """
    from isohop.engines.storage import write_text_atomically
    from isohop.graph.infer import infer as infer_schema

    if to is not None and to.exists() and not force:
        raise IsohopError(
            f"{to} is there already, perhaps mended by hand. Choose another name, or say --force."
        )
    names = [name.strip() for name in entities.split(",") if name.strip()]
    base = to.parent if to is not None else None
    found = infer_schema(source, names, engine.value, base, TerminalProgress())
    if found.schema is None and not found.proposed:
        out.print(
            "No table looks like an entity: one with a key and two columns of its own. If one is, "
            "name it: --entities TABLE"
        )
        return
    if found.schema is None:
        table = Table(title="Entities that might be meant", title_justify="left")
        for column in ("table", "because"):
            table.add_column(column, overflow="fold")
        for name, reason in found.proposed:
            table.add_row(escape(name), escape(reason))
        out.print(table)
        chosen = ",".join(name for name, _ in found.proposed[:3])
        out.print(f"Choose, and run again with: --entities {escape(chosen)}")
        return
    if to is None:
        print(found.text(), end="")
        return
    write_text_atomically(to, found.text())
    report = to.with_name(f"{to.stem}.left-out.md")
    write_text_atomically(report, found.report())
    written = f"{len(found.schema.tables)} tables, {len(found.schema.entities)} entities"
    out.print(f"{escape(str(to))}: {written}")
    left_out = f"{len(found.rejected)} findings that were left out, and why"
    out.print(f"{escape(str(report))}: {left_out}")
    out.print(f"Read it, then: isohop check {escape(str(to))}", style="dim")


@app.command(epilog="Example: `isohop audit schemas/sakila.yaml --rewrites 20 --seed 7`")
def audit(
    schema: SchemaPath,
    rewrites: Annotated[int, typer.Option(min=1, help="Rewritten databases to try.")] = 20,
    seed: Annotated[int, typer.Option(help="Draws the rewrites.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Most rewrites of one database.")] = 5,
    mapping: Annotated[
        bool,
        typer.Option(
            "--mapping/--no-mapping",
            help="Rewrite the schema file along, or infer it anew from keys and entity names.",
        ),
    ] = True,
    keep: Annotated[
        Path | None,
        typer.Option(callback=_path, help="A folder where the rewritten databases stay."),
    ] = None,
    engine: EngineName = Engine.sail,
) -> None:
    """Rewrite the database at random without losing a fact, and see whether its graph changes.

    Exit code 1, with the smallest rewrite that does it, when it does.
    """
    from isohop.graph.audit import audit as audit_schema

    bars = TerminalProgress()
    found = audit_schema(schema, rewrites, seed, steps, mapping, keep, engine.value, bars)
    print_audit(found)
    if found.failure is not None:
        raise typer.Exit(1)


@app.command(epilog="Example: `isohop explain schemas/nycflights13.yaml --mermaid > plan.mmd`")
def explain(
    schema: SchemaPath,
    mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print the diagram alone, as Mermaid source.")
    ] = False,
) -> None:
    """Tell what each table and column becomes and why, and the hop distances before and after."""
    from isohop.graph.build import plan_schema
    from isohop.hops.explain import explain as explain_plan

    told = explain_plan(plan_schema(schema).plan)
    if mermaid:
        print(told.mermaid, end="")
        return
    table = Table(title=escape(f"{told.database}: what becomes what"), title_justify="left")
    for column in ("table", "column", "becomes", "because"):
        table.add_column(column, overflow="fold")
    for fate in told.fates:
        first = not fate.column
        style = "bold" if first else None
        name = fate.table if first else ""
        cells = (name, fate.column, fate.became, fate.why)
        table.add_row(*(escape(cell) for cell in cells), style=style)
    out.print(table)
    hops = Table(title="Hops between nodes", title_justify="left")
    for column in ("from", "to", "by", "one node a row", "hop normal form"):
        hops.add_column(column, overflow="fold")
    for distance in told.distances:
        before = "none" if distance.before is None else str(distance.before)
        told_as = (distance.source, distance.target, distance.by, before, str(distance.after))
        hops.add_row(*(escape(cell) for cell in told_as))
    out.print(hops)
    print_warnings(told.warnings)
    out.print("The diagram: add --mermaid.", style="dim")


@app.command(epilog="Example: `isohop certificate graph`")
def certificate(
    graph: Annotated[Path, typer.Argument(metavar="DIR", callback=_path, help="A graph dataset.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print its parts as well.")] = False,
) -> None:
    """Print the certificate of a graph: equal for equal graphs, whatever tables they came from."""
    from isohop.graph import Graph

    manifest = Graph.open(graph).manifest
    if as_json:
        parts = {"certificate": manifest.certificate, "parts": dict(manifest.certificate_parts)}
        print(json.dumps(parts, indent=1, ensure_ascii=False))
        return
    print(manifest.certificate)


@app.command(epilog="Example: `isohop run examples/nycflights13.yaml`")
def run(
    pipeline: PipelinePath,
    run_id: RunId = "current",
    as_of: AsOf = None,
    instead: Instead = None,
) -> None:
    """Run a whole pipeline: tables in, published embeddings and a report out.

    What is done already, and has not changed since, is not done again.
    """
    from isohop.pipeline.pipeline_file import read_pipeline
    from isohop.pipeline.running import open_run, run_all

    read = read_pipeline(pipeline, _said(as_of, instead))
    folder = open_run(read, run_id)
    print_warnings(read.planned.plan.warnings)
    print_summary(run_all(read, folder, TerminalProgress()), folder)


@app.command(epilog="Example: `isohop stage features examples/nycflights13.yaml`")
def stage(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="build, features, distill, …")],
    pipeline: PipelinePath,
    run_id: RunId = "current",
    as_of: AsOf = None,
    instead: Instead = None,
    record_to: Annotated[
        Path | None,
        typer.Option(
            "--record", metavar="FILE", callback=_path, help="Write its record there, as JSON."
        ),
    ] = None,
) -> None:
    """Run one stage of a pipeline, if it is not done."""
    from isohop.engines.storage import write_text_atomically
    from isohop.pipeline.pipeline_file import read_pipeline
    from isohop.pipeline.running import open_run, run_stage

    read = read_pipeline(pipeline, _said(as_of, instead))
    folder = open_run(read, run_id)
    record, now = run_stage(read, folder, name, TerminalProgress())
    if record_to is not None:
        write_text_atomically(record_to, record.model_dump_json(exclude={"depends"}) + "\n")
    print_summary([(record, now)], folder)


def _stage_command(name: str, summary: str) -> None:
    def command(pipeline: PipelinePath, run_id: RunId = "current") -> None:
        stage(name, pipeline, run_id)

    command.__doc__ = summary
    app.command(name, epilog=f"Example: `isohop {name} examples/nycflights13.yaml`")(command)


_stage_command("features", "Learn node features from text and neighbourhood (GIANT), on Ray.")
_stage_command("distill", "Train the GNN teacher and its MLP student (Cold Brew), on Ray.")
_stage_command("publish", "Publish a run's embeddings: whole, or not at all.")
_stage_command("report", "Write the HTML report of a run.")


@app.command(epilog="Example: `isohop embed examples/nycflights13.yaml`")
def embed(
    where: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE.yaml|STUDENT",
            help="The pipeline file; for new rows a run's folder 'student' does too, or its URL.",
        ),
    ],
    run_id: RunId = "current",
    new: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Rows that were never seen: a Parquet file, or a folder of them, or its URL.",
        ),
    ] = None,
    entity: Annotated[
        str | None, typer.Option(help="Whose rows they are, where there is more than one entity.")
    ] = None,
    edges: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EDGE_TYPE=PATH",
            help="Their edges to known nodes, as Parquet: one option for each edge type.",
        ),
    ] = None,
    out_folder: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="DIR", help="Where new rows' embeddings go: a folder, made anew."
        ),
    ] = None,
) -> None:
    """Compute the embeddings of every entity of a run; with --new, of rows that came later.

    New rows need no edges and no training: `isohop embed PIPELINE.yaml --new rows.parquet --entity
    customer --out new-customers`. Edges that they have are used where --edges names them.
    """
    if new is None:
        if entity is not None or out_folder is not None or edges:
            raise IsohopError(
                "--entity, --edges and --out are for new rows: name these with --new."
            )
        stage("embed", _here("PIPELINE.yaml", where), run_id)
        return
    if out_folder is None:
        raise IsohopError("Say where the embeddings of new rows go with --out.")
    _embed_new(where, run_id, new, entity, edges or [], _here("--out", out_folder))


def _moment(text: str | None) -> datetime | None:
    from pydantic import TypeAdapter, ValidationError

    from isohop.relational.as_of import Moment

    try:
        return None if text is None else TypeAdapter(Moment).validate_python(text)
    except ValidationError as error:
        raise IsohopError(
            f"--as-of '{text}' is no time: say 2026-11-20 or 2026-11-20T04:00."
        ) from error


def _said(as_of: str | None, instead: Sequence[str] | None) -> dict[str, str]:
    """What is said in place of the pipeline file."""
    if as_of is None:
        return _pairs("--set", instead)
    _moment(as_of)
    return _pairs("--set", [*(instead or ()), f"as_of={as_of}"])


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Of an option that is given as NAME=VALUE, maybe several times."""
    found: dict[str, str] = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not (name and equals and value):
            raise IsohopError(f"{option} '{one}' is no name and value with '=' between them.")
        if name in found:
            raise IsohopError(f"{option} says what '{name}' is twice: keep one of the two.")
        found[name] = value
    return found


def _embed_new(
    where: str, run_id: str, new: str, entity: str | None, edges: list[str], folder: Path
) -> None:
    from isohop.coldbrew.new_rows import NewEdges, embed_new
    from isohop.engines.mirror import local

    student = local(where)
    if student.is_dir():
        if edges:
            raise IsohopError(
                f"{where} is a student without the graph that edges lead to: with --edges, name "
                "the pipeline file."
            )
        _tell_new(embed_new(student, local(new), folder, entity, TerminalProgress()), folder)
        return
    from isohop.engines.object_store import READING
    from isohop.pipeline.pipeline_file import read_pipeline
    from isohop.pipeline.running import open_run

    run = open_run(read_pipeline(_here("PIPELINE.yaml", where)), run_id, READING)
    with run.reading():
        if run.record("embed") is None:
            raise IsohopError(
                f"Run '{run.id}' has no student that goes with its teacher: its stage 'embed' is "
                f"not done. Run 'isohop stage embed {where} --run {run.id}' first."
            )
        known = None
        if edges:
            files = {name: local(path) for name, path in _pairs("--edges", edges).items()}
            known = NewEdges(run.graph, run.features, run.model, run.credible, files)
        found = embed_new(run.student, local(new), folder, entity, TerminalProgress(), known)
        _tell_new(found, folder, run, known is not None)


def _tell_new(found: NewRows, folder: Path, run: Run | None = None, linked: bool = False) -> None:
    """What became of new rows, in ``folder``; ``linked``: with edges."""
    from isohop.coldbrew.new_rows import QUARANTINE

    if found.unread:
        print_warnings([f"columns that were not read: {', '.join(found.unread)}"])
        if run is not None:
            from isohop.coldbrew.distill import read_manifest
            from isohop.coldbrew.new_edges import edges_named
            from isohop.graph import Graph

            label = read_manifest(run.model).label
            names = edges_named(Graph.open(run.graph), label, found.entity, found.unread)
            options = " ".join(f"--edges {name}=FILE" for name in names)
            print_warnings([f"those that name known nodes are read by {options}"] if names else [])
    print_warnings(found.notes)
    if found.quarantined:
        told = f"{found.quarantined:,} rows could not be embedded: {folder / QUARANTINE}"
        print_warnings([told])
    if found.edges_quarantined:
        told = f"{found.edges_quarantined:,} edges could not be used: {folder / QUARANTINE}"
        print_warnings([told])
    edges = f" with {found.edges:,} edges" if linked else ""
    out.print(f"{found.embedded:,} new rows of '{escape(found.entity)}'{edges} embedded: ", end="")
    out.print(escape(str(folder)))


@app.command(epilog="Example: `isohop diff examples/output/published/nycflights13 1 2`")
def diff(
    published: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder of versions, or its URL.")
    ],
    one: Annotated[str, typer.Argument(metavar="VERSION")],
    other: Annotated[str, typer.Argument(metavar="OTHER")] = "latest",
) -> None:
    """How one published version differs from another: rows, sources, neighbours, evaluation."""
    from isohop.embeddings.drift import drift, snapshot

    before, now = snapshot(published, one), snapshot(published, other)
    if before.folder == now.folder:
        raise IsohopError(
            f"{before.folder} would be compared with itself: '{other}' is version '{one}'. Name "
            "another."
        )
    print_drift(drift(before, now))


runs = typer.Typer(no_args_is_help=True, help="The runs of a pipeline: list, show, diff, prune.")
app.add_typer(runs, name="runs")


@runs.command("list", epilog="Example: `isohop runs list examples/nycflights13.yaml`")
def list_runs(pipeline: PipelinePath) -> None:
    """All runs, the newest first."""
    from isohop.pipeline.history import past_runs
    from isohop.pipeline.pipeline_file import home_of_runs

    home = home_of_runs(pipeline)
    found = past_runs(home)
    if not found:
        out.print(f"No runs in {escape(str(home))}.")
        return
    print_runs(found)


@runs.command("show", epilog="Example: `isohop runs show examples/nycflights13.yaml current`")
def show_run(
    pipeline: PipelinePath, run_id: Annotated[str, typer.Argument(metavar="RUN")] = "current"
) -> None:
    """What the stages of a run made, and when."""
    from isohop.pipeline.history import past_run
    from isohop.pipeline.pipeline_file import home_of_runs

    past = past_run(home_of_runs(pipeline), run_id)
    print_summary([(record, True) for record in past.records], past.run)
    for name in past.damaged:
        told = f"{past.run.place}/stages/{name}.json is damaged. Remove it to run the stage again."
        err.print(escape(told), style="red", soft_wrap=True)


@runs.command("diff", epilog="Example: `isohop runs diff shop.yaml 20261123 20261124`")
def diff_runs(
    pipeline: PipelinePath,
    one: Annotated[str, typer.Argument(metavar="RUN")],
    other: Annotated[str, typer.Argument(metavar="OTHER")],
) -> None:
    """Which settings, inputs and versions differ between two runs."""
    from isohop.pipeline.history import differences, past_run
    from isohop.pipeline.pipeline_file import home_of_runs

    home = home_of_runs(pipeline)
    past = [past_run(home, name) for name in (one, other)]
    print_differences(differences(*past), past)


@runs.command("prune", epilog="Example: `isohop runs prune shop.yaml --keep 7`")
def prune_runs(
    pipeline: PipelinePath,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest runs stay.")] = 5,
) -> None:
    """Remove old runs, and what killed processes left in the others. What is published stays."""
    from isohop.pipeline.history import prune
    from isohop.pipeline.pipeline_file import home_of_runs

    for made in prune(home_of_runs(pipeline), keep):
        out.print(f"{escape(made.what)}: {escape(made.where)}", soft_wrap=True)


@app.command(epilog="Example: `isohop evaluate examples/nycflights13.yaml --seeds 5`")
def evaluate(
    pipeline: PipelinePath,
    run_id: RunId = "current",
    seeds: Annotated[int, typer.Option(min=1, help="How often all models are trained.")] = 3,
    as_of: AsOf = None,
    instead: Instead = None,
) -> None:
    """Compare teacher, student and what is served with an MLP, a plain GCN and label propagation.

    By how well nodes are connected, on what a run's features have not seen either.
    """
    from isohop.pipeline.pipeline_file import read_pipeline
    from isohop.pipeline.running import evaluate as evaluate_run
    from isohop.pipeline.running import open_run

    read = read_pipeline(pipeline, _said(as_of, instead))
    folder = open_run(read, run_id)
    print_comparison(evaluate_run(read, folder, seeds, TerminalProgress()))
    out.print(f"All figures: {escape(str(folder.evaluation))}")


@app.command(epilog="Example: `isohop version`")
def version() -> None:
    """Print the version."""
    print(isohop.__version__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Prints what is wrong without a traceback when it is the user's to mend. SIGTERM
    ends it as Ctrl-C does, with exit code 143."""
    terminated = []

    def terminate(number: int, _: FrameType | None) -> None:
        terminated.append(number)
        raise KeyboardInterrupt  # the one error by which Ray, too, stops waiting

    in_main_thread = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGTERM, terminate) if in_main_thread else None
    try:
        app(args=None if arguments is None else list(arguments))
    except (SystemExit, KeyboardInterrupt):
        if not terminated:
            raise
        err.print("Ended by SIGTERM.", style="red")
        sys.exit(128 + signal.SIGTERM)
    except InvalidInput as error:
        err.print(escape(str(error)), style="red", highlight=False)
        sys.exit(2)
    except IsohopError as error:
        err.print(escape(str(error)), style="red", highlight=False)
        sys.exit(1)
    except OSError as error:
        if is_disk_full(error):
            what = str(disk_full(str(error.filename or "A file")))
        elif error.filename is not None:
            what = f"{error.filename}: {error.strerror}."
        else:
            raise
        err.print(escape(what), style="red", highlight=False)
        sys.exit(1)
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


if __name__ == "__main__":
    main()
