"""Teacher, baselines and student of a graph: what they learn from, one after the other, and what
becomes of it.

Each keeps the weights that were best on validation edges (or nodes, where there is a label); one
that hears of no edges those that were best for nodes without any. Test edges are met once, in
`evaluate`. The same inputs and seed give the same weights, bit for bit on one machine and for one
number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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

from isohop.coldbrew.beside_label import links_are_in_the_way
from isohop.coldbrew.calibration import ConfidenceBin
from isohop.coldbrew.evaluation import Figure, LinkEvaluation, Model, label_figures
from isohop.coldbrew.figures import DOUBTFUL, LayerFigures
from isohop.coldbrew.graph_mlp import ByContrast
from isohop.coldbrew.inputs import Inputs, read_inputs
from isohop.coldbrew.judging import believe, judge, weighed_by
from isohop.coldbrew.known_labels import MOST_SCARCE, KnownLabels
from isohop.coldbrew.label_propagation import propagated
from isohop.coldbrew.labels import CLASSES, Labels, parts_with, read_labels
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
from isohop.coldbrew.sampling import Sampler
from isohop.coldbrew.serving import Serving
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.structural import structural_nodes
from isohop.coldbrew.student import Student, latent_index
from isohop.coldbrew.tables import Table, unit
from isohop.coldbrew.teacher import Teacher
from isohop.coldbrew.training import Training, mixed, parted
from isohop.coldbrew.validation import Validation
from isohop.coldbrew.walks import Walks
from isohop.coldbrew.warm_start import WarmStart
from isohop.engines.checkpoints import (
    Tensors,
    load_checkpoint,
    save_checkpoint,
)
from isohop.engines.determinism import compute_deterministically, draw_by
from isohop.engines.workers import ALONE, Workers
from isohop.errors import IsohopError
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.held_out import HELD_OUT, save_held_out

DEAF = "neighbours do not hear which label a node has"


class Distiller:
    """Everything that distillation holds: what it learns from, and what it learns.

    ``holdout``: which edges may be seen, of ``inputs.edges``; ``labels`` where one is learned;
    ``begun``: what it goes on from, where it does not begin with nothing.
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
        begun: WarmStart | None = None,
    ):
        compute_deterministically(threads)
        draw_by(seed)
        layers = None if begun is None else begun.layers
        self.settings = settings = settings.settled(labels is not None, layers)
        self._asked_link_weight = settings.link_weight
        """`settings` have none where links turn out to be in the label's way."""
        self.steps = settings.steps_of(max(inputs.counts[name] for name in inputs.entities))
        """Of each model."""
        self.seed = seed
        self.workers = workers
        self.notes: list[str] = []
        self.inputs = inputs
        self.holdout = holdout
        self.labels = labels
        self.begun = begun
        self.visible = {
            name: edges[:, torch.from_numpy(holdout.visible(name))]
            for name, edges in inputs.edges.items()
        }
        self.unweighed = MessageGraph(inputs.counts, inputs.edge_types, self.visible)
        self.graph = self.unweighed
        """What messages pass over; what it is compared with knows nothing of credible edges."""
        self.connected = {name: degree > 0 for name, degree in self.graph.degrees().items()}
        self.credible: dict[str, Tensor] = {}
        self.weighed = 0
        """The power of it by which messages are weighed; 0 where they are not."""
        self.outputs = labels.outputs if labels else 0
        self.structural = self.structural_nodes()
        self.queries = queries_of(inputs.edge_types, frozenset(inputs.entities))
        self.evaluation = LinkEvaluation(inputs, holdout, self.graph.degrees())
        self.validation = Validation(self)
        self.latent: dict[str, Tensor] = {}
        self.nearness: dict[str, Tensor] = {}
        edges = sum(edges.shape[1] for edges in self.visible.values())
        self.sampled = sum(inputs.counts.values()) + edges > settings.full_graph
        """Whether a step learns from a part of the graph."""
        self.parts = self.parts_of(self.graph)  # the teacher's, and large: until it is trained
        sparse = self.parts is not None
        self.teacher = Teacher(
            inputs, self.structural, settings, self.outputs, sparse, self._known_labels()
        )
        self.baseline = Baseline(self)
        widths = {n: inputs.features[n].shape[1] for n in inputs.entities}
        self.student = Student(widths, settings)
        self.listens: dict[str, bool] = {}
        """By entity, whether the student hears of latent neighbours."""
        self.serving = Serving(self)
        self.told: dict[str, Told] = {}
        """Of each model that is trained."""
        self.seconds: dict[str, float] = {}
        """By model, what its training has taken: for who trains to count and checkpoints to keep.
        """
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
        self._training: Training | None = None
        self._settled = False
        """Whether it is known if links are learned."""
        counts = inputs.counts
        self._nodes = {name: torch.arange(counts[name]) for name in inputs.entities}
        known = torch.zeros(0, dtype=torch.bool) if labels is None else labels.train
        self._labelled = torch.nonzero(known)[:, 0]
        if begun is not None:
            begun.give_weights(self)

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
        before: tuple[Graph, Path] | None = None,
    ) -> Distiller:
        """Of a graph, features in a folder and what a pipeline says. ``seed`` decides what is held
        out, and, where no ``training_seed`` is given, all else. ``before``: an earlier graph and
        the model that learned from it, which is trained further. Raises `IsohopError`."""
        inputs = read_inputs(graph, features, label)
        begun = None if before is None else WarmStart.of(*before, graph, label)
        learned, parts = (None, None) if begun is None else (begun.learned, begun.parts)
        holdout = hold_out(graph, seed, label, until=until, learned=learned)
        labels = None
        if label is not None:
            labels = read_labels(graph, label, holdout, parts)
        drawn = seed if training_seed is None else training_seed
        made = cls(inputs, holdout, labels, settings, drawn, threads, workers, begun)
        if label is not None and labels is None:
            made.notes.append(
                f"label '{label}' has fewer than two values to learn from: trained by link "
                "prediction"
            )
        if labels is not None and labels.of_one_node > 0.5:
            made.notes.append(
                f"label '{label}' has {labels.classes:,} classes, and most nodes have one that no "
                "other has: nothing tells it. Is it a number, or a name, that was read as text?"
            )
        return made

    def structural_nodes(self, left_out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Those that have structural embeddings, by type, or would without some edges."""
        told = None if self.labels is None else (self.labels.entity, self.labels.train)
        least = self.settings.structural_degree
        return structural_nodes(self.unweighed, least, told, left_out)

    @property
    def skipped(self) -> str | None:
        """Why there is nothing to learn from, where there is not: no edge of an entity, no label.
        What edges are among shared values says nothing of what gets embeddings."""
        linked = any(self.visible[query.edge_type].shape[1] for query in self.queries)
        if linked or self.labels is not None:
            return None
        return "no visible edge of an entity to learn from; embeddings are projected features"

    def about(self) -> dict[str, Any]:
        """What the manifest says besides curves and figures, as plain values."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "skipped": self.skipped,
            "notes": [
                *self.notes,
                *self._without_edges(),
                *self._without_links(),
                *self._without_places(),
                *self._without_figures(),
            ],
            "outputs": self.outputs,
            "structural": {name: (len(nodes),) for name, nodes in self.structural.items()},
            "doubtful": {
                name: (int((credible < DOUBTFUL).sum()), len(credible))
                for name, credible in self.credible.items()
            },
            "weighed": self.weighed,
            "unheard": [name for name, edges in self.visible.items() if not edges.shape[1]],
            "sampled": self.sampled,
            "listens": self.listens,
            "answering": None if self.labels is None else self.serving.answering,
            "choices": {name: choice.model_dump() for name, choice in self.serving.choices.items()},
        }

    def _without_edges(self) -> list[str]:
        """As `embed` has it: there is nothing to learn for them but a label, if they have that."""
        if self.skipped is not None:
            return []
        labelled = None if self.labels is None else self.labels.entity
        return [
            f"no edge of '{name}' to learn from: its embeddings are projected features, in a space "
            "of their own"
            for name in self.inputs.entities
            if name != labelled and not self.connected[name].any()
        ]

    def _without_links(self) -> list[str]:
        if self.labels is None or self.settings.link_weight == self._asked_link_weight:
            return []
        return [
            "no link prediction: on validation the label is told better without. Embeddings say "
            "little of links, and so does how credible edges are"
        ]

    def _without_places(self) -> list[str]:
        if "teacher" not in self.told or not any(map(len, self.structural.values())):
            return []
        why = "no structural embeddings: on validation the teacher is better without"
        return [] if self.teacher.structural.learned else [why]

    def _without_figures(self) -> list[str]:
        labelled = self.labels is not None and bool(self.labels.test.any())
        asked = any(len(one.source) for one in self.evaluation.on_test())
        if self.skipped is not None or labelled or asked:
            return []
        return ["no figures: no edge was held out to ask about, and no label"]

    @property
    def model(self) -> str | None:
        """What is trained now."""
        return None if self._training is None else self._training.name

    @property
    def done(self) -> int:
        """Steps of it."""
        return 0 if self._training is None else self._training.done

    def start(self, model: str) -> None:
        """Begin to train one model."""
        self._settle_links()
        if model == "teacher" and self.teacher.structural.sparse:
            self.teacher.structural.share_out(self.workers)
        score = partial(self.validation.of_weights, model)
        halfway = partial(judge, self) if model == "teacher" else None
        learner = self._learner_of(model)
        self._training = self.training_of(model, learner, score=score, halfway=halfway)
        if self.begun is not None:
            if model == "teacher":
                judge(self)
            self._training.consider()

    def _settle_links(self) -> None:
        """Before the first model: whether links are learned beside a label. What goes on from an
        earlier model learns them if that did; where no label is known today, whoever goes on from
        this."""
        if self._settled:
            return
        self._settled = True
        if not self.settings.link_weight:
            return
        labels = self.labels
        if self.begun is not None:
            needless = not self.begun.link_weight
        elif labels is None or not labels.validation.any():
            needless = False
        else:
            needless = links_are_in_the_way(self, labels)
        if needless:
            self._weigh_links(0.0)

    def _weigh_links(self, weight: float) -> None:
        self.settings = self.settings.model_copy(update={"link_weight": weight})

    def train(self, steps: int) -> tuple[list[float], float | None]:
        """Take some steps; (losses, validation score where one was due)."""
        if self._training is None:
            return [], None
        return self._training.train(steps)

    def finish(self) -> None:
        """Keep the best weights, and what they give."""
        if self._training is not None:
            self._training.keep_best()
            self.teacher.structural.unite()
            self._conclude(self._training.name, self._training.learner)
            self._training = None

    def _learner_of(self, model: str) -> Learner:
        draw_by(mixed(self.seed, 0, len(self.told)))
        if model == "teacher":
            return ByMessages(self, self.teacher, self.settings)
        if model == "gcn":
            settings = self.settings.model_copy(update=PLAIN)
            nobody = {n: torch.zeros(0, dtype=torch.int64) for n in self.inputs.counts}
            self.gcn = Teacher(self.inputs, nobody, settings, self.outputs)
            return ByMessages(self, self.gcn, settings, plain=True)
        if model == "graph-mlp":
            if self.labels is None:
                raise IsohopError("Graph-MLP learns a label. Name one in the pipeline file.")
            return ByContrast(self, self.labels)
        if model == "mlp":
            return ByFeatures(self, self.baseline, self.settings)
        return ByTeacher(self)

    def training_of(
        self,
        model: str,
        learner: Learner,
        steps: int | None = None,
        part: int = 0,
        score: Callable[[Told], float] | None = None,
        halfway: Callable[[], None] | None = None,
    ) -> Training:
        """``part``: of what a model learns, 0 but for MLP₁ and what is tried before."""
        number = len(self.told), part
        return Training(
            model,
            learner,
            self.settings,
            self.steps if steps is None else steps,
            (self.seed, 1, *number),
            self.workers,
            lambda step: self._draw((*number, step)),
            score,
            halfway,
        )

    def parts_of(self, graph: MessageGraph) -> Sampler | Walks | None:
        """What the teacher learns of a large graph from."""
        settings = self.settings
        if self.sampled and settings.teacher == "message-passing":
            return Sampler(graph, settings.fanout, settings.depth)
        if self.sampled and settings.teacher == "hop-wise":
            return Walks(graph, self.inputs.features, settings.hops, self.seed, self.workers)
        return None

    def _known_labels(self) -> KnownLabels | None:
        """That the teacher hears, where they are not too scarce for a step to do without those that
        it hides. A walk that is made for many steps carries none."""
        labels, settings = self.labels, self.settings
        if labels is None or not settings.hear_labels:
            return None
        unknown = self.connected[labels.entity] & ~labels.train
        if isinstance(self.parts, Walks):
            self.notes.append(f"{DEAF}: a walk that is made for many steps carries none")
            return None
        if labels.scarcity(unknown) > MOST_SCARCE:
            self.notes.append(f"{DEAF}: of too few nodes that is known")
            return None
        return KnownLabels.of(labels, settings.part, self.seed)

    def _draw(self, number: tuple[int, ...]) -> Batch:
        """The same on all workers, but for what each draws for itself."""
        random = torch.Generator().manual_seed(mixed(self.seed, 2, *number))
        walks = self.parts if isinstance(self.parts, Walks) else None
        links = self.task.draw(random, None if walks is None else walks.left_out(number[-1]))
        nodes, labelled = self._nodes, self._labelled
        if self.sampled:
            size = self.settings.batch
            nodes = {n: ids[some_of(len(ids), size, random)] for n, ids in nodes.items()}
            labelled = labelled[some_of(len(labelled), size, random)]
        hidden, half = labelled, -(-len(self._labelled) // 2)
        if self.teacher.known is not None and len(hidden) > half:  # the others are heard
            hidden = labelled[some_of(len(labelled), half, random)]
        draw = np.random.default_rng([self.seed, 3, *number, self.workers.rank])
        return Batch(number[-1], links, nodes, labelled, hidden, draw)

    def _conclude(self, model: str, learner: Learner, guess: Tensors | None = None) -> None:
        """What follows from a model's weights. ``guess``: those of MLP₁, where they are known."""
        learner.module.eval()
        if model == "teacher":
            self.parts = None
        with torch.no_grad():
            if model == "teacher":
                believe(self)
                told = self.pass_messages(self.teacher, self.graph, {}, crossed=True)
            else:
                told = learner.tell()
        if model == "teacher":
            self._teach_latent(told, guess)
        self.told[model] = told
        if model == "student":
            # With other content than it began with all vectors would be others.
            self.serving.choose(None if self.begun is None else self.begun.content)

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
        crossed: bool = False,
    ) -> Told:
        """Over the whole graph. ``crossed``: no node is told its own label."""
        about = graph, self.inputs.features, graph.weights(left_out), unplaced
        with teacher.structural.whole():
            raw = teacher.crossed(*about) if crossed else teacher(*about)
        return self.told_by(raw, teacher.classify)

    def listen(self, told: Mapping[bool, Told]) -> Told:
        """What the student says, and what it hears of from now on: latent neighbours of an entity
        where validation is not worse for it. ``told``: with them, and without."""
        for name in self.inputs.entities:
            alone, among = (
                self.validation.score("student", told[whether], True, name)
                for whether in (False, True)
            )
            self.listens[name] = among >= alone
            self.student.hear(name, among >= alone)
        vectors = {name: told[listens].vectors[name] for name, listens in self.listens.items()}
        listens = self.labels is None or self.listens[self.labels.entity]
        return Told(vectors, told[listens].answers)

    def _teach_latent(self, taught: Told, guess: Tensors | None) -> None:
        """MLP₁ learns the teacher's vectors, then finds every entity's latent neighbours."""
        first = FirstGuess(self, taught.vectors)
        if guess is None:
            steps = max(1, self.steps // 2)
            self.training_of("teacher's first guess", first, steps, part=1).train(steps)
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
        """All that `resume` needs: models that are done, and the one that is trained. By all
        workers at once, which may each hold something that the others do not."""
        parts: dict[str, Tensors] = {}
        about: dict[str, str] = {}
        if self._training is not None:
            parts, about = self._training.checkpoint()
            about["model"] = self._training.name
            if isinstance(self.parts, Walks):
                parts["walks"] = self.parts.kept()
            if self._training.name == "teacher":
                about["weighed"] = str(self.weighed)
                about["displaced"] = str(int(self.teacher.structural.displaced))
                parts["credible"] = self.credible if self.weighed else {}
        modules = {"teacher": self.teacher, "mlp": self.baseline, "student": self.student}
        for name in self.told:
            parts[f"done {name}"] = modules[name].state_dict()
        if "teacher" in self.told:
            guess = self.student.first.state_dict()
            parts["first guess"] = {name: value.clone() for name, value in guess.items()}
        about["told"] = json.dumps(list(self.told))
        about["seconds"] = json.dumps(self.seconds)
        about["link_weight"] = str(self.settings.link_weight)
        alike, own = parted(parts) if self.teacher.structural.shared_out else (parts, None)
        save_checkpoint(file, alike, about, self.workers, own, self.done)

    def resume(self, file: Path) -> None:
        """Go on from what `save_checkpoint` wrote, for the same inputs, settings and seed."""
        parts, about = load_checkpoint(file, self.workers)
        self._weigh_links(float(about["link_weight"]))
        self.seconds = json.loads(about["seconds"])
        self._settled = True
        for name in json.loads(about["told"]):
            learner = self._learner_of(name)
            learner.module.load_state_dict(parts[f"done {name}"])
            self._conclude(name, learner, parts["first guess"])
        if "model" in about:
            self.start(about["model"])
        if "weighed" in about:
            self.credible, self.weighed = parts.get("credible", {}), int(about["weighed"])
            self.graph = weighed_by(self, self.weighed)
            self.parts = self.parts_of(self.graph)
        if int(about.get("displaced", "0")):
            self.teacher.structural.displace()
        if self._training is not None:
            self._training.resume(parts, about)
        if isinstance(self.parts, Walks) and "walks" in parts:
            self.parts.resume(parts["walks"], self.done)

    # Evaluation

    def model_of(self, name: str, told: Told) -> Model:
        """The student asks among the teacher's vectors: both live in one space."""
        if name == "mlp":
            return Model(name, told.vectors, told.vectors, self.baseline.score)
        if name in ("teacher", "gcn"):
            score = self.teacher.score if name == "teacher" else self.gcn.score
            return Model(name, told.vectors, told.vectors, score)
        if name == "served":
            return Model(name, told.vectors, self.serving.candidates, self.serving.score)
        return Model(name, told.vectors, self.told["teacher"].vectors, self.teacher.score)

    def evaluate(self) -> list[Figure]:
        """Every model on test edges, isolated nodes, and test labels."""
        if self.skipped is not None:
            return []
        figures: list[Figure] = []
        with torch.no_grad():
            told = {**self.told, "served": self.serving.told()}
            if self.labels is not None and self.labels.classes:
                told["label propagation"] = Told({}, propagated(self.labels, self.unweighed))
            for name, one in told.items():
                if one.vectors:
                    figures += self.evaluation.figures(self.model_of(name, one))
            if self.labels is not None:
                answers = {name: one.answers for name, one in told.items()}
                entity = self.labels.entity
                about = self.holdout.groups[entity], self.evaluation.degree[entity]
                figures += label_figures(self.labels, *about, answers)
        return figures

    def calibration(self) -> dict[str, tuple[ConfidenceBin, ...]]:
        """By entity, of what is served."""
        return {} if self.skipped is not None else self.serving.calibration()

    def oversmoothing(self) -> list[LayerFigures]:
        """What is left of the differences between nodes after each layer of the teacher, and of the
        GCN where there is one."""
        models = [("teacher", self.teacher, self.graph)]
        if "gcn" in self.told:
            models.append(("gcn", self.gcn, self.unweighed))
        found = []
        with torch.no_grad():
            for name, model, graph in models:
                layers = model.layers(graph, self.inputs.features, graph.weights({}))
                found += figures_of(name, graph, layers, self.seed)
        return found

    def save(self, folder: Path) -> None:
        """teacher.safetensors, mlp.safetensors, student.safetensors; ``credible/<edge
        type>.parquet`` of each edge type that was judged: src, dst, credible float32, of the
        visible edges; `CLASSES` of a label, name in their order; and `HELD_OUT`."""
        modules = {"teacher": self.teacher, "mlp": self.baseline, "student": self.student}
        for name, module in modules.items():
            state = {key: value.detach().contiguous() for key, value in module.state_dict().items()}
            save_file(state, folder / f"{name}.safetensors")
        for name, credible in self.credible.items():
            (folder / "credible").mkdir(exist_ok=True)
            ends = dict(zip(("src", "dst"), self.visible[name].numpy(), strict=True))
            judged = pa.table({**ends, "credible": credible.numpy()}).sort_by("credible")
            pq.write_table(judged, folder / "credible" / f"{name}.parquet")
        edges = {name: ends.numpy() for name, ends in self.inputs.edges.items()}
        parts = parts_with(self.labels, None if self.begun is None else self.begun.parts)
        if self.labels is not None:
            pq.write_table(pa.table({"name": self.labels.names}), folder / CLASSES)
        save_held_out(folder / HELD_OUT, edges, self.holdout, parts)
