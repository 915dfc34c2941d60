"""Cold Brew at scale: time and memory of distillation, and DGL against plain torch.

    python -m benchmarks.cold_brew_scale [--nodes 100000 200000 400000] [--quick] [--json FILE]

The graph of `giant_scale.py`, with features that tell a node's community through noise. Every size
is measured in processes of its own, one thread, with the settings of the stage. *sampled*: each
step from a sample of the graph, as large graphs are distilled; teacher, MLP and student with all
that follows from them (validation, credible edges, latent neighbours, choosing), and one step of
each. *labelled*: a step of the teacher, likewise, where there is a label of ten classes. *whole*:
messages over all of it; a step of the teacher. *walked* and *walking*: all steps of a hop-wise
teacher with three hops, by walks that are made once for many steps, as large graphs are
distilled, and by one in each step; and how well it ranks validation edges. ``slope`` is that of
log(time) or log(memory) by log(nodes + edges): 1 is in proportion.

*kernels*: a step of the teacher over the whole graph by DGL, over the same step with CSR matrices
of torch in DGL's place, forward and backward; each leaves out a batch of edges, as training does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks.cold_brew import inputs_of
from benchmarks.giant_scale import COMMUNITY, SEED, Scattered, write_graph
from benchmarks.measure import run_part, show, sizes_asked
from torch import Tensor

from isohop.coldbrew import DistillSettings
from isohop.coldbrew.distill import MODELS
from isohop.coldbrew.distiller import Distiller
from isohop.coldbrew.labels import Labels
from isohop.coldbrew.links import some_of
from isohop.coldbrew.message_passing import MessageGraph, Relation, RelationGraph, Weights
from isohop.graph import Graph, hold_out

NODES = (100_000, 200_000, 400_000)
QUICK = (10_000, 20_000, 40_000)
DIMENSIONS = 64
WARM_UP, STEPS = 2, 10
EVERYTHING = 1 << 62
SETTINGS = {
    "sampled": DistillSettings(full_graph=0),
    "labelled": DistillSettings(full_graph=0),
    "whole": DistillSettings(full_graph=EVERYTHING),
    "walked": DistillSettings(full_graph=0, teacher="hop-wise", hops=3),
    "walking": DistillSettings(full_graph=EVERYTHING, teacher="hop-wise", hops=3),
}


def distiller_of(graph: Graph, settings: DistillSettings, classes: int = 0) -> Distiller:
    """``classes``: of a label of papers, 0 for none."""
    nodes = sum(node.count for node in graph.node_types)
    communities = max(1, nodes // COMMUNITY)
    centres = torch.randn(communities, DIMENSIONS, generator=torch.Generator().manual_seed(SEED))
    features, labels = {}, None
    for node in graph.node_types:
        # As `write_graph` scatters them.
        of = Scattered(node.count, communities, {"author": 3, "paper": 5}[node.name])
        random = torch.Generator().manual_seed(of.salt)
        noise = torch.randn(node.count, DIMENSIONS, generator=random)
        community = torch.from_numpy(of.community(np.arange(node.count)))
        features[node.name] = centres[community] + 2 * noise
        if classes and node.name == "paper":
            part = torch.randint(5, (node.count,), generator=random)
            labels = Labels("paper", community % classes, classes, part > 1, part == 0, part == 1)
    holdout = hold_out(graph, SEED)
    return Distiller(inputs_of(graph, features), holdout, labels, settings, SEED, 1)


def measure_steps(distiller: Distiller, model: str) -> float:
    """Milliseconds a step, of the first."""
    distiller.start(model)
    distiller.train(WARM_UP)
    clock = time.perf_counter()
    distiller.train(STEPS)
    return (time.perf_counter() - clock) / STEPS * 1e3


def measure_teacher(settings: str, classes: int, folder: Path) -> dict[str, float]:
    distiller = distiller_of(Graph.open(folder / "graph"), SETTINGS[settings], classes)
    return {"teacher/ms a step": measure_steps(distiller, "teacher")}


def measure_hops(settings: str, folder: Path) -> dict[str, float]:
    distiller = distiller_of(Graph.open(folder / "graph"), SETTINGS[settings])
    distiller.start("teacher")
    clock = time.perf_counter()
    _, validation = distiller.train(distiller.steps)
    found = {"teacher/seconds": time.perf_counter() - clock}
    return found if validation is None else found | {"teacher/validation": validation}


def measure_sampled(folder: Path) -> dict[str, float]:
    graph = Graph.open(folder / "graph")
    clock = time.perf_counter()
    distiller = distiller_of(graph, SETTINGS["sampled"])
    found = {"reading/seconds": time.perf_counter() - clock}
    for model in MODELS:
        clock = time.perf_counter()
        found[f"{model}/ms a step"] = measure_steps(distiller, model)
        distiller.train(distiller.steps)
        distiller.finish()
        found[f"{model}/seconds"] = time.perf_counter() - clock
        print(f"{model}: {found[f'{model}/seconds']:.1f} s", flush=True)
    evaluated = {
        row.model: row.value
        for row in distiller.evaluate()
        if (row.entity, row.group, row.metric) == ("all", "overall", "mrr")
    }
    return found | {f"{model}/mrr": value for model, value in evaluated.items()}


class CsrMean(torch.autograd.Function):
    """``A @ values`` with A in CSR, and its transpose for the gradient."""

    @staticmethod
    def forward(ctx, matrix: Tensor, transposed: Tensor, values: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(transposed)
        return matrix @ values

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, None, Tensor]:  # type: ignore[no-untyped-def]
        (transposed,) = ctx.saved_tensors
        return None, None, transposed @ gradient


@dataclass(frozen=True)
class Csr:
    """Where the edges of a relation stand in a matrix, and in which ``order``."""

    start: Tensor
    column: Tensor
    order: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, row: Tensor, column: Tensor, shape: tuple[int, int]) -> Csr:
        order = torch.argsort(row * shape[1] + column)
        start = torch.cat([torch.zeros(1), torch.bincount(row, minlength=shape[0]).cumsum(0)])
        return cls(start.int(), column[order].int(), order, shape)

    def matrix(self, values: Tensor) -> Tensor:
        held = values[self.order]
        return torch.sparse_csr_tensor(
            self.start, self.column, held, self.shape, check_invariants=False
        )


class CsrGraph(RelationGraph):
    """What a `MessageGraph` does where edges are left out, by torch alone."""

    def __init__(self, graph: MessageGraph):
        self.counts = graph.counts
        self.relations = graph.relations
        self._places = {}
        self._means: dict[str, Tensor] = {}
        self._targets = {}
        for relation in graph.relations:
            source, target = graph.ends(relation)
            shape = (graph.counts[relation.target], graph.counts[relation.source])
            self._targets[relation.name] = target
            transposed = Csr.of(source, target, shape[::-1])
            self._places[relation.name] = Csr.of(target, source, shape), transposed

    def weigh(self, weights: Weights) -> None:
        for relation in self.relations:
            keep, target = weights.kept[relation.name], self._targets[relation.name]
            total = torch.bincount(target, keep, minlength=self.counts[relation.target])
            self._means[relation.name] = keep / total[target].clamp(min=1.0)

    def mean(self, relation: Relation, values: Tensor, weights: Weights) -> Tensor:
        means = self._means[relation.name]
        matrices = [place.matrix(means) for place in self._places[relation.name]]
        return CsrMean.apply(*matrices, values)  # type: ignore[no-any-return]


def measure_kernels(folder: Path) -> dict[str, float]:
    distiller = distiller_of(Graph.open(folder / "graph"), SETTINGS["whole"])
    teacher, features = distiller.teacher.eval(), distiller.inputs.features
    whole, random = distiller.unweighed, torch.Generator().manual_seed(SEED)
    plain = CsrGraph(whole)
    graphs = {"dgl": whole, "csr": plain}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for number in range(WARM_UP + STEPS):
        batch = distiller.settings.batch
        left_out = {n: some_of(e.shape[1], batch, random) for n, e in whole.edges.items()}
        weights = whole.weights(left_out)
        plain.weigh(weights)
        if not number:
            both = [teacher(graph, features, weights) for graph in graphs.values()]
            torch.testing.assert_close(*both, rtol=1e-3, atol=1e-4)
        for name, graph in graphs.items():
            clock = time.perf_counter()
            vectors = teacher(graph, features, weights)
            torch.stack([one.square().mean() for one in vectors.values()]).sum().backward()
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - clock)
    step = {name: float(np.median(all_)) for name, all_ in times.items()}
    return {
        "dgl/ms a step": step["dgl"] * 1e3,
        "csr/ms a step": step["csr"] * 1e3,
        "dgl : csr/ratio": step["dgl"] / step["csr"],
    }


def measure_graph(folder: Path) -> dict[str, float]:
    graph = write_graph(folder / "graph", asked_nodes(folder))
    edges = sum(edge.count for edge in graph.edge_types)
    return {"graph/edges": edges, "graph/size": edges + sum(n.count for n in graph.node_types)}


def asked_nodes(folder: Path) -> int:
    return int((folder / "nodes").read_text("utf-8"))


PARTS = {
    "graph": measure_graph,
    "sampled": measure_sampled,
    "labelled": partial(measure_teacher, "labelled", 10),
    "whole": partial(measure_teacher, "whole", 0),
    "walked": partial(measure_hops, "walked"),
    "walking": partial(measure_hops, "walking"),
    "kernels": measure_kernels,
}


def measured(nodes: int) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="cold-brew-scale-") as temporary:
        (Path(temporary) / "nodes").write_text(str(nodes), "utf-8")
        for part in PARTS:
            figures, cost = run_part("benchmarks.cold_brew_scale", part, Path(temporary))
            found |= {f"{nodes}/{part}/{name}": value for name, value in figures.items()}
            found[f"{nodes}/{part}/process/peak GiB"] = cost.memory / 2**30
    return found


def slopes(figures: Mapping[str, float], sizes: list[int]) -> dict[str, float]:
    size = [figures[f"{nodes}/graph/graph/size"] for nodes in sizes]
    found = {}
    for name in figures:
        nodes, part, what = name.split("/", 2)
        of_cost = what.endswith(("seconds", "ms a step", "peak GiB"))
        if int(nodes) == sizes[0] and of_cost and part in SETTINGS:
            costs = [figures[f"{n}/{part}/{what}"] for n in sizes]
            found[f"slope/{part}/{what}"] = float(np.polyfit(np.log(size), np.log(costs), 1)[0])
    return found


def main() -> None:
    sizes, file = sizes_asked(__doc__.splitlines()[0], "nodes", NODES, QUICK, PARTS)
    found: dict[str, float] = {}
    for nodes in sizes:
        found |= measured(nodes)
    if len(sizes) > 1:
        found |= slopes(found, sizes)
    show("Cold Brew at scale", found, file)


if __name__ == "__main__":
    main()
