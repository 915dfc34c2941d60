"""Whether confidence may be believed is told of what nothing has seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isohop.coldbrew.calibration import BINS, calibration_error, reliability

ANSWERS = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80)


@given(ANSWERS, st.randoms(use_true_random=False))
def test_no_answer_is_lost_and_their_order_says_nothing(answers, draw):
    sure, right = map(np.array, zip(*answers, strict=True))
    bins = reliability(sure, right)
    assert len(bins) == min(BINS, len(answers))
    assert sum(one.count for one in bins) == len(answers)
    assert max(one.count for one in bins) - min(one.count for one in bins) <= 1
    assert sum(one.count * one.right for one in bins) == pytest.approx(right.sum(), abs=1e-3)
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)
    error = calibration_error(bins)
    assert 0 <= error <= 1
    if len(set(sure.tolist())) == len(sure):
        draw.shuffle(answers)
        assert reliability(*map(np.array, zip(*answers, strict=True))) == bins


def test_who_is_as_often_right_as_sure_is_off_by_nothing_and_who_boasts_is():
    sure = np.repeat(np.arange(0.05, 1, 0.1), 1000)
    right = np.random.default_rng(1).random(len(sure)) < sure
    assert calibration_error(reliability(sure, right)) < 0.02
    boasts = np.where(sure > 0.5, 0.95, 0.05)
    assert calibration_error(reliability(boasts, right)) > 0.15


def test_of_what_is_not_known_nothing_is_said():
    assert reliability(np.full(5, np.nan, np.float32), np.ones(5, bool)) == ()
    assert calibration_error(()) is None
    some = reliability(np.array([np.nan, 1.0]), np.array([False, True]))
    assert [(one.count, one.right) for one in some] == [(1, 1.0)]
