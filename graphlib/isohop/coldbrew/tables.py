"""Tables of vectors by node type, and how node types name the parts of a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Table = Mapping[str, Tensor]
"""Node type -> float32 (nodes, d)."""


def module_key(name: str) -> str:
    """A node or edge type's name as the name of a torch module, which may not contain a dot."""
    return name.replace("%", "%25").replace(".", "%2E")
