"""Quality of GIANT's features: what a linear probe reads from the text of a node alone.

    python -m benchmarks.giant [--quick] [--json FILE] [--only gutenberg|wordnet] [--seeds 3]

Gutenberg: the first letter of a work's Library of Congress class, from its title. Open English
WordNet: the lexicographer file of a noun synset, from its definition. The label is taken out of the
tables first. Split 60/20/20 at random; logistic regression, its strength chosen on validation.

*transductive*: training sees all edges but the label's (the paper's setting). *inductive*: it sees
no edge of a validation or test node. Beside the trained encoder, on the same documents and split:
TF-IDF of all words, LSA of it, and the encoder before training.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.measure import DATA, show
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from isohop.giant.settings import FeatureSettings
from isohop.giant.training import Trainer
from isohop.graph import Graph, Holdout, hold_out
from isohop.graph.build import build

THREADS = 2
STRENGTHS = (1.0, 4.0, 16.0, 64.0)
TRAIN, VALIDATION, TEST = 0, 1, 2

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
    """``labels``: int64 (nodes,) of type ``entity``, -1 where there is none."""

    name: str
    graph: Graph
    entity: str
    labels: np.ndarray

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
    return Task("gutenberg", graph, "work", numbered([first.get(key) for key in keys]))


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
    return Task("wordnet", graph, "synset", numbered(held))


def built(folder: Path, schema: str) -> Graph:
    (folder / "schema.yaml").write_text(schema, "utf-8")
    build(folder / "schema.yaml", folder / "graph")
    return Graph.open(folder / "graph")


def numbered(labels: list[str | None]) -> np.ndarray:
    encoded = pa.array(labels).dictionary_encode().indices
    return pc.fill_null(encoded, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def visible(task: Task, split: np.ndarray, setting: str, seed: int) -> Holdout:
    """What training may see in a setting."""
    unseen = np.flatnonzero(split >= VALIDATION) if setting == "inductive" else np.empty(0, int)
    nothing = {"validation": 0.0, "test": 0.0, "isolated": 0.0}
    return hold_out(task.graph, seed, hidden={task.entity: unseen}, **nothing)


def accuracy(
    features: np.ndarray | sparse.csr_matrix, task: Task, split: np.ndarray
) -> tuple[float, float]:
    """(validation, test) accuracy of the strength that is best on validation."""
    best = (-1.0, 0.0)
    if not sparse.issparse(features):
        features = features * np.sqrt(features.shape[1])
    parts = [features[split == part] for part in (TRAIN, VALIDATION, TEST)]
    labels = [task.labels[split == part] for part in (TRAIN, VALIDATION, TEST)]
    for strength in STRENGTHS:
        if sparse.issparse(features):
            probe = LinearSVC(C=strength / 16)
        else:
            probe = LogisticRegression(C=strength / 256, max_iter=300, tol=1e-3)
        probe.fit(parts[0], labels[0])
        found = [float(probe.score(parts[i], labels[i])) for i in (1, 2)]
        best = max(best, (found[0], found[1]))
    return best


def trained(
    task: Task, settings: FeatureSettings, holdout: Holdout, seed: int
) -> tuple[Trainer, float]:
    """A trainer that has trained, and the seconds that it took, preparation included."""
    clock = time.monotonic()
    trainer = Trainer(task.graph, settings, seed, None, THREADS, holdout)
    trainer.train(trainer.steps)
    return trainer, time.monotonic() - clock


def figures_of(
    task: Task, settings: FeatureSettings, seeds: int
) -> Iterator[tuple[str, list[float]]]:
    """(name, a value each seed) of every figure."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(f"{task.name}/{name}", []).append(value)
        print(f"{task.name}/{name}: {value:.4f}", flush=True)

    for seed in range(1, seeds + 1):
        split = task.split(seed)
        for setting in ("transductive", "inductive"):
            holdout = visible(task, split, setting, seed)
            trainer, seconds = trained(task, settings, holdout, seed)
            rows = trainer.index.rows(task.entity)
            note(f"{setting}/hashing/accuracy", accuracy(trainer.encode()[rows], task, split)[1])
            note(f"{setting}/hashing/seconds", seconds)
            if setting == "transductive":
                text = trainer.corpus.text[rows]
                svd = TruncatedSVD(settings.dimensions, random_state=seed)
                baselines: dict[str, Callable[[], np.ndarray | sparse.csr_matrix]] = {
                    "untrained": lambda t=trainer, r=rows: t.untrained[r],
                    "lsa": lambda s=svd, t=text: s.fit_transform(t),
                    "tfidf": lambda t=text: t,
                }
                for name, make in baselines.items():
                    note(f"text/{name}/accuracy", accuracy(make(), task, split)[1])
    yield from found.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--only", choices=("gutenberg", "wordnet"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    asked = parser.parse_args()
    settings = FeatureSettings(dimensions=256)
    figures: dict[str, float] = {}
    for name, make in (("gutenberg", gutenberg), ("wordnet", wordnet)):
        if (asked.only or name) != name:
            continue
        source = "gutenberg" if name == "gutenberg" else "open_english_wordnet"
        if not (DATA / source).is_dir():
            print(f"{DATA / source} is absent, so {name} is NOT measured", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="giant-") as folder:
            seeds = 1 if asked.quick else asked.seeds
            for figure, values in figures_of(make(Path(folder)), settings, seeds):
                figures[figure] = float(np.mean(values))
                figures[f"{figure} deviation"] = float(np.std(values, ddof=int(len(values) > 1)))
    show("GIANT's features, read by a linear probe", figures, asked.json)


if __name__ == "__main__":
    main()
