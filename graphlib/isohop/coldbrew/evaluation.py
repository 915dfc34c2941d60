"""Evaluation on what training did not see: by how well nodes are connected, beside baselines.

Link prediction: for a held-out edge, the true end is ranked among candidates of its type that are
no known neighbours (filtered), by MRR and Hits@10. *Overall*, *head* and *tail* are test edges, by
the group of the asking entity; *isolated* are edges of nodes all of whose edges were taken out.
*degree 1*, *degree 2-3* and so on are the same by how many edges the asking node was left with. A
group that is named as an edge type has its edges alone, of *overall*, and with ``, isolated``
behind that of *isolated*: among few values hardly any rank is bad.
Label: accuracy on test nodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from isohop.coldbrew.figures import Figure
from isohop.coldbrew.inputs import Inputs
from isohop.coldbrew.labels import Labels
from isohop.coldbrew.links import Query, Score, adjacency, queries_of
from isohop.coldbrew.tables import Table
from isohop.giant.evaluation import ROUNDING
from isohop.graph import Holdout
from isohop.graph.holdout import (
    ASIDE,
    HEAD,
    ISOLATED,
    ISOLATION,
    NO_EDGES,
    TAIL,
    TEST,
    VALIDATION,
)

FEWEST = 30
"""Questions from which on anything is learned of them."""
SHRINKAGE = 200
"""Questions that count for as much as all others (`shrunk`)."""
SAMPLE = 2000
CANDIDATES = 1000
K = 10
GROUPS = {"head": HEAD, "tail": TAIL}


def shrunk(own: float, count: int, others: float) -> float:
    """What ``count`` questions say, drawn towards what others do, and the more the fewer they are:
    by a few questions the best of several models is the luckiest."""
    weight = count / (count + SHRINKAGE)
    return weight * own + (1 - weight) * others


@dataclass(frozen=True)
class Model:
    """What is evaluated: vectors of asking nodes, vectors of candidates, and the link score."""

    name: str
    asking: Table
    candidates: Table
    score: Score


@dataclass(frozen=True)
class Asked:
    """Held-out edges of one query, with the candidates their true ends are ranked among."""

    query: Query
    split: str
    source: np.ndarray
    target: np.ndarray
    group: np.ndarray
    candidates: np.ndarray
    known_row: np.ndarray
    known_column: np.ndarray

    def only(self, rows: np.ndarray) -> Asked:
        """Some of the edges, at these places."""
        place = np.full(len(self.source), -1)
        place[rows] = np.arange(len(rows))
        known = place[self.known_row] >= 0
        return replace(
            self,
            source=self.source[rows],
            target=self.target[rows],
            group=self.group[rows],
            known_row=place[self.known_row[known]],
            known_column=self.known_column[known],
        )


class LinkEvaluation:
    """The held-out edges of a graph, drawn once and asked of every model alike, by the seed that
    they were held out by."""

    def __init__(self, inputs: Inputs, holdout: Holdout, degree: Table):
        """``degree``: of the visible edges, int64 (nodes,) by type."""
        self.degree = {name: of.numpy() for name, of in degree.items()}
        self._asked: list[Asked] = []
        for query in queries_of(inputs.edge_types, frozenset(inputs.entities)):
            edges = inputs.edges[query.edge_type].numpy()
            draw = np.random.default_rng([holdout.seed, 40, zlib.crc32(str(query).encode())])
            known = adjacency(query, edges, inputs.counts)
            size = min(CANDIDATES, inputs.counts[query.target])
            candidates = np.sort(draw.choice(inputs.counts[query.target], size, replace=False))
            source, target = query.ends(edges)
            state, group = holdout.edges[query.edge_type], holdout.groups[query.source]
            tested = holdout.groups[query.target][target] == ISOLATION
            masks = {
                "validation": state == VALIDATION,
                "aside": (state == ISOLATED) & (group[source] == ASIDE) & ~tested,
                "test": state == TEST,
                "isolated": (state == ISOLATED) & (group[source] == ISOLATION),
            }
            for split, mask in masks.items():
                chosen = np.flatnonzero(mask)
                if not len(chosen):
                    continue
                if len(chosen) > SAMPLE:
                    chosen = np.sort(draw.choice(chosen, SAMPLE, replace=False))
                rows, columns = known[source[chosen]][:, candidates].nonzero()
                self._asked.append(
                    Asked(
                        query,
                        split,
                        source[chosen],
                        target[chosen],
                        group[source[chosen]],
                        candidates,
                        rows,
                        columns,
                    )
                )

    def on_validation(self, alone: bool = False, entity: str | None = None) -> list[Asked]:
        """Validation edges; ``alone``: edges of nodes set aside.
        ``entity``: those that it asks about, where one is named."""
        split = "aside" if alone else "validation"
        asked = [one for one in self._asked if one.split == split]
        return [one for one in asked if entity in (None, one.query.source)]

    def on_test(self) -> list[Asked]:
        """What figures are of: test edges, and those of isolated nodes."""
        return [one for one in self._asked if one.split in ("test", "isolated")]

    def validation(self, model: Model, alone: bool = False, entity: str | None = None) -> float:
        """Mean reciprocal rank on validation edges, mean over queries; 0 where there are none.
        ``alone``: on those of nodes set aside, where these are `FEWEST`."""
        asked = self.on_validation(alone, entity)
        if alone and sum(len(one.source) for one in asked) < FEWEST:
            asked = self.on_validation(entity=entity)
        found = [_ranks(model, one) for one in asked]
        return float(np.mean([np.mean(1 / rank) for rank in found])) if found else 0.0

    def figures(self, model: Model) -> list[Figure]:
        """MRR and Hits@10 by entity and group; ``all`` is the mean over all edges asked."""
        ranks: dict[tuple[str, str], list[np.ndarray]] = {}
        for asked in self.on_test():
            rank = _ranks(model, asked)
            of = asked.query.edge_type
            if asked.split == "isolated":
                parts = {"isolated": rank, f"{of}, isolated": rank}
            else:
                parts = {"overall": rank, of: rank}
                parts |= {name: rank[asked.group == code] for name, code in GROUPS.items()}
            degree = self.degree[asked.query.source][asked.source]
            parts |= {name: rank[mask] for name, mask in by_degree(degree).items()}
            for group, part in parts.items():
                for entity in ("all", asked.query.source):
                    ranks.setdefault((entity, group), []).append(part)
        found = []
        for (entity, group), parts_ in ranks.items():
            rank = np.concatenate(parts_)
            if not len(rank):
                continue
            values = {"mrr": np.mean(1 / rank), f"hits@{K}": np.mean(rank <= K)}
            found += [
                Figure(
                    task="link",
                    entity=entity,
                    group=group,
                    metric=metric,
                    model=model.name,
                    value=round(float(value), 6),
                    count=len(rank),
                )
                for metric, value in values.items()
            ]
        return found


def _ranks(model: Model, asked: Asked) -> np.ndarray:
    vectors = model.asking[asked.query.source][torch.from_numpy(asked.source)]
    return ranks(model.score, model.candidates, asked, vectors)


def ranks(score: Score, candidates: Table, asked: Asked, vectors: Tensor) -> np.ndarray:
    """Rank of each true end from 1, float64; of equal scores half come first. ``vectors``: float32
    (edges, d) of the nodes that ask."""
    with torch.no_grad():
        true, false = _scores(score, candidates, asked, vectors)
        # Equal vectors have scores that differ by rounding, as they are summed up otherwise.
        same = ROUNDING * (1 + true.abs())
        rank = 1 + (false > true + same).sum(1) + 0.5 * ((false - true).abs() <= same).sum(1)
    return rank.numpy().astype(np.float64)


def link_loss(score: Score, candidates: Table, asked: Asked, vectors: Tensor) -> Tensor:
    """Cross entropy of each true end among the candidates, float32 (edges,)."""
    true, false = _scores(score, candidates, asked, vectors)
    return torch.cat([true, false], 1).logsumexp(1) - true[:, 0]


def _scores(
    score: Score, candidates: Table, asked: Asked, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Of true ends (edges, 1) and of candidates (edges, candidates), known neighbours at -inf."""
    query = asked.query
    mine = score.query(query.edge_type, vectors)
    table = candidates[query.target]
    true = (mine * table[torch.from_numpy(asked.target)]).sum(1, keepdim=True)
    false = mine @ table[torch.from_numpy(asked.candidates)].T
    known = (torch.from_numpy(asked.known_row), torch.from_numpy(asked.known_column))
    return true, false.index_put(known, torch.tensor(-torch.inf))


def by_degree(degree: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the nodes of degree 1, 2 to 3, 4 to 7 and so on, of those that there are; nodes
    without edges are a group by another name."""
    bucket = np.frexp(degree)[1]
    found = {}
    for number in np.unique(bucket[degree > 0]).tolist():
        least, most = 2 ** (number - 1), 2**number - 1
        name = f"degree {least}" if least == most else f"degree {least}-{most}"
        found[name] = bucket == number
    return found


def label_figures(
    labels: Labels,
    groups: np.ndarray,
    degree: np.ndarray,
    answers: Mapping[str, Tensor | None],
) -> Iterable[Figure]:
    """How right each model's ``answers`` (nodes, outputs) are on test nodes, by group and by
    ``degree``, int64 (nodes,)."""
    test = labels.test.numpy()
    alone = np.isin(groups, (ISOLATION, NO_EDGES))
    masks = {
        "overall": test & ~alone,
        "head": test & (groups == HEAD),
        "tail": test & (groups == TAIL),
        "isolated": test & alone,
        **{name: test & mask for name, mask in by_degree(degree).items()},
    }
    for model, values in answers.items():
        if values is None:
            continue
        for group, mask in masks.items():
            if mask.any():
                for entity in ("all", labels.entity):
                    yield Figure(
                        task="label",
                        entity=entity,
                        group=group,
                        metric=labels.metric,
                        model=model,
                        value=round(labels.right(values, torch.from_numpy(mask)), 6),
                        count=int(mask.sum()),
                    )
