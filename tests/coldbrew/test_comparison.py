"""What models are worth over seeds, and what is left of differences layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isohop import terminal
from isohop.coldbrew import label_propagation
from isohop.coldbrew.comparison import (
    Comparison,
    compare,
    contribution,
    feature_contribution,
    means,
    notes_of,
)
from isohop.coldbrew.figures import LayerFigures
from isohop.coldbrew.labels import Labels
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.oversmoothing import effective_rank, energy, mean_average_distance
from isohop.coldbrew.settings import DistillSettings
from isohop.errors import IsohopError
from isohop.terminal import _by_degree, print_comparison
from tests.coldbrew.test_distill import of_one_topic, topical
from tests.coldbrew.test_teacher import GRAPH
from tests.worlds import library

pytestmark = pytest.mark.usefixtures("ray")

SMALL = DistillSettings(dimensions=32, steps=40, batch=256, negatives=16)
CITES = {"paper--cites--paper": ("paper", "paper")}


def test_every_model_is_asked_the_same_and_seeds_differ_in_training_alone(tmp_path):
    graph = library(tmp_path / "g")
    features = topical(graph, tmp_path / "f")
    file = tmp_path / "evaluation.json"
    found = compare(graph.path, features, file, SMALL, 1, [1, 2], label="book.topic")
    assert Comparison.model_validate_json(file.read_bytes()) == found
    models = {"teacher", "student", "served", "mlp", "gcn", "graph-mlp", "label propagation"}
    label = [row for row in found.figures if row.task == "label" and row.entity == "all"]
    assert {row.model for row in label if row.group == "overall"} == models
    for group in {row.group for row in label}:
        assert len({row.count for row in label if row.group == group}) == 1
    # What has nothing to draw is the same for every seed, since it is asked the same.
    propagated = [row for row in label if row.model == "label propagation"]
    assert {row.deviation for row in propagated} == {0.0}
    assert any(row.deviation > 0 for row in found.figures)
    layers = {(layer.model, layer.layer) for layer in found.layers}
    assert layers == {(model, layer) for model in ("teacher", "gcn") for layer in (0, 1, 2)}
    assert {"overall", "isolated"} <= set(found.contribution) <= {row.group for row in label}


def test_why_there_are_no_figures_of_a_label_is_told(tmp_path):
    graph, features = of_one_topic(tmp_path)
    file = tmp_path / "evaluation.json"
    brief = SMALL.model_copy(update={"steps": 2})
    found = compare(graph.path, features, file, brief, 1, [4], label="book.topic")
    assert {row.task for row in found.figures} == {"link"}
    (seeds,) = (of for note, of in found.notes.items() if "fewer than two values" in note)
    assert seeds == (4,)
    assert Comparison.model_validate_json(file.read_bytes()).notes == found.notes


def test_of_which_seeds_a_note_is_told_where_it_is_not_of_all(capsys):
    told = {1: ["all links", "no [links]"], 2: ["all links"], 3: ["no [links]", "all links"]}
    found = Comparison(
        certificate="0" * 32,
        label=None,
        settings=SMALL,
        seeds=tuple(told),
        notes=notes_of(told),
        figures=(),
        contribution={},
        layers=(),
    )
    assert found.notes == {"all links": (1, 2, 3), "no [links]": (1, 3)}
    print_comparison(found)
    printed = capsys.readouterr().out
    assert "note: all links\n" in printed
    assert "note (by seed 1, 3): no [links]\n" in printed


def test_however_many_classes_are_propagated_at_once_their_answers_are_the_same(monkeypatch):
    part = torch.arange(30) % 3
    values = torch.arange(30) % 5
    labels = Labels("paper", values, 5, part == 0, part == 1, part == 2)
    together = label_propagation.propagated(labels, GRAPH)
    monkeypatch.setattr(label_propagation, "AT_ONCE", 2)
    assert torch.equal(label_propagation.propagated(labels, GRAPH), together)
    assert together.shape == (30, 5)
    assert ((together > 0).sum(1) > 1).any()


def test_labels_are_propagated_to_whoever_edges_lead_to():
    """Two chains, of which one end each is known, or two, and a node apart: of that what is common
    among the known is told, however classes are called."""
    chains = np.array([[0, 1, 2, 4, 5, 6], [1, 2, 3, 5, 6, 7]])
    edges = {"paper--cites--paper": torch.from_numpy(chains)}
    graph = MessageGraph({"paper": 9}, CITES, edges)
    known = torch.tensor([1, 1, 0, 0, 1, 0, 0, 0, 0], dtype=torch.bool)
    values = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0])
    nobody = torch.zeros(9, dtype=torch.bool)
    told = label_propagation.propagated(Labels("paper", values, 2, known, nobody, ~known), graph)
    assert torch.equal(told[:8].argmax(1), values[:8])
    assert (told[:8].max(1).values > 0).all()
    assert (told[:8].min(1).values == 0).all()
    assert torch.allclose(told[8], torch.tensor([1 / 3, 2 / 3]))


def test_the_contribution_is_of_each_group_that_all_three_answered():
    of = {"task": "label", "entity": "all", "metric": "accuracy", "count": 9}
    rows = [
        {**of, "group": group, "model": model, "value": value}
        for group, models in (("overall", (0.8, 0.7, 0.7)), ("tail", (0.6, 0.7)))
        for model, value in zip(("teacher", "mlp", "label propagation"), models, strict=False)
    ]
    assert contribution(means(rows)) == {"overall": 50.0}


def test_a_graph_without_edges_has_nothing_to_compare(tmp_path):
    graph = library(tmp_path / "g", edges=False)
    features = topical(graph, tmp_path / "f")
    with pytest.raises(IsohopError, match="no visible edge of an entity to learn from"):
        compare(graph.path, features, tmp_path / "evaluation.json", SMALL, 1, [1])
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("gnn", "mlp", "propagation", "expected"),
    [
        (0.8, 0.8, 0.5, 100.0),  # the graph adds nothing
        (0.8, 0.5, 0.8, 0.0),  # features add nothing
        (0.8, 0.7, 0.7, 50.0),
        (0.6, 0.7, 0.5, 150.0),  # messages do harm
        (0.6, 0.5, 0.7, 0.0),
        (0.6, 0.6, 0.6, None),
    ],
)
def test_the_contribution_of_features(gnn, mlp, propagation, expected):
    found = feature_contribution(gnn, mlp, propagation)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_means_keep_figures_of_different_things_apart():
    of = {"task": "label", "entity": "all", "group": "overall", "metric": "accuracy", "count": 9}
    rows = [
        {**of, "model": model, "value": value}
        for value, model in ((0.6, "teacher"), (0.8, "teacher"), (0.5, "mlp"))
    ]
    found = {row.model: (row.mean, row.deviation) for row in means(rows)}
    assert found == {"teacher": (0.7, pytest.approx(0.141421)), "mlp": (0.5, 0.0)}
    assert contribution(means(rows)) == {}


@given(st.integers(2, 20), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_distance_and_energy_are_what_all_pairs_and_edges_give(count, width, seed):
    draw = np.random.default_rng(seed)
    values = torch.from_numpy(draw.normal(size=(count, width)).astype(np.float32))
    directed = torch.nn.functional.normalize(values, dim=1)
    pairs = (1 - directed @ directed.T)[~torch.eye(count, dtype=torch.bool)]
    assert mean_average_distance(values) == pytest.approx(float(pairs.mean()), abs=1e-4)
    edges = torch.from_numpy(draw.integers(0, count, (2, 30)))
    graph = MessageGraph({"paper": count}, CITES, {"paper--cites--paper": edges})
    apart = 2 * (values[edges[0]] - values[edges[1]]).square().sum() / values.square().sum()
    assert energy(graph, {"paper": values}, "paper") == pytest.approx(float(apart), rel=1e-3)


def test_rank_falls_to_1_where_all_nodes_are_alike():
    assert effective_rank(torch.eye(8)) == pytest.approx(8)
    one = torch.arange(1.0, 9.0)[:, None] * torch.ones(1, 8)
    assert effective_rank(one) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(4, 4)) == 0
    assert mean_average_distance(one) == pytest.approx(0, abs=1e-6)


def test_what_figures_are_of_is_told_whole_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setattr(terminal.out, "width", 60)
    types = [f"work--work_{role}--author" for role in ("authors", "editors")]
    of = {"task": "label", "entity": "all", "metric": "accuracy", "count": 9, "value": 0.5}
    models = ("teacher", "mlp", "student", "served", "gcn", "graph-mlp", "label propagation")
    layers = [
        LayerFigures(model=m, layer=0, node_type=f"{t}.{m}", energy=0.1, mad=0.1, rank=1.0)
        for m in ("teacher", "gcn")
        for t in types
    ]
    found = Comparison(
        certificate="0" * 32,
        label=None,
        settings=SMALL,
        seeds=(1, 2),
        notes={},
        figures=tuple(means({**of, "group": t, "model": m} for t in types for m in models)),
        contribution={},
        layers=tuple(layers),
    )
    print_comparison(found)
    printed = capsys.readouterr().out
    assert "…" not in printed
    first = "".join(line.split("│")[1].strip() for line in printed.splitlines() if "│" in line)
    assert all(name in first for name in types)


def test_groups_are_printed_in_the_order_of_how_well_they_are_connected(capsys):
    of = {"task": "link", "entity": "all", "metric": "mrr", "model": "teacher", "count": 9}
    groups = ["degree 16-31", "a1--b--c", "isolated", "degree 1", "overall", "degree 2-3"]
    found = Comparison(
        certificate="0" * 32,
        label=None,
        settings=SMALL,
        seeds=(1,),
        notes={},
        figures=tuple(means({**of, "group": group, "value": 0.5} for group in groups)),
        contribution={},
        layers=(),
    )
    print_comparison(found)
    printed = capsys.readouterr().out
    places = [printed.index(group) for group in sorted(groups, key=_by_degree)]
    assert places == sorted(places)
    assert sorted(groups, key=_by_degree) == [
        "overall",
        "isolated",
        "degree 1",
        "degree 2-3",
        "degree 16-31",
        "a1--b--c",
    ]
    assert "±" not in printed
