"""Where tables are: what a source's description may say, and what is said when it is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from isohop.errors import InvalidInput, IsohopError
from isohop.graph.build import plan_schema
from isohop.relational.source import SourceSpec, open_source


def _error(spec: SourceSpec, base: Path, kind: type[IsohopError] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        open_source(spec, base).tables()
    assert type(caught.value) is kind
    return str(caught.value)


def _write(folder: Path, name: str = "town.csv", text: str = "id,name\n1,Graz\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"path": "data", "url": "sqlite:///shop.db"},
        {"package": "shop", "url": "sqlite:///shop.db"},
        {"path": "data", "schema": "public"},
        {"path": "data", "Path": "data"},
    ],
)
def test_a_source_is_in_exactly_one_place(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        SourceSpec.model_validate(given)


def test_a_source_never_shows_its_password() -> None:
    url = "postgresql://shop:geheim@host/shop"
    assert "geheim" not in repr(SourceSpec(url=url))
    with pytest.raises(ValidationError) as caught:
        SourceSpec(url=url, path="data")
    assert "geheim" not in str(caught.value)


def test_paths_start_at_the_schema_file(tmp_path: Path) -> None:
    _write(tmp_path / "data")
    (tmp_path / "schemas").mkdir()
    source = open_source(SourceSpec(path="../data"), tmp_path / "schemas")
    assert source.tables()["town"].column_names == ("id", "name")


def test_a_package_is_found_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packed_towns"
    _write(package / "data")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = open_source(SourceSpec(package="packed_towns", path="data"), Path("elsewhere"))
    assert list(source.tables()) == ["town"]
    assert list(open_source(SourceSpec(package="packed_towns.data"), tmp_path).tables()) == ["town"]
    assert "packed_towns" not in sys.modules


@pytest.mark.parametrize(
    ("package", "path", "said"),
    [
        *(("packed_cities", path, "leaves the package") for path in ("..", "../../tables", "/")),
        *((f"packed_cities.{part}", "etc", "is not installed") for part in ("/", "/tmp", ".x")),
    ],
)
def test_neither_the_folder_nor_the_name_of_a_package_leads_out_of_it(
    package: str, path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packed_cities").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    error = str(_error(SourceSpec(package=package, path=path), tmp_path))
    assert said in error
    assert f"the package '{package}'" in error


def test_what_is_limited_cannot_be_named_as_a_package_or_by_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "loose_towns")  # a package to Python, like any folder beside the program
    monkeypatch.syspath_prepend(tmp_path)
    assert list(open_source(SourceSpec(package="loose_towns"), tmp_path).tables()) == ["town"]
    monkeypatch.setenv("ISOHOP_ALLOWED", str(tmp_path / "allowed"))
    assert "outside" in str(_error(SourceSpec(package="loose_towns"), tmp_path))
    named = ("passfile=/etc/hostname", "sslkey=/x", "sslkeylogfile=/x", "servicefile=/x")
    for more in (*(f"h/d?{file}" for file in named), "/d?host=/tmp"):
        assert "outside" in str(_error(SourceSpec(url=f"postgresql://{more}"), tmp_path))


def test_the_certificates_of_the_system_are_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOHOP_ALLOWED", str(tmp_path))
    url = "postgresql://127.0.0.1:1/d?sslmode=verify-full&sslrootcert=system"
    assert "cannot be opened" in _error(SourceSpec(url=url), tmp_path, IsohopError)


def test_a_missing_package_says_how_to_install_it(tmp_path: Path) -> None:
    error = _error(SourceSpec(package="no_such_package_here"), tmp_path)
    assert "pip install no_such_package_here" in error
    assert "not installed" in error


def test_a_missing_folder_suggests_the_one_meant(tmp_path: Path) -> None:
    (tmp_path / "customers").mkdir()
    error = _error(SourceSpec(path="custmers"), tmp_path)
    assert "source.path" in error
    assert "Did you mean 'customers'?" in error


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    _write(tmp_path)
    assert "is a file" in _error(SourceSpec(path="town.csv"), tmp_path)


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert "no table" in _error(SourceSpec(path="."), tmp_path)


@pytest.mark.parametrize("other", ["town.parquet", "town.json", "TOWN.CSV.GZ", "Town.csv.zip"])
def test_one_table_in_two_files_is_an_error_that_names_both(tmp_path: Path, other: str) -> None:
    _write(tmp_path)
    (tmp_path / other).write_text("[]")
    error = _error(SourceSpec(path="."), tmp_path)
    assert "town" in error
    assert other.split(".")[0] in error


def test_all_mistakes_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    _write(tmp_path, "a.csv", "id,ID\n1,2\n")
    _write(tmp_path, "b.csv", "")
    _write(tmp_path, "c.csv", "id,id\n")
    _write(tmp_path, "d.csv", ",id\n")
    (tmp_path / "e.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InvalidInput) as caught:
        open_source(SourceSpec(path="."), tmp_path).tables()
    assert len(caught.value.problems) == 5
    text = str(caught.value)
    assert "'id' and 'ID'" in text
    for name in "abcde":
        assert f"{name}.{'parquet' if name == 'e' else 'csv'}" in text


def test_hidden_files_and_descriptions_are_no_tables(tmp_path: Path) -> None:
    _write(tmp_path)
    _write(tmp_path, ".hidden.csv")
    _write(tmp_path, "_log.csv")
    _write(tmp_path, "NOTE.txt", "words")
    _write(tmp_path, "schema.json", '{\n "tables": {}\n}\n')
    assert list(open_source(SourceSpec(path="."), tmp_path).tables()) == ["town"]


def test_an_unknown_table_is_suggested(tmp_path: Path) -> None:
    source = open_source(SourceSpec(path="."), _write(tmp_path))
    with pytest.raises(InvalidInput, match="Did you mean 'town'"):
        source.land("twon", tmp_path / "landed")
    with pytest.raises(InvalidInput, match="Did you mean 'town'"):
        source.fingerprint("towns")


def test_wrong_columns_and_types_are_told_at_once(tmp_path: Path) -> None:
    source = open_source(SourceSpec(path="."), _write(tmp_path))
    with pytest.raises(InvalidInput) as caught:
        source.land("town", tmp_path / "landed", columns=["nmae"], types={"id": "intger"})
    assert "Did you mean 'name'?" in str(caught.value)
    assert "Did you mean 'integer'?" in str(caught.value)
    assert not (tmp_path / "landed").exists()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://u:geheim@host/db", "no kind of database"),
        ("geheim", "no database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///shop.db", "Did you mean 'shops.db'?"),
        ("env:ISOHOP_NO_SUCH_VARIABLE", "ISOHOP_NO_SUCH_VARIABLE is not set"),
        ("sqlite:///town.csv", "not a database"),
        ("postgresql://u:geheim@127.0.0.1:1/db", "cannot be opened"),
        ("postgresql://u@127.0.0.1:1/db?password=geheim", "cannot be opened"),
    ],
)
def test_a_wrong_url_is_told_without_its_password(tmp_path: Path, url: str, told: str) -> None:
    _write(tmp_path)
    (tmp_path / "shops.db").touch()
    # What another try may mend is no mistake in a file.
    kind = IsohopError if told in ("not a database", "cannot be opened") else InvalidInput
    error = _error(SourceSpec(url=url), tmp_path, kind)
    assert told in error
    assert "geheim" not in error
    assert not (tmp_path / "shop.db").exists()


@pytest.mark.parametrize(
    "written",
    [
        "source: URL",
        "source: {nulls: 'URL'}",
        "source: {'URL': 1}",
        "source: {path: x, schema: ['URL']}",
    ],
)
def test_a_url_at_a_wrong_place_is_told_without_its_password(tmp_path: Path, written: str) -> None:
    url = "postgresql://u:gehe@im@127.0.0.1:1/db?password=geheim"
    file = tmp_path / "schema.yaml"
    file.write_text(f"{written}\ntables: {{}}\nentities: {{}}\n".replace("URL", url), "utf-8")
    with pytest.raises(InvalidInput) as raised:
        plan_schema(file)
    assert "gehe" not in str(raised.value)
    assert "schema.yaml:1 source" in str(raised.value)


def test_what_is_wrong_with_a_file_is_told_whether_or_not_its_database_answers(
    tmp_path: Path,
) -> None:
    file = tmp_path / "schema.yaml"
    source = "{url: 'postgresql://u@127.0.0.1:1/db', schem: x}"
    file.write_text(f"source: {source}\ntables: {{}}\nentities: {{}}\n", "utf-8")
    with pytest.raises(InvalidInput, match="unknown key 'schem'"):
        plan_schema(file)
