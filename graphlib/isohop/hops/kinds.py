"""How an attribute's values are read: the vocabulary that every later stage shares."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

Kind = Literal["number", "category", "text", "time", "identifier"]


def default_kind(type_: pa.DataType) -> Kind:
    """The kind of an attribute for which the schema file states none."""
    if pa.types.is_boolean(type_):
        return "category"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_temporal(type_):
        return "time"
    return "text"
