"""The student bundle: all that embeds rows of an entity that no graph has seen.

::

    student/
      bundle.json              BundleManifest
      rows/<entity>.parquet    no rows; the columns that new rows must have: key, then what is read
      student.safetensors      of each entity MLP₁, MLP₂, the MLP of its content, its latent
                               candidates (their ids in the run's graph, their vectors and the
                               centres of their lists), and the teacher's weights that are not about
                               edges, where what has none hears of them; of an entity that had no
                               edge to learn from, the axes of its features
      encoder/                 the text encoder, as the stage `features` wrote it

Nothing else is needed: no graph, no features, no model. Isolated nodes of a graph are embedded by
the same code, so a row gets the same vector whether it was there when the graph was built or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.choice import Choice
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import GatedMLP, LatentIndex
from isohop.coldbrew.tables import ResidualMLP, by_blocks
from isohop.engines.storage import fingerprint
from isohop.errors import IsohopError, did_you_mean, first_mistake
from isohop.giant.documents import Field
from isohop.giant.encoder import Encoder, load_encoder
from isohop.giant.model_folder import copy_encoder

if TYPE_CHECKING:
    from isohop.coldbrew.teacher import LoneTeacher

MANIFEST = "bundle.json"
ENCODER = "encoder"


class BundledEntity(BaseModel):
    """One entity: its key's columns, the fields of its documents, and what to serve."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    choice: Choice


class BundleManifest(BaseModel):
    """``bundle.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[10] = 10
    certificate: str
    """Of the graph that the student learned from."""
    settings: DistillSettings
    entities: tuple[BundledEntity, ...]
    files: Mapping[str, str] = {}
    """By name from the folder, SHA-256 of the others: parts of two students make no third."""

    @classmethod
    def read(cls, folder: Path) -> BundleManifest:
        """Raises `IsohopError` where there is none, or one of another version."""
        file = folder / MANIFEST
        try:
            return cls.model_validate_json(file.read_bytes())
        except FileNotFoundError as error:
            raise IsohopError(
                f"{folder} is no student: {MANIFEST} is missing. Run the stage 'embed', which "
                "writes one."
            ) from error
        except ValidationError as error:
            raise IsohopError(
                f"{file} is not a student that this version reads: {first_mistake(error)}. Read it "
                "with the version that wrote it, or run the stage 'embed' again."
            ) from error

    def check(self, folder: Path) -> None:
        """Raises `ValueError` where ``folder`` has not the files that are named."""
        there = _files(folder)
        for name, digest in self.files.items():
            if name not in there or fingerprint(there[name]) != digest:
                raise ValueError(f"'{name}' is another file, or missing")

    def entity(self, name: str | None) -> BundledEntity:
        """The entity of that name; where there is only one, it needs no name."""
        names = [entity.name for entity in self.entities]
        if name is None and len(names) == 1:
            return self.entities[0]
        if name is None:
            raise IsohopError(f"Say whose rows they are with --entity: {', '.join(names)}.")
        if name not in names:
            raise IsohopError(f"The student knows no entity '{name}'. {did_you_mean(name, names)}")
        return self.entities[names.index(name)]


@dataclass(frozen=True)
class Guesser:
    """An entity's student: MLP₁ guesses the teacher's vector, its latent neighbours are near that,
    MLP₂ sees both. And beside it what tells its content; and the teacher, where it is asked about
    what has no edges."""

    first: nn.Module
    second: nn.Module
    of_content: nn.Module
    index: LatentIndex
    teacher: LoneTeacher | None = None

    def vectors(self, features: Tensor, itself: bool = False) -> tuple[Tensor, Tensor]:
        """float32 (rows, d) at length 1, of ``features`` (rows, d_in); and `Evidence.nearness`,
        (rows,). ``itself``: the rows are the nodes of the graph, none its own neighbour."""
        guessed = functional.normalize(by_blocks(self.first, features), dim=1)
        ids = torch.arange(len(features)) if itself else None
        latent, nearness = self.index.latent(guessed, ids)
        told = by_blocks(lambda *both: self.second(torch.cat(both, 1)), features, latent)
        return functional.normalize(told, dim=1), nearness

    def content(self, features: Tensor) -> Tensor:
        """float32 (rows, d) at length 1: what features say alone."""
        return functional.normalize(by_blocks(self.of_content, features), dim=1)

    def without_edges(self, features: Tensor) -> Tensor | None:
        """float32 (rows, d) at length 1: what the teacher says of nodes that have no edges; None
        where it is not asked."""
        return None if self.teacher is None else by_blocks(self.teacher, features)

    def tensors(self) -> dict[str, Tensor]:
        modules = {"first": self.first, "second": self.second, "content": self.of_content}
        if self.teacher is not None:
            modules["teacher"] = self.teacher
        found = {
            f"{module}.{name}": value
            for module, held in modules.items()
            for name, value in held.state_dict().items()
        }
        index = self.index
        held = {"latent": index.vectors, "latent lists": index.centres}
        return found | held | {"latent ids": index.candidates}


@dataclass(frozen=True)
class Projection:
    """Features on their first principal axes, float32 (d_in, 2d): all there is where nothing could
    be learned."""

    axes: Tensor

    @classmethod
    def of(cls, features: Tensor, dimensions: int) -> Projection:
        axes = torch.linalg.eigh(features.T @ features).eigenvectors.flip(1)[:, :dimensions]
        # An eigenvector's sign is arbitrary: its largest entry is made positive.
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        return cls(functional.pad(axes, (0, dimensions - axes.shape[1])))

    def vectors(self, features: Tensor, itself: bool = False) -> tuple[Tensor, Tensor]:
        """As `Guesser.vectors`, but not of length 1; near to nobody."""
        return self._halves(features)[0], torch.zeros(len(features))

    def content(self, features: Tensor) -> Tensor:
        """The other half of what has length 1."""
        return self._halves(features)[1]

    def without_edges(self, features: Tensor) -> None:
        """There is no teacher."""

    def _halves(self, features: Tensor) -> tuple[Tensor, Tensor]:
        one, other = functional.normalize(features @ self.axes, dim=1).chunk(2, 1)
        return one, other

    def tensors(self) -> dict[str, Tensor]:
        return {"axes": self.axes}


Student = Guesser | Projection


def save_bundle(
    folder: Path,
    manifest: BundleManifest,
    students: Mapping[str, Student],
    rows: Mapping[str, pa.Schema],
    encoder: Path,
) -> None:
    """Write a bundle into ``folder``, by entity; ``encoder``: the folder that has one. Its
    manifest is written last, with the ``files``."""
    (folder / "rows").mkdir(parents=True)
    (folder / ENCODER).mkdir()
    copy_encoder(encoder, folder / ENCODER)
    tensors: dict[str, Tensor] = {}
    for name, student in students.items():
        pq.write_table(rows[name].empty_table(), folder / "rows" / f"{name}.parquet")
        tensors |= {f"{name}/{key}": value for key, value in student.tensors().items()}
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, _weights(folder))
    named = {name: fingerprint(path) for name, path in _files(folder).items()}
    whole = manifest.model_copy(update={"files": named})
    (folder / MANIFEST).write_text(whole.model_dump_json(indent=1) + "\n", "utf-8")


@dataclass(frozen=True)
class Bundle:
    """One entity's part of a bundle, opened."""

    entity: BundledEntity
    rows: pa.Schema
    dimensions: int
    encoder: Encoder
    student: Student

    @classmethod
    def open(cls, folder: Path, entity: str) -> Bundle:
        """Raises `IsohopError` for what is no bundle, or a damaged one."""
        manifest = BundleManifest.read(folder)
        found = manifest.entity(entity)
        try:
            manifest.check(folder)
            encoder = load_encoder(folder / ENCODER)
            state = load_file(_weights(folder))
            student = _student(state, found.name, encoder.dimensions, manifest.settings)
            rows = pq.read_schema(folder / "rows" / f"{found.name}.parquet")
        except (KeyError, OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise IsohopError(
                f"{folder} does not hold the student of '{found.name}' that {MANIFEST} names: "
                f"{error}. Copy the whole folder again."
            ) from error
        dimensions = manifest.settings.dimensions
        return cls(found, rows, dimensions, encoder, student)


def _files(folder: Path) -> dict[str, Path]:
    """All in a folder, by name from it."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def _weights(folder: Path) -> Path:
    return folder / "student.safetensors"


def load_students(folder: Path, widths: Mapping[str, int]) -> dict[str, Student]:
    """Those of every entity in the bundle ``folder``. ``widths``: of their features. Raises
    `IsohopError` for what is no bundle, or one of other features."""
    manifest = BundleManifest.read(folder)
    names = [entity.name for entity in manifest.entities]
    try:
        manifest.check(folder)
        state = load_file(_weights(folder))
        return {name: _student(state, name, widths[name], manifest.settings) for name in names}
    except (KeyError, OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise IsohopError(
            f"{folder} does not hold the students that {MANIFEST} names: {error}. Learn anew: "
            "leave 'since' out."
        ) from error


def _student(
    bundled: Mapping[str, Tensor], entity: str, width: int, settings: DistillSettings
) -> Student:
    prefix = f"{entity}/"
    state = {n.removeprefix(prefix): v for n, v in bundled.items() if n.startswith(prefix)}
    if "axes" in state:
        return Projection(state["axes"])
    d = settings.part
    modules = {
        "first": ResidualMLP(width, d, 0.0),
        "second": GatedMLP(width + d, d, 0.0),
        "content": ResidualMLP(width, d, 0.0),
    }
    teacher = None
    if any(name.startswith("teacher.") for name in state):
        # It brings what passes messages, which takes a second to load.
        from isohop.coldbrew.teacher import LoneTeacher

        teacher = modules["teacher"] = LoneTeacher(entity, width, settings)
    for name, module in modules.items():
        dotted = f"{name}."
        of_it = {k.removeprefix(dotted): v for k, v in state.items() if k.startswith(dotted)}
        module.load_state_dict(of_it)
        module.eval()
    index = LatentIndex(state["latent ids"], state["latent"], settings, state["latent lists"])
    return Guesser(modules["first"], modules["second"], modules["content"], index, teacher)
