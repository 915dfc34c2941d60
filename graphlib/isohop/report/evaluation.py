"""Held-out results as tables: a row for what was asked, a column for who answered."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from isohop.coldbrew.calibration import ConfidenceBin, answers_of, calibration_error
from isohop.report.run_folder import EdgeRanks, EvaluationRow

_RANKS = {"mrr": "MRR", "hits_at_1": "Hits@1", "hits_at_10": "Hits@10"}
_KINDS = {"trained": "Trained", "untrained": "Untrained", "tfidf": "TF-IDF"}
MODELS = {"served": "Served", "teacher": "Teacher", "student": "Student", "mlp": "MLP"}
_GROUPS = {"overall": "Overall", "head": "Head", "tail": "Tail", "isolated": "Isolated"}
_TASKS = {"link": "Link prediction", "label": "Label"}
_EDGE = "--"
"""In the name of an edge type."""
_METRICS = {"mrr": "MRR", "hits@10": "Hits@10", "accuracy": "Accuracy", "r2": "R²"}


@dataclass(frozen=True)
class Cell:
    """One model's figure; ``best`` in its row."""

    model: str
    value: float | None
    best: bool


@dataclass(frozen=True)
class Row:
    """What was asked, of how many, and each model's figure."""

    label: str
    count: int
    cells: tuple[Cell, ...]

    @property
    def of_edge_type(self) -> bool:
        """Whether the label names an edge type, which may be long."""
        return _EDGE in self.label


@dataclass(frozen=True)
class EdgeTable:
    """Held-out edges by edge type, all of them first: a line a type, on it a row a metric."""

    models: Mapping[str, str]
    metrics: tuple[str, ...]
    lines: tuple[tuple[Row, ...], ...]


@dataclass(frozen=True)
class ResultTable:
    """One task, entity and metric: a row a group of nodes."""

    task: str
    entity: str
    metric: str
    models: Mapping[str, str]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ConfidenceRow:
    """Of one entity, over ``count`` questions that nothing had seen: how sure one was of what is
    served, how often it was right, and how far apart both are, by confidence."""

    entity: str
    count: int
    confidence: float
    right: float
    error: float


def confidence_rows(
    calibration: Mapping[str, Sequence[ConfidenceBin]],
) -> tuple[ConfidenceRow, ...]:
    """From ``distill.json``; of entities of which anything was asked."""
    rows = []
    for entity, bins in calibration.items():
        count, error = answers_of(bins), calibration_error(bins)
        if error is not None:
            sure, right = (
                sum(one.count * getattr(one, name) for one in bins) / count
                for name in ("confidence", "right")
            )
            rows.append(ConfidenceRow(entity, count, sure, right, error))
    return tuple(rows)


def edge_table(held_out: Mapping[str, EdgeRanks]) -> EdgeTable | None:
    """From ``features.json``; None where nothing was held out."""
    if not held_out:
        return None
    lines = tuple(
        tuple(
            Row(
                label="All edge types" if name == "all" else name,
                count=held_out[name].count,
                cells=_cells(
                    {kind: getattr(getattr(held_out[name], kind), metric) for kind in _KINDS}
                ),
            )
            for metric in _RANKS
        )
        for name in sorted(held_out, key=lambda name: (name != "all", name))
    )
    return EdgeTable(_KINDS, tuple(_RANKS.values()), lines)


def result_tables(evaluation: Iterable[EvaluationRow]) -> tuple[ResultTable, ...]:
    """From ``distill.json``: labels before links, all entities together before each."""
    tables: dict[tuple[str, str, str], list[EvaluationRow]] = {}
    for row in evaluation:
        tables.setdefault((row.task, row.entity, row.metric), []).append(row)
    order = sorted(tables, key=lambda key: (key[0] != "label", key[1] != "all", key[1], key[2]))
    return tuple(_result_table(*key, tables[key]) for key in order)


def _result_table(task: str, entity: str, metric: str, figures: list[EvaluationRow]) -> ResultTable:
    models = _known_first(MODELS, (figure.model for figure in figures))
    groups = _known_first(_GROUPS, (figure.group for figure in figures))
    rows = []
    for group, label in groups.items():
        members = [figure for figure in figures if figure.group == group]
        values = {figure.model: figure.value for figure in members}
        rows.append(
            Row(
                label=label,
                count=max(figure.count for figure in members),
                cells=_cells({model: values.get(model) for model in models}),
            )
        )
    return ResultTable(
        task=_TASKS.get(task, task),
        entity="All entities" if entity == "all" else entity,
        metric=_METRICS.get(metric, metric),
        models=models,
        rows=tuple(rows),
    )


def _cells(values: Mapping[str, float | None]) -> tuple[Cell, ...]:
    finite = [value for value in values.values() if value is not None and math.isfinite(value)]
    best = max(finite, default=None)
    return tuple(
        Cell(model, value, value is not None and value == best) for model, value in values.items()
    )


def _known_first(known: Mapping[str, str], found: Iterable[str]) -> dict[str, str]:
    """Labels of what is found: in the order of ``known``, then what is new, degrees before edge
    types, by the first number in its name."""
    present = list(dict.fromkeys(found))
    labels = {name: label for name, label in known.items() if name in present}
    new = sorted((name for name in present if name not in known), key=_place)
    return labels | {name: name if _EDGE in name else name[:1].upper() + name[1:] for name in new}


def _place(name: str) -> tuple[bool, int, str]:
    number = re.search(r"\d+", name)
    return _EDGE in name, int(number[0]) if number else -1, name
