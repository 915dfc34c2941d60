"""Teachers: vectors of nodes from features, edges, and a place of their own in the graph.

All kinds add *structural embeddings* to what nodes hold (`structural.py`). All are trained by link
prediction, and on a label where the pipeline names one; the edges of a step are left out of its
messages, so that no edge helps to predict itself. Labels that training knows are heard by others,
never by the node itself (`known_labels.py`).

- *message-passing*: X^{l+1} = σ(layer(X^l + E^l)), with weights for each relation (R-GCN,
  GraphSAGE), initial residual and normalisation.
- *convolution*: steps of a walk that learns nothing, and between them weights for each node type
  (GCN, Kipf and Welling, ICLR 2017, whose last step gives the vectors); with an initial residual
  these begin near the identity, the nearer the deeper they lie (GCNII, Chen et al., ICML 2020), so
  that many layers can be stacked.
- *hop-wise*: a walk that learns nothing carries features and E to nodes some steps away; each node
  weighs what arrives by hop (SAGN, Sun et al., 2021), and an MLP reads it. In training a random
  part of the nodes sends nothing (GRAND, Feng et al., NeurIPS 2020): a node must be told by
  whichever of its neighbours are there. Of a large graph walks are made once for many steps
  (`walks.py`), in which all nodes send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.beginning import begin_alike, begin_as_identity
from isohop.coldbrew.dropout import dropout
from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.known_labels import KnownLabels
from isohop.coldbrew.links import LinkScore
from isohop.coldbrew.message_passing import (
    MessageGraph,
    RelationalLayer,
    RelationGraph,
    Weights,
    relations_of,
)
from isohop.coldbrew.sampling import Layer, Sample
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.structural import PREFIX, Rows, StructuralEmbeddings
from isohop.coldbrew.tables import ResidualMLP, Table, by_blocks, module_key
from isohop.coldbrew.walks import PLACED, Walk

IDENTITY = 0.5
"""How far weights are from the identity, over the number of their layer (GCNII's λ)."""

Placed = Callable[[Table, int], dict[str, Tensor]]
"""Adds the structural embeddings of a layer to what nodes hold, and known labels to begin with."""


class Teacher(nn.Module):
    """Vectors of all nodes, float32 (nodes, d) by type, from features and edges. At length 1 they
    are embeddings; a label is read from them as they are. What messages bring at last goes through
    no activation, so of these the label is read by more than a linear layer.

    ``structural``: node type -> int64 ids, ascending, of the nodes with structural embeddings.
    ``outputs``: of the label, its classes, 1 for a number, 0 where there is none. ``sampled``: it
    learns from samples of the graph. ``known``: the labels that nodes hear of their neighbours.
    """

    def __init__(
        self,
        inputs: Inputs,
        structural: Mapping[str, Tensor],
        settings: DistillSettings,
        outputs: int = 0,
        sampled: bool = False,
        known: KnownLabels | None = None,
    ):
        super().__init__()
        d = settings.part
        self.body = BODIES[settings.teacher](inputs, settings)
        self.names = names = tuple(inputs.counts)
        for name in names:
            self.register_buffer(f"nodes_{module_key(name)}", structural[name])
        rows = {name: len(structural[name]) for name in names}
        self.structural = StructuralEmbeddings(rows, self.body.places, d, sampled)
        self.out = nn.ModuleDict(
            {
                module_key(name): nn.Identity()
                if self.body.final
                else begin_as_identity(nn.Linear(d, d))
                for name in names
            }
        )
        self.known = known
        self.score = LinkScore(tuple(inputs.edge_types), d, "distmult", settings.scale)
        self.classify: nn.Module | None = None
        if outputs:
            self.classify = (
                ResidualMLP(d, outputs, settings.dropout)
                if isinstance(self.body, MessagePassing)
                else nn.Linear(d, outputs)
            )

    def begin_to_hear(self, features: Table) -> None:
        """Known labels begin in the space of what nodes hold by their ``features``."""
        if self.known is not None:
            name = self.known.entity
            with torch.no_grad():
                held = self.eval().body.project({name: features[name][self.known.known]})
                self.known.begin(held[name])

    def forward(
        self,
        graph: MessageGraph,
        features: Table,
        weights: Weights,
        unplaced: Table | None = None,
        hidden: Tensor | None = None,
    ) -> dict[str, Tensor]:
        return self.read(_last(self.layers(graph, features, weights, unplaced, hidden)))

    def crossed(
        self,
        graph: MessageGraph,
        features: Table,
        weights: Weights,
        unplaced: Table | None = None,
    ) -> dict[str, Tensor]:
        """Likewise, but that no node is told its own label: as of `KnownLabels.crossed`."""
        about = graph, features, weights, unplaced
        told = self(*about)
        return told if self.known is None else self.known.crossed(told, partial(self, *about))

    def layers(
        self,
        graph: MessageGraph,
        features: Table,
        weights: Weights,
        unplaced: Table | None = None,
        hidden: Tensor | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """What nodes hold after each layer or hop, the last of them what vectors are read from.
        ``unplaced``: masks (nodes,) of nodes that do without their structural embeddings.
        ``hidden``: as of `KnownLabels`."""
        places = {}
        for name in graph.counts:
            nodes = self.get_buffer(f"nodes_{module_key(name)}")
            row = torch.arange(len(nodes))
            if unplaced and name in unplaced:
                row = row[~unplaced[name][nodes]]
            places[name] = nodes[row], row
        labels = {}
        if self.known is not None:
            own, name = self.known(None, hidden), self.known.entity
            # Rows that came later are the last, and hold none.
            labels[name] = functional.pad(own, (0, 0, 0, graph.counts[name] - len(own)))
        return self.body(graph, features, self._adding(places, labels)[0], weights)

    def of_sample(
        self, sample: Sample, features: Table, times: int = 1, hidden: Tensor | None = None
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Vectors of a sample's seeds, in the order of their ids. ``features``: of all nodes. So
        many ``times``, each under dropout of its own; and the mean of ‖E‖² over all nodes of the
        sample. Of the teacher that passes messages."""
        if not isinstance(self.body, MessagePassing):
            raise TypeError("only the teacher that passes messages learns from samples")
        own, placed, penalty = self._some(sample.nodes, features, hidden)
        told = [_last(self.body.over(sample.layers, own, placed)) for _ in range(times)]
        return [self.read(held) for held in told], penalty

    def of_walk(
        self, walk: Walk, nodes: Mapping[str, Tensor], features: Table, times: int = 1
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Likewise of some ``nodes``, ids ascending by type, by what a walk brings them. Of the
        hop-wise teacher."""
        if not isinstance(self.body, HopWise):
            raise TypeError("only the hop-wise teacher learns from walks")
        own, placed, penalty = self._some(nodes, features)
        arrived = {name: walk.at(name, ids) for name, ids in nodes.items()}
        told = [self.body.of_walk(arrived, own, placed) for _ in range(times)]
        return [self.read(held) for held in told], penalty

    def _some(
        self, nodes: Mapping[str, Tensor], features: Table, hidden: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Placed, Tensor]:
        """Of some nodes their features, what adds their structural embeddings and labels, and the
        mean of ‖E‖²."""
        places = {}
        for name, ids in nodes.items():
            known = self.get_buffer(f"nodes_{module_key(name)}")
            row = torch.searchsorted(known, ids).clamp(max=max(0, len(known) - 1))
            there = known[row] == ids if len(known) else torch.zeros(len(ids), dtype=torch.bool)
            places[name] = torch.nonzero(there)[:, 0], row[there]
        own = {name: features[name].index_select(0, ids) for name, ids in nodes.items()}
        labels = {}
        if self.known is not None and self.known.entity in nodes:
            labels[self.known.entity] = self.known(nodes[self.known.entity], hidden)
        placed, rows = self._adding(places, labels)
        return own, placed, _penalty(rows)

    def of_all_nodes(self, rows: Table, counts: Mapping[str, int]) -> dict[str, Tensor]:
        """Structural ``rows`` of a place where their nodes are: (nodes, d) by type, 0 where one has
        none."""
        found = {}
        for name, values in rows.items():
            at = self.get_buffer(f"nodes_{module_key(name)}")
            found[name] = torch.zeros(counts[name], values.shape[1]).index_copy(0, at, values)
        return found

    def read(self, held: Table) -> dict[str, Tensor]:
        """The vectors of what nodes hold."""
        return {name: self.out[module_key(name)](values) for name, values in held.items()}

    def _adding(
        self, places: Mapping[str, tuple[Tensor, Tensor]], labels: Table
    ) -> tuple[Placed, Rows]:
        """What adds structural embeddings to what is held, and to begin with ``labels``, (nodes,
        d); and E. ``places``: by type, rows of what is held, and the rows of E that belong to
        them."""
        rows = self.structural.take({name: row for name, (_, row) in places.items()})

        def placed(held: Table, place: int) -> dict[str, Tensor]:
            found = dict(held)
            for name, own in labels.items() if place == 0 else ():
                found[name] = held[name] + own
            for name, own in rows[place].items():
                # They are in order, and of a sample its last nodes may be held no more.
                at = places[name][0]
                here = int(torch.searchsorted(at, len(held[name])))
                if here:
                    found[name] = found[name].index_add(0, at[:here], own[:here])
            return found

        return placed, rows

    def penalty(self) -> Tensor:
        """Mean over nodes of ‖E‖²."""
        counts = self.structural.rows
        return _penalty(self.structural.take({n: torch.arange(k) for n, k in counts.items()}))


def _last(layers: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What comes before it is not kept."""
    return deque(layers, maxlen=1).pop()


def _penalty(rows: Rows) -> Tensor:
    squares = [own.square().sum() for of_place in rows for own in of_place.values()]
    return torch.stack(squares).sum() / max(sum(map(len, rows[0].values())), 1)


class LoneTeacher(nn.Module):
    """What a teacher makes of nodes of one type that have no edges: float32 (rows, width) ->
    (rows, d) at length 1."""

    def __init__(self, name: str, width: int, settings: DistillSettings):
        super().__init__()
        self.name = name
        alone = Inputs({name: 0}, {}, {}, {name: torch.zeros(0, width)}, (name,))
        self.teacher = Teacher(alone, {name: torch.zeros(0, dtype=torch.int64)}, settings)

    def forward(self, features: Tensor) -> Tensor:
        graph = MessageGraph({self.name: len(features)}, {}, {})
        told = self.teacher(graph, {self.name: features}, graph.weights({}))
        return functional.normalize(told[self.name], dim=1)

    def weights_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its own among those of a whole teacher: all but what belongs to edges, to other types,
        and to places in the graph."""
        own = self.teacher.state_dict()
        places = tuple(n for n in own if n.startswith(("nodes_", PREFIX)))
        return {name: own[name] if name in places else state[name] for name in own}


class Projection(nn.Module):
    """Features of every node type, (nodes, its width), each into as many dimensions by a linear
    layer of its own, then ``normed`` or not. All begin alike."""

    def __init__(self, features: Table, dimensions: int, dropout: float, normed: bool):
        super().__init__()
        self.dropout = dropout
        linear = {
            module_key(name): nn.Linear(x.shape[1], dimensions) for name, x in features.items()
        }
        begin_alike(linear.values())
        self.linear = nn.ModuleDict(linear)
        self.norm = nn.ModuleDict(
            {name: nn.LayerNorm(dimensions) if normed else nn.Identity() for name in linear}
        )

    def forward(self, features: Table) -> dict[str, Tensor]:
        return {name: by_blocks(partial(self._read, name), x) for name, x in features.items()}

    def _read(self, name: str, values: Tensor) -> Tensor:
        key = module_key(name)
        read: Tensor = self.linear[key](dropout(values, self.dropout, self.training))
        normed: Tensor = self.norm[key](read)
        return normed

    def carried(self, name: str, values: Tensor) -> Tensor:
        """Of features of a type after a walk, beside them how much of a node they are, (…, width +
        1): as if they had gone through a linear layer first, and then walked."""
        layer: nn.Linear = self.linear[module_key(name)]  # type: ignore[assignment]
        read = functional.linear(
            dropout(values[..., :-1], self.dropout, self.training), layer.weight
        )
        return read + values[..., -1:] * layer.bias


def _activated(heard: Table, share: float, training: bool) -> dict[str, Tensor]:
    """``share``: of what is dropped."""
    return {n: dropout(functional.relu(values), share, training) for n, values in heard.items()}


class MessagePassing(nn.Module):
    """Layers of messages; each has structural embeddings of its own."""

    final = False
    """Whether what nodes hold at last are vectors already."""

    def __init__(self, inputs: Inputs, settings: DistillSettings):
        super().__init__()
        d = settings.part
        self.places = settings.depth
        self.dropout = settings.dropout
        self.project = Projection(inputs.features, d, settings.dropout, normed=True)
        relations = relations_of(inputs.edge_types)
        self.layers = nn.ModuleList(
            RelationalLayer(tuple(inputs.counts), relations, d, settings.initial_residual)
            for _ in range(settings.depth)
        )

    def forward(
        self, graph: RelationGraph, features: Table, placed: Placed, weights: Weights
    ) -> Iterator[dict[str, Tensor]]:
        return self.over([(graph, weights)] * self.places, features, placed)

    def over(
        self, layers: Sequence[Layer], features: Table, placed: Placed
    ) -> Iterator[dict[str, Tensor]]:
        """Each layer over a graph of its own."""
        initial = held = self.project(features)
        yield initial
        for place, (layer, (graph, weights)) in enumerate(zip(self.layers, layers, strict=True)):
            held = layer(graph, placed(held, place), initial, weights)
            # Between layers: what vectors are read from is whole.
            if place + 1 < len(self.layers):
                held = _activated(held, self.dropout, self.training)
            yield held


class Convolution(nn.Module):
    """Layers of a GCN, or with an initial residual of GCNII; each has structural embeddings.

    What goes into the first is normalised: of features of length 1 a walk leaves so little that
    a hundred steps learn next to nothing from it."""

    def __init__(self, inputs: Inputs, settings: DistillSettings):
        super().__init__()
        d = settings.part
        self.places = settings.depth
        self.dropout = settings.dropout
        self.initial_residual = settings.initial_residual
        self.final = not self.initial_residual
        names = inputs.features
        self.project = Projection(names, d, settings.dropout, normed=True)
        self.layers = nn.ModuleDict(
            {
                module_key(name): nn.ModuleList(
                    begin_as_identity(nn.Linear(d, d)) for _ in range(settings.depth - 1)
                )
                for name in names
            }
        )

    def forward(
        self, graph: MessageGraph, features: Table, placed: Placed, weights: Weights
    ) -> Iterator[dict[str, Tensor]]:
        initial = held = self.project(features)
        α = self.initial_residual
        yield initial
        for place in range(self.places):
            heard = graph.hops(placed(held, place), weights, 1)[-1]
            heard = {n: (1 - α) * values + α * initial[n] for n, values in heard.items()}
            if place:
                β = log(IDENTITY / place + 1) if α else 1.0
                for name, values in heard.items():
                    weigh = self.layers[module_key(name)].get_submodule(str(place - 1))
                    heard[name] = (1 - β) * values + β * weigh(values)
            last = place + 1 == self.places
            held = heard if last and self.final else self._activated(heard)
            yield held

    def _activated(self, heard: Table) -> dict[str, Tensor]:
        return _activated(heard, self.dropout, self.training)


class HopWise(nn.Module):
    """Hops of a walk that learns nothing, weighed at each node."""

    places = 1
    final = False

    def __init__(self, inputs: Inputs, settings: DistillSettings):
        super().__init__()
        d = settings.part
        self.hops = settings.hops
        self.dropout = settings.dropout
        self.node_dropout = settings.node_dropout
        names = inputs.features
        self.project = Projection(names, d, settings.dropout, normed=False)
        # A hop's weight at a node is the softmax of this over hops: the mean of all, to begin with.
        self.weigh = nn.ParameterDict(
            {module_key(name): nn.Parameter(torch.zeros(d)) for name in names}
        )
        self.prefer = nn.ParameterDict(
            {module_key(name): nn.Parameter(torch.zeros(self.hops + 1)) for name in names}
        )

    def forward(
        self, graph: MessageGraph, features: Table, placed: Placed, weights: Weights
    ) -> Iterator[dict[str, Tensor]]:
        sent = placed(self.project(features), 0)
        if self.training and self.node_dropout:
            sent = {
                name: values
                * (torch.rand(len(values), 1) >= self.node_dropout)
                / (1 - self.node_dropout)
                for name, values in sent.items()
            }
        heard: dict[str, Weighed] = {}
        for hop, at in enumerate(graph.walk(sent, weights, self.hops)):
            yield at
            self._hear(heard, at, hop)
        yield self._heard(heard)

    def of_walk(
        self, arrived: Mapping[str, Table], features: Table, placed: Placed
    ) -> dict[str, Tensor]:
        """As `forward` gives at last, of some nodes and by what `Walk.at` says of them.
        ``features``: of these nodes."""
        heard: dict[str, Weighed] = {}
        own = placed(self.project(features), 0)
        self._hear(heard, own, 0)
        for name, rows in arrived.items():
            told = [v if n == PLACED else self.project.carried(n, v) for n, v in rows.items()]
            for hop in range(self.hops):
                at = torch.stack([of[:, hop] for of in told]).sum(0)
                self._hear(heard, {name: at}, hop + 1)
        return self._heard(heard)

    def _hear(self, heard: dict[str, Weighed], at: Table, hop: int) -> None:
        """``at``: (nodes, d) by type, what arrives with a hop."""
        for name, held in at.items():
            key = module_key(name)
            score = held @ self.weigh[key] + self.prefer[key][hop]
            heard[name] = Weighed.more(heard.get(name), score[:, None], held)

    def _heard(self, heard: Mapping[str, Weighed]) -> dict[str, Tensor]:
        return {
            name: dropout(functional.relu(of.mean), self.dropout, self.training)
            for name, of in heard.items()
        }


class Weighed(NamedTuple):
    """A mean weighed by the softmax of scores, of which one is known after the other, so that no
    more than one need be held: the greatest so far, (nodes, 1), the sum of their exponentials
    relative to it, and of what these weigh, (nodes, d)."""

    top: Tensor
    mass: Tensor
    total: Tensor

    @property
    def mean(self) -> Tensor:
        return self.total / self.mass

    @classmethod
    def more(cls, so_far: Weighed | None, score: Tensor, held: Tensor) -> Weighed:
        """``score``: (nodes, 1)."""
        if so_far is None:
            mass = (score - score.detach()).exp()
            return cls(score.detach(), mass, mass * held)
        # Whatever the scores are relative to, the mean is the same: no gradient goes there.
        top = torch.maximum(so_far.top, score.detach())
        before, now = (so_far.top - top).exp(), (score - top).exp()
        return cls(top, so_far.mass * before + now, so_far.total * before + now * held)


BODIES: Mapping[str, type[MessagePassing] | type[Convolution] | type[HopWise]] = {
    "message-passing": MessagePassing,
    "convolution": Convolution,
    "hop-wise": HopWise,
}
"""By the name in ``distill.teacher``."""
