"""The smallest of the example databases, and its schema file with tables that lie elsewhere."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "examples" / "shop" / "chain"
CHAIN = ROOT / "schemas" / "shop" / "chain.yaml"
_SOURCE = "source: {path: ../../examples/shop/chain}"


def chain_from(source: str) -> str:
    """The text of the schema file, of tables in ``source``: ``path: tables``, ``url: …``."""
    text = CHAIN.read_text("utf-8")
    assert text.count(_SOURCE) == 1
    return text.replace(_SOURCE, f"source: {{{source}}}")
