"""Pieces of the data, each the task of some worker of Ray."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.engines import pieces
from isohop.engines import ray as of_ray
from isohop.engines.pieces import (
    AHEAD,
    MANY,
    PIECE,
    TEXTS,
    for_each_piece,
    in_full_pieces,
    pieces_of,
    rows_of,
)
from isohop.engines.progress import SILENT
from isohop.engines.ray import machines, result_of, tell_if_busy, with_cores

pytestmark = pytest.mark.usefixtures("ray_on_all_cores")


def piece_of(number: int, rows: int = PIECE) -> dict[str, int]:
    return {"number": number, "rows": rows, "most": PIECE}


PIECES = [piece_of(number) for number in range(40)]
BEGUN = 2 * AHEAD
"""Pieces that a core may have begun by the time that the first is told."""


def wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.05)


def test_who_waits_for_cores_of_a_cluster_that_others_use_is_told(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    cores = sum(machines())
    # A free core is waited for as long as it takes, of what was before this and of what starts.
    monkeypatch.setattr(of_ray, "SECONDS_TO_BE_FREE", 60.0)
    with_cores(wait_for, cores)
    assert not caplog.text
    busy = with_cores(wait_for, 1).remote(str(tmp_path / "done"))
    with monkeypatch.context() as patched:
        patched.setattr(of_ray, "SECONDS_TO_BE_FREE", 0.5)
        deadline = time.monotonic() + 60
        while not caplog.text and time.monotonic() < deadline:
            waiting = with_cores(wait_for, cores)
    told = caplog.text
    caplog.clear()
    tell_if_busy(1, workers=cores - 1)
    assert not caplog.text
    monkeypatch.setattr(of_ray, "SECONDS_TO_BE_FREE", 0.5)
    tell_if_busy(1, workers=cores)
    assert f"Waiting for {cores} times 1 cores" in caplog.text
    assert f"Waiting for 1 times {cores} cores" in told
    assert f"others use all but {cores - 1} of {cores}." in told
    answer = waiting.remote(str(tmp_path / "done"))
    (tmp_path / "done").touch()
    result_of(busy)
    result_of(answer)


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


def files_of(folder: Path, *files: tuple[int, ...]) -> list[Path]:
    """Of row groups of so many rows."""
    paths = [folder / f"{number}.parquet" for number in range(len(files))]
    for path, sizes in zip(paths, files, strict=True):
        with pq.ParquetWriter(path, pa.schema([("x", pa.int64())])) as writer:
            for size in sizes:
                writer.write_table(pa.table({"x": pa.array(range(size), pa.int64())}))
    return paths


@pytest.mark.parametrize(("texts", "most"), [(False, PIECE), (True, TEXTS)])
def test_pieces_are_all_rows_once_and_small_where_a_text_model_reads_them(tmp_path, texts, most):
    files = ((PIECE + 5, 3), (0,), (2 * TEXTS,))
    found = list(pieces_of(files_of(tmp_path, *files), texts))
    rows = [(p["number"], p["group"], p["start"] + i) for p in found for i in range(p["rows"])]
    assert rows == [
        (number, group, row)
        for number, sizes in enumerate(files)
        for group, size in enumerate(sizes)
        for row in range(size)
    ]
    assert {piece["most"] for piece in found} == {most}
    groups = [(number, group) for number, sizes in enumerate(files) for group in range(len(sizes))]
    for place in groups:
        mine = [piece["rows"] for piece in found if (piece["number"], piece["group"]) == place]
        assert max(mine) <= most
        assert max(mine) - min(mine) <= 1
    assert all(piece["rows"] for piece in found if piece["number"] != 1)


def test_a_piece_is_its_rows_and_no_others(tmp_path, monkeypatch):
    """However many are read at once: what one piece takes of another's, its worker does alone."""
    monkeypatch.setattr(pieces, "TEXTS", 64)
    sizes = ((500, 3), (0,), (130,))
    paths = files_of(tmp_path, *sizes)
    for batch in (7, 50, 64, 1000):
        monkeypatch.setattr(pieces, "BATCH", batch)
        for piece in pieces_of(paths, texts=True):
            tables = list(rows_of(piece, ["x"]))
            assert all(0 < table.num_rows <= batch for table in tables)
            found = [x for table in tables for x in table["x"].to_pylist()]
            assert found == list(range(piece["start"], piece["start"] + piece["rows"]))


def test_of_many_texts_there_are_not_more_pieces_but_larger_ones(tmp_path):
    many = 2 * TEXTS * MANY
    found = list(pieces_of(files_of(tmp_path, (many,)), texts=True))
    assert [piece["rows"] for piece in found] == [2 * TEXTS] * MANY


@pytest.mark.parametrize("rows", [(0, 0), (0, 0, 3), (3, 4, 0)])
def test_full_pieces_are_all_rows_in_their_order_be_there_some_or_none(tmp_path, rows):
    """A quiet night: Spark writes files without rows."""
    files = [tmp_path / f"{number}.parquet" for number in range(len(rows))]
    every = pa.table({"x": range(sum(rows)), "y": range(sum(rows))})
    for number, file in enumerate(files):
        pq.write_table(every.slice(sum(rows[:number]), rows[number]), file)
    full = in_full_pieces(files, ["x"], tmp_path / "full")
    read = pa.concat_tables(pq.read_table(file, columns=["x"]) for file in full)
    assert read.equals(every.select(["x"]))
    assert len(list(pieces_of(full))) == 1


def test_nothing_is_nothing():
    assert list(for_each_piece([], begin, {"folder": ""}, "pieces", SILENT)) == []


def test_who_stops_asking_stops_the_work(tmp_path):
    most = BEGUN * sum(machines())
    many = [piece_of(number) for number in range(4 * most)]
    asked = for_each_piece(many, begin_and_wait, {"folder": str(tmp_path)}, "pieces", SILENT)
    next(asked)
    asked.close()
    time.sleep(2)  # in which all of them would be begun
    assert len(list(tmp_path.iterdir())) <= most


def alone(piece: dict[str, int], folder: str) -> bool:
    """Whether no other is at work meanwhile."""
    mark = Path(folder) / "at work"
    mark.touch(exist_ok=False)
    time.sleep(0.02)
    mark.unlink()
    return True


def test_small_pieces_are_worked_on_one_after_the_other(tmp_path):
    """To start another process takes longer than they do."""
    small = [piece_of(number, PIECE // 20) for number in range(20)]
    told = {"folder": str(tmp_path)}
    assert all(gave for _, gave in for_each_piece(small, alone, told, "pieces", SILENT))


def threads(*_: object) -> dict[str, int]:
    import torch

    said = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return {
        "process": os.getpid(),
        "torch": torch.get_num_threads(),
        "mkl": int(said[1]),
        "arrow": pa.cpu_count(),
        "asked for": int(os.environ["OMP_NUM_THREADS"]),
    }


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_process_has_as_many_threads_as_its_task_has_cores(order):
    """Whatever it did before."""
    found = [result_of(with_cores(threads, cores).remote()) for cores in order]
    for cores, one in zip(order, found, strict=True):
        assert {**one, "process": 0} == {
            "process": 0,
            "torch": cores,
            "mkl": cores,
            "arrow": cores,
            "asked for": cores,
        }
