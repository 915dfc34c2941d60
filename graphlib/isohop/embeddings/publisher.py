"""Publishing a run's embeddings: a new version, whole or not at all.

A version appears whole, and only then does LATEST move (`homes.py` says how, on disk and in an
object store). A process killed at any moment leaves what LATEST named before, and what it left goes
with a later publication.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from isohop.embeddings.contract import (
    DamagedManifest,
    EmbeddingsManifest,
    PublishedFile,
    entity_folders,
    parquet_files,
)
from isohop.embeddings.drift import Snapshot, drift, problems_of
from isohop.embeddings.homes import Home, home_of
from isohop.embeddings.inspection import inspect_embeddings
from isohop.embeddings.settings import OPEN, Gates, is_publication_name
from isohop.engines.object_store import StoredFolder
from isohop.engines.progress import SILENT, Progress
from isohop.engines.storage import fingerprint
from isohop.errors import InvalidInput, IsohopError

_log = logging.getLogger("isohop")


@dataclass(frozen=True)
class PublishedVersion:
    """One version. ``new`` is False where an earlier publication of the run was found."""

    path: Path | StoredFolder
    manifest: EmbeddingsManifest
    new: bool

    @property
    def version(self) -> int:
        return self.manifest.version


def publish(
    embeddings: Path,
    published: Path | StoredFolder,
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
    its graph; ``fingerprints`` as the manifest has them; ``evaluation`` what the manifest tells of
    its quality. Afterwards the newest ``keep`` versions are left, and the one that LATEST
    names. What differs from the latest version by more than ``gates`` let pass is not published.

    Publishing the same files of the same run again returns the version they already are, so that
    a retry does no harm; it finishes a publication that was cut short before LATEST moved, and
    never takes LATEST back. Where that run published others since, or that version is damaged, they
    are a new version.

    Raises `InvalidInput` with everything that is wrong with the embeddings, before anything is
    visible, and `IsohopError` when they change underfoot or the folder cannot be written.
    """
    place = published / name
    home = home_of(place)
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
        with progress.task("Publishing", total=manifest.size) as task, home.turn(task):
            existing = _published_before(home, manifest)
            if existing is None:
                _pass(gates, home, embeddings, manifest)
                made = home.commit(sources, manifest, task)
                existing = PublishedVersion(home.place(made.version), made, new=True)
            home.advance(existing.version)
            home.retain(keep)
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"
        raise IsohopError(
            f"{embeddings} could not be published to {place}: {error.strerror or error}{where}. "
            "What was published before is untouched. Mend this and publish again."
        ) from error
    return existing


def _pass(gates: Gates, home: Home, embeddings: Path, manifest: EmbeddingsManifest) -> None:
    """Raises `InvalidInput` with every gate that does not let the embeddings pass."""
    latest = home.latest()
    there = home.versions()
    # Where LATEST is gone, the newest that is whole was live, as far as anybody can tell.
    before = (n for n in reversed(there) if latest not in there or n <= latest)
    known = None if gates == OPEN else next(filter(None, (_whole(home, n) for n in before)), None)
    if known is None:
        return  # there is nothing that could be better
    live = Snapshot.of(home.local(known.version), known)
    found = drift(live, Snapshot.of(embeddings, manifest))
    problems = problems_of(found, gates)
    if problems:
        stays = f"version {known.version} stays the last"
        raise InvalidInput(f"The embeddings in {embeddings} are not published; {stays}", problems)


def _sources(embeddings: Path) -> dict[str, Path]:
    """The files to publish, by their path inside the version."""
    return {
        f"{entity}/{file.name}": file
        for entity, folder in entity_folders(embeddings).items()
        for file in parquet_files(folder)
    }


def _published_before(home: Home, manifest: EmbeddingsManifest) -> PublishedVersion | None:
    """The newest version of this run, where it is these files of that graph and they are whole: one
    before that was replaced."""
    for number in reversed(home.versions()):
        known = _manifest(home, number)
        if known is not None and known.run == manifest.run:
            other = {"version", "created"}
            same = known.model_dump(exclude=other) == manifest.model_dump(exclude=other)
            same = same and home.is_whole(known, contents=True)
            return PublishedVersion(home.place(number), known, new=False) if same else None
    return None


def is_published(place: Path | StoredFolder, version: int, run: str) -> bool:
    """Whether a version below ``place`` is there, whole and of ``run``, by its manifest and the
    checksums of its files (in a store, their sizes), or went because later ones came. Nothing is
    published without LATEST."""
    home = home_of(place)
    if home.latest() is None:
        return False
    there = home.versions()
    if version not in there:
        return bool(there) and version < there[0]
    known = _whole(home, version)
    return known is not None and known.run == run


def published_version(place: Path | StoredFolder, version: int) -> EmbeddingsManifest | None:
    """The manifest of a version below ``place``, None where it is not there or has lost files."""
    home = home_of(place)
    known = _manifest(home, version) if version in home.versions() else None
    return known if known is not None and home.is_whole(known) else None


def _whole(home: Home, version: int) -> EmbeddingsManifest | None:
    """The manifest of a version, None of one that is damaged."""
    known = _manifest(home, version)
    return known if known is not None and home.is_whole(known, contents=True) else None


def _manifest(home: Home, version: int) -> EmbeddingsManifest | None:
    """None where it is missing or damaged: such a version is as good as gone."""
    try:
        return home.manifest(version)
    except FileNotFoundError:
        return None
    except DamagedManifest as error:
        _log.warning("%s", error)
        return None
