"""Whether ``confidence`` may be believed: on what nothing has seen, answers of which so much is
said should be right as often. Its own module, so that reading a manifest needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

BINS = 10
FEWEST = 100
"""Answers of a bin, at least: of fewer chance alone is as far off as confidence ever is."""


class ConfidenceBin(BaseModel):
    """Of ``count`` answers the mean ``confidence``, and the share that was ``right``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    confidence: float
    right: float
    count: int


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[ConfidenceBin, ...]:
    """By rising confidence, `BINS` at most of about as many answers each, equal confidence in one;
    none of fewer than `FEWEST` answers. ``confidence``: (answers,) from 0 to 1, NaN where it is not
    known, which says nothing; ``right``: boolean (answers,)."""
    known = np.flatnonzero(np.isfinite(confidence))
    order = known[np.argsort(confidence[known], kind="stable")]
    parts = min(BINS, len(order) // FEWEST)
    if not parts:
        return ()
    rising = confidence[order]
    ends = rising[len(order) * np.arange(1, parts) // parts]
    cuts = [0]
    for cut in np.searchsorted(rising, ends):  # before the first that is as sure
        if min(cut - cuts[-1], len(order) - cut) >= FEWEST:
            cuts.append(int(cut))
    return tuple(
        ConfidenceBin(
            confidence=round(float(confidence[rows].mean(dtype=np.float64)), 6),
            right=round(float(right[rows].mean()), 6),
            count=len(rows),
        )
        for rows in np.split(order, cuts[1:])
    )


def answers_of(bins: Sequence[ConfidenceBin]) -> int:
    """How many there are in all."""
    return sum(one.count for one in bins)


def calibration_error(bins: Sequence[ConfidenceBin]) -> float | None:
    """How far confidence is from the share that is right, mean over answers (the expected
    calibration error of Naeini et al., AAAI 2015, in bins of equally many); None of no answers."""
    count = answers_of(bins)
    if not count:
        return None
    return sum(one.count * abs(one.confidence - one.right) for one in bins) / count
