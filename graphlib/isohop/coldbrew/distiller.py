"""Training of teacher, baseline and student, a block of steps at a time.

Each keeps the weights that were best on validation edges (or nodes, where there is a label); test
edges are met once, in `evaluate`. The same inputs and seed give the same weights, bit for bit on
one machine.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from isohop.coldbrew.evaluation import Figure, LinkEvaluation, Model, label_figures
from isohop.coldbrew.inputs import Inputs, read_inputs
from isohop.coldbrew.labels import Labels, read_labels
from isohop.coldbrew.links import LinkScore, LinkTask, queries_of
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import FeatureMLP, LatentIndex, Student, latent_index
from isohop.coldbrew.tables import Table
from isohop.coldbrew.teacher import Teacher, structural_nodes
from isohop.errors import IsohopError
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.holdout import ISOLATION

VALIDATE_EVERY = 20
MATCH_WEIGHT = 5.0
"""Weight of being like the teacher, beside the teacher's own task, in the student's loss."""


class _Baseline(nn.Module):
    """The MLP on the same features, trained on the teacher's task, without edges."""

    def __init__(self, distiller: Distiller):
        super().__init__()
        settings = distiller.settings
        widths = {name: x.shape[1] for name, x in distiller.inputs.features.items()}
        self.mlp = FeatureMLP(widths, settings.dimensions, settings.dropout)
        names = tuple(distiller.inputs.edge_types)
        self.score = LinkScore(names, settings.dimensions, "distmult", settings.scale)
        outputs = distiller.outputs
        self.classify = nn.Linear(settings.dimensions, outputs) if outputs else None


class Distiller:
    """Everything that distillation holds: what it learns from, and what it learns.

    ``holdout``: which edges may be seen, of ``inputs.edges``; ``labels`` where one is learned.
    """

    def __init__(
        self,
        inputs: Inputs,
        holdout: Holdout,
        labels: Labels | None,
        settings: DistillSettings,
        seed: int,
        threads: int,
    ):
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        self.settings = settings
        self.seed = seed
        self.notes: list[str] = []
        self.inputs = inputs
        self.holdout = holdout
        self.labels = labels
        self.visible = {
            name: edges[:, torch.from_numpy(holdout.visible(name))]
            for name, edges in inputs.edges.items()
        }
        self.graph = MessageGraph(inputs.counts, inputs.edge_types, self.visible)
        self.connected = {name: degree > 0 for name, degree in self.graph.degrees().items()}
        self.outputs = labels.outputs if labels else 0
        self.structural = structural_nodes(self.graph, settings.structural_degree)
        self.evaluation = LinkEvaluation(inputs, holdout, seed)
        self.latent: dict[str, Tensor] = {}
        self.indices: dict[str, LatentIndex] = {}
        self.teacher = Teacher(inputs, self.structural, settings, self.outputs)
        self.baseline = _Baseline(self)
        widths = {n: inputs.features[n].shape[1] for n in inputs.entities}
        self.student = Student(widths, settings)
        self._vectors: dict[str, dict[str, Tensor]] = {}

    @classmethod
    def of(
        cls,
        graph: Graph,
        features: Path,
        settings: DistillSettings,
        seed: int,
        label: str | None,
        threads: int,
        until: date | None = None,
    ) -> Distiller:
        """Of a graph, features in a folder and what a pipeline says. Raises `IsohopError`."""
        inputs = read_inputs(graph, features, label)
        holdout = hold_out(graph, seed, until=until)
        labels = None
        if label is not None:
            isolated = holdout.groups[label.rpartition(".")[0]] == ISOLATION
            labels = read_labels(graph, label, isolated, seed)
        made = cls(inputs, holdout, labels, settings, seed, threads)
        if label is not None and labels is None:
            made.notes.append(
                f"label '{label}' has fewer than two values to learn from: trained by link "
                "prediction"
            )
        return made

    @property
    def skipped(self) -> str | None:
        if any(edges.shape[1] for edges in self.visible.values()):
            return None
        return "no visible edge to learn from; embeddings are projected features"

    def about(self) -> dict[str, Any]:
        """What the manifest says besides curves and figures, as plain values."""
        return {
            "skipped": self.skipped,
            "notes": self.notes,
            "outputs": self.outputs,
            "structural": {name: (len(nodes),) for name, nodes in self.structural.items()},
        }

    def start(self, model: str) -> None:
        """Begin to train one model: a new optimiser, task and stream of random numbers."""
        torch.manual_seed(self.seed + len(self._vectors))
        self._name = model
        self._module, self._loss, self._predict = self._parts(model)
        self._module.train()
        self._task = self._link_task(model)
        self._optimiser = _optimiser(self._module, self.settings)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            self.settings.learning_rate,
            total_steps=self.settings.steps + 1,
            pct_start=0.1,
        )
        self._done = 0
        self._best: tuple[float, dict[str, Tensor]] | None = None

    def _link_task(self, model: str) -> LinkTask:
        return LinkTask(
            queries_of(self.inputs.edge_types, frozenset(self.inputs.entities)),
            self.visible,
            self.inputs.counts,
            self.connected,
            batch=self.settings.batch,
            negatives=self.settings.negatives,
            power=0.0,
            seed=self.seed + len(self._vectors),
        )

    def _parts(
        self, model: str
    ) -> tuple[nn.Module, Callable[[], Tensor], Callable[[], dict[str, Tensor]]]:
        if model == "teacher":
            return self.teacher, self._teacher_loss, self._predict_teacher
        if model == "mlp":
            return self.baseline, self._baseline_loss, self._predict_baseline
        return self.student, self._student_loss, self._predict_student

    def train(self, steps: int) -> tuple[list[float], float | None]:
        """Take some steps; (losses, validation score where one was due)."""
        losses = []
        valid = None
        for _ in range(min(steps, self.settings.steps - self._done)):
            loss = self._loss()
            value = float(loss.detach())
            if not np.isfinite(value):
                raise IsohopError(
                    f"Training of the {self._name}: the loss of step {self._done + 1} is {value}. "
                    "Lower 'distill.learning_rate'."
                )
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self._optimiser.step()
            self._schedule.step()
            losses.append(value)
            self._done += 1
            if self._done % VALIDATE_EVERY == 0 or self._done == self.settings.steps:
                valid = self._validate()
        return losses, valid

    def _validate(self) -> float:
        self._module.eval()
        with torch.no_grad():
            score = self._validation_score(self._predict())
        self._module.train()
        # Of equal scores the later wins: where there is nothing to validate on, all are equal.
        if self._best is None or score >= self._best[0]:
            state = {name: v.detach().clone() for name, v in self._module.state_dict().items()}
            self._best = score, state
        return score

    def _validation_score(self, vectors: Table) -> float:
        if self.labels is not None and self.labels.validation.any():
            return self.labels.right(self.answers(self._name, vectors), self.labels.validation)
        return self.evaluation.validation(self._model(self._name, vectors))

    def finish(self) -> None:
        """Keep the best weights, and the vectors that they give."""
        if self._best is not None:
            self._module.load_state_dict(self._best[1])
        self._module.eval()
        with torch.no_grad():
            self._vectors[self._name] = self._predict()
        if self._name == "teacher":
            self._teach_latent()

    # Teacher

    def _predict_teacher(self) -> dict[str, Tensor]:
        return self.teacher(self.graph, self.inputs.features, self.graph.weights({}))

    def _teacher_loss(self) -> Tensor:
        drawn = self._task.draw()
        weights = self.graph.weights(drawn)
        times = self.settings.answers if self.labels is not None else 1
        vectors = [self.teacher(self.graph, self.inputs.features, weights) for _ in range(times)]
        loss = self._task.loss(self.teacher.score, drawn, vectors[0], vectors[0])
        loss = loss + self.settings.structural_penalty * self.teacher.penalty()
        if self.labels is None:
            return loss
        answers = [self.answers("teacher", one) for one in vectors]
        told = torch.stack([self.labels.loss(one) for one in answers]).mean()
        agreed = self.labels.agree(answers) if times > 1 else 0.0
        return self.settings.link_weight * loss + told + self.settings.agreement * agreed

    # Baseline

    def _predict_baseline(self) -> dict[str, Tensor]:
        return self.baseline.mlp(self.inputs.features)

    def _baseline_loss(self) -> Tensor:
        vectors = self._predict_baseline()
        loss = self._task.loss(self.baseline.score, self._task.draw(), vectors, vectors)
        if self.labels is None:
            return loss
        told = self.labels.loss(self.answers("mlp", vectors))
        return self.settings.link_weight * loss + told

    # Student

    def _teach_latent(self) -> None:
        """MLP₁ learns the teacher's vectors, then finds every entity's latent neighbours."""
        torch.manual_seed(self.seed + 50)
        taught = self._vectors["teacher"]
        first = self.student.first.train()
        optimiser = _optimiser(first, self.settings)
        entities = {name: self.inputs.features[name] for name in self.inputs.entities}
        for _ in range(self.settings.steps // 2):
            loss = self._match(first(entities), taught)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        first.eval().requires_grad_(False)
        with torch.no_grad():
            guessed = first(entities)
            for name in self.inputs.entities:
                index = latent_index(taught[name], self.connected[name], self.settings, self.seed)
                self.indices[name] = index
                self.latent[name] = index.latent(guessed[name], torch.arange(len(guessed[name])))

    def _match(self, vectors: Table, taught: Table) -> Tensor:
        """Mean squared distance to the teacher's vectors, over nodes that have edges."""
        parts = [torch.zeros(())]
        for name, values in vectors.items():
            at = self.connected[name]
            if at.any():
                parts.append((values[at] - taught[name][at]).square().sum(1).mean())
        return torch.stack(parts).sum() / max(1, len(parts) - 1)

    def _predict_student(self) -> dict[str, Tensor]:
        return self.student(self.inputs.features, self.latent)

    def _student_loss(self) -> Tensor:
        taught = self._vectors["teacher"]
        vectors = self._predict_student()
        score = self.teacher.score.requires_grad_(False)
        link = self._task.loss(score, self._task.draw(), vectors, taught)
        matched = MATCH_WEIGHT * self._match(vectors, taught)
        if self.labels is None:
            return link + matched
        answers = self.answers("student", vectors)
        at = self.connected[self.labels.entity] | self.labels.train
        with torch.no_grad():
            given = self.answers("teacher", taught)
        told = self.labels.loss(answers) + (
            self.settings.imitation * self.labels.like(answers[at], given[at])
        )
        return self.settings.link_weight * link + told + matched

    # Evaluation

    def served(self) -> dict[str, Tensor]:
        """Teacher for connected nodes, student for isolated ones; teacher for what is no entity."""
        out = dict(self._vectors["teacher"])
        for name, values in self._vectors["student"].items():
            out[name] = torch.where(self.connected[name][:, None], out[name], values)
        return out

    def _model(self, name: str, vectors: Table) -> Model:
        """The student asks among the teacher's vectors: both live in one space."""
        if name == "mlp":
            return Model(name, vectors, vectors, self.baseline.score)
        if name == "student":
            return Model(name, vectors, self._vectors["teacher"], self.teacher.score)
        return Model(name, vectors, vectors, self.teacher.score)

    def answers(self, name: str, vectors: Table) -> Tensor:
        """What a model says of the label, (nodes, outputs), from its vectors."""
        classify = self.baseline.classify if name == "mlp" else self.teacher.classify
        if self.labels is None or classify is None:
            raise IsohopError("There is no label to answer for.")
        scale = self.settings.scale if self.labels.classes else 1.0
        return scale * classify(vectors[self.labels.entity])

    def evaluate(self) -> list[Figure]:
        """Every model on test edges, isolated nodes, and test labels."""
        if self.skipped is not None:
            return []
        tables = {**self._vectors, "served": self.served()}
        figures: list[Figure] = []
        with torch.no_grad():
            for name, vectors in tables.items():
                figures += self.evaluation.figures(self._model(name, vectors))
            if self.labels is not None:
                answers = {name: self.answers(name, vectors) for name, vectors in tables.items()}
                groups = self.holdout.groups[self.labels.entity]
                figures += label_figures(self.labels, groups, answers)
        return figures

    def save(self, folder: Path) -> None:
        """teacher.safetensors and student.safetensors."""
        for name, module in (("teacher", self.teacher), ("student", self.student)):
            state = {key: value.detach().contiguous() for key, value in module.state_dict().items()}
            save_file(state, folder / f"{name}.safetensors")


def _optimiser(module: nn.Module, settings: DistillSettings) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.Adam(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
