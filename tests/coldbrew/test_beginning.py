"""What models begin as."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isohop.coldbrew.beginning import begin_alike, begin_as_best
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import Student
from isohop.coldbrew.tables import ResidualMLP


def drawn(*shape: int) -> torch.Tensor:
    """Of a normal distribution, others for each shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_layers_that_read_equally_many_features_begin_as_one_and_others_for_themselves():
    layers = [nn.Linear(width, 4) for width in (9, 6, 9)]
    begin_alike(layers)
    assert torch.equal(layers[0].weight, layers[2].weight)
    for layer in layers:
        torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(4))
        assert not layer.bias.any()


def test_more_dimensions_than_features_keep_all_that_features_say():
    layer = nn.Linear(3, 8)
    begin_alike([layer])
    features = drawn(20, 3)
    torch.testing.assert_close(
        torch.cdist(layer(features), layer(features)).detach(),
        torch.cdist(features, features),
        atol=1e-4,
        rtol=1e-4,
    )


def test_the_best_linear_map_is_found():
    features, weight, bias = drawn(200, 5) + 3, drawn(4, 5), drawn(4)
    layer = nn.Linear(5, 4)
    wanted = features @ weight.T + bias
    begin_as_best(layer, zip(features.split(64), wanted.split(64), strict=True))
    torch.testing.assert_close(layer.weight.detach(), weight, atol=0.02, rtol=0.01)
    assert (layer(features) - wanted).square().mean() < 1e-4 * wanted.var()


@pytest.mark.parametrize("rows", [0, 1])
def test_of_few_rows_or_of_features_that_say_nothing_it_is_finite(rows):
    for features in (torch.zeros(rows, 5), torch.ones(rows, 5)):
        layer = nn.Linear(5, 4)
        begin_as_best(layer, [(features, torch.ones(rows, 4))])
        assert torch.isfinite(layer.weight).all()
        if rows:
            torch.testing.assert_close(layer(features).detach(), torch.ones(rows, 4))


def test_an_mlp_begins_as_its_linear_layer():
    module = ResidualMLP(6, 4, 0.0)
    rows = drawn(10, 6)
    assert torch.equal(module(rows), module.linear(rows))


def test_a_student_begins_with_what_is_linear_in_its_evidence():
    """In features, and in what its latent neighbours say."""
    features, latent = drawn(400, 6), drawn(400, 4)
    taught = features[:, :4] + latent
    student = Student({"paper": 6}, DistillSettings(dimensions=8)).eval()
    connected = torch.arange(400) < 300
    student.begin_to_guess("paper", features, taught, connected)
    student.begin("paper", features, latent, taught, connected)
    told = student({"paper": features}, {"paper": latent})["paper"]
    guessed = student.first({"paper": features})["paper"]
    assert (told - taught).square().mean() < 1e-3
    assert 0.9 < (guessed - taught).square().mean() < 1.1


def test_a_student_begins_with_nodes_that_have_edges():
    features, taught = drawn(400, 6), drawn(400, 4)
    connected = torch.arange(400) < 300
    students = [Student({"paper": 6}, DistillSettings(dimensions=8)).eval() for _ in range(2)]
    students[0].begin_to_guess("paper", features, taught, connected)
    taught[300:] += 1
    students[1].begin_to_guess("paper", features, taught, connected)
    one, other = (student.first({"paper": features})["paper"] for student in students)
    assert torch.equal(one, other)
