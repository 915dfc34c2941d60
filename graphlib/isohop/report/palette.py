"""Colours that people with any colour vision can tell apart.

Categories: Paul Tol's *muted* scheme ("Colour Schemes", SRON technical note 09-002, 2021), in an
order that keeps the first few far apart in lightness as well. Quantities: five steps of viridis,
without its lightest end, which is lost on white.
"""

from __future__ import annotations

CATEGORIES = (
    "#332288",  # indigo
    "#cc6677",  # rose
    "#44aa99",  # teal
    "#ddaa33",  # sand, darker than Tol's for white paper
    "#88ccee",  # cyan
    "#882255",  # wine
    "#117733",  # green
    "#999933",  # olive
    "#aa4499",  # purple
)
QUANTITIES = ("#443983", "#31688e", "#21918c", "#35b779", "#90d743")
OTHER = "#c3c8ce"
MODELS = {
    "served": "#117733",
    "teacher": "#332288",
    "student": "#cc6677",
    "mlp": "#ddaa33",
    "trained": "#332288",
    "untrained": "#88ccee",
    "tfidf": "#ddaa33",
}


def model_colour(model: str) -> str:
    """One colour a model, the same in every chart."""
    return MODELS.get(model, OTHER)
