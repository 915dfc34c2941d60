"""How credible edges are, where it is known which lead anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isohop.coldbrew.links import LinkScore, Query
from isohop.coldbrew.reliability import FEWEST, LEAST, credibility, credible_edges

SOME = st.lists(st.floats(-50, 50), min_size=1, max_size=300)


@given(SOME, SOME)
def test_more_evidence_is_never_less_credible(evidence, anywhere):
    found = credibility(np.sort(np.array(evidence)), np.array(anywhere))
    assert (np.diff(found) >= 0).all()
    assert ((found > 0) & (found <= 1)).all()
    assert found.max() == 1


@given(SOME, SOME, st.integers(-3, 3))
def test_what_evidence_is_measured_by_does_not_matter(evidence, anywhere, power):
    """Edges are compared with random ones alone."""
    evidence, anywhere = np.array(evidence), np.array(anywhere)
    scaled = credibility(2.0**power * evidence, 2.0**power * anywhere)
    np.testing.assert_array_equal(scaled, credibility(evidence, anywhere))


@pytest.mark.parametrize("count", [FEWEST, 1000, 6000, 100_000])
def test_where_nothing_tells_edges_apart_all_are_believed(count):
    for seed in range(10):
        draw = np.random.default_rng(seed)
        assert credibility(draw.normal(size=count), draw.normal(size=count)).min() > 0.3
    assert (credibility(np.full(500, 0.97), np.full(500, 0.97)) == 1).all()


@pytest.mark.parametrize("spurious", [0.1, 0.3, 0.5])
def test_the_credible_part_is_the_part_that_is_true(spurious):
    draw = np.random.default_rng(1)
    count = 50_000
    wrong = draw.random(count) < spurious
    evidence = np.where(wrong, draw.normal(-4, 1, count), draw.normal(2, 1, count))
    found = credibility(evidence, draw.normal(-4, 1, count))
    assert found[~wrong].mean() > 0.9
    assert found[wrong].mean() < 0.2
    assert found.min() == pytest.approx(LEAST, abs=0.02)


def test_edges_that_are_all_likelier_than_most_nodes_are_told_apart_by_how_much():
    """Learned from themselves, wrong edges too are likelier than random ones."""
    draw = np.random.default_rng(3)
    count = 50_000
    wrong = draw.random(count) < 0.5
    evidence = np.where(wrong, draw.normal(1.5, 1, count), draw.normal(4.5, 1, count))
    found = credibility(evidence, draw.normal(0, 1, count))
    pairs = found[wrong][:, None], draw.choice(found[~wrong], 200)
    assert (np.less(*pairs).mean() + np.less_equal(*pairs).mean()) / 2 > 0.9


def test_where_no_edge_is_wrong_hardly_any_is_doubtful():
    draw = np.random.default_rng(4)
    found = credibility(draw.normal(5, 1, 10_000), draw.normal(0, 1, 10_000))
    assert (found < 0.5).mean() < 0.001
    assert (credibility(np.full(500, 9.0), draw.normal(0, 1, 500)) == 1).all()


def world(spurious: float, count: int = 4000) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Nodes in ten groups; true edges lead to the own group."""
    draw = np.random.default_rng(2)
    source, target = draw.integers(0, 500, count), draw.integers(0, 50, count) * 10
    wrong = draw.random(count) < spurious
    target = np.where(wrong, draw.integers(0, 500, count), target + source % 10)
    return {"a--r--a": torch.from_numpy(np.stack([source, target]))}, wrong


GROUPS = torch.nn.functional.one_hot(torch.arange(500) % 10, 10).float()


def judged(
    edges: dict[str, torch.Tensor], groups: torch.Tensor = GROUPS
) -> dict[str, torch.Tensor]:
    asked: list[int] = []

    def without(left_out):
        asked.append(len(left_out.get("a--r--a", ())))
        return {"a": groups}

    query = Query("a--r--a", "a", "a", inverse=False)
    score = LinkScore(("a--r--a",), 10, "distmult", 10.0)
    with torch.no_grad():
        found = credible_edges((query,), edges, {"a": 500}, without, score, 1)
    # Each edge is judged by messages that it takes no part in.
    assert sum(asked) in (0, edges["a--r--a"].shape[1])
    return found


def test_edges_that_lead_anywhere_are_the_least_credible():
    edges, wrong = world(0.3)
    credible = judged(edges)["a--r--a"].numpy()
    elsewhere = wrong & (edges["a--r--a"][0].numpy() % 10 != edges["a--r--a"][1].numpy() % 10)
    assert credible[~wrong].mean() > 0.9
    assert credible[elsewhere].mean() < 0.3


def test_among_nodes_that_are_all_alike_every_edge_is_believed():
    """Though their scores differ by rounding."""
    draw = torch.Generator().manual_seed(1)
    alike = torch.nn.functional.normalize(torch.rand(1, 10, generator=draw), dim=1).expand(500, 10)
    assert judged(world(0.3)[0], alike)["a--r--a"].min() > 0.3
    nearly = alike * (1 + 1e-7 * torch.randn(500, 1, generator=draw))
    assert judged(world(0.3)[0], nearly)["a--r--a"].min() > 0.3


def test_edges_that_lead_back_tell_nothing_of_each_other():
    ends, _ = world(0.3)
    ends = torch.cat([ends["a--r--a"], ends["a--r--a"].flip(0)], 1).unique(dim=1)
    pairs = ends.sort(0).values[0] * 500 + ends.sort(0).values[1]
    asked = []

    def without(left_out):
        out = torch.zeros(len(pairs), dtype=torch.bool)
        out[left_out["a--r--a"]] = True
        assert not torch.isin(pairs[out], pairs[~out]).any()
        asked.append(out.float().mean().item())
        return {"a": torch.ones(500, 10)}

    query = Query("a--r--a", "a", "a", inverse=False)
    with torch.no_grad():
        score = LinkScore(("a--r--a",), 10, "distmult", 10.0)
        credible_edges((query,), {"a--r--a": ends}, {"a": 500}, without, score, 1)
    assert asked == pytest.approx([0.2] * 5, abs=0.03)


def test_an_edge_from_a_node_to_itself_is_believed_and_says_nothing_of_others():
    edges, wrong = world(0.3)
    ends = torch.cat([edges["a--r--a"], torch.arange(500).repeat(2, 9)], 1)
    credible = judged({"a--r--a": ends})["a--r--a"].numpy()
    assert (credible[np.equal(*ends.numpy())] == 1).all()
    assert credible[:4000][~wrong].mean() > 0.8
    elsewhere = wrong & (ends[0, :4000].numpy() % 10 != ends[1, :4000].numpy() % 10)
    assert credible[:4000][elsewhere].mean() < 0.35


def test_edges_are_compared_with_what_is_none():
    """Where most pairs are edges, a random pair is mostly as true as an edge that is judged."""
    draw = np.random.default_rng(5)
    there = draw.random((3000, 3)) < 0.65
    # Each target knows from which sources edges lead there, some of them better than others.
    known = (there - 0.5) * draw.uniform(0.2, 1, (3000, 1))
    vectors = {
        "airport": torch.eye(3),
        "plane": torch.nn.functional.normalize(torch.from_numpy(known).float(), dim=1),
    }
    edges = {"airport--r--plane": torch.from_numpy(np.stack(np.nonzero(there.T)))}
    query = Query("airport--r--plane", "airport", "plane", inverse=False)
    score = LinkScore(("airport--r--plane",), 3, "distmult", 10.0)
    for ends in (
        edges,
        {"airport--r--plane": torch.cartesian_prod(*map(torch.arange, (3, 3000))).T},
    ):
        with torch.no_grad():
            counts = {"airport": 3, "plane": 3000}
            found = credible_edges((query,), ends, counts, lambda _: vectors, score, 1)
        assert found["airport--r--plane"].min() > 0.9


def test_a_type_of_few_edges_is_not_judged():
    edges, _ = world(0.3, FEWEST - 1)
    ends = edges["a--r--a"]
    ends = ends[:, ends[0] != ends[1]]
    loops = torch.arange(500).expand(2, -1)
    assert judged({"a--r--a": torch.cat([ends, loops], 1)}) == {}
