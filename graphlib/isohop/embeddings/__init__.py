"""The embedding dataset: what is published, how it is read, and who is near whom.

The public names load on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "EmbeddingsManifest": "isohop.embeddings.contract",
    "PublishSettings": "isohop.embeddings.settings",
    "PublishedVersion": "isohop.embeddings.publisher",
    "cosine_nearest": "isohop.embeddings.search",
    "nearest": "isohop.embeddings.search",
    "publish": "isohop.embeddings.publisher",
    "read_embeddings": "isohop.embeddings.reader",
    "read_manifest": "isohop.embeddings.reader",
}

__all__ = [
    "EmbeddingsManifest",
    "PublishSettings",
    "PublishedVersion",
    "cosine_nearest",
    "nearest",
    "publish",
    "read_embeddings",
    "read_manifest",
]

if TYPE_CHECKING:
    from isohop.embeddings.contract import EmbeddingsManifest
    from isohop.embeddings.publisher import PublishedVersion, publish
    from isohop.embeddings.reader import read_embeddings, read_manifest
    from isohop.embeddings.search import cosine_nearest, nearest
    from isohop.embeddings.settings import PublishSettings


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'isohop.embeddings' has no attribute {name!r}")
