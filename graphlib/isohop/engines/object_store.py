"""Folders in an object store: S3, or what speaks its protocol.

A URL ``s3://bucket/prefix`` names a folder. Everything that reads and writes files works on a local
copy (`mirror.py`); who writes one holds a lease (`lease.py`).

Credentials, region and endpoint come from where the AWS tools have them (``AWS_PROFILE``,
``AWS_ENDPOINT_URL``, a role, …), and never from a file of ours. Requests that fail are tried again;
large files go up and come down in parts, several at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from isohop.engines.storage import temporary_beside
from isohop.errors import IsohopError

SCHEME = "s3://"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_BUCKET = re.compile(r"[A-Za-z0-9._-]+")
ATTEMPTS = 10
"""Times that a request is tried, with waits that grow."""
READING, WRITING = "reading", "writing"
"""Kinds of local copies."""


def is_url(path: str | Path) -> bool:
    """Whether it is meant as one: `StoredFolder.of` says which can be read."""
    return _URL.match(str(path)) is not None


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


@dataclass(frozen=True)
class StoredFolder:
    """What a URL names."""

    bucket: str
    prefix: str
    """Without '/' at its ends; '' for all of the bucket."""

    @classmethod
    def of(cls, url: str) -> StoredFolder:
        """Raises `IsohopError` for what is no such URL."""
        if not url.startswith(SCHEME):
            raise IsohopError(
                f"What begins with '{url.partition(':')[0]}:/' is nothing that can be read or "
                f"written: name a path on this machine, or {SCHEME}bucket/folder."
            )
        if any(sign in url.removeprefix(SCHEME) for sign in "@:?#"):
            raise IsohopError(
                "A URL of an object store is s3://bucket/folder and has nothing else in it: "
                "credentials and endpoint come from the environment, as the AWS tools take them."
            )
        bucket, _, path = url.removeprefix(SCHEME).partition("/")
        inner = PurePosixPath(path.strip("/"))
        if not _BUCKET.fullmatch(bucket) or ".." in inner.parts:
            raise IsohopError(f"'{url}' is not the URL of a folder: write s3://bucket/folder.")
        return cls(bucket, "" if str(inner) == "." else str(inner))

    @property
    def name(self) -> str:
        return self.prefix.rpartition("/")[2]

    @property
    def parent(self) -> StoredFolder:
        return StoredFolder(self.bucket, self.prefix.rpartition("/")[0])

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
                        yield StoredObject(name, one["ETag"], one["Size"])

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
