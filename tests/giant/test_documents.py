"""Documents and their n-grams: the same for every layout, and any text is only text."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.giant.documents import ATOM, FIELD_END, Field, render_documents
from isohop.giant.ngrams import hash_ngrams

texts = st.lists(st.none() | st.text(max_size=20), min_size=1, max_size=8)


def document(fields: tuple[Field, ...], **columns: object) -> list[str | None]:
    return render_documents(pa.table(columns), fields, 200).to_pylist()


def test_the_order_of_columns_changes_nothing():
    fields = (Field(name="a", rendering="text"), Field(name="b", rendering="category"))
    one = document(fields, a=["x y"], b=["k"])
    assert one == document(fields, b=["k"], a=["x y"])


def test_a_missing_value_is_a_word_and_a_row_without_values_has_no_document():
    fields = (Field(name="a", rendering="text"), Field(name="b", rendering="text"))
    a, b = pa.array(["x", None], pa.string()), pa.array([None, None], pa.string())
    assert document(fields, a=a, b=b) == [f"x{FIELD_END}b=∅", None]


def test_what_differs_in_signs_alone_is_another_category():
    values = ["+", "-", "?", "*", "A+", "A-", "1.5", "1-5", "1 5", "a/b", "a\\b"]
    found = document((Field(name="x", rendering="category"),), x=values)
    atoms = [{word for word in str(one).split() if "=" in word} for one in found]
    assert len(set(map(frozenset, atoms))) == len(values)
    ngrams = hash_ngrams(pa.array(found), 200)
    ends = ngrams.offsets
    buckets = {tuple(ngrams.buckets[a:b]) for a, b in itertools.pairwise(ends)}
    assert len(buckets) == len(values)


def test_what_a_text_says_is_never_an_atom():
    """However it is written, and where words have no spaces between them."""
    texts = ["E=mc2 is famous", "日本語　a=b　全部", "x≈y", "=", "https://shop.example/p?id=5 red"]
    fields = (Field(name="a", rendering="text"), Field(name="n", rendering="number"))
    for found in document(fields, a=texts, n=[1] * len(texts)):
        text, number = str(found).split(FIELD_END)
        assert not re.search(ATOM, text)
        assert re.search(ATOM, number)
    assert document(fields[:1], a=texts[:1]) == ["E mc2 is famous"]


def test_near_numbers_share_words_and_far_ones_do_not():
    fields = (Field(name="born", rendering="number"),)
    near, nearer, far = (set((d or "").split()) for d in document(fields, born=[1809, 1811, 42]))
    assert near & nearer
    assert not near & far


def test_a_long_text_leaves_the_others_their_room_wherever_it_stands():
    title = "Moby Dick"
    for name in ("abstract", "words"):
        fields = (
            Field(name=name, rendering="text"),
            Field(name="price", rendering="number"),
            Field(name="title", rendering="text"),
        )
        columns = {name: ["lorem ipsum " * n for n in (5, 50, 500)], "price": [12.5] * 3}
        for found in document(fields, **columns, title=[title] * 3):
            parts = str(found).split(FIELD_END)
            assert title in parts
            assert "price≈125e−1" in parts[1]
            assert len(str(found)) <= 200
            assert len(str(found)) > 150 or parts[0] == ("lorem ipsum " * 5).strip()


def test_a_document_that_cannot_be_short_enough_is_cut():
    fields = (Field(name="a" * 150, rendering="category"), Field(name="b", rendering="text"))
    (found,) = document(fields, **{"a" * 150: ["x" * 150], "b": ["y" * 150]})
    assert len(str(found)) == 200


def test_the_order_of_a_list_changes_nothing():
    fields = (Field(name="a", rendering="text"),)
    column = pa.array([["x", "y"], ["y", "x"], []], pa.list_(pa.string()))
    one, other, none = document(fields, a=column)
    assert one == other == "x y"
    assert none is None


@settings(max_examples=60)
@given(values=texts)
def test_a_document_has_the_same_ngrams_alone_and_among_others(values):
    together = hash_ngrams(pa.array(values, pa.large_string()), 100)
    for row, value in enumerate(values):
        alone = hash_ngrams(pa.array([value], pa.large_string()), 100)
        part = slice(together.offsets[row], together.offsets[row + 1])
        assert np.array_equal(together.buckets[part], alone.buckets)
        assert np.array_equal(together.counts[part], alone.counts)


def test_case_and_accents_do_not_matter_and_symbols_do():
    ngrams = hash_ngrams(pa.array(["Émile ZOLA", "emile zola", "emile", "🎈", ""]), 100)
    parts = [ngrams.buckets[a:b] for a, b in zip(ngrams.offsets, ngrams.offsets[1:], strict=False)]
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[1], parts[2])
    assert len(parts[3]) > 0
    assert len(parts[4]) == 0
