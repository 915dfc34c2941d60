"""Training of teacher, baseline and student, a block of steps at a time.

Each keeps the weights that were best on validation edges (or nodes, where there is a label); test
edges are met once, in `evaluate`. The same inputs and seed give the same weights, bit for bit on
one machine.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from datetime import date
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
from isohop.coldbrew.graph_mlp import ByContrast
from isohop.coldbrew.inputs import Inputs, read_inputs
from isohop.coldbrew.labels import Labels, read_labels
from isohop.coldbrew.learners import (
    PLAIN,
    Baseline,
    Batch,
    ByFeatures,
    ByMessages,
    ByTeacher,
    FirstGuess,
    Learner,
    Told,
)
from isohop.coldbrew.links import LinkTask, queries_of, some_of
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.oversmoothing import figures_of
from isohop.coldbrew.reliability import credible_edges
from isohop.coldbrew.sampling import Sampler
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.student import Student, latent_index
from isohop.coldbrew.tables import Table, unit
from isohop.coldbrew.teacher import Teacher, structural_nodes
from isohop.coldbrew.trials import trials_of
from isohop.engines.checkpoints import (
    Tensors,
    load_checkpoint,
    load_optimiser,
    optimiser_tensors,
    save_checkpoint,
)
from isohop.engines.workers import ALONE, Workers
from isohop.errors import IsohopError
from isohop.giant.row_table import gradient_of
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.holdout import ISOLATION

VALIDATE_EVERY = 20
PROPAGATIONS = 50
DOUBTFUL = 0.5
"""How credible an edge is at most that is counted as doubtful."""


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
        workers: Workers = ALONE,
    ):
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        self.settings = settings
        self.seed = seed
        self.workers = workers
        self.notes: list[str] = []
        self.inputs = inputs
        self.holdout = holdout
        self.labels = labels
        self.visible = {
            name: edges[:, torch.from_numpy(holdout.visible(name))]
            for name, edges in inputs.edges.items()
        }
        self.unweighed = MessageGraph(inputs.counts, inputs.edge_types, self.visible)
        self.graph = self.unweighed
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
        edges = sum(edges.shape[1] for edges in self.visible.values())
        self.sampled = sum(inputs.counts.values()) + edges > settings.full_graph
        """Whether a step learns from a part of the graph."""
        self._sampler = None
        if self.sampled and settings.teacher == "message-passing":
            self._sampler = Sampler(self.unweighed, settings.fanout, settings.layers)
        sparse = self._sampler is not None
        self.teacher = Teacher(inputs, self.structural, settings, self.outputs, sparse)
        self.baseline = Baseline(self)
        widths = {n: inputs.features[n].shape[1] for n in inputs.entities}
        self.student = Student(widths, settings, self.outputs)
        self.choices: dict[str, Choice] = {}
        self.told: dict[str, Told] = {}
        """Of each model that is trained."""
        self.task = LinkTask(
            self.queries,
            self.visible,
            inputs.counts,
            self.connected,
            batch=settings.batch,
            negatives=settings.negatives,
            power=0.0,
            workers=workers,
        )
        self.done = 0
        """Steps of the model that is trained now."""

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
        workers: Workers = ALONE,
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
        made = cls(inputs, holdout, labels, settings, drawn, threads, workers)
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
            "sampled": self.sampled,
            "choices": {name: choice.model_dump() for name, choice in self.choices.items()},
        }

    def start(self, model: str) -> None:
        """Begin to train one model."""
        self._enter(model)
        self._begin(self._learner.module, self.settings.steps)
        self._best: tuple[float, dict[str, Tensor]] | None = None

    def _enter(self, model: str) -> None:
        self._name = model
        torch.manual_seed(self._mixed(0, len(self.told)))
        self._learner = self._learner_of(model)

    def _begin(self, module: nn.Module, steps: int) -> None:
        """A new optimiser, for so many steps."""
        module.train()
        self._optimisers = _optimisers(module, self.settings)
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimiser,
                self.settings.learning_rate,
                total_steps=steps + 1,
                pct_start=0.1,
            )
            for optimiser in self._optimisers
        ]
        self.done = 0

    def _learner_of(self, model: str) -> Learner:
        if model == "teacher":
            return ByMessages(self, self.teacher, self.settings, self._sampler)
        if model == "gcn":
            settings = self.settings.model_copy(update=PLAIN)
            nobody = {n: torch.zeros(0, dtype=torch.int64) for n in self.inputs.counts}
            self.gcn = Teacher(self.inputs, nobody, settings, self.outputs)
            return ByMessages(self, self.gcn, settings, None)
        if model == "graph-mlp":
            return ByContrast(self)
        return ByFeatures(self, self.baseline) if model == "mlp" else ByTeacher(self)

    def train(self, steps: int) -> tuple[list[float], float | None]:
        """Take some steps; (losses, validation score where one was due)."""
        losses = []
        valid = None
        for _ in range(min(steps, self.settings.steps - self.done)):
            losses.append(self._step(self._learner))
            if self.done % VALIDATE_EVERY == 0 or self.done == self.settings.steps:
                valid = self._validate()
        return losses, valid

    def _step(self, learner: Learner, about: int = 0) -> float:
        """The loss of all workers. ``about``: what it is a step of, if not of the model."""
        number = (len(self.told), about, self.done)
        # Of its own for each step and worker, so that a checkpoint need not hold it.
        torch.manual_seed(self._mixed(1, *number, self.workers.rank))
        loss = learner.loss(self._draw(number))
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        lost = loss.detach()
        self._add_up(learner.module, lost)
        value = float(lost)
        if not np.isfinite(value):
            raise IsohopError(
                f"Training of the {self._name}: the loss of step {self.done + 1} is {value}. "
                "Lower 'distill.learning_rate'."
            )
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            schedule.step()
        self.done += 1
        return value

    def _add_up(self, module: nn.Module, lost: Tensor) -> None:
        """Over all workers, who have found each its share."""
        if self.workers.count == 1:
            return
        learning = [p for p in module.parameters() if p.requires_grad]
        sparse = [p for p in learning if p.grad is not None and p.grad.is_sparse]
        for parameter in sparse:
            assert parameter.grad is not None
            parameter.grad = self.workers.add_rows(parameter.grad)
        dense = [p for p in learning if p.grad is None or not p.grad.is_sparse]
        self.workers.add([lost, *(gradient_of(parameter) for parameter in dense)])

    def _mixed(self, *numbers: int) -> int:
        return int(np.random.SeedSequence([self.seed, *numbers]).generate_state(1)[0])

    def _draw(self, number: tuple[int, ...]) -> Batch:
        """The same on all workers, but for what each draws for itself."""
        random = torch.Generator().manual_seed(self._mixed(2, *number))
        links = self.task.draw(random)
        counts = self.inputs.counts
        nodes = {name: torch.arange(counts[name]) for name in self.inputs.entities}
        labelled = torch.zeros(0, dtype=torch.int64)
        if self.labels is not None:
            labelled = torch.nonzero(self.labels.train)[:, 0]
        if self.sampled:
            size = self.settings.batch
            nodes = {n: ids[some_of(len(ids), size, random)] for n, ids in nodes.items()}
            labelled = labelled[some_of(len(labelled), size, random)]
        draw = np.random.default_rng([self.seed, 3, *number, self.workers.rank])
        return Batch(links, nodes, labelled, draw)

    def _validate(self) -> float:
        module = self._learner.module.eval()
        with torch.no_grad():
            score = self._validation_score(self._learner.tell())
        module.train()
        # Of equal scores the later wins: where there is nothing to validate on, all are equal.
        if self._best is None or score >= self._best[0]:
            self._best = score, {n: v.detach().clone() for n, v in module.state_dict().items()}
        return score

    def _validation_score(self, told: Told) -> float:
        if self.labels is not None and told.answers is not None and self.labels.validation.any():
            return self.labels.right(told.answers, self.labels.validation)
        if not told.vectors:
            return 0.0
        return self.evaluation.validation(self._model(self._name, told))

    def finish(self) -> None:
        """Keep the best weights, and what they give."""
        if self._best is not None:
            self._learner.module.load_state_dict(self._best[1])
        self._conclude()

    def _conclude(self, guess: Tensors | None = None) -> None:
        """What follows from a model's weights. ``guess``: those of MLP₁, where they are known."""
        self._learner.module.eval()
        with torch.no_grad():
            told = self._learner.tell()
            if self._name == "teacher":
                told = self._believe(told)
        if self._name == "teacher":
            self._teach_latent(told, guess)
        self.told[self._name] = told
        if self._name == "student":
            self.choices = {name: learn_choice(trials) for name, trials in trials_of(self).items()}

    def told_by(self, raw: Table, classify: nn.Module | None) -> Told:
        answers = None
        if self.labels is not None and classify is not None:
            answers = classify(raw[self.labels.entity])
        return Told(unit(raw), answers)

    def teach(
        self, left_out: Mapping[str, Tensor] | None = None, unplaced: Table | None = None
    ) -> Told:
        """What the teacher says without the messages of edges at some positions, and with some
        nodes out of place."""
        return self.pass_messages(self.teacher, self.graph, left_out or {}, unplaced)

    def pass_messages(
        self,
        teacher: Teacher,
        graph: MessageGraph,
        left_out: Mapping[str, Tensor],
        unplaced: Table | None = None,
    ) -> Told:
        """Over the whole graph."""
        raw = teacher(graph, self.inputs.features, graph.weights(left_out), unplaced)
        return self.told_by(raw, teacher.classify)

    def _believe(self, told: Told) -> Told:
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
            return told
        counts, types = self.inputs.counts, self.inputs.edge_types
        graph = MessageGraph(counts, types, self.visible, self.credible)
        weighed = self.pass_messages(self.teacher, graph, {})
        self.weighed = self._validation_score(weighed) > self._validation_score(told)
        if not self.weighed:
            return told
        self.graph = graph
        return weighed

    def _teach_latent(self, taught: Told, guess: Tensors | None) -> None:
        """MLP₁ learns the teacher's vectors, then finds every entity's latent neighbours."""
        first = FirstGuess(self, taught.vectors)
        if guess is None:
            steps = max(1, self.settings.steps // 2)
            self._begin(first.module, steps)
            for _ in range(steps):
                self._step(first, about=1)
        else:
            first.module.load_state_dict(dict(guess))
        first.module.eval().requires_grad_(False)
        with torch.no_grad():
            guessed = first.tell().vectors
            for name in self.inputs.entities:
                vectors, connected = taught.vectors[name], self.connected[name]
                index = latent_index(vectors, connected, self.settings, self.seed)
                ids = torch.arange(len(guessed[name]))
                self.latent[name], self.nearness[name] = index.latent(guessed[name], ids)

    # Checkpoints

    def save_checkpoint(self, file: Path) -> None:
        """All that `resume` needs: models that are done, and the one that is trained."""
        parts = {f"done {name}": self._module_of(name).state_dict() for name in self.told}
        about = {"told": json.dumps(list(self.told)), "model": self._name, "done": str(self.done)}
        if "teacher" in self.told:
            guess = self.student.first.state_dict()
            parts["first guess"] = {name: value.clone() for name, value in guess.items()}
        if self._name not in self.told:
            parts["model"] = self._learner.module.state_dict()
            for number, optimiser in enumerate(self._optimisers):
                parts[f"optimiser {number}"] = optimiser_tensors(optimiser)
            if self._best is not None:
                about["best"] = json.dumps(self._best[0])
                parts["best"] = self._best[1]
        save_checkpoint(file, parts, about)

    def resume(self, file: Path) -> None:
        """Go on from what `save_checkpoint` wrote, for the same inputs, settings and seed."""
        parts, about = load_checkpoint(file)
        for name in json.loads(about["told"]):
            self._enter(name)
            self._learner.module.load_state_dict(parts[f"done {name}"])
            self._conclude(parts["first guess"])
        if about["model"] in self.told:
            return
        self.start(about["model"])
        self._learner.module.load_state_dict(parts["model"])
        for number, optimiser in enumerate(self._optimisers):
            load_optimiser(optimiser, parts.get(f"optimiser {number}", {}))
            with warnings.catch_warnings(action="ignore"):  # steps were taken, elsewhere
                for _ in range(int(about["done"])):
                    self._schedules[number].step()
        self.done = int(about["done"])
        if "best" in about:
            self._best = json.loads(about["best"]), parts["best"]

    def _module_of(self, name: str) -> nn.Module:
        return {"teacher": self.teacher, "mlp": self.baseline, "student": self.student}[name]

    @property
    def model(self) -> str | None:
        """What is trained now."""
        name = getattr(self, "_name", None)
        return None if name in self.told else name

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
        weights = self.unweighed.weights({})
        for _ in range(PROPAGATIONS):
            held = self.unweighed.hops(held, weights, 1)[-1]
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


def _optimisers(module: nn.Module, settings: DistillSettings) -> list[torch.optim.Optimizer]:
    """Adam; of structural embeddings that a step touches few of, an Adam of their own."""
    rate = settings.learning_rate
    sparse: list[nn.Parameter] = []
    if isinstance(module, Teacher) and module.sampled:
        sparse += module.structural.parameters()
    own = {id(parameter) for parameter in sparse}
    dense = [p for p in module.parameters() if p.requires_grad and id(p) not in own]
    found: list[torch.optim.Optimizer] = [
        torch.optim.Adam(dense, lr=rate, weight_decay=settings.weight_decay)
    ]
    if sparse:
        found.append(torch.optim.SparseAdam(sparse, lr=rate))
    return found
