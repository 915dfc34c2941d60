"""Nearest neighbours are exact: what sorting all cosines would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isohop.embeddings import cosine_nearest, nearest, read_embeddings, search
from isohop.embeddings.search import embedding_matrix
from isohop.errors import InvalidInput, IsohopError


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 40),
    k=st.integers(1, 50),
    block=st.integers(1, 200),
)
def test_neighbours_are_those_of_sorting_all_cosines(seed, rows, k, block):
    generator = np.random.default_rng(seed)
    # Small integers, so that ties and vectors of zeros do occur.
    vectors = generator.integers(-1, 2, (rows, 3)).astype(np.float32)
    chosen = generator.integers(0, rows, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_BLOCK_VALUES", block)
        found, cosines = cosine_nearest(vectors[chosen], vectors, k, exclude=chosen)
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(norms > 0, norms, 1)[:, None]
    for node, near, values in zip(chosen, found, cosines, strict=True):
        others = np.setdiff1d(np.arange(rows), [node])
        true = unit[others] @ unit[node]
        assert len(near) == min(k, rows - 1) == len(set(near.tolist()))
        assert node not in near
        np.testing.assert_allclose(values, np.sort(true)[::-1][:k], atol=1e-6)
        np.testing.assert_allclose(values, unit[near] @ unit[node], atol=1e-6)


def test_length_does_not_matter(embeddings):
    vectors = embedding_matrix(read_embeddings(embeddings, "airport"))
    scaled = vectors * np.arange(1, 21, dtype=np.float32)[:, None]
    assert np.array_equal(
        cosine_nearest(vectors, vectors, 5)[0], cosine_nearest(vectors, scaled, 5)[0]
    )


def test_neighbours_come_with_their_keys(embeddings):
    by_key = nearest(embeddings, "station", keys=[("JFK", 1), ("EWR", 2)], k=2)
    assert by_key.column_names == ["query", "rank", "similarity", "node_id", "origin", "hour"]
    assert by_key["query"].to_pylist() == [2, 2, 1, 1]
    assert by_key["rank"].to_pylist() == [1, 2, 1, 2]
    assert by_key.equals(nearest(embeddings, "station", ids=[2, 1], k=2))
    assert nearest(embeddings, "airport", keys=["node 3"], k=1)["query"].to_pylist() == [3]


def test_a_key_may_have_any_name(tmp_path, entity, run_writer):
    names = {name: [f"{name} {row}" for row in range(5)] for name in ("row", "asked", "k0")}
    run = run_writer(tmp_path / "odd", {"thing": entity(5, key=names)})
    asked = [("row 3", "asked 3", "k0 3")]
    assert nearest(run, "thing", keys=asked, k=1)["query"].to_pylist() == [3]


@pytest.mark.parametrize("ids", [[1.9], ["1"], [True]])
def test_what_is_no_whole_number_is_no_id(embeddings, ids):
    with pytest.raises(IsohopError, match="whole numbers"):
        nearest(embeddings, "airport", ids=ids)


def test_all_unknown_keys_and_ids_are_named(embeddings):
    with pytest.raises(InvalidInput) as caught:
        nearest(embeddings, "airport", keys=["node 3", "node 99", "nobody"])
    assert [problem.where for problem in caught.value.problems] == ["key 'node 99'", "key 'nobody'"]
    with pytest.raises(InvalidInput, match="node 20"):
        nearest(embeddings, "airport", ids=[0, 20, -1])
    with pytest.raises(InvalidInput, match="2 values: origin, hour"):
        nearest(embeddings, "station", keys=["JFK"])
    with pytest.raises(IsohopError, match="origin string, hour int32"):
        nearest(embeddings, "station", keys=[("JFK", "noon")])
    for hour in (1.5, 1 << 70):
        with pytest.raises(IsohopError, match="origin string, hour int32"):
            nearest(embeddings, "station", keys=[("JFK", hour)])
    with pytest.raises(IsohopError, match="either 'ids' or 'keys'"):
        nearest(embeddings, "airport")
    with pytest.raises(IsohopError, match="1 or more"):
        nearest(embeddings, "airport", ids=[1], k=0)
