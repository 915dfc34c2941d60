"""What is served of each node, and how sure one may be of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from isohop.coldbrew.calibration import calibration_error, reliability
from isohop.coldbrew.choice import Choice
from isohop.coldbrew.choosing import (
    FEWEST,
    Edges,
    Evidence,
    Trial,
    blended,
    confidence_in,
    confidence_of,
    learn_choice,
    share_of,
    sources,
    with_confidence,
)
from isohop.coldbrew.trials import first_places

NODES, CLASSES = 4000, 5


def noisy(truth: torch.Tensor, noise: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    ends = functional.one_hot(truth, CLASSES).float()
    drawn = torch.randn(ends.shape, generator=random)
    return functional.normalize(ends + noise[:, None] * drawn, dim=1)


def trial(seed: int, count: int = NODES, guess: float = 0.6, edges: Edges = "some") -> Trial:
    """The teacher is right about nodes of many edges, the student about as right everywhere."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, CLASSES, (count,), generator=random)
    degree = torch.randint(0, 20, (count,), generator=random).float()
    taught = noisy(truth, 3 / (1 + degree), random)
    guessed = noisy(truth, torch.full((count,), guess), random)
    evidence = Evidence.of(degree, taught, guessed, torch.rand(count, generator=random))
    return Trial(
        taught,
        guessed,
        evidence,
        partial(blended, unit=False),
        lambda vectors: functional.cross_entropy(10 * vectors, truth, reduction="none"),
        lambda vectors: (vectors.argmax(1) == truth).float(),
        edges=edges,
    )


def right(of: Trial, share: torch.Tensor, rows: torch.Tensor) -> float:
    return float(of.right(of.served(share))[rows].float().mean())


def test_what_is_served_is_as_good_as_the_better_of_both_whatever_the_degree():
    choice, other = learn_choice([trial(1)]), trial(2)
    share = share_of(choice, other.evidence)
    for degree in range(1, 20):
        rows = other.evidence.degree == degree
        single = [right(other, torch.full((NODES,), whole), rows) for whole in (0.0, 1.0)]
        noise = 2 * (0.25 / int(rows.sum())) ** 0.5
        assert right(other, share, rows) >= max(single) - noise
    few, many = (share[other.evidence.degree == degree].mean() for degree in (1, 19))
    assert few < 0.5 < many


def test_the_teacher_serves_nodes_that_keep_their_edges_where_it_is_better_whatever_others_say():
    """Nodes that lost edges for the occasion are better known to the student than nodes that have
    few."""
    lost, keep = trial(1, guess=0.1), trial(2, guess=1.0, edges="all")
    choice, other = learn_choice([lost, keep]), trial(3, guess=1.0)
    assert (share_of(choice.model_copy(update={"teacher_from": None}), other.evidence) < 1).any()
    share = share_of(choice, other.evidence)
    for degree in range(4, 20):
        rows = other.evidence.degree == degree
        noise = 2 * (0.25 / int(rows.sum())) ** 0.5
        assert right(other, share, rows) >= right(other, torch.ones(NODES), rows) - noise
    assert (share[other.evidence.degree >= 8] == 1).all()
    assert (share[other.evidence.degree == 1] < 1).all()


def test_where_nobody_keeps_many_edges_a_blend_is_not_given_up():
    keep = trial(2, edges="all")
    few = replace(keep, evidence=replace(keep.evidence, degree=keep.evidence.degree.clamp(max=1)))
    assert learn_choice([trial(1), few]).teacher_from is None


def test_of_too_few_nodes_that_keep_their_edges_no_degree_is_learned():
    lost, keep = trial(1, guess=0.1), trial(2, FEWEST - 1, guess=1.0, edges="all")
    assert learn_choice([lost, keep]).teacher_from is None


@pytest.mark.parametrize("candidates", [1, 4, 10, 19, 40, 99, 100, 1000])
def test_an_answer_by_chance_is_hardly_ever_right(candidates):
    places = first_places(candidates)
    assert 1 <= places <= 10
    assert places == 1 or places <= candidates / 10


def test_confidence_holds_for_nodes_it_was_not_learned_from():
    known, other = trial(1), trial(2)
    choice = with_confidence(learn_choice([known]), [known])
    bins = reliability(*(one.numpy() for one in confidence_in(choice, [other])))
    assert sum(one.count for one in bins) == len(other.taught)
    assert bins[-1].confidence - bins[0].confidence > 0.2
    assert bins[-1].right - bins[0].right > 0.2
    assert calibration_error(bins) < 0.06


def test_a_node_without_edges_is_the_students_alone():
    of = trial(3)
    share = share_of(learn_choice([of]), of.evidence)
    alone = of.evidence.degree == 0
    assert (share[alone] == 0).all()
    assert torch.equal(of.served(share)[alone], of.guessed[alone])
    assert set(sources(share, of.evidence.degree)[alone.numpy()]) == {"student"}


def set_aside(seed: int, taught: float, guessed: float, count: int = NODES) -> Trial:
    """Nodes without edges, and how much noise there is in what is said of them."""
    random = torch.Generator().manual_seed(seed)
    found = trial(seed, count, edges="none")
    truth = torch.randint(0, CLASSES, (count,), generator=random)
    said = (noisy(truth, torch.full((count,), noise), random) for noise in (taught, guessed))
    return replace(
        found,
        taught=next(said),
        guessed=next(said),
        evidence=replace(found.evidence, degree=torch.zeros(count)),
        worth=lambda vectors: (vectors.argmax(1) == truth).float(),
    )


def test_without_edges_both_are_heard_where_together_they_know_more():
    choice = learn_choice([trial(1), set_aside(2, 0.6, 0.6)])
    assert choice.without_edges == 0.5
    other = set_aside(3, 0.6, 0.6)
    share = share_of(choice, other.evidence)
    both, teacher, student = (
        float(other.right(other.served(one)).float().mean())
        for one in (share, torch.ones(NODES), torch.zeros(NODES))
    )
    assert both > max(teacher, student) + 0.03
    # Nobody heard of an edge.
    assert set(sources(share, other.evidence.degree)) == {"student"}


@pytest.mark.parametrize(
    ("taught", "guessed", "count"), [(3.0, 0.3, NODES), (0.6, 0.6, FEWEST - 1)]
)
def test_where_the_teacher_adds_nothing_or_too_few_were_asked_the_student_is_alone(
    taught, guessed, count
):
    assert learn_choice([trial(1), set_aside(2, taught, guessed, count)]).without_edges == 0


def test_of_too_few_trials_nothing_is_learned_and_no_confidence_told():
    few = trial(1, FEWEST - 1)
    choice = with_confidence(learn_choice([few]), [few])
    assert choice == Choice()
    evidence = trial(2).evidence
    assert (share_of(choice, evidence)[evidence.degree > 0] > 0.5).all()
    assert torch.isnan(confidence_of(choice, evidence)).all()


@given(st.integers(0, 2**31 - 1))
def test_a_blend_has_length_1_and_its_ends_are_the_vectors_themselves(seed):
    draw = np.random.default_rng(seed)
    taught, guessed = (
        functional.normalize(torch.from_numpy(draw.normal(size=(9, 4)).astype(np.float32)), dim=1)
        for _ in range(2)
    )
    share = torch.from_numpy(draw.choice([0.0, 0.3, 1.0], 9).astype(np.float32))
    mixed = blended(taught, guessed, share)
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(9))
    assert torch.equal(mixed[share == 1], taught[share == 1])
    assert torch.equal(mixed[share == 0], guessed[share == 0])
    for source, part in zip(sources(share, torch.ones(9)), share, strict=True):
        assert source == {0.0: "student", 1.0: "teacher"}.get(float(part), "blend")


@pytest.mark.parametrize(("count", "believed"), [(FEWEST, False), (FEWEST // 3, True)])
def test_what_has_no_edges_is_believed_as_far_as_nodes_set_aside_are(count, believed):
    """Unless these are too few."""
    found = trial(3, count)
    nothing = replace(found.evidence, degree=torch.zeros(count))
    wrong = torch.zeros(count)
    aside = replace(found, evidence=nothing, worth=lambda vectors: wrong, edges="none")
    trials, other = [trial(1), aside], trial(2)
    choice = with_confidence(learn_choice(trials), trials)
    alone = other.evidence.degree == 0
    confidence = confidence_of(choice, other.evidence)
    assert (confidence[alone].mean() > 0.5) == believed
    assert confidence[~alone].mean() > 0.5
