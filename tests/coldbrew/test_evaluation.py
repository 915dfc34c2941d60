"""Figures of a label are of the groups that they are named after."""

from __future__ import annotations

import re

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from isohop.coldbrew.evaluation import by_degree, label_figures
from isohop.coldbrew.labels import Labels
from isohop.graph.holdout import HEAD, ISOLATION, MIDDLE, NO_EDGES, TAIL


@given(st.lists(st.integers(0, 2**40), max_size=60))
def test_each_node_that_has_edges_is_of_the_one_group_whose_degrees_its_own_is_among(degrees):
    degree = np.array(degrees, np.int64)
    groups = by_degree(degree)
    of = np.zeros(len(degree), np.int64)
    for name, mask in groups.items():
        least, most = re.fullmatch(r"degree (\d+)(?:-(\d+))?", name).groups()
        assert mask.any()
        assert (degree[mask] >= int(least)).all()
        assert (degree[mask] <= int(most or least)).all()
        of += mask
    assert np.array_equal(of, degree > 0)


def test_a_label_is_told_by_group_of_test_nodes_alone():
    groups = np.array([HEAD, HEAD, TAIL, MIDDLE, ISOLATION, NO_EDGES, MIDDLE, MIDDLE])
    degree = np.array([9, 8, 1, 2, 0, 0, 2, 3])
    test = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0], dtype=torch.bool)
    right = torch.tensor([1, 0, 1, 1, 1, 0, 0, 0], dtype=torch.bool)
    nobody = torch.zeros(8, dtype=torch.bool)
    labels = Labels("paper", torch.zeros(8, dtype=torch.int64), 2, ~test, nobody, test)
    answers = torch.stack([right.float(), (~right).float()], 1)
    figures = list(label_figures(labels, groups, degree, {"teacher": answers, "none": None}))
    assert {(one.task, one.metric, one.model) for one in figures} == {
        ("label", "accuracy", "teacher")
    }
    of_all = {one.group: (one.value, one.count) for one in figures if one.entity == "all"}
    of_papers = {one.group: (one.value, one.count) for one in figures if one.entity == "paper"}
    assert of_all == of_papers
    assert of_all == {
        "overall": (0.75, 4),
        "head": (0.5, 2),
        "tail": (1.0, 1),
        "isolated": (0.5, 2),
        "degree 1": (1.0, 1),
        "degree 2-3": (1.0, 1),
        "degree 8-15": (0.5, 2),
    }
