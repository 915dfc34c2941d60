"""Files that appear whole or not at all, and their fingerprints.

Paths are local for now. A folder is written under a temporary name beside its destination, synced,
and renamed into place; a reader therefore sees the old one, the new one, or none.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isohop.errors import IsohopError

TEMPORARY = ".tmp-"
"""How the names of what is not whole begin: no reader looks at them."""
_OLD = ".old"


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


FULL = "No space left on device"


def is_disk_full(error: BaseException) -> bool:
    """Whether that is what an error comes of: Python's own, or one that an engine hands on."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT)) or (
            FULL in str(one)
        ):
            return True
        pending += [one.__cause__, one.__context__, getattr(one, "cause", None)]
    return False


def disk_full(what: str) -> IsohopError:
    """``what`` could not go on."""
    return IsohopError(
        f"{what}: {FULL}. Make room, then run the same command again: what is done is not done "
        "twice."
    )


def temporary_beside(path: Path) -> Path:
    """A name in the same folder (hence the same file system) that no reader looks at."""
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}")


def remove_folder(path: Path) -> None:
    """Remove a folder; renamed first, so that nobody takes a half for a whole."""
    gone = temporary_beside(path)
    path.rename(gone)
    shutil.rmtree(gone)


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def folder_atomically(path: Path, made: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder; when the block succeeds it becomes ``path``, replacing what was.

    When the block fails the temporary folder is removed and ``path`` is left as it was. Leftovers
    of a killed process (same destination) are removed on the next call. Of two at once the last one
    stays.

    ``made``: a file that every folder made here for the same purpose has. Where a person says what
    ``path`` is, no other folder may be replaced. Raises `IsohopError` for that, and where there can
    be no folder.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IsohopError(f"{path} cannot be a folder: {error.strerror}.") from error
    if path.exists() and not path.is_dir():
        raise IsohopError(f"{path} is a file, so it is not replaced. Choose a folder.")
    if made is not None and path.exists() and any(path.iterdir()) and not (path / made).is_file():
        raise IsohopError(
            f"{path} is there already and not what this command makes (no {made} in it), so it "
            "is not replaced. Choose a folder that does not exist yet."
        )
    _tidy(path)
    temporary = temporary_beside(path)
    temporary.mkdir()
    # Held as long as it is being made: another call for the same destination leaves it alone.
    held = os.open(temporary, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            made_way = temporary_beside(path)
            old = made_way.with_name(made_way.name + _OLD)
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(held)


def _tidy(path: Path) -> None:
    """Away with what killed processes left beside ``path``. Where one was killed between taking the
    old folder away and having the new one there, the old one comes back."""
    names = re.compile(re.escape(f"{TEMPORARY}{path.name}") + rf"-[0-9a-f]{{12}}(?P<old>\{_OLD})?")
    for leftover in sorted(path.parent.iterdir()):
        found = names.fullmatch(leftover.name)
        if found and found["old"] and not path.exists():
            leftover.rename(path)
        elif found and not _is_held(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_held(folder: Path) -> bool:
    """Whether a process is making it, or just now ends. A lock goes with the process that had
    it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def sync_folder(folder: Path) -> None:
    """Have its names survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
