"""Folders appear whole or not at all, and nobody's own files go with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isohop.engines.storage import folder_atomically
from isohop.errors import IsohopError


def write(path: Path, text: str) -> None:
    with folder_atomically(path, "made.json") as folder:
        (folder / "made.json").write_text(text, "utf-8")


def test_what_was_made_before_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "a", "1")
    (tmp_path / "a" / "more").write_text("x", "utf-8")
    write(tmp_path / "a", "2")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["made.json"]
    assert (tmp_path / "a" / "made.json").read_text("utf-8") == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", "1")
    assert (tmp_path / "a" / "made.json").exists()


def test_files_of_others_are_never_replaced(tmp_path, monkeypatch):
    """A person who says `--out .`, or names a folder of other things, loses nothing."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years", "utf-8")
    monkeypatch.chdir(mine)
    for path in (mine, Path(), mine / "thesis.tex"):
        with pytest.raises(IsohopError, match="is not replaced"):
            write(path, "1")
    assert (mine / "thesis.tex").read_text("utf-8") == "years"


def test_folders_being_made_beside_it_are_left_alone(tmp_path):
    """Also where one's name begins with the other's, or reads as a pattern."""
    with folder_atomically(tmp_path / "new-customers") as folder:
        (folder / "x").write_text("x", "utf-8")
        for name in ("new", "*", "new-*"):
            write(tmp_path / name, "1")
        assert (folder / "x").exists()
    assert (tmp_path / "new-customers" / "x").exists()


@pytest.mark.parametrize("name", ["a-old", "a.old", "a-0123456789ab.old"])
def test_a_folder_being_made_is_no_old_one_of_another(tmp_path, name):
    with folder_atomically(tmp_path / name) as folder:
        (folder / "x").write_text("x", "utf-8")
        with pytest.raises(ZeroDivisionError), folder_atomically(tmp_path / "a"):
            raise ZeroDivisionError
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_of_two_that_make_one_folder_at_once_both_end_and_the_last_one_stays(tmp_path):
    with folder_atomically(tmp_path / "a", "made.json") as folder:
        (folder / "made.json").write_text("first", "utf-8")
        write(tmp_path / "a", "second")
        assert (tmp_path / "a" / "made.json").read_text("utf-8") == "second"
    assert (tmp_path / "a" / "made.json").read_text("utf-8") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_goes(tmp_path):
    left = tmp_path / ".tmp-a-0123456789ab"
    left.mkdir()
    write(tmp_path / "a", "1")
    assert not left.exists()


def test_who_is_killed_while_folders_change_places_loses_neither(tmp_path, monkeypatch):
    """The old one is there again for the next call, whatever comes of that."""
    write(tmp_path / "a", "1")
    rename, killed = Path.rename, []

    def dies(self: Path, target: Path) -> Path:
        if killed:
            raise KeyboardInterrupt
        killed.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", "2")
    monkeypatch.undo()
    assert not (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), folder_atomically(tmp_path / "a"):
        raise ZeroDivisionError
    assert (tmp_path / "a" / "made.json").read_text("utf-8") == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_path_may_be_said_in_any_way(tmp_path, monkeypatch):
    write(tmp_path / "a", "1")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    write(Path("../a"), "2")
    write(tmp_path / "link", "3")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a" / "made.json").read_text("utf-8") == "3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "link"]


def test_a_place_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(IsohopError, match="cannot be a folder"):
        write(tmp_path / "file" / "a", "1")


def test_a_block_that_fails_leaves_what_was(tmp_path):
    write(tmp_path / "a", "1")

    def fail() -> None:
        with folder_atomically(tmp_path / "a", "made.json") as folder:
            (folder / "made.json").write_text("2", "utf-8")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert (tmp_path / "a" / "made.json").read_text("utf-8") == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
