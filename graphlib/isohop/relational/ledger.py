"""The integrity ledger: what became of every input row, and what is wrong with the data.

For each table: rows in = rows used + rows quarantined + rows unused, exactly. The three are counted
apart, so that the sum is a check and no identity.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field


class Finding(BaseModel):
    """One thing that was found, with a few examples and the policy that was followed."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    where: str
    count: int
    examples: list[str] = []
    policy: str = ""


class TableLedger(BaseModel):
    """One table. ``quarantined`` and ``unused``: rows by reason."""

    model_config = ConfigDict(extra="forbid")
    table: str
    rows: int = 0
    used: int = 0
    quarantined: dict[str, int] = {}
    unused: dict[str, int] = {}
    findings: list[Finding] = []

    @property
    def closes(self) -> bool:
        """Whether every row is accounted for."""
        return self.rows == self.used + sum(self.quarantined.values()) + sum(self.unused.values())

    def find(
        self, kind: str, where: str, count: int, examples: Iterable[str] = (), policy: str = ""
    ) -> None:
        """Note a finding; a count of zero is none."""
        if count:
            self.findings.append(
                Finding(kind=kind, where=where, count=count, examples=list(examples), policy=policy)
            )

    def quarantine(self, reason: str, count: int) -> None:
        if count:
            self.quarantined[reason] = self.quarantined.get(reason, 0) + count

    def leave_unused(self, reason: str, count: int) -> None:
        if count:
            self.unused[reason] = self.unused.get(reason, 0) + count


class Ledger(BaseModel):
    """``ledger.json``. ``findings`` are of the logical side: dependencies across tables."""

    model_config = ConfigDict(extra="forbid")
    tables: list[TableLedger] = []
    findings: list[Finding] = []
    notes: list[str] = []
    closes: bool = Field(default=True)

    def table(self, name: str) -> TableLedger:
        for table in self.tables:
            if table.table == name:
                return table
        table = TableLedger(table=name)
        self.tables.append(table)
        return table

    def close(self) -> None:
        """Sum up. Called once, when all is counted."""
        self.tables.sort(key=lambda table: table.table)
        self.closes = all(table.closes for table in self.tables)
