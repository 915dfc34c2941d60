"""The physical side: tables, keys and references, as the schema file states them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field, field_validator

from isohop.yaml_file import StrictModel

OrphanPolicy = Literal["keep", "unset", "quarantine"]
ViolationPolicy = Literal["majority", "unset", "fail"]
ColumnType = Literal["string", "integer", "number", "boolean", "date", "timestamp"]


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Columns = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many, json_schema_input_type=str | tuple[str, ...]),
]
"""Of a table; one may be written by itself."""


class Policies(StrictModel):
    """What happens to bad data. Whatever happens is counted in the ledger.

    ``orphans``: a reference to a key that its table lacks. *keep*: the key is a fact and stays (an
    entity is then known by its key alone; a folded table with a surrogate key yields NULL);
    *unset*: the reference is read as NULL; *quarantine*: the row is taken out.

    ``violations``: an entity with two values for one attribute. *majority*: the value that most
    rows give, the smallest of equals; *unset*: none; *fail*: the build stops.
    """

    orphans: OrphanPolicy = "keep"
    violations: ViolationPolicy = "majority"


class Reference(StrictModel):
    """``columns`` hold the key of ``table``, column for column.

    ``prefix`` goes before the names of all that is reached through this reference, and names its
    role: with ``prefix: origin_`` the role is ``origin``.
    """

    columns: Columns = Field(min_length=1)
    table: str
    prefix: str = ""
    orphans: OrphanPolicy | None = None


def distinct(columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The same columns, once it is seen that none is named twice."""
    if columns is not None and len(set(columns)) < len(columns):
        raise ValueError(f"names a column twice: {', '.join(columns)}")
    return columns


class Table(StrictModel):
    """One table. ``parts``: the source's tables that hold its rows; left out, the one of its name.

    ``columns`` maps a column to its logical attribute; null: not used. ``determines`` says what an
    entity or role determines among all that a row of this table leads to, by logical names (of
    values) and roles (of entities): with ``customer: [city, shop]``, the city and the shop of an
    order are its customer's.
    """

    parts: tuple[str, ...] = ()
    key: Columns | None = None
    unique: tuple[Columns, ...] = ()
    surrogate: bool = False
    time: str | None = None
    columns: Mapping[str, str | None] = {}
    types: Mapping[str, ColumnType] = {}
    references: tuple[Reference, ...] | None = None
    determines: Mapping[str, tuple[str, ...]] = {}

    @field_validator("key")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return distinct(value)

    @field_validator("columns")
    @classmethod
    def _named(cls, value: Mapping[str, str | None]) -> Mapping[str, str | None]:
        for column, name in value.items():
            if name is not None and not name.rpartition(".")[2]:
                raise ValueError(f"gives '{column}' no name: '{name}'; null: not used")
        return value

    @field_validator("unique")
    @classmethod
    def _some_each_once(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if () in value:
            raise ValueError("needs the columns that are unique together, one at least")
        return tuple(columns for columns in map(distinct, value) if columns)


def type_family(type_: pa.DataType) -> str:
    """Types of one family compare by value: all integers, all decimals and doubles, …"""
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_null(type_):
        return "string"
    if pa.types.is_dictionary(type_):
        return type_family(type_.value_type)
    if pa.types.is_timestamp(type_):
        return "timestamp"
    return str(type_)
