"""Files with mistakes: all of them told, each with its line, none with a traceback."""

from __future__ import annotations

import contextlib
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isohop.errors import InvalidInput, Problem
from isohop.hops.schema_file import read_schema_file
from isohop.yaml_file import StrictModel, read_yaml


class Inner(StrictModel):
    size: int = 0


class Outer(StrictModel):
    name: str
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    on: str = ""


def problems(tmp_path, text: str) -> list[str]:
    (tmp_path / "f.yaml").write_text(text, "utf-8")
    return [str(p) for p in read_yaml(tmp_path / "f.yaml", Outer, "file").problems]


def test_every_mistake_has_its_line_and_a_suggestion(tmp_path):
    found = problems(tmp_path, "name: a\ninner: {sise: 3}\nmany:\n  - {size: big}\n  - {zise: 1}\n")
    assert any("f.yaml:2 inner.sise" in p and "Did you mean 'size'?" in p for p in found)
    assert any("f.yaml:4 many[0].size" in p for p in found)
    assert any("f.yaml:5 many[1].zise" in p for p in found)


def test_a_key_written_twice_is_a_mistake(tmp_path):
    assert any("twice" in p and ":2" in p for p in problems(tmp_path, "name: a\nname: b\n"))


def test_what_is_merged_gives_way_to_a_key_of_its_own(tmp_path):
    many = "&two {<<: *one, size: 2}, {<<: *two}, *two"
    within = "{<<: &three {<<: *one, size: 2}}, {<<: *three}, *three"
    text = f"name: a\ninner: &one {{size: 1}}\nmany: [{many}, {within}]\n"
    (tmp_path / "f.yaml").write_text(text, "utf-8")
    read = read_yaml(tmp_path / "f.yaml", Outer, "file")
    assert read.problems == []
    assert [one.size for one in read.model.many] == [2] * 6


@pytest.mark.parametrize(
    "name", ['"a\\0b"', "!!bool maybe", "!!timestamp soon", "!!int many", '!!int ""']
)
def test_values_that_are_none_are_mistakes(tmp_path, name):
    (tmp_path / "f.yaml").write_text(f"name: {name}\n", "utf-8")
    with pytest.raises(InvalidInput):
        read_yaml(tmp_path / "f.yaml", Outer, "file").raise_problems()


def test_a_key_that_no_name_can_be_is_told(tmp_path):
    assert any("cannot be in a key" in p for p in problems(tmp_path, 'name: a\n"b\\0": c\n'))


def test_norway_is_a_name(tmp_path):
    (tmp_path / "f.yaml").write_text("name: no\non: off\n", "utf-8")
    assert read_yaml(tmp_path / "f.yaml", Outer, "file").model == Outer(name="no", on="off")


@pytest.mark.parametrize(
    "text", ["", "a: [", "- 1", "name: !!python/object/apply:os.system [true]", "\t", "a: &a [*a]"]
)
def test_what_is_no_such_file_is_an_error_and_no_traceback(tmp_path, text):
    (tmp_path / "f.yaml").write_text(text, "utf-8")
    with pytest.raises(InvalidInput):
        read_yaml(tmp_path / "f.yaml", Outer, "file").raise_problems()


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(InvalidInput, match="no such file"):
        read_yaml(tmp_path / "nope.yaml", Outer, "file")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_yaml(tmp_path, Outer, "file")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_no_bytes_make_a_schema_file_crash(tmp_path, data):
    (tmp_path / "f.yaml").write_bytes(data)
    with contextlib.suppress(InvalidInput):
        read_schema_file(tmp_path / "f.yaml").raise_problems()


KEYED = "{key: x}"


@pytest.mark.parametrize("name", ["_customer", "v=000001", "manifest.json", "all"])
def test_an_entity_is_named_as_nothing_else_is_where_embeddings_and_figures_are(tmp_path, name):
    text = f"""
    database: d
    source: {{path: .}}
    tables: {{_customer: {{key: id}}}}
    entities: {{{name}: {{table: _customer}}}}
    """
    (tmp_path / "f.yaml").write_text(text, "utf-8")
    (problem,) = read_schema_file(tmp_path / "f.yaml").problems
    assert f"'{name}' cannot be the name of an entity" in str(problem)
    text = text.replace(f"entities: {{{name}: ", "entities: {customer: ")
    (tmp_path / "f.yaml").write_text(text, "utf-8")
    assert not read_schema_file(tmp_path / "f.yaml").problems


@pytest.mark.parametrize(
    ("table", "entity", "place", "told"),
    [
        ("{key: [id, id]}", KEYED, "tables.t.key", "a column twice: id, id"),
        ("{unique: [[]]}", KEYED, "tables.t.unique", "one at least"),
        ("{unique: [[a, a]]}", KEYED, "tables.t.unique", "a column twice: a, a"),
        ("{parts: [p, p, q]}", KEYED, "tables.t.parts", "'p' is listed twice"),
        (
            "{references: [{columns: a, table: t, prefix: x/../y}]}",
            KEYED,
            "tables.t.references[0].prefix",
            "'x/../y' cannot be in the name",
        ),
        ("{}", "{key: [x, x]}", "entities.e.key", "a column twice: x, x"),
    ],
)
def test_what_a_table_cannot_be_is_a_mistake_of_the_file(tmp_path, table, entity, place, told):
    text = f"""
    database: d
    source: {{path: .}}
    tables: {{t: {table}}}
    entities: {{e: {entity}}}
    """
    (tmp_path / "f.yaml").write_text(text, "utf-8")
    found = [str(p) for p in read_schema_file(tmp_path / "f.yaml").problems]
    assert any(place in problem and told in problem for problem in found)


def test_what_is_wrong_with_a_file_can_be_told_by_another_process():
    told = InvalidInput("schema file x", [Problem("x:1 a", "is none.", "Leave it out.")])
    again = pickle.loads(pickle.dumps(told))
    assert (str(again), again.problems) == (str(told), told.problems)
