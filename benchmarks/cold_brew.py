"""Cold Brew: embeddings where edges are many, few, wrong or missing.

    python -m benchmarks.cold_brew [--quick] [--only cora actor gutenberg wordnet]
        [--seeds 1 2 3 4 5] [--settings overall …] [--depths 2 8 32]
        [--features-without-label] [--json FILE]

Accuracy on test nodes of what each model says of the label: *teacher* and *student*, what is
*served* of both beside the content, and, to compare with, an *mlp* on the same features,
*graph-mlp* and a plain *gcn*: two layers, no structural embeddings, no residual, no agreement. All
learn with the same optimiser, for as many steps, and keep the weights that are best on validation
nodes; nothing looks at a test node before the end.

*cora*: topic of a paper from its words; planetoid's split as it is given. *overall*: all edges.
*isolation*: the paper's protocol (Zheng et al., section 4): the tenth of the nodes of lowest degree
lose all their edges before anything is trained, and are asked for where they are neither trained
nor validated on; *tail* is the next tenth, of the test nodes. ``--depths``: on the whole graph, a
teacher of so many convolutions.
*actor*: category of an actor, where neighbours are of other categories; split 60/20/20 at random;
the same two settings.
*gutenberg*: class of a work, *wordnet*: lexicographer file of a noun synset, as in `giant.py`, from
the features that GIANT learns there, told of the label of training nodes, or of none
(``--features-without-label``); split 60/20/20. *overall*: all edges but the label's.
*isolated*: test nodes have none, in GIANT either, and neither has every other validation node;
*probe* is a logistic regression on the features alone, *embedding probe* one on what is served, as
a consumer would learn it. *random*: half of the edges of each type lead to random nodes instead,
and GIANT has learned from no others.

*links*: link prediction in place of the label, by the stage's own settings: filtered MRR and
Hits@10 of the other ends of a node's edges among 1,000 candidates of their type, on held-out edges
of nodes that have others (*overall*, *head*, *tail*) and of nodes that lost all of theirs
(*isolated*). GIANT has seen none of them.

Figures are named `cora/isolation/student/accuracy`: of the nodes that a setting is about, those
without edges or all; and of others `cora/isolation/tail/student/accuracy`.

Settings of Cora and Actor were chosen on validation nodes, one seed and for Cora five: `SETTINGS`.
Gutenberg and WordNet have those that a pipeline has by default.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from benchmarks import giant
from benchmarks.giant import THREADS, built
from benchmarks.measure import DATA, over_seeds, parser_of, show
from torch import Tensor

from isohop.coldbrew import DistillSettings
from isohop.coldbrew.distiller import Distiller
from isohop.coldbrew.evaluation import label_figures
from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.labels import Labels
from isohop.giant.training import Trainer
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.holdout import ISOLATION
from isohop.graph.label import Label

CONDITIONS = ("overall", "isolation", "random", "isolated", "links")
ASKED = {"isolation": "isolated", "isolated": "isolated"}
"""By setting, of which nodes its figures are told first; of all of the others."""
MODELS = ("teacher", "mlp", "student", "gcn")
NOTHING = {"validation": 0.0, "test": 0.0, "aside": 0.0}
CORA = """
database: cora
source: {path: data}
tables:
  paper: {key: paper_id, columns: {topic: null, split: null}}
  citation:
    key: [paper_id, cited_id]
    references:
      - {columns: paper_id, table: paper}
      - {columns: cited_id, table: paper, prefix: cited_}
entities: {paper: {table: paper}}
"""
ACTOR = """
database: actor
source: {path: data}
tables:
  actor: {key: actor_id, columns: {label: null}}
  link:
    key: [actor_id, linked_id]
    references:
      - {columns: actor_id, table: actor}
      - {columns: linked_id, table: actor, prefix: linked_}
entities: {actor: {table: actor}}
"""
FEW = DistillSettings(
    teacher="hop-wise",
    steps=200,
    learning_rate=0.01,
    weight_decay=5e-4,
    dropout=0.5,
    link_weight=0.0,
    structural_penalty=0.0,
    batch=1024,
)
SETTINGS = {
    "cora": FEW.model_copy(update={"answers": 4, "weight_decay": 1e-3, "hops": 4}),
    "actor": FEW.model_copy(update={"teacher": "message-passing", "steps": 100, "layers": 1}),
}


@dataclass(frozen=True)
class Task:
    """``inputs``: of ``graph``; ``values``: int64 (nodes,) of ``entity``; ``split``: of a seed,
    int8 (nodes,), 0 train, 1 validation, 2 test, -1 neither."""

    name: str
    graph: Graph
    inputs: Inputs
    entity: str
    values: np.ndarray
    split: Callable[[int], np.ndarray]


def words(file: str, node: str, count: int) -> Tensor:
    """float32 (nodes, words): a bag of words, rows that sum up to 1."""
    table = pq.read_table(DATA / file)
    row, column = (table[name].to_numpy() for name in (node, "word_id"))
    bag = torch.zeros(count, int(column.max()) + 1)
    bag[torch.from_numpy(row).long(), torch.from_numpy(column).long()] = 1.0
    return bag / bag.sum(1, keepdim=True).clamp(min=1.0)


def inputs_of(graph: Graph, features: dict[str, Tensor]) -> Inputs:
    return Inputs(
        counts={node.name: node.count for node in graph.node_types},
        edge_types={edge.name: (edge.source, edge.target) for edge in graph.edge_types},
        edges={e.name: torch.from_numpy(graph.edge_index(e.name)) for e in graph.edge_types},
        features=features,
        entities=tuple(node.name for node in graph.entities),
    )


def linked(source: str, folder: Path, schema: str) -> Graph:
    data = folder / "data"
    data.mkdir(parents=True)
    for file in (DATA / source).glob("*.parquet"):
        if "word" not in file.name:
            (data / file.name).symlink_to(file)
    return built(folder, schema)


def cora(folder: Path) -> Task:
    graph = linked("cora", folder, CORA)
    table = pq.read_table(DATA / "cora" / "paper.parquet").sort_by("paper_id")
    keys = graph.nodes("paper", ["paper_id"])["paper_id"].to_numpy()
    names = np.array(table["split"].to_pylist())[keys]
    given = np.select([names == "train", names == "val", names == "test"], [0, 1, 2], -1)
    bag = words("cora/paper_word.parquet", "paper_id", len(keys))[torch.from_numpy(keys)]
    topics = table["topic"].to_numpy()[keys]
    inputs = inputs_of(graph, {"paper": bag})
    return Task("cora", graph, inputs, "paper", topics, lambda seed: given.astype(np.int8))


def actor(folder: Path) -> Task:
    graph = linked("actor", folder, ACTOR)
    table = pq.read_table(DATA / "actor" / "actor.parquet").sort_by("actor_id")
    keys = graph.nodes("actor", ["actor_id"])["actor_id"].to_numpy()
    bag = words("actor/actor_word.parquet", "actor_id", len(keys))[torch.from_numpy(keys)]

    def split(seed: int) -> np.ndarray:
        draw = np.random.default_rng([seed, 60]).random(len(keys))
        return np.digitize(draw, [0.6, 0.8]).astype(np.int8)

    labels = table["label"].to_numpy()[keys]
    return Task("actor", graph, inputs_of(graph, {"actor": bag}), "actor", labels, split)


def of_giant(make: Callable[[Path], giant.Task], folder: Path) -> Task:
    """Without features: these are learned for each setting."""
    found = make(folder)
    inputs = inputs_of(found.graph, {})
    return Task(found.name, found.graph, inputs, found.entity, found.labels, found.split)


TASKS: Mapping[str, Callable[[Path], Task]] = {
    "cora": cora,
    "actor": actor,
    "gutenberg": lambda folder: of_giant(giant.gutenberg, folder),
    "wordnet": lambda folder: of_giant(giant.wordnet, folder),
}
SOURCES = {"wordnet": "open_english_wordnet"}


def labels_of(task: Task, split: np.ndarray, isolated: np.ndarray) -> Labels:
    """Isolated nodes that are neither trained nor validated on are tested, whatever the split."""
    train, validation = split == 0, split == 1
    test = ~train & ~validation & ((split == 2) | isolated) & (task.values >= 0)
    masks = [torch.from_numpy(mask) for mask in (train, validation, test)]
    values = torch.from_numpy(task.values.astype(np.int64))
    return Labels(task.entity, values, int(values.max()) + 1, *masks)


@dataclass
class Comparison:
    """All that is measured on one task, each figure once a seed."""

    task: Task
    settings: list[str]
    told: bool = True
    """Whether features learn the label."""
    found: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.found.setdefault(f"{self.task.name}/{name}", []).append(value)
        print(f"{self.task.name}/{name}: {value:.4f}", flush=True)

    def compare(self, seed: int, depths: list[int]) -> None:
        if self.task.inputs.features:
            self.by_isolation(seed, depths)
        else:
            self.by_damage(seed)
        if "links" in self.settings:
            self.by_links(seed)

    def by_links(self, seed: int) -> None:
        holdout = hold_out(self.task.graph, seed)
        inputs = self.task.inputs
        if not inputs.features:
            inputs = replace(inputs, features=self.learn(self.task.graph, holdout, seed, None))
        made = Distiller(inputs, holdout, None, DistillSettings(), seed, THREADS)
        self.train(made, "links", MODELS)
        for row in made.evaluate():
            if row.entity == self.task.entity:
                self.note(f"links/{row.group}/{row.model}/{row.metric}", row.value)

    def by_isolation(self, seed: int, depths: list[int]) -> None:
        for setting, isolated in (("overall", 0.0), ("isolation", 0.1)):
            if setting not in self.settings:
                continue
            holdout = hold_out(self.task.graph, seed, isolated=isolated, **NOTHING)
            self.all_models(setting, self.task.inputs, holdout, seed)
        holdout = hold_out(self.task.graph, seed, isolated=0.0, **NOTHING)
        for depth in depths:
            chosen = {"teacher": "convolution", "layers": depth}
            self.distil(f"depth {depth}", chosen, ("teacher",), self.task.inputs, holdout, seed)

    def by_damage(self, seed: int) -> None:
        split = self.task.split(seed)
        names = tuple(map(str, range(int(self.task.values.max()) + 1)))
        told = Label(self.task.entity, self.task.values, names, split) if self.told else None
        for setting in ("isolated", "overall", "random"):
            if setting not in self.settings:
                continue
            gone = split == 2
            # Half of the validation nodes: what hears of no edges is chosen by them.
            gone[np.flatnonzero(split == 1)[::2]] = True
            hidden = {self.task.entity: np.flatnonzero(gone & (setting == "isolated"))}
            with tempfile.TemporaryDirectory(prefix="cold-brew-") as folder:
                graph = self.task.graph
                if setting == "random":
                    graph = damaged(graph, Path(folder) / "graph", seed)
                holdout = hold_out(graph, seed, isolated=0.0, hidden=hidden, **NOTHING)
                inputs = inputs_of(graph, self.learn(graph, holdout, seed, told))
            self.probe(f"{setting}/probe/accuracy", inputs.features, split)
            made = self.all_models(setting, inputs, holdout, seed)
            served = made.serving.told().vectors
            self.probe(f"{setting}/embedding probe/accuracy", served, split)

    def probe(self, name: str, vectors: Mapping[str, Tensor], split: np.ndarray) -> None:
        rows = vectors[self.task.entity].detach().numpy()
        self.note(name, giant.probed(rows, self.task.values, split).accuracy[2])

    def learn(
        self, graph: Graph, holdout: Holdout, seed: int, told: Label | None
    ) -> dict[str, Tensor]:
        trainer = Trainer(graph, giant.SETTINGS, seed, None, THREADS, holdout, told=told)
        trainer.train(trainer.steps)
        values = torch.from_numpy(trainer.encode())
        return {name: values[trainer.index.rows(name)] for name in self.task.inputs.counts}

    def all_models(self, setting: str, inputs: Inputs, holdout: Holdout, seed: int) -> Distiller:
        return self.distil(setting, {}, (*MODELS, "graph-mlp"), inputs, holdout, seed)

    def train(self, made: Distiller, setting: str, models: tuple[str, ...]) -> None:
        for model in models:
            clock = time.monotonic()
            made.start(model)
            made.train(made.steps)
            made.finish()
            self.note(f"{setting}/{model}/seconds", time.monotonic() - clock)

    def distil(
        self,
        setting: str,
        chosen: Mapping[str, object],
        models: tuple[str, ...],
        inputs: Inputs,
        holdout: Holdout,
        seed: int,
    ) -> Distiller:
        settings = SETTINGS.get(self.task.name, DistillSettings()).model_copy(update=dict(chosen))
        isolated = holdout.groups[self.task.entity] == ISOLATION
        labels = labels_of(self.task, self.task.split(seed), isolated)
        made = Distiller(inputs, holdout, labels, settings, seed, THREADS)
        self.train(made, setting, models)
        answers = {model: told.answers for model, told in made.told.items()}
        if "student" in models:
            answers["served"] = made.serving.answers()
        with torch.no_grad():
            entity = self.task.entity
            about = holdout.groups[entity], made.evaluation.degree[entity]
            figures = list(label_figures(labels, *about, answers))
        for figure in figures:
            if figure.entity == "all":
                asked = figure.group == ASKED.get(setting, "overall")
                of = setting if asked else f"{setting}/{figure.group}"
                self.note(f"{of}/{figure.model}/{figure.metric}", figure.value)
        return made


def damaged(graph: Graph, path: Path, seed: int) -> Graph:
    """The same graph, at ``path``, where half of the edges of each type lead to random nodes."""
    draw = np.random.default_rng([seed, 61])
    edges, edge_types = {}, []
    for edge in graph.edge_types:
        source, target = graph.edge_index(edge.name)
        count = graph.node_type(edge.target).count
        wrong = draw.random(len(source)) < 0.5
        target = np.where(wrong, draw.integers(0, count, len(source)), target)
        ends = np.unique(np.stack([source, target]), axis=1)
        edges[edge.name] = pa.table(
            [*ends, np.ones(ends.shape[1], np.int64)], ["src", "dst", "count"]
        )
        edge_types.append(edge.model_copy(update={"count": ends.shape[1]}))
    nodes = {node.name: graph.nodes(node.name) for node in graph.node_types}
    manifest = graph.manifest.model_copy(update={"edge_types": tuple(edge_types)})
    return Graph.write(path, manifest, nodes, edges)


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], "one seed")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--settings", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--depths", type=int, nargs="*", default=[], metavar="LAYERS")
    parser.add_argument("--features-without-label", action="store_true")
    asked = parser.parse_args()
    figures: dict[str, float] = {}
    for name in asked.only:
        source = DATA / SOURCES.get(name, name)
        if not source.is_dir():
            print(f"{source} is absent, so {name} is NOT measured", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="cold-brew-") as folder:
            told = not asked.features_without_label
            comparison = Comparison(TASKS[name](Path(folder)), asked.settings, told)
            for seed in asked.seeds[:1] if asked.quick else asked.seeds:
                comparison.compare(seed, asked.depths)
        figures |= over_seeds(comparison.found)
    show("Cold Brew, by how many edges there are", figures, asked.json)


if __name__ == "__main__":
    main()
