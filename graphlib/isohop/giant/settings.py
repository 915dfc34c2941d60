"""``features:`` of the pipeline file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from isohop.yaml_file import StrictModel


class FeatureSettings(StrictModel):
    """How node features are learned. The defaults were chosen on validation edges of Gutenberg."""

    encoder: Literal["hashing"] = "hashing"
    dimensions: int = Field(128, ge=2, le=4096)
    vocabulary: int = Field(1 << 17, ge=16, le=1 << 22)
    """N-grams with weights of their own: the most frequent ones."""
    characters: int = Field(2000, ge=1)
    """A document's length at most."""
    hub_degree: int = Field(1000, ge=1)
    """Nodes of this degree or more are predicted, but do not learn to predict."""
    levels: tuple[int, ...] = (128, 1024)
    """Clusters at each level of the label tree, coarse to fine; the nodes themselves come last."""
    epochs: tuple[float, ...] = (1.0, 1.0, 5.0)
    """Passes over the nodes at each level, and at the nodes themselves."""
    steps: int = Field(150, ge=0)
    """Steps a level at least, so that a small graph is learned too."""
    batch: int = Field(512, ge=1)
    negatives: int = Field(2048, ge=1)
    """Labels that compete in one step, at most."""
    learning_rate: float = Field(6e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    dropout: float = Field(0.3, ge=0, lt=1)
    """Share of n-grams left out of a document in a step, against learning documents by heart."""
    scale: float = Field(20.0, gt=0)
    """Inverse temperature of the softmax over cosines."""

    @model_validator(mode="after")
    def _one_each(self) -> FeatureSettings:
        if len(self.epochs) != len(self.levels) + 1:
            raise ValueError(
                f"'epochs' needs one number for each of {len(self.levels)} levels and one for the "
                "nodes themselves"
            )
        if any(size < 1 for size in self.levels) or list(self.levels) != sorted(self.levels):
            raise ValueError("'levels' must be numbers of clusters from 1, coarse to fine")
        return self
