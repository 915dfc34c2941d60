"""Quality of GIANT's features: what a linear probe reads from the text of a node alone.

    python -m benchmarks.giant [--quick] [--json FILE] [--only gutenberg|wordnet] [--seeds 1 2 3]
        [--encoders hashing minilm] [--settings transductive inductive] [--tuning-steps N]
        [--tuning-batch N] [--keep FOLDER] [--causes] [--ablations [NAME …]] [--pecos PYTHON]

Gutenberg: the first letter of a work's Library of Congress class, from its title. Open English
WordNet: the lexicographer file of a noun synset, from its definition. The label is taken out of the
tables first. Split 60/20/20 at random; logistic regression, its strength chosen on validation.

*transductive*: training sees all edges but the label's (the paper's setting). *inductive*: it sees
no edge of a validation or test node. Beside the trained encoder, on the same documents and split:
TF-IDF of all words, LSA of it, the encoder with random vectors, and with its first directions.

*hashing* is the encoder of n-grams in 256 dimensions; *minilm* that with the packaged MiniLM, in
384. MiniLM is frozen unless ``--tuning-steps`` says otherwise: then two passes over all documents
are learned with it frozen, and it learns in so many steps of ``--tuning-batch`` documents after
them; what a CPU can afford are 100 steps of 128.
What a frozen model reads is the same in every run: it is read once, and its seconds, told as
``reading``, are part of no other figure; ``--keep`` keeps it for other calls of this benchmark.

``--causes``, of the first seed: what holds an encoder back. Accuracy on the nodes that the probe
learns from, on validation and on test nodes after each third of training; how the true cluster of
a hidden node's neighbour ranks at each level of the label tree; the classes with most errors.
``--ablations``, all or some, of the first seed: the same training multi-scale, with the clusters of
a label tree beside the nodes; that with a random tree, without PIFA, and with hard negatives; from
random vectors, with the squared hinge, with the correction by log Q, all of n-grams in 256
dimensions; and n-grams in MiniLM's 384, without text pretraining.
``--pecos``, of the first seed: PECOS on the same documents and edges, by `pecos_features.py`, whose
docstring says which environment it needs: XR-Linear beside *hashing*, and beside *minilm*
XR-Transformer, from the same MiniLM and with the seconds that ours took, reading included.

Threads are as many as the cores that the process may run on; PECOS gets the same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from benchmarks.measure import DATA, over_seeds, parser_of, show
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from isohop.giant.diagnostics import diagnose
from isohop.giant.documents import FIELD_END
from isohop.giant.encoder import Encoder, Prepared, encode_all
from isohop.giant.model_folder import packaged_minilm
from isohop.giant.settings import FeatureSettings
from isohop.giant.training import Trainer, documents_of
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.build import build
from isohop.graph.holdout import ISOLATED

THREADS = len(os.sched_getaffinity(0))
SETTINGS = FeatureSettings(dimensions=256)
MULTI_SCALE = SETTINGS.model_copy(update={"multi_scale": True})
MINILM = FeatureSettings(encoder="minilm", dimensions=384)
TUNED = MINILM.model_copy(update={"epochs": 2.0})
STRENGTHS = (0.003, 0.01, 0.03, 0.1)
SPARSE_STRENGTHS = (0.1, 0.3, 1.0)
BUDGET = 600
"""Seconds that XR-Linear may take: it has nothing to choose and takes less."""
THIRDS = (1 / 3, 2 / 3, 1)
WORST = 8
"""Classes whose errors are told."""
PECOS = Path(__file__).with_name("pecos_features.py")
TRAIN, VALIDATION, TEST = 0, 1, 2
ENCODERS = ("hashing", "minilm")
VISIBLE = ("transductive", "inductive")

GUTENBERG = """
database: gutenberg
source: {path: data}
tables:
  works: {key: gutenberg_id}
  authors: {key: gutenberg_author_id, columns: {birthdate: born, deathdate: died, wikipedia: null}}
  subjects: {key: subject_id, columns: {subject_type: null}}
  work_authors:
    key: [gutenberg_id, gutenberg_author_id]
    references:
      - {columns: gutenberg_id, table: works}
      - {columns: gutenberg_author_id, table: authors}
  work_subjects:
    key: [gutenberg_id, subject_id]
    references:
      - {columns: gutenberg_id, table: works}
      - {columns: subject_id, table: subjects}
  work_languages:
    key: [gutenberg_id, language]
    columns: {total_languages: null}
    references: [{columns: gutenberg_id, table: works}]
entities: {work: {table: works}, author: {table: authors}, subject: {table: subjects}}
attributes: {work_languages.language: {kind: category, share: true}}
"""
WORDNET = """
database: wordnet
source: {path: data}
tables:
  synsets: {key: synset_id}
  synset_relations:
    key: [source_synset_id, relation, target_synset_id]
    references:
      - {columns: source_synset_id, table: synsets, prefix: source_}
      - {columns: target_synset_id, table: synsets, prefix: target_}
entities: {synset: {table: synsets}}
attributes: {synset.synset_id: {kind: identifier}}
"""


@dataclass(frozen=True)
class Task:
    """``labels``: int64 (nodes,) of type ``entity``, their places in ``names``; -1 where there is
    none."""

    name: str
    graph: Graph
    entity: str
    labels: np.ndarray
    names: list[str]

    def split(self, seed: int) -> np.ndarray:
        """int8 (nodes,): TRAIN, VALIDATION, TEST; of nodes without a label, -1."""
        state = np.full(len(self.labels), -1, np.int8)
        order = np.random.default_rng(seed).permutation(np.flatnonzero(self.labels >= 0))
        ends = [round(len(order) * share) for share in (0.6, 0.8)]
        for part, nodes in enumerate(np.split(order, ends)):
            state[nodes] = part
        return state


def gutenberg(folder: Path) -> Task:
    source = DATA / "gutenberg"
    data = folder / "data"
    data.mkdir(parents=True)
    subjects = pq.read_table(source / "subjects.parquet")
    links = pq.read_table(source / "work_subjects.parquet")
    classes = subjects.filter(pc.equal(subjects["subject_type"], "lcc"))
    is_class = pc.is_in(links["subject_id"], classes["subject_id"])
    pq.write_table(
        subjects.filter(pc.not_equal(subjects["subject_type"], "lcc")), data / "subjects.parquet"
    )
    pq.write_table(links.filter(pc.invert(is_class)), data / "work_subjects.parquet")
    works = pq.read_table(source / "works.parquet", columns=["gutenberg_id", "title"])
    pq.write_table(works, data / "works.parquet")
    for name in ("authors", "work_authors", "work_languages"):
        pq.write_table(pq.read_table(source / f"{name}.parquet"), data / f"{name}.parquet")
    graph = built(folder, GUTENBERG)
    letters = pc.utf8_slice_codeunits(classes["subject"], 0, 1).to_pylist()
    letter = dict(zip(classes["subject_id"].to_pylist(), letters, strict=True))
    first: dict[int, str] = {}
    for row in links.filter(is_class).to_pylist():
        first.setdefault(row["gutenberg_id"], letter[row["subject_id"]])
    keys = graph.nodes("work", ["gutenberg_id"])["gutenberg_id"].to_pylist()
    return Task("gutenberg", graph, "work", *numbered([first.get(key) for key in keys]))


def wordnet(folder: Path) -> Task:
    source = DATA / "open_english_wordnet"
    data = folder / "data"
    data.mkdir(parents=True)
    synsets = pq.read_table(source / "synsets.parquet")
    pq.write_table(synsets.select(["synset_id", "definition"]), data / "synsets.parquet")
    relations = pq.read_table(source / "synset_relations.parquet")
    pq.write_table(relations, data / "synset_relations.parquet")
    graph = built(folder, WORDNET)
    of = dict(zip(synsets["synset_id"].to_pylist(), synsets["lexfile"].to_pylist(), strict=True))
    keys = graph.nodes("synset", ["synset_id"])["synset_id"].to_pylist()
    held = [of[key] if of[key].startswith("noun.") else None for key in keys]
    return Task("wordnet", graph, "synset", *numbered(held))


def built(folder: Path, schema: str) -> Graph:
    (folder / "schema.yaml").write_text(schema, "utf-8")
    build(folder / "schema.yaml", folder / "graph")
    return Graph.open(folder / "graph")


def numbered(labels: list[str | None]) -> tuple[np.ndarray, list[str]]:
    encoded = pa.array(labels).dictionary_encode()
    numbers = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64), encoded.dictionary.to_pylist()


def visible(task: Task, split: np.ndarray, setting: str, seed: int) -> Holdout:
    """What training may see in a setting."""
    unseen = np.flatnonzero(split >= VALIDATION) if setting == "inductive" else np.empty(0, int)
    nothing = {"validation": 0.0, "test": 0.0, "isolated": 0.0}
    return hold_out(task.graph, seed, hidden={task.entity: unseen}, **nothing)


@dataclass(frozen=True)
class Probed:
    """A probe of the strength that is best on validation: its accuracy on the nodes of each part
    of the split, and its ``answers`` on test nodes beside the ``truth``."""

    accuracy: tuple[float, float, float]
    answers: np.ndarray
    truth: np.ndarray


def probed(
    features: np.ndarray | sparse.csr_matrix, values: np.ndarray, split: np.ndarray
) -> Probed:
    """``values``: of the label, int64 (nodes,)."""
    parts = [features[split == part] for part in (TRAIN, VALIDATION, TEST)]
    labels = [values[split == part] for part in (TRAIN, VALIDATION, TEST)]
    if sparse.issparse(features):
        probes = [LinearSVC(C=strength) for strength in SPARSE_STRENGTHS]
    else:
        scaler = StandardScaler().fit(parts[0])
        parts = [scaler.transform(part).astype(np.float32) for part in parts]
        probes = [LogisticRegression(C=c, max_iter=300, tol=1e-3) for c in STRENGTHS]
    found: list[Probed] = []
    for probe in probes:
        probe.fit(parts[TRAIN], labels[TRAIN])
        answers = [probe.predict(part) for part in parts]
        right = [float(np.mean(a == b)) for a, b in zip(answers, labels, strict=True)]
        found.append(Probed((right[0], right[1], right[2]), answers[TEST], labels[TEST]))
    return max(found, key=lambda one: one.accuracy[VALIDATION])


@dataclass
class ReadOnce:
    """Reads with a frozen text model once, and remembers, in ``file`` too where there is one.

    ``seconds`` it took, ``spent`` in this process.
    """

    file: Path | None
    seconds: float = 0.0
    spent: float = 0.0
    read: dict[str, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def remembered(self) -> Iterator[None]:
        real = Encoder.read

        def read(encoder: Encoder, prepared: Prepared) -> Prepared:
            if encoder.text_model is None:
                return real(encoder, prepared)
            if not self.read and self.file is not None and self.file.exists():
                self.read = load_file(self.file)
            if not self.read:
                clock = time.monotonic()
                vectors = torch.from_numpy(real(encoder, prepared).vectors)
                self.spent = time.monotonic() - clock
                took = torch.tensor(self.spent)
                self.read = {"vectors": vectors, "middle": encoder.middle.clone(), "seconds": took}
                if self.file is not None:
                    save_file(self.read, self.file)
            self.seconds = float(self.read["seconds"])
            encoder.middle[:] = self.read["middle"]
            return replace(prepared, vectors=self.read["vectors"].numpy())

        with mock.patch.object(Encoder, "read", read):
            yield


@contextmanager
def random_tree() -> Iterator[None]:
    """Clusters of labels that have nothing in common."""

    def features(targets: sparse.csr_matrix, text: np.ndarray, own: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(own.shape, np.float32)

    with mock.patch("isohop.giant.training.label_features", features):
        yield


@contextmanager
def random_start() -> Iterator[None]:
    """N-grams begin with random vectors, as `Encoder` makes them."""

    def directions(text: sparse.csr_matrix, *_: object) -> tuple[np.ndarray, None]:
        shape = text.shape[1], SETTINGS.dimensions
        return np.random.default_rng(0).standard_normal(shape, np.float32) / shape[1] ** 0.5, None

    with mock.patch("isohop.giant.training.agreement_directions", directions):
        yield


ABLATIONS: dict[str, tuple[FeatureSettings, Callable[[], AbstractContextManager[None]]]] = {
    "multi_scale": (MULTI_SCALE, nullcontext),
    "random_tree": (MULTI_SCALE, random_tree),
    "hard_negatives": (MULTI_SCALE.model_copy(update={"hard_negatives": 0.5}), nullcontext),
    "random_start": (SETTINGS, random_start),
    "squared_hinge": (SETTINGS.model_copy(update={"loss": "squared-hinge"}), nullcontext),
    "log_q": (SETTINGS.model_copy(update={"log_q": True}), nullcontext),
    "no_text_pretraining": (SETTINGS.model_copy(update={"dimensions": 384}), nullcontext),
}


@dataclass
class Comparison:
    """All that is measured on one task, each figure once a seed."""

    task: Task
    asked: argparse.Namespace
    found: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = self.asked.keep
        self.frozen = ReadOnce(None if kept is None else kept / f"{self.task.name}.safetensors")

    def note(self, name: str, value: float) -> None:
        self.found.setdefault(f"{self.task.name}/{name}", []).append(value)
        print(f"{self.task.name}/{name}: {value:.4f}", flush=True)

    def probe(
        self, name: str, features: np.ndarray | sparse.csr_matrix, split: np.ndarray
    ) -> Probed:
        found = probed(features, self.task.labels, split)
        self.note(f"{name}/accuracy", found.accuracy[TEST])
        return found

    def compare(self, seed: int) -> None:
        split = self.task.split(seed)
        first = seed == self.asked.seeds[0]
        for setting in self.asked.settings:
            holdout = visible(self.task, split, setting, seed)
            for encoder in self.asked.encoders:
                trainer, seconds = self.learn(setting, encoder, holdout, split, seed)
                if encoder == "hashing" and setting == self.asked.settings[0]:
                    self.texts(trainer, split, seed)
                if self.asked.pecos is not None and first:
                    self.peer(setting, encoder, trainer, seconds, split, seed)
            if first:
                for name in self.asked.ablations or ():
                    self.ablate(setting, name, holdout, split, seed)

    def learn(
        self, setting: str, encoder: str, holdout: Holdout, split: np.ndarray, seed: int
    ) -> tuple[Trainer, float]:
        """A trained trainer, and the seconds that it took with all that a first run needs."""
        settings = SETTINGS
        if encoder == "minilm":
            settings = MINILM
            if self.asked.tuning_steps:
                budget = {
                    "tuning_steps": self.asked.tuning_steps,
                    "tuning_batch": self.asked.tuning_batch,
                }
                settings = TUNED.model_copy(update=budget)
        name = f"{setting}/{encoder}"
        unread = encoder == "minilm" and not self.frozen.read
        clock, spent = time.monotonic(), self.frozen.spent
        with self.frozen.remembered():
            trainer = Trainer(self.task.graph, settings, seed, None, THREADS, holdout)
        seconds = time.monotonic() - clock - (self.frozen.spent - spent)
        if unread:
            self.note(f"text/{encoder}/reading", self.frozen.seconds)
        self.probe(f"{name}/directions", self.features(trainer), split)
        causes = self.asked.causes and seed == self.asked.seeds[0]
        for share in THIRDS if causes else (1,):
            clock = time.monotonic()
            trainer.train(round(share * trainer.steps) - trainer.done)
            seconds += time.monotonic() - clock
            if share < 1:
                accuracy = probed(self.features(trainer), self.task.labels, split).accuracy
                self.curve(name, trainer.done, accuracy)
        self.note(f"{name}/seconds", seconds)
        found = self.probe(name, self.features(trainer), split)
        if causes:
            self.curve(name, trainer.done, found.accuracy)
            self.tell_classes(name, found)
            self.tell_tree(name, trainer, holdout, seed)
        return trainer, seconds + (self.frozen.seconds if encoder == "minilm" else 0)

    def features(self, trainer: Trainer) -> np.ndarray:
        """float32 (nodes, d) of the entity, 0 where there is no label: a text model that learned
        has to read every text anew."""
        labelled = np.flatnonzero(self.task.labels >= 0)
        rows = labelled + trainer.index.offset[self.task.entity]
        encoded = encode_all(trainer.encoder, trainer.prepared[rows], trainer.node_type[rows])
        found = np.zeros((len(self.task.labels), encoded.shape[1]), np.float32)
        found[labelled] = encoded
        return found

    def curve(self, name: str, step: int, accuracy: tuple[float, float, float]) -> None:
        for part, value in zip(("train", "validation", "test"), accuracy, strict=True):
            self.note(f"{name}/accuracy on {part} at step {step}", value)

    def tell_classes(self, name: str, found: Probed) -> None:
        """The classes with most errors on test nodes, and what they are taken for."""
        about = f"{self.task.name}/{name}: classes with most errors"
        table = Table(title=about, title_justify="left")
        for column in ("class", "nodes", "right", "share of all errors", "mostly taken for"):
            table.add_column(column)
        wrong = found.answers != found.truth
        errors = np.bincount(found.truth[wrong], minlength=len(self.task.names))
        for one in np.argsort(-errors, kind="stable")[:WORST]:
            of_it = found.truth == one
            if not errors[one]:
                break
            taken = np.bincount(found.answers[of_it & wrong]).argmax()
            table.add_row(
                self.task.names[one],
                str(of_it.sum()),
                f"{np.mean(~wrong[of_it]):.1%}",
                f"{errors[one] / wrong.sum():.1%}",
                self.task.names[taken],
            )
        Console().print(table)

    def tell_tree(self, name: str, trainer: Trainer, holdout: Holdout, seed: int) -> None:
        """How the clusters of hidden nodes' neighbours rank, where nodes are hidden."""
        given = (self.task.graph, holdout, trainer.levels, trainer.encode())
        for level in diagnose(*given, trainer.settings.scale, ISOLATED, seed):
            if level.in_beam is not None:
                where = f"{name}/{level.target}, {level.labels} clusters"
                self.note(f"{where}, in the beam", level.in_beam)

    def texts(self, trainer: Trainer, split: np.ndarray, seed: int) -> None:
        """What the same texts give without any training."""
        rows = trainer.index.rows(self.task.entity)
        text = trainer.prepared.ngrams[rows]
        self.probe("text/untrained", trainer.untrained()[rows], split)
        svd = TruncatedSVD(SETTINGS.dimensions, random_state=seed)
        self.probe("text/lsa", svd.fit_transform(text), split)
        self.probe("text/tfidf", text, split)

    def ablate(
        self, setting: str, name: str, holdout: Holdout, split: np.ndarray, seed: int
    ) -> None:
        settings, change = ABLATIONS[name]
        with change():
            trainer = Trainer(self.task.graph, settings, seed, None, THREADS, holdout)
        trainer.train(trainer.steps)
        self.probe(f"{setting}/{name}", self.features(trainer), split)

    def peer(
        self,
        setting: str,
        encoder: str,
        trainer: Trainer,
        seconds: float,
        split: np.ndarray,
        seed: int,
    ) -> None:
        """PECOS, given what our training is given."""
        if encoder == "minilm":
            method, more = "xr-transformer", ["--model", packaged_minilm(), "--seconds", seconds]
        else:
            method, more = "xr-linear", ["--dimensions", SETTINGS.dimensions, "--seconds", BUDGET]
        labelled = np.flatnonzero(split >= 0)
        with tempfile.TemporaryDirectory(prefix="giant-pecos-") as temporary:
            folder = Path(temporary)
            documents = pa.concat_arrays(documents_of(self.task.graph, SETTINGS, None))
            documents = pc.replace_substring(documents, FIELD_END, " ")
            pq.write_table(pa.table({"document": documents}), folder / "documents.parquet")
            targets = sparse.hstack(list(trainer.targets.values())).tocsr()
            sparse.save_npz(folder / "targets.npz", sparse.csr_matrix(targets))
            np.save(folder / "rows.npy", trainer.rows)
            np.save(folder / "wanted.npy", labelled + trainer.index.offset[self.task.entity])
            command = [self.asked.pecos, PECOS, folder, "--method", method, "--seed", seed, *more]
            subprocess.run([*map(str, command)], check=True)  # noqa: S603
            got = np.load(folder / "features.npy")
            features = np.zeros((len(split), got.shape[1]), np.float32)
            features[labelled] = got
            self.probe(f"{setting}/pecos-{method}", features, split)
            cost = json.loads((folder / "cost.json").read_text("utf-8"))
            self.note(f"{setting}/pecos-{method}/seconds", cost["seconds"])


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], "one seed")
    parser.add_argument("--only", choices=("gutenberg", "wordnet"))
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--encoders", nargs="*", choices=ENCODERS, default=ENCODERS)
    parser.add_argument("--settings", nargs="+", choices=VISIBLE, default=VISIBLE)
    parser.add_argument("--tuning-steps", type=int, default=0, metavar="N", help="of MiniLM")
    parser.add_argument(
        "--tuning-batch",
        type=int,
        default=TUNED.tuning_batch,
        metavar="N",
        help="documents of such a step",
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of what MiniLM has read")
    parser.add_argument("--causes", action="store_true", help="what holds an encoder back")
    parser.add_argument("--ablations", nargs="*", choices=ABLATIONS)
    parser.add_argument("--pecos", type=Path, metavar="PYTHON", help="of its environment")
    asked = parser.parse_args()
    if asked.quick:
        asked.seeds = asked.seeds[:1]
    if asked.ablations == []:
        asked.ablations = list(ABLATIONS)
    figures: dict[str, float] = {}
    for name, make, source in (
        ("gutenberg", gutenberg, "gutenberg"),
        ("wordnet", wordnet, "open_english_wordnet"),
    ):
        if (asked.only or name) != name:
            continue
        if not (DATA / source).is_dir():
            print(f"{DATA / source} is absent, so {name} is NOT measured", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="giant-") as folder:
            comparison = Comparison(make(Path(folder)), asked)
            for seed in asked.seeds:
                comparison.compare(seed)
        figures |= over_seeds(comparison.found)
    show("GIANT's features, read by a linear probe", figures, asked.json)


if __name__ == "__main__":
    main()
