"""Where versions lie: a folder on disk, or one in an object store.

On disk a version is copied into a temporary folder beside its destination, synced, and renamed into
place; publishers of one name take turns by a lock on ``.lock``, which the operating system releases
when its holder dies. Where file locks do not reach (some network file systems), the rename still
refuses to replace a version, and the later publisher takes the next number; whose files another
took for those of a killed publisher fails, and publishes nothing.

An object store renames nothing. There a publisher claims the next number by an object that only one
can make, puts its files below it, and the manifest last: a version without one is none. LATEST is
replaced only where it is still what was read, so it never goes back. What killed publishers left
goes after a day, when nobody can be at it any more.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from isohop.embeddings.contract import (
    LATEST,
    MANIFEST,
    EmbeddingsManifest,
    PublishedFile,
    latest_named,
    latest_version,
    version_folder,
    version_number,
    versions,
)
from isohop.engines.mirror import Mirror
from isohop.engines.object_store import StoredFolder
from isohop.engines.progress import Task
from isohop.engines.storage import (
    TEMPORARY,
    fingerprint,
    remove_folder,
    sync_folder,
    temporary_beside,
    write_text_atomically,
)
from isohop.errors import IsohopError

_log = logging.getLogger("isohop")
_LOCK = ".lock"
_CLAIM = ".claim"
_STAGED, _GONE = "version", "gone"
_ATTEMPTS = 1000
_BLOCK = 1 << 20
_ABANDONED = timedelta(days=1)


class Home(Protocol):
    """The versions of one name."""

    def turn(self, task: Task) -> AbstractContextManager[None]:
        """Be the only publisher, as far as that can be; tidy up after those that were killed."""

    def latest(self) -> int | None:
        """What LATEST names."""

    def versions(self) -> list[int]:
        """Those that are whole, oldest first."""

    def manifest(self, version: int) -> EmbeddingsManifest:
        """Of one of these."""

    def is_whole(self, manifest: EmbeddingsManifest, contents: bool = False) -> bool:
        """Whether a version's files are there and no others, by their sizes; ``contents``: and by
        their checksums, where that asks for no download."""

    def local(self, version: int) -> Path:
        """A version's files, on this machine."""

    def place(self, version: int) -> Path | StoredFolder:
        """Where a version is."""

    def commit(
        self, sources: Mapping[str, Path], manifest: EmbeddingsManifest, task: Task
    ) -> EmbeddingsManifest:
        """Make files the next version: its manifest, with its number."""

    def advance(self, version: int) -> None:
        """Have LATEST name a version, where it names no later one."""

    def retain(self, keep: int) -> None:
        """Remove all but the newest ``keep`` versions and the one that LATEST names."""


@dataclass(frozen=True)
class LocalHome:
    """A folder on disk."""

    path: Path

    @contextmanager
    def turn(self, task: Task) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                task.note("waiting for another publisher")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.path.glob(f"{TEMPORARY}*"):
                self._discard(leftover)
            yield

    def _discard(self, leftover: Path) -> None:
        """What cannot go (another's, or open somewhere on a network) goes some other time."""
        if leftover.is_file():
            leftover.unlink(missing_ok=True)
            return
        if leftover.name.startswith(f"{TEMPORARY}{_STAGED}-"):
            # Where locks do not reach its publisher may live, who is not to publish a half of it.
            gone = leftover.with_name(f"{TEMPORARY}{_GONE}-{uuid.uuid4().hex}")
            leftover = leftover.rename(gone)
        shutil.rmtree(leftover, ignore_errors=True)

    def latest(self) -> int | None:
        return latest_version(self.path)

    def versions(self) -> list[int]:
        return list(versions(self.path))

    def manifest(self, version: int) -> EmbeddingsManifest:
        return EmbeddingsManifest.read(self.path / version_folder(version))

    def is_whole(self, manifest: EmbeddingsManifest, contents: bool = False) -> bool:
        folder = self.local(manifest.version)
        found = (path for path in folder.rglob("*.parquet") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path for path in found}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        return sizes == _sizes(manifest) and not (
            contents
            and any(fingerprint(files[name]) != of.sha256 for name, of in manifest.files.items())
        )

    def local(self, version: int) -> Path:
        return self.path / version_folder(version)

    def place(self, version: int) -> Path:
        return self.local(version)

    def commit(
        self, sources: Mapping[str, Path], manifest: EmbeddingsManifest, task: Task
    ) -> EmbeddingsManifest:
        staged = temporary_beside(self.path / _STAGED)
        try:
            _copy(sources, manifest.files, staged, task)
            return self._name(staged, manifest)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _name(self, staged: Path, manifest: EmbeddingsManifest) -> EmbeddingsManifest:
        """Rename the staged folder to the next free version."""
        for _ in range(_ATTEMPTS):
            numbered = _numbered(manifest, self.latest(), self.versions())
            # Nobody reads there yet. Where somebody took the folder away, this fails.
            with (staged / MANIFEST).open("w", encoding="utf-8") as stream:
                stream.write(numbered.model_dump_json(indent=1) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            sync_folder(staged)
            try:
                # Fails where the version is there: a folder that is not empty is never replaced.
                staged.rename(self.local(numbered.version))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            sync_folder(self.path)
            return numbered
        raise _too_many(self.path)

    def advance(self, version: int) -> None:
        if version > (self.latest() or 0):
            write_text_atomically(self.path / LATEST, version_folder(version) + "\n")

    def retain(self, keep: int) -> None:
        latest = self.latest()
        for number in self.versions()[:-keep]:
            if number == latest:
                continue
            try:
                remove_folder(self.local(number))
            except OSError as error:  # what is new is published all the same
                _log.warning("%s could not be removed: %s", self.local(number), error)


@dataclass(frozen=True)
class StoredHome:
    """A folder in an object store."""

    stored: StoredFolder

    @contextmanager
    def turn(self, task: Task) -> Iterator[None]:
        whole = set(self.versions())
        for name in self.stored.folders():
            number = version_number(name)
            if number is None or number in whole:
                continue
            claim = self.stored.read_with_age(f"{name}/{_CLAIM}")
            # A claim goes once its manifest is there, which may be just now.
            whole_now = self.stored.read(f"{name}/{MANIFEST}") is not None
            if not whole_now and (claim is None or claim[2] > _ABANDONED):
                self.stored.remove([one.name for one in self.stored.objects(f"{name}/")])
        yield

    def latest(self) -> int | None:
        return self._latest()[0]

    def _latest(self) -> tuple[int | None, str | None]:
        """And the tag of LATEST."""
        found = self.stored.read(LATEST)
        if found is None:
            return None, None
        return latest_named(found[0].decode("utf-8", "replace"), f"{self.stored}/{LATEST}"), found[
            1
        ]

    def versions(self) -> list[int]:
        parts = (one.name.split("/") for one in self.stored.objects("v="))
        numbers = (version_number(part[0]) for part in parts if part[1:] == [MANIFEST])
        return sorted(number for number in numbers if number is not None)

    def manifest(self, version: int) -> EmbeddingsManifest:
        name = f"{version_folder(version)}/{MANIFEST}"
        found = self.stored.read(name)
        if found is None:
            raise IsohopError(f"{self.stored}/{name} went away while it was read. Publish again.")
        return EmbeddingsManifest.parse(found[0], f"{self.stored}/{name}")

    def is_whole(self, manifest: EmbeddingsManifest, contents: bool = False) -> bool:
        there = self.place(manifest.version).objects()
        sizes = {one.name: one.size for one in there if one.name.endswith(".parquet")}
        return sizes == _sizes(manifest)

    def local(self, version: int) -> Path:
        mirror = Mirror(self.stored, self.stored.copy())
        mirror.pull(lambda name: name.startswith(f"{version_folder(version)}/"))
        return mirror.local / version_folder(version)

    def place(self, version: int) -> StoredFolder:
        return self.stored / version_folder(version)

    def commit(
        self, sources: Mapping[str, Path], manifest: EmbeddingsManifest, task: Task
    ) -> EmbeddingsManifest:
        numbered, claim = self._claim(manifest)
        folder = self.place(numbered.version)

        def is_ours() -> None:
            # Who was away for a day finds its number abandoned, perhaps given to another.
            held = folder.read(_CLAIM)
            if held is None or held[0] != claim:
                raise IsohopError(f"{folder} was given up meanwhile. Publish again.")

        for name, file in sources.items():
            is_ours()
            folder.upload(file, name)
            if fingerprint(file) != manifest.files[name].sha256:
                raise _changed(file)
            task.advance(manifest.files[name].size)
        is_ours()
        text = numbered.model_dump_json(indent=1) + "\n"
        if folder.put(MANIFEST, text.encode(), new=True) is None:
            raise IsohopError(f"{folder} has a manifest already. Publish again.")
        folder.remove([_CLAIM])
        return numbered

    def _claim(self, manifest: EmbeddingsManifest) -> tuple[EmbeddingsManifest, bytes]:
        """The next number that nobody has claimed, and the claim to it."""
        for _ in range(_ATTEMPTS):
            taken = [number for number in map(version_number, self.stored.folders()) if number]
            numbered = _numbered(manifest, self.latest(), taken)
            claim = f"{manifest.run} {uuid.uuid4().hex}".encode()
            if self.place(numbered.version).put(_CLAIM, claim, new=True) is not None:
                return numbered, claim
        raise _too_many(self.stored)

    def advance(self, version: int) -> None:
        text = f"{version_folder(version)}\n".encode()
        while True:
            number, tag = self._latest()
            if number is not None and number >= version:
                return
            if self.stored.put(LATEST, text, new=tag is None, instead_of=tag) is not None:
                return

    def retain(self, keep: int) -> None:
        latest = self.latest() or 0
        for number in self.versions()[:-keep]:
            if number < latest:  # others may publish later ones just now
                folder = self.place(number)
                names = [one.name for one in folder.objects()]
                folder.remove(sorted(names, key=lambda name: name != MANIFEST))


def home_of(place: Path | StoredFolder) -> Home:
    """Of the versions of one name."""
    return StoredHome(place) if isinstance(place, StoredFolder) else LocalHome(place)


def _sizes(manifest: EmbeddingsManifest) -> dict[str, int]:
    return {name: file.size for name, file in manifest.files.items()}


def _numbered(
    manifest: EmbeddingsManifest, latest: int | None, taken: list[int]
) -> EmbeddingsManifest:
    return manifest.model_copy(update={"version": max([latest or 0, *taken]) + 1})


def _too_many(home: Path | StoredFolder) -> IsohopError:
    return IsohopError(
        f"{home}: other publishers took the next version {_ATTEMPTS} times in a row. Publish again."
    )


def _changed(source: Path) -> IsohopError:
    return IsohopError(
        f"{source} changed while it was being published. Nothing was published: "
        "let the run finish, then publish again."
    )


def _copy(
    sources: Mapping[str, Path], files: Mapping[str, PublishedFile], staged: Path, task: Task
) -> None:
    for path, source in sources.items():
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with source.open("rb") as reader, target.open("wb") as writer:
            while block := reader.read(_BLOCK):
                digest.update(block)
                writer.write(block)
                task.advance(len(block))
            writer.flush()
            os.fsync(writer.fileno())
        if digest.hexdigest() != files[path].sha256:
            raise _changed(source)
    for folder in {(staged / path).parent for path in sources}:
        sync_folder(folder)
