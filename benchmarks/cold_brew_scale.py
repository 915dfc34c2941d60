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

*kernels*: the teacher over the whole graph by DGL, over the same with CSR matrices of torch in its
place; each leaves out a batch of edges, as training does. ``step`` is a step of training, ``pass``
the teacher's part of it alone, forward and backward.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
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
from isohop.coldbrew.message_passing import MessageGraph, Relation, Weights
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


class CsrGraph(MessageGraph):
    """What a `MessageGraph` does where edges are left out, by torch alone; validation, where none
    is, is no part of a step."""

    @cached_property
    def _places(self) -> dict[str, tuple[Csr, Csr]]:
        found = {}
        for relation in self.relations:
            source, target = self.ends(relation)
            shape = (self.counts[relation.target], self.counts[relation.source])
            transposed = Csr.of(source, target, shape[::-1])
            found[relation.name] = Csr.of(target, source, shape), transposed
        return found

    def mean(self, relation: Relation, values: Tensor, weights: Weights) -> Tensor:
        if relation.name not in weights.means:
            return super().mean(relation, values, weights)
        means = weights.means[relation.name][:, 0]
        matrices = [place.matrix(means) for place in self._places[relation.name]]
        return CsrMean.apply(*matrices, values)  # type: ignore[no-any-return]


def measure_kernels(folder: Path) -> dict[str, float]:
    """By turns, so that whatever else the machine does slows both."""
    distiller = distiller_of(Graph.open(folder / "graph"), SETTINGS["whole"])
    teacher, inputs = distiller.teacher, distiller.inputs
    plain = CsrGraph(inputs.counts, inputs.edge_types, distiller.visible)
    graphs = {"dgl": distiller.graph, "csr": plain}
    asked = distiller.task.draw(torch.Generator().manual_seed(SEED)).positions

    def tell(graph: MessageGraph) -> dict[str, Tensor]:
        weights = graph.weights(graph.both_ways(asked))
        return teacher(graph, inputs.features, weights)  # type: ignore[no-any-return]

    def learn(graph: MessageGraph) -> None:
        distiller.graph = graph
        distiller.train(1)

    def look(graph: MessageGraph) -> None:
        torch.stack([one.square().mean() for one in tell(graph).values()]).sum().backward()

    teacher.eval()
    torch.testing.assert_close(*map(tell, graphs.values()), rtol=1e-3, atol=1e-4)
    distiller.start("teacher")
    found: dict[str, float] = {}
    for what, act in {"step": learn, "pass": look}.items():
        times: dict[str, list[float]] = {name: [] for name in graphs}
        for _ in range(STEPS):
            for name, graph in graphs.items():
                clock = time.perf_counter()
                act(graph)
                times[name].append(time.perf_counter() - clock)
        # The first few make what is kept.
        costs = {name: float(np.median(all_[WARM_UP:])) for name, all_ in times.items()}
        found |= {f"{name}/ms a {what}": cost * 1e3 for name, cost in costs.items()}
        found[f"dgl : csr/{what}"] = costs["dgl"] / costs["csr"]
    return found


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
