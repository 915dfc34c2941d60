"""Folders in an object store (S3, or what speaks its protocol), and local copies of them.

A URL ``s3://bucket/prefix`` names a folder. Everything that reads and writes files works on a local
copy: `Mirror` makes that equal to the store (`pull`), or the store equal to it (`push`), and moves
only what differs. Copies lie under ``ISOHOP_CACHE`` (``~/.cache/isohop`` where that is not set);
they may be removed at any time.

Credentials, region and endpoint come from where the AWS tools have them (``AWS_PROFILE``,
``AWS_ENDPOINT_URL``, a role, …), and never from a file of ours. Requests that fail are tried again;
large files go up and come down in parts, several at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from isohop.engines.storage import temporary_beside, write_text_atomically
from isohop.errors import IsohopError

if TYPE_CHECKING:
    from types import TracebackType

SCHEME = "s3://"
ATTEMPTS = 10
"""Times that a request is tried, with waits that grow."""
INDEX = ".objects.json"
"""In a mirror: what its files were when it was last equal to the store."""
_BUSY = ".objects.lock"
READING, WRITING = "reading", "writing"
"""Kinds of local copies."""
LEASE_SECONDS = 60
"""Time for which a lease is held without being renewed; it is renewed three times as often."""


def is_url(path: str | Path) -> bool:
    return str(path).startswith(SCHEME)


def cache_folder() -> Path:
    """Where local copies lie."""
    set_ = os.environ.get("ISOHOP_CACHE")
    return Path(set_) if set_ else Path.home() / ".cache" / "isohop"


@dataclass(frozen=True)
class StoredObject:
    """``name``: from its folder; ``tag``: changes with its content; ``size``: bytes."""

    name: str
    tag: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class StoredFolder:
    """What a URL names."""

    bucket: str
    prefix: str
    """Without '/' at its ends; '' for all of the bucket."""

    @classmethod
    def of(cls, url: str) -> StoredFolder:
        """Raises `IsohopError` for what is no such URL."""
        if any(sign in url.removeprefix(SCHEME) for sign in "@:?#"):
            raise IsohopError(
                "A URL of an object store is s3://bucket/folder and has nothing else in it: "
                "credentials and endpoint come from the environment, as the AWS tools take them."
            )
        parts = urlsplit(url)
        inner = PurePosixPath(parts.path.strip("/"))
        if f"{parts.scheme}://" != SCHEME or not parts.netloc or ".." in inner.parts:
            raise IsohopError(f"'{url}' is not the URL of a folder: write s3://bucket/folder.")
        return cls(parts.netloc, "" if str(inner) == "." else str(inner))

    @property
    def name(self) -> str:
        return self.prefix.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def __truediv__(self, name: str) -> StoredFolder:
        return StoredFolder(self.bucket, f"{self.prefix}/{name}".strip("/"))

    def copy(self, kind: str = READING) -> Path:
        """Where its local copy lies: who writes has one that no reader touches, and none lies in
        another: no URL has an '@'. A bucket's name says nothing of whose store it is in."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        host = urlsplit(endpoint).netloc.replace(":", "-") or "aws"
        return cache_folder() / kind / host / self.bucket / self.prefix / "@files"

    def objects(self, under: str = "") -> Iterator[StoredObject]:
        """All below it, or below a folder of it, in the order of their names."""
        start = f"{self.prefix}/" if self.prefix else ""
        pages = _client().get_paginator("list_objects_v2")
        with _told(self):
            for page in pages.paginate(Bucket=self.bucket, Prefix=start + under):
                for one in page.get("Contents", ()):
                    name = one["Key"].removeprefix(start)
                    if name and not name.endswith("/"):
                        yield StoredObject(name, one["ETag"], one["Size"], one["LastModified"])

    def folders(self) -> list[str]:
        """Names of the folders right below it."""
        start = f"{self.prefix}/" if self.prefix else ""
        pages = _client().get_paginator("list_objects_v2")
        with _told(self):
            return [
                one["Prefix"].removeprefix(start).rstrip("/")
                for page in pages.paginate(Bucket=self.bucket, Prefix=start, Delimiter="/")
                for one in page.get("CommonPrefixes", ())
            ]

    def read(self, name: str) -> tuple[bytes, str] | None:
        """An object's content and tag; None where there is none."""
        found = self.read_with_age(name)
        return None if found is None else found[:2]

    def read_with_age(self, name: str) -> tuple[bytes, str, timedelta] | None:
        """An object's content, tag and age, both times by the store's clock."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError
        from urllib3.exceptions import HTTPError

        with _told(self):
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    found = _client().get_object(Bucket=self.bucket, Key=self._key(name))
                    content = found["Body"].read()
                except _client().exceptions.NoSuchKey:
                    return None
                except (HTTPClientError, IncompleteReadError, HTTPError, ConnectionError):
                    # The answer was cut off, which botocore does not try again.
                    if attempt == ATTEMPTS:
                        raise
                    continue
                now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
                return content, found["ETag"], now - found["LastModified"]
        return None

    def put(
        self, name: str, content: bytes, *, new: bool = False, instead_of: str | None = None
    ) -> str | None:
        """Write an object; its tag. ``new``: only where there is none; ``instead_of``: only where
        it still has that tag. None where that is not so: somebody else was faster. ``content``
        should then be nobody else's: where an answer got lost, the next try finds its own work."""
        from botocore.exceptions import ClientError

        only: dict[str, str] = {"IfNoneMatch": "*"} if new else {}
        if instead_of is not None:
            only["IfMatch"] = instead_of
        with _told(self):
            try:
                done = _client().put_object(
                    Bucket=self.bucket, Key=self._key(name), Body=content, **only
                )
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if not only or status not in (404, 409, 412):
                    raise
                found = self.read(name)
                return found[1] if found is not None and found[0] == content else None
        return str(done["ETag"])

    def upload(self, file: Path, name: str) -> str:
        """A file; the tag of what it became."""
        with _told(self):
            _client().upload_file(str(file), self.bucket, self._key(name))
            return str(_client().head_object(Bucket=self.bucket, Key=self._key(name))["ETag"])

    def download(self, name: str, file: Path) -> None:
        """A file that appears whole or not at all. Raises `FileNotFoundError` where there is no
        such object any more."""
        from botocore.exceptions import ClientError

        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(file)
        try:
            with _told(self):
                try:
                    _client().download_file(self.bucket, self._key(name), str(temporary))
                except ClientError as error:
                    if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                        raise FileNotFoundError(f"{self}/{name}") from error
                    raise
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, names: Collection[str]) -> None:
        """One after the other, in their order; what is not there is no mistake."""
        with _told(self):
            for name in names:
                _client().delete_object(Bucket=self.bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


@cache
def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise IsohopError(
            "To read and write s3:// takes boto3, which is not installed: pip install 'isohop[s3]'."
        ) from error
    retries = {"mode": "standard", "max_attempts": ATTEMPTS}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60)
    try:
        return boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise IsohopError(f"{SCHEME} cannot be used: {error}. Look at the AWS settings.") from error


@contextmanager
def _told(folder: StoredFolder) -> Iterator[None]:
    """What the store says, as an error of ours."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "?")
        what = {
            "NoSuchBucket": f"there is no bucket '{folder.bucket}'",
            "AccessDenied": "access is denied",
            "403": "access is denied",
        }.get(code, f"the store answers {code}")
        raise IsohopError(f"{folder}: {what}. Look at the name and the credentials.") from error
    except (BotoCoreError, Boto3Error) as error:
        raise IsohopError(
            f"{folder} cannot be reached: {error}. Look at the endpoint, the network and the "
            "credentials, then run the same command again."
        ) from error


@dataclass(frozen=True)
class Mirror:
    """A folder of a store, and its local copy."""

    stored: StoredFolder
    local: Path

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
                index.pop(name, None)
            for name, one in there.items():
                file = self._file(name)
                if name in here and index.get(name) == [one.tag, *_state(file)]:
                    continue
                self.stored.download(name, file)
                index[name] = [one.tag, *_state(file)]
            self._remember(index)
            return len(there)

    def is_ahead(self) -> bool:
        """Whether the store is what it was when this copy was last equal to it: what the copy has
        more is then nobody else's."""
        there = {one.name: one.tag for one in self.stored.objects() if _is_data(one.name)}
        return there == {name: known[0] for name, known in self._index().items()}

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
                self.stored.remove([name])
                del index[name]
                self._remember(index)
            for name in sorted(here.keys() - index.keys() | (other & here.keys()), key=last):
                index[name] = [self.stored.upload(self.local / name, name), *here[name]]
                self._remember(index)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time changes a copy."""
        self.local.mkdir(parents=True, exist_ok=True)
        with (self.local / _BUSY).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove(self, name: str) -> None:
        """A file, and the folders that are empty without it."""
        file = self.local / name
        file.unlink()
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


def _is_data(name: str) -> bool:
    """Names that begin with a dot are locks, claims and what is not whole."""
    return not any(part.startswith(".") and part != ".." for part in name.split("/"))


def _state(file: Path) -> tuple[int, int]:
    """What changes when a file does: bytes, and nanoseconds of its last change."""
    about = file.stat()
    return about.st_size, about.st_mtime_ns


class Lease:
    """The right to write a folder, for as long as its holder lives: an object that is renewed. One
    that was not renewed for `LEASE_SECONDS`, by the store's clock, is taken over.

    Raises `IsohopError` on entry where somebody holds it.
    """

    def __init__(self, folder: StoredFolder, name: str, holder: str):
        self._folder = folder
        self._name = name
        self._holder = holder
        self._tag: str | None = None
        self._written: list[bytes] = []
        self._one = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._renewed = 0.0

    def __enter__(self) -> Lease:
        held = self._held()
        if held is None:
            self._tag = self._folder.put(self._name, self._content(), new=True)
        elif held[2] > timedelta(seconds=LEASE_SECONDS):
            self._tag = self._folder.put(self._name, self._content(), instead_of=held[1])
        if self._tag is None:
            holder = held[0] if held else "another process"
            raise IsohopError(
                f"{self._folder} is being written by {holder}. Wait for it to end; where it died, "
                f"this can go on {LEASE_SECONDS} s later."
            )
        self._renewed = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            held = self._held()
            if held is not None and held[1] == self._tag:
                self._folder.remove([self._name])
        except IsohopError:
            return  # it ends by itself

    def check(self) -> None:
        """Raises `IsohopError` where it may be somebody else's by now."""
        self._renew()
        if self._tag is None or time.monotonic() - self._renewed > LEASE_SECONDS:
            raise IsohopError(
                f"{self._folder}: the right to write it was lost, since the store could not be "
                f"reached for {LEASE_SECONDS} s. Run the same command again."
            )

    def _held(self) -> tuple[str, str, timedelta] | None:
        """Who holds it, its tag and its age."""
        found = self._folder.read_with_age(self._name)
        if found is None:
            return None
        holder, _, _ = found[0].decode("utf-8", "replace").partition("\n")
        return holder[:200], *found[1:]

    def _content(self) -> bytes:
        # Else two renewals would have one tag.
        content = f"{self._holder}\n{uuid.uuid4().hex}\n".encode()
        self._written = [*self._written[-3:], content]
        return content

    def _renew(self) -> None:
        with self._one:
            if self._tag is None:
                return
            began = time.monotonic()
            try:
                tag = self._folder.put(self._name, self._content(), instead_of=self._tag)
                if tag is None:
                    # An earlier renewal may have been done, and its answer lost.
                    found = self._folder.read(self._name)
                    tag = found[1] if found is not None and found[0] in self._written else None
            except IsohopError:
                return  # told by `check` once it has been too long
            self._tag, self._renewed = tag, began

    def _keep(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 3):
            self._renew()
