"""Warm start: teacher, MLP and student of an earlier run, trained further on a later graph.

They begin with the weights that they have, a node that is known with its structural embedding, and
keep them where no step is better on validation. So vectors stay near to what they were, and what
others trained on them holds for longer than where all is learned anew; for that the share of
content stays, too. What was held out of the
earlier graph is held out again, and what may have been seen is not (`isohop.graph.holdout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from isohop.coldbrew.distill import read_manifest
from isohop.coldbrew.keeping import moved_teacher
from isohop.coldbrew.known_graph import model_tensors
from isohop.coldbrew.known_labels import KNOWN
from isohop.coldbrew.labels import CLASSES, Labels
from isohop.coldbrew.tables import ResidualMLP, module_key
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.earlier import all_new, check_same_types, later_nodes
from isohop.graph.held_out import HELD_OUT, learned_from, parts_of_label
from isohop.graph.holdout import Learned, entity_of_label

if TYPE_CHECKING:
    from isohop.coldbrew.distiller import Distiller

OF_CLASSES = tuple(f"classify.{name}" for name in ("weight", "bias", *ResidualMLP.of_outputs))
"""Of what answers about a label, the parameters that have a row for each of its classes."""


@dataclass(frozen=True)
class WarmStart:
    """What training goes on from: the weights in the folder ``model``. ``later``: where the nodes
    of its graph are now, as of `later_nodes`; ``learned``: what it has seen; ``parts``: int8
    (nodes,), those of a label, as of `Labels.parts`; ``layers``: the teacher's; ``content``: the
    share that it has in vectors, None where none was chosen; ``link_weight``: 0 where it learned no
    links beside a label."""

    model: Path
    later: Mapping[str, np.ndarray]
    learned: Learned
    parts: np.ndarray | None
    layers: int | None
    content: float | None
    link_weight: float

    @classmethod
    def of(cls, before: Graph, model: Path, now: Graph, label: str | None) -> WarmStart:
        """``model`` learned from the graph ``before``. Raises `IsohopError` where that has other
        types, or none of the nodes of one."""
        check_same_types(before, now)
        later = later_nodes(before, now)
        for name in all_new(now, later):
            raise IsohopError(
                f"No node of '{name}' in {now.path} was one of {before.path}: its key is of "
                "another type, or all its rows are others. Learn anew: leave 'since' out."
            )
        kept = model / HELD_OUT
        parts = None
        if label is not None:
            parts = parts_of_label(kept, now, entity_of_label(label), later)
        # One for all entities.
        manifest = read_manifest(model)
        content = {choice.content for choice in manifest.choices.values()}
        learned = learned_from(before, kept, now, later)
        settings = manifest.settings
        chosen = settings.layers, min(content, default=None), settings.link_weight
        return cls(model, later, learned, parts, *chosen)

    def give_weights(self, distiller: Distiller) -> None:
        """Raises `IsohopError` where the model has another form."""
        model, known = self.model, self._classes(distiller.labels)
        _begin(distiller.baseline, model_tensors(model, "mlp"), model, known)
        _begin(distiller.student, model_tensors(model, "student"), model)
        later = {name: torch.from_numpy(ids) for name, ids in self.later.items()}
        taught = moved_teacher(model_tensors(model, "teacher"), later)
        taught = _placed(taught, distiller.teacher.state_dict(), later)
        if distiller.teacher.known is not None:
            taught |= _hearing(distiller.teacher.known.state_dict(), taught, known)
        _begin(distiller.teacher, taught, model, known)

    def _classes(self, labels: Labels | None) -> tuple[Tensor, Tensor] | None:
        """Places of the label's classes that there were before: now, and then. None where nothing
        was learned of it; of a number there is one place."""
        file = self.model / CLASSES
        if labels is None or not file.is_file():
            return None
        if not labels.classes:
            return torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        before = {name: at for at, name in enumerate(pq.read_table(file)["name"].to_pylist())}
        pairs = [(at, before[n]) for at, n in enumerate(labels.names) if n in before]
        now, then = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        return now, then


def _placed(
    taught: Mapping[str, Tensor], own: Mapping[str, Tensor], names: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The teacher's weights, with the structural embeddings of the nodes that have some now: those
    of before where they had one then."""
    found = dict(taught)
    for key in map(module_key, names):
        before, now = taught[f"nodes_{key}"], own[f"nodes_{key}"]
        found[f"nodes_{key}"] = now
        known = torch.nonzero(torch.isin(now, before))[:, 0]
        row = torch.searchsorted(before, now[known])
        for table in [n for n in own if n.startswith("structural.") and n.endswith(f".{key}")]:
            found[table] = own[table].index_copy(0, known, taught[table][row])
    return found


def _hearing(
    own: Mapping[str, Tensor], taught: Mapping[str, Tensor], classes: tuple[Tensor, Tensor] | None
) -> dict[str, Tensor]:
    """The labels that are known now, and what was learned of how to hear them."""
    found = {f"{KNOWN}{name}": values for name, values in own.items()}
    name = f"{KNOWN}vectors"
    if classes is None or name not in taught:
        return found
    if own["values"].is_floating_point():
        found[name] = taught[name]
    else:
        found[name] = own["vectors"].index_copy(0, classes[0], taught[name][classes[1]])
    return found


def _begin(
    module: torch.nn.Module,
    weights: Mapping[str, Tensor],
    model: Path,
    known: tuple[Tensor, Tensor] | None = None,
) -> None:
    """``known``: as of `WarmStart._classes`; what is answered about new ones begins anew."""
    own = module.state_dict()
    fit = {n: v for n, v in weights.items() if n in own and own[n].shape == v.shape}
    for name in (name for name in own if name.startswith("classify.")):
        if known is None:
            fit[name] = own[name]
        elif name in weights and name.startswith(OF_CLASSES):
            fit[name] = own[name].index_copy(0, known[0], weights[name][known[1]])
    missing = [name for name in own if name not in fit]
    if missing:
        raise IsohopError(
            f"{model} has other weights than are trained here ({missing[0]}): its graph or its "
            "features are others. Learn anew: leave 'since' out."
        )
    module.load_state_dict({**own, **fit})
