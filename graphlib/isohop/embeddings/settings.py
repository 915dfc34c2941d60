"""Where and how a run's embeddings are published: the ``publish`` part of a pipeline file."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from isohop.yaml_file import StrictModel

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def is_publication_name(name: str) -> bool:
    """Whether ``name`` can be a folder on every file system and in every object store."""
    return _NAME.fullmatch(name) is not None and not name.startswith("v=") and name != "LATEST"


class Gates(StrictModel):
    """``publish.gates``: what a new version must hold against the one before, or it is not
    published. None: whatever it is."""

    rows: float | None = Field(default=0.5, ge=0)
    """Least share of the rows that an entity had."""
    keys: float | None = Field(default=0.0, ge=0, le=1)
    """Least share of the keys that an entity had which are there still, in columns of the same
    names and types: what consumers join by."""
    coverage: float | None = Field(default=None, ge=0)
    """Least share of the share of an entity's rows that were served by edges: by the teacher, or by
    teacher and student."""
    norm: float | None = Field(default=None, ge=0)
    """Most that the mean norm of an entity's vectors may differ, as a share of what it was."""
    neighbours: float | None = Field(default=None, ge=0, le=1)
    """Least share of nearest neighbours that are the same: of ten, or of half of all others."""
    evaluation: float | None = Field(default=None, ge=0)
    """Most that a figure of what is served may fall: MRR, Hits@10 or accuracy, from 0 to 1."""


OPEN = Gates(rows=None, keys=None)


class PublishSettings(StrictModel):
    """The ``publish`` part of a pipeline file."""

    path: str = "published"
    """Folder that holds everything published, relative to the pipeline file."""
    name: str | None = None
    """Folder under ``path`` that holds the versions; the pipeline's name unless given."""
    keep: int = Field(default=5, ge=1)
    """Versions that stay; older ones are removed, though never the one that LATEST names."""

    gates: Gates = Gates()
    """What a new version must hold against the one before."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str | None) -> str | None:
        if name is not None and not is_publication_name(name):
            raise ValueError(
                f"'{name}' cannot name a folder of versions: use letters, digits, '.', '-' and "
                "'_', and begin with a letter, a digit or '_'"
            )
        return name
