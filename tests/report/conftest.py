"""A synthetic run, laid out as the stages lay one out, with hostile text in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.giant.diagnostics import LevelFigures
from isohop.giant.evaluation import EdgeRanks, Ranks
from isohop.giant.features import FeatureManifest
from isohop.graph.dataset import Attribute, EdgeType, Graph, GraphManifest, NodeType

HOSTILE = "<script>alert('x')</script> & \"quotes\" \x00 <img src=http://evil.example/x.png>"
DIMENSIONS = 16
MAKERS = ("BOEING", "AIRBUS", "EMBRAER", "CESSNA", "BOMBARDIER INC")


def _embeddings(
    generator: np.random.Generator, groups: np.ndarray, degree: np.ndarray, key: dict[str, Any]
) -> pa.Table:
    """Vectors around one centre a group; nodes without edges are the student's."""
    centres = generator.normal(size=(groups.max() + 1, DIMENSIONS))
    vectors = centres[groups] + 0.45 * generator.normal(size=(len(groups), DIMENSIONS))
    values = pa.array(vectors.astype(np.float32).ravel())
    return pa.table(
        {
            **key,
            "node_id": pa.array(np.arange(len(groups))),
            "embedding": pa.FixedSizeListArray.from_arrays(values, DIMENSIONS),
            "source": pa.array(np.where(degree == 0, "student", "teacher")),
            "confidence": pa.array(np.full(len(groups), 0.5, np.float32)),
            "degree": pa.array(degree),
        }
    )


def _write_graph(run: Path, airports: int, planes: int, seed: int) -> dict[str, pa.Table]:
    generator = np.random.default_rng(seed)
    zones = ["America/New_York", "America/Chicago", "America/Denver", "Europe/Paris"]
    zone = np.minimum(generator.geometric(0.45, airports) - 1, 3)
    maker = np.minimum(generator.geometric(0.4, planes) - 1, 4)
    airport = pa.table(
        {
            "node_id": np.arange(airports),
            "faa": [f"A{i:03d}" for i in range(airports)],
            "name": [HOSTILE, None, *(f"Airport {i} of Zürich 東京" for i in range(2, airports))],
            "alt": generator.normal(500, 300, airports),
            "zone": [zones[z] for z in zone],
        }
    )
    plane = pa.table(
        {
            "node_id": np.arange(planes),
            "tailnum": [f"N{i:05d}" for i in range(planes)],
            "year": pa.array(generator.integers(1980, 2013, planes)),
        }
    )
    carriers = ["AA", "B6", "DL", "EV", "UA", "WN"]
    carrier = pa.table(
        {
            "node_id": np.arange(6),
            "carrier": carriers,
            "name": [f"{code} Air Lines Inc." for code in carriers],
        }
    )
    shared = pa.table({"node_id": np.arange(len(MAKERS)), "value": sorted(MAKERS)})
    ranks = np.argsort(np.argsort(MAKERS))

    def edges(source: np.ndarray, target: np.ndarray) -> pa.Table:
        pairs, count = np.unique(np.stack([source, target]), axis=1, return_counts=True)
        return pa.table({"src": pairs[0], "dst": pairs[1], "count": count})

    popular = np.clip((generator.pareto(0.8, 4 * planes) * 4).astype(int), 0, airports - 11)
    flying = generator.integers(0, planes - 40, 4 * planes)
    flights = edges(flying, popular)
    tables = {
        "plane--flight--airport": flights,
        "plane--origin--airport": edges(flying[:planes], popular[:planes] % 3),
        "plane--flight--carrier": edges(flying, generator.integers(0, 6, 4 * planes)),
        "airport--route--airport": edges(popular[:400] % 3, popular[400:800]),
        "plane--manufacturer--plane.manufacturer": edges(np.arange(planes), ranks[maker]),
    }
    nodes = {"airport": airport, "carrier": carrier, "plane": plane, "plane.manufacturer": shared}
    attributes = {
        "airport": (
            Attribute(name="name", kind="text", type="string"),
            Attribute(name="alt", kind="number", type="double"),
            Attribute(name="zone", kind="category", type="string"),
        ),
        "carrier": (Attribute(name="name", kind="text", type="string"),),
        "plane": (Attribute(name="year", kind="number", type="int64"),),
        "plane.manufacturer": (),
    }
    manifest = GraphManifest(
        name="nycflights13",
        certificate="9f86d081884c7d659a2feaa0c55ad015",
        node_types=tuple(
            NodeType(
                name=name,
                key=(table.column_names[1],),
                attributes=attributes[name],
                count=table.num_rows,
                shared="." in name,
            )
            for name, table in nodes.items()
        ),
        edge_types=tuple(
            EdgeType(
                source=name.split("--")[0],
                role=name.split("--")[1],
                target=name.split("--")[2],
                count=table.num_rows,
                functional="manufacturer" in name,
            )
            for name, table in tables.items()
        ),
        plan={
            "mermaid": "graph LR\n  plane --flight--> airport\n",
            "tables": [
                {"table": "flights", "column": None, "became": "event", "why": "no table refers"},
                {
                    "table": "flights",
                    "column": "tailnum",
                    "became": "participant plane",
                    "why": "a reference to the home of an entity",
                },
                {"table": "planes", "column": None, "became": "entity plane", "why": HOSTILE},
            ],
            "distances": [
                {"from": "plane", "to": "plane.manufacturer", "before": None, "after": 2},
                {"from": "airport", "to": "carrier", "before": 2, "after": 1},
            ],
            "warnings": ["weather: the tie between its rows and flights is lost " + HOSTILE],
        },
    )
    Graph.write(run / "graph", manifest, nodes, tables)
    degree = {name: np.zeros(table.num_rows, np.int64) for name, table in nodes.items()}
    for name, table in tables.items():
        for entity, side in zip(name.split("--")[::2], ("src", "dst"), strict=True):
            degree[entity] += np.bincount(table[side].to_numpy(), minlength=len(degree[entity]))
    # The last planes only have a manufacturer: say they are what the student speaks for.
    degree["plane"][-40:] = 0
    return {
        "airport": _embeddings(generator, zone, degree["airport"], {"faa": airport["faa"]}),
        "carrier": _embeddings(
            generator, np.arange(6), degree["carrier"], {"carrier": carrier["carrier"]}
        ),
        "plane": _embeddings(generator, maker, degree["plane"], {"tailnum": plane["tailnum"]}),
    }


def _ledger() -> dict[str, Any]:
    return {
        "closes": True,
        "tables": [
            {
                "table": "flights",
                "rows": 336776,
                "used": 284170,
                "quarantined": {"plane not found: tailnum": 52606},
                "unused": {},
                "findings": [
                    {
                        "kind": "orphaned reference",
                        "where": "flights.tailnum → planes",
                        "count": 50094,
                        "examples": ["N3ALAA", HOSTILE],
                        "policy": "quarantine",
                    }
                ],
            },
            {"table": "weather", "rows": 26115, "used": 26112, "quarantined": {"duplicate key": 3},
             "unused": {}, "findings": []},
            {"table": "planes", "rows": 3322, "used": 3322, "quarantined": {}, "unused": {},
             "findings": []},
            {"table": "airlines", "rows": 16, "used": 6, "quarantined": {},
             "unused": {"outside of the cut-off": 10}, "findings": []},
        ],
        "findings": [
            {
                "kind": "violated dependency",
                "where": "airport.city",
                "count": 12345,
                "examples": ["('JFK',) has ('Queens',) × 2", HOSTILE],
                "policy": "majority",
            },
            {"kind": "entity without rows", "where": "pilot", "count": 0, "examples": [],
             "policy": ""},
        ],
        "notes": ["weather.time_hour: cut to microseconds " + HOSTILE],
    }  # fmt: skip


def _ranks(generator: np.random.Generator, low: float, high: float) -> Ranks:
    first, mean, ten = np.sort(generator.uniform(low, high, 3)).tolist()
    return Ranks(hits_at_1=first, hits_at_10=ten, mrr=mean)


def _features(generator: np.random.Generator, edge_types: list[str]) -> FeatureManifest:
    steps = np.arange(0, 1500, 5)
    loss = 0.6 * np.exp(-steps / 300) + 0.08 + 0.02 * generator.normal(size=len(steps))
    norm = 2 + 0.3 * generator.normal(size=len(steps))
    held_out = {
        name: EdgeRanks(
            trained=_ranks(generator, 0.4, 0.8),
            untrained=_ranks(generator, 0.1, 0.3),
            tfidf=_ranks(generator, 0.2, 0.45),
            count=count,
        )
        for name, count in [*((name, 250) for name in edge_types), ("all", 1250)]
    }
    levels = [
        LevelFigures(target="airport", level=1, labels=16, smallest=7, mean=7.5, largest=8),
        LevelFigures(target="plane", level=1, labels=16, smallest=18, mean=18.75, largest=19,
                     count=750, mrr=0.71, hits_at_10=0.93, in_beam=1.0),
        LevelFigures(target="plane", level=2, labels=128, smallest=2, mean=2.34, largest=3,
                     count=750, mrr=0.44, hits_at_10=0.71, in_beam=0.787),
        LevelFigures(target="plane", level=3, labels=300, smallest=1, mean=1.0, largest=1,
                     count=750, mrr=0.2, hits_at_10=0.4, in_beam=0.5),
    ]  # fmt: skip
    return FeatureManifest(
        dimensions=32,
        encoder="hashing",
        seed=0,
        node_types={"airport": 120, "plane": 300},
        levels=tuple(levels),
        curves={
            "loss": tuple(zip(steps.tolist(), loss.tolist(), strict=True)),
            "gradient norm": tuple(zip(steps.tolist(), norm.tolist(), strict=True)),
        },
        held_out=held_out,
        seconds={"prepare": 2.5, "train": 14.2, "evaluate": 1.1, "extract": 2.1},
    )


def _distilled(generator: np.random.Generator) -> dict[str, Any]:
    curves = {
        name: [[step, scale * float(np.exp(-step / 40)) + 0.05] for step in range(120)]
        for name, scale in (
            ("teacher/loss", 1.0),
            ("teacher/validation", -0.4),
            ("student/loss", 2),
        )
    }
    evaluation = [
        {
            "task": "link",
            "entity": entity,
            "group": group,
            "metric": metric,
            "model": model,
            "value": float(np.clip(strength + generator.normal(0, 0.04), 0, 1)),
            "count": 400,
        }
        for entity in ("all", "airport", "plane")
        for metric in ("mrr", "hits@10")
        for group, teacher, student in (
            ("overall", 0.62, 0.5),
            ("head", 0.75, 0.55),
            ("tail", 0.5, 0.45),
            ("isolated", 0.12, 0.41),
            ("degree 4-7", 0.6, 0.4),
            ("plane--manufacturer--plane.manufacturer", 0.9, 0.8),
            ("plane--manufacturer--plane.manufacturer, isolated", 0.3, 0.7),
        )
        for model, strength in (
            ("teacher", teacher),
            ("student", student),
            ("mlp", student - 0.08),
            ("served", max(teacher, student)),
        )
    ]
    seconds = {"teacher": 11.0, "student": 6.5, "evaluation": 1.2}
    return {
        "format": 1,
        "curves": curves,
        "evaluation": evaluation,
        "calibration": {
            "airport": [
                {"confidence": 0.25, "right": 0.5, "count": 100},
                {"confidence": 0.75, "right": 0.625, "count": 300},
            ],
            "plane": [],
        },
        "notes": ["no structural embeddings: " + HOSTILE],
        "seconds": seconds,
    }


def _write_credible(run: Path) -> None:
    """All routes from the first airport lead anywhere, and one flight; carriers are not judged."""
    graph = Graph.open(run / "graph")
    (run / "model" / "credible").mkdir()
    for name in ("airport--route--airport", "plane--flight--airport"):
        source, target = graph.edge_index(name)
        credible = np.linspace(0.6, 1, len(source), dtype=np.float32)
        credible[: np.count_nonzero(source == 0) if "route" in name else 1] = 0.05
        judged = pa.table({"src": source, "dst": target, "credible": credible})
        pq.write_table(judged, run / "model" / "credible" / f"{name}.parquet")


def write_run(run: Path, airports: int = 120, planes: int = 300, seed: int = 0) -> Path:
    """All parts of a run but its pipeline file."""
    for entity, table in _write_graph(run, airports, planes, seed).items():
        (run / "embeddings" / entity).mkdir(parents=True)
        pq.write_table(table, run / "embeddings" / entity / "part-0.parquet")
    (run / "graph" / "ledger.json").write_text(json.dumps(_ledger()))
    generator = np.random.default_rng(seed)
    edge_types = [edge.name for edge in Graph.open(run / "graph").edge_types]
    for name, content in (
        (
            "features/features.json",
            _features(generator, edge_types).model_dump_json(),
        ),
        ("model/distill.json", json.dumps(_distilled(generator))),
    ):
        (run / name).parent.mkdir()
        (run / name).write_text(content)
    _write_credible(run)
    return run


@pytest.fixture(scope="session")
def run_writer() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run-1")


@pytest.fixture(scope="session")
def hostile() -> str:
    """Text in the run that must not become markup."""
    return HOSTILE
