"""Isohop: entity embeddings from relational tables, independent of how the tables are laid out.

The public names load on first use, so that ``import isohop`` stays cheap: torch, DGL, Spark and
Ray are imported only by the stages that need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.26.0"

_LAZY = {
    "Graph": "isohop.graph",
    "IsohopError": "isohop.errors",
    "read_embeddings": "isohop.embeddings",
}

__all__ = ["Graph", "IsohopError", "__version__", "read_embeddings"]

if TYPE_CHECKING:
    from isohop.embeddings import read_embeddings
    from isohop.errors import IsohopError
    from isohop.graph import Graph


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'isohop' has no attribute {name!r}")
