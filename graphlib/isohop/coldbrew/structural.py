"""Structural embeddings E: what a node's place in the graph says beyond its features (Cold Brew,
Zheng et al., ICLR 2022, section 3.2).

Nodes of low degree have none: too little to learn it from. Where a step learns from a sample of the
graph it touches few rows, so gradients are sparse and a step costs what it touches. Several workers
then hold a share of the rows each, with what the optimiser knows of them: a step asks the others
for the rows of its nodes and gives them the gradients, so that what goes between workers does not
grow with their number. What passes over the whole graph holds all rows meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from isohop.coldbrew.tables import Table, module_key
from isohop.engines.workers import ALONE, AskedRows, Workers
from isohop.giant.row_table import gradient_of

if TYPE_CHECKING:
    from isohop.coldbrew.message_passing import MessageGraph

PREFIX = "structural."
"""Of the names of these tensors among a teacher's."""

Rows = list[dict[str, Tensor]]
"""Of each place (a layer, or the beginning of a walk), rows of E by node type, (rows, d)."""


class _Taken(NamedTuple):
    """Rows of a type that were asked of others for a step. ``values``: (rows, places · d), a
    leaf."""

    name: str
    asked: AskedRows
    values: Tensor


class StructuralEmbeddings(nn.ParameterList):
    """At a place, by `module_key` of a node type: float32 (its nodes with a structural embedding,
    d), in the order of their ids, all 0 to begin with. ``rows``: how many they are, by type.
    ``sparse``: whether steps touch few of them."""

    def __init__(self, rows: Mapping[str, int], places: int, dimensions: int, sparse: bool):
        super().__init__(
            nn.ParameterDict(
                {module_key(n): nn.Parameter(torch.zeros(k, dimensions)) for n, k in rows.items()}
            )
            for _ in range(places)
        )
        self.rows = dict(rows)
        self.sparse = sparse
        self.displaced = False
        self._workers = ALONE
        self._whole: Rows | None = None
        self._taken: list[_Taken] = []

    def take(self, rows: Table) -> Rows:
        """Those of int64 ``rows`` by type, distinct. A gradient finds its way to them, where they
        are shared out by `give_back`; then all workers take at once, of the same types."""
        if self.shared_out and self._whole is None:
            return self._fetch(rows)
        found = []
        for place, tables in enumerate(self):
            whole = None if self._whole is None else self._whole[place]
            held = {n: tables[module_key(n)] if whole is None else whole[n] for n in rows}
            found.append(
                {n: functional.embedding(rows[n], t, sparse=self.sparse) for n, t in held.items()}
            )
        return found

    def displace(self) -> None:
        """From here on all are 0, and stay so in training."""
        self.displaced = True
        for table in self.parameters():
            table.requires_grad_(False)
            table.zero_()

    @property
    def learned(self) -> bool:
        """Whether any is other than 0."""
        found = torch.tensor(float(any(bool(table.any()) for table in self.parameters())))
        self._workers.add([found])
        return bool(found)

    # Rows that workers share

    @property
    def shared_out(self) -> bool:
        return self._workers.count > 1

    def share_out(self, workers: Workers) -> None:
        """From here on a table is what this worker holds of it: of ``count`` workers every so-many-
        th row, and rows of 0 after the last, so that all hold equally many."""
        self._workers = workers
        if not self.shared_out:
            return
        for tables in self:
            for name, rows in self.rows.items():
                table = tables[module_key(name)]
                own = table.data[workers.share]
                short = -(-rows // workers.count) - len(own)
                table.data = functional.pad(own, (0, 0, 0, short))

    def unite(self) -> None:
        """From here on each worker holds all."""
        if not self.shared_out:
            return
        for tables, whole in zip(self, self.all_rows(), strict=True):
            for name, values in whole.items():
                tables[module_key(name)].data = values
        self._workers = ALONE

    @contextmanager
    def whole(self) -> Iterator[None]:
        """`take` gives meanwhile what all workers hold, and no gradient finds its way back."""
        if not self.shared_out or self._whole is not None:
            yield
            return
        self._whole = self.all_rows()
        try:
            yield
        finally:
            self._whole = None

    def all_rows(self) -> Rows:
        """As they are now; without gradients."""
        found = []
        for tables in self:
            held = {name: tables[module_key(name)].detach() for name in self.rows}
            # Row after row of each worker's, so that they lie as before they were shared out.
            every = {n: self._workers.stacked(x).transpose(0, 1) for n, x in held.items()}
            found.append({n: x.flatten(0, 1)[: self.rows[n]].clone() for n, x in every.items()})
        return found

    def _fetch(self, rows: Table) -> Rows:
        found: Rows = [{} for _ in self]
        for name, ids in rows.items():
            tables = [place[module_key(name)].detach() for place in self]
            if self.displaced:
                for of_place, table in zip(found, tables, strict=True):
                    of_place[name] = torch.zeros(len(ids), table.shape[1])
                continue
            asked = self._workers.ask(ids)
            values = asked.told(partial(_beside, tables)).requires_grad_()
            self._taken.append(_Taken(name, asked, values))
            for of_place, part in zip(found, values.chunk(len(tables), 1), strict=True):
                of_place[name] = part
        return found

    def give_back(self) -> None:
        """Each row's gradient, summed over the workers, becomes that of the worker whose it is."""
        for name, asked, values in self._taken:
            at, heard = asked.given_back(gradient_of(values))
            for tables, part in zip(self, heard.chunk(len(self), 1), strict=True):
                table = tables[module_key(name)]
                # Of several takes of a step, sums; of a row that several asked for, one.
                own = torch.sparse_coo_tensor(at[None], part, table.shape, check_invariants=False)
                table.grad = own.coalesce() if table.grad is None else (table.grad + own).coalesce()
        self._taken.clear()


def _beside(tables: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Rows of tables of all places beside each other, (rows, places · d)."""
    return torch.cat([table[rows] for table in tables], 1)


def structural_nodes(
    graph: MessageGraph,
    degree: int,
    told: tuple[str, Tensor] | None = None,
    left_out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The nodes of each type that have at least ``degree`` edges to learn from: any, or, where a
    label is learned, edges to nodes whose label is ``told`` (their type, a mask). A node of that
    type has none: it would learn its own label by heart, and no other node's. ``left_out``: by
    edge type positions of edges that are not there."""
    found = {name: torch.zeros(count) for name, count in graph.counts.items()}
    for relation in graph.relations:
        if told is not None and (relation.source != told[0] or relation.target == told[0]):
            continue
        source, target = graph.ends(relation)
        counts = torch.ones(len(target)) if told is None else told[1][source].float()
        if left_out and relation.edge_type in left_out:
            counts[left_out[relation.edge_type]] = 0.0
        found[relation.target] += torch.bincount(
            target, counts, minlength=len(found[relation.target])
        )
    return {name: torch.nonzero(degrees >= degree)[:, 0] for name, degrees in found.items()}
