"""What a teacher that knows something by now goes on learning from: with structural embeddings or
without, and over edges that count for the same or for as much as they are credible. Each by
validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from isohop.coldbrew.message_passing import MessageGraph
from isohop.coldbrew.reliability import POWERS, credible_edges, sharpened
from isohop.coldbrew.walks import Walks

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller


def judge(distiller: Distiller) -> None:
    """Both, in the middle of training: half-way, or at the start of what goes on from an earlier
    model."""
    before, structural = distiller.graph, distiller.teacher.structural
    displaced = structural.displaced
    distiller.teacher.eval()
    with torch.no_grad():
        displace(distiller)
        believe(distiller)
    distiller.teacher.train()
    # Structural embeddings are in what a walk carries.
    walked = isinstance(distiller.parts, Walks) and structural.displaced != displaced
    if distiller.graph is not before or walked:
        distiller.parts = distiller.parts_of(distiller.graph)


def displace(distiller: Distiller) -> None:
    """Without structural embeddings where validation is better so: where features tell all that a
    place in the graph would, nodes learn their own edges by heart. What an earlier run found to be
    better without stays without."""
    structural = distiller.teacher.structural
    if not structural.learned:  # both would be the same
        if distiller.begun is not None:
            structural.displace()
        return
    counts = distiller.inputs.counts
    nobody = {name: torch.ones(count, dtype=torch.bool) for name, count in counts.items()}
    told = [distiller.teach(unplaced=unplaced) for unplaced in (None, nobody)]
    placed, without = (distiller.validation.score("teacher", one, False) for one in told)
    if without > placed:
        structural.displace()


def believe(distiller: Distiller) -> None:
    """Judge how credible edges are; that weighs messages where validation says so."""
    distiller.graph, distiller.weighed = distiller.unweighed, 0
    distiller.credible = credible_edges(
        distiller.queries,
        distiller.visible,
        distiller.inputs.counts,
        lambda left_out: distiller.teach(left_out).vectors,
        distiller.teacher.score,
        distiller.seed,
    )
    if not distiller.credible:
        return
    best = distiller.validation.score("teacher", distiller.teach(), False)
    for power in POWERS:
        graph = weighed_by(distiller, power)
        weighed = distiller.pass_messages(distiller.teacher, graph, {})
        score = distiller.validation.score("teacher", weighed, False)
        if score > best:
            best, distiller.graph, distiller.weighed = score, graph, power


def weighed_by(distiller: Distiller, power: int) -> MessageGraph:
    """What messages pass over where edges count for ``power`` of their credibility."""
    if not power:
        return distiller.unweighed
    return distiller.unweighed.weighed(sharpened(distiller.credible, power))
