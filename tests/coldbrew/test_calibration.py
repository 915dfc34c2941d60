"""Whether confidence may be believed is told of what nothing has seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isohop.coldbrew.calibration import BINS, FEWEST, calibration_error, reliability


@given(st.integers(0, 3000), st.integers(1, 5000), st.integers(0, 2**31 - 1))
def test_no_answer_is_lost_and_their_order_says_nothing(count, values, seed):
    """However many of them are as sure as each other."""
    draw = np.random.default_rng(seed)
    sure = draw.integers(0, values, count) / values
    right = draw.random(count) < sure
    bins = reliability(sure, right)
    order = draw.permutation(count)
    assert reliability(sure[order], right[order]) == bins
    if count < FEWEST:
        assert bins == ()
        return
    assert 1 <= len(bins) <= min(BINS, count // FEWEST)
    assert sum(one.count for one in bins) == count
    assert sum(one.count * one.right for one in bins) == pytest.approx(right.sum(), abs=0.01)
    assert min(one.count for one in bins) >= FEWEST
    apart = [one.confidence for one in bins]
    assert apart == sorted(apart)
    if len(np.unique(sure)) == count:
        assert len(bins) == min(BINS, count // FEWEST)
    assert 0 <= calibration_error(bins) <= 1


def test_answers_that_are_as_sure_are_of_one_bin_in_whatever_order_they_come():
    """Of one type of edges all may be right, and of another none."""
    (only,) = reliability(np.full(1000, 0.7), np.arange(1000) < 700)
    assert (only.count, only.right) == (1000, 0.7)
    assert calibration_error([only]) == pytest.approx(0)


def test_a_few_that_are_less_sure_than_all_others_are_no_bin():
    sure = np.where(np.arange(1000) < 3, 0.1, 0.8)
    (only,) = reliability(sure, np.ones(1000, bool))
    assert only.count == 1000


def test_who_is_as_often_right_as_sure_is_off_by_nothing_and_who_boasts_is():
    sure = np.repeat(np.arange(0.05, 1, 0.1), 1000)
    right = np.random.default_rng(1).random(len(sure)) < sure
    assert calibration_error(reliability(sure, right)) < 0.02
    boasts = np.where(sure > 0.5, 0.95, 0.05)
    assert calibration_error(reliability(boasts, right)) > 0.15


def test_of_what_is_not_known_nothing_is_said():
    assert reliability(np.full(500, np.nan, np.float32), np.ones(500, bool)) == ()
    assert calibration_error(()) is None
    sure = np.where(np.arange(500) < 300, np.nan, 1.0)
    some = reliability(sure, np.arange(500) >= 300)
    assert [(one.count, one.right) for one in some] == [(200, 1.0)]
