"""The graph that a run learned from, as its teacher sees it: vectors of its nodes, and of new rows
that come with edges to them.

New rows listen and are not heard: a message goes from a known node to a new row and never back, so
that a row's vector does not depend on which other rows came with it, and no known node changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from isohop.coldbrew.credible import read_credible
from isohop.coldbrew.distill import DistillManifest, read_manifest
from isohop.coldbrew.inputs import Inputs, read_inputs
from isohop.coldbrew.known_labels import KNOWN, KnownLabels
from isohop.coldbrew.links import queries_of
from isohop.coldbrew.message_passing import MessageGraph, Relation
from isohop.coldbrew.reliability import credible_edges, sharpened
from isohop.coldbrew.tables import Table, unit
from isohop.coldbrew.teacher import Teacher
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.holdout import entity_of_label


@dataclass(frozen=True)
class KnownGraph:
    """``teacher``: none where nothing was learned. ``credible``: by edge type float32 (edges,),
    where messages are weighed by it. ``messages``: over all edges, those
    too that training did not see."""

    inputs: Inputs
    manifest: DistillManifest
    teacher: Teacher | None
    credible: Table
    messages: MessageGraph

    @classmethod
    def open(
        cls, graph: Graph, features: Path, model: Path, credible: Path | None = None
    ) -> KnownGraph:
        """``credible``: what was judged of its edges before (`credible.py`), which are judged now
        where there is none. Raises `IsohopError` where they do not belong together."""
        manifest = read_manifest(model)
        inputs = read_inputs(graph, features, manifest.label)
        about = (inputs.counts, inputs.edge_types, inputs.edges)
        if manifest.skipped is not None:
            return cls(inputs, manifest, None, {}, MessageGraph(*about))
        nothing = torch.zeros((2, 0), dtype=torch.int64)
        heard = {n: nothing if n in manifest.unheard else e for n, e in inputs.edges.items()}
        inputs = replace(inputs, edges=heard)
        about = (inputs.counts, inputs.edge_types, inputs.edges)
        structural = {
            name: torch.zeros(count, dtype=torch.int64)
            for name, (count,) in manifest.structural.items()
        }
        state, known = model_tensors(model, "teacher"), None
        if manifest.label is not None and f"{KNOWN}values" in state:
            entity, d = entity_of_label(manifest.label), manifest.settings.part
            known = KnownLabels(entity, inputs.counts[entity], manifest.outputs, d)
        learned = manifest.settings, manifest.outputs
        teacher = Teacher(inputs, structural, *learned, known=known)
        load_weights(teacher, state, model)
        teacher.eval()
        judged: Table = {}
        messages = MessageGraph(*about)
        if manifest.weighed and credible is not None:
            judged = read_credible(credible, graph, inputs.edge_types)
        elif manifest.weighed:
            judged = credible_edges(
                queries_of(inputs.edge_types, frozenset(inputs.entities)),
                inputs.edges,
                inputs.counts,
                partial(_teach, teacher, messages, inputs.features),
                teacher.score,
                manifest.seed,
            )
        return cls(inputs, manifest, teacher, {}, messages).with_credible(judged)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Those that count: all where nothing was learned, else those over which messages pass."""
        unheard = () if self.teacher is None else self.manifest.unheard
        return tuple(one for one in self.messages.relations if one.edge_type not in unheard)

    def with_credible(self, credible: Table) -> KnownGraph:
        """The same, whose edges are as credible as that says."""
        weights = sharpened(credible, self.manifest.weighed)
        return replace(self, credible=credible, messages=self.messages.weighed(weights))

    def teach(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The teacher's vectors of all nodes, float32 (nodes, d) by type, and their degree by how
        credible edges are, float32 (nodes,). Where nothing was learned there are no vectors, and no
        edge is believed."""
        if self.teacher is None:
            return {}, {name: torch.zeros(count) for name, count in self.inputs.counts.items()}
        degree = self.messages.degrees_in(self.messages.weights({}))
        about = self.messages, self.inputs.features, self.messages.weights({}), _unplaced(degree)
        return unit(self.teacher.crossed(*about)), degree

    def teach_new(
        self, entity: str, features: Tensor, edges: Mapping[Relation, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `teach`, of new rows of an entity: (rows, d) and (rows,). ``features``: float32
        (rows, d_in). ``edges``: by the one of `relations` that brings messages to the entity, int64
        (2, edges) of known nodes and rows. A new edge is wholly credible. Where nothing was learned
        nothing is known of a row but zeros."""
        if self.teacher is None:
            nothing = torch.zeros(len(features), self.manifest.settings.part)
            return nothing, nothing.sum(1)
        inputs, known = self.inputs, self.inputs.counts[entity]
        together, credible = dict(inputs.edges), dict(self.credible)
        for relation, (node, row) in edges.items():
            name, ends = relation.edge_type, [node, row + known]
            new = torch.stack(ends[::-1] if relation.reverse else ends)
            together[name] = torch.cat([together[name], new], 1)
            if name in credible:
                credible[name] = torch.cat([credible[name], torch.ones(len(node))])
        counts = {**inputs.counts, entity: known + len(features)}
        unheard = {entity: known}
        weights = sharpened(credible, self.manifest.weighed)
        graph = MessageGraph(counts, inputs.edge_types, together, weights, unheard)
        everything = {**inputs.features, entity: torch.cat([inputs.features[entity], features])}
        unplaced = _unplaced(self.messages.degrees_in(self.messages.weights({})))
        taught = _teach(self.teacher, graph, everything, {}, unplaced)[entity][known:]
        return taught, graph.degrees_in(graph.weights({}))[entity][known:]


def _unplaced(degree: Table) -> Table:
    """Masks of known nodes: who has lost all edges since training has no place in the graph, as a
    new row has none."""
    return {name: of == 0 for name, of in degree.items()}


def _teach(
    teacher: Teacher,
    graph: MessageGraph,
    features: Table,
    left_out: Mapping[str, Tensor],
    unplaced: Table | None = None,
) -> dict[str, Tensor]:
    return unit(teacher(graph, features, graph.weights(left_out), unplaced))


def model_tensors(model: Path, of: str) -> dict[str, Tensor]:
    """What a distilled model's ``teacher``, ``mlp`` or ``student`` has learned. Raises
    `IsohopError` where that cannot be read."""
    file = model / f"{of}.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise IsohopError(
            f"{file} cannot be read: {error}. The model is damaged: run its stage 'distill' again."
        ) from error


def load_weights(module: nn.Module, state: Mapping[str, Tensor], model: Path) -> None:
    """Raises `IsohopError` where the weights are those of another graph or other features."""
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise IsohopError(
            f"{model} was distilled from another graph or other features. Run the stage 'distill' "
            "again."
        ) from error
