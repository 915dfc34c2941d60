"""Pieces of the data, each the task of some worker of Ray."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from isohop.engines.pieces import AHEAD, PIECE, for_each_piece
from isohop.engines.progress import SILENT
from isohop.engines.ray import machines, ray_session

PIECES = [{"number": number, "rows": PIECE} for number in range(40)]
BEGUN = 2 * AHEAD
"""Pieces that a core may have begun by the time that the first is told."""


@pytest.fixture(scope="module", autouse=True)
def ray():
    with ray_session():
        yield


def begin(piece: dict[str, int], folder: str) -> int:
    (Path(folder) / str(piece["number"])).touch()
    return piece["number"] ** 2


def begin_and_wait(piece: dict[str, int], folder: str) -> int:
    begin(piece, folder)
    time.sleep(0.1)
    return 0


def test_each_piece_is_worked_on_once_and_told_with_what_it_gave(tmp_path):
    found = list(for_each_piece(PIECES, begin, {"folder": str(tmp_path)}, "pieces", SILENT))
    assert sorted(piece["number"] for piece, _ in found) == list(range(len(PIECES)))
    assert all(gave == piece["number"] ** 2 for piece, gave in found)
    assert len(list(tmp_path.iterdir())) == len(PIECES)


def test_nothing_is_nothing():
    assert list(for_each_piece([], begin, {"folder": ""}, "pieces", SILENT)) == []


def test_who_stops_asking_stops_the_work(tmp_path):
    most = BEGUN * sum(machines())
    many = [{"number": number, "rows": PIECE} for number in range(4 * most)]
    asked = for_each_piece(many, begin_and_wait, {"folder": str(tmp_path)}, "pieces", SILENT)
    next(asked)
    asked.close()
    time.sleep(1)
    begun = len(list(tmp_path.iterdir()))
    assert begun <= most
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) == begun


def process(piece: dict[str, int]) -> int:
    return os.getpid()


def test_small_pieces_are_one_process_work():
    """To start another takes longer than they do."""
    small = [{"number": number, "rows": PIECE // 20} for number in range(20)]
    assert len({gave for _, gave in for_each_piece(small, process, {}, "pieces", SILENT)}) == 1
