"""The command line: `isohop`. Thin: each command reads its arguments, calls one function, prints.

A mistake of the user's ends with exit code 2 (a bad file) or 1 (the work failed), a message, and
never a traceback.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

import isohop
from isohop.errors import InvalidInput, IsohopError

if TYPE_CHECKING:
    from isohop.coldbrew.comparison import Comparison
    from isohop.engines.progress import Task
    from isohop.graph.audit import Audit
    from isohop.hops.plan import Plan
    from isohop.pipeline.runs import StageRecord
    from isohop.relational.ledger import Ledger

app = typer.Typer(
    name="isohop",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Entity embeddings from relational tables, independent of how the tables are laid out.",
)
out = Console(soft_wrap=False)
err = Console(stderr=True)

SchemaPath = Annotated[Path, typer.Argument(metavar="SCHEMA.yaml", help="The schema file.")]
PipelinePath = Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="The pipeline file.")]
RunId = Annotated[
    str, typer.Option("--run", help="Name of the run: a folder under the pipeline's 'runs'.")
]


class Engine(StrEnum):
    """As in isohop.engines.spark, for Typer."""

    sail = "sail"
    spark = "spark"


EngineName = Annotated[
    Engine, typer.Option("--engine", help="'sail' (in this process, no Java) or 'spark'.")
]


class _Bar:
    def __init__(self, bars: Bars, task: TaskID, description: str):
        self._bars, self._task, self._description = bars, task, description

    def advance(self, steps: float = 1) -> None:
        self._bars.advance(self._task, steps)

    def note(self, text: str) -> None:
        self._bars.update(self._task, note=escape(text))


class TerminalProgress:
    """Rich bars on a terminal; where output is no terminal, one line when a task is done."""

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        if not err.is_terminal:
            clock = time.monotonic()
            from isohop.engines.progress import SILENT

            with SILENT.task(description, total) as silent:
                yield silent
            err.print(f"  {description}: {time.monotonic() - clock:.1f} s", highlight=False)
            return
        with Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=err,
        ) as bars:
            task = bars.add_task(escape(description), total=total, note="")
            yield _Bar(bars, task, description)


@app.command(epilog="Example: `isohop check schemas/nycflights13.yaml`")
def check(
    schema: SchemaPath,
    engine: EngineName = Engine.sail,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
) -> None:
    """Check a schema file against its data and print the integrity ledger."""
    from isohop.graph.build import check as check_schema

    plan, ledger = check_schema(schema, engine.value, TerminalProgress())
    if as_json:
        print(ledger.model_dump_json(indent=1))
        return
    _print_ledger(plan, ledger)


@app.command(epilog="Example: `isohop build schemas/nycflights13.yaml --out graph`")
def build(
    schema: SchemaPath,
    to: Annotated[Path, typer.Option("--out", help="Folder of the graph dataset.")],
    engine: EngineName = Engine.sail,
) -> None:
    """Build the graph dataset, in hop normal form."""
    from isohop.graph.build import build as build_graph

    clock = time.monotonic()
    graph = build_graph(schema, to, engine.value, TerminalProgress())
    table = Table(title=f"{graph.manifest.name} → {to}", title_justify="left")
    for column in ("type", "what", "count"):
        table.add_column(column, justify="right" if column == "count" else "left")
    for node in graph.node_types:
        table.add_row("value" if node.shared else "entity", escape(node.name), f"{node.count:,}")
    for edge in graph.edge_types:
        table.add_row("edge", escape(edge.name), f"{edge.count:,}")
    out.print(table)
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
            help="The schema file to write; what was left out goes to NAME.left-out.md.",
        ),
    ] = None,
    engine: EngineName = Engine.sail,
) -> None:
    """Find keys, references, dependencies and kinds, and write a first schema file.

    Without --entities it proposes some, with reasons, and stops.
    """
    from isohop.engines.storage import write_text_atomically
    from isohop.graph.infer import infer as infer_schema

    names = [name.strip() for name in entities.split(",") if name.strip()]
    base = to.parent if to is not None else None
    found = infer_schema(source, names, engine.value, base, TerminalProgress())
    if found.schema is None:
        table = Table(title="Entities that might be meant", title_justify="left")
        table.add_column("table")
        table.add_column("because", overflow="fold")
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
    out.print(f"{to}: {len(found.schema.tables)} tables, {len(found.schema.entities)} entities")
    out.print(f"{report}: {len(found.rejected)} findings that were left out, and why")
    out.print(f"Read it, then: isohop check {to}", style="dim")


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
        Path | None, typer.Option(help="A folder where the rewritten databases stay.")
    ] = None,
    engine: EngineName = Engine.sail,
) -> None:
    """Rewrite the database at random without losing a fact, and see whether its graph changes.

    Exit code 1, with the smallest rewrite that does it, when it does.
    """
    from isohop.graph.audit import audit as audit_schema

    bars = TerminalProgress()
    found = audit_schema(schema, rewrites, seed, steps, mapping, keep, engine.value, bars)
    _print_audit(found)
    if found.failure is not None:
        raise typer.Exit(1)


def _print_audit(found: Audit) -> None:
    kinds = Table(title=f"{found.database}: rewrites", title_justify="left")
    for column in ("rewrite", "applied", "not lossless here"):
        kinds.add_column(column, justify="left" if column == "rewrite" else "right")
    for kind in sorted(found.applied | found.refused):
        kinds.add_row(kind, str(found.applied[kind]), str(found.refused[kind]))
    out.print(kinds)
    pairs = Table(title="Hops between pairs of nodes, least to most", title_justify="left")
    for column in ("pair", "keys and references", "hop normal form"):
        pairs.add_column(column, overflow="fold")
    for index, pair in enumerate(found.pairs):
        plain = ", ".join("none" if hops is None else str(hops) for hops in found.moved(index))
        ours = {trial.hops[index] for trial in [found.original, *found.trials]}
        told = ", ".join("none" if hops is None else str(hops) for hops in sorted(ours, key=str))
        pairs.add_row(escape(str(pair)), plain, told)
    out.print(pairs)
    moved = sum(len(found.moved(index)) > 1 for index in range(len(found.pairs)))
    out.print(
        f"{found.equal} of {len(found.trials)} graphs equal, certificate "
        f"{found.original.certificate}. {moved} of {len(found.pairs)} pairs moved in the graph of "
        "keys and references."
    )
    if found.failure is not None:
        err.print("The graph changed. The smallest rewrite that does it:", style="bold red")
        for rewrite in found.failure:
            err.print(f"  {rewrite}", highlight=False, markup=False)
        if found.error:
            err.print(found.error, highlight=False, markup=False)


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
    table = Table(title=f"{told.database}: what becomes what", title_justify="left")
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
    _print_warnings(told.warnings)
    out.print("The diagram: add --mermaid.", style="dim")


@app.command(epilog="Example: `isohop certificate graph`")
def certificate(
    graph: Annotated[Path, typer.Argument(metavar="DIR", help="A graph dataset.")],
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
def run(pipeline: PipelinePath, run_id: RunId = "current") -> None:
    """Run a whole pipeline: tables in, published embeddings and a report out.

    What is done already, and has not changed since, is not done again.
    """
    from isohop.pipeline.pipeline_file import read_pipeline
    from isohop.pipeline.stages import open_run, run_all

    read = read_pipeline(pipeline)
    folder = open_run(read, run_id)
    _print_warnings(read.planned.plan.warnings)
    _print_summary(run_all(read, folder, TerminalProgress()), folder.folder)


@app.command(epilog="Example: `isohop stage features examples/nycflights13.yaml`")
def stage(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="build, features, distill, …")],
    pipeline: PipelinePath,
    run_id: RunId = "current",
) -> None:
    """Run one stage of a pipeline, if it is not done."""
    from isohop.pipeline.pipeline_file import read_pipeline
    from isohop.pipeline.stages import open_run, run_stage

    read = read_pipeline(pipeline)
    folder = open_run(read, run_id)
    _print_summary([run_stage(read, folder, name, TerminalProgress())], folder.folder)


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
        Path,
        typer.Argument(
            metavar="PIPELINE.yaml|STUDENT",
            help="The pipeline file; for new rows a copied folder 'student' of a run does too.",
        ),
    ],
    run_id: RunId = "current",
    new: Annotated[
        Path | None,
        typer.Option(help="Rows that were never seen: a Parquet file, or a folder of them."),
    ] = None,
    entity: Annotated[
        str | None, typer.Option(help="Whose rows they are, where there is more than one entity.")
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Where new rows' embeddings go: a folder, made anew."),
    ] = None,
) -> None:
    """Compute the embeddings of every entity of a run; with --new, of rows that came later.

    New rows need no edges and no training: `isohop embed PIPELINE.yaml --new rows.parquet --entity
    customer --out new-customers`.
    """
    if new is None:
        if entity is not None or out_folder is not None:
            raise IsohopError("--entity and --out are for new rows: say which with --new.")
        stage("embed", where, run_id)
        return
    if out_folder is None:
        raise IsohopError("Say where the embeddings of new rows go with --out.")
    _embed_new(where, run_id, new, entity, out_folder)


def _embed_new(where: Path, run_id: str, new: Path, entity: str | None, folder: Path) -> None:
    from isohop.coldbrew.new_rows import embed_new

    student = where
    if not where.is_dir():
        from isohop.pipeline.pipeline_file import read_pipeline
        from isohop.pipeline.stages import open_run

        student = open_run(read_pipeline(where), run_id).student
    found = embed_new(student, new, folder, entity, TerminalProgress())
    if found.unread:
        _print_warnings([f"columns that were not read: {', '.join(found.unread)}"])
    _print_warnings(found.notes)
    if found.quarantined:
        told = f"{found.quarantined:,} rows could not be embedded: {folder / 'quarantine'}"
        _print_warnings([told])
    out.print(f"{found.embedded:,} new rows of '{escape(found.entity)}' embedded: {folder}")


@app.command(epilog="Example: `isohop evaluate examples/nycflights13.yaml --seeds 5`")
def evaluate(
    pipeline: PipelinePath,
    run_id: RunId = "current",
    seeds: Annotated[int, typer.Option(min=1, help="How often all models are trained.")] = 3,
) -> None:
    """Compare teacher, student and what is served with an MLP, a plain GCN and label propagation.

    By how well nodes are connected, on what a run's features have not seen either.
    """
    from isohop.pipeline.pipeline_file import read_pipeline
    from isohop.pipeline.stages import evaluate as evaluate_run
    from isohop.pipeline.stages import open_run

    read = read_pipeline(pipeline)
    folder = open_run(read, run_id)
    _print_comparison(evaluate_run(read, folder, seeds, TerminalProgress()))
    out.print(f"All figures: {folder.evaluation}")


def _print_comparison(found: Comparison) -> None:
    of_all = [figure for figure in found.figures if figure.entity == "all"]
    for task, metric in dict.fromkeys((figure.task, figure.metric) for figure in of_all):
        shown = [figure for figure in of_all if (figure.task, figure.metric) == (task, metric)]
        models = dict.fromkeys(figure.model for figure in shown)
        title = f"{task}: {metric}, mean ± deviation of {len(found.seeds)} seeds"
        table = Table(title=title, title_justify="left")
        table.add_column("nodes")
        for name in ("asked", *models):
            table.add_column(name, justify="right")
        for group in dict.fromkeys(figure.group for figure in shown):
            row = {figure.model: figure for figure in shown if figure.group == group}
            best = max(figure.mean for figure in row.values())
            told = [
                f"[bold]{figure.mean:.3f}[/bold] ± {figure.deviation:.3f}"
                if figure.mean == best
                else f"{figure.mean:.3f} ± {figure.deviation:.3f}"
                for figure in (row[name] for name in models)
            ]
            count = max(figure.count for figure in row.values())
            table.add_row(escape(group), f"{count:,}", *told)
        out.print(table)
    if found.contribution:
        parts = ", ".join(f"{name} {value:.0f}" for name, value in found.contribution.items())
        out.print(f"Feature contribution in per cent, by group: {parts}.")
    table = Table(title="What is left of differences, by layer", title_justify="left")
    for name in ("layer", "nodes", "energy", "mean distance", "effective rank"):
        table.add_column(name, justify="left" if name == "nodes" else "right")
    for layer in found.layers:
        cells = (f"{layer.energy:.3f}", f"{layer.mad:.3f}", f"{layer.rank:.1f}")
        table.add_row(str(layer.layer), escape(layer.node_type), *cells)
    out.print(table)


@app.command(epilog="Example: `isohop version`")
def version() -> None:
    """Print the version."""
    print(isohop.__version__)


def _print_summary(results: Sequence[tuple[StageRecord, bool]], folder: Path) -> None:
    table = Table(title=f"Run {folder}", title_justify="left")
    for column in ("stage", "made", "where", "time", "size"):
        right = column in ("time", "size")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for record, now in results:
        for index, made in enumerate(record.made):
            first = index == 0
            took = f"{record.seconds:.1f} s" if now else "done before"
            where = made.where
            table.add_row(
                record.stage if first else "",
                escape(made.what),
                escape(_short(where, folder)),
                took if first else "",
                _bytes(record.size) if first else "",
            )
    out.print(table)


def _short(where: str, folder: Path) -> str:
    path = Path(where)
    if not path.is_absolute():
        return where
    for base in (folder, Path.cwd()):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return where


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _print_ledger(plan: Plan, ledger: Ledger) -> None:
    table = Table(title="Rows", title_justify="left")
    for column in ("table", "in", "used", "quarantined", "unused", "why"):
        number = column in ("in", "used", "quarantined", "unused")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for counted in ledger.tables:
        reasons = {**counted.quarantined, **counted.unused}
        table.add_row(
            escape(counted.table),
            f"{counted.rows:,}",
            f"{counted.used:,}",
            f"{sum(counted.quarantined.values()):,}",
            f"{sum(counted.unused.values()):,}",
            escape("; ".join(f"{reason}: {count:,}" for reason, count in reasons.items())),
        )
    out.print(table)
    findings = [finding for counted in ledger.tables for finding in counted.findings]
    findings += ledger.findings
    if findings:
        found = Table(title="Findings", title_justify="left")
        for column in ("what", "where", "count", "policy", "examples"):
            right = column == "count"
            found.add_column(column, justify="right" if right else "left", overflow="fold")
        for finding in findings:
            cells = (finding.kind, finding.where, f"{finding.count:,}", finding.policy)
            found.add_row(*(escape(c) for c in cells), escape("\n".join(finding.examples)))
        out.print(found)
    for note in ledger.notes:
        out.print(f"note: {escape(note)}")
    _print_warnings(plan.warnings)
    out.print("The sums close: rows in = used + quarantined + unused, in every table.")


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Prints what is wrong without a traceback when it is the user's to mend."""
    try:
        app(args=None if arguments is None else list(arguments))
    except InvalidInput as error:
        err.print(escape(str(error)), style="red", highlight=False)
        sys.exit(2)
    except IsohopError as error:
        err.print(escape(str(error)), style="red", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
