"""Figures of the evaluation: a module of their own, so that reading a manifest needs no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

DOUBTFUL = 0.5
"""An edge that is less credible is counted as doubtful."""


class Figure(BaseModel):
    """``task``: link or label; ``entity``: whose nodes ask, or ``all``; ``group``: as of
    `isohop.coldbrew.evaluation`; ``metric``: mrr, hits@10, accuracy or r2; ``model``: teacher,
    student, mlp or served; ``count``: edges or nodes asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    entity: str
    group: str
    metric: str
    model: str
    value: float
    count: int


class LayerFigures(BaseModel):
    """Of one layer (0 is what goes in) of a model, teacher or gcn, and one node type: what
    `oversmoothing` tells."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    layer: int
    node_type: str
    energy: float
    mad: float
    rank: float
