"""Bad embeddings are refused, with everything that is wrong said at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.embeddings.inspection import inspect_embeddings
from isohop.errors import InvalidInput, IsohopError


def _replace(table: pa.Table, column: str, values: object) -> pa.Table:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return table.set_column(table.column_names.index(column), column, array)


def _vectors(rows: int, dimensions: int, kind: pa.DataType | None = None) -> pa.Array:
    values = pa.array(np.ones(rows * dimensions), kind or pa.float32())
    return pa.FixedSizeListArray.from_arrays(values, dimensions)


def test_sound_embeddings_are_described(embeddings):
    airport, station = inspect_embeddings(embeddings)
    assert (airport.name, airport.count, airport.dimensions) == ("airport", 20, 4)
    assert dict(airport.sources) == {"teacher": 15, "student": 5, "blend": 0}
    assert [(key.name, key.type) for key in station.key] == [
        ("origin", "string"),
        ("hour", "int32"),
    ]


def _with_nan(table):
    values = table.column("embedding").combine_chunks().flatten().to_numpy().copy()
    values[5] = np.nan
    values[40] = np.inf
    return _replace(table, "embedding", pa.FixedSizeListArray.from_arrays(pa.array(values), 4))


SPOILT = {
    "NaN and infinity": (_with_nan, "2 vectors hold NaN or infinity: 1, 10"),
    "a repeated key": (
        lambda t: _replace(t, "code", ["same", "same", *t["code"].to_pylist()[2:]]),
        "1 keys are there more than once: same",
    ),
    "a NULL in the key": (
        lambda t: _replace(t, "code", [None, *t["code"].to_pylist()[1:]]),
        "1 values of 'code' are NULL",
    ),
    "a gap in the node ids": (
        lambda t: _replace(t, "node_id", [*range(19), 25]),
        "row 19 has 25",
    ),
    "rows in another order": (lambda t: t.take(pa.array([1, 0, *range(2, 20)])), "row 0 has 1"),
    "another source": (
        lambda t: _replace(t, "source", ["mlp"] * 20),
        "must be 'teacher', 'student' or 'blend'; it holds 'mlp'",
    ),
    "a confidence of more than all": (
        lambda t: _replace(t, "confidence", pa.array([1.5] * 20, pa.float32())),
        "20 values are not from 0 to 1",
    ),
    "a negative degree": (lambda t: _replace(t, "degree", [-1] * 20), "20 values are negative"),
    "a NULL vector": (
        lambda t: _replace(
            t, "embedding", pa.array([None, *([[1.0] * 4] * 19)], pa.list_(pa.float32(), 4))
        ),
        "1 values are NULL",
    ),
    "a NULL inside a vector": (
        lambda t: _replace(
            t,
            "embedding",
            pa.array([[None, 1.0, 1.0, 1.0], *([[1.0] * 4] * 19)], pa.list_(pa.float32(), 4)),
        ),
        "1 values are NULL",
    ),
    "doubles": (
        lambda t: _replace(t, "embedding", _vectors(20, 4, pa.float64())),
        "its type is fixed_size_list<element: double>[4]",
    ),
    "vectors of any length": (
        lambda t: _replace(t, "embedding", pa.array([[1.0]] * 20, pa.list_(pa.float32()))),
        "must be fixed_size_list<float32>[d]",
    ),
    "32-bit node ids": (
        lambda t: _replace(t, "node_id", pa.array(range(20), pa.int32())),
        "its type is int32; it must be int64",
    ),
    "no source": (lambda t: t.drop_columns(["source"]), "column 'source': it is missing"),
    "no key": (lambda t: t.drop_columns(["code"]), "there is no key column"),
    "a list as a key": (
        lambda t: _replace(t, "code", [[code] for code in t["code"].to_pylist()]),
        "must hold single values",
    ),
    "a key that is called 'degree'": (
        lambda t: t.append_column("degree", t.column("degree")),
        "column 'degree': it is there more than once",
    ),
    "no rows": (lambda t: t.slice(0, 0), "the entity has no rows"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_embeddings_are_refused_with_the_place(name, tmp_path, entity, run_writer):
    spoil, message = SPOILT[name]
    folder = run_writer(tmp_path / "embeddings", {"airport": spoil(entity())})
    with pytest.raises(InvalidInput) as caught:
        inspect_embeddings(folder)
    assert message in str(caught.value)
    assert "airport" in str(caught.value)


def test_all_problems_of_all_entities_are_said_at_once(tmp_path, entity, run_writer):
    entities = {
        "airport": _replace(_with_nan(entity()), "degree", [-1] * 20),
        "plane": _replace(entity(), "code", ["same"] * 20),
    }
    with pytest.raises(InvalidInput) as caught:
        inspect_embeddings(run_writer(tmp_path / "embeddings", entities))
    assert len(caught.value.problems) == 3


def test_dimensions_are_constant_over_an_entitys_files(embeddings, entity):
    other = entity(20, dimensions=5).slice(10)
    pq.write_table(other, embeddings / "airport" / "part-1.parquet")
    with pytest.raises(InvalidInput, match=r"part-1\.parquet.*\[5\].*\[4\]"):
        inspect_embeddings(embeddings)


def test_a_file_that_is_not_parquet_is_a_problem_not_a_traceback(embeddings):
    (embeddings / "airport" / "part-0.parquet").write_text("hello")
    with pytest.raises(InvalidInput, match="not a Parquet file"):
        inspect_embeddings(embeddings)


def test_a_damaged_page_is_a_problem_not_a_traceback(embeddings):
    file = embeddings / "airport" / "part-0.parquet"
    content = bytearray(file.read_bytes())
    content[4:200] = b"\xff" * 196
    file.write_bytes(bytes(content))
    with pytest.raises(InvalidInput, match="cannot be read"):
        inspect_embeddings(embeddings)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_entities_is_refused(tmp_path, folder):
    with pytest.raises(IsohopError, match=r"no such folder|no entity"):
        inspect_embeddings(tmp_path / folder)
