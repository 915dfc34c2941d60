"""The pipeline file: from a schema file to published embeddings.

::

    name: nycflights13
    schema: ../schemas/nycflights13.yaml   # relative to this file, like every path here
    seed: 7                                # the one seed: all randomness comes from it
    engine: sail                           # or spark
    runs: output/runs                      # where runs keep what the stages make
    label: work.class                      # optional: an attribute to learn, and to hide
    until: 2013-12-01                      # optional: the first day whose edges nothing learns from
    since: latest                          # optional: a run whose weights are kept (since.py)
    warm_start: 0                          # steps that they are trained further then
    features: {dimensions: 128}            # giant/settings.py
    distill: {}                            # coldbrew/settings.py
    publish: {path: output/published}      # embeddings/settings.py
    report: {}                             # report/settings.py
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from isohop.coldbrew.settings import DistillSettings
from isohop.embeddings.settings import PublishSettings
from isohop.engines.allowed import forbidden
from isohop.engines.object_store import StoredFolder, is_url
from isohop.engines.spark import Engine
from isohop.errors import InvalidInput, IsohopError, did_you_mean
from isohop.giant.model_folder import model_problem
from isohop.giant.settings import FeatureSettings
from isohop.graph.build import Planned, plan_schema
from isohop.graph.holdout import entity_of_label
from isohop.hops.plan import values_of
from isohop.pipeline.schedule import ScheduleSettings
from isohop.relational.as_of import Day, Moment
from isohop.report.settings import ReportSettings
from isohop.yaml_file import StrictModel, YamlFile, read_yaml

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class PipelineFile(StrictModel):
    """The whole file."""

    name: str = Field(json_schema_extra={"pattern": _NAME})
    """Of the pipeline: its runs, and what it publishes unless that has a name of its own."""
    schema_file: str = Field(alias="schema")
    """The schema file: which tables there are, and which entities."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The one seed: all randomness comes from it."""
    engine: Engine = "sail"
    """What works on tables."""
    runs: str = "runs"
    """Folder, or URL of an object store, where runs keep what the stages make."""
    label: str | None = None
    """``entity.attribute`` to learn, and to hide from all that learns it: of kind number, and
    not shared, a number, else classes. Learned of the nodes that have one."""
    until: Day | None = None
    """The first day whose edges nothing learns from."""
    as_of: Moment | None = None
    """The moment before which rows were known; later ones are left out, and counted."""
    since: str | None = None
    """A run to go on from, or ``latest``: ids and weights are kept."""
    warm_start: int = Field(0, ge=0)
    """Steps that the weights of an earlier run are trained further."""
    features: FeatureSettings = FeatureSettings()
    distill: DistillSettings = DistillSettings()
    publish: PublishSettings
    report: ReportSettings = ReportSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if re.fullmatch(_NAME, name) is None:
            raise ValueError(
                "a pipeline's name has letters, digits, '.', '-' and '_', and begins with a letter "
                "or a digit"
            )
        return name

    @field_validator("since")
    @classmethod
    def _nobody(cls, since: str | None) -> str | None:
        """``none`` is said on a command line, where it is plainer than null."""
        return None if since == "none" else since


@dataclass(frozen=True)
class Pipeline:
    """A pipeline file that was read, with the schema file it names read and planned."""

    file: YamlFile[PipelineFile]
    settings: PipelineFile
    planned: Planned

    def path(self, written: str) -> Path:
        """A path of the file, from where the file is."""
        return (self.file.path.parent / written).resolve()

    def folder(self, written: str) -> Path | StoredFolder:
        """A folder of the file, which may be in an object store."""
        return _folder(self.file, written)

    @property
    def runs(self) -> Path | StoredFolder:
        """Where the runs are."""
        return _runs(self.file, self.settings)

    @property
    def published(self) -> Path | StoredFolder:
        """Where the versions are."""
        return _versions(self.file, self.settings)

    @property
    def features(self) -> FeatureSettings:
        """Of features, with its text model's folder from here."""
        settings = self.settings.features
        if settings.model is None:
            return settings
        return settings.model_copy(update={"model": self.path(str(settings.model))})

    @property
    def schema_path(self) -> Path:
        return self.path(self.settings.schema_file)

    @property
    def published_name(self) -> str:
        return self.settings.publish.name or self.settings.name


def read_pipeline(path: str | Path, instead: Mapping[str, str] | None = None) -> Pipeline:
    """Read a pipeline file and the schema file it names. ``instead``: as in `read_yaml`.

    Raises `InvalidInput` with every mistake in both, before any engine starts.
    """
    file = read_yaml(path, PipelineFile, "pipeline file", instead)
    settings = file.model
    planned = None
    if settings is not None:
        _check_places(file, settings)
        planned = _plan(file, settings)
        if planned is not None:
            _check_outside(file, settings, planned)
            _check_attributes(file, settings, planned)
        _check_text_model(file, settings.features)
    file.raise_problems()
    if settings is None or planned is None:
        raise InvalidInput(file.title, file.problems)
    return Pipeline(file, settings, planned)


def home_of_runs(path: str | Path) -> Path | StoredFolder:
    """Where a pipeline's runs are, though its tables cannot be reached. Raises `InvalidInput` with
    what is wrong in the pipeline file itself."""
    file = read_yaml(path, PipelineFile, "pipeline file")
    if file.model is not None:
        _check_places(file, file.model)
    file.raise_problems()
    if file.model is None:
        raise InvalidInput(file.title, file.problems)
    return _runs(file, file.model)


def _folder(file: YamlFile[PipelineFile], written: str) -> Path | StoredFolder:
    """A folder of the file, from where the file is; it may be in an object store."""
    return StoredFolder.of(written) if is_url(written) else (file.path.parent / written).resolve()


def _plan(file: YamlFile[PipelineFile], settings: PipelineFile) -> Planned | None:
    schema_path = (file.path.parent / settings.schema_file).resolve()
    if is_url(settings.schema_file) or forbidden(schema_path) is not None:
        return None
    try:
        return plan_schema(schema_path)
    except InvalidInput as error:
        if not os.path.exists(schema_path):  # False of what no path can be
            file.add(("schema",), *_missing(error))
        else:
            file.problems.extend(error.problems)
    return None


def _missing(error: InvalidInput) -> tuple[str, str]:
    problem = error.problems[0]
    return f"{problem.where}: {problem.what}", problem.hint


def _check_places(file: YamlFile[PipelineFile], settings: PipelineFile) -> None:
    """Whether they are URLs that can be read, and where they may be."""
    places: dict[tuple[str, ...], str | Path | None] = {
        ("schema",): settings.schema_file,
        ("runs",): settings.runs,
        ("publish", "path"): settings.publish.path,
        ("features", "model"): settings.features.model,
    }
    stored = (("runs",), ("publish", "path"))
    for place, written in places.items():
        if written is None:
            continue
        if is_url(written) and place not in stored:
            file.add(place, "this is on this machine: name a path, not a URL.")
            continue
        problem = forbidden(written if is_url(written) else file.path.parent / written)
        if problem is not None:
            file.add(place, problem)
    if not file.problems and _overlap(_runs(file, settings), _versions(file, settings)):
        file.add(
            ("publish",),
            f"versions would lie among the runs, in {_versions(file, settings)}.",
            "Give 'publish' another 'path'.",
        )


def _runs(file: YamlFile[PipelineFile], settings: PipelineFile) -> Path | StoredFolder:
    return _folder(file, settings.runs) / settings.name


def _versions(file: YamlFile[PipelineFile], settings: PipelineFile) -> Path | StoredFolder:
    return _folder(file, settings.publish.path) / (settings.publish.name or settings.name)


def _overlap(one: Path | StoredFolder, other: Path | StoredFolder) -> bool:
    """Whether one lies in the other."""
    longer, shorter = sorted((f"{one}/", f"{other}/"), key=len, reverse=True)
    return longer.startswith(shorter)


def _check_outside(file: YamlFile[PipelineFile], settings: PipelineFile, planned: Planned) -> None:
    for place, written in ((("runs",), settings.runs), (("publish",), settings.publish.path)):
        folder = _folder(file, written)
        if isinstance(folder, Path) and planned.holds(folder):
            file.add(
                place,
                f"{folder} lies in the folder of the tables, where it would be read as one.",
                "Choose another folder, or move the tables into one of their own.",
            )


def _check_text_model(file: YamlFile[PipelineFile], features: FeatureSettings) -> None:
    try:
        folder = features.text_model
    except IsohopError as error:
        file.add(("features", "encoder"), str(error))
        return
    if folder is not None:
        problem = model_problem((file.path.parent / folder).resolve())
        if problem is not None:
            file.add(("features", "model"), problem)


def _check_attributes(
    file: YamlFile[PipelineFile], settings: PipelineFile, planned: Planned
) -> None:
    known = values_of(planned.plan)
    entities = planned.schema.entities
    names = [f"{owner}.{a}" for owner, all_ in known.items() if owner in entities for a in all_]
    if settings.label is not None and settings.label not in names:
        file.add(
            ("label",),
            f"no entity has an attribute '{settings.label}' (a key is none).",
            did_you_mean(settings.label, names),
        )
    elif settings.label is not None and entity_of_label(settings.label) not in entities:
        file.add(
            ("label",),
            f"the attribute of '{settings.label}' has a dot in its name, which a label's cannot.",
            "Give its column another name, under 'columns:' of its table in the schema file.",
        )
    if settings.until is not None and not any(t.time for t in planned.schema.tables.values()):
        file.add(
            ("until",),
            "no table says when its rows became known, so none is later.",
            "Name the column that does as 'time' of its table in the schema file.",
        )
    for entity, attribute in settings.report.colour.items():
        if entity not in entities:
            file.add(
                ("report", "colour", entity),
                f"there is no entity '{entity}'.",
                did_you_mean(entity, entities),
            )
        elif attribute.rpartition(".")[2] not in known[entity]:
            file.add(
                ("report", "colour", entity),
                f"'{entity}' has no attribute '{attribute}' (a key is none).",
                did_you_mean(attribute, known[entity]),
            )
