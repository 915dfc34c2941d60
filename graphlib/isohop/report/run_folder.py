"""What a run left behind, as far as the report shows it.

Each part may be absent: the report then says so. A part that is there but cannot be read is an
error. The ledger is read as its contract has it; the other files belong to other stages, which may
add to them, so unknown keys are passed over here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isohop.coldbrew.calibration import ConfidenceBin
from isohop.embeddings.contract import EmbeddingsManifest, entity_folders, parquet_files
from isohop.embeddings.reader import read_embeddings
from isohop.errors import IsohopError, first_mistake
from isohop.graph.dataset import Graph
from isohop.relational.ledger import Ledger

Curve = Sequence[tuple[float, float | None]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Ranks(_Part):
    """How held-out edges rank by one kind of feature."""

    hits_at_1: float | None = None
    hits_at_10: float | None = None
    mrr: float | None = None


class EdgeRanks(_Part):
    """How the held-out edges of one type rank by each kind of feature."""

    trained: Ranks = Ranks()
    untrained: Ranks = Ranks()
    tfidf: Ranks = Ranks()
    count: int = 0


class TreeLevel(_Part):
    """One level of the label tree of the node type ``target``; the finest is the nodes."""

    target: str
    level: int
    labels: int
    smallest: int
    mean: float
    largest: int
    count: int = 0
    mrr: float | None = None
    hits_at_10: float | None = None
    in_beam: float | None = None

    @property
    def of_nodes(self) -> bool:
        return self.largest == 1


class FeaturesSummary(_Part):
    """``features/features.json``."""

    dimensions: int
    encoder: Any = None
    curves: Mapping[str, Curve] = {}
    levels: Sequence[TreeLevel] = ()
    held_out: Mapping[str, EdgeRanks] = {}
    kept_from: str | None = None
    seconds: Mapping[str, float] = {}


class EvaluationRow(_Part):
    """One figure of the held-out evaluation."""

    task: str
    entity: str
    group: str
    metric: str
    model: str
    value: float | None
    count: int = 0


class DistillSummary(_Part):
    """``model/distill.json``."""

    curves: Mapping[str, Curve] = {}
    evaluation: Sequence[EvaluationRow] = Field(default=())
    calibration: Mapping[str, Sequence[ConfidenceBin]] = {}
    certificate: str | None = None
    numbering: str | None = None
    weighed: int = 0
    notes: Sequence[str] = ()
    skipped: str | None = None
    kept_from: str | None = None
    started_from: str | None = None
    seconds: Mapping[str, float] = {}


_AnyPart = TypeVar("_AnyPart", bound=BaseModel)


@dataclass(frozen=True)
class RunFolder:
    """A run. ``manifest``: of the published version that it made, None where it made none."""

    path: Path
    manifest: EmbeddingsManifest | None = None

    @classmethod
    def open(cls, path: Path, manifest: EmbeddingsManifest | None = None) -> RunFolder:
        """Raises `IsohopError` where there is no run."""
        if not path.is_dir():
            raise IsohopError(f"{path}: there is no such run. Give the folder of a run.")
        return cls(path, manifest)

    @cached_property
    def graph(self) -> Graph | None:
        return Graph.open(self.path / "graph") if (self.path / "graph").is_dir() else None

    @cached_property
    def ledger(self) -> Ledger | None:
        return _read(self.path / "graph" / "ledger.json", Ledger)

    @cached_property
    def features(self) -> FeaturesSummary | None:
        return _read(self.path / "features" / "features.json", FeaturesSummary)

    @cached_property
    def distilled(self) -> DistillSummary | None:
        return _read(self.path / "model" / "distill.json", DistillSummary)

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """The entities that have embeddings."""
        folder = self.path / "embeddings"
        return tuple(entity_folders(folder)) if folder.is_dir() else ()

    def embeddings(self, entity: str) -> pa.Table:
        """All rows of an entity, in the order of ``node_id``."""
        return read_embeddings(self.path / "embeddings", entity)

    def credible(self, edge_type: str) -> pa.Table | None:
        """src, dst and credible of the edges that were judged; None where none were."""
        file = self.path / "model" / "credible" / f"{edge_type}.parquet"
        if not file.is_file():
            return None
        try:
            return pq.read_table(file, columns=["src", "dst", "credible"])
        except (pa.ArrowInvalid, OSError) as error:
            raise IsohopError(
                f"{file} is damaged: {error}. Run the stage 'distill' again."
            ) from error

    def embedding_bytes(self, entity: str) -> int:
        folder = self.path / "embeddings" / entity
        return sum(file.stat().st_size for file in parquet_files(folder))


def _read(file: Path, part: type[_AnyPart]) -> _AnyPart | None:
    if not file.is_file():
        return None
    try:
        return part.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise IsohopError(
            f"{file}: {first_mistake(error)}. The file is damaged or of another version: run its "
            "stage again."
        ) from error
