"""Trials: what the choice between teacher and student is learned from.

Some nodes lose a part of their edges, in one round for each of `choosing.KEPT`; then they are asked
about validation edges, or for their label where they are validation nodes. All are asked as they
are besides. A node that loses edges loses its structural embedding with them, where it has fewer
left than one is learned from. Its features were learned from its edges all the same; so what is
believed of nodes without edges is learned from those set aside, and from nodes that lose all only
where these are too few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from isohop.coldbrew.choosing import KEPT, Edges, Evidence, Trial, answered, embedded
from isohop.coldbrew.evaluation import FEWEST, Asked, K, link_loss, ranks
from isohop.coldbrew.labels import Labels
from isohop.coldbrew.links import Score
from isohop.coldbrew.tables import Table

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller
    from isohop.coldbrew.learners import Told
    from isohop.coldbrew.serving import Serving

SHARE = 0.1
"""Of an entity's connected nodes, those that lose edges at most: were they many more, it would be
another graph."""
QUESTIONS = 500
"""Of each kind, at most, to nodes that lose edges."""


def first_places(candidates: int) -> int:
    """Among which the right answer is to be: among a few candidates it would be in any case."""
    return min(K, max(1, candidates // K))


def trials_of(serving: Serving) -> dict[str, list[Trial]]:
    """By entity, once the student is trained."""
    distiller = serving.distiller
    draw = np.random.default_rng([distiller.seed, 80])
    labels = distiller.labels
    asked = _asked(distiller)
    nodes: dict[str, Tensor] = {}
    for name in distiller.inputs.entities:
        connected = distiller.connected[name].numpy()
        if labels is not None and name == labels.entity:
            known = np.flatnonzero(labels.validation.numpy() & connected)
        else:
            sources = [one.source for one in asked if one.query.source == name]
            known = np.unique(np.concatenate([np.zeros(0, np.int64), *sources]))
        most = max(FEWEST, round(SHARE * connected.sum()))
        chosen = known[np.sort(draw.permutation(len(known))[:most])]
        nodes[name] = torch.from_numpy(chosen.astype(np.int64))
    candidates = serving.candidates
    found = _as_they_are(serving, candidates)
    asked = [_of_nodes(one, nodes[one.query.source].numpy(), draw) for one in asked]
    for kept in KEPT:
        left_out, degree = _hidden(distiller, nodes, kept, draw)
        placed = distiller.structural_nodes(left_out)
        unplaced = {}
        for name, some in nodes.items():
            unplaced[name] = torch.zeros(distiller.inputs.counts[name], dtype=torch.bool)
            unplaced[name][some] = ~torch.isin(some, placed[name])
        with torch.no_grad():
            told = distiller.teach(left_out, unplaced)
        rows = {} if labels is None else {labels.entity: nodes[labels.entity]}
        for name, trials in _trials(serving, candidates, told, degree, asked, rows).items():
            found[name] += trials
    return found


def tests_of(serving: Serving) -> dict[str, list[Trial]]:
    """By entity, of nodes as they are, what nothing was learned or chosen from."""
    distiller = serving.distiller
    labels = distiller.labels
    rows = {} if labels is None else {labels.entity: torch.nonzero(labels.test)[:, 0]}
    degree = distiller.graph.degrees_in(distiller.graph.weights({}))
    asked = _of_links(distiller, distiller.evaluation.on_test())
    told = distiller.told["teacher"]
    return _trials(serving, serving.candidates, told, degree, asked, rows)


def _asked(distiller: Distiller, alone: bool = False) -> list[Asked]:
    """What validation asks about."""
    return _of_links(distiller, distiller.evaluation.on_validation(alone))


def _of_links(distiller: Distiller, asked: Sequence[Asked]) -> list[Asked]:
    """But of the entity that has a label, which is asked for that."""
    entity = None if distiller.labels is None else distiller.labels.entity
    return [one for one in asked if one.query.source != entity]


def _as_they_are(serving: Serving, candidates: Table) -> dict[str, list[Trial]]:
    """Of nodes that keep their edges, and of nodes that were set aside; for their label, of those
    that have a visible edge and those that have none."""
    distiller = serving.distiller
    labels, taught = distiller.labels, distiller.told["teacher"]
    degree = distiller.graph.degrees_in(distiller.graph.weights({}))
    found: dict[str, list[Trial]] = {name: [] for name in distiller.inputs.entities}
    every: tuple[Edges, ...] = ("all", "none")
    for edges in every:
        asked = _asked(distiller, alone=edges == "none")
        rows = {}
        if labels is not None:
            of = labels.validation & (distiller.connected[labels.entity] == (edges == "all"))
            rows[labels.entity] = torch.nonzero(of)[:, 0]
        told = _trials(serving, candidates, taught, degree, asked, rows, edges)
        for name, trials in told.items():
            found[name] += trials
    return found


def _trials(
    serving: Serving,
    candidates: Table,
    told: Told,
    degree: Table,
    asked: Sequence[Asked],
    labelled: Mapping[str, Tensor],
    edges: Edges = "some",
) -> dict[str, list[Trial]]:
    """By entity. ``told``: what the teacher says where nodes have ``degree``; ``labelled``: the
    nodes that are asked for their label, of the entity that has it."""
    distiller = serving.distiller
    guessed, content = distiller.told["student"], distiller.told["mlp"]
    labels = distiller.labels
    names = distiller.inputs.entities
    evidence = {name: serving.evidence(name, told.vectors[name], degree[name]) for name in names}
    found: dict[str, list[Trial]] = {name: [] for name in names}
    score = serving.score
    for one in asked:
        name, rows = one.query.source, torch.from_numpy(one.source)
        found[name].append(
            Trial(
                told.vectors[name][rows],
                guessed.vectors[name][rows],
                evidence[name][rows],
                partial(embedded, content.vectors[name][rows], serving.content),
                partial(link_loss, score, candidates, one),
                partial(_reciprocal, score, candidates, one),
                enough=1 / first_places(len(one.candidates)),
                edges=edges,
            )
        )
    answers = told.answers, guessed.answers, content.answers
    if labels is not None and None not in answers:
        rows = labelled[labels.entity]
        taught, own, alone = (one[rows] for one in answers if one is not None)
        of = evidence[labels.entity][rows]
        found[labels.entity].append(
            Trial(
                taught,
                own,
                of,
                partial(_answered, serving, alone, of),
                partial(labels.losses, rows),
                partial(_hits, labels, rows),
                edges=edges,
            )
        )
    return found


def _answered(
    serving: Serving,
    content: Tensor,
    evidence: Evidence,
    taught: Tensor,
    guessed: Tensor,
    share: Tensor,
) -> Tensor:
    """With as much content as is decided on by then."""
    return answered(content, serving.answering_of(evidence), taught, guessed, share)


def _of_nodes(asked: Asked, nodes: np.ndarray, draw: np.random.Generator) -> Asked:
    rows = np.flatnonzero(np.isin(asked.source, nodes))
    return asked.only(np.sort(draw.permutation(rows)[:QUESTIONS]))


def _hidden(
    distiller: Distiller, nodes: dict[str, Tensor], kept: float, draw: np.random.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Positions of the edges that are left out, and the degree by what is credible of the rest."""
    left_out = {}
    chosen = {}
    for name, count in distiller.inputs.counts.items():
        chosen[name] = torch.zeros(count, dtype=torch.bool)
        if name in nodes:
            chosen[name][nodes[name]] = True
    for name, edges in distiller.visible.items():
        source, target = distiller.inputs.edge_types[name]
        touched = chosen[source][edges[0]] | chosen[target][edges[1]]
        gone = touched & torch.from_numpy(draw.random(edges.shape[1]) >= kept)
        left_out[name] = torch.nonzero(gone)[:, 0]
    return left_out, distiller.graph.degrees_in(distiller.graph.weights(left_out))


def _reciprocal(score: Score, table: Table, asked: Asked, vectors: Tensor) -> Tensor:
    return torch.from_numpy(1 / ranks(score, table, asked, vectors)).float()


def _hits(labels: Labels, rows: Tensor, answers: Tensor) -> Tensor:
    return labels.hits(rows, answers).float()
