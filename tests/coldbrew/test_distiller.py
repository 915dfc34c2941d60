"""What training may and may not see, and graphs at the edge of what can be learned from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from weakref import ref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from isohop.coldbrew import judging, training
from isohop.coldbrew.beside_label import PART
from isohop.coldbrew.calibration import calibration_error
from isohop.coldbrew.choice import Choice
from isohop.coldbrew.choosing import confidence_of
from isohop.coldbrew.content import content_in_answers, content_in_vectors
from isohop.coldbrew.distill import DistillManifest
from isohop.coldbrew.distiller import Distiller
from isohop.coldbrew.embed import embed
from isohop.coldbrew.evaluation import FEWEST, LinkEvaluation
from isohop.coldbrew.learners import BESIDE_LABEL, Told
from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.sampling import Sampler
from isohop.coldbrew.settings import FEWEST_STEPS, PASSES, DistillSettings
from isohop.coldbrew.tables import module_key
from isohop.coldbrew.teacher import Teacher
from isohop.coldbrew.validation import Validation
from isohop.engines.workers import Workers
from isohop.errors import IsohopError
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType
from isohop.graph.dataset import Attribute
from isohop.graph.holdout import ASIDE, ISOLATION

SMALL = DistillSettings(dimensions=16, steps=20, batch=64, negatives=8)
PAPERS = 60


def citations(
    path: Path,
    edges: np.ndarray,
    papers: int = PAPERS,
    topics: np.ndarray | None = None,
    kind: str = "category",
) -> tuple[Graph, Path]:
    """Papers that cite papers, an author type that nothing refers to, and features. ``kind``: of
    topics."""
    given = np.arange(papers) % 3 if topics is None else topics
    nodes = {
        "paper": pa.table(
            {"node_id": np.arange(papers), "id": np.arange(papers), "topic": pa.array(given)}
        ),
        "author": pa.table({"node_id": np.arange(2), "id": np.arange(2)}),
    }
    cites = pa.table(
        {"src": edges[:, 0], "dst": edges[:, 1], "count": np.ones(len(edges), np.int64)}
    )
    topic = Attribute(name="topic", kind=kind, type=str(pa.array(given).type))
    manifest = GraphManifest(
        name="citations",
        certificate=f"{len(edges):032x}",
        node_types=(
            NodeType(name="paper", key=("id",), attributes=(topic,), count=papers),
            NodeType(name="author", key=("id",), count=2),
        ),
        edge_types=(EdgeType(source="paper", role="cites", target="paper", count=len(edges)),),
    )
    graph = Graph.write(path / "graph", manifest, nodes, {"paper--cites--paper": cites})
    draw = np.random.default_rng(0)
    for name, count in (("paper", papers), ("author", 2)):
        (path / "features" / name).mkdir(parents=True)
        values = draw.normal(size=(count, 5)).astype(np.float32)
        feature = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 5)
        table = pa.table({"node_id": np.arange(count), "feature": feature})
        pq.write_table(table, path / "features" / name / "part-0.parquet")
    return graph, path / "features"


def some_edges(papers: int = PAPERS, connected: int = 50) -> np.ndarray:
    pairs = np.random.default_rng(1).integers(0, connected, (4 * connected, 2))
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def within_topics(papers: int, drawn: int) -> np.ndarray:
    """Edges between papers of one topic, of ``drawn`` pairs."""
    pairs = np.random.default_rng(2).integers(0, papers, (drawn, 2))
    return np.unique(pairs[pairs[:, 0] % 3 == pairs[:, 1] % 3], axis=0)


SAMPLED = SMALL.model_copy(update={"full_graph": 0, "batch": 16, "fanout": 3})
WALKED = SAMPLED.model_copy(update={"teacher": "hop-wise", "hops": 2})
MODELS = ("teacher", "mlp", "student")


def trained(
    made: tuple[Graph, Path], label: str | None = None, settings: DistillSettings = SMALL
) -> Distiller:
    return learn(Distiller.of(*made, settings, 1, label, 1))


def learn(distiller: Distiller) -> Distiller:
    for model in MODELS:
        train(distiller, model)
    return distiller


def train(distiller: Distiller, model: str, steps: int | None = None) -> None:
    distiller.start(model)
    distiller.train(distiller.settings.steps if steps is None else steps)
    distiller.finish()


def weights(distiller: Distiller) -> dict[str, torch.Tensor]:
    parts = (distiller.teacher, distiller.baseline, distiller.student)
    return {
        f"{i}{name}": v for i, part in enumerate(parts) for name, v in part.state_dict().items()
    }


def equal(one: Distiller, other: Distiller) -> bool:
    return all(torch.equal(v, weights(other)[name]) for name, v in weights(one).items())


@pytest.mark.parametrize("settings", [SMALL, SAMPLED, WALKED], ids=["whole", "sampled", "walked"])
def test_one_seed_gives_equal_weights_bit_for_bit(tmp_path, settings):
    made = citations(tmp_path, some_edges())
    assert equal(trained(made, settings=settings), trained(made, settings=settings))


@pytest.mark.parametrize("settings", [SMALL, SAMPLED], ids=["whole", "sampled"])
def test_no_edge_is_told_by_one_that_leads_back(tmp_path, monkeypatch, settings):
    ends = some_edges()
    made = citations(tmp_path, np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0))
    distiller = Distiller.of(*made, settings, 1, None, 1)
    (name,) = distiller.visible
    pairs = distiller.visible[name].sort(0).values
    pairs = pairs[0] * PAPERS + pairs[1]
    asked, left_out = [], []

    def told_without(of, method):
        def told(self, *given):
            found = given[1 if of is Sampler else 0]
            left_out.append(torch.as_tensor(found[name]) if found else None)
            return method(self, *given)

        return told

    of, method = (Sampler, "sample") if distiller.sampled else (MessageGraph, "weights")
    monkeypatch.setattr(of, method, told_without(of, getattr(of, method)))
    draw = distiller.task.draw
    monkeypatch.setattr(
        distiller.task, "draw", lambda *given: asked.append(draw(*given)) or asked[-1]
    )
    distiller.start("teacher")
    distiller.train(3)
    for links, out in zip(asked, left_out, strict=False):
        gone = torch.zeros(len(pairs), dtype=torch.bool)
        gone[out] = True
        assert torch.equal(gone, torch.isin(pairs, pairs[links.positions[name]]))
    assert len(asked) == 3


@pytest.mark.parametrize("settings", [SAMPLED, WALKED], ids=["sampled", "walked"])
def test_parts_teach_what_the_whole_graph_teaches(tmp_path, settings):
    """Two camps that cite their own alone, which features tell in part: who is near whom."""
    draw = np.random.default_rng(3)
    camp = np.arange(PAPERS) % 2
    pairs = np.sort(draw.integers(0, PAPERS, (900, 2)), axis=1)  # what leads back tells nothing
    pairs = np.unique(pairs[camp[pairs[:, 0]] == camp[pairs[:, 1]]], axis=0)
    more = {"steps": 200, "learning_rate": 0.02, "batch": 40, "fanout": 8}
    chosen = settings.model_copy(update=more)
    made = citations(tmp_path, pairs)
    near: dict[str, list[float]] = {}
    for training_seed in (1, 2, 3):
        distiller = Distiller.of(*made, chosen, 1, None, 1, training_seed=training_seed)
        features = distiller.inputs.features["paper"]
        features[:, 0] += torch.from_numpy(camp * 1.6 - 0.8)
        assert distiller.sampled
        train(distiller, "teacher")
        train(distiller, "mlp", steps=1)  # nothing of teacher and student depends on it
        train(distiller, "student")
        connected = distiller.connected["paper"].numpy()
        told = {name: told.vectors["paper"] for name, told in distiller.told.items()}
        for name, vectors in (told | {"features": features}).items():
            unit = functional.normalize(vectors, dim=1)
            nearest = (unit @ unit.T).fill_diagonal_(-9).argmax(1).numpy()
            near.setdefault(name, []).append((camp[nearest] == camp)[connected].mean())
    assert np.mean(near["teacher"]) > 0.95
    # By training seed it is right about 0.82 to 0.98 of the nodes, of which there are few.
    assert np.mean(near["student"]) > np.mean(near["features"]) + 0.05


def test_large_graphs_are_learned_for_as_many_steps_as_ask_about_each_node_some_times():
    settings = DistillSettings(batch=1000)
    assert settings.steps_of(0) == settings.steps_of(5_000) == FEWEST_STEPS
    assert settings.steps_of(1_000_000) == 1000 * PASSES
    assert settings.model_copy(update={"steps": 7}).steps_of(1_000_000) == 7


def test_however_many_steps_there_are_the_whole_graph_is_looked_at_a_few_times(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "VALIDATIONS", 2)
    settings = SMALL.model_copy(update={"steps": 90})
    distiller = Distiller.of(*citations(tmp_path, some_edges()), settings, 1, None, 1)
    distiller.start("mlp")
    looks = [step for step in range(1, 91) if distiller.train(1)[1] is not None]
    assert looks == [60, 90]


def doubtful(path: Path, settings: DistillSettings) -> Distiller:
    """Half of the edges join papers of one topic, which their features tell; half lead anywhere."""
    papers = 150
    anywhere = np.random.default_rng(4).integers(0, papers, (400, 2))
    graph, features = citations(path, np.vstack([within_topics(papers, 1200), anywhere]), papers)
    distiller = Distiller.of(graph, features, settings, 1, None, 1)
    topics = functional.one_hot(torch.arange(papers) % 3, 5).float()
    distiller.inputs.features["paper"].mul_(0.1).add_(topics)
    return distiller


@pytest.mark.parametrize("settings", [SMALL, SAMPLED, WALKED], ids=["whole", "sampled", "walked"])
def test_where_that_is_better_the_second_half_learns_by_messages_as_credible_as_their_edges(
    tmp_path, settings, monkeypatch
):
    better = iter(range(100))
    monkeypatch.setattr(Validation, "score", lambda *_: float(next(better)))
    longer = settings.model_copy(update={"steps": 50, "learning_rate": 0.02})
    distiller = doubtful(tmp_path / "a", longer)
    distiller.start("teacher")
    distiller.train(25)
    assert not distiller.weighed
    distiller.train(1)
    assert distiller.weighed
    assert distiller.graph.credible.keys() == {"paper--cites--paper"}
    distiller.save_checkpoint(tmp_path / "c.safetensors")
    distiller.train(24)
    resumed = doubtful(tmp_path / "b", longer)
    resumed.resume(tmp_path / "c.safetensors")
    assert resumed.weighed
    resumed.train(24)
    for one in (distiller, resumed):
        one.finish()
    assert equal(distiller, resumed)


@pytest.fixture(
    scope="module",
    params=[(of, label) for of in (SMALL, SAMPLED, WALKED) for label in (None, "paper.topic")],
    ids=[f"{of}-{label}" for of in ("whole", "sampled", "walked") for label in ("links", "label")],
)
def undisturbed(request, tmp_path_factory) -> tuple[Callable[[], Distiller], Distiller]:
    """What makes one that has learned nothing yet, and one that has learned without a pause."""
    settings, label = request.param
    longer = settings.model_copy(update={"steps": 25})
    made = citations(tmp_path_factory.mktemp("undisturbed"), some_edges())
    return partial(Distiller.of, *made, longer, 1, label, 1), trained(made, label, longer)


@pytest.mark.parametrize(("stopped", "steps"), [(0, 7), (1, 20), (2, 21)])
def test_what_goes_on_from_a_checkpoint_learns_what_it_would_have(
    tmp_path, undisturbed, stopped, steps
):
    begin, whole = undisturbed
    distiller = begin()
    for model in MODELS[:stopped]:
        train(distiller, model)
    distiller.start(MODELS[stopped])
    distiller.train(steps)
    distiller.save_checkpoint(tmp_path / "c.safetensors")
    resumed = begin()
    resumed.resume(tmp_path / "c.safetensors")
    assert (resumed.model, resumed.done) == (MODELS[stopped], steps)
    resumed.train(resumed.steps)
    resumed.finish()
    for model in MODELS[stopped + 1 :]:
        train(resumed, model)
    assert equal(resumed, whole)
    assert resumed.serving.choices == whole.serving.choices
    assert torch.equal(
        resumed.serving.told().vectors["paper"], whole.serving.told().vectors["paper"]
    )


def test_a_number_is_learned_by_all_models(tmp_path):
    """The mean of two features of a paper; a paper's neighbours tell nothing of it."""
    papers = 900
    features = np.random.default_rng(0).normal(size=(papers, 5)).astype(np.float32)
    numbers = 1000 + 50 * features[:, :2].mean(1)
    made = citations(tmp_path, some_edges(papers, 300), papers, numbers, kind="number")
    settings = SMALL.model_copy(update={"steps": 80, "learning_rate": 0.02})
    distiller = trained(made, "paper.topic", settings)
    figures = [one for one in distiller.evaluate() if one.task == "label"]
    assert {one.metric for one in figures} == {"r2"}
    right = {(one.group, one.model): one.value for one in figures}
    for group in ("overall", "isolated"):
        for model in ("teacher", "student", "mlp", "served"):
            assert right[group, model] > 0.5, (group, model)
    labels, answers = distiller.labels, distiller.serving.answers()
    bins = distiller.calibration()["paper"]
    rows = torch.nonzero(labels.test)[:, 0]
    assert sum(one.count for one in bins) == len(rows)
    hits = labels.hits(rows, answers[rows]).sum()
    assert sum(one.count * one.right for one in bins) == pytest.approx(float(hits), abs=0.01)
    assert calibration_error(bins) < 0.2


def test_how_far_confidence_is_off_is_told_of_all_edges_that_are_tested(tmp_path):
    distiller = trained(citations(tmp_path, some_edges(1000, 1000), 1000))
    calibration = distiller.calibration()
    assert calibration["author"] == ()  # nothing leads to one
    asked = sum(len(one.source) for one in distiller.evaluation.on_test())
    assert sum(one.count for one in calibration["paper"]) == asked > 0
    assert calibration_error(calibration["paper"]) < 0.2


def test_batches_of_which_no_node_has_an_edge_are_passed_over(tmp_path):
    """As of a large graph of which few nodes have any."""
    made = citations(tmp_path, some_edges(PAPERS, 10))
    distiller = trained(made, None, SAMPLED.model_copy(update={"batch": 1}))
    assert 0 < distiller.connected["paper"].sum() <= 10
    assert torch.isfinite(distiller.serving.told().vectors["paper"]).all()


class Telling(Workers):
    """One of several, who tells what it asks of the others and hears nothing of them."""

    @property
    def asked(self) -> list[tuple[str, list[torch.Size]]]:
        return self.__dict__.setdefault("_asked", [])

    def add(self, tensors):
        self.asked.append(("add", [tensor.shape for tensor in tensors]))

    def exchanged(self, parts):
        """As if they asked of it what it asks of them."""
        self.asked.append(("exchanged", [part.shape[1:] for part in parts]))
        return list(parts)

    def stacked(self, own):
        self.asked.append(("stacked", [own.shape]))
        return torch.stack([own] * self.count)

    def agreed(self, value):
        """Always less than before."""
        self.asked.append(("agreed", []))
        return -float(len(self.asked))


@pytest.mark.parametrize("label", [None, "paper.topic"])
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("settings", [SMALL, SAMPLED, WALKED], ids=["whole", "sampled", "walked"])
def test_all_workers_ask_the_same_of_each_other_where_a_type_has_no_edges_or_a_share_nothing(
    tmp_path, settings, label, batch
):
    """Or they would wait for ever."""
    made = citations(tmp_path, some_edges())
    asked = []
    for rank in range(2):
        worker = Telling(rank, 2)
        few = settings.model_copy(update={"batch": batch})
        distiller = Distiller.of(*made, few, 1, label, 1, workers=worker)
        distiller.start("teacher")
        distiller.train(3)
        asked.append(worker.asked)
    assert asked[0] == asked[1]
    # Of each step the loss and all gradients at once; before, an MLP finds out if links are in a
    # label's way.
    steps = 3 if label is None else 3 + 2 * (settings.steps // PART)
    assert len([shapes for what, shapes in asked[0] if what == "add" and len(shapes) > 1]) == steps
    assert any(what == "exchanged" for what, _ in asked[0]) == distiller.sampled


def test_no_walk_carries_structural_embeddings_once_there_are_none(tmp_path, monkeypatch):
    """Nor does the one that steps had been learning from when they went."""
    monkeypatch.setattr(judging, "believe", lambda of: None)
    monkeypatch.setattr(judging, "displace", lambda of: of.teacher.structural.displace())
    longer = WALKED.model_copy(update={"steps": 50})
    distiller = Distiller.of(*citations(tmp_path, some_edges()), longer, 1, None, 1)
    distiller.start("teacher")
    carried = []
    for _ in range(2):
        distiller.train(25)
        carried.append(any(v.any() for v in distiller.parts.kept().values()))
        distiller.train(1)
        carried.append(any(v.any() for v in distiller.parts.kept().values()))
    assert carried == [True, False, False, False]


def losses_of_teacher(made: tuple[Graph, Path], settings: DistillSettings, *worker: int) -> Tensor:
    """float32 (4,): of the first steps, this worker's share."""
    distiller = Distiller.of(*made, settings, 1, "paper.topic", 1, workers=Workers(*worker))
    learner = distiller._learner_of("teacher")
    assert distiller.teacher.known is not None
    drawn = [distiller._draw((0, 0, step)) for step in range(4)]
    assert any(len(batch.hidden) < len(batch.labelled) for batch in drawn)
    return torch.stack([learner.loss(batch).detach() for batch in drawn])


def test_workers_share_what_a_step_asks_about_labels_of_which_others_are_heard(tmp_path):
    """However few are hidden of those that a batch would ask about."""
    made = citations(tmp_path, within_topics(PAPERS, 400))
    more = SAMPLED.model_copy(update={"batch": 30, "fanout": 1000, "dropout": 0.0})
    whole = losses_of_teacher(made, more, 0, 1)
    shares = [losses_of_teacher(made, more, rank, 2) for rank in range(2)]
    torch.testing.assert_close(shares[0] + shares[1], whole, rtol=1e-4, atol=1e-4)


def test_the_first_worker_decides_for_all_which_weights_are_best(tmp_path):
    """On unlike machines the others' scores may differ by rounding."""
    made = citations(tmp_path, some_edges())
    longer = SMALL.model_copy(update={"steps": 3 * training.VALIDATE_EVERY})
    distiller = Distiller.of(*made, longer, 1, None, 1, workers=Telling(1, 2))
    distiller.start("mlp")
    distiller.train(training.VALIDATE_EVERY)
    first = {name: v.clone() for name, v in distiller.baseline.state_dict().items()}
    distiller.train(longer.steps)
    distiller.finish()
    assert all(torch.equal(v, first[name]) for name, v in distiller.baseline.state_dict().items())


def test_a_checkpoint_between_two_models_is_one_of_neither(tmp_path):
    made = citations(tmp_path, some_edges())
    distiller = Distiller.of(*made, SMALL, 1, None, 1)
    distiller.start("teacher")
    distiller.train(SMALL.steps)
    distiller.finish()
    distiller.seconds["teacher"] = 7.5
    distiller.save_checkpoint(tmp_path / "c.safetensors")
    resumed = Distiller.of(*made, SMALL, 1, None, 1)
    resumed.resume(tmp_path / "c.safetensors")
    assert resumed.model is None
    assert list(resumed.told) == ["teacher"]
    assert resumed.seconds == {"teacher": 7.5}
    assert torch.equal(resumed.latent["paper"], distiller.latent["paper"])


def test_a_distiller_that_nobody_holds_is_gone(tmp_path):
    """With all that it holds, and before the next is made."""
    distiller = trained(citations(tmp_path, some_edges()), "paper.topic")
    distiller.evaluate()
    held = ref(distiller)
    del distiller
    assert held() is None


def test_labels_of_test_nodes_change_nothing_in_training(tmp_path):
    edges, topics = some_edges(), np.arange(PAPERS) % 3
    one = trained(citations(tmp_path / "a", edges, topics=topics), "paper.topic")
    test = one.labels.test.numpy()
    other = trained(
        citations(tmp_path / "b", edges, topics=np.where(test, (topics + 1) % 3, topics)),
        "paper.topic",
    )
    assert test.any()
    assert equal(one, other)


def test_labels_of_isolated_nodes_are_never_trained_on(tmp_path):
    made = citations(tmp_path, some_edges(800, 700), 800)
    distiller = Distiller.of(*made, SMALL, 1, "paper.topic", 1)
    groups = torch.from_numpy(distiller.holdout.groups["paper"])
    alone, aside = groups == ISOLATION, groups == ASIDE
    labels = distiller.labels
    assert alone.any()
    assert aside.any()
    assert labels.test[alone].all()
    assert labels.validation[aside].all()
    assert torch.equal(
        (labels.train.int() + labels.validation + labels.test), torch.ones(800).int()
    )


def test_a_label_that_is_no_linear_function_of_what_neighbours_say_is_learned(tmp_path):
    """Whether of three features of a node, which its neighbours have too, an odd number is set."""
    papers = 800
    kind = np.arange(papers) % 8
    draw = np.random.default_rng(6)
    ends = np.arange(papers).repeat(2)
    others = kind[ends] + 8 * draw.integers(0, papers // 8, len(ends))
    edges = np.unique(np.stack([ends, others], 1), axis=0)
    bits = np.stack([kind & 1, kind >> 1 & 1, kind >> 2], 1)
    settings = SMALL.model_copy(update={"steps": 100, "learning_rate": 0.02, "layers": 1})
    graph, features = citations(tmp_path, edges, papers, bits.sum(1) % 2)
    distiller = Distiller.of(graph, features, settings, 1, "paper.topic", 1)
    said = torch.from_numpy(bits * 2.0 - 1.0).float()
    distiller.inputs.features["paper"].copy_(functional.pad(said, (0, 2)))
    train(distiller, "teacher")
    right = distiller.labels.right(distiller.told["teacher"].answers, distiller.labels.test)
    assert right > 0.9


@pytest.mark.parametrize(
    ("layers", "label", "expected"),
    [(None, None, 1), (None, "paper.topic", 2), (1, "paper.topic", 1), (3, None, 3)],
)
def test_a_label_is_told_from_two_steps_away_if_nothing_else_is_said(
    tmp_path, layers, label, expected
):
    settings = SMALL.model_copy(update={"layers": layers})
    distiller = Distiller.of(*citations(tmp_path, some_edges()), settings, 1, label, 1)
    assert distiller.about()["settings"]["layers"] == expected
    assert len(distiller.oversmoothing()) == len(distiller.inputs.counts) * (expected + 1)


def test_confidence_in_nodes_without_edges_is_that_of_nodes_set_aside(tmp_path):
    """Features tell the topic of nodes from whose edges they were learned, and nothing of the
    rest."""
    papers = 800
    settings = SMALL.model_copy(update={"steps": 60, "learning_rate": 0.02})
    made = citations(tmp_path, within_topics(papers, 4000), papers)
    distiller = Distiller.of(*made, settings, 1, "paper.topic", 1)
    topics = torch.arange(papers) % 3
    new = ~distiller.connected["paper"]
    nothing = torch.arange(papers) // 3 % 3
    told = functional.one_hot(torch.where(new, nothing, topics), 5)
    distiller.inputs.features["paper"].copy_(told)
    learn(distiller)
    degree = distiller.graph.degrees_in(distiller.graph.weights({}))["paper"]
    evidence = distiller.serving.evidence(
        "paper", distiller.told["teacher"].vectors["paper"], degree
    )
    confidence = confidence_of(distiller.serving.choices["paper"], evidence)
    labels, alone = distiller.labels, new & distiller.labels.test
    right = labels.right(distiller.serving.told().answers, alone)
    assert right < 0.8
    noise = (
        0.25 / min(int((new & part).sum()) for part in (labels.validation, labels.test))
    ) ** 0.5
    assert abs(confidence[alone].mean() - right) < 2 * noise
    assert confidence[~new].mean() > 0.9


@pytest.mark.parametrize("telling", [True, False])
def test_latent_neighbours_are_heard_of_where_they_are_right(tmp_path, telling):
    """Either they alone tell the topic, or features do, of most nodes, and what neighbours tell is
    another's in new nodes."""
    papers = 800
    settings = SMALL.model_copy(update={"steps": 100, "learning_rate": 0.02})
    made = citations(tmp_path, within_topics(papers, 12000), papers)
    distiller = Distiller.of(*made, settings, 1, "paper.topic", 1)
    topics = torch.arange(papers) % 3
    if not telling:
        most = torch.arange(papers) % 4 > 0
        distiller.inputs.features["paper"].copy_(functional.one_hot(topics, 5) * most[:, None])
    train(distiller, "teacher")
    train(distiller, "mlp", steps=1)
    new = ~distiller.connected["paper"] & (not telling)
    latent = functional.one_hot(torch.where(new, (topics + 1) % 3, topics), 8)
    distiller.latent["paper"] = latent.float()
    train(distiller, "student")
    assert distiller.listens["paper"] == telling
    assert distiller.student.second.mlp[module_key("paper")].hears.item() == telling
    assert distiller.about()["listens"] == distiller.listens


def test_what_is_asked_is_the_same_whatever_seed_training_has(tmp_path):
    made = citations(tmp_path, some_edges(1500, 1500), 1500)
    one, other = (
        Distiller.of(*made, SMALL, 1, None, 1, training_seed=seed).evaluation.on_validation()
        for seed in (2, 3)
    )
    assert one
    for mine, theirs in zip(one, other, strict=True):
        assert np.array_equal(mine.source, theirs.source)
        assert np.array_equal(mine.candidates, theirs.candidates)


def test_what_is_tested_is_not_chosen_by(tmp_path):
    pairs = np.random.default_rng(2).integers(0, 800, (4000, 2))
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    made = Distiller.of(*citations(tmp_path, pairs, 800), SMALL, 1, None, 1)
    groups = made.holdout.groups["paper"]
    asked = made.evaluation.on_validation(alone=True)
    assert asked
    for one in asked:
        assert (groups[one.source] == ASIDE).all()
        assert not (groups[one.target] == ISOLATION).any()


def test_served_is_the_student_where_no_edge_is_visible_and_at_length_1_everywhere(tmp_path):
    distiller = trained(citations(tmp_path, some_edges()))
    distiller.serving.content = share = 0.25
    served = distiller.serving.told().vectors["paper"]
    connected = distiller.connected["paper"]
    context, content = served.chunk(2, 1)
    guessed, alone = (distiller.told[model].vectors["paper"] for model in ("student", "mlp"))
    torch.testing.assert_close(context[~connected], (1 - share) ** 0.5 * guessed[~connected])
    torch.testing.assert_close(content, share**0.5 * alone)
    torch.testing.assert_close(served.norm(dim=1), torch.ones(PAPERS))
    assert connected.any()
    assert (~connected).any()


def test_features_count_for_as_much_as_they_tell(tmp_path, monkeypatch):
    """Papers cite those of their topic, which their features tell; what is noise tells nothing.
    Beside a teacher that knows its edges by heart."""
    monkeypatch.setattr(judging, "displace", lambda of: None)
    papers, topics = 800, 100
    draw = np.random.default_rng(2)
    topic = np.arange(papers) % topics
    near = draw.integers(0, papers // topics, (papers, 3)) * topics + topic[:, None]
    pairs = np.sort(np.stack([np.repeat(np.arange(papers), 3), near.ravel()], 1), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    settings = SMALL.model_copy(update={"steps": 60, "learning_rate": 0.02})
    distiller = Distiller.of(*citations(tmp_path, pairs, papers), settings, 1, None, 1)
    told = draw.normal(size=(topics, 5)).astype(np.float32)
    distiller.inputs.features["paper"].copy_(torch.from_numpy(told[topic]))
    learn(distiller)
    assert distiller.serving.choices["paper"].content > 0.1
    content = distiller.told["mlp"].vectors
    noise = {name: functional.normalize(torch.randn(v.shape), dim=1) for name, v in content.items()}
    distiller.told["mlp"] = Told(noise, None)
    assert content_in_vectors(distiller.serving) <= 0.1


@pytest.mark.parametrize(("half", "chosen"), [(0.495, 0.5), (0.49, 0.25), (0.6, 0.5)])
def test_content_counts_for_as_much_as_it_may_without_telling_links_worse(
    tmp_path, monkeypatch, half, chosen
):
    distiller = trained(citations(tmp_path, some_edges()))
    serving = distiller.serving
    told = {0.0: 0.5, 0.1: 0.499, 0.25: 0.496, 0.5: half}
    monkeypatch.setattr(LinkEvaluation, "validation", lambda *_: told[serving.content])
    assert content_in_vectors(serving) == chosen


@pytest.mark.parametrize("scarce", [True, False])
def test_a_student_is_like_its_teacher_where_few_labels_are_known(tmp_path, scarce):
    """And learns from labels alone where these are as many as those that are not known."""
    found = []
    made = citations(tmp_path, some_edges())
    for imitation in (0.0, 1.0):
        settings = SMALL.model_copy(update={"imitation": imitation})
        distiller = Distiller.of(*made, settings, 1, "paper.topic", 1)
        if scarce:
            distiller.labels.train[10:] = False
        found.append(learn(distiller).told["student"].answers)
    assert torch.equal(*found) != scarce


@pytest.mark.parametrize("knowing", [("mlp", "mlp"), ("teacher", "student"), ("mlp", "student")])
def test_about_a_label_those_are_believed_who_know_it_with_edges_and_without(tmp_path, knowing):
    """Of nodes with edges one, of nodes without another."""
    papers = 800
    settings = SMALL.model_copy(update={"steps": 1})
    made = citations(tmp_path, some_edges(papers, connected=400), papers)
    distiller = trained(made, "paper.topic", settings)
    labels = distiller.labels
    connected = distiller.connected["paper"]
    truth = 20 * functional.one_hot(labels.values, 3).float()
    for model in MODELS:
        knows = torch.where(connected, *(torch.tensor(model == one) for one in knowing))
        answers = torch.where(knows[:, None], truth, truth.roll(1, 1))
        distiller.told[model] = Told(distiller.told[model].vectors, answers)
    distiller.serving.choices = {"paper": Choice(), "author": Choice()}
    distiller.serving.answering = 0.0, 0.0
    distiller.serving.answering = content_in_answers(distiller.serving)
    assert [share > 0.5 for share in distiller.serving.answering] == [
        one == "mlp" for one in knowing
    ]
    assert labels.right(distiller.serving.told().answers, labels.test & connected) == 1
    assert labels.right(distiller.serving.told().answers, labels.test & ~connected) == 1


@pytest.mark.parametrize("knowing", ["mlp", "teacher"])
def test_of_few_validation_nodes_of_a_kind_all_of_them_are_asked_who_is_right(tmp_path, knowing):
    papers = 800
    made = citations(tmp_path, some_edges(papers, connected=400), papers)
    distiller = trained(made, "paper.topic", SMALL.model_copy(update={"steps": 1}))
    labels = distiller.labels
    truth = 20 * functional.one_hot(labels.values, 3).float()
    for model in MODELS:
        answers = truth if model == knowing else truth.roll(1, 1)
        distiller.told[model] = Told(distiller.told[model].vectors, answers)
    distiller.serving.choices = {"paper": Choice(without_edges=1.0), "author": Choice()}
    connected = distiller.connected["paper"]
    for kind, left in ((connected, FEWEST - 1), (~connected, 2)):
        labels.validation[torch.nonzero(labels.validation & kind)[left:, 0]] = False
    distiller.serving.answering = 0.0, 0.0
    distiller.serving.answering = content_in_answers(distiller.serving)
    linked, alone = distiller.serving.answering
    assert (linked > 0.5) == (alone > 0.5) == (knowing == "mlp")
    for kind in (connected, ~connected):
        assert labels.right(distiller.serving.told().answers, labels.test & kind) == 1


def test_who_is_right_is_believed_however_sure_it_is(tmp_path):
    """Teacher and student know four labels of five, and are too sure of all that they say; features
    know three of five, and are not."""
    papers = 800
    made = citations(tmp_path, some_edges(papers, connected=400), papers)
    distiller = trained(made, "paper.topic", SMALL.model_copy(update={"steps": 1}))
    truth, place = distiller.labels.values, torch.arange(papers) % 5
    said = {"teacher": (50, 4), "student": (50, 4), "mlp": (1, 3)}
    for model, (sure, known) in said.items():
        answers = torch.where(place < known, truth, (truth + 1) % 3)
        told = distiller.told[model].vectors, sure * functional.one_hot(answers, 3).float()
        distiller.told[model] = Told(*told)
    distiller.serving.answering = 0.0, 0.0
    assert content_in_answers(distiller.serving) == (0.0, 0.0)


def test_what_features_say_of_a_label_is_served_where_it_is_best_and_from_a_checkpoint_too(
    tmp_path,
):
    """The MLP alone has learned anything."""
    papers = 800
    made = citations(tmp_path, some_edges(papers, connected=400), papers)
    settings = SMALL.model_copy(update={"learning_rate": 0.02, "steps": 100})
    found = []
    for _ in range(2):
        distiller = Distiller.of(*made, settings, 1, "paper.topic", 1)
        distiller.inputs.features["paper"].copy_(functional.one_hot(distiller.labels.values, 5))
        found.append(distiller)
    learned, resumed = found
    for model in MODELS:
        learned.start(model)
        learned.train(settings.steps if model == "mlp" else 1)
        learned.finish()
    test = learned.labels.test
    served = learned.serving.told().answers
    assert learned.labels.right(served, test) > 0.95
    assert learned.labels.right(learned.told["student"].answers, test) < 0.9
    assert min(learned.about()["answering"]) > 0
    learned.save_checkpoint(tmp_path / "checkpoint")
    resumed.resume(tmp_path / "checkpoint")
    assert resumed.about() == learned.about()
    assert torch.equal(resumed.serving.told().answers, served)


def test_a_node_learns_no_place_of_its_own_from_its_own_label(tmp_path):
    distiller = Distiller.of(*citations(tmp_path, some_edges()), SMALL, 1, "paper.topic", 1)
    assert len(distiller.structural["paper"]) == 0


def test_a_step_of_the_mlp_looks_at_no_node_that_it_does_not_ask_about(tmp_path):
    settings = SMALL.model_copy(update={"batch": 4, "negatives": 2})
    distiller = Distiller.of(*citations(tmp_path, some_edges(), 300), settings, 1, None, 1)
    looked = []
    mlp = distiller.baseline.mlp
    mlp.register_forward_pre_hook(lambda module, given: looked.append(len(given[0]["paper"])))
    distiller.start("mlp")
    distiller.train(1)
    assert 0 < max(looked) <= 2 * (4 * 2 + 2)


@pytest.mark.parametrize("settings", [SMALL, SAMPLED], ids=["whole", "sampled"])
def test_structural_embeddings_have_a_penalty_and_no_weight_decay(tmp_path, monkeypatch, settings):
    """Whether a step touches all of them or few."""
    monkeypatch.setattr(judging, "displace", lambda of: None)
    made = citations(tmp_path, some_edges())
    sizes = []
    for decay in (0.0, 5.0):
        chosen = settings.model_copy(update={"weight_decay": decay, "structural_penalty": 0.0})
        distiller = Distiller.of(*made, chosen, 1, None, 1)
        train(distiller, "teacher")
        sizes.append(distiller.teacher.penalty().item())
    assert sizes[1] > 0.5 * sizes[0]


def test_the_gcn_knows_nothing_of_which_edges_are_credible(tmp_path):
    found = []
    for weighed in (False, True):
        made = citations(tmp_path / str(weighed), some_edges())
        distiller = Distiller.of(*made, SMALL, 1, "paper.topic", 1)
        if weighed:
            doubt = {n: torch.rand(e.shape[1]) * 0.1 for n, e in distiller.visible.items()}
            about = (distiller.inputs.counts, distiller.inputs.edge_types, distiller.visible)
            distiller.graph = MessageGraph(*about, doubt)
            torch.manual_seed(1)
        distiller.start("gcn")
        distiller.train(SMALL.steps)
        distiller.finish()
        found.append(distiller.told["gcn"].answers)
    assert torch.equal(*found)


@pytest.mark.parametrize("worth", [True, False], ids=["worth", "harm"])
@pytest.mark.parametrize("settings", [SMALL, SAMPLED, WALKED], ids=["whole", "sampled", "walked"])
def test_the_second_half_has_structural_embeddings_where_validation_is_not_better_without(
    tmp_path, monkeypatch, settings, worth
):
    made = citations(tmp_path, some_edges())
    longer = settings.model_copy(update={"steps": 50})
    distiller = Distiller.of(*made, longer, 1, None, 1)
    distiller.start("teacher")
    distiller.train(25)
    assert distiller.teacher.structural.learned
    scores = iter([0.5, 0.5 if worth else 0.6])
    monkeypatch.setattr(Validation, "score", lambda *_: next(scores, 0.7))
    distiller.train(1)
    assert distiller.teacher.structural.learned == worth
    distiller.save_checkpoint(tmp_path / "c.safetensors")
    distiller.train(24)
    resumed = Distiller.of(*made, longer, 1, None, 1)
    resumed.resume(tmp_path / "c.safetensors")
    resumed.train(24)
    for one in (distiller, resumed):
        one.finish()
        assert one.teacher.structural.learned == worth
        told = [note for note in one.about()["notes"] if "no structural embeddings" in note]
        assert len(told) == (not worth)
    assert equal(distiller, resumed)


def test_nodes_of_low_degree_have_no_structural_embedding(tmp_path):
    distiller = Distiller.of(*citations(tmp_path, some_edges()), SMALL, 1, None, 1)
    degree = distiller.graph.degrees()["paper"]
    assert (degree[distiller.structural["paper"]] >= SMALL.structural_degree).all()
    assert len(distiller.structural["paper"]) == (degree >= SMALL.structural_degree).sum()
    assert len(distiller.structural["author"]) == 0


def test_the_penalty_of_structural_embeddings_is_squared(tmp_path):
    """The authors' own code takes the norm."""
    teacher = trained(citations(tmp_path, some_edges())).teacher
    before = teacher.penalty().item()
    with torch.no_grad():
        for layer in teacher.structural:
            for values in layer.values():
                values.mul_(3)
    assert teacher.penalty().item() == pytest.approx(9 * before)


@pytest.mark.parametrize(("label", "counts"), [(None, 1.0), ("paper.topic", BESIDE_LABEL)])
@pytest.mark.parametrize("link_weight", [0.0, 0.2, 1.0])
def test_the_penalty_of_structural_embeddings_counts_whatever_links_count_for(
    tmp_path, monkeypatch, label, counts, link_weight
):
    made = citations(tmp_path, some_edges())
    monkeypatch.setattr(Teacher, "penalty", lambda self: torch.tensor(7.0))
    first = []
    for penalty in (0.0, 0.5):
        chosen = {"link_weight": link_weight, "structural_penalty": penalty}
        distiller = Distiller.of(*made, SMALL.model_copy(update=chosen), 1, label, 1)
        distiller.start("teacher")
        first.append(distiller.train(1)[0][0])
    assert first[1] - first[0] == pytest.approx(0.5 * 7 * counts, rel=1e-4)


def test_a_second_class_that_training_does_not_see_is_no_class_to_learn(tmp_path):
    made = citations(tmp_path / "all", some_edges())
    test = Distiller.of(*made, SMALL, 1, "paper.topic", 1).labels.test.numpy()
    topics = test.astype(np.int64)
    made = citations(tmp_path, some_edges(), topics=topics)
    assert any(
        "fewer than two values" in note
        for note in Distiller.of(*made, SMALL, 1, "paper.topic", 1).notes
    )


@pytest.mark.parametrize(("papers", "edges"), [(1, []), (1, [(0, 0)]), (2, [(0, 1)])])
def test_the_smallest_graphs_can_be_distilled(tmp_path, papers, edges):
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    distiller = Distiller.of(*citations(tmp_path, pairs, papers), SMALL, 1, None, 1)
    if distiller.skipped is None:
        distiller = trained((Graph.open(tmp_path / "graph"), tmp_path / "features"))
        assert all(torch.isfinite(v).all() for v in distiller.serving.told().vectors.values())
        assert not distiller.evaluate()
        assert any("no figures" in note for note in distiller.about()["notes"])
    else:
        assert "no visible edge" in distiller.skipped


def unlinked(path: Path, beside: bool) -> tuple[Graph, Path]:
    """Papers without any edge, whose features tell their topic. ``beside``: values that they share
    have edges among each other, as where events say nothing of who was there."""
    graph, features = citations(path, np.zeros((0, 2), np.int64))
    topics = functional.one_hot(torch.arange(PAPERS) % 3, 5).float() + torch.randn(PAPERS, 5) / 9
    feature = pa.FixedSizeListArray.from_arrays(pa.array(topics.numpy().ravel()), 5)
    table = pa.table({"node_id": np.arange(PAPERS), "feature": feature})
    pq.write_table(table, features / "paper" / "part-0.parquet")
    if not beside:
        return graph, features
    nodes = {node.name: graph.nodes(node.name) for node in graph.node_types}
    edges = {edge.name: graph.edges(edge.name) for edge in graph.edge_types}
    ids = np.arange(40)
    shared = tuple(NodeType(name=n, key=(n,), count=40, shared=True) for n in ("branch", "day"))
    loan = EdgeType(source="branch", role="loan", target="day", count=40)
    for node in shared:
        nodes[node.name] = pa.table({"node_id": ids, node.name: ids})
        (features / node.name).mkdir()
        feature = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(200, np.float32)), 5)
        table = pa.table({"node_id": ids, "feature": feature})
        pq.write_table(table, features / node.name / "part-0.parquet")
    edges[loan.name] = pa.table({"src": ids, "dst": ids[::-1], "count": np.ones(40, np.int64)})
    told = graph.manifest.model_copy(
        update={
            "node_types": (*graph.manifest.node_types, *shared),
            "edge_types": (*graph.manifest.edge_types, loan),
        }
    )
    return Graph.write(path / "beside", told, nodes, edges), features


@pytest.mark.parametrize("settings", [SMALL, SAMPLED, WALKED], ids=["whole", "sampled", "walked"])
def test_edges_among_shared_values_alone_are_nothing_to_learn_from(tmp_path, settings):
    distiller = Distiller.of(*unlinked(tmp_path, beside=True), settings, 1, None, 1)
    assert "no visible edge of an entity" in distiller.skipped


@pytest.mark.parametrize("beside", [False, True], ids=["no-edge", "shared-values"])
@pytest.mark.parametrize("settings", [SMALL, SAMPLED, WALKED], ids=["whole", "sampled", "walked"])
def test_a_label_is_learned_where_no_entity_has_an_edge(tmp_path, settings, beside):
    longer = settings.model_copy(update={"steps": 40, "learning_rate": 0.02})
    distiller = trained(unlinked(tmp_path, beside), "paper.topic", longer)
    assert distiller.skipped is None
    right = {
        figure.model: figure.value
        for figure in distiller.evaluate()
        if (figure.group, figure.metric) == ("isolated", "accuracy")
    }
    assert min(right["student"], right["served"]) > 0.8
    for about in (distiller.about(), distiller.calibration()):
        assert about
    distiller.save(tmp_path)


def test_weights_of_another_graph_are_refused(tmp_path):
    one, features = citations(tmp_path / "a", some_edges())
    other, _ = citations(tmp_path / "b", some_edges()[:50])
    (tmp_path / "model").mkdir()
    manifest = DistillManifest(
        seed=1, certificate=one.manifest.certificate, label=None, settings=SMALL
    )
    (tmp_path / "model" / "distill.json").write_text(manifest.model_dump_json())
    with pytest.raises(IsohopError, match="distilled from another graph"):
        embed(other.path, features, tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()
