"""Labels: classes and numbers, told from their columns, and what is lost by a wrong answer."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
import torch

from isohop.coldbrew.labels import Labels, read_labels
from isohop.errors import IsohopError
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType
from isohop.graph.dataset import Attribute
from isohop.graph.holdout import hold_out

COUNT = 500


def graph(folder, values: pa.Array, kind: str) -> Graph:
    attribute = Attribute(name="price", kind=kind, type=str(values.type))
    node = NodeType(name="house", key=("id",), attributes=(attribute,), count=len(values))
    ids = np.arange(len(values))
    nodes = {"house": pa.table({"node_id": ids, "id": ids, "price": values})}
    return Graph.write(
        folder,
        GraphManifest(name="g", certificate="0" * 32, node_types=(node,), edge_types=()),
        nodes,
        {},
    )


def labels_of(folder, values: pa.Array, kind: str) -> Labels | None:
    made = graph(folder, values, kind)
    return read_labels(made, "house.price", hold_out(made, 1, "house.price"))


def test_a_number_is_told_by_its_distance(tmp_path):
    values = np.linspace(10, 1000, COUNT)
    labels = labels_of(tmp_path / "g", pa.array(values), "number")
    assert (labels.classes, labels.outputs, labels.metric) == (0, 1, "r2")
    known = values[labels.train.numpy()]
    right = torch.from_numpy((values - known.mean()) / known.std()).float()[:, None]
    rows = torch.nonzero(labels.train)[:, 0]
    assert float(labels.losses(rows, right[rows]).sum()) == pytest.approx(0, abs=1e-6)
    assert labels.right(right, labels.test) == pytest.approx(1, abs=1e-5)
    assert labels.right(torch.zeros(COUNT, 1), labels.test) == 0
    near = torch.nonzero(labels.test)[:, 0]
    assert labels.hits(near, right[near] + 0.4).all()
    assert not labels.hits(near, right[near] + 0.6).any()
    torch.testing.assert_close(
        labels.losses(near, right[near] + 2.0), torch.full((len(near),), 4.0), atol=1e-4, rtol=0
    )


def test_of_nodes_whose_numbers_are_alike_it_counts_how_far_they_are_from_the_mean(tmp_path):
    """Groups by degree are such, where degree goes with the number: within one it may hardly
    differ, so who tells it nearly has told most of what there was to tell."""
    values = np.linspace(10, 1000, COUNT)
    labels = labels_of(tmp_path / "g", pa.array(values), "number")
    known = values[labels.train.numpy()]
    near = torch.from_numpy((values - known.mean()) / known.std()).float()[:, None] + 0.1
    cheap = labels.test & (labels.values < 60)
    assert cheap.sum() > 2
    assert labels.right(near, cheap) > 0.9
    assert labels.right(torch.zeros(COUNT, 1), cheap) == 0  # no better than the mean


@pytest.mark.parametrize(
    ("values", "told"),
    [([f"{n}.5" for n in range(COUNT - 1)] + ["n/a"], True), (["a", "b"] * (COUNT // 2), False)],
)
def test_of_classes_that_are_of_one_node_each_it_is_told_that_nothing_can_be_learned(
    tmp_path, values, told
):
    labels = labels_of(tmp_path / "g", pa.array(values), "category")
    assert (labels.of_one_node > 0.5) == told


@pytest.mark.parametrize(
    "values",
    [
        pa.array(1.7e9 + np.arange(COUNT)),  # seconds since 1970
        pa.array(2**60 + 1 + 2**20 * np.arange(COUNT)),
        pa.array(1e30 * np.arange(COUNT)),
        pa.array(1e305 * np.arange(COUNT)),
        pa.array(1e-9 * np.arange(COUNT)),
        pa.array(1e-27 * (3 + np.arange(COUNT))),  # masses in kilograms
        pa.array(1e-305 * np.arange(COUNT)),
    ],
)
def test_numbers_are_told_apart_however_large_they_are(tmp_path, values):
    labels = labels_of(tmp_path / "g", values, "number")
    place = np.arange(COUNT)
    known = place[labels.train.numpy()]
    right = torch.from_numpy((place - known.mean()) / known.std()).float()[:, None]
    rows = torch.arange(COUNT)
    assert labels.losses(rows, right).dtype == torch.float32
    assert labels.losses(rows, right).max() < 1e-6
    assert labels.right(right, labels.test) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("huge", [1e25, -9.97e36, 1e300])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_number_far_from_all_that_training_knows_leaves_every_figure_finite(tmp_path, huge, part):
    values = np.linspace(10, 1000, COUNT)
    labels = labels_of(tmp_path / "g", pa.array(values), "number")
    values[int(torch.nonzero(getattr(labels, part))[0, 0])] = huge
    labels = labels_of(tmp_path / "h", pa.array(values), "number")
    answers = torch.zeros(COUNT, 1)
    assert np.isfinite(labels.right(answers, getattr(labels, part)))
    assert torch.isfinite(labels.losses(torch.arange(COUNT), answers)).all()


def test_bytes_are_no_label(tmp_path):
    photos = pa.array([b"\xff\xd8", b"\xfe"] * (COUNT // 2))
    with pytest.raises(IsohopError, match=r"'house\.price' is bytes, which is no label"):
        labels_of(tmp_path / "g", photos, "category")


def test_a_label_that_is_another_one_for_each_of_many_nodes_is_refused(tmp_path):
    """As a number or a name that every node has for itself: answers would not fit in memory."""
    names = pa.array(np.arange(50_000)).cast(pa.string())
    with pytest.raises(IsohopError, match=r"'house\.price' has 50,000 values.* 9 GiB a model"):
        labels_of(tmp_path / "g", names, "category")


@pytest.mark.parametrize(
    "values", [["1.5", "n/a"] * (COUNT // 2), [date(2020, 1, 1), date(2020, 1, 2)] * (COUNT // 2)]
)
def test_what_is_no_number_is_told_where_a_number_is_asked_for(tmp_path, values):
    with pytest.raises(IsohopError, match=r"'house\.price' is \w+.*, which is no number"):
        labels_of(tmp_path / "g", pa.array(values), "number")


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (pa.array([str(i % 7) for i in range(COUNT)]), "category", 7),
        (pa.array(np.arange(COUNT) % 3), "category", 3),
    ],
)
def test_whatever_is_no_number_is_a_class(tmp_path, values, kind, classes):
    labels = labels_of(tmp_path / "g", values, kind)
    assert labels.classes == classes
    right = torch.nn.functional.one_hot(labels.values, classes).float()
    assert labels.right(right, labels.test) == 1


def test_a_node_without_a_label_is_in_no_part(tmp_path):
    lacking = np.arange(COUNT) % 5 == 0
    for kind, values in (
        ("number", pa.array(np.where(lacking, np.nan, np.arange(COUNT)), from_pandas=True)),
        ("category", pa.array(np.arange(COUNT) % 3, mask=lacking)),
    ):
        labels = labels_of(tmp_path / kind, values, kind)
        used = (labels.train | labels.validation | labels.test).numpy()
        assert np.array_equal(used, ~lacking)


def test_a_label_of_which_a_node_has_two_is_refused(tmp_path):
    """However it is stored: as the values of an attribute, or as nodes of their own."""
    with pytest.raises(IsohopError, match="several values a node"):
        labels_of(tmp_path / "list", pa.array([["a", "b"]] * COUNT), "category")
    house = NodeType(name="house", key=("id",), count=2)
    price = NodeType(name="house.price", key=("price",), count=2, shared=True)
    costs = EdgeType(source="house", role="price", target="house.price", count=3)
    manifest = GraphManifest(
        name="g", certificate="0" * 32, node_types=(house, price), edge_types=(costs,)
    )
    nodes = {
        "house": pa.table({"node_id": [0, 1], "id": [0, 1]}),
        "house.price": pa.table({"node_id": [0, 1], "price": ["high", "low"]}),
    }
    edges = {costs.name: pa.table({"src": [0, 0, 1], "dst": [0, 1, 1]})}
    made = Graph.write(tmp_path / "g", manifest, nodes, edges)
    with pytest.raises(IsohopError, match="several values a node"):
        read_labels(made, "house.price", hold_out(made, 1, "house.price"))


@pytest.mark.parametrize("kind", ["number", "category"])
def test_one_value_for_all_is_nothing_to_learn(tmp_path, kind):
    assert labels_of(tmp_path / "g", pa.array(np.ones(COUNT)), kind) is None


def test_answers_that_agree_lose_less_than_answers_that_do_not():
    mask = torch.ones(4, dtype=torch.bool)
    for classes in (0, 3):
        values = torch.zeros(4, dtype=torch.int64) if classes else torch.arange(4.0)
        labels = Labels("house", values, classes, mask, mask, mask)
        one = torch.eye(4)[:, : classes or 1] * 5
        assert labels.agree([one, one]) < labels.agree([one, one.flip(0)])
        assert labels.like(one, one) < labels.like(one.flip(0), one)
