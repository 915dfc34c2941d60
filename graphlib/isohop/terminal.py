"""How the command line prints: progress, tables, warnings."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from isohop.coldbrew.comparison import Comparison
    from isohop.embeddings.drift import Drift, EntityDrift
    from isohop.engines.progress import Task
    from isohop.graph.audit import Audit
    from isohop.hops.plan import Plan
    from isohop.pipeline.history import Difference, PastRun
    from isohop.pipeline.runs import Run, StageRecord
    from isohop.relational.ledger import Ledger


def _width() -> int | None:
    """What is printed is as wide as it is where there is no terminal that it must fit: Rich takes
    80 columns there, and whoever looks for a name finds parts of it."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else 10_000


out = Console(soft_wrap=False, width=_width())
err = Console(stderr=True)


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


def print_audit(found: Audit) -> None:
    kinds = Table(title=escape(f"{found.database}: rewrites"), title_justify="left")
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


def print_comparison(found: Comparison) -> None:
    of_all = [figure for figure in found.figures if figure.entity == "all"]
    for task, metric in dict.fromkeys((figure.task, figure.metric) for figure in of_all):
        shown = [figure for figure in of_all if (figure.task, figure.metric) == (task, metric)]
        models = dict.fromkeys(figure.model for figure in shown)
        several = len(found.seeds) > 1
        over = f"mean ± deviation of {len(found.seeds)} seeds" if several else "one seed"
        title = f"{task}: {metric}, {over}"
        table = Table(title=title, title_justify="left")
        for name in ("nodes", "asked", *models):
            table.add_column(name, justify="left" if name == "nodes" else "right", overflow="fold")
        for group in sorted({figure.group for figure in shown}, key=_by_degree):
            row = {figure.model: figure for figure in shown if figure.group == group}
            best = max(figure.mean for figure in row.values())
            told = []
            for name in models:
                text = f"{row[name].mean:.3f}"
                text = f"[bold]{text}[/bold]" if row[name].mean == best else text
                told.append(f"{text} ± {row[name].deviation:.3f}" if several else text)
            count = max(figure.count for figure in row.values())
            table.add_row(escape(group), f"{count:,}", *told)
        out.print(table)
    if found.contribution:
        parts = ", ".join(f"{name} {value:.0f}" for name, value in found.contribution.items())
        out.print(f"Feature contribution in per cent, by group: {parts}.")
    table = Table(title="What is left of differences, by layer", title_justify="left")
    for name in ("model", "layer", "nodes", "energy", "mean distance", "effective rank"):
        left = name in ("model", "nodes")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for layer in found.layers:
        cells = (f"{layer.energy:.3f}", f"{layer.mad:.3f}", f"{layer.rank:.1f}")
        table.add_row(layer.model, str(layer.layer), escape(layer.node_type), *cells)
    out.print(table)
    for note, seeds in found.notes.items():
        of = "" if seeds == found.seeds else f" (by seed {', '.join(map(str, seeds))})"
        out.print(f"note{of}: {escape(note)}", highlight=False)


def _by_degree(group: str) -> tuple[int, str]:
    """Where a group stands: all, then head, tail and isolated, then degrees from the least on, then
    edge types."""
    named = ("overall", "head", "tail", "isolated")
    if group in named:
        return named.index(group) - len(named), group
    if "--" in group:
        return sys.maxsize, group
    numbers = [part for part in re.split(r"\D+", group) if part]
    return int(numbers[0]) if numbers else 0, group


def print_summary(results: Sequence[tuple[StageRecord, bool]], run: Run) -> None:
    table = Table(title=escape(f"Run {run.place}"), title_justify="left")
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
                escape(_short(where, run.folder)),
                took if first else "",
                _bytes(record.size) if first else "",
            )
    out.print(table)


def print_runs(found: Sequence[PastRun]) -> None:
    table = Table(title="Runs, the newest first", title_justify="left")
    for column in ("run", "last stage began", "done", "took", "size"):
        right = column in ("took", "size")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for past in found:
        names = [record.stage for record in past.records]
        done = ", ".join(names + [f"{name} (damaged)" for name in past.damaged]) or "nothing"
        took = sum(record.seconds for record in past.records)
        table.add_row(escape(past.run.id), past.last, done, f"{took:.1f} s", _bytes(past.size))
    out.print(table)


def print_differences(found: Sequence[Difference], between: Sequence[PastRun]) -> None:
    if not found:
        out.print("The two runs depend on the same.")
        return
    one, other = (past.run.id for past in between)
    table = Table(title=f"Run {escape(one)} and run {escape(other)}", title_justify="left")
    for column in ("stage", "what", escape(one), escape(other)):
        table.add_column(column, overflow="fold")
    for row in found:
        table.add_row(row.stage, escape(row.what), escape(row.one or ""), escape(row.other or ""))
    out.print(table)


def print_drift(found: Drift) -> None:
    from isohop.embeddings.drift import percent

    table = Table(title="From one version to the other", title_justify="left")
    columns = ("entity", "rows", "keys gone", "keys new", "student", "norm", "same neighbours")
    for column in columns:
        left = column == "entity"
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for one in found.entities:
        student = [of.get("student", 0) / max(rows, 1) for of, rows in _paired(one)]
        table.add_row(
            escape(one.name),
            f"{one.rows[0]:,} → {one.rows[1]:,}",
            f"{one.gone:,}",
            f"{one.new:,}",
            f"{percent(student[0])} → {percent(student[1])}",
            "" if one.norm is None else f"{one.norm[0]:.3f} → {one.norm[1]:.3f}",
            "" if one.neighbours is None else percent(one.neighbours),
        )
    out.print(table)
    for one in found.entities:
        if one.other_key is not None:
            out.print(f"{escape(one.name)} {escape(one.other_key)}.", highlight=False)
    for what, names in (("gone", found.gone), ("new", found.new)):
        if names:
            out.print(f"Entities that are {what}: {escape(', '.join(names))}.")
    for name, figures in found.evaluation.items():
        before, now = ("not told" if value is None else f"{value:.3f}" for value in figures)
        out.print(f"{escape(name)}: {before} → {now}", highlight=False)


def _paired(one: EntityDrift) -> Iterator[tuple[Mapping[str, int], int]]:
    return zip(one.sources, one.rows, strict=True)


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


def print_ledger(plan: Plan, ledger: Ledger) -> None:
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
    print_warnings(plan.warnings)
    out.print("The sums close: rows in = used + quarantined + unused, in every table.")


def print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}")
