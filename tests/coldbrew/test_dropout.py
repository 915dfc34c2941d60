"""Dropout: as much as was asked for, at random, and the mean stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isohop.coldbrew.dropout import Dropout, dropout


@given(share=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 1000), rows=st.integers(0, 9))
def test_what_stays_is_larger_by_what_is_gone(share, seed, rows):
    torch.manual_seed(seed)
    values = torch.rand(rows, 7) + 1
    dropped = dropout(values, share, True)
    assert dropped.shape == values.shape
    stays = dropped != 0
    # Shares are multiples of 2⁻¹⁶.
    larger = dropped[stays] / values[stays]
    assert torch.all((1 / larger - (1 - share)).abs() <= 2**-16)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_as_much_is_gone_as_was_asked_for(share):
    torch.manual_seed(1)
    dropped = dropout(torch.ones(1000, 300), share, True)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.003)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    # Neither a row nor a column is dropped more than others.
    for dim in (0, 1):
        gone = (dropped == 0).float().mean(dim)
        spread = float(gone.std()) / (share * (1 - share) / dropped.shape[dim]) ** 0.5
        assert spread == pytest.approx(1, abs=0.15)


def test_the_seed_of_torch_decides_and_each_call_is_another():
    values = torch.ones(50, 8)
    torch.manual_seed(3)
    one, two = dropout(values, 0.5, True), dropout(values, 0.5, True)
    torch.manual_seed(3)
    again = dropout(values, 0.5, True)
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


def test_gradients_pass_where_values_do():
    torch.manual_seed(4)
    values = torch.rand(40, 5, requires_grad=True)
    dropped = dropout(values + 1, 0.5, True)
    dropped.sum().backward()
    np.testing.assert_allclose(values.grad, (dropped / (values + 1)).detach(), rtol=1e-6)


def test_nothing_is_dropped_where_nothing_is_learned():
    values = torch.rand(40, 5)
    layer = Dropout(0.5).eval()
    assert torch.equal(layer(values), values)
    assert torch.equal(dropout(values, 0.0, True), values)
