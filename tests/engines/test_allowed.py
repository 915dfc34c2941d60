"""What schema and pipeline files may name."""

from __future__ import annotations

import pytest

from isohop.engines.allowed import VARIABLE, forbidden


@pytest.mark.parametrize("url", ["gs://b/x", "S3://b/x", "s3:/b/x", "hdfs://n/x", "file:///x"])
def test_what_is_neither_a_path_nor_in_a_store_is_refused(url):
    assert "name a path on this machine, or s3://bucket/folder" in (forbidden(url) or "")


def test_where_nothing_is_said_everything_may_be_named(monkeypatch, tmp_path):
    for said in ("", " ; "):
        monkeypatch.setenv(VARIABLE, said)
        assert forbidden(tmp_path) is None
    monkeypatch.delenv(VARIABLE)
    assert forbidden("s3://anywhere") is None


@pytest.mark.parametrize(
    ("where", "inside"),
    [
        ("one", True),
        ("one/new/runs", True),
        ("one/../two", True),
        ("a b;c", False),
        ("one/../../other", False),
        ("one-and-more", False),
        ("one/out", False),
        ("", False),
    ],
)
def test_a_path_is_inside_of_a_folder_that_is_allowed(monkeypatch, tmp_path, where, inside):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "out").symlink_to("/")
    monkeypatch.setenv(VARIABLE, f"{tmp_path}/one; {tmp_path}/two;s3://bucket/isohop")
    problem = forbidden(tmp_path / where)
    assert (problem is None) == inside
    if problem is not None:
        assert str(tmp_path / "one") in problem


@pytest.mark.parametrize(
    ("where", "inside"),
    [
        ("s3://bucket/isohop", True),
        ("s3://bucket/isohop/runs", True),
        ("s3://bucket/isohop-of-others", False),
        ("s3://bucket", False),
        ("s3://other/isohop", False),
    ],
)
def test_a_url_is_below_one_that_is_allowed(monkeypatch, tmp_path, where, inside):
    monkeypatch.setenv(VARIABLE, f"{tmp_path};s3://bucket/isohop/")
    assert (forbidden(where) is None) == inside
