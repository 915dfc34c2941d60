"""One figure of the evaluation: its own module, so that reading a manifest needs no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Figure(BaseModel):
    """``task``: link or label; ``entity``: whose nodes ask, or ``all``; ``group``: overall, head,
    tail or isolated; ``metric``: mrr, hits@10 or accuracy; ``model``: teacher, student, mlp or
    served; ``count``: edges or nodes asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    entity: str
    group: str
    metric: str
    model: str
    value: float
    count: int
