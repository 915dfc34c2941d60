"""Local copies of folders in an object store.

`Mirror.pull` makes a copy equal to the store, `Mirror.push` the store equal to the copy; both move
only what differs. Copies lie under ``ISOHOP_CACHE`` (``~/.cache/isohop`` where that is not set) and
may be removed at any time.
"""

from __future__ import annotations

import fcntl
import filecmp
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from isohop.engines.object_store import StoredFolder, is_url
from isohop.engines.storage import temporary_beside, write_text_atomically
from isohop.errors import IsohopError

INDEX = ".objects.json"
"""What a copy's files were when it was last equal to the store: by name the tag there, and the
`_state` here. Of a file whose upload was begun null, the state, and the tag before."""
_BUSY = ".objects.lock"


def _anybody() -> None:
    """Where nobody has to ask whether the store may be written."""


@dataclass(frozen=True)
class Mirror:
    """A folder of a store, and its local copy. ``check``: what raises where the store may no longer
    be written; it is asked before each change of it."""

    stored: StoredFolder
    local: Path
    check: Callable[[], None] = _anybody

    @classmethod
    def of(cls, url: str) -> Mirror:
        stored = StoredFolder.of(url)
        return cls(stored, stored.copy())

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> int:
        """Make the local copy what is in the store: of the names that are ``wanted``, and how many
        these are."""
        with self._alone():
            index = self._index()
            found = {one.name: one for one in self.stored.objects() if _is_data(one.name)}
            there = {name: one for name, one in found.items() if wanted(name)}
            here = {name for name in self._files() if wanted(name)}
            for name in sorted(here - there.keys()):
                self._remove(name)
            index = {n: known for n, known in index.items() if n in found or not wanted(n)}
            try:
                for name, one in list(there.items()):
                    file = self._file(name)
                    if name in here and index.get(name) == [one.tag, *_state(file)]:
                        continue
                    try:
                        self.stored.download(name, file)
                    except FileNotFoundError:  # removed since it was listed
                        self._remove(name)
                        index.pop(name, None)
                        del there[name]
                        continue
                    index[name] = [one.tag, *_state(file)]
            finally:  # what is here need not come again
                self._remember(index)
            return len(there)

    def is_ahead(self) -> bool:
        """Whether the store is what it was when this copy was last equal to it, and the copy still
        has all of that: what it has more is then nobody else's. A copy that lost a file says
        nothing about what should be in the store: it may be a cleaner's doing."""
        index = self._index()
        there = {one.name: one.tag for one in self.stored.objects() if _is_data(one.name)}
        if not all((self.local / name).is_file() for name in index):
            return False
        for name, (tag, *_, before) in [(n, known) for n, known in index.items() if _begun(known)]:
            if there.get(name) == before or self._is_up(name):
                there[name] = tag  # whether it came to an end or not, nobody else wrote it
        return there == {name: known[0] for name, known in index.items()}

    def push(
        self,
        wanted: Callable[[str], bool] = lambda name: True,
        last: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Make the store what is in the local copy: of the names that are ``wanted``. Those that
        are ``last`` say that the others are whole: they go away before anything changes, and up
        after all others."""
        with self._alone():
            index = self._index()
            state = {name: list(_state(self.local / name)) for name in self._files()}
            here = {name: now for name, now in state.items() if wanted(name)}
            other = {name for name, known in index.items() if here.get(name) != known[1:]}
            stale = [name for name in other if last(name)] + [n for n in other if n not in here]
            for name in dict.fromkeys(stale):
                self.check()
                self.stored.remove([name])
                del index[name]
                self._remember(index)
            for name in sorted(here.keys() - index.keys() | (other & here.keys()), key=last):
                self._upload(index, name, here[name])

    def push_file(self, name: str) -> None:
        """One file, and nothing else."""
        with self._alone():
            self._upload(self._index(), name, list(_state(self._file(name))))

    def _upload(self, index: dict[str, list[Any]], name: str, state: list[Any]) -> None:
        """A file, as it was in that ``state``. That it is begun is known before it is, so that a
        process that is killed after it, and before it is known, leaves no riddle."""
        self.check()
        before = index.get(name, [None])
        index[name] = [None, *state, before[-1] if _begun(before) else before[0]]
        self._remember(index)
        index[name] = [self.stored.upload(self.local / name, name), *state]
        self._remember(index)

    def _is_up(self, name: str) -> bool:
        """Whether what is in the store is what is here."""
        file = self.local / name
        other = temporary_beside(file)
        try:
            self.stored.download(name, other)
            return filecmp.cmp(file, other, shallow=False)
        except FileNotFoundError:
            return False
        finally:
            other.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time changes a copy."""
        self.local.mkdir(parents=True, exist_ok=True)
        with (self.local / _BUSY).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove(self, name: str) -> None:
        """A file, where it is there, and the folders that are empty without it."""
        file = self.local / name
        file.unlink(missing_ok=True)
        for folder in file.parents:
            if folder == self.local or any(folder.iterdir()):
                return
            folder.rmdir()

    def _file(self, name: str) -> Path:
        """Raises `IsohopError` for a name that would lead out of the copy."""
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/"):
            raise IsohopError(f"{self.stored}: the object '{name}' has no name of a file. Move it.")
        return self.local / name

    def _files(self) -> list[str]:
        """Names from the folder."""
        inside = (path for path in self.local.rglob("*") if path.is_file())
        names = (path.relative_to(self.local).as_posix() for path in inside)
        return sorted(filter(_is_data, names))

    def _index(self) -> dict[str, list[Any]]:
        try:
            found = json.loads((self.local / INDEX).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, index: Mapping[str, list[Any]]) -> None:
        write_text_atomically(self.local / INDEX, json.dumps(index) + "\n")


def local(where: str | Path) -> Path:
    """A file or folder: as it is, or of a URL the local copy, brought up to date. Raises
    `IsohopError` where there is nothing in a store."""
    if not is_url(where):
        return Path(where)
    mirror = Mirror.of(str(where))
    parent, name = mirror.stored.parent, mirror.stored.name
    first = next(parent.objects(name), None)
    if first is not None and first.name == name:
        file = parent.copy() / name
        parent.download(name, file)
        return file
    while mirror.pull():
        if mirror.is_ahead():  # and nobody wrote meanwhile
            return mirror.local
    raise IsohopError(f"There is nothing in {where}. Look at the name.")


def _is_data(name: str) -> bool:
    """Names that begin with a dot are locks, claims and what is not whole."""
    return not any(part.startswith(".") and part != ".." for part in name.split("/"))


def _begun(known: list[Any]) -> bool:
    """Whether an upload was begun of which nobody knows whether it came to its end."""
    return len(known) > 1 and known[0] is None


def _state(file: Path) -> tuple[int, int]:
    """What changes when a file does: bytes, and nanoseconds of its last change."""
    about = file.stat()
    return about.st_size, about.st_mtime_ns
