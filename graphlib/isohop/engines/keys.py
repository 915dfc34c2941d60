"""Keys as tables that can be joined, whatever users call their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def places(count: int) -> list[str]:
    """Names of a key's columns by their place: k0, k1, ..."""
    return [f"k{place}" for place in range(count)]


def by_place(columns: Sequence[Any], **more: Any) -> pa.Table:
    """The ``columns`` of a key, named by `places`, and ``more`` behind them."""
    return pa.table([*columns, *more.values()], names=[*places(len(columns)), *more])
