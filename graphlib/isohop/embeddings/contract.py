"""The embedding dataset: plain Parquet with one JSON manifest a version.

::

    published/<name>/
      LATEST                       one line, the newest version: v=000002
      v=000001/                    appears whole or not at all, never changes afterwards
        manifest.json              EmbeddingsManifest
        <entity>/*.parquet         the key's columns under their logical names and types;
                                   node_id int64, dense from 0, ascending in the order of files;
                                   embedding fixed_size_list<float32>[dimensions], all finite;
                                   source string, 'teacher', 'student' or 'blend';
                                   confidence float32 from 0 to 1, null where not known;
                                   degree int64
      v=000002/
        …

A run's own embeddings (``<run>/embeddings/<entity>/*.parquet``) are the same files without a
version and without a manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.errors import IsohopError, first_mistake

MANIFEST = "manifest.json"
LATEST = "LATEST"
MEASURES = ("node_id", "embedding", "source", "confidence", "degree")
"""The columns that every entity has; all others are its key."""
STUDENT = "student"
SOURCES = ("teacher", STUDENT, "blend")

_VERSION = re.compile(r"v=(\d{6,})")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyColumn(_Model):
    """One column of an entity's key."""

    name: str
    type: str
    """Arrow type, as text."""


class EntityEmbeddings(_Model):
    """What one entity's files hold."""

    name: str
    count: int
    """Rows, which is nodes."""
    dimensions: int
    key: tuple[KeyColumn, ...]
    sources: Mapping[str, int]
    """Rows by ``source``."""


class PublishedFile(_Model):
    """What a file must be, bit for bit."""

    sha256: str
    size: int
    """Bytes."""


class DamagedManifest(IsohopError):
    """What is no manifest, or one of a later version of Isohop."""


class EmbeddingsManifest(_Model):
    """``manifest.json``."""

    format: Literal[1] = 1
    name: str
    version: int
    run: str
    """Identifier of the run that made the embeddings."""
    created: str
    """When the version was published: ISO 8601, UTC."""
    certificate: str
    """The graph's certificate."""
    fingerprints: Mapping[str, str]
    """Of what the run's stages depend on, by their names: ``build`` and ``distill``."""
    evaluation: Mapping[str, float] = {}
    """Figures of what is served, such as ``overall/mrr``, from 0 to 1."""
    entities: tuple[EntityEmbeddings, ...]
    files: Mapping[str, PublishedFile]
    """By path inside the version's folder, with '/' between its parts."""

    @property
    def folder(self) -> str:
        """Name of the version's folder."""
        return version_folder(self.version)

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest not counted."""
        return sum(file.size for file in self.files.values())

    @classmethod
    def read(cls, folder: Path) -> EmbeddingsManifest:
        """The manifest of the version at ``folder``. Raises `DamagedManifest`."""
        file = folder / MANIFEST
        return cls.parse(file.read_bytes(), str(file))

    @classmethod
    def parse(cls, content: bytes, where: str) -> EmbeddingsManifest:
        """Of a manifest's content; ``where`` it was. Raises `DamagedManifest`."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise DamagedManifest(
                f"{where} is not a manifest that this version of Isohop reads: "
                f"{first_mistake(error)}. Read another version, and move this one away."
            ) from error


def version_folder(version: int) -> str:
    """``v=000001`` for 1; folders sort by name up to a million versions."""
    return f"v={version:06d}"


def version_number(folder: str) -> int | None:
    """1 for ``v=000001``; None for a name that is not a version's."""
    match = _VERSION.fullmatch(folder)
    return int(match[1]) if match else None


def versions(published: Path) -> dict[int, Path]:
    """The folders of all versions under ``published/<name>``, oldest first."""
    found = {version_number(path.name): path for path in published.glob("v=*") if path.is_dir()}
    return {number: found[number] for number in sorted(n for n in found if n is not None)}


def latest_version(published: Path) -> int | None:
    """The version that LATEST names; None where nothing was published yet."""
    try:
        text = (published / LATEST).read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    return latest_named(text, str(published / LATEST))


def latest_named(text: str, where: str) -> int:
    """The version that the content of LATEST names; ``where`` it was."""
    number = version_number(text.strip())
    if number is None:
        raise IsohopError(
            f"{where} holds '{text.strip()[:40]}', which names no version. "
            "It must be one line such as 'v=000001'. Write that, or remove it and publish again."
        )
    return number


def parquet_files(entity: Path) -> list[Path]:
    """An entity's files in the order of their rows; hidden ones and markers are not data."""
    return sorted(file for file in entity.glob("*.parquet") if not file.name.startswith((".", "_")))


def entity_folders(folder: Path) -> dict[str, Path]:
    """The folders of all entities of a version or of a run's embeddings, by entity."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith((".", "_"))
    }
