"""How credible the edges of a graph were judged to be, for those who come later.

::

    credible/
      credible.json            CredibleManifest
      <edge type>.parquet      credible float32, of each edge in the order of the graph's; only of
                               the edge types that messages are weighed on

To judge them again would give other figures where an edge is new, and so another vector to every
node.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from isohop.coldbrew.tables import Table
from isohop.errors import IsohopError
from isohop.graph import Graph
from isohop.graph.earlier import NOBODY, later_nodes

MANIFEST = "credible.json"


class CredibleManifest(BaseModel):
    """``credible.json``: the graph's certificate and numbering, and how many edges of which types
    there are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    certificate: str
    numbering: str
    edges: dict[str, int]


def write_credible(folder: Path, graph: Graph, credible: Table) -> None:
    """``credible``: by edge type, float32 (edges,)."""
    for name, judged in credible.items():
        pq.write_table(pa.table({"credible": judged.numpy()}), folder / f"{name}.parquet")
    edges = {name: len(judged) for name, judged in credible.items()}
    of = graph.manifest
    about = CredibleManifest(certificate=of.certificate, numbering=of.numbering, edges=edges)
    (folder / MANIFEST).write_text(about.model_dump_json(indent=1), "utf-8")


def read_credible(folder: Path, graph: Graph, edge_types: Iterable[str]) -> dict[str, Tensor]:
    """Raises `IsohopError` where it is not that of ``graph``."""
    try:
        about = CredibleManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise IsohopError(f"{folder} is none of this version. Run the stage 'embed'.") from error
    counts = {edge.name: edge.count for edge in graph.edge_types}
    same = graph.manifest.has_nodes_of(about.certificate, about.numbering)
    if not same or not about.edges.items() <= counts.items():
        raise IsohopError(
            f"{folder} is not of the graph {graph.path}. Run the stage 'embed' again."
        )
    found = {}
    for name in edge_types:
        if name not in about.edges:
            continue
        file = folder / f"{name}.parquet"
        try:
            judged = pq.read_table(file)["credible"].to_numpy()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise IsohopError(
                f"{file} cannot be read: {error}. Run the stage 'embed' again."
            ) from error
        if len(judged) != about.edges[name]:
            raise IsohopError(
                f"{file} has {len(judged):,} of {about.edges[name]:,} edges. Run the stage 'embed' "
                "again."
            )
        found[name] = torch.from_numpy(judged.copy())
    return found


def with_earlier(credible: Table, now: Graph, before: Graph, folder: Path) -> dict[str, Tensor]:
    """Of the edge types that were judged before: as credible as then, where edges were there; of
    the others as now, or wholly where the type is not judged now. ``folder``: of what was judged of
    the graph ``before``."""
    later = later_nodes(before, now)
    found = {}
    for name, values in read_credible(folder, before, [e.name for e in now.edge_types]).items():
        edge = now.edge_type(name)
        width = now.node_type(edge.target).count
        source, target = before.edge_index(name)
        ends = later[edge.source][source], later[edge.target][target]
        there = (ends[0] != NOBODY) & (ends[1] != NOBODY)
        known = (ends[0] * width + ends[1])[there]
        order = np.argsort(known)
        known, old = known[order], values.numpy()[there][order]
        source, target = now.edge_index(name)
        ours = source * width + target
        place = np.minimum(np.searchsorted(known, ours), max(0, len(known) - 1))
        same = known[place] == ours if len(known) else np.zeros(len(ours), bool)
        merged = credible[name].numpy().copy() if name in credible else np.ones(len(ours), "f4")
        merged[same] = old[place[same]]
        found[name] = torch.from_numpy(merged)
    return found
