"""What is told of the label tree and of held-out edges."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from isohop.giant.diagnostics import TreeLevel, diagnose
from isohop.giant.evaluation import rank_edges, true_ranks
from isohop.giant.targets import NodeIndex, neighbourhoods
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType, hold_out
from isohop.graph.holdout import TEST
from tests.worlds import library

READS = "book--reads--reader"


@pytest.fixture
def world(tmp_path):
    graph = library(tmp_path / "g")
    held = hold_out(graph, 1)
    return graph, held, NodeIndex.of(graph)


def knowing(graph, held, index) -> np.ndarray:
    """Features that know the answers: each node has a direction of its own, which its held-out
    neighbours share."""
    total = np.eye(index.total, dtype=np.float32)
    for edge in graph.edge_types:
        source, target = graph.edge_index(edge.name)[:, held.edges[edge.name] == TEST]
        total[source + index.offset[edge.source], target + index.offset[edge.target]] += 9
        total[target + index.offset[edge.target], source + index.offset[edge.source]] += 9
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def level_of_nodes(graph, held, index, name: str) -> TreeLevel:
    count = index.counts[name]
    vectors = np.eye(index.total, dtype=np.float32)[index.rows(name)]
    targets = neighbourhoods(graph, held)[name]
    return TreeLevel(name, 1, np.arange(count), targets, vectors, np.zeros(count, np.float32))


def test_an_encoder_that_knows_the_held_out_neighbours_finds_them(world):
    graph, held, index = world
    level = level_of_nodes(graph, held, index, "reader")
    (figures,) = diagnose(graph, held, [level], knowing(graph, held, index), 6.0, TEST, 1)
    assert figures.in_beam == 1
    assert figures.hits_at_10 == 1
    assert figures.mrr > 0.9  # a book with two held-out readers cannot rank both first
    assert figures.count == (held.edges[READS] == TEST).sum()


def test_an_encoder_that_knows_nothing_finds_them_by_chance(world):
    graph, held, index = world
    level = level_of_nodes(graph, held, index, "book")
    nothing = np.ones((index.total, index.total), np.float32) / index.total**0.5
    (figures,) = diagnose(graph, held, [level], nothing, 6.0, TEST, 1)
    assert figures.hits_at_10 < 0.2


def test_balance_is_of_nodes_in_clusters(world):
    graph, held, index = world
    nodes = level_of_nodes(graph, held, index, "book.shelf")
    clusters = np.array([0, 0, 0, 1])
    level = TreeLevel(
        "book.shelf",
        1,
        clusters,
        sparse.csr_matrix(nodes.targets @ np.eye(2, dtype=np.float32)[clusters]),
        nodes.vectors[:2],
        nodes.bias[:2],
    )
    features = np.zeros((index.total, index.total), np.float32)
    (figures,) = diagnose(graph, held, [level], features, 6.0, TEST, 1)
    assert (figures.labels, figures.smallest, figures.mean, figures.largest) == (2, 1, 2.0, 3)


def test_edges_of_all_types_together_are_the_edges_of_each(world):
    graph, held, index = world
    features = knowing(graph, held, index)
    kinds = {"trained": features, "untrained": features, "tfidf": sparse.csr_matrix(features)}
    found = rank_edges(graph, held, kinds, TEST, 1)
    each = [ranks for name, ranks in found.items() if name != "all"]
    assert found["all"].count == sum(ranks.count for ranks in each)
    mean = sum(ranks.trained.mrr * ranks.count for ranks in each) / found["all"].count
    assert found["all"].trained.mrr == pytest.approx(mean)
    assert found["all"].tfidf.mrr == pytest.approx(found["all"].trained.mrr, abs=1e-6)


def test_who_asks_for_a_neighbour_is_no_answer_itself(tmp_path):
    """Papers that cite each other in pairs of fields: the neighbourhood of each is like itself."""
    fields = np.repeat(np.arange(30), 6)
    pairs = [(a, b) for a in range(180) for b in range(180) if a < b and fields[a] == fields[b]]
    ids = np.arange(180)
    paper = NodeType(name="paper", key=("id",), count=180)
    cites = EdgeType(source="paper", role="cites", target="paper", count=len(pairs))
    src, dst = np.array(pairs).T
    graph = Graph.write(
        tmp_path / "cited",
        GraphManifest(name="g", certificate="0" * 32, node_types=(paper,), edge_types=(cites,)),
        {"paper": pa.table({"node_id": ids, "id": ids})},
        {cites.name: pa.table({"src": src, "dst": dst, "count": np.ones(len(src), np.int64)})},
    )
    held = hold_out(graph, 1)
    features = np.eye(30, dtype=np.float32)[fields]
    kinds = dict.fromkeys(("trained", "untrained", "tfidf"), features)
    ranks = rank_edges(graph, held, kinds, TEST, 1)["all"].trained
    # Of a field all but the known ones are as good, and there are at most four of these.
    assert ranks.mrr > 0.4
    own = np.eye(180, dtype=np.float32)
    level = level_of_nodes(graph, held, NodeIndex.of(graph), "paper")
    alike = TreeLevel("paper", 1, ids, level.targets, own, np.zeros(180, np.float32))
    towards = own + 0.9 * knowing(graph, held, NodeIndex.of(graph))
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    (figures,) = diagnose(graph, held, [alike], towards, 6.0, TEST, 1)
    assert figures.mrr > 0.8


def test_the_edge_that_carries_the_label_is_not_asked(world):
    graph, held, index = world
    features = knowing(graph, held, index)
    kinds = dict.fromkeys(("trained", "untrained", "tfidf"), features)
    assert set(rank_edges(graph, held, kinds, TEST, 1, "book.shelf")) == {READS, "all"}


def test_of_equal_scores_half_come_first():
    known = sparse.csr_matrix((2, 5), dtype=np.float32)
    known[1, 4] = 1  # known already, so not asked for
    rank = true_ranks(np.ones((2, 5), np.float32), np.array([0, 0]), known)
    assert rank.tolist() == [3.0, 2.5]
    # Equal vectors, summed up otherwise.
    rounded = 1 + 1e-7 * np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    assert true_ranks(rounded, np.array([0, 0]), known).tolist() == [3.0, 2.5]


def test_among_a_sample_of_candidates_the_true_one_is_found_too(world, monkeypatch):
    graph, held, index = world
    features = knowing(graph, held, index)
    kinds = dict.fromkeys(("trained", "untrained", "tfidf"), features)
    whole = rank_edges(graph, held, kinds, TEST, 1)[READS]
    monkeypatch.setattr("isohop.giant.evaluation.CANDIDATES", 10)
    some = rank_edges(graph, held, kinds, TEST, 1)[READS]
    assert some.count == whole.count
    assert some.trained.mrr >= whole.trained.mrr  # of fewer, it cannot rank lower
