"""What is kept of an earlier run, where little or nothing of it is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from isohop.coldbrew.bundle import Guesser, Projection
from isohop.coldbrew.choosing import Served
from isohop.coldbrew.credible import read_credible, with_earlier, write_credible
from isohop.coldbrew.keeping import moved_student, settled
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import LatentIndex
from isohop.errors import IsohopError
from isohop.graph.earlier import NOBODY
from tests.worlds import library

READS, SHELF = "book--reads--reader", "book--shelf--book.shelf"


def served(rows: int, seed: int = 0) -> Served:
    draw = torch.Generator().manual_seed(seed)
    vectors = nn.functional.normalize(torch.randn(rows, 4, generator=draw), dim=1)
    confidence = torch.rand(rows, generator=draw)
    confidence[:1] = torch.nan
    return Served(vectors, np.array(["teacher"] * rows, object), confidence)


def table(of: Served) -> pa.Table:
    columns = of.columns(np.zeros(len(of.source), np.int64))
    return pa.table({"node_id": np.arange(len(of.source)), **columns})


def test_what_differs_by_rounding_is_as_it_was_and_all_else_is_not():
    before = served(5)
    vectors = before.vectors.clone()
    vectors[:4] += 1e-7
    vectors[3] += 1e-3
    source = before.source.copy()
    source[2] = "blend"
    now = Served(vectors, source, before.confidence)
    found = settled(now, table(before), np.array([0, 1, 2, 3, NOBODY]))
    assert torch.equal(found.vectors[:2], before.vectors[:2])
    assert torch.equal(found.vectors[2:], vectors[2:])
    assert torch.equal(found.confidence.nan_to_num(9), before.confidence.nan_to_num(9))


@pytest.mark.parametrize(("rows", "were"), [(3, 2), (3, 0), (0, 2), (0, 0)])
def test_where_nobody_is_known_everything_is_new(rows, were):
    now = served(rows)
    assert settled(now, table(served(were)), np.full(rows, NOBODY)) is now


def test_a_candidate_that_is_gone_does_not_come_back():
    index = LatentIndex(torch.arange(3), served(3).vectors, DistillSettings(dimensions=8))
    student = Guesser(nn.Identity(), nn.Identity(), nn.Identity(), index)
    tuesday = moved_student(student, np.array([0, 2]), 3)
    assert tuesday.index.candidates.tolist() == [0, NOBODY, 1]
    wednesday = moved_student(tuesday, np.array([0, 1]), 2)
    assert wednesday.index.candidates.tolist() == [0, NOBODY, 1]
    nobody = moved_student(wednesday, np.zeros(0, np.int64), 2)
    assert nobody.index.candidates.tolist() == [NOBODY] * 3
    assert moved_student(nobody, np.zeros(0, np.int64), 0).index.candidates.tolist() == [NOBODY] * 3
    alone = Projection(torch.zeros(2, 2))
    assert moved_student(alone, np.zeros(0, np.int64), 0) is alone


def test_edges_are_as_credible_as_they_were_and_types_are_judged_as_they_were(tmp_path):
    graph = library(tmp_path / "g")
    count = graph.edge_type(READS).count
    was = torch.linspace(0.1, 1.0, count)
    (tmp_path / "c").mkdir()
    write_credible(tmp_path / "c", graph, {READS: was})
    judged_now = {SHELF: torch.zeros(graph.edge_type(SHELF).count)}
    for now in (judged_now, {READS: torch.zeros(count), **judged_now}):
        found = with_earlier(now, graph, graph, tmp_path / "c")
        assert found.keys() == {READS}
        assert torch.equal(found[READS], was)
    other = graph.manifest.model_copy(update={"numbering": "other"})
    with pytest.raises(IsohopError, match="is not of the graph"):
        read_credible(tmp_path / "c", replace(graph, manifest=other), [READS])
