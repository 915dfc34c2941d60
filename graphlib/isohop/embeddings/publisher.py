"""Publishing a run's embeddings: a new version, whole or not at all.

A version is copied into a temporary folder beside its destination, synced, and renamed into place;
only then does LATEST move, by an atomic replace. A process killed at any moment leaves what LATEST
named before, and its temporary folder goes with the next publication.

Publishers of one name take turns by a lock on ``.lock``, which the operating system releases when
its holder dies. Where file locks do not reach (some network file systems), the rename still refuses
to replace a version, and the later publisher takes the next number.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from isohop.embeddings.contract import (
    LATEST,
    MANIFEST,
    EmbeddingsManifest,
    PublishedFile,
    entity_folders,
    latest_version,
    parquet_files,
    version_folder,
    versions,
)
from isohop.embeddings.drift import Snapshot, drift, problems_of, snapshot
from isohop.embeddings.inspection import inspect_embeddings
from isohop.embeddings.settings import OPEN, Gates, is_publication_name
from isohop.engines.progress import SILENT, Progress, Task
from isohop.engines.storage import (
    TEMPORARY,
    fingerprint,
    remove_folder,
    temporary_beside,
    write_text_atomically,
)
from isohop.errors import InvalidInput, IsohopError

_LOCK = ".lock"
_STAGED = "version"
_ATTEMPTS = 1000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class PublishedVersion:
    """One version on disk. ``new`` is False where an earlier publication of the run was found."""

    path: Path
    manifest: EmbeddingsManifest
    new: bool

    @property
    def version(self) -> int:
        return self.manifest.version


def publish(
    embeddings: Path,
    published: Path,
    name: str,
    *,
    run: str,
    certificate: str,
    fingerprints: Mapping[str, str],
    keep: int = 5,
    gates: Gates = OPEN,
    evaluation: Mapping[str, float] | None = None,
    progress: Progress = SILENT,
) -> PublishedVersion:
    """Publish a run's embeddings as the next version under ``published/name``.

    ``embeddings`` is the run's folder of entities; ``run`` its identifier; ``certificate`` that of
    its graph; ``fingerprints`` those of the schema and the model; ``evaluation`` what the manifest
    tells of its quality. Afterwards the newest ``keep`` versions are left, and the one that LATEST
    names. What differs from the latest version by more than ``gates`` let pass is not published.

    Publishing the same files of the same run again returns the version they already are, so that
    a retry does no harm; it finishes a publication that was cut short before LATEST moved, and
    never takes LATEST back.

    Raises `InvalidInput` with everything that is wrong with the embeddings, before anything is
    visible, and `IsohopError` when they change underfoot or the folder cannot be written.
    """
    embeddings, home = Path(embeddings), Path(published) / name
    if not is_publication_name(name):
        raise IsohopError(
            f"'{name}' cannot name a folder of versions. Use letters, digits, '.', '-' and '_'."
        )
    if keep < 1:
        raise IsohopError(f"The 'keep' parameter of publish must be 1 or more. Got {keep} instead.")
    try:
        entities = inspect_embeddings(embeddings, progress)
        sources = _sources(embeddings)
        manifest = EmbeddingsManifest(
            name=name,
            version=1,  # decided when it is committed
            run=run,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            certificate=certificate,
            fingerprints=dict(fingerprints),
            evaluation=dict(evaluation or {}),
            entities=tuple(entities),
            files={
                path: PublishedFile(sha256=fingerprint(file), size=file.stat().st_size)
                for path, file in sources.items()
            },
        )
        home.mkdir(parents=True, exist_ok=True)
        with progress.task("Publishing", total=manifest.size) as task, _turn(home, task):
            _remove_leftovers(home)
            existing = _published_before(home, manifest)
            if existing is None:
                _pass(gates, home, embeddings, manifest)
                staged = temporary_beside(home / _STAGED)
                try:
                    _copy(sources, manifest.files, staged, task)
                    existing = _commit(home, staged, manifest)
                finally:
                    shutil.rmtree(staged, ignore_errors=True)
            _advance_latest(home, existing.version)
            _retain(home, keep)
    except OSError as error:
        raise IsohopError(
            f"{embeddings} could not be published to {home}: {error.strerror or error} "
            f"({error.filename}). What was published before is untouched. Mend this and publish "
            "again."
        ) from error
    return existing


def _pass(gates: Gates, home: Path, embeddings: Path, manifest: EmbeddingsManifest) -> None:
    """Raises `InvalidInput` with every gate that does not let the embeddings pass."""
    number = latest_version(home)
    if gates == OPEN or number not in versions(home):  # nothing is live that could be better
        return
    found = drift(snapshot(home), Snapshot.of(embeddings, manifest))
    problems = problems_of(found, gates)
    if problems:
        title = f"The embeddings in {embeddings} are not published; version {number} stays the last"
        raise InvalidInput(title, problems)


def _sources(embeddings: Path) -> dict[str, Path]:
    """The files to publish, by their path inside the version."""
    return {
        f"{entity}/{file.name}": file
        for entity, folder in entity_folders(embeddings).items()
        for file in parquet_files(folder)
    }


@contextmanager
def _turn(home: Path, task: Task) -> Iterator[None]:
    """Hold the publication's lock; it ends with the process, however that ends."""
    with (home / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            task.note("waiting for another publisher")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_leftovers(home: Path) -> None:
    """What killed publishers left: nobody else is publishing while the lock is held."""
    for leftover in home.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _published_before(home: Path, manifest: EmbeddingsManifest) -> PublishedVersion | None:
    for folder in reversed(versions(home).values()):
        known = EmbeddingsManifest.read(folder)
        if known.run == manifest.run and known.files == manifest.files:
            return PublishedVersion(folder, known, new=False)
    return None


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
            raise IsohopError(
                f"{source} changed while it was being published. Nothing was published: "
                "let the run finish, then publish again."
            )
    for folder in {(staged / path).parent for path in sources}:
        _sync_folder(folder)


def _commit(home: Path, staged: Path, manifest: EmbeddingsManifest) -> PublishedVersion:
    """Rename the staged folder to the next free version."""
    for _ in range(_ATTEMPTS):
        number = max([latest_version(home) or 0, *versions(home)]) + 1
        numbered = manifest.model_copy(update={"version": number})
        write_text_atomically(staged / MANIFEST, numbered.model_dump_json(indent=1) + "\n")
        target = home / version_folder(number)
        try:
            # Fails where the version is there: a folder that is not empty is never replaced.
            staged.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue
        _sync_folder(home)
        return PublishedVersion(target, numbered, new=True)
    raise IsohopError(
        f"{home}: other publishers took the next version {_ATTEMPTS} times in a row. Publish again."
    )


def _advance_latest(home: Path, version: int) -> None:
    if version > (latest_version(home) or 0):
        write_text_atomically(home / LATEST, version_folder(version) + "\n")


def _retain(home: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` versions and the one that LATEST names."""
    found = versions(home)
    latest = latest_version(home)
    for number in list(found)[:-keep]:
        if number != latest:
            remove_folder(found[number])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
