"""The report: one file, offline, whole, and safe whatever the data say."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.dataset import EdgeType
from isohop.report.charts import line_chart
from isohop.report.colouring import Colouring, colour_nodes
from isohop.report.diagram import draw_graph
from isohop.report.doubtful import DoubtfulEdge, doubtful_edges
from isohop.report.evaluation import confidence_rows
from isohop.report.naming import shorten
from isohop.report.report import _seconds, _title, write_report
from isohop.report.run_folder import RunFolder
from isohop.report.settings import ReportSettings
from tests.killing import PATIENCE

SECTIONS = (
    *("plan", "ledger", "degrees", "training", "features", "results", "doubtful", "maps"),
    "neighbours",
)
FAST = ReportSettings(map="pca", sample=200)


def sections(html: str) -> set[str]:
    return set(re.findall(r'<section id="([a-z]+)"', html))


def links(html: str) -> list[str]:
    """Whatever a tag's attribute refers to."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(v or "" for name, v in attrs if name in ("src", "href", "xlink:href"))

    Reader().feed(html)
    return found


def test_the_report_has_every_section_and_needs_nothing_else(run, tmp_path):
    file = write_report(run, tmp_path / "report.html", FAST, "a title")
    html = file.read_text("utf-8")
    assert set(SECTIONS) <= sections(html)
    assert "<script" not in html
    assert [link for link in links(html) if not link.startswith(("#", "data:"))] == []
    assert "@import" not in html
    assert file.stat().st_size < 5_000_000


def test_a_run_that_published_nothing_says_so(run, tmp_path):
    html = write_report(run, tmp_path / "report.html", FAST, "a title").read_text("utf-8")
    assert "no version that is there is of this run" in html


def test_what_was_found_across_tables_is_told_as_what_was_found_in_one(run, tmp_path):
    html = write_report(run, tmp_path / "report.html", FAST, "a title").read_text("utf-8")
    ledger = html[html.index('<section id="ledger"') : html.index('<section id="degrees"')]
    found = [re.sub(r"<[^>]*>", " ", row) for row in ledger.split("<tr>") if "violated" in row]
    assert found[0].split()[:5] == ["airport.city", "violated", "dependency", "12,345", "majority"]
    assert "(&#39;JFK&#39;,) has (&#39;Queens&#39;,) × 2" in found[0]
    for told in ("orphaned reference", "entity without rows", "cut to microseconds"):
        assert told in ledger


LABEL = (12, 6)
"""Least distance of two labels that do not lie over each other: below each other, or, for each
letter, beside."""


def test_labels_of_edges_between_two_boxes_can_be_read(run):
    manifest = Graph.open(run / "graph").manifest
    source, target = (node.name for node in manifest.node_types[:2])
    ends = [(source, target), (source, target), (target, source), (target, target)]
    between = tuple(
        EdgeType(source=one, role=f"a role number {number}", target=other, count=1000)
        for number, (one, other) in enumerate(ends)
    )
    drawn = draw_graph(manifest.model_copy(update={"edge_types": between})).links
    for one, other in combinations(drawn, 2):
        letters = (len(one.role) + len(other.role)) / 2
        below, beside = abs(one.y - other.y), abs(one.x - other.x)
        assert below >= LABEL[0] or beside >= LABEL[1] * letters


@pytest.mark.parametrize("between", [1, 8, 22])
@pytest.mark.parametrize("loops", [0, 1, 4])
def test_nothing_of_the_graph_lies_outside_of_its_drawing(run, between, loops):
    manifest = Graph.open(run / "graph").manifest
    pair = manifest.node_types[:2]
    role = "a role whose name is long {number}"
    roles = [role.format(number=number) for number in range(max(between, loops))]
    ends = [(pair[0].name, pair[1].name, one) for one in roles[:between]]
    ends += [(node.name, node.name, one) for node in pair for one in roles[:loops]]
    edges = tuple(EdgeType(source=s, role=one, target=t, count=1000) for s, t, one in ends)
    drawn = draw_graph(manifest.model_copy(update={"node_types": pair, "edge_types": edges}))
    places = []
    for box in drawn.boxes:
        middle, half = np.array([[box.x, box.y], [box.width / 2, box.height / 2]])
        places += [middle - half, middle + half]
    for link in drawn.links:
        width = len(f"{link.role} {link.count:,}") * LABEL[1]
        middle, half = np.array([[link.x, link.y], [width / 2, LABEL[0] / 2]])
        places += [middle - half, middle + half]
        points = np.array(re.findall(r"-?[\d.]+", link.path), float).reshape(-1, 2)
        for share in np.linspace(0, 1, 30)[:, None]:
            left = points
            while len(left) > 1:
                left = (1 - share) * left[:-1] + share * left[1:]
            places.append(left[0])
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    assert (low >= (drawn.left, drawn.top)).all()
    assert (high <= (drawn.left + drawn.width, drawn.top + drawn.height)).all()
    assert drawn.height < high[1] - low[1] + 100  # and no empty space


def test_text_from_the_data_never_becomes_markup(run, tmp_path, hostile):
    html = write_report(run, tmp_path / "report.html", FAST, hostile).read_text("utf-8")
    assert hostile not in html


def test_a_part_that_is_absent_is_said_to_be(run, tmp_path):
    shutil.rmtree(run / "model")
    html = write_report(run, tmp_path / "report.html", FAST, "t").read_text("utf-8")
    assert set(SECTIONS) <= sections(html)
    assert "distill" in html


def test_the_least_credible_edges_are_told_by_the_names_of_their_ends(run):
    """Those of the type of which most are doubtful first, and none that are credible."""
    routes, flights = doubtful_edges(RunFolder.open(run), 10, 1)
    graph = Graph.open(run / "graph")
    names = graph.nodes("airport", ["name"])["name"].to_pylist()
    source, target = graph.edge_index("airport--route--airport")
    assert routes.edge_type.name == "airport--route--airport"
    assert (routes.doubtful, routes.judged) == (np.count_nonzero(source == 0), len(source))
    assert len(routes.least) == 10 < routes.doubtful
    assert {edge.source for edge in routes.least} == {shorten(names[0])}
    reached = {shorten(names[node] or "A001") for node in target[source == 0]}
    assert {edge.target for edge in routes.least} <= reached
    first = graph.edge_index("plane--flight--airport")[:, 0]
    (only,) = flights.least
    assert only == DoubtfulEdge(
        f"N{first[0]:05d}", shorten(names[first[1]] or "A001"), only.credible
    )
    assert only.credible == pytest.approx(0.05)


def test_a_model_of_another_graph_says_nothing_of_this_ones_edges(run):
    file = run / "model" / "distill.json"
    about = json.loads(file.read_text("utf-8"))
    of = Graph.open(run / "graph").manifest
    for certificate, told in ((of.certificate, 2), ("0" * 32, 0)):
        about |= {"certificate": certificate, "numbering": of.numbering}
        file.write_text(json.dumps(about), "utf-8")
        assert len(doubtful_edges(RunFolder.open(run), 10, 1)) == told


@pytest.mark.parametrize("cut", [40, -200, None])
def test_a_damaged_file_of_credible_edges_is_named(run, cut):
    file = run / "model" / "credible" / "airport--route--airport.parquet"
    held = file.read_bytes()
    middle = held[:40] + bytes(200) + held[240:]
    file.write_bytes(middle if cut is None else held[:cut])
    with pytest.raises(IsohopError, match=r"airport--route--airport.parquet is damaged"):
        doubtful_edges(RunFolder.open(run), 10, 1)


def test_results_by_edge_type_stand_in_a_table_of_their_own(run, tmp_path):
    html = write_report(run, tmp_path / "report.html", FAST, "a title").read_text("utf-8")
    results = html[html.index('<section id="results"') : html.index('<section id="doubtful"')]
    first, *others = results.split("<summary>By edge type</summary>")
    assert "--" not in first
    assert "Degree 4-7" in first
    for part in others:
        table = part[: part.index("</details>")]
        assert "plane--manufacturer--plane.manufacturer, isolated" in table
        assert "Degree 4-7" not in table
    assert len(others) == 3  # all entities together, and two by themselves


def test_all_entities_come_first_whatever_the_others_are_called(run, tmp_path):
    """And the colours of the models are told once a task."""
    file = run / "model" / "distill.json"
    about = json.loads(file.read_text("utf-8"))
    for row in about["evaluation"]:
        row["entity"] = row["entity"].replace("airport", "Airport").replace("plane", "AIRCRAFT")
    labelled = [row | {"task": "label", "metric": "r2"} for row in about["evaluation"]]
    about["evaluation"] += [row for row in labelled if row["entity"] == "Airport"]
    file.write_text(json.dumps(about), "utf-8")
    html = write_report(run, tmp_path / "report.html", FAST, "a title").read_text("utf-8")
    results = html[html.index('<section id="results"') : html.index('<section id="doubtful"')]
    told = re.findall(r"<h3>(.*) <small>(.*)</small></h3>|<summary>(.*: .*)</summary>", results)
    assert [" ".join(filter(None, one)) for one in told] == [
        "Label Airport",
        "Link prediction All entities",
        "Link prediction: AIRCRAFT",
        "Link prediction: Airport",
    ]
    assert results.count('<ul class="legend">') == 2


def test_a_figure_below_the_scale_is_drawn_at_its_end_and_marked(run, tmp_path):
    file = run / "model" / "distill.json"
    about = json.loads(file.read_text("utf-8"))
    for row in about["evaluation"]:
        if row["metric"] == "mrr":
            row["metric"] = "r2"
            row["value"] = -3.2 if row["model"] == "mlp" else row["value"]
    file.write_text(json.dumps(about), "utf-8")
    html = write_report(run, tmp_path / "report.html", FAST, "a title").read_text("utf-8")
    scales = re.findall(r'<svg viewBox="0 0 110 18".*?</svg>', html, re.DOTALL)
    places = [float(x) for scale in scales for x in re.findall(r'cx="([-\d.]+)"', scale)]
    assert 8 <= min(places) <= max(places) <= 102
    below = [scale for scale in scales if "mlp: -3.200" in scale]
    assert below
    assert all(scale.count("<path") == 1 for scale in below)
    assert not any("<path" in scale for scale in scales if scale not in below)
    assert ">-3.200</td>" in html


def test_a_graph_whose_edges_were_not_judged_has_no_doubtful_ones(run, tmp_path):
    shutil.rmtree(run / "model" / "credible")
    assert doubtful_edges(RunFolder.open(run), 10, 1) == ()
    html = write_report(run, tmp_path / "report.html", FAST, "a title").read_text("utf-8")
    assert "How credible edges are is absent" in html


def test_how_far_confidence_is_off_is_told_of_whoever_was_asked(run):
    (row,) = confidence_rows(RunFolder.open(run).distilled.calibration)
    assert (row.entity, row.count) == ("airport", 400)
    assert (row.confidence, row.right) == (0.625, 0.59375)
    assert row.error == pytest.approx(0.25 * 0.25 + 0.75 * 0.125)


def test_what_became_otherwise_in_training_is_told(run, tmp_path):
    html = write_report(run, tmp_path / "report.html", FAST, "a title").read_text("utf-8")
    assert "no structural embeddings: " in html


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.6930, 0.6935), (0, 1e-13), (-3e-13, -1e-13), (0, 1e-310), (1_234_000, 1_234_119), (5, 5)],
)
def test_no_two_labels_of_an_axis_are_the_same(low, high):
    values = np.linspace(high, low, 120)
    chart = line_chart(np.arange(120), values)
    labels = [tick.label for tick in chart.y_ticks]
    assert len(set(labels)) == len(labels) >= 3
    size = {"k": 1e3, "M": 1e6}
    told = [float(label.rstrip("kM")) * size.get(label[-1], 1) for label in labels]
    assert told[0] <= low <= high <= told[-1] + 1e-9 * abs(high)
    bottom, top = chart.y_ticks[0].position, chart.y_ticks[-1].position
    places = [float(y) for line in chart.lines for y in re.findall(r" ([^L ]+)", line.path)]
    assert top <= min(places) <= max(places) <= bottom


def test_an_axis_tells_round_numbers_shortly():
    chart = line_chart(np.arange(1501), np.linspace(1, 0, 1501))
    assert [tick.label for tick in chart.x_ticks] == ["0", "500", "1k", "1.5k"]
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.25", "0.5", "0.75", "1"]


def by_degree(degree: list[int]) -> Colouring:
    return colour_nodes(None, "node", np.array(degree), None)


@pytest.mark.parametrize(
    ("degree", "own"),
    [
        ([1] * 850 + list(range(2, 152)), "1"),
        (list(range(150)) + [151] * 850, "151"),
        (list(range(75)) + [80] * 850 + list(range(100, 175)), "80"),
        ([0] * 99_900 + list(range(1, 101)), "0"),
    ],
)
def test_a_value_that_most_nodes_have_is_a_group_of_its_own_and_the_others_are_told_apart(
    degree, own
):
    colouring = by_degree(degree)
    assert len(colouring.labels) == 6  # five groups, and no value
    assert len(set(colouring.colours)) == 6
    sizes = np.bincount(colouring.groups, minlength=6)
    alone = colouring.labels.index(own)
    assert sizes[alone] == max(map(degree.count, set(degree)))
    others = np.delete(sizes, [alone, 5])
    assert others.max() <= 1.2 * others.min()


def test_groups_of_quantities_are_in_their_order_and_of_about_the_same_size():
    degree = np.random.default_rng(0).permutation(1000)
    groups = by_degree(degree.tolist()).groups
    assert np.bincount(groups).tolist() == [200] * 5
    assert (np.diff(groups[np.argsort(degree)]) >= 0).all()


def test_few_values_are_a_group_each():
    assert by_degree([3, 1, 1, 2]).labels == ("1", "2", "3", "no value")
    assert by_degree([7, 7]).labels == ("7", "no value")


@pytest.mark.parametrize("step", [10.0, 1.0, 1e-6])
def test_labels_of_neighbouring_groups_differ(run, step):
    airports = Graph.open(run / "graph").nodes("airport")
    values = 12_345_678.25 + step * np.arange(len(airports))
    file = next((run / "graph").rglob("airport/*.parquet"))
    airports = airports.set_column(airports.column_names.index("alt"), "alt", pa.array(values))
    pq.write_table(airports, file)
    degree = np.ones(len(airports))
    colouring = colour_nodes(Graph.open(run / "graph"), "airport", degree, "alt")
    assert len(set(colouring.labels)) == 6
    ends = [end for one in colouring.labels[:5] for end in one.removeprefix("over ").split(" – ")]
    assert len(set(ends)) == 6
    assert not any("e+" in end for end in ends)


def test_equal_runs_have_equal_reports(run, tmp_path):
    one, two = (write_report(run, tmp_path / name, FAST, "t") for name in ("a.html", "b.html"))
    assert one.read_bytes() == two.read_bytes()


def test_what_is_damaged_or_not_there_is_an_error(run, tmp_path):
    with pytest.raises(IsohopError, match="no such run"):
        write_report(tmp_path / "nothing", tmp_path / "r.html", FAST, "t")
    (run / "features" / "features.json").write_text("{")
    with pytest.raises(IsohopError, match=r"features\.json"):
        write_report(run, tmp_path / "r.html", FAST, "t")
    assert not (tmp_path / "r.html").exists()


def rows(png: Path) -> Iterator[bytes]:
    """Raw rows of an 8-bit PNG."""
    data, at, packed, width, channels = png.read_bytes(), 8, b"", 0, 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IHDR":
            width, _, _, colour = struct.unpack(">IIBB", data[at + 8 : at + 18])
            channels = {2: 3, 6: 4}[colour]
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    raw = zlib.decompress(packed)
    step = width * channels + 1
    for start in range(0, len(raw), step):
        yield raw[start + 1 : start + step]


@pytest.mark.chromium
def test_a_browser_without_a_network_shows_it(run, tmp_path):
    file = write_report(run, tmp_path / "report.html", FAST, "a title")
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--hide-scrollbars", "--window-size=1000,1600"),
    ]
    common = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}"]
    dom = subprocess.run(
        [*common, "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout
    assert set(SECTIONS) <= sections(dom)
    picture = tmp_path / "report.png"
    subprocess.run(
        [*common, f"--screenshot={picture}", file.as_uri()],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    drawn = sum(len(set(row)) > 2 for row in rows(picture))
    assert drawn > 400  # of 1600 rows of pixels: not blank


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (119.7, "2:00 min"), (185, "3:05 min")]
)
def test_a_duration_is_told_by_seconds_and_then_by_minutes(seconds, told):
    assert _seconds(seconds) == told


def test_a_model_is_titled_by_its_name():
    assert _title("mlp/loss") == "MLP · loss"
    assert _title("gradient_norm") == "Gradient norm"
