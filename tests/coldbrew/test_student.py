"""Latent neighbours."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import SHUT, GatedMLP, LatentIndex, Student, latent_index

SETTINGS = DistillSettings(dimensions=8, latent_neighbours=3)


def unit(rows: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(
        torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)), dim=1
    )


@pytest.mark.parametrize("own", [False, True])
def test_latent_neighbours_are_the_softmax_over_the_best_inner_products(own):
    taught, asked = unit(30), unit(30, 1)
    ids = torch.arange(30)
    index = latent_index(taught, torch.ones(30, dtype=torch.bool), SETTINGS, 0)
    score = asked @ taught.T
    if own:
        score.fill_diagonal_(-torch.inf)
    best, place = score.topk(3, dim=1)
    weight = torch.softmax(best / SETTINGS.latent_temperature, 1)
    expected = (weight[:, :, None] * taught[place]).sum(1)
    latent, nearest = index.latent(asked, ids if own else None)
    torch.testing.assert_close(latent, expected)
    torch.testing.assert_close(nearest, best[:, 0])


def test_among_many_nearly_all_of_the_nearest_are_found_and_by_known_centres_the_same():
    random = torch.Generator().manual_seed(3)
    kinds = torch.randn(40, 16, generator=random)
    drawn = kinds[torch.randint(40, (12_500,), generator=random)]
    vectors = functional.normalize(drawn + torch.randn(12_500, 16, generator=random), dim=1)
    taught, asked = vectors[:12_000], vectors[12_000:]
    everywhere = torch.ones(len(taught), dtype=torch.bool)
    index = latent_index(taught, everywhere, SETTINGS, 0)
    assert len(index.centres) > 0
    latent, nearest = index.latent(asked)
    best = (asked @ taught.T).topk(3, dim=1).values
    assert (nearest > best[:, 0] - 1e-5).float().mean() > 0.85
    assert (best[:, 0] - nearest).mean() < 0.01
    assert torch.isfinite(latent).all()
    again = LatentIndex(index.candidates, index.vectors, SETTINGS, index.centres)
    for one, other in zip(again.latent(asked), (latent, nearest), strict=True):
        torch.testing.assert_close(one, other)
    own = torch.arange(len(taught))
    _, nearest = index.latent(taught, own)
    assert (nearest < 1 - 1e-6).all()


@pytest.mark.parametrize("at_once", [7, 100, 1000])
def test_a_row_hears_of_the_same_neighbours_whatever_rows_it_comes_with(at_once):
    random = torch.Generator().manual_seed(5)
    asked, taught = (
        functional.normalize(torch.randn(count, 64, generator=random), dim=1)
        for count in (3000, 1200)
    )
    index = latent_index(taught, torch.ones(len(taught), dtype=torch.bool), SETTINGS, 0)
    together = index.latent(asked)
    apart = [index.latent(part) for part in asked.split(at_once)]
    for place in range(2):
        assert torch.equal(together[place], torch.cat([told[place] for told in apart]))


def test_only_nodes_with_edges_are_found():
    taught = unit(10)
    connected = torch.arange(10) < 4
    index = latent_index(taught, connected, SETTINGS, 0)
    changed = torch.where(connected[:, None], taught, -taught)
    again = latent_index(changed, connected, SETTINGS, 0)
    torch.testing.assert_close(index.latent(unit(5, 2)), again.latent(unit(5, 2)))


@pytest.mark.parametrize("connected", [0, 1])
def test_where_nobody_else_is_to_be_found_the_latent_vector_is_zero(connected):
    taught = unit(2)
    index = latent_index(taught, torch.arange(2) < connected, SETTINGS, 0)
    latent, nearest = index.latent(taught[:1], torch.tensor([0]))
    assert (latent.abs().sum(), nearest.sum()) == (0, 0)


def test_the_student_needs_no_edges():
    student = Student({"paper": 7}, SETTINGS).eval()
    out = student({"paper": torch.randn(1, 7)}, {"paper": torch.zeros(1, 4)})["paper"]
    assert out.shape == (1, 4)
    assert torch.isfinite(out).all()


def test_the_gate_begins_nearly_shut_and_what_is_shut_out_is_not_heard():
    """Latent neighbours, vectors of length 1, would drown a node's own features from the start."""
    torch.manual_seed(0)
    module = GatedMLP(6 + 4, 4, 0.0).eval()
    own, latent = torch.randn(32, 6), torch.randn(32, 4)
    both, alone = torch.cat([own, latent], 1), torch.cat([own, torch.zeros(32, 4)], 1)
    scaled = torch.cat([own, latent * torch.sigmoid(torch.tensor(SHUT))], 1)
    assert torch.allclose(module(both), module.mlp(scaled), atol=1e-6)
    with torch.no_grad():
        module.gate.bias.fill_(-100.0)
    assert torch.equal(module(both), module(alone))


def test_who_does_not_listen_hears_no_latent_neighbours():
    torch.manual_seed(0)
    student = Student({"paper": 6}, SETTINGS).eval()
    own, latent = {"paper": torch.randn(9, 6)}, {"paper": torch.randn(9, SETTINGS.part)}
    nothing = {"paper": torch.zeros(9, SETTINGS.part)}
    assert not torch.equal(student(own, latent)["paper"], student(own, nothing)["paper"])
    student.hear("paper", False)
    assert torch.equal(student(own, latent)["paper"], student(own, nothing)["paper"])
    again = Student({"paper": 6}, SETTINGS).eval()
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(own, latent)["paper"], student(own, nothing)["paper"])


def test_training_opens_the_gate_where_latent_neighbours_tell_more_than_features():
    torch.manual_seed(0)
    module = GatedMLP(6 + 4, 4, 0.0)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(200):
        own, latent = torch.randn(64, 6), torch.randn(64, 4)
        optimiser.zero_grad()
        (module(torch.cat([own, latent], 1)) - latent).square().mean().backward()
        optimiser.step()
    assert module.gate.bias.item() > SHUT
