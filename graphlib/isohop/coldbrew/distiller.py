"""Training of teacher, baseline and student, a block of steps at a time.

Each keeps the weights that were best on validation edges (or nodes, where there is a label); test
edges are met once, in `evaluate`. The same inputs and seed give the same weights, bit for bit on
one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.choice import Choice
from isohop.coldbrew.choosing import Evidence, blended, learn_choice, share_of
from isohop.coldbrew.evaluation import Figure, LinkEvaluation, Model, label_figures
from isohop.coldbrew.figures import LayerFigures
from isohop.coldbrew.inputs import Inputs, read_inputs
from isohop.coldbrew.labels import Labels, read_labels
from isohop.coldbrew.links import LinkScore, LinkTask, queries_of
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.oversmoothing import figures_of
from isohop.coldbrew.reliability import credible_edges
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import FeatureMLP, Student, latent_index
from isohop.coldbrew.tables import Table, unit
from isohop.coldbrew.teacher import Teacher, structural_nodes
from isohop.coldbrew.trials import trials_of
from isohop.errors import IsohopError
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.holdout import ISOLATION

VALIDATE_EVERY = 20
PROPAGATIONS = 50
DOUBTFUL = 0.5
"""How credible an edge is at most that is counted as doubtful."""
MATCH_WEIGHT = 5.0
"""Weight of being like the teacher, beside the teacher's own task, in the student's loss."""


@dataclass(frozen=True)
class Told:
    """What a model says. ``vectors``: at length 1, by type; ``answers``: float32 (nodes, outputs),
    about the label, where there is one."""

    vectors: Table
    answers: Tensor | None


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


PLAIN = {"layers": 2, "initial_residual": 0.0, "answers": 1, "teacher": "convolution"}
"""A graph convolutional network as others have it: settings in place of the teacher's. It has no
structural embeddings either."""


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
        self._unweighed = MessageGraph(inputs.counts, inputs.edge_types, self.visible)
        self.graph = self._unweighed
        """What messages pass over; what it is compared with knows nothing of credible edges."""
        self.connected = {name: degree > 0 for name, degree in self.graph.degrees().items()}
        self.credible: dict[str, Tensor] = {}
        self.weighed = False
        """Whether that is how messages are weighed."""
        self.outputs = labels.outputs if labels else 0
        told = None if labels is None else (labels.entity, labels.train)
        self.structural = structural_nodes(self.graph, settings.structural_degree, told)
        self.queries = queries_of(inputs.edge_types, frozenset(inputs.entities))
        self.evaluation = LinkEvaluation(inputs, holdout, self.graph.degrees(), seed)
        self.latent: dict[str, Tensor] = {}
        self.nearness: dict[str, Tensor] = {}
        self.teacher = Teacher(inputs, self.structural, settings, self.outputs)
        self.baseline = _Baseline(self)
        widths = {n: inputs.features[n].shape[1] for n in inputs.entities}
        self.student = Student(widths, settings, self.outputs)
        self.choices: dict[str, Choice] = {}
        self.told: dict[str, Told] = {}
        """Of each model that is trained."""

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
        training_seed: int | None = None,
    ) -> Distiller:
        """Of a graph, features in a folder and what a pipeline says. ``seed`` decides what is held
        out, and, where no ``training_seed`` is given, all else. Raises `IsohopError`."""
        inputs = read_inputs(graph, features, label)
        holdout = hold_out(graph, seed, until=until)
        labels = None
        if label is not None:
            isolated = holdout.groups[label.rpartition(".")[0]] == ISOLATION
            labels = read_labels(graph, label, isolated, seed)
        drawn = seed if training_seed is None else training_seed
        made = cls(inputs, holdout, labels, settings, drawn, threads)
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
            "doubtful": {
                name: (int((credible < DOUBTFUL).sum()), len(credible))
                for name, credible in self.credible.items()
            },
            "weighed": self.weighed,
            "choices": {name: choice.model_dump() for name, choice in self.choices.items()},
        }

    def start(self, model: str) -> None:
        """Begin to train one model: a new optimiser, task and stream of random numbers."""
        torch.manual_seed(self.seed + len(self.told))
        self._name = model
        self._module, self._loss, self._predict = self._parts(model)
        self._module.train()
        self._task = self._link_task()
        self._optimiser = _optimiser(self._module, self.settings)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            self.settings.learning_rate,
            total_steps=self.settings.steps + 1,
            pct_start=0.1,
        )
        self._done = 0
        self._best: tuple[float, dict[str, Tensor]] | None = None

    def _link_task(self) -> LinkTask:
        return LinkTask(
            self.queries,
            self.visible,
            self.inputs.counts,
            self.connected,
            batch=self.settings.batch,
            negatives=self.settings.negatives,
            power=0.0,
            seed=self.seed + len(self.told),
        )

    def _parts(self, model: str) -> tuple[nn.Module, Callable[[], Tensor], Callable[[], Told]]:
        if model == "teacher":
            return (
                self.teacher,
                partial(self._teacher_loss, self.teacher, self.settings),
                self.teach,
            )
        if model == "gcn":
            settings = self.settings.model_copy(update=PLAIN)
            nobody = {n: torch.zeros(0, dtype=torch.int64) for n in self.inputs.counts}
            self.gcn = Teacher(self.inputs, nobody, settings, self.outputs)
            return self.gcn, partial(self._teacher_loss, self.gcn, settings), self._predict_gcn
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

    def _validation_score(self, told: Told) -> float:
        if self.labels is not None and told.answers is not None and self.labels.validation.any():
            return self.labels.right(told.answers, self.labels.validation)
        return self.evaluation.validation(self._model(self._name, told))

    def finish(self) -> None:
        """Keep the best weights, and what they give."""
        if self._best is not None:
            self._module.load_state_dict(self._best[1])
        self._module.eval()
        with torch.no_grad():
            self.told[self._name] = self._predict()
            if self._name == "teacher":
                self._believe()
        if self._name == "teacher":
            self._teach_latent()
        if self._name == "student":
            self.choices = {name: learn_choice(trials) for name, trials in trials_of(self).items()}

    def _told(self, raw: Table, classify: nn.Module | None) -> Told:
        answers = None
        if self.labels is not None and classify is not None:
            answers = classify(raw[self.labels.entity])
        return Told(unit(raw), answers)

    # Teacher

    def teach(
        self, left_out: Mapping[str, Tensor] | None = None, unplaced: Table | None = None
    ) -> Told:
        """Without the messages of edges at some positions, and with some nodes out of place."""
        return self._teach(self.teacher, self.graph, left_out or {}, unplaced)

    def _predict_gcn(self) -> Told:
        return self._teach(self.gcn, self._unweighed, {})

    def _teach(
        self,
        teacher: Teacher,
        graph: MessageGraph,
        left_out: Mapping[str, Tensor],
        unplaced: Table | None = None,
    ) -> Told:
        raw = teacher(graph, self.inputs.features, graph.weights(left_out), unplaced)
        return self._told(raw, teacher.classify)

    def _teacher_loss(self, teacher: Teacher, settings: DistillSettings) -> Tensor:
        drawn = self._task.draw()
        times = settings.answers if self.labels is not None else 1
        # Whatever is trained by messages is trained before it is known which edges are credible.
        told = [self._teach(teacher, self._unweighed, drawn) for _ in range(times)]
        loss = self._task.loss(teacher.score, drawn, told[0].vectors, told[0].vectors)
        loss = loss + settings.structural_penalty * teacher.penalty()
        if self.labels is None:
            return loss
        answers = [one.answers for one in told if one.answers is not None]
        loss = settings.link_weight * loss
        loss = loss + torch.stack([self.labels.loss(one) for one in answers]).mean()
        return loss + settings.agreement * self.labels.agree(answers)

    def _believe(self) -> None:
        """Judge how credible edges are; that weighs messages where validation says so."""
        self.credible = credible_edges(
            self.queries,
            self.visible,
            self.inputs.counts,
            lambda left_out: self.teach(left_out).vectors,
            self.teacher.score,
            self.seed,
        )
        if not self.credible:
            return
        counts, types = self.inputs.counts, self.inputs.edge_types
        weighed = MessageGraph(counts, types, self.visible, self.credible)
        told = self._teach(self.teacher, weighed, {})
        self.weighed = self._validation_score(told) > self._validation_score(self.told["teacher"])
        if self.weighed:
            self.graph, self.told["teacher"] = weighed, told

    # Baseline

    def _predict_baseline(self) -> Told:
        return self._told(self.baseline.mlp(self.inputs.features), self.baseline.classify)

    def _baseline_loss(self) -> Tensor:
        told = self._predict_baseline()
        vectors = told.vectors
        loss = self._task.loss(self.baseline.score, self._task.draw(), vectors, vectors)
        if self.labels is None or told.answers is None:
            return loss
        return self.settings.link_weight * loss + self.labels.loss(told.answers)

    # Student

    def _teach_latent(self) -> None:
        """MLP₁ learns the teacher's vectors, then finds every entity's latent neighbours."""
        torch.manual_seed(self.seed + 50)
        taught = self.told["teacher"].vectors
        first = self.student.first.train()
        optimiser = _optimiser(first, self.settings)
        entities = {name: self.inputs.features[name] for name in self.inputs.entities}
        for _ in range(self.settings.steps // 2):
            loss = self._match(unit(first(entities)), taught)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        first.eval().requires_grad_(False)
        with torch.no_grad():
            guessed = unit(first(entities))
            for name in self.inputs.entities:
                index = latent_index(taught[name], self.connected[name], self.settings, self.seed)
                ids = torch.arange(len(guessed[name]))
                self.latent[name], self.nearness[name] = index.latent(guessed[name], ids)

    def _match(self, vectors: Table, taught: Table) -> Tensor:
        """Mean squared distance to the teacher's vectors, over nodes that have edges."""
        parts = [torch.zeros(())]
        for name, values in vectors.items():
            at = self.connected[name]
            if at.any():
                parts.append((values[at] - taught[name][at]).square().sum(1).mean())
        return torch.stack(parts).sum() / max(1, len(parts) - 1)

    def _predict_student(self) -> Told:
        raw = self.student(self.inputs.features, self.latent)
        return self._told(raw, self.student.classify)

    def _student_loss(self) -> Tensor:
        taught = self.told["teacher"]
        told = self._predict_student()
        score = self.teacher.score.requires_grad_(False)
        link = self._task.loss(score, self._task.draw(), told.vectors, taught.vectors)
        matched = MATCH_WEIGHT * self._match(told.vectors, taught.vectors)
        if self.labels is None or told.answers is None or taught.answers is None:
            return link + matched
        at = self.connected[self.labels.entity] | self.labels.train
        alike = self.labels.like(told.answers[at], taught.answers[at])
        label = self.labels.loss(told.answers) + self.settings.imitation * alike
        return self.settings.link_weight * link + label + matched

    # Evaluation

    def evidence(self, name: str, taught: Tensor, degree: Tensor) -> Evidence:
        """Of the nodes of an entity, by what the teacher says of them and their degree."""
        guessed = self.told["student"].vectors[name]
        return Evidence.of(degree, taught, guessed, self.nearness[name])

    def served(self) -> Told:
        """What every entity is served; the teacher's for what is no entity."""
        taught, guessed = self.told["teacher"], self.told["student"]
        degrees = self.graph.degrees_in(self.graph.weights({}))
        vectors, answers = dict(taught.vectors), taught.answers
        for name, choice in self.choices.items():
            evidence = self.evidence(name, taught.vectors[name], degrees[name])
            share = share_of(choice, evidence)
            vectors[name] = blended(taught.vectors[name], guessed.vectors[name], share)
            of_label = self.labels is not None and name == self.labels.entity
            if of_label and taught.answers is not None and guessed.answers is not None:
                answers = blended(taught.answers, guessed.answers, share, unit=False)
        return Told(vectors, answers)

    def _model(self, name: str, told: Told) -> Model:
        """The student asks among the teacher's vectors: both live in one space."""
        if name == "mlp":
            return Model(name, told.vectors, told.vectors, self.baseline.score)
        if name in ("teacher", "gcn"):
            score = self.teacher.score if name == "teacher" else self.gcn.score
            return Model(name, told.vectors, told.vectors, score)
        return Model(name, told.vectors, self.told["teacher"].vectors, self.teacher.score)

    def evaluate(self) -> list[Figure]:
        """Every model on test edges, isolated nodes, and test labels."""
        if self.skipped is not None:
            return []
        figures: list[Figure] = []
        with torch.no_grad():
            told = {**self.told, "served": self.served(), **self._propagated()}
            for name, one in told.items():
                if one.vectors:
                    figures += self.evaluation.figures(self._model(name, one))
            if self.labels is not None:
                answers = {name: one.answers for name, one in told.items()}
                entity = self.labels.entity
                about = self.holdout.groups[entity], self.evaluation.degree[entity]
                figures += label_figures(self.labels, *about, answers)
        return figures

    def _propagated(self) -> dict[str, Told]:
        """Label propagation (Zhu and Ghahramani, 2002): what the labels of others say alone, of
        classes."""
        if self.labels is None or not self.labels.classes:
            return {}
        known = self.labels.train
        given = functional.one_hot(self.labels.values.clamp(min=0), self.labels.classes).float()
        given = given * known[:, None]
        width = self.labels.classes
        held = {name: torch.zeros(n, width) for name, n in self.inputs.counts.items()}
        held[self.labels.entity] = given
        weights = self._unweighed.weights({})
        for _ in range(PROPAGATIONS):
            held = self._unweighed.hops(held, weights, 1)[-1]
            held[self.labels.entity] = torch.where(known[:, None], given, held[self.labels.entity])
        return {"label propagation": Told({}, held[self.labels.entity])}

    def oversmoothing(self) -> list[LayerFigures]:
        """What is left of the differences between nodes after each of the teacher's layers."""
        weights = self.graph.weights({})
        with torch.no_grad():
            layers = self.teacher.layers(self.graph, self.inputs.features, weights)
        return figures_of(self.graph, layers, self.seed)

    def save(self, folder: Path) -> None:
        """teacher.safetensors, student.safetensors, and of each edge type that was judged
        ``credible/<edge type>.parquet``: src, dst, credible float32, of the visible edges."""
        for name, module in (("teacher", self.teacher), ("student", self.student)):
            state = {key: value.detach().contiguous() for key, value in module.state_dict().items()}
            save_file(state, folder / f"{name}.safetensors")
        for name, credible in self.credible.items():
            (folder / "credible").mkdir(exist_ok=True)
            ends = dict(zip(("src", "dst"), self.visible[name].numpy(), strict=True))
            judged = pa.table({**ends, "credible": credible.numpy()}).sort_by("credible")
            pq.write_table(judged, folder / "credible" / f"{name}.parquet")


def _optimiser(module: nn.Module, settings: DistillSettings) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.Adam(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
