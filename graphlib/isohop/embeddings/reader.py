"""Reading embeddings: a published version, or those of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from isohop.embeddings.contract import (
    LATEST,
    MANIFEST,
    EmbeddingsManifest,
    entity_folders,
    latest_version,
    parquet_files,
    version_folder,
    version_number,
    versions,
)
from isohop.engines.mirror import Mirror
from isohop.engines.object_store import is_url
from isohop.engines.storage import fingerprint
from isohop.errors import InvalidInput, IsohopError, Problem, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_ATTEMPTS = 10


class _Gone(IsohopError):
    """The latest version is not there any more: LATEST was read before it was replaced."""


@dataclass(frozen=True)
class Source:
    """A folder of entities, and its manifest where it was published."""

    folder: Path
    manifest: EmbeddingsManifest | None


@overload
def read_embeddings(
    path: str | Path,
    entity: str | None = ...,
    *,
    version: str | int = ...,
    columns: Sequence[str] | None = ...,
    as_: Literal["arrow"] = ...,
    verify: bool = ...,
) -> pa.Table: ...


@overload
def read_embeddings(
    path: str | Path,
    entity: str | None = ...,
    *,
    version: str | int = ...,
    columns: Sequence[str] | None = ...,
    as_: Literal["pandas"],
    verify: bool = ...,
) -> pd.DataFrame: ...


def read_embeddings(
    path: str | Path,
    entity: str | None = None,
    *,
    version: str | int = "latest",
    columns: Sequence[str] | None = None,
    as_: Literal["arrow", "pandas"] = "arrow",
    verify: bool = False,
) -> pa.Table | pd.DataFrame:
    """The embeddings of one entity, a row a node, in the order of ``node_id``.

    ``path`` is a folder of versions (``published/<name>``), one version of it, the folder above
    where it holds exactly one name, a run, or a run's embeddings; or the URL ``s3://…`` of one of
    these, of which a local copy is made. ``entity`` may be left out where
    there is only one. ``version`` is ``"latest"``, a number, or a folder's name (``"v=000003"``);
    a run has no versions.

    ``columns`` picks columns and their order; all are the key's columns under their logical names
    and types, ``node_id`` int64, ``embedding`` fixed_size_list<float32>[dimensions], ``source``
    (``"teacher"``, ``"student"`` or ``"blend"``), ``confidence`` float32 (from 0 to 1, null where
    not known) and ``degree`` int64. ``verify`` compares the entity's files with the manifest's
    checksums first.

    Returns an Arrow table, or with ``as_="pandas"`` a DataFrame whose ``embedding`` holds float32
    arrays. Raises `IsohopError` when there is nothing of the kind at ``path``.
    """
    if as_ not in ("arrow", "pandas"):
        raise IsohopError(
            f"The 'as_' parameter of read_embeddings must be 'arrow' or 'pandas'. "
            f"Got {as_!r} instead."
        )
    previous: FileNotFoundError | None = None
    for _ in range(_ATTEMPTS):
        try:
            source = located(path, version)
            if is_url(path):
                _check_whole(source)
            table = _read(source, entity, columns, verify)
            if is_url(path):
                _check_whole(source)
        except FileNotFoundError as error:
            # Retention may remove the version that was the latest a moment ago.
            if version != "latest" or (not is_url(path) and source.folder.exists()):
                raise _vanished(path) from error
            previous = error
            continue
        return table.to_pandas() if as_ == "pandas" else table
    raise _vanished(path) from previous


def read_manifest(path: str | Path, *, version: str | int = "latest") -> EmbeddingsManifest:
    """The manifest of a published version; ``path`` and ``version`` as in `read_embeddings`."""
    for _ in range(_ATTEMPTS):
        source = located(path, version)
        if source.manifest is not None:
            return source.manifest
        if source.folder.exists():
            raise IsohopError(f"{path} was not published, so it has no manifest.")
    raise _vanished(path)


def _vanished(folder: str | Path) -> IsohopError:
    return IsohopError(
        f"{folder}: files went away while they were being read. Read again; if they stay away, "
        "publish again."
    )


def local_copy(path: str | Path, version: str | int) -> Path:
    """The folder itself; of a URL a local copy of what ``version`` needs. A version never changes,
    so it comes down once; one that is gone from the store goes from here."""
    if not is_url(path):
        return Path(path)
    mirror = Mirror.of(str(path))
    mirror.pull(lambda name: name.split("/")[-1] in (LATEST, MANIFEST))
    home = mirror.local
    if latest_version(home) is None and not versions(home):
        names = [latest.parent.name for latest in home.glob(f"*/{LATEST}")]
        if len(names) == 1:
            return local_copy(str(mirror.stored / names[0]), version)
        if not names:
            mirror.pull()
        return home
    number = latest_version(home) if version == "latest" else _number(version)
    wanted = None if number is None else version_folder(number)
    # A manifest that is here is in the store. Others were published once, and are gone.
    gone = {folder.name for folder in versions(home).values() if not (folder / MANIFEST).is_file()}
    mirror.pull(lambda name: name.partition("/")[0] in gone | {wanted})
    return home


def located(path: str | Path, version: str | int) -> Source:
    """Where ``path`` and ``version`` are; of a URL a local copy, and another one where the latest
    version was replaced, in the store or here, while it was made."""
    for _ in range(_ATTEMPTS - 1 if is_url(path) else 0):
        try:
            return locate(local_copy(path, version), version)
        except _Gone:
            continue
    return locate(local_copy(path, version), version)


def locate(path: Path, version: str | int) -> Source:
    """Find the folder of entities that ``path`` and ``version`` mean."""
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, (name for name in siblings if not name.startswith(".")))
        raise IsohopError(f"{path}: there is no such folder. {hint}".rstrip())
    if (path / "manifest.json").is_file():
        return _only_latest(path, version, EmbeddingsManifest.read(path))
    if (path / LATEST).is_file() or versions(path):
        return _version(path, version)
    folders = entity_folders(path)
    if {"embeddings", "stages"} <= folders.keys():
        return locate(folders["embeddings"], version)  # a run, which has other Parquet beside it
    if any(parquet_files(folder) for folder in folders.values()):
        return _only_latest(path, version, None)
    names = [name for name, folder in folders.items() if (folder / LATEST).is_file()]
    if len(names) == 1:
        return _version(folders[names[0]], version)
    if names:
        shown = ", ".join(f"'{path / name}'" for name in names)
        raise IsohopError(f"{path} holds more than one name. Give one of {shown}.")
    if "embeddings" in folders:
        return locate(folders["embeddings"], version)
    raise IsohopError(
        f"{path} holds no embeddings: there is neither a LATEST nor a folder of Parquet files in "
        "it. Give the folder that 'isohop publish' printed."
    )


def _only_latest(path: Path, version: str | int, manifest: EmbeddingsManifest | None) -> Source:
    if version != "latest" and (manifest is None or _number(version) != manifest.version):
        raise IsohopError(
            f"{path} is a single set of embeddings, so version {version!r} cannot be asked of it. "
            "Give the folder above that holds the versions."
        )
    return Source(path, manifest)


def _version(home: Path, version: str | int) -> Source:
    for attempt in range(1, _ATTEMPTS + 1):
        number = latest_version(home) if version == "latest" else _number(version)
        if number is None:
            raise IsohopError(
                f"{home}: nothing is published yet ({LATEST} is missing). Run 'isohop publish'."
            )
        folder = home / version_folder(number)
        try:
            return Source(folder, EmbeddingsManifest.read(folder))
        except FileNotFoundError as error:
            # The latest may have been replaced, and removed, between the two reads.
            if version != "latest" or attempt == _ATTEMPTS:
                known = ", ".join(str(number) for number in versions(home)) or "none"
                raise (_Gone if version == "latest" else IsohopError)(
                    f"{home}: there is no version {number}, or it has no manifest. "
                    f"Versions there: {known}."
                ) from error
    raise _vanished(home)


def _number(version: str | int) -> int:
    text = str(version)
    number = version_number(text)
    if number is None and text.isdecimal():
        number = int(text)
    if number is None:
        raise IsohopError(
            f"The 'version' parameter must be 'latest', a number or a name like 'v=000001'. "
            f"Got {version!r} instead."
        )
    return number


def _read(
    source: Source, entity: str | None, columns: Sequence[str] | None, verify: bool
) -> pa.Table:
    if source.manifest is None:
        folders = entity_folders(source.folder)
    else:  # what it says stays true where the folder goes away meanwhile
        folders = {one.name: source.folder / one.name for one in source.manifest.entities}
    if entity is None:
        if len(folders) != 1:
            shown = ", ".join(f"'{name}'" for name in folders)
            raise IsohopError(f"{source.folder}: which entity? There are {shown}.")
        entity = next(iter(folders))
    if entity not in folders:
        raise IsohopError(
            f"{source.folder}: there is no entity '{entity}'. {did_you_mean(entity, folders)}"
        )
    if verify:
        _verify(source, entity)
    files = parquet_files(folders[entity])
    if not files:
        raise FileNotFoundError(folders[entity])
    with whole_files(str(folders[entity])):
        return _table(folders[entity], files, columns)


@contextmanager
def whole_files(where: str) -> Iterator[None]:
    """Raises `IsohopError` where Parquet ``where`` turns out to be damaged."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise IsohopError(
            f"{where} is damaged: {error}. Read another version, or publish again."
        ) from error


def _table(folder: Path, files: Sequence[Path], columns: Sequence[str] | None) -> pa.Table:
    schema = pq.read_schema(files[0]).remove_metadata()
    if columns is not None:
        problems = [
            Problem(str(folder), f"no column '{name}'.", did_you_mean(name, schema.names))
            for name in columns
            if name not in schema.names
        ]
        if problems:
            raise InvalidInput("Columns cannot be read", problems)
    # Given as files and without partitioning, so that no column is made of 'v=000001'.
    dataset = ds.dataset([str(file) for file in files], schema=schema, format="parquet")
    return dataset.to_table(columns=None if columns is None else list(columns))


def _check_whole(source: Source) -> None:
    """Raises `FileNotFoundError` where a file of the manifest is not there: of a copy that another
    process is about to make or to remove."""
    for name in () if source.manifest is None else source.manifest.files:
        if not (source.folder / name).is_file():
            raise FileNotFoundError(source.folder / name)


def _verify(source: Source, entity: str) -> None:
    if source.manifest is None:
        raise IsohopError(
            f"{source.folder} was not published, so there are no checksums to verify it by."
        )
    expected = {
        path: file for path, file in source.manifest.files.items() if path.startswith(f"{entity}/")
    }
    problems = []
    for path, file in expected.items():
        here = source.folder / path
        if not here.is_file():
            problems.append(Problem(str(here), "it is missing."))
        elif here.stat().st_size != file.size or fingerprint(here) != file.sha256:
            problems.append(Problem(str(here), "its content is not what was published."))
    present = {f"{entity}/{file.name}" for file in parquet_files(source.folder / entity)}
    for path in sorted(present - expected.keys()):
        problems.append(Problem(str(source.folder / path), "it was not published."))
    if problems and source.folder.exists():
        title = f"{source.folder} is damaged; publish the run again or read another version"
        raise InvalidInput(title, problems)
    if problems:
        raise FileNotFoundError(source.folder)
