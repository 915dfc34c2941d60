"""The construction, in the order of the data flow: facts, nodes, functional edges, events.

Everything stays in the engine; only counts, digests and examples come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isohop.engines.progress import SILENT, Progress
from isohop.errors import InvalidInput
from isohop.hops.edges import Edges
from isohop.hops.facts import Facts
from isohop.hops.nodes import Built, Nodes
from isohop.hops.usage import count_usage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def construct(
    facts: Facts,
    out: Path,
    progress: Progress = SILENT,
    before: Mapping[str, DataFrame] | None = None,
) -> tuple[dict[str, Built], dict[str, Built]]:
    """Act on a plan; (node types, edge types) as written under ``out``, by name. ``before``: as in
    `Nodes`. Raises `InvalidInput` where columns that are one thing differ in type."""
    plan = facts.plan
    if facts.problems:
        raise InvalidInput(f"schema of {plan.schema.database}", facts.problems)
    nodes = Nodes(facts, out, before or {})
    edges = Edges(facts, nodes, out)
    steps = len(plan.roots) + len(plan.nodes) + len(plan.functional) + len(plan.events)
    with progress.task("hop normal form", steps) as bar:
        for root in plan.roots.values():
            bar.note(f"universal rows of {root.table}")
            facts.make(root)
            bar.advance()
        count_usage(plan, facts.clean, facts.frames, facts.empty, facts.ledger)
        for node in plan.nodes.values():
            bar.note(f"keys of {node.name}")
            nodes.number(node)
        for node in plan.nodes.values():
            bar.note(f"nodes {node.name}")
            nodes.make(node)
            bar.advance()
        for edge in plan.functional:
            bar.note(f"edges {edge.source}--{edge.role}--{edge.target}")
            edges.make_functional(edge)
            bar.advance()
        for event in plan.events:
            bar.note(f"event {event.name}")
            if len(event.participants) > 1 and event.root not in facts.empty:
                edges.make_pairs(event)
            bar.advance()
    return nodes.built, edges.built
