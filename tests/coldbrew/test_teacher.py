"""Teachers of every kind, against their definitions and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.structural import structural_nodes
from isohop.coldbrew.tables import module_key
from isohop.coldbrew.teacher import BODIES, LoneTeacher, Teacher

CITES, WROTE = "paper--cites--paper", "author--wrote--paper"
TYPES = {CITES: ("paper", "paper"), WROTE: ("author", "paper")}
COUNTS = {"paper": 30, "author": 6}
EDGES = {
    CITES: torch.from_numpy(np.random.default_rng(0).integers(0, 25, (2, 60))),
    WROTE: torch.stack([torch.arange(25) % 5, torch.arange(25)]),
}
"""Papers 25 to 29 and author 5 have no edge."""
GRAPH = MessageGraph(COUNTS, TYPES, EDGES)


def inputs(types: dict[str, tuple[str, str]] = TYPES) -> Inputs:
    random = torch.Generator().manual_seed(1)
    features = {name: torch.randn(count, 7, generator=random) for name, count in COUNTS.items()}
    return Inputs(COUNTS, types, {name: EDGES[name] for name in types}, features, tuple(COUNTS))


def settings(kind: str, **chosen: object) -> DistillSettings:
    return DistillSettings.model_validate(
        {"teacher": kind, "dimensions": 10, "layers": 2, "hops": 3, **chosen}
    )


def teacher(kind: str, **chosen: object) -> Teacher:
    torch.manual_seed(0)
    return Teacher(inputs(), structural_nodes(GRAPH, 2), settings(kind, **chosen)).eval()


@pytest.mark.parametrize("kind", BODIES)
def test_a_type_may_have_any_name(kind):
    """That of what a container of torch can do, too."""
    names = [name for name in dir(torch.nn.ModuleDict) if not name.startswith("__")]
    names += ["training", "a.b", "a%b"]
    types = {f"{name}--{name}--{name}": (name, name) for name in names} | {"items": ("a.b", "keys")}
    nobody = {name: torch.zeros(0, dtype=torch.int64) for name in names}
    edges = {name: torch.zeros((2, 1), dtype=torch.int64) for name in types}
    features = {name: torch.ones(1, 7) for name in names}
    about = Inputs(dict.fromkeys(names, 1), types, edges, features, tuple(names))
    of = Teacher(about, nobody, settings(kind)).eval()
    graph = MessageGraph(about.counts, types, edges)
    assert told(of, features, graph).keys() == set(names)


def told(of: Teacher, features: dict[str, torch.Tensor], graph: MessageGraph = GRAPH):
    with torch.no_grad():
        return of(graph, features, graph.weights({}))


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_what_a_teacher_says_of_nodes_without_edges_it_says_without_the_graph(kind, residual):
    of = teacher(kind, initial_residual=residual)
    features = inputs().features
    for name, nodes in (("paper", slice(25, 30)), ("author", slice(5, 6))):
        alone = LoneTeacher(name, 7, settings(kind, initial_residual=residual)).eval()
        alone.teacher.load_state_dict(alone.weights_of(of.state_dict()))
        with torch.no_grad():
            said, nothing = (alone(rows) for rows in (features[name][nodes], torch.zeros(0, 7)))
        expected = functional.normalize(told(of, features)[name][nodes], dim=1)
        torch.testing.assert_close(said, expected)
        assert nothing.shape == (0, 5)


@pytest.mark.parametrize("kind", BODIES)
def test_a_node_hears_of_its_neighbours_and_of_nobody_who_cannot_be_reached(kind):
    of, features = teacher(kind), dict(inputs().features)
    before = told(of, features)
    features["author"] = features["author"].clone()
    features["author"][2] += 5
    after = told(of, features)
    wrote = torch.arange(25)[torch.arange(25) % 5 == 2]
    assert (after["paper"][wrote] != before["paper"][wrote]).any(dim=1).all()
    assert torch.equal(after["paper"][25:], before["paper"][25:])
    assert torch.equal(after["author"][5], before["author"][5])
    assert all(torch.isfinite(values).all() for values in after.values())


@pytest.mark.parametrize("kind", BODIES)
def test_a_node_out_of_place_is_as_one_that_has_no_place(kind):
    of = teacher(kind)
    for places in of.structural:
        for own in places.values():
            torch.nn.init.normal_(own)
    features = inputs().features
    everybody = {name: torch.ones(count, dtype=torch.bool) for name, count in COUNTS.items()}
    with torch.no_grad():
        without = of(GRAPH, features, GRAPH.weights({}), everybody)
        for places in of.structural:
            for own in places.values():
                own.zero_()
    assert all(torch.equal(values, without[n]) for n, values in told(of, features).items())


def test_a_convolution_without_residual_is_a_gcn():
    features = inputs().features
    settings = {"teacher": "convolution", "dimensions": 10, "layers": 2, "initial_residual": 0.0}
    of = Teacher(
        inputs({CITES: TYPES[CITES]}),
        {name: torch.zeros(0, dtype=torch.int64) for name in COUNTS},
        DistillSettings.model_validate(settings),
    ).eval()
    graph = MessageGraph(COUNTS, {CITES: TYPES[CITES]}, {CITES: EDGES[CITES]})
    adjacent = torch.zeros(30, 30)
    for one, other in EDGES[CITES].T.tolist():
        if one != other:
            adjacent[one, other] += 1
            adjacent[other, one] += 1
    looped = adjacent + torch.eye(30)
    root = looped.sum(1).sqrt()
    step = looped / root[:, None] / root
    with torch.no_grad():
        first = functional.relu(step @ of.body.project(features)["paper"])
        expected = of.body.layers[module_key("paper")][0](step @ first)
    torch.testing.assert_close(told(of, features, graph)["paper"], expected)


def test_how_long_features_are_matters_to_no_convolution():
    of, features = teacher("convolution"), inputs().features
    longer = {name: 100 * values for name, values in features.items()}
    for name, values in told(of, features).items():
        torch.testing.assert_close(values, told(of, longer)[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_a_teacher_begins_with_all_types_in_one_space(kind, residual):
    """What is alike is told alike, whatever its type, before anything is learned."""
    of, features = teacher(kind, initial_residual=residual), dict(inputs().features)
    features["author"] = features["author"].clone()
    features["author"][5] = features["paper"][27]
    held = told(of, features)
    torch.testing.assert_close(held["author"][5], held["paper"][27])


@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_messages_begin_as_the_sum_of_what_a_node_and_its_relations_hold(residual):
    of, features = (
        teacher("message-passing", initial_residual=residual, layers=1),
        inputs().features,
    )
    with torch.no_grad():
        begun = of.body.project(features)
        weights = GRAPH.weights({})
        heard = {n: values.clone() for n, values in begun.items()}
        for relation in GRAPH.relations:
            heard[relation.target] += GRAPH.mean(relation, begun[relation.source], weights)
        expected = {
            n: functional.layer_norm((1 - residual) * heard[n] + residual * begun[n], (5,))
            for n in COUNTS
        }
    for name, values in told(of, features).items():
        torch.testing.assert_close(values, expected[name])


def test_a_hop_wise_teacher_begins_with_the_mean_of_all_hops():
    of, features = teacher("hop-wise"), inputs().features
    with torch.no_grad():
        walk = GRAPH.hops(of.body.project(features), GRAPH.weights({}), 3)
        expected = of.read(
            {n: functional.relu(torch.stack([at[n] for at in walk]).mean(0)) for n in COUNTS}
        )
    for name, values in told(of, features).items():
        torch.testing.assert_close(values, expected[name])


@pytest.mark.parametrize("kind", BODIES)
def test_many_layers_still_tell_nodes_apart(kind):
    """With an initial residual, that is: without one 32 convolutions make all alike."""
    of = teacher(kind, layers=32, hops=32, initial_residual=0.2)
    values = functional.normalize(told(of, inputs().features)["paper"], dim=1)
    assert (values @ values.T)[0, 1:].min() < 0.9


def test_only_nodes_beside_enough_known_labels_have_a_place():
    known = torch.arange(30) < 10
    found = structural_nodes(GRAPH, 2, ("paper", known))
    assert len(found["paper"]) == 0
    # Authors 0 to 4 wrote papers 0 to 9, two each.
    assert found["author"].tolist() == [0, 1, 2, 3, 4]
    assert len(structural_nodes(GRAPH, 3, ("paper", known))["author"]) == 0


def test_edges_that_are_left_out_place_nobody():
    every, none = structural_nodes(GRAPH, 2), {name: torch.arange(60) for name in TYPES}
    without = structural_nodes(GRAPH, 2, left_out={WROTE: torch.arange(0, 25, 5)})
    assert every["author"].tolist() == [0, 1, 2, 3, 4]
    assert without["author"].tolist() == [1, 2, 3, 4]
    assert not any(
        map(len, structural_nodes(GRAPH, 1, left_out={**none, WROTE: torch.arange(25)}).values())
    )
