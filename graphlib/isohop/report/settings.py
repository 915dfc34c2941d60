"""What the report shows: the ``report`` part of a pipeline file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from isohop.yaml_file import StrictModel


class ReportSettings(StrictModel):
    """The ``report`` part of a pipeline file."""

    colour: Mapping[str, str] = {}
    """By entity, the attribute (``entity.attribute``) that colours its map; chosen where absent."""
    map: Literal["tsne", "pca"] = "tsne"
    """How vectors become points: t-SNE shows groups, PCA keeps distances and is instant."""
    sample: int = Field(default=1500, ge=10, le=3000)
    """Nodes drawn on each map."""
    neighbours: int = Field(default=6, ge=1, le=50)
    """Nearest neighbours listed for each example."""
    examples: int = Field(default=4, ge=1, le=50)
    """Nodes of each entity whose neighbours are listed."""
    seed: int = 0
    """Draws the sample and starts t-SNE. A pipeline sets it to its own seed."""
