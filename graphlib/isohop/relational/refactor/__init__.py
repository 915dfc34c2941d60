"""Lossless rewrites: the same facts in another schema, each a function from database to database.

    VerticalSplit ↔ VerticalMerge          a table and its 1:1 part
    ReferenceToJunction ↔ JunctionToReference
    ExtractLookup ↔ InlineLookup           with a surrogate key or a natural one
    ChainToStar ↔ StarToChain              T → L → M and T → L, T → M
    Renumber, HashKeys, NaturalKey         of surrogate keys
    SplitRows ↔ UniteRows                  a table in parts
    RenameTable, RenameColumn, Reorder

A rewrite changes rows and the physical side of the schema file together, so that logical names stay
as they were. It knows when it would lose or invent a fact of the data at hand and raises
`NotLossless`. Acts through the engine; columns have internal names (``x0``, ``x1``, …), so that no
name from outside reaches an expression.
"""

from isohop.relational.refactor.chains import ChainToStar, StarToChain
from isohop.relational.refactor.database import Database, NotLossless, Relation, Rewrite
from isohop.relational.refactor.keys import HashKeys, NaturalKey, Renumber
from isohop.relational.refactor.lookups import ExtractLookup, InlineLookup
from isohop.relational.refactor.names import RenameColumn, RenameTable
from isohop.relational.refactor.rows import Reorder, SplitRows, UniteRows
from isohop.relational.refactor.vertical import (
    JunctionToReference,
    ReferenceToJunction,
    VerticalMerge,
    VerticalSplit,
)

__all__ = [
    "ChainToStar",
    "Database",
    "ExtractLookup",
    "HashKeys",
    "InlineLookup",
    "JunctionToReference",
    "NaturalKey",
    "NotLossless",
    "ReferenceToJunction",
    "Relation",
    "RenameColumn",
    "RenameTable",
    "Renumber",
    "Reorder",
    "Rewrite",
    "SplitRows",
    "StarToChain",
    "UniteRows",
    "VerticalMerge",
    "VerticalSplit",
]
