"""GIANT at scale: time and memory a node, on synthetic graphs with text.

    python -m benchmarks.giant_scale [--nodes 1000000 2000000 4000000] [--quick] [--json FILE]

A graph of papers and authors is written as a graph dataset: ten words a text, of a Zipf vocabulary
and of the words of a hidden community; edges mostly inside communities, eight a node, and some
hubs. Files are laid out as the engine does it: row groups of 2^20 rows, blocks of 8192 in turn over
four files. Every size is measured in processes of its own, so that peaks of memory are its own:

*training*, one thread: what a trainer prepares, by part; 50 steps after a warm-up; the trained
encoder over all nodes, and what it is given (rendering, hashing) apart.
*inference*: the stage's tasks of Ray, reading and writing included. ``against the encoder`` is
core-seconds of it, without those that one process needs for reading, rendering, hashing and
writing the same nodes, over those of the bare encoder: 1.1 is ten per cent more.

Times are of one core, or of all cores times their number: they mean something on a machine that
does nothing else. What follows for `EXTRAPOLATED` nodes is a straight line through the sizes that
were measured, and no measurement. There, what a trainer holds of every node would have to be
spread or to be made for each batch anew: the text above all, of about 70 n-grams in eight bytes
each (twelve from 2^31 n-grams on, at some 30 million nodes), then texts along directions and the
targets. The label tree and the first directions fit; inference holds a piece, whatever the size.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import wraps
from math import gcd
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.measure import cost_of, parser_of, show

from isohop.engines.storage import folder_atomically, write_text_atomically
from isohop.giant.encoder import encode_all
from isohop.giant.settings import FeatureSettings
from isohop.graph import EdgeType, Graph, GraphManifest, NodeType
from isohop.graph.dataset import Attribute

NODES = (1_000_000, 2_000_000, 4_000_000)
QUICK = (100_000, 200_000)
EXTRAPOLATED = 100_000_000
# Of both types clusters alone are predicted, at every size as at 100 million.
SETTINGS = FeatureSettings(labels=1 << 14)
SEED = 1
WARM_UP, STEPS = 10, 50
INFERRED = 1 << 17
"""Nodes by which reading, rendering, hashing and writing are timed."""

AUTHORS = 0.3
CITES, WRITES = 2.5, 1.5
"""Edges of each type, a node of the graph: eight ends a node."""
COMMUNITY = 500
STRANGERS, TO_HUBS = 0.15, 0.02
NODES_A_HUB = 100_000
WORDS, WORDS_A_TEXT, OWN_WORDS = 50_000, 10, 30
BLOCK, FILES, ROW_GROUP = 8192, 4, 1 << 20
CHUNK = 8 * BLOCK * FILES
"""Rows that are made at once."""


@dataclass(frozen=True)
class Scattered:
    """``count`` nodes of a type and their communities, by arithmetic alone.

    Node i has the place (a i + b) mod count, a prime to count; a community is a run of places.
    """

    count: int
    communities: int
    salt: int

    @property
    def factor(self) -> int:
        factor = max(1, int(self.count * 0.6180339887))
        while gcd(factor, self.count) != 1:
            factor += 1
        return factor

    def community(self, nodes: np.ndarray) -> np.ndarray:
        """int64, of int64 node ids."""
        places = (nodes * self.factor + self.salt) % self.count
        return places * self.communities // self.count

    def member(self, communities: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """int64: a node of each of ``communities``."""
        first = -(-communities * self.count // self.communities)
        after = -(-(communities + 1) * self.count // self.communities)
        places = first + (draw.random(len(first)) * (after - first)).astype(np.int64)
        return (places - self.salt) * pow(self.factor, -1, self.count) % self.count


def words() -> pa.Array:
    """The vocabulary: large_string (WORDS,), of four to nine letters."""
    draw = np.random.default_rng(SEED)
    letters = draw.integers(ord("a"), ord("z") + 1, (WORDS, 9), np.uint8)
    letters[np.arange(9) >= draw.integers(4, 10, WORDS)[:, None]] = 0
    return pa.array(letters.view("S9").ravel().astype(str), pa.large_string())


def texts(communities: np.ndarray, vocabulary: pa.Array, draw: np.random.Generator) -> pa.Array:
    """string (rows,): half of the words are those of the row's community."""
    shape = len(communities), WORDS_A_TEXT
    common = (WORDS ** draw.random(shape)).astype(np.int64)
    own = communities[:, None] * 7919 + (OWN_WORDS ** draw.random(shape)).astype(np.int64)
    chosen = np.where(draw.random(shape) < 0.5, own % WORDS, common - 1)
    ends = np.arange(0, chosen.size + 1, WORDS_A_TEXT)
    lists = pa.LargeListArray.from_arrays(pa.array(ends), vocabulary.take(pa.array(chosen.ravel())))
    return pc.binary_join(lists, pa.scalar(" ", pa.large_string())).cast(pa.string())


def write_nodes(folder: Path, nodes: Scattered) -> None:
    folder.mkdir(parents=True)
    vocabulary = words()
    held: list[list[pa.Table]] = [[] for _ in range(FILES)]
    writers: list[pq.ParquetWriter | None] = [None] * FILES

    def flush(file: int) -> None:
        table = pa.concat_tables(held[file]).combine_chunks()
        writer = writers[file] or pq.ParquetWriter(
            folder / f"part-{file}.parquet", table.schema, compression="zstd"
        )
        writers[file] = writer
        writer.write_table(table, row_group_size=ROW_GROUP)
        held[file].clear()

    for start in range(0, nodes.count, CHUNK):
        ids = np.arange(start, min(start + CHUNK, nodes.count))
        draw = np.random.default_rng([SEED, nodes.salt, start])
        columns = {"node_id": ids, "id": ids, "text": texts(nodes.community(ids), vocabulary, draw)}
        table = pa.table(columns)
        for file in range(FILES):
            held[file].append(table.filter(pa.array(ids // BLOCK % FILES == file)))
            if sum(part.num_rows for part in held[file]) >= ROW_GROUP:
                flush(file)
    for file, writer in enumerate(writers):
        if held[file]:
            flush(file)
            writer = writers[file]
        if writer is not None:
            writer.close()


def write_edges(folder: Path, source: Scattered, target: Scattered, each: float) -> int:
    """``each`` edges a source, about; returns how many there are."""
    folder.mkdir(parents=True)
    hubs = max(1, target.count // NODES_A_HUB)
    total = 0
    for start in range(0, source.count, CHUNK):
        draw = np.random.default_rng([SEED, source.salt, target.salt, start])
        ids = np.arange(start, min(start + CHUNK, source.count))
        ends = np.repeat(ids, draw.poisson(each, len(ids)))
        other = target.member(source.community(ends), draw)
        kind = draw.random(len(ends))
        to_hub, strange = kind < TO_HUBS, kind > 1 - STRANGERS
        other[to_hub] = draw.integers(0, hubs, int(to_hub.sum())) * (target.count // hubs)
        other[strange] = draw.integers(0, target.count, int(strange.sum()))
        pairs = np.unique(ends * target.count + other)
        columns = {"src": pairs // target.count, "dst": pairs % target.count}
        table = pa.table({**columns, "count": np.ones(len(pairs), np.int64)})
        pq.write_table(table, folder / f"part-{start:012d}.parquet", compression="zstd")
        total += len(pairs)
    return total


def write_graph(path: Path, nodes: int) -> Graph:
    """Papers that cite papers, by authors; ``nodes`` of both together. The same at every call."""
    communities = max(1, nodes // COMMUNITY)
    authors = max(communities, round(AUTHORS * nodes))
    types = {
        "author": Scattered(authors, communities, 3),
        "paper": Scattered(nodes - authors, communities, 5),
    }
    roles = {"cites": ("paper", "paper", CITES), "written_by": ("paper", "author", WRITES)}
    edges = []
    with folder_atomically(path) as folder:
        for name, scattered in types.items():
            write_nodes(folder / "nodes" / name, scattered)
        for role, (source, target, number) in roles.items():
            ends = types[source], types[target]
            where = folder / "edges" / f"{source}--{role}--{target}"
            count = write_edges(where, *ends, number * nodes / ends[0].count)
            edges.append(EdgeType(source=source, role=role, target=target, count=count))
        text = Attribute(name="text", kind="text", type="string")
        manifest = GraphManifest(
            name="scale",
            certificate="0" * 32,
            node_types=tuple(
                NodeType(name=name, key=("id",), attributes=(text,), count=scattered.count)
                for name, scattered in types.items()
            ),
            edge_types=tuple(edges),
        )
        write_text_atomically(folder / "graph.json", manifest.model_dump_json(indent=1))
    return Graph.open(path)


PARTS = {
    "held-out edges": "hold_out",
    "documents": "documents_of",
    "targets": "neighbourhoods",
    "first directions": "agreement_directions",
    "texts of labels": "label_features",
    "label tree": "label_tree",
    "clustered targets": "clustered",
}
"""What `isohop.giant.training` calls, by what it is called here."""


@dataclass
class Figures:
    """Seconds of each part, and the peak memory of this process, in bytes, at its end."""

    nodes: int
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        self.peaks[part] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        told = f"{seconds:.2f} s, at most {self.peaks[part] / 2**30:.2f} GiB so far"
        print(f"{self.nodes:,} nodes: {part}: {told}", flush=True)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            clock = time.perf_counter()
            result = function(*arguments, **named)
            self.add(part, time.perf_counter() - clock)
            return result

        return call


def measure_graph(folder: Path, nodes: int) -> Figures:
    figures = Figures(nodes)
    figures.timed("written", write_graph)(folder / "graph", nodes)
    return figures


def measure_training(folder: Path, nodes: int) -> Figures:
    from isohop.giant import training

    figures = Figures(nodes)
    graph = Graph.open(folder / "graph")
    clock = time.perf_counter()
    with ExitStack() as patches:
        for part, name in PARTS.items():
            timed = figures.timed(part, getattr(training, name))
            patches.enter_context(mock.patch.object(training, name, timed))
        trainer = training.Trainer(graph, SETTINGS, SEED, None, 1)
    rest = time.perf_counter() - clock - sum(figures.seconds.values())
    figures.add("n-grams, texts along directions, heads", rest)
    trainer.train(WARM_UP)
    clock = time.perf_counter()
    taken = trainer.train(STEPS)
    step = (time.perf_counter() - clock) / len(taken)
    print(
        f"{nodes:,} nodes: a step takes {step * 1e3:.2f} ms, loss {taken[-1].loss:.3f}", flush=True
    )
    figures.add("training", step * trainer.steps)
    figures.seconds[ONE_STEP] = step
    clock = time.perf_counter()
    encode_all(trainer.encoder, trainer.prepared, trainer.node_type)
    figures.add("encoder", time.perf_counter() - clock)
    (folder / "encoder").mkdir()
    trainer.encoder.save(folder / "encoder")
    return figures


def measure_inference(folder: Path, nodes: int) -> Figures:
    """The stage's job, and what one process needs for the same without the encoder."""
    from isohop.engines.ray import ray_session
    from isohop.giant.inference import extract

    figures = Figures(nodes)
    graph = Graph.open(folder / "graph")
    figures.add(AROUND, around_the_encoder(folder, graph) * nodes)
    cores = min(os.cpu_count() or 1, len(os.sched_getaffinity(0)))
    with ray_session():
        clock = time.perf_counter()
        few = write_graph(folder / "few", FEW)
        extract(few, folder / "encoder", folder / "features of few", None)
        figures.seconds[START] = time.perf_counter() - clock
        clock = time.perf_counter()
        extract(graph, folder / "encoder", folder / "features", None)
        figures.add("inference", (time.perf_counter() - clock) * cores)
    for node in graph.node_types:
        rows = sum(
            pq.read_metadata(file).num_rows
            for file in (folder / "features" / node.name).glob("*.parquet")
        )
        if rows != node.count:
            sys.exit(f"{node.name}: features of {rows:,} nodes of {node.count:,}")
    return figures


def around_the_encoder(folder: Path, graph: Graph) -> float:
    """Seconds a node of reading, rendering, hashing and writing: of the first row groups."""
    from isohop.engines.pieces import BATCH
    from isohop.giant.documents import document_fields, render_documents
    from isohop.giant.encoder import load_encoder
    from isohop.giant.inference import FeatureWriter

    encoder = load_encoder(folder / "encoder")
    node = graph.node_types[-1]
    fields = document_fields(graph, node.name)
    names = ["node_id", *(field.name for field in fields)]
    file = pq.ParquetFile(min((graph.path / "nodes" / node.name).glob("*.parquet")))
    rows, clock = 0, time.perf_counter()
    with FeatureWriter(folder / "around" / "part-0.parquet", encoder.dimensions) as writer:
        for batch in file.iter_batches(BATCH, columns=names):
            documents = render_documents(pa.table(batch), fields, encoder.vocabulary.characters)
            encoder.prepare(documents)
            features = np.zeros((len(documents), encoder.dimensions), np.float32)
            writer.write(pa.chunked_array([batch["node_id"]]), features)
            rows += len(documents)
            if rows >= INFERRED:
                break
    return (time.perf_counter() - clock) / rows


def measured(nodes: int) -> dict[str, float]:
    """The figures of one size, each part in a process of its own."""
    found: dict[str, float] = {}
    name = f"{nodes}"
    with tempfile.TemporaryDirectory(prefix="giant-scale-") as temporary:
        for part in MEASURED:
            result = Path(temporary) / f"{part}.json"
            command = [sys.executable, "-m", "benchmarks.giant_scale", "--part", part]
            command += ["--folder", temporary, "--nodes", str(nodes), "--json", str(result)]
            cost = cost_of(command, told=True)
            told = json.loads(result.read_text("utf-8"))
            for what, seconds in told["seconds"].items():
                once = what in (ONE_STEP, START)
                unit, each = ("ms", 1e3) if once else ("µs a node", 1e6 / nodes)
                found[f"{name}/{part}/{what}/{unit}"] = seconds * each
            for what, peak in told["peaks"].items():
                found[f"{name}/{part}/{what}/GiB at its end"] = peak / 2**30
            found[f"{name}/{part}/peak memory/bytes a node"] = cost.memory / nodes
    forward = found[f"{name}/training/encoder/µs a node"]
    around = found[f"{name}/inference/{AROUND}/µs a node"]
    job = found[f"{name}/inference/inference/µs a node"]
    found[f"{name}/inference/against the encoder/ratio"] = (job - around) / forward
    return found


def compared(figures: dict[str, float], sizes: list[int]) -> dict[str, float]:
    """Growth from the smallest size to the largest, and a line through them to `EXTRAPOLATED`."""
    least, most = min(sizes), max(sizes)
    more: dict[str, float] = {}
    for name, value in figures.items():
        size, part, what, unit = name.split("/")
        if size != str(most) or part == "graph" or unit == "ratio":
            continue
        before = figures[f"{least}/{part}/{what}/{unit}"]
        if least != most:
            more[f"{most} : {least}/{part}/{what}/of {unit}"] = value / before
        line = f"{EXTRAPOLATED}, extrapolated/{part}/{what}"
        if unit == "µs a node":
            more[f"{line}/hours of one core"] = value / 1e6 * EXTRAPOLATED / 3600
        elif unit == "bytes a node":
            # What a process needs whatever the size is no part of the slope.
            slope = value if least == most else (value * most - before * least) / (most - least)
            more[f"{line}/GiB"] = slope * EXTRAPOLATED / 2**30
    return more


FEW = 10_000
"""Nodes whose features start the workers."""
START = "start of workers"
AROUND = "reading, rendering, hashing, writing"
ONE_STEP = "one step"
MEASURED: dict[str, Callable[[Path, int], Figures]] = {
    "graph": measure_graph,
    "training": measure_training,
    "inference": measure_inference,
}


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], f"{QUICK[0]:,} and {QUICK[1]:,} nodes")
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--part", choices=MEASURED, help="of one size, into --json: what this runs")
    parser.add_argument("--folder", type=Path, help="of --part")
    asked = parser.parse_args()
    if asked.part is not None:
        figures = MEASURED[asked.part](asked.folder, asked.nodes[0])
        asked.json.write_text(json.dumps(asdict(figures)), "utf-8")
        return
    sizes = list(QUICK if asked.quick else asked.nodes)
    found: dict[str, float] = {}
    for nodes in sizes:
        found |= measured(nodes)
    show("GIANT at scale", found | compared(found, sizes), asked.json)


if __name__ == "__main__":
    main()
