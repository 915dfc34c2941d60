"""Sets of integers as sorted arrays."""

from __future__ import annotations

import numpy as np


def distinct(values: np.ndarray) -> np.ndarray:
    """(n,) integers, ascending, each once: as `numpy.unique`, which since 2.3 asks a hash table and
    takes ten times as long."""
    ordered = np.sort(values, axis=None)
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def within(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """bool (n,): which of integer ``values`` (n,) are among ``ordered``, which ascend."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: np.ndarray = ordered[place] == values
    return found
