"""Sets of integers as sorted arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isohop.engines.arrays import distinct, within

INTEGERS = st.lists(st.integers(-9, 9)).map(lambda values: np.array(values, np.int64))


@given(INTEGERS)
def test_distinct_values_ascend_and_are_the_same_set(values):
    found = distinct(values)
    assert found.dtype == values.dtype
    assert found.tolist() == sorted(set(values.tolist()))


@given(INTEGERS, INTEGERS)
def test_within_says_of_each_value_whether_the_others_have_it(values, others):
    known = set(others.tolist())
    assert within(values, distinct(others)).tolist() == [one in known for one in values.tolist()]
