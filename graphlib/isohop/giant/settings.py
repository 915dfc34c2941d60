"""``features:`` of the pipeline file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from isohop.giant.model_folder import packaged_minilm
from isohop.yaml_file import StrictModel


class FeatureSettings(StrictModel):
    """How node features are learned. The defaults were chosen on the validation nodes of the
    two graphs of `benchmarks/giant.py`, in both of its settings, with one seed."""

    encoder: Literal["hashing", "minilm", "transformers"] = "hashing"
    """What reads text: hashed n-grams alone, or with them the MiniLM of the extra ``minilm``, or
    the text model in ``model``."""
    model: Path | None = None
    """Folder of a text model of Hugging Face's transformers, its weights as safetensors."""
    tokens: int = Field(128, ge=4, lt=1 << 20)
    """A document's length at most, as the text model reads it."""
    tuning_steps: int = Field(0, ge=0)
    """Steps after all others in which the text model learns too: slow without a GPU."""
    tuning_batch: int = Field(512, ge=1)
    """Memory grows with it, and with the length of documents: what a step learns from is held."""
    tuning_rate: float = Field(1e-4, gt=0)
    """Learning rate of the text model."""
    dimensions: int = Field(128, ge=2, le=4096)
    """Of a node's features."""
    vocabulary: int = Field(1 << 17, ge=16, le=1 << 22)
    """N-grams with weights of their own: the most frequent ones."""
    characters: int = Field(2000, ge=1, lt=1 << 31)
    """A document's length at most."""
    hub_degree: int = Field(1000, ge=1)
    """Nodes of this degree or more are predicted, but learn to predict neither others nor a
    label."""
    labels: int = Field(1 << 18, ge=1)
    """Of a type with more nodes than this, clusters are predicted in their place: what bounds
    memory."""
    multi_scale: bool = False
    """Whether clusters are predicted beside the nodes of every type, as in the paper."""
    levels: tuple[int, ...] = Field((256, 4096), min_length=1)
    """Clusters at each level of the label tree, coarse to fine: powers of two, or the one below."""
    epochs: float = Field(6.0, gt=0)
    """Passes over the nodes that have neighbours."""
    label_share: float = Field(0.4, ge=0)
    """Where the pipeline names a label: steps of each of the four rounds in which n-grams learn it
    at last (`cross_fitting.py`), as a share of all others. 0: features know nothing of it."""
    steps: int = Field(400, ge=0)
    """Steps at least, so that a small graph is learned too."""
    workers: int = Field(1, ge=1)
    """Processes that share every batch, each with its part of the cores or a GPU."""
    batch: int = Field(512, ge=1)
    """Documents in a step."""
    negatives: int = Field(1024, ge=1)
    """Labels of one level up to which all compete in a step. Of more, those of the batch, and where
    they are not as many, random ones beside them."""
    learning_rate: float = Field(0.05, gt=0)
    """Of the vectors of n-grams and labels; the layers above them learn at 1/25 of it."""
    weight_decay: float = Field(0.01, ge=0)
    """Share of its length, times the learning rate, that a weight loses in a step."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of n-grams left out of a document in a step, against learning documents by heart."""
    scale: float = Field(6.0, gt=0)
    """Inverse temperature of the softmax over cosines."""
    loss: Literal["softmax", "squared-hinge"] = "softmax"
    """Over labels that compete, or of each by itself."""
    hard_negatives: float = Field(0.0, ge=0, le=1)
    """Share of ``negatives`` that comes from clusters which the level above finds likely, in place
    of random ones: with ``multi_scale`` alone."""
    log_q: bool = False
    """Whether a sampled label's logit is corrected by how often it is sampled."""

    @model_validator(mode="after")
    def _coarse_to_fine(self) -> FeatureSettings:
        if any(size < 1 for size in self.levels) or list(self.levels) != sorted(self.levels):
            raise ValueError("'levels' must be numbers of clusters from 1, coarse to fine")
        return self

    @model_validator(mode="after")
    def _likely_clusters(self) -> FeatureSettings:
        if self.hard_negatives and not self.multi_scale:
            raise ValueError(
                "'hard_negatives' come from likely clusters, which are predicted with "
                "'multi_scale: true' alone"
            )
        return self

    @model_validator(mode="after")
    def _corrected(self) -> FeatureSettings:
        if self.log_q and self.loss != "softmax":
            raise ValueError("'log_q' corrects the loss 'softmax', and no other")
        return self

    @model_validator(mode="after")
    def _one_model(self) -> FeatureSettings:
        if self.model is None and self.encoder == "transformers":
            raise ValueError(
                "'model' is missing: the encoder 'transformers' is the text model in a folder, "
                "which it names"
            )
        if self.model is not None and self.encoder != "transformers":
            raise ValueError("'model' is the folder of the encoder 'transformers', and of no other")
        return self

    @property
    def text_model(self) -> Path | None:
        """The folder of the text model, where there is one. Raises `IsohopError`."""
        return packaged_minilm() if self.encoder == "minilm" else self.model
