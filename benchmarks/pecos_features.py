"""Node features by PECOS (https://github.com/amzn/pecos), from the documents and the targets that
our own training gets. Runs in an environment with ``libpecos==1.2.8 numpy==1.26.4
transformers==4.49.0 pyarrow==19.0.1 datasets==2.21.0 scikit-learn torch``.

    python pecos_features.py FOLDER --method xr-linear|xr-transformer [--seconds 600] [--seed 1]
        [--dimensions 256] [--model MODEL_FOLDER]

What it reads in FOLDER:

    documents.parquet   one column, document: large_string or null, a row a node of any type
    targets.npz         CSR float32 (nodes, labels), binary: the neighbours that training may see
    rows.npy            int64: the nodes to learn from
    wanted.npy          int64: the nodes whose features are wanted

What it writes there:

    features.npy        float32 (wanted, d)
    features.npz        of XR-Linear alone: CSR float32 (wanted, labels)
    cost.json           seconds, peak_memory in bytes, parts (seconds of each), and what was chosen

*xr-linear*: a linear classifier for each label and cluster of labels (Yu et al., JMLR 2022); the
features are the predicted neighbours with their scores, rows of unit length, and a truncated
singular value decomposition of them with ``--dimensions``. *xr-transformer*: GIANT-XRT (Chien et
al., ICLR 2022), a transformer trained level by level of the label tree, from the pretrained
``--model``; the features are its pooled output as it is, d that of the model.

XR-Transformer takes as many steps, on as many rows as these draw, as fit into ``--seconds`` with
everything else. How many is found in a trial on few rows, which counts neither as spent nor into
``seconds``; ``parts`` tells it. XR-Linear has nothing to choose: it takes the seconds it takes.
PECOS uses all the cores that the process may run on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from pecos.utils.cluster_util import ClusterChain
from pecos.utils.featurization.text.vectorizers import Vectorizer
from pecos.xmc import LabelEmbeddingFactory
from pecos.xmc.base import HierarchicalKMeans
from pecos.xmc.xlinear.model import XLinearModel
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize

if TYPE_CHECKING:
    from pecos.xmc.xtransformer.matcher import TransformerMatcher
    from pecos.xmc.xtransformer.model import XTransformer

# Of GIANT-XRT's own example, examples/giant-xrt/proc_data_xrt/vect_config.json.
NGRAMS = ((1, "word", 1_000_000), (2, "word", 3_000_000), (3, "char_wb", 200_000))
LEAF = 100
NEIGHBOURS = 100
BEAM = 20
# Of GIANT-XRT on ogbn-arxiv: a tree of 32, 128, 512 and 2048 clusters.
BRANCHES, TOP_CLUSTERS, MOST_CLUSTERS = 4, 32, 2048
BATCH, LEARNING_RATE, MOST_TOKENS = 32, 6e-5, 128
# Documents that are encoded at once.
PIECE = 2048
# The part of the budget that is planned; the rest is for what a trial cannot foresee.
PLANNED = 0.9
TRIAL = "trial"


@dataclass(frozen=True)
class Problem:
    """``targets``: the rows to learn from, and of the labels those that occur there."""

    documents: list[str]
    rows: np.ndarray
    wanted: np.ndarray
    targets: sparse.csr_matrix
    labels: np.ndarray
    label_count: int

    @classmethod
    def read(cls, folder: Path) -> Problem:
        column = pq.read_table(folder / "documents.parquet")["document"]
        rows = np.load(folder / "rows.npy")
        targets = sparse.csr_matrix(sparse.load_npz(folder / "targets.npz"))
        if not len(rows):
            sys.exit(f"{folder / 'rows.npy'} is empty: there is nothing to learn from")
        learned = targets[rows].astype(np.float32)
        labels = np.unique(learned.indices)
        return cls(
            [text or "" for text in column.to_pylist()],
            rows,
            np.load(folder / "wanted.npy"),
            learned[:, labels],
            labels,
            targets.shape[1],
        )

    def sample(self, count: int, seed: int) -> np.ndarray:
        """``count`` of the rows to learn from, sorted. The few of highest degree are among them:
        the length of the longest row sets the time of all."""
        total = self.targets.shape[0]
        if count >= total:
            return np.arange(total)
        order = np.random.default_rng(seed).permutation(total)
        degree = np.diff(self.targets.indptr)[order]
        widest = order[np.argsort(-degree, kind="stable")[:4]]
        order = np.concatenate([widest, order[~np.isin(order, widest)]])
        return np.sort(order[:count])


@dataclass
class Budget:
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def spend(self, part: str) -> Iterator[None]:
        clock = time.monotonic()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + time.monotonic() - clock

    @property
    def spent(self) -> float:
        return sum(seconds for part, seconds in self.parts.items() if part != TRIAL)

    @property
    def left(self) -> float:
        """Of what is planned."""
        return PLANNED * self.seconds - self.spent


def text_matrix(documents: list[str]) -> sparse.csr_matrix:
    """TF-IDF of words, pairs of words and character trigrams."""
    ngrams = [
        {
            "ngram_range": (length, length),
            "analyzer": analyzer,
            "max_feature": most,
            "max_df_ratio": 0.98,
        }
        for length, analyzer, most in NGRAMS
    ]
    config = {"type": "tfidf", "kwargs": {"base_vect_configs": ngrams}}
    return Vectorizer.train(documents, config).predict(documents)


def label_tree(problem: Problem, text: sparse.csr_matrix, seed: int) -> ClusterChain:
    settings = HierarchicalKMeans.TrainParams(
        nr_splits=BRANCHES, min_codes=TOP_CLUSTERS, max_leaf_size=LEAF, seed=seed
    )
    features = LabelEmbeddingFactory.pifa(problem.targets, text[problem.rows])
    return HierarchicalKMeans.gen(features, train_params=settings)


def linear_features(problem: Problem, budget: Budget, seed: int) -> sparse.csr_matrix:
    """The predicted neighbours of the wanted nodes, (wanted, labels)."""
    with budget.spend("prepare"):
        text = text_matrix(problem.documents)
        tree = label_tree(problem, text, seed)
    with budget.spend("train"):
        model = XLinearModel.train(text[problem.rows], problem.targets.tocsc(), C=tree)
    with budget.spend("encode"), tempfile.TemporaryDirectory() as saved:
        # Loaded for prediction, it predicts the same several times as fast as when just trained.
        model.save(saved)
        ready = XLinearModel.load(saved, is_predict_only=True)
        found = ready.predict(text[problem.wanted], beam_size=BEAM, only_topk=NEIGHBOURS)
        columns = problem.labels[found.indices]
        shape = (len(problem.wanted), problem.label_count)
        return normalize(sparse.csr_matrix((found.data, columns, found.indptr), shape))


@dataclass(frozen=True)
class Piece:
    """Some of the nodes (positions), to be encoded at once, and the tokens of each."""

    part: np.ndarray
    tokens: int


@dataclass(frozen=True)
class Transformer:
    """How XR-Transformer is trained for a problem; ``tokens`` a document."""

    problem: Problem
    tree: ClusterChain
    model: str
    tokens: int

    @property
    def levels(self) -> int:
        return sum(clusters.shape[0] <= MOST_CLUSTERS for clusters in self.tree)

    def learn(self, chosen: np.ndarray, steps: int) -> XTransformer:
        """Trained on some rows with so many steps a level."""
        from pecos.xmc.xtransformer.matcher import TransformerMatcher
        from pecos.xmc.xtransformer.model import XTransformer
        from pecos.xmc.xtransformer.module import MLProblemWithText

        each = TransformerMatcher.TrainParams(
            model_shortcut=self.model,
            negative_sampling="tfn+man",
            loss_function="weighted-squared-hinge",
            bootstrap_method="linear",
            batch_size=BATCH,
            # Without a worker, PECOS multiplies its matrices with no thread, and crashes.
            batch_gen_workers=1,
            max_steps=steps,
            # The level ends with the last state that was saved.
            save_steps=steps,
            warmup_steps=steps // 10,
            learning_rate=LEARNING_RATE,
            # As tensors, the labels of all rows would be as wide as those of the widest.
            pre_tensorize_labels=False,
        )
        settings = XTransformer.TrainParams(
            matcher_params_chain=each, only_encoder=True, max_match_clusters=MOST_CLUSTERS
        )
        asked = TransformerMatcher.PredParams(only_topk=BEAM, truncate_length=self.tokens)
        texts = [self.problem.documents[row] for row in self.problem.rows[chosen]]
        return XTransformer.train(
            MLProblemWithText(texts, self.problem.targets[chosen]),
            clustering=self.tree,
            train_params=settings,
            pred_params=XTransformer.PredParams(matcher_params_chain=asked),
        )

    def pieces(self, matcher: TransformerMatcher, nodes: np.ndarray) -> list[Piece]:
        """All of the nodes, in order of length: PECOS pads each document to the longest."""
        texts = [self.problem.documents[node] for node in nodes]
        lengths = np.array([len(ids) for ids in matcher.text_tokenizer(texts)["input_ids"]])
        order = np.argsort(lengths, kind="stable")
        parts = [order[at : at + PIECE] for at in range(0, len(order), PIECE)]
        return [Piece(part, min(self.tokens, int(lengths[part].max()))) for part in parts]

    def encode(self, learned: XTransformer, nodes: np.ndarray, pieces: list[Piece]) -> np.ndarray:
        """The pooled output, float32 (nodes, d)."""
        features = np.empty(
            (len(nodes), learned.text_encoder.text_encoder.config.hidden_size), np.float32
        )
        for piece in pieces:
            texts = [self.problem.documents[node] for node in nodes[piece.part]]
            tensors = learned.text_encoder.text_to_tensor(texts, max_length=piece.tokens)
            features[piece.part] = learned.encode(
                tensors, batch_size=2 * BATCH, batch_gen_workers=1
            )
        return features


def tokens_of(matcher: TransformerMatcher, documents: list[str], seed: int) -> int:
    """Tokens that hold 99 in 100 documents, at most GIANT's 128. PECOS pads all to them."""
    some = np.random.default_rng(seed).permutation(len(documents))[:2000]
    texts = [documents[index] for index in some]
    lengths = [len(ids) for ids in matcher.text_tokenizer(texts)["input_ids"]]
    return min(MOST_TOKENS, int(np.ceil(np.quantile(lengths, 0.99))))


@dataclass(frozen=True)
class Speed:
    """Seconds that training takes, all levels together: once, a row, a step; and to encode."""

    once: float
    row: float
    step: float
    token: float

    @classmethod
    def tried(cls, trainer: Transformer, seed: int) -> Speed:
        few = trainer.problem.sample(4 * BATCH, seed)
        short, long = 2, 6
        ticks = [time.monotonic()]
        for steps in (short, long):
            learned = trainer.learn(few, steps)
            ticks.append(time.monotonic())
        whole = Piece(np.arange(len(few)), trainer.tokens)
        trainer.encode(learned, trainer.problem.rows[few], [whole])
        ticks.append(time.monotonic())
        first, second, encoding = np.diff(ticks)
        document = encoding / len(few)
        # All levels but the last are followed by an encoding of the rows.
        row = (trainer.levels - 1) * document
        # However the clock errs, a step is no faster than to encode what it draws.
        step = max((second - first) / (long - short), trainer.levels * BATCH * document)
        once = max(0.0, first - short * step - len(few) * row)
        return cls(once, row, step, document / trainer.tokens)

    def encoding(self, pieces: list[Piece]) -> float:
        return self.token * sum(len(piece.part) * piece.tokens for piece in pieces)

    def steps(self, seconds: float, rows: int) -> int:
        """Steps a level that fit, where no more rows are learned from than a level draws."""
        steps = (seconds - self.once) / (self.step + BATCH * self.row)
        if steps * BATCH > rows:
            steps = (seconds - self.once - rows * self.row) / self.step
        return int(steps)


def transformer_features(
    problem: Problem, budget: Budget, seed: int, model: str
) -> tuple[np.ndarray, dict]:
    """The pooled output for the wanted nodes, (wanted, d of the model)."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from pecos.utils.torch_util import set_seed
    from pecos.xmc.xtransformer.matcher import TransformerMatcher

    with budget.spend("prepare"):
        tree = label_tree(problem, text_matrix(problem.documents), seed)
        matcher = TransformerMatcher.download_model(model)
        trainer = Transformer(problem, tree, model, tokens_of(matcher, problem.documents, seed))
        pieces = trainer.pieces(matcher, problem.wanted)
    with budget.spend(TRIAL):
        speed = Speed.tried(trainer, seed)
    encoding = speed.encoding(pieces)
    steps = speed.steps(budget.left - encoding, len(problem.rows))
    if steps < 1:
        sys.exit(
            f"--seconds {budget.seconds:g} leave no time to train: {budget.spent:.0f} s are spent, "
            f"{encoding:.0f} s are for the wanted nodes, {speed.once:.0f} s to start the levels"
        )
    chosen = problem.sample(steps * BATCH, seed)
    set_seed(seed)
    with budget.spend("train"):
        learned = trainer.learn(chosen, steps)
    with budget.spend("encode"):
        features = trainer.encode(learned, problem.wanted, pieces)
    sizes = [clusters.shape[0] for clusters in tree[: trainer.levels]]
    learning = {"rows": len(chosen), "steps": steps, "levels": sizes, "tokens": trainer.tokens}
    return features, learning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--method", choices=("xr-linear", "xr-transformer"), required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dimensions", type=int, default=256, help="of XR-Linear's dense features")
    parser.add_argument("--model", metavar="FOLDER", help="a pretrained encoder of the BERT family")
    asked = parser.parse_args()
    if asked.method == "xr-transformer" and asked.model is None:
        parser.error("--method xr-transformer needs --model")
    problem = Problem.read(asked.folder)
    budget = Budget(asked.seconds)
    if asked.method == "xr-linear":
        predicted, learning = linear_features(problem, budget, asked.seed), {}
        sparse.save_npz(asked.folder / "features.npz", predicted)
        with budget.spend("reduce"):
            svd = TruncatedSVD(asked.dimensions, random_state=asked.seed)
            features = svd.fit_transform(predicted).astype(np.float32)
    else:
        features, learning = transformer_features(problem, budget, asked.seed, asked.model)
    np.save(asked.folder / "features.npy", features)
    cost = {
        "seconds": budget.spent,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parts": budget.parts,
        **learning,
    }
    (asked.folder / "cost.json").write_text(json.dumps(cost, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
