"""As of: the rows of a table that were known before a moment.

A table's ``time`` is the column that says when a row became known. A row of that moment or later is
left out, and so is one that does not say; of a column of dates, rows of that day. A table without
``time`` was always known. Moments are in UTC, as landed times are.

The engine leaves them out (`forget_later`). Where types are found in what rows hold, as in texts,
that would be too late: there they are left out before they land (`Known`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BeforeValidator

if TYPE_CHECKING:
    from isohop.relational.database import Table
    from isohop.relational.integrity import CleanTable
    from isohop.relational.landing import LandedTable
    from isohop.relational.ledger import Ledger

NOTHING_SAYS = "no table says by 'time' when its rows became known, so all were known as of then"


def _spelled(value: object) -> object:
    """A number would be taken for seconds since 1970."""
    if isinstance(value, date) or (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value)):
        return value
    raise ValueError(f"'{value}' is no day and no time: say 2026-11-20 or 2026-11-20T04:00")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError as error:
        raise ValueError(f"'{moment}' is out of all years") from error


Day = Annotated[date, BeforeValidator(_spelled)]
"""A day, as YAML or the command line has it."""
Moment = Annotated[datetime, BeforeValidator(_spelled), AfterValidator(_in_utc)]
"""Likewise a day or a time; in UTC where it names no zone."""


KNOWN, LATER, UNTOLD, UNREADABLE = range(4)
"""Of a row: known as of a moment; not yet; nothing says; it should say, but not like this."""


@dataclass(frozen=True)
class Known:
    """Rows of a table that were known before ``moment``, by what its ``column`` says."""

    column: str
    moment: datetime

    def judge(self, times: pa.Array, days: pa.Array) -> np.ndarray:
        """`KNOWN`, `LATER` or `UNTOLD`, int8 (rows,). ``times``: timestamp[us] in UTC, NULL where a
        row does not say; ``days``: bool, those that name a day alone, which has to be over."""
        midnight = datetime.combine(self.moment, time())
        limits = [pa.scalar(limit, pa.timestamp("us")) for limit in (midnight, self.moment)]
        before = pc.less(times, pc.if_else(days, *limits))
        found = pc.if_else(before, KNOWN, LATER).fill_null(UNTOLD)
        return np.asarray(found, np.int8)


def is_time(type_: pa.DataType) -> bool:
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


def forget_later(
    tables: Mapping[str, Table],
    clean: Mapping[str, CleanTable],
    landed: Mapping[str, LandedTable],
    moment: datetime,
    ledger: Ledger,
) -> None:
    """Leave out of ``clean`` what was not known before ``moment``, and count it as unused, with
    what did not land for that reason."""
    from pyspark.sql import functions as F

    timed = {name: table.time for name, table in tables.items() if table.time is not None}
    if not timed:
        ledger.notes.append(NOTHING_SAYS)
    for name, column in timed.items():
        table = clean[name]
        at, limit = F.col(table.names[column]), F.lit(f"{moment:%Y-%m-%d %H:%M:%S.%f}")
        if not is_time(table.types[column]):
            before = F.lit(False)  # a column without a value: nothing says
        elif pa.types.is_date(table.types[column]):
            before = at < limit.cast("timestamp_ntz").cast("date")
        else:
            before = at.cast("timestamp_ntz") < limit.cast("timestamp_ntz")
        counts = table.frame.agg(F.count(F.when(before, 1)), F.count(at)).collect()[0]
        known, said = int(counts[0]), int(counts[1])
        later = said - known + landed[name].later
        untold = table.rows - said + landed[name].untold
        counted = ledger.table(name)
        counted.leave_unused(f"not known before {moment.isoformat(' ')}", later)
        counted.leave_unused(f"'{column}' does not say when it became known", untold)
        table.frame, table.rows = table.frame.where(before), known
