"""Folders in an object store, against a server of S3's protocol on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isohop.engines import lease, object_store
from isohop.engines.lease import Lease
from isohop.engines.mirror import Mirror, local
from isohop.engines.object_store import WRITING, StoredFolder, StoredObject
from isohop.errors import IsohopError
from isohop.pipeline.runs import LOCK, Run

pytest_plugins = ["tests.s3"]


@pytest.mark.parametrize(
    "url",
    [
        "s3:/bucket/folder",
        "https://bucket/folder",
        "S3://bucket/folder",
        "s3a://key:secret@bucket/folder",
        "s3://",
        "s3://key:secret@bucket/folder",
        "s3://bucket/folder?endpoint=http://elsewhere",
        "s3://bucket/../other",
        "s3://[bucket]/folder",
        "s3://[bucket/folder",
    ],
)
def test_what_is_no_url_of_a_folder_is_refused_without_telling_secrets(url):
    with pytest.raises(IsohopError) as refused:
        StoredFolder.of(url)
    assert "key:secret" not in str(refused.value)
    assert "elsewhere" not in str(refused.value)


def test_a_copy_becomes_what_is_stored_and_moves_only_what_differs(
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
):
    stored = StoredFolder.of(bucket)
    stored.put("a/one.txt", b"1")
    stored.put("b ü/two.txt", b"2")
    stored.put(".lock", b"somebody")
    mirror = Mirror.of(bucket)
    assert mirror.pull() == 2
    assert (mirror.local / "a/one.txt").read_bytes() == b"1"
    assert (mirror.local / "b ü/two.txt").read_bytes() == b"2"
    stored.put("a/one.txt", b"one")
    stored.remove(["b ü/two.txt"])
    moved = []
    download = StoredFolder.download
    monkeypatch.setattr(
        StoredFolder,
        "download",
        lambda self, name, file: (moved.append(name), download(self, name, file))[1],
    )
    mirror.pull()
    mirror.pull()
    assert moved == ["a/one.txt"]
    assert [p.name for p in mirror.local.rglob("*.txt")] == ["one.txt"]
    # What somebody did to a copy is undone.
    (mirror.local / "a/one.txt").write_bytes(b"broken")
    (mirror.local / "mine.txt").write_bytes(b"")
    mirror.pull()
    assert (mirror.local / "a/one.txt").read_bytes() == b"one"
    assert not (mirror.local / "mine.txt").exists()


def test_what_is_removed_while_it_is_copied_is_not_there(
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
):
    stored = StoredFolder.of(bucket)
    mirror = Mirror.of(bucket)
    for name in ("one.txt", "two.txt"):
        stored.put(name, b"1")
    mirror.pull()
    stored.put("two.txt", b"2")
    download = StoredFolder.download
    monkeypatch.setattr(
        StoredFolder,
        "download",
        lambda self, name, file: (self.remove([name]), download(self, name, file)),
    )
    assert mirror.pull() == 1
    assert [path.name for path in mirror.local.glob("*.txt")] == ["one.txt"]


def test_a_store_becomes_what_its_copy_is(bucket: str, tmp_path: Path):
    mirror = Mirror(StoredFolder.of(bucket), tmp_path / "here")
    (tmp_path / "here" / "x").mkdir(parents=True)
    (tmp_path / "here" / "x" / "large").write_bytes(bytes(20 << 20))  # goes up in parts
    (tmp_path / "here" / "done").write_text("1")
    mirror.push(last=lambda name: name == "done")
    objects = list(mirror.stored.objects())
    assert {one.name: one.size for one in objects} == {"done": 1, "x/large": 20 << 20}
    (tmp_path / "here" / "x" / "large").unlink()
    mirror.push()
    assert [one.name for one in mirror.stored.objects()] == ["done"]
    other = Mirror(mirror.stored, tmp_path / "there")
    other.pull()
    assert (tmp_path / "there" / "done").read_text() == "1"


def test_what_is_gone_here_and_there_is_forgotten(bucket: str, tmp_path: Path):
    """Copies may be removed at any time, and parts of them."""
    mirror = Mirror(StoredFolder.of(bucket), tmp_path / "here")
    for name in ("a", "b"):
        mirror.local.mkdir(exist_ok=True)
        (mirror.local / name).write_text(name, "utf-8")
    mirror.push()
    (mirror.local / "a").unlink()
    mirror.stored.remove(["a"])
    assert mirror.pull() == 1
    assert mirror.is_ahead()


def test_what_is_read_is_a_file_a_folder_or_what_is_stored(bucket: str, tmp_path: Path):
    (tmp_path / "rows.parquet").write_text("rows", "utf-8")
    stored = StoredFolder.of(bucket)
    for name in ("rows.parquet", "rows.parquet.old/a", "rows/a", "rows/b"):
        stored.upload(tmp_path / "rows.parquet", name)
    assert local(tmp_path / "rows.parquet") == tmp_path / "rows.parquet"
    assert local(f"{bucket}/rows.parquet").read_text("utf-8") == "rows"
    for url in (f"{bucket}/rows", f"{bucket}/rows/"):
        assert {file.name for file in local(url).iterdir() if file.name[0] != "."} == {"a", "b"}
    stored.remove(["rows/b"])
    assert not (local(f"{bucket}/rows") / "b").exists()
    with pytest.raises(IsohopError, match="There is nothing in"):
        local(f"{bucket}/row")


def test_of_two_who_are_first_one_is(bucket: str):
    stored = StoredFolder.of(bucket)
    tag = stored.put("x", b"1", new=True)
    assert tag is not None
    assert stored.put("x", b"2", new=True) is None
    newer = stored.put("x", b"3", instead_of=tag)
    assert newer is not None
    assert stored.put("x", b"4", instead_of=tag) is None
    assert stored.read("x") == (b"3", newer)


def test_an_object_whose_name_leads_elsewhere_is_not_written(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A server of S3 lets keys have '..'; the one of these tests does not."""
    evil = StoredObject("a/../../../out", "tag", 1)
    monkeypatch.setattr(StoredFolder, "objects", lambda self: iter([evil]))
    with pytest.raises(IsohopError, match="no name of a file"):
        Mirror(StoredFolder.of(bucket), tmp_path / "one" / "two" / "three").pull()
    assert not list(tmp_path.rglob("out"))


def test_nobody_takes_a_half_for_a_whole_while_it_goes_up(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What says that all is whole is gone before anything changes, and comes back last."""
    mirror = Mirror(StoredFolder.of(bucket), tmp_path / "here")
    (tmp_path / "here").mkdir()
    for name in ("data", "done"):
        (tmp_path / "here" / name).write_text("1")
    mirror.push(last=lambda name: name == "done")
    for name in ("data", "done"):
        (tmp_path / "here" / name).write_text("22")

    seen = []
    upload = StoredFolder.upload
    monkeypatch.setattr(
        StoredFolder,
        "upload",
        lambda self, file, name: (
            seen.append((name, [one.name for one in self.objects()])),
            upload(self, file, name),
        )[1],
    )
    mirror.push(last=lambda name: name == "done")
    assert seen == [("data", ["data"]), ("done", ["data"])]
    assert [one.size for one in mirror.stored.objects()] == [2, 2]


def test_what_did_not_go_up_is_kept_only_where_nobody_else_wrote(bucket: str, tmp_path: Path):
    mirror = Mirror(StoredFolder.of(bucket), tmp_path / "here")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "x").write_text("1")
    mirror.push()
    (tmp_path / "here" / "x").write_text("hours of work")
    assert mirror.is_ahead()
    mirror.stored.put("y", b"another's")
    assert not mirror.is_ahead()
    mirror.pull()
    assert (tmp_path / "here" / "x").read_text() == "1"


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("name", ["x", "new"])
def test_an_upload_that_was_cut_off_is_nobody_elses(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arrived: bool
):
    """Whether the object arrived or not: what did not go up yet stays, and goes up."""
    mirror = Mirror(StoredFolder.of(bucket), tmp_path / "here")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "x").write_text("1")
    mirror.push()
    for made in (name, "work"):
        (tmp_path / "here" / made).write_text("hours of work")
    upload = StoredFolder.upload

    def cut_off(self: StoredFolder, file: Path, named: str) -> str:
        if named == name and arrived:
            upload(self, file, named)
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(StoredFolder, "upload", cut_off)
        with pytest.raises(KeyboardInterrupt):
            mirror.push(lambda made: made == name)
    assert mirror.is_ahead()
    mirror.push()
    assert mirror.is_ahead()
    assert {one.name: one.size for one in mirror.stored.objects()}.keys() == {"x", "work", name}
    mirror.stored.put(name, b"another's")
    assert not mirror.is_ahead()


def test_of_an_upload_that_was_cut_off_others_may_have_written_since(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mirror = Mirror(StoredFolder.of(bucket), tmp_path / "here")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "x").write_text("1")
    with monkeypatch.context() as cut:
        cut.setattr(StoredFolder, "upload", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mirror.push()
    mirror.stored.put("x", b"another's")
    assert not mirror.is_ahead()
    mirror.pull()
    assert (tmp_path / "here" / "x").read_text() == "another's"


def test_a_copy_that_was_interrupted_goes_on(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mirror = Mirror(StoredFolder.of(bucket), tmp_path / "here")
    for name in "abc":
        mirror.stored.put(name, b"1")
    download, moved = StoredFolder.download, []

    def counted(self: StoredFolder, name: str, file: Path) -> None:
        moved.append(name)
        if len(moved) == 3:
            raise KeyboardInterrupt
        download(self, name, file)

    monkeypatch.setattr(StoredFolder, "download", counted)
    with pytest.raises(KeyboardInterrupt):
        mirror.pull()
    assert mirror.pull() == 3
    assert moved == ["a", "b", "c", "c"]


@pytest.mark.parametrize("name", ["graph/old", "graph/one", "graph/two"])
def test_who_loses_the_right_to_write_changes_nothing_more(
    bucket: str, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Another took it over while a file went up or away, and has done the stage by now."""
    run = Run.of(StoredFolder.of(f"{bucket}/runs"), "nightly", WRITING)
    stored = StoredFolder.of(f"{bucket}/runs/nightly")
    with run.writing():
        for made in ("graph/old", "graph/one", "stages/build.json"):
            (run.folder / made).parent.mkdir(exist_ok=True)
            (run.folder / made).write_text("1", "utf-8")
    others = dict.fromkeys(("graph/one", "graph/two", "stages/build.json"), b"another's")

    def taken_over(change: Callable[..., object]) -> Callable[..., object]:
        def changed(self: StoredFolder, *words: object) -> object:
            found = change(self, *words)
            if name in words or [name] in words:
                for made, content in {**others, LOCK: b"another"}.items():
                    self.put(made, content)
            return found

        return changed

    def write() -> None:
        with run.writing():
            (run.folder / "graph" / "old").unlink()
            for made in others:
                (run.folder / made).write_text("22", "utf-8")
            for change in ("upload", "remove"):
                monkeypatch.setattr(StoredFolder, change, taken_over(getattr(StoredFolder, change)))

    with pytest.raises(IsohopError, match="was lost"):
        write()
    found = {one.name: one.size for one in stored.objects()}
    assert found == {made: len(content) for made, content in {**others, LOCK: b"another"}.items()}


def test_a_copy_that_lost_a_file_is_mended_from_the_store(bucket: str):
    """Copies may be removed at any time, in part too: then nothing of them is trusted."""
    run = Run.of(StoredFolder.of(f"{bucket}/runs"), "nightly", WRITING)
    with run.writing():
        (run.folder / "graph").mkdir()
        for name in ("one", "two"):
            (run.folder / "graph" / name).write_text(name, "utf-8")
    (run.folder / "graph" / "one").unlink()
    with run.writing():
        assert (run.folder / "graph" / "one").read_text("utf-8") == "one"
    stored = StoredFolder.of(f"{bucket}/runs/nightly")
    assert [one.name for one in stored.objects("graph")] == ["graph/one", "graph/two"]


def test_folders_that_are_empty_now_go_too(bucket: str):
    mirror = Mirror.of(bucket)
    mirror.stored.put("a/b/one", b"1")
    mirror.stored.put("two", b"2")
    mirror.pull()
    mirror.stored.remove(["a/b/one"])
    mirror.pull()
    assert not (mirror.local / "a").exists()
    assert (mirror.local / "two").exists()


def test_copies_never_lie_in_each_other(bucket: str):
    outer, inner = Mirror.of(bucket), Mirror.of(f"{bucket}/inner")
    inner.stored.put("x", b"1")
    inner.pull()
    outer.stored.remove(["inner/x"])
    outer.stored.put("y", b"2")
    outer.pull()
    assert (inner.local / "x").exists()
    assert outer.local not in inner.local.parents


@pytest.mark.parametrize(
    "wrong", [{"AWS_PROFILE": "nobodys"}, {"AWS_ENDPOINT_URL": "localhost:9"}], ids=str
)
def test_wrong_settings_of_aws_are_told(
    bucket: str, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
):
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    object_store._client.cache_clear()
    with pytest.raises(IsohopError, match="Look at the AWS settings"):
        Mirror.of(bucket).pull()


class TestLease:
    def test_one_holds_it_and_the_other_is_told_who(self, bucket: str):
        stored = StoredFolder.of(bucket)
        with Lease(stored, ".lock", "process 1 on here") as one:
            with (
                pytest.raises(IsohopError, match="written by process 1 on here"),
                Lease(stored, ".lock", "process 2"),
            ):
                pass
            one.check()
        with Lease(stored, ".lock", "process 2"):
            pass
        assert stored.read(".lock") is None

    def test_it_is_kept_while_its_holder_lives_and_not_after(
        self,
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.setattr(lease, "LEASE_SECONDS", 3)
        stored = StoredFolder.of(bucket)
        with Lease(stored, ".lock", "one") as one:
            time.sleep(5)
            one.check()
            with pytest.raises(IsohopError, match="written by one"), Lease(stored, ".lock", "two"):
                pass
            one._stop.set()  # as if it had died
            time.sleep(5)
            with Lease(stored, ".lock", "two"), pytest.raises(IsohopError, match="was lost"):
                one.check()
            # and it does not take away what became another's
            with Lease(stored, ".lock", "three"):
                one.__exit__(None, None, None)
                assert stored.read(".lock") is not None

    def test_an_answer_that_got_lost_does_not_lose_it(
        self, bucket: str, monkeypatch: pytest.MonkeyPatch
    ):
        stored = StoredFolder.of(bucket)
        put = StoredFolder.put

        def lost(self: StoredFolder, *words: object, **more: object) -> str | None:
            put(self, *words, **more)  # type: ignore[arg-type]
            raise IsohopError("no answer")

        with Lease(stored, ".lock", "one") as one:
            monkeypatch.setattr(StoredFolder, "put", lost)
            one._renew()
            monkeypatch.setattr(StoredFolder, "put", put)
            one.check()


def test_a_bucket_that_is_not_there_is_told(bucket: str):
    with pytest.raises(IsohopError, match="there is no bucket 'nobodys'"):
        Mirror.of("s3://nobodys/x").pull()
