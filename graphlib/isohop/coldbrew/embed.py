"""The stage `embed`: embeddings of every entity, from the teacher, the student or both, by the
evidence that there is of each node (`choosing.py`), and beside that what its features say alone.

The teacher passes messages over the whole graph, held-out edges included: they were held out to
measure, not to be forgotten. Written as `isohop.embeddings` reads it: key columns, node_id,
embedding, source, confidence, degree. The student is written too, for rows that come later
(`new_rows.py`).

Where the model is one that was kept from an earlier run (`keeping.py`), so is the student, and what
has not changed stays as it was, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from isohop.coldbrew.choice import EVEN, Choice
from isohop.coldbrew.distill import DistillManifest, read_manifest
from isohop.engines.progress import SILENT, Progress
from isohop.engines.ray import all_cores, ray_session, result_of, with_all_cores
from isohop.engines.storage import folder_atomically
from isohop.errors import IsohopError
from isohop.giant.documents import document_fields
from isohop.graph import Graph
from isohop.graph.earlier import earlier_ids
from isohop.graph.holdout import entity_of_label

if TYPE_CHECKING:
    from isohop.coldbrew.bundle import Student
    from isohop.coldbrew.choosing import Served
    from isohop.coldbrew.inputs import Inputs
    from isohop.coldbrew.tables import Table

ROWS_A_FILE = 1_000_000


@dataclass(frozen=True)
class Earlier:
    """The run that a model was kept from: its folders."""

    graph: Path
    embeddings: Path
    student: Path
    credible: Path


def embed(
    graph: str | Path,
    features: str | Path,
    model: str | Path,
    out: str | Path,
    progress: Progress = SILENT,
    student: str | Path | None = None,
    credible: str | Path | None = None,
    before: Earlier | None = None,
) -> None:
    """Write ``out/<entity>/*.parquet`` for every entity. Where ``student`` names a folder, the
    bundle that embeds new rows there; in ``credible``, how credible edges are. ``before``: the run
    that the model was kept from. Raises `IsohopError`."""
    opened = Graph.open(graph)
    if not read_manifest(Path(model)).is_of(opened):
        raise IsohopError(
            f"{model} was distilled from another graph than {graph}. Run the stage 'distill' again."
        )
    with ExitStack() as stack:
        stack.enter_context(ray_session())
        # The embeddings last, so that all is there once they are.
        folder, bundle, judged = (
            None if to is None else str(stack.enter_context(folder_atomically(Path(to))).resolve())
            for to in (out, student, credible)
        )
        task = with_all_cores(_embed)
        with progress.task("embeddings of every entity") as bar:
            paths = (str(Path(path).resolve()) for path in (opened.path, features, model))
            result_of(task.remote(*paths, folder, bundle, judged, all_cores(), before))
            bar.advance()


def _embed(
    graph: str,
    features: str,
    model: str,
    out: str,
    bundle: str | None,
    judged: str | None,
    threads: int,
    before: Earlier | None,
) -> None:
    import torch

    from isohop.coldbrew.choosing import Served
    from isohop.coldbrew.credible import with_earlier, write_credible
    from isohop.coldbrew.known_graph import KnownGraph
    from isohop.engines.determinism import compute_deterministically

    compute_deterministically(threads)
    opened = Graph.open(graph)
    with torch.no_grad():
        known = KnownGraph.open(opened, Path(features), Path(model))
        kept = None if before is None else _Kept.of(before, opened)
        if kept is not None and known.manifest.weighed:
            merged = with_earlier(known.credible, opened, kept.before, kept.run.credible)
            known = known.with_credible(merged)
        inputs, manifest = known.inputs, known.manifest
        taught, believed = known.teach()
        degree = known.messages.degrees()
        if kept is None:
            students = _students(inputs, taught, degree, Path(model), manifest)
        else:
            students = kept.students(inputs)
        choices = _choices(manifest, students)
        for name, choice in choices.items():
            student, features_of = students[name], inputs.features[name]
            guessed, nearness = student.vectors(features_of, itself=True)
            told = taught.get(name), guessed, student.content(features_of)
            served = Served.of(choice, *told, believed[name], nearness)
            if kept is not None:
                served = kept.settled(name, served)
            _write(opened, Path(out) / name, name, served, degree[name].numpy())
    if judged is not None:
        write_credible(Path(judged), opened, known.credible)
    if bundle is not None:
        _bundle(opened, Path(features), Path(bundle), students, choices, manifest)


@dataclass(frozen=True)
class _Kept:
    """``earlier``: by entity, as of `earlier_ids`."""

    run: Earlier
    before: Graph
    earlier: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, run: Earlier, now: Graph) -> _Kept:
        before = Graph.open(run.graph)
        names = [node.name for node in now.entities]
        return cls(run, before, {name: earlier_ids(before, now, name) for name in names})

    def students(self, inputs: Inputs) -> dict[str, Student]:
        from isohop.coldbrew.bundle import load_students
        from isohop.coldbrew.keeping import moved_student

        widths = {name: inputs.features[name].shape[1] for name in inputs.entities}
        return {
            name: moved_student(student, self.earlier[name], self.before.node_type(name).count)
            for name, student in load_students(self.run.student, widths).items()
        }

    def settled(self, name: str, served: Served) -> Served:
        from isohop.coldbrew.keeping import settled

        folder = self.run.embeddings / name
        before = ds.dataset(folder, format="parquet").to_table().sort_by("node_id")
        return settled(served, before, self.earlier[name])


def _choices(manifest: DistillManifest, students: Mapping[str, Student]) -> dict[str, Choice]:
    """Of every entity. The halves of a projection are one vector, and count alike; it has no
    teacher."""
    from isohop.coldbrew.bundle import Projection

    found = {}
    for name, student in students.items():
        choice = manifest.choices.get(name, Choice())
        if isinstance(student, Projection):
            choice = choice.model_copy(update={"content": EVEN, "without_edges": 0.0})
        found[name] = choice
    return found


def _students(
    inputs: Inputs, taught: Table, degree: Table, model: Path, manifest: DistillManifest
) -> dict[str, Student]:
    """By entity, what embeds a row without edges."""
    from isohop.coldbrew.bundle import Guesser, Projection
    from isohop.coldbrew.known_graph import load_weights, model_tensors
    from isohop.coldbrew.student import FeatureMLP, latent_index
    from isohop.coldbrew.student import Student as Distilled
    from isohop.coldbrew.tables import module_key
    from isohop.coldbrew.teacher import LoneTeacher

    labelled = entity_of_label(manifest.label) if manifest.label and manifest.outputs else None
    found: dict[str, Student] = {}
    modules: tuple[FeatureMLP, ...] = ()
    teacher = {} if manifest.skipped is not None else model_tensors(model, "teacher")
    for name in inputs.entities:
        if manifest.skipped is not None or not ((degree[name] > 0).any() or name == labelled):
            # No node of this type has an edge, so the student of this type has learned nothing.
            found[name] = Projection.of(inputs.features[name], manifest.settings.dimensions)
            continue
        if not modules:
            widths = {of: features.shape[1] for of, features in inputs.features.items()}
            content = FeatureMLP(widths, manifest.settings.part, 0.0).eval()
            beside = model_tensors(model, "mlp").items()
            own = {n.removeprefix("mlp."): v for n, v in beside if n.startswith("mlp.")}
            load_weights(content, own, model)
            of_entities = {entity: widths[entity] for entity in inputs.entities}
            distilled = Distilled(of_entities, manifest.settings).eval()
            load_weights(distilled, model_tensors(model, "student"), model)
            modules = (distilled.first, distilled.second, content)
        first, second, alone = (module.mlp[module_key(name)] for module in modules)
        index = latent_index(taught[name], degree[name] > 0, manifest.settings, manifest.seed)
        lone = None
        if manifest.choices.get(name, Choice()).without_edges:
            lone = LoneTeacher(name, inputs.features[name].shape[1], manifest.settings).eval()
            load_weights(lone.teacher, lone.weights_of(teacher), model)
        found[name] = Guesser(first, second, alone, index, lone)
    return found


def _bundle(
    graph: Graph,
    features: Path,
    folder: Path,
    students: Mapping[str, Student],
    choices: Mapping[str, Choice],
    manifest: DistillManifest,
) -> None:
    from isohop.coldbrew.bundle import BundledEntity, BundleManifest, save_bundle

    entities, rows = [], {}
    for name in students:
        key, fields = graph.node_type(name).key, document_fields(graph, name, manifest.label)
        entities.append(BundledEntity(name=name, key=key, fields=fields, choice=choices[name]))
        held = ds.dataset(graph.path / "nodes" / name, format="parquet").schema
        names = dict.fromkeys([*key, *(field.name for field in fields)])
        rows[name] = pa.schema([(column, held.field(column).type) for column in names])
    about = BundleManifest(
        certificate=manifest.kept_from or graph.manifest.certificate,
        settings=manifest.settings,
        entities=tuple(entities),
    )
    save_bundle(folder, about, students, rows, features)


def _write(graph: Graph, folder: Path, name: str, served: Served, degree: np.ndarray) -> None:
    node = graph.node_type(name)
    values = served.vectors.numpy().astype(np.float32)
    if not np.isfinite(values).all():
        raise IsohopError(
            f"embeddings of '{name}' are not finite. Nothing is written. Run 'distill' again with "
            "a lower 'distill.learning_rate'."
        )
    nodes = graph.nodes(name, node.key)
    columns = {key: nodes[key] for key in node.key}
    columns["node_id"] = nodes["node_id"]
    table = pa.table(columns | served.columns(degree))
    folder.mkdir(parents=True)
    for part, start in enumerate(range(0, max(table.num_rows, 1), ROWS_A_FILE)):
        pq.write_table(table.slice(start, ROWS_A_FILE), folder / f"part-{part:05d}.parquet")
