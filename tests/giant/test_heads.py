"""Which labels compete for a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from isohop.giant.heads import Beam, Head, log_frequency
from isohop.giant.settings import FeatureSettings

LABELS = 40
OWN = sparse.identity(LABELS, np.float32, "csr")
"""Of each row the label of its number, four to a cluster."""


def head_of(targets: sparse.csr_matrix) -> Head:
    labels = np.arange(LABELS)
    return Head("a", 2, labels, targets, labels // 4, 4, np.arange(targets.shape[0]))


@pytest.mark.parametrize(("batch", "hard", "drawn"), [(20, 0, 0), (20, 0.5, 0), (3, 0.5, 1)])
def test_hard_negatives_compete_however_many_labels_a_batch_has(batch, hard, drawn):
    settings = FeatureSettings(multi_scale=True, negatives=8, hard_negatives=hard)
    likely = Beam(np.array([9]), np.random.default_rng(1))
    draw = np.random.default_rng(2)
    labels, random = head_of(OWN).competing(OWN[:batch], settings, draw, likely)
    assert random == drawn
    besides = set(labels.tolist()) - set(range(batch))
    assert set(range(batch)) <= set(labels.tolist())
    assert bool(besides & {36, 37, 38, 39}) == bool(hard)
    assert len(besides - {36, 37, 38, 39}) <= drawn


def test_how_often_a_label_competes_follows_from_what_is_drawn():
    """As one of a batch, or at random; never more than always."""
    head = head_of(OWN)
    some = np.arange(10)
    chance = np.exp(log_frequency(head, some, batch=4, drawn=0).numpy())
    assert np.allclose(chance, 4 / LABELS)
    chance = np.exp(log_frequency(head, some, batch=4, drawn=8).numpy())
    assert np.allclose(chance, 12 / LABELS)
    assert not log_frequency(head, np.arange(LABELS), batch=4, drawn=8).any()


def test_a_label_of_nobody_may_compete_as_a_hard_negative():
    """It has no chance to be drawn, and a correction all the same."""
    targets = OWN.copy()
    targets.data[-1] = 0
    targets.eliminate_zeros()
    told = log_frequency(head_of(targets), np.array([0, LABELS - 1]), batch=4, drawn=0)
    assert torch.isfinite(told).all()
    assert told[1] == pytest.approx(np.log(1 / LABELS))
