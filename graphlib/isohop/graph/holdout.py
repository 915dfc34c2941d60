"""What training may see, and what is kept for evaluation: decided here, once, for every stage.

GIANT's targets and Cold Brew's teacher both learn from edges. If each drew its own held-out edges,
the features of the second stage would already have seen what it is tested on. So both ask
`hold_out`, which depends on the graph, the label and the seed alone.

Where edges have times, those that were first seen on a given day or later are out of the window:
nothing learns from them, and nothing is asked about them. Nor of edges that lead from a node to
itself: they say nothing of its neighbourhood, and who is asked for their end has it in hand. Of the
others three things are held out (Zheng et al., Cold Brew, ICLR 2022, section 4, made typed):

- *edges*: a random share of the visible edges of each type, to test link prediction; of two that
  join the same nodes, one forth and one back, both or neither;
- *isolated nodes*: of each entity, the nodes of lowest degree (ties broken by seed) have all their
  edges removed, to test how nodes without edges fare;
- nodes *set aside*: some others, at random, have all theirs removed as well, to choose what is best
  for nodes without edges, and to learn how far to trust it. Features of any other node were learned
  from its edges: it would seem better known from its text than a new one is.

A model that is trained further on a later graph has seen what was visible then: `Learned`. That is
never held out any more, and what was held out stays so; of what is new some is held out as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa

from isohop.errors import IsohopError
from isohop.graph.dataset import EdgeType, Graph, NodeType

VISIBLE, VALIDATION, TEST, ISOLATED, LATER, ANSWER, LOOP = 0, 1, 2, 3, 4, 5, 6
"""State of an edge. ISOLATED: an end of it is a node whose edges are all removed. LATER: it is out
of the window. ANSWER: it tells the label. LOOP: it leads back to where it begins."""

HEAD, MIDDLE, TAIL, ISOLATION, NO_EDGES, ASIDE = 0, 1, 2, 3, 4, 5
"""Group of a node by its degree in the whole graph; NO_EDGES had none to begin with, ASIDE were set
aside."""
NEW = -1
"""Of a node or an edge that was not there when a model learned."""
FEWEST_ASIDE, MOST_ASIDE = 30, 2000
"""Of an entity: fewer are too few to choose by, and none is set aside; more are not needed."""


@dataclass(frozen=True)
class Holdout:
    """The state of every edge and the group of every node.

    ``edges[name]``: int8 (edges,), in the order of `Graph.edges`. ``groups[name]``: int8 (nodes,).
    ``degree[name]``: int64 (nodes,), over all edge types and both directions, in the whole graph
    of the window, but for loops and what tells the label. ``seed``: by which that was drawn.
    ``later[name]``: boolean (nodes,), whether a node's own row is out of the window, of node types
    whose rows have a time that decides of an edge or of the label.
    """

    edges: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    degree: dict[str, np.ndarray]
    seed: int
    later: dict[str, np.ndarray] = field(default_factory=dict)

    def visible(self, edge_type: str) -> np.ndarray:
        """Boolean (edges,): the edges that training may see."""
        return self.edges[edge_type] == VISIBLE

    def visible_degree(self, graph: Graph) -> dict[str, np.ndarray]:
        """int64 (nodes,) per node type: degree over the visible edges alone."""
        return _degrees(graph, {name: state == VISIBLE for name, state in self.edges.items()})


@dataclass(frozen=True)
class Learned:
    """What a model has learned from, by ids of a later graph (`held_out.py`).

    ``groups[name]``: int8 (nodes,), ISOLATION or ASIDE of a node whose edges were all removed,
    MIDDLE of another that was there. ``edges[name]``: int8 (edges,), VALIDATION or TEST of an edge
    that was kept for these, VISIBLE of another that was there. NEW in both: it was not.
    """

    groups: Mapping[str, np.ndarray]
    edges: Mapping[str, np.ndarray]


def entity_of_label(label: str) -> str:
    """Of ``entity.attribute``, whose attribute has no dot in its name."""
    return label.rpartition(".")[0]


def label_edge(graph: Graph, label: str | None) -> str | None:
    """The edge type that carries the label, where the label is a shared attribute."""
    if label is None:
        return None
    entity, _, attribute = label.rpartition(".")
    name = f"{entity}--{attribute}--{label}"
    return name if any(edge.name == name for edge in graph.edge_types) else None


def hold_out(
    graph: Graph,
    seed: int,
    label: str | None = None,
    *,
    validation: float = 0.05,
    test: float = 0.05,
    isolated: float = 0.1,
    aside: float = 0.05,
    hidden: Mapping[str, np.ndarray] | None = None,
    until: date | None = None,
    learned: Learned | None = None,
) -> Holdout:
    """Divide the graph's edges and nodes; see the module.

    ``label``: ``entity.attribute`` that is learned; the edge type that tells it counts for nothing.
    ``validation`` and ``test`` are shares of each edge type's edges; ``isolated`` is the share of
    an entity's connected nodes that are isolated, and the size of head and tail as well; ``aside``
    the share that is set aside, of those that are neither isolated nor in the head, and none where
    none are isolated. Values of shared attributes are never isolated themselves: they are only
    seen through their holders.
    ``hidden``: nodes, by type, that are isolated besides. ``until``: the first day out of the
    window, in UTC, by when rows became known; an edge type of which nothing says is in it, an edge
    whose time is missing is not. ``learned``: what was seen before. Raises `IsohopError` where a
    time that is to decide is none.
    """
    later, late = {}, {}
    if until is not None:
        deciding = {edge.source for edge in graph.edge_types if edge.functional and not edge.time}
        if label is not None:
            deciding.add(entity_of_label(label))
        timed = [(n, n.time) for n in graph.node_types if n.time is not None and n.name in deciding]
        late = {node.name: _out(_times(graph.nodes, node, time), until) for node, time in timed}
        later = {edge.name: _later(graph, edge, until, late) for edge in graph.edge_types}
    within = [edge.name for edge in graph.edge_types if edge.source == edge.target]
    loops = {name: np.equal(*graph.edge_index(name)) for name in within}
    seen = {name: ~out for name, out in later.items()}
    for name, loop in loops.items():
        seen[name] = ~loop & seen.get(name, True)
    telling = label_edge(graph, label)
    if telling is not None:
        seen[telling] = np.zeros(graph.edge_type(telling).count, bool)
    degree = _degrees(graph, seen)
    groups: dict[str, np.ndarray] = {}
    for node in graph.node_types:
        share = 0.0 if node.shared else isolated
        known = None if learned is None else learned.groups[node.name]
        group = _groups(degree[node.name], share, aside, seed, node.name, known)
        if hidden is not None and node.name in hidden:
            group[hidden[node.name]] = ISOLATION
        groups[node.name] = group
    edges: dict[str, np.ndarray] = {}
    for edge in graph.edge_types:
        source, target = graph.edge_index(edge.name)
        draw = _generator(seed, "edges", edge.name).random(len(source))
        back = None
        if edge.name in loops:
            # An edge that is seen tells the one that leads back, so both have one state.
            back = reverses(np.stack([source, target]), graph.node_type(edge.source).count)
            draw = draw[np.minimum(back, np.arange(len(back)))]
        state = np.full(len(source), VISIBLE, np.int8)
        state[draw < validation + test] = TEST
        state[draw < validation] = VALIDATION
        if learned is not None:
            known = learned.edges[edge.name]
            if back is not None:
                known = np.where(known == NEW, known[back], known)
            state = np.where(known == NEW, state, known)
        for name, ends in ((edge.source, source), (edge.target, target)):
            state[np.isin(groups[name][ends], (ISOLATION, ASIDE))] = ISOLATED
        if later:
            state[later[edge.name]] = LATER
        if edge.name in loops:
            state[loops[edge.name]] = LOOP
        if edge.name == telling:
            state[:] = ANSWER
        edges[edge.name] = state
    return Holdout(edges, groups, degree, seed, late)


def reverses(ends: np.ndarray, nodes: int) -> np.ndarray:
    """int64 (edges,): of each edge between ``nodes`` of one type, (2, edges), the position of the
    one that leads back; its own where there is none."""
    forth, back = ends[0] * nodes + ends[1], ends[1] * nodes + ends[0]
    order = np.argsort(forth, kind="stable")
    at = order[np.searchsorted(forth[order], back).clip(max=max(len(order) - 1, 0))]
    return np.where(forth[at] == back, at, np.arange(len(at)))


def _groups(
    degree: np.ndarray,
    isolated: float,
    aside: float,
    seed: int,
    name: str,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """int8 (nodes,): the group of each node of a type by its ``degree``, int64 (nodes,). ``known``:
    as of `Learned`."""
    if known is not None:
        new = _groups(np.where(known == NEW, degree, 0), isolated, aside, seed, name)
        held = np.where(known == NEW, new, known)
        return _with_ends(degree, held, isolated, seed, name)
    group = np.full(len(degree), MIDDLE, np.int8)
    group[degree == 0] = NO_EDGES
    connected = np.flatnonzero(degree > 0)
    if not isolated or len(connected) < 10:
        return group
    size = max(1, round(isolated * len(connected)))
    order = _by_degree(connected, degree, seed, name)
    group[order[-size:]] = HEAD
    group[order[size : 2 * size]] = TAIL
    group[order[:size]] = ISOLATION
    # With nodes of highest degree too many edges of others would go.
    others = np.sort(order[size:-size])
    few = min(MOST_ASIDE, round(aside * len(connected)))
    if FEWEST_ASIDE <= few <= len(others):
        group[_generator(seed, "aside", name).choice(others, few, replace=False)] = ASIDE
    return group


def _with_ends(
    degree: np.ndarray, held: np.ndarray, isolated: float, seed: int, name: str
) -> np.ndarray:
    """Groups, of which ISOLATION and ASIDE are as in ``held``; head and tail are among others."""
    apart = np.isin(held, (ISOLATION, ASIDE))
    group = np.where(apart, held, MIDDLE).astype(np.int8)
    group[degree == 0] = NO_EDGES
    size = round(isolated * np.count_nonzero(degree))
    others = np.flatnonzero(group == MIDDLE)
    if 0 < size <= len(others) // 2:
        order = _by_degree(others, degree, seed, name)
        group[order[-size:]] = HEAD
        group[order[:size]] = TAIL
    return group


def _by_degree(nodes: np.ndarray, degree: np.ndarray, seed: int, name: str) -> np.ndarray:
    """From the lowest, ties broken by the seed."""
    ties = _generator(seed, "nodes", name).random(len(nodes))
    return nodes[np.lexsort((ties, degree[nodes]))]


def _later(
    graph: Graph, edge: EdgeType, until: date, nodes: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Boolean (edges,): whether the first row that tells of an edge is out of the window. Of what
    an entity determines that is the entity's own row: ``nodes``, as `Holdout.later`."""
    if edge.time is not None:
        return _out(_times(graph.edges, edge, edge.time), until)
    if edge.functional and edge.source in nodes:
        return nodes[edge.source][graph.edge_index(edge.name)[0]]
    return np.zeros(edge.count, bool)


def _out(known: np.ndarray, until: date) -> np.ndarray:
    """Boolean: whether it became ``known`` on the day ``until`` or later."""
    # No time compares as before: NaT < x is False.
    return ~(known < np.datetime64(until, "us"))


def _times(
    read: Callable[[str, list[str]], pa.Table], of: NodeType | EdgeType, name: str
) -> np.ndarray:
    """datetime64[us] (rows,). Raises `IsohopError` where the attribute is none, or no time."""
    there = any(attribute.name == name for attribute in of.attributes)
    column = read(of.name, [name])[name] if there else pa.chunked_array([], pa.null())
    held = column.type
    if not (pa.types.is_date(held) or pa.types.is_timestamp(held)):
        raise IsohopError(
            f"'until' goes by when rows became known, and '{name}' of '{of.name}', which is to say "
            "that, holds no times. Say in the schema file what its column is, under 'types:' of "
            "its table (date or timestamp), and no other 'kind'; or leave 'until' out."
        )
    told = column.cast(pa.timestamp("us", getattr(held, "tz", None)))
    return told.to_numpy().astype("datetime64[us]")


def _degrees(graph: Graph, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    degree = {node.name: np.zeros(node.count, np.int64) for node in graph.node_types}
    for edge in graph.edge_types:
        index = graph.edge_index(edge.name)
        if edge.name in masks:
            index = index[:, masks[edge.name]]
        for name, ends in ((edge.source, index[0]), (edge.target, index[1])):
            degree[name] += np.bincount(ends, minlength=len(degree[name]))
    return degree


def _generator(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
