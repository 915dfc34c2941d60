"""What was learned about choosing: its own module, so that reading a manifest needs no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

TO_BEGIN_WITH = (0.0, 0.0, 0.0, 3.0)
EVEN = 0.5
"""Share of the content where both halves count alike."""


class Choice(BaseModel):
    """Of one entity. ``blend``: weights of `Evidence.columns` in the logit of the teacher's share.
    ``teacher_from``: the degree from which on the teacher is served alone, whatever these say; None
    where there is no such degree. ``connected``: weights as of ``blend`` in the logit of
    confidence; ``alone``: of nearness and 1, for what has no edges. None where there were too few
    trials to learn it from. ``without_edges``: the teacher's share in what is served of nodes that
    have none. ``content``: the share of an embedding's squared length that is what features say
    alone, one for all entities of a run: vectors are compared with each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    blend: tuple[float, float, float, float] = TO_BEGIN_WITH
    teacher_from: float | None = None
    without_edges: float = 0.0
    content: float = EVEN
    connected: tuple[float, float, float, float] | None = None
    alone: tuple[float, float] | None = None
