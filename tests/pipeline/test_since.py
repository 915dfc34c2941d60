"""Runs that go on from an earlier one: its ids, features and weights are kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import isohop
from isohop.coldbrew.distill import read_manifest
from isohop.errors import IsohopError
from isohop.giant.features import Features
from isohop.graph import Graph
from isohop.graph.build import build
from isohop.pipeline.pipeline_file import read_pipeline
from isohop.pipeline.running import evaluate, open_run, run_stage
from isohop.pipeline.runs import Run, told_apart
from isohop.pipeline.since import DECISION, KEPT

pytestmark = pytest.mark.usefixtures("ray")

SCHEMA = """
database: shop
source: {path: data}
tables:
  customer: {key: id}
  product: {key: id}
  orders:
    key: id
    surrogate: true
    time: at
    references:
      - {columns: customer_id, table: customer}
      - {columns: product_id, table: product}
entities: {customer: {table: customer}, product: {table: product}}
"""
PIPELINE = """
name: shop
schema: schema.yaml
seed: 1
runs: runs
features: {dimensions: 8, levels: [4], epochs: 1, steps: 5, vocabulary: 256}
distill: {dimensions: 16, steps: 6, batch: 64, negatives: 8}
publish: {path: published}
report: {sample: 50}
"""
CUSTOMERS, PRODUCTS = 150, 90


@dataclass
class Shop:
    """A warehouse whose rows come and go. Customers buy among the products of their own ten."""

    folder: Path

    def __post_init__(self) -> None:
        draw = np.random.default_rng(1)
        self.names = {i: f"name{i % 7} word{i % 11}" for i in range(1000, 1000 + CUSTOMERS)}
        self.products = {i: f"thing{i % 5} kind{i // 10}" for i in range(PRODUCTS)}
        self.orders = [
            (customer, (customer % 9) * 10 + int(product))
            for customer in self.names
            if customer % 8
            for product in draw.choice(10, 3, replace=False)
        ]
        (self.folder / "schema.yaml").write_text(SCHEMA, "utf-8")
        (self.folder / "pipeline.yaml").write_text(PIPELINE, "utf-8")
        self.write()

    def write(self) -> None:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        bought = pa.array([customer for customer, _ in self.orders], pa.int64())
        sold = pa.array([product for _, product in self.orders], pa.int64())
        day = pa.array(np.arange(len(bought)) * 86_400_000_000, pa.timestamp("us"))
        tables = {
            "customer": pa.table({"id": [*self.names], "name": [*self.names.values()]}),
            "product": pa.table({"id": [*self.products], "title": [*self.products.values()]}),
            "orders": pa.table(
                {
                    "id": np.arange(len(bought)),
                    "customer_id": bought,
                    "product_id": sold,
                    "at": day,
                }
            ),
        }
        for name, table in tables.items():
            pq.write_table(table, data / f"{name}.parquet")

    def run(self, name: str, **instead: str) -> Run:
        read = read_pipeline(self.folder / "pipeline.yaml", instead)
        run = open_run(read, name)
        for stage in KEPT:
            run_stage(read, run, stage)
        return run

    def stages(self, name: str, **instead: str) -> set[str]:
        """Those that a run does now."""
        read = read_pipeline(self.folder / "pipeline.yaml", instead)
        run = open_run(read, name)
        return {stage for stage in KEPT if run_stage(read, run, stage)[1]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    """A shop and its run ``monday``; by tuesday something happened at one end of the shop."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    shop.run("monday")
    shop.names |= {7: "name3 word4", 1002: "another name", 5000: "brand new"}
    del shop.names[1010], shop.names[1049]
    shop.orders = [order for order in shop.orders if order[0] not in (1010, 1049)]
    shop.orders += [(7, 3), (7, 4), (5000, 5)]
    shop.write()
    shop.run("tuesday", since="monday")
    return shop


def table_of(run: Run, entity: str) -> pa.Table:
    return isohop.read_embeddings(run.embeddings, entity=entity).sort_by("id")


def run_of(shop: Shop, name: str) -> Run:
    return open_run(read_pipeline(shop.folder / "pipeline.yaml"), name)


def test_known_nodes_keep_their_ids_and_the_graph_is_that_of_a_full_build(shop):
    monday, tuesday = (Graph.open(run_of(shop, name).graph) for name in ("monday", "tuesday"))
    anew = build(shop.folder / "schema.yaml", shop.folder / "anew")
    assert tuesday.manifest.certificate == anew.manifest.certificate
    assert tuesday.manifest.certificate != monday.manifest.certificate
    ids = [
        dict(zip(*graph.nodes("customer", ["id"]).to_pydict().values(), strict=True))
        for graph in (monday, tuesday)
    ]
    before, after = ({key: node for node, key in found.items()} for found in ids)
    assert sorted(after.values()) == list(range(len(shop.names)))
    assert all(after[key] == before[key] for key in after if key in before)
    assert {after[7], after[5000]} == {before[1010], before[1049]}


def test_only_new_and_changed_documents_are_encoded(shop):
    monday, tuesday = (Features.open(run_of(shop, n).features) for n in ("monday", "tuesday"))
    assert tuesday.manifest.encoded == {"customer": 3, "product": 0}
    assert monday.manifest.encoded == {"customer": CUSTOMERS, "product": PRODUCTS}
    assert np.array_equal(monday.matrix("product"), tuesday.matrix("product"))
    changed = (monday.matrix("customer") != tuesday.matrix("customer")).any(1)
    assert changed.sum() == 3


def test_what_did_not_change_keeps_its_embedding_byte_for_byte(shop):
    """Of customers 7, 1002 and 5000 something is new; and what is two hops away hears of it."""
    one, other = (table_of(run_of(shop, name), "customer") for name in ("monday", "tuesday"))
    assert other["id"].to_pylist() == sorted(shop.names)
    vectors = {
        name: dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
        for name, table in (("before", one), ("after", other))
    }
    known = vectors["before"].keys() & vectors["after"].keys()
    moved = {key for key in known if vectors["before"][key] != vectors["after"][key]}
    near = {
        customer
        for customer, product in shop.orders
        if product // 10 in (0, 1002 % 9, 1010 % 9, 1049 % 9)
    }
    assert 1002 in moved
    assert moved <= near | {1002}
    assert len(known - moved) > len(shop.names) / 3
    assert np.isfinite(np.array(list(vectors["after"].values()))).all()


def test_new_entities_are_served_by_their_edges(shop):
    table = table_of(run_of(shop, "tuesday"), "customer").to_pylist()
    found = {row["id"]: row for row in table}
    assert found[7]["degree"] == 2
    assert found[5000]["degree"] == 1
    assert found[1000]["source"] == "student"  # 1000 % 8 == 0: bought nothing


def test_nothing_is_learned_and_nothing_is_done_twice(shop):
    manifest = read_manifest(run_of(shop, "tuesday").model)
    monday = Graph.open(run_of(shop, "monday").graph).manifest.certificate
    assert manifest.kept_from == monday
    assert manifest.seconds == {}
    assert shop.stages("tuesday", since="monday") == set()


def test_latest_is_the_newest_and_where_no_row_has_changed_everything_is_as_it_was(shop):
    """Whatever a clock said."""
    tuesday = run_of(shop, "tuesday")
    for stage in KEPT:
        record = tuesday.record(stage)
        tuesday.remember(record.model_copy(update={"started": "1970-01-01T00:00:00+00:00"}))
    wednesday = shop.run("wednesday", since="latest")
    assert json.loads((wednesday.folder / DECISION).read_text("utf-8"))["run"] == "tuesday"
    for entity in ("customer", "product"):
        assert table_of(tuesday, entity).equals(table_of(wednesday, entity))
    monday = Graph.open(run_of(shop, "monday").graph).manifest.certificate
    assert read_manifest(wednesday.model).kept_from == monday
    assert Features.open(wednesday.features).manifest.encoded == {"customer": 0, "product": 0}


def test_latest_is_one_that_was_published_if_any_was(shop):
    monday = run_of(shop, "monday")
    monday.remember(monday.record("embed").model_copy(update={"stage": "publish"}))
    thursday = shop.run("thursday", since="latest")
    monday.forget(["publish"])
    assert json.loads((thursday.folder / DECISION).read_text("utf-8"))["run"] == "monday"


def test_latest_learns_where_nobody_fits_and_is_decided_once(shop):
    others = {"since": "latest", "distill.steps": "7"}
    assert read_manifest(shop.run("other", **others).model).kept_from is None
    assert read_manifest(shop.run("another", **others).model).kept_from is not None
    assert shop.stages("other", **others) == set()


def test_a_graph_of_other_types_is_learned_by_itself_and_refused_where_a_run_is_named(tmp_path):
    """A place that nobody lives in ties its city to its country, which customers tell of others."""
    shop = Shop(tmp_path)
    lives = "customer: {key: id, references: [{columns: place_id, table: place}]}"
    places = "place: {key: id, surrogate: true}"
    schema = SCHEMA.replace("customer: {key: id}", f"{lives}\n  {places}")
    schema = schema.replace(
        "entities: {", "entities: {city: {key: city}, country: {key: country}, "
    )
    (tmp_path / "schema.yaml").write_text(schema, "utf-8")

    def write(places: list[int]) -> None:
        shop.write()
        file = tmp_path / "data" / "customer.parquet"
        customers = pq.read_table(file)
        lived_in = pa.array(np.arange(customers.num_rows) % 3)
        pq.write_table(customers.append_column("place_id", lived_in), file)
        named = {"city": [f"c{place}" for place in places], "country": ["x" for _ in places]}
        pq.write_table(pa.table({"id": places, **named}), tmp_path / "data" / "place.parquet")

    write([0, 1, 2, 3])
    shop.run("monday")
    write([0, 1, 2])
    read = read_pipeline(shop.folder / "pipeline.yaml", {"since": "latest"})
    tuesday = open_run(read, "tuesday")
    record, _ = run_stage(read, tuesday, "build")
    assert json.loads((tuesday.folder / DECISION).read_text("utf-8"))["run"] is None
    assert not any(name.startswith("since") for name in record.depends)
    again, is_new = run_stage(read, tuesday, "build")
    assert (again, is_new) == (record, False)
    with pytest.raises(IsohopError, match="only before: city--place--country"):
        shop.run("named", since="monday")
    # The newest run is of no use to who has such a place again, and an earlier one is.
    shop.run("tuesday", since="latest")
    write([0, 1, 2, 3])
    wednesday = open_run(read, "wednesday")
    run_stage(read, wednesday, "build")
    assert json.loads((wednesday.folder / DECISION).read_text("utf-8"))["run"] == "monday"
    # Nor is one whose graph is gone.
    shutil.rmtree(run_of(shop, "monday").graph)
    thursday = open_run(read, "thursday")
    run_stage(read, thursday, "build")
    assert json.loads((thursday.folder / DECISION).read_text("utf-8"))["run"] is None


def test_where_all_entities_of_a_type_are_others_nothing_is_trained_further(tmp_path):
    """As of campaigns, of which each night has its own: the night must not fail."""
    shop = Shop(tmp_path)
    shop.run("monday")
    shop.products = {10_000 + product: title for product, title in shop.products.items()}
    shop.orders = [(customer, 10_000 + product) for customer, product in shop.orders]
    shop.write()
    tuesday = shop.run("tuesday", since="latest", warm_start="2")
    monday = Graph.open(run_of(shop, "monday").graph).manifest.certificate
    assert read_manifest(tuesday.model).kept_from == monday


def test_an_evaluation_makes_what_is_missing_for_itself(shop):
    read = read_pipeline(shop.folder / "pipeline.yaml", {"since": "latest"})
    run = open_run(read, "evaluated")
    evaluate(read, run, 1)
    assert Features.open(run.features).manifest.kept_from is None


def test_all_stages_of_a_run_go_on_from_the_run_that_its_graph_does(shop):
    tuesday = run_of(shop, "tuesday")
    decided = (tuesday.folder / DECISION).read_bytes()
    read = read_pipeline(shop.folder / "pipeline.yaml", {"since": "latest"})
    for stage in ("features", "distill", "embed"):
        with pytest.raises(IsohopError, match="was not built with 'since: latest'"):
            run_stage(read, tuesday, stage)
    assert (tuesday.folder / DECISION).read_bytes() == decided


def test_latest_is_one_that_knew_all_rows_if_any_did(tmp_path):
    """A day that is done again is no reason to forget what was learned since."""
    shop = Shop(tmp_path)
    shop.run("now")
    shop.run("then", as_of="1970-01-02T00:00:00Z")
    later = shop.run("later", since="latest")
    assert json.loads((later.folder / DECISION).read_text("utf-8"))["run"] == "now"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.append_column("segment", pa.array([f"s {i}" for i in t["id"].to_pylist()])),
            r"only now: customer.segment \(text\)",
        ),
        (lambda t: t.drop_columns("name"), "only before: .*customer.name"),
        (lambda t: t.set_column(1, "name", t["id"]), "only before: .*customer.name"),
    ],
    ids=["new", "gone", "other"],
)
def test_a_column_that_came_or_went_or_is_another_is_learned_anew(tmp_path, change, said):
    """An encoder that never read it would pass over it, and what has lost it means something
    else."""
    shop = Shop(tmp_path)
    shop.run("monday")
    file = tmp_path / "data" / "customer.parquet"
    pq.write_table(change(pq.read_table(file)), file)
    read = read_pipeline(shop.folder / "pipeline.yaml", {"since": "latest"})
    tuesday = open_run(read, "tuesday")
    run_stage(read, tuesday, "build")
    assert json.loads((tuesday.folder / DECISION).read_text("utf-8"))["run"] is None
    with pytest.raises(IsohopError, match=said):
        shop.run("named", since="monday")


def test_none_on_a_command_line_is_to_learn(shop):
    for said in ("none", "monday"):
        read = read_pipeline(shop.folder / "pipeline.yaml", {"since": said})
        assert read.settings.since == (None if said == "none" else said)


def test_what_is_done_stays_done_and_nothing_else_goes_on_once_the_earlier_run_is_gone(shop):
    steps = {"distill.steps": "7"}
    shop.run("other", since="latest", **steps)
    another = shop.run("another", since="other", **steps)
    later = shop.run("later", since="latest", **steps)
    assert json.loads((later.folder / DECISION).read_text("utf-8"))["run"] == "another"
    run_of(shop, "other").forget(["embed"])
    assert shop.stages("another", since="other", **steps) == set()
    another.forget(["features"])
    done = {stage for stage in KEPT if another.record(stage) is not None}
    with pytest.raises(IsohopError, match="goes on from run 'other', which is gone or has changed"):
        shop.run("another", since="other", **steps)
    assert {stage for stage in KEPT if another.record(stage) is not None} == done
    # Who asked for the latest, and has but a graph, asks again.
    later.forget(["features", "distill", "embed"])
    assert shop.stages("later", since="latest", **steps) == set(KEPT)
    assert json.loads((later.folder / DECISION).read_text("utf-8"))["run"] is None


def test_a_run_of_the_latest_that_is_to_learn_otherwise_does(shop):
    shop.run("first", since="latest")
    again = shop.run("first", since="latest", seed="5")
    assert json.loads((again.folder / DECISION).read_text("utf-8"))["run"] is None
    assert shop.stages("first", since="latest", seed="5") == set()


def test_the_report_says_where_was_learned_what_it_shows(shop):
    read = read_pipeline(shop.folder / "pipeline.yaml", {"since": "monday"})
    run = open_run(read, "tuesday")
    run_stage(read, run, "report")
    monday = Graph.open(run_of(shop, "monday").graph).manifest.certificate
    told = run.report.read_text("utf-8")
    assert f'by an earlier run, on the graph <span class="mono">{monday}</span>' in told


def test_a_run_that_is_read_is_not_written(shop):
    monday = run_of(shop, "monday")
    with monday.reading():
        with monday.reading():
            pass
        with pytest.raises(IsohopError, match="or read by one that goes on from it"):
            shop.run("monday")
    with (
        monday.writing(),
        pytest.raises(IsohopError, match="Run 'monday' is being written or removed"),
        monday.reading(),
    ):
        pass


def test_what_was_not_learned_here_is_not_evaluated_here(shop):
    read = read_pipeline(shop.folder / "pipeline.yaml", {"since": "monday"})
    with pytest.raises(IsohopError, match="were learned by an earlier run"):
        evaluate(read, open_run(read, "tuesday"), 1)


def test_a_warm_start_learns_on_and_its_vectors_stay_near_to_what_they_were(shop):
    warm = shop.run("warm", since="tuesday", warm_start="4")
    manifest, before = (read_manifest(run.model) for run in (warm, run_of(shop, "tuesday")))
    assert (manifest.kept_from, before.started_from) == (None, None)
    assert manifest.started_from == before.kept_from
    assert [step for step, _ in manifest.curves["teacher/loss"]] == [4]
    assert manifest.evaluation != before.evaluation
    anew = shop.run("anew", seed="2")
    likeness = []
    for run in (warm, anew):
        now, then = (table_of(one, "customer") for one in (run, run_of(shop, "tuesday")))
        vectors = [np.array(table["embedding"].to_pylist()) for table in (now, then)]
        likeness.append(float((vectors[0] * vectors[1]).sum(1).mean()))
    assert not np.array_equal(*vectors)
    assert {c.content for c in manifest.choices.values()} == {before.choices["customer"].content}
    assert likeness[0] > 0.8 > likeness[1]
    assert shop.stages("warm", since="tuesday", warm_start="4") == set()
    assert shop.stages("warm", since="tuesday", warm_start="5") == {"distill", "embed"}


def test_where_there_is_nothing_to_learn_from_what_was_learned_is_kept(shop):
    orders, shop.orders = shop.orders, []
    shop.write()
    empty = shop.run("empty", since="tuesday", warm_start="4")
    shop.orders = orders
    shop.write()
    learned, kept = (
        load_file(run.model / "student.safetensors") for run in (run_of(shop, "tuesday"), empty)
    )
    assert all(torch.equal(value, kept[name]) for name, value in learned.items())


def test_a_run_goes_on_from_one_that_was_trained_further(shop):
    shop.run("warmer", since="tuesday", warm_start="4")
    certificate = Graph.open(run_of(shop, "warmer").graph).manifest.certificate
    kept = shop.run("kept", since="warmer")
    assert read_manifest(kept.model).kept_from == certificate
    for entity in ("customer", "product"):
        assert table_of(kept, entity).equals(table_of(run_of(shop, "warmer"), entity))
    again = shop.run("again", since="kept", warm_start="4")
    assert read_manifest(again.model).started_from == certificate


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({"since": "sunday"}, "there is no such run"),
        ({"since": "new"}, "cannot go on from itself"),
        ({"since": "tuesday", "distill.steps": "9"}, "it has other distill.steps"),
        ({"since": "tuesday", "as_of": "2026-01-01"}, "it knows rows of now"),
    ],
)
def test_a_run_that_cannot_be_gone_on_from_is_said(shop, instead, said):
    with pytest.raises(IsohopError, match=said):
        shop.run("new", **instead)
    assert not (shop.folder / "runs" / "shop" / "new" / "graph").exists()


def test_rows_that_came_later_change_no_file_of_an_earlier_moment(tmp_path):
    """Of graph, features and embeddings, byte for byte: known customers and new ones may buy, and
    nobody may who is known."""
    shop = Shop(tmp_path)
    known = list(shop.orders)
    moment = f"{datetime(1970, 1, 1) + timedelta(days=len(known)):%Y-%m-%d}"

    def files(name: str) -> dict[str, list[bytes]]:
        """By folder: engines draw the names of their files."""
        run = shop.run(name, as_of=moment)
        found: dict[str, list[bytes]] = {}
        for part in (run.graph / "nodes", run.graph / "edges", run.features, run.embeddings):
            for file in part.rglob("*.parquet"):
                folder = str(file.parent.relative_to(run.folder))
                found.setdefault(folder, []).append(file.read_bytes())
        assert {name.partition("/")[0] for name in found} == {"graph", "features", "embeddings"}
        return {folder: sorted(inside) for folder, inside in found.items()}

    then = files("then")
    some = st.sampled_from([1001, 1002, 1007, 777])
    later = st.lists(st.tuples(some, st.integers(0, PRODUCTS)), min_size=1, max_size=40)

    @settings(
        max_examples=3,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(later)
    def holds(orders: list[tuple[int, int]]) -> None:
        shop.orders = known + orders
        shop.write()
        again = files("now")
        assert again.keys() == then.keys()
        assert [folder for folder in then if again[folder] != then[folder]] == []

    holds()


def test_the_longest_name_of_a_run_is_told_as_it_is():
    """Who goes on from a run is found by it."""
    name = "é" * 255
    assert told_apart({"since": {"run": name}}) == {"since.run": f'"{name}"'}
