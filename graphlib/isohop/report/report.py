"""The report: one HTML file that needs nothing else, not even a network.

Its parts are gathered from the run's folder, one dataclass a part, and drawn by the templates in
``templates/``, which escape whatever comes from the data. A part that the run does not have is
said to be absent, with the stage that would make it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from isohop.embeddings.contract import EmbeddingsManifest
from isohop.embeddings.search import embedding_matrix
from isohop.engines.progress import SILENT, Progress
from isohop.engines.storage import write_text_atomically
from isohop.errors import IsohopError, did_you_mean
from isohop.graph.dataset import Graph
from isohop.relational.ledger import Ledger
from isohop.report.charts import Histogram, LineChart, degree_histogram, line_chart
from isohop.report.colouring import colour_nodes
from isohop.report.diagram import Diagram, draw_graph
from isohop.report.doubtful import DoubtfulEdges, doubtful_edges
from isohop.report.embedding_map import EmbeddingMap, draw_map, project, sample_nodes
from isohop.report.evaluation import (
    MODELS,
    ConfidenceRow,
    EdgeTable,
    ResultTable,
    confidence_rows,
    edge_table,
    result_tables,
)
from isohop.report.naming import Names, shorten
from isohop.report.neighbours import Example, choose_examples, list_neighbours
from isohop.report.palette import model_colour
from isohop.report.run_folder import RunFolder, TreeLevel
from isohop.report.settings import ReportSettings

_MOST_POINTS = 12_000
"""Points on all maps together: about 2 MB of the file."""
_DOUBTFUL_EDGES = 10
"""Of an edge type, at most."""


@dataclass(frozen=True)
class EntityRow:
    """One entity in the summary."""

    name: str
    count: int
    dimensions: int
    teacher: int
    blend: int
    student: int
    size: int
    key: str


@dataclass(frozen=True)
class Degrees:
    """The degree distribution of a node type."""

    name: str
    shared: bool
    count: int
    unconnected: int
    median: float
    largest: int
    histogram: Histogram


@dataclass(frozen=True)
class Curve:
    """One training curve."""

    stage: str
    name: str
    chart: LineChart | None


@dataclass(frozen=True)
class Duration:
    """What a step took; ``share`` of the longest."""

    stage: str
    step: str
    seconds: float
    share: float


@dataclass(frozen=True)
class EntityView:
    """The map of an entity and the neighbours of some of its nodes."""

    map: EmbeddingMap
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Report:
    """All that the template draws; None or empty where the run does not have it."""

    title: str
    run: RunFolder
    graph: Graph | None
    ledger: Ledger | None
    diagram: Diagram | None
    plan: Mapping[str, Any]
    entities: tuple[EntityRow, ...]
    durations: tuple[Duration, ...]
    degrees: tuple[Degrees, ...]
    curves: tuple[Curve, ...]
    edges: EdgeTable | None
    tree: Mapping[str, tuple[TreeLevel, ...]]
    results: tuple[ResultTable, ...]
    confidence: tuple[ConfidenceRow, ...]
    doubtful: tuple[DoubtfulEdges, ...]
    views: tuple[EntityView, ...]


def write_report(
    run: Path,
    out: Path,
    settings: ReportSettings,
    title: str,
    published: EmbeddingsManifest | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the report of ``run`` to the file ``out``, whole or not at all, and return its path.

    ``published`` is the version that the run made, where there is one. The file holds no script and
    refers to nothing outside itself. Raises `IsohopError` where there is no run, a part of it is
    damaged, or ``settings`` name an entity or attribute that is not there.
    """
    folder = RunFolder.open(Path(run), published)
    _check_settings(folder, settings)
    with progress.task("Writing the report", total=2 * len(folder.entities) + 2) as task:
        degrees = _degrees(folder.graph)
        task.advance()
        views = tuple(_view(folder, entity, settings, task.advance) for entity in folder.entities)
        report = Report(
            title=title,
            run=folder,
            graph=folder.graph,
            ledger=folder.ledger,
            diagram=draw_graph(folder.graph.manifest) if folder.graph else None,
            plan=folder.graph.manifest.plan if folder.graph else {},
            entities=tuple(_entity_row(folder, entity) for entity in folder.entities),
            durations=_durations(folder),
            degrees=degrees,
            curves=_curves(folder),
            edges=edge_table(folder.features.held_out) if folder.features else None,
            tree=_tree(folder),
            results=result_tables(folder.distilled.evaluation) if folder.distilled else (),
            confidence=confidence_rows(folder.distilled.calibration) if folder.distilled else (),
            doubtful=doubtful_edges(folder, _DOUBTFUL_EDGES, settings.seed),
            views=views,
        )
        out = Path(out)
        write_text_atomically(out, _render(report))
        task.advance()
    return out


def _check_settings(folder: RunFolder, settings: ReportSettings) -> None:
    unknown = sorted(settings.colour.keys() - set(folder.entities))
    if unknown and folder.entities:
        raise IsohopError(
            f"report.colour: there is no entity '{unknown[0]}'. "
            f"{did_you_mean(unknown[0], folder.entities)}"
        )


def _entity_row(folder: RunFolder, entity: str) -> EntityRow:
    table = folder.embeddings(entity)
    sources = table.column("source").to_numpy()
    student, blend = (int(np.sum(sources == name)) for name in ("student", "blend"))
    return EntityRow(
        name=entity,
        count=table.num_rows,
        dimensions=table.schema.field("embedding").type.list_size,
        teacher=table.num_rows - student - blend,
        blend=blend,
        student=student,
        size=folder.embedding_bytes(entity),
        key=", ".join(table.column_names[: table.column_names.index("node_id")]),
    )


def _degrees(graph: Graph | None) -> tuple[Degrees, ...]:
    """Degrees over all edge types, both ways, of the whole graph, but for edges from a node to
    itself."""
    if graph is None:
        return ()
    degree = {node.name: np.zeros(node.count, np.int64) for node in graph.node_types}
    for edge in graph.edge_types:
        index = graph.edge_index(edge.name)
        if edge.source == edge.target:
            index = index[:, np.not_equal(*index)]
        for name, ends in zip((edge.source, edge.target), index, strict=True):
            degree[name] += np.bincount(ends, minlength=len(degree[name]))
    return tuple(
        Degrees(
            name=node.name,
            shared=node.shared,
            count=node.count,
            unconnected=int(np.sum(degree[node.name] == 0)),
            median=float(np.median(degree[node.name])),
            largest=int(degree[node.name].max()),
            histogram=degree_histogram(degree[node.name]),
        )
        for node in sorted(graph.node_types, key=lambda node: node.shared)
        if node.count
    )


def _curves(folder: RunFolder) -> tuple[Curve, ...]:
    found = []
    for stage, part in (("Features", folder.features), ("Distillation", folder.distilled)):
        for name, points in part.curves.items() if part else ():
            steps, values = [step for step, _ in points], [value for _, value in points]
            found.append(Curve(stage, name, line_chart(steps, values)))
    return tuple(found)


def _tree(folder: RunFolder) -> dict[str, tuple[TreeLevel, ...]]:
    """The levels of the label tree by destination type, coarse to fine."""
    tree: dict[str, tuple[TreeLevel, ...]] = {}
    for level in folder.features.levels if folder.features else ():
        tree[level.target] = (*tree.get(level.target, ()), level)
    return tree


def _durations(folder: RunFolder) -> tuple[Duration, ...]:
    rows = [
        (stage, step, seconds)
        for stage, part in (("Features", folder.features), ("Distillation", folder.distilled))
        for step, seconds in (part.seconds.items() if part else ())
    ]
    longest = max((seconds for _, _, seconds in rows), default=0.0) or 1.0
    return tuple(Duration(stage, step, s, s / longest) for stage, step, s in rows)


def _view(
    folder: RunFolder, entity: str, settings: ReportSettings, advance: Callable[[], None]
) -> EntityView:
    table = folder.embeddings(entity)
    degree = table.column("degree").to_numpy()
    source = table.column("source").to_numpy()
    student = source == "student"
    vectors = embedding_matrix(table)
    names = Names.of_entity(folder.graph, entity, table)
    colouring = colour_nodes(folder.graph, entity, degree, settings.colour.get(entity))
    sample = min(settings.sample, max(50, _MOST_POINTS // len(folder.entities)))
    nodes = sample_nodes(len(vectors), sample, settings.seed)
    points, method = project(vectors[nodes], settings.map, settings.seed)
    drawn = draw_map(entity, points, method, nodes, names.of(nodes), student[nodes], colouring)
    advance()
    examples = choose_examples(degree, student, settings.examples)
    near = list_neighbours(vectors, examples, names, degree, source, colouring, settings.neighbours)
    advance()
    return EntityView(drawn, near)


def _render(report: Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("isohop.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {
        "whole": lambda value: f"{value:,.0f}",
        "figure": _figure,
        "seconds": _seconds,
        "bytes": _bytes,
        "short": shorten,
        "example": _example,
        "title": _title,
        "grouped": _grouped,
        "model_colour": model_colour,
    }
    return environment.get_template("report.html.j2").render(report=report)


def _printable(value: Any) -> Any:
    """Drops characters that HTML forbids, which text from a database may well hold."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)


def _title(name: str) -> str:
    """``teacher/loss`` as ``Teacher · loss``."""
    parts = [MODELS.get(part, part.replace("_", " ")) for part in name.split("/")]
    text = " · ".join(parts)
    return text[:1].upper() + text[1:]


def _grouped(rows: Iterable[Any], name: str) -> list[tuple[Any, list[Any]]]:
    """As Jinja's ``groupby``, which would sort them."""
    return [(value, list(group)) for value, group in groupby(rows, attrgetter(name))]


def _figure(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}:{seconds:02d} min"


def _bytes(value: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return ""


def _example(value: Any, longest: int = 80) -> str:
    """An example value or row of the ledger on one line."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{name} {_example(part, longest)}" for name, part in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(_example(part, longest) for part in value)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(text, longest)
