"""Sparse text: sums of vectors, and what a step of training leaves out of it."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy import sparse

from isohop.giant.encoder import Encoder, Prepared
from isohop.giant.text_matrix import Vocabulary, weighted_sums

sizes = st.integers(0, 6)


@st.composite
def texts(draw, documents=sizes, words=sizes):
    shape = draw(documents), draw(words)
    dense = draw(arrays(np.float32, shape, elements=st.sampled_from([0, 0, 0.25, 0.5, 1])))
    return sparse.csr_matrix(dense)


@given(text=texts(), width=st.integers(1, 9), wide=st.booleans())
def test_sums_of_vectors_are_the_matrix_product_whatever_the_shape(text, width, wide):
    if wide:  # as SciPy makes them beyond 2^31 n-grams
        text.indptr, text.indices = text.indptr.astype(np.int64), text.indices.astype(np.int64)
    vectors = np.arange(text.shape[1] * width, dtype=np.float32).reshape(width, -1).T
    found = weighted_sums(text, torch.from_numpy(vectors))
    np.testing.assert_allclose(found.numpy(), text @ vectors, rtol=1e-6)


def encoder(words: int) -> Encoder:
    vocabulary = Vocabulary(np.arange(words), np.ones(words, np.float32), 100)
    torch.manual_seed(1)
    return Encoder(vocabulary, ("thing",), 4)


def test_gradients_reach_the_vectors_of_words_that_stayed_and_no_others():
    made = encoder(3).train()
    text = sparse.csr_matrix(np.array([[0.5, 0.0, 0.0], [0.25, 1.0, 0.0]], np.float32))
    batch = Prepared.of(text)
    batch.ngrams.data[2] = 0  # the second word is left out of its only document
    before = made.bag.values.clone()
    made.encode(batch, np.zeros(2, np.int64)).sum().backward()
    made.bag.step(1.0)
    assert batch.touched.tolist() == [0]
    assert [not torch.equal(a, b) for a, b in zip(made.bag.values, before, strict=True)] == [
        True,
        False,
        False,
    ]


def test_words_that_stay_stand_for_those_that_are_left_out():
    """Beside a text model they weigh in training what they weigh afterwards."""
    words = Prepared.of(sparse.csr_matrix(np.full((1000, 50), 0.5, np.float32)))
    for share in (0.0, 0.2, 0.5):
        some = words.without(share, np.random.default_rng(1)).ngrams
        assert some.dtype == np.float32
        assert some.sum() == pytest.approx(words.ngrams.sum(), rel=0.02)
        assert (some.data == 0).mean() == pytest.approx(share, abs=0.01)


def test_a_document_whose_words_are_all_left_out_is_not_one_without_text():
    made = encoder(2).train()
    made.dropout.p = 0.0
    words = sparse.csr_matrix(np.array([[1.0, 0.0], [0.0, 0.0]], np.float32))
    left_out = Prepared.of(words).without(1 - 1e-9, np.random.default_rng(1))
    told, missing = made.encode(left_out, np.zeros(2, np.int64))
    assert not torch.allclose(told, missing)
