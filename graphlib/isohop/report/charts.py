"""The geometry of charts, in the units of an SVG's view box; the templates draw it.

Nothing here knows HTML, and no text is put together that would need escaping.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 14.0, 12.0, 34.0
_MOST_POINTS = 300


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, ``position`` along it."""

    position: float
    label: str


@dataclass(frozen=True)
class Line:
    """An SVG path; ``faint`` for raw values behind a smoothed line."""

    path: str
    faint: bool = False


@dataclass(frozen=True)
class LineChart:
    """A curve over steps."""

    width: float
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    end: tuple[float, float]
    """Where the last point is."""
    last: float
    best: float
    steps: int
    dropped: int
    """Values that are not finite, hence not drawn."""


@dataclass(frozen=True)
class Bar:
    """A bar standing on the axis; ``low`` and ``high`` bound what it counts."""

    x: float
    y: float
    width: float
    height: float
    low: int
    high: int
    count: int

    @property
    def label(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


@dataclass(frozen=True)
class Histogram:
    """Bars over doubling bins, counts on a logarithmic axis."""

    width: float
    height: float
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def line_chart(
    steps: Sequence[float],
    values: Sequence[float | None],
    width: float = 360,
    height: float = 210,
) -> LineChart | None:
    """A curve, smoothed where it has many points; None where no value is finite."""
    x = np.asarray(steps, dtype=float)
    y = np.asarray([np.nan if value is None else value for value in values], dtype=float)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return None
    dropped = int((~finite).sum())
    x, y = x[finite], y[finite]
    x_range = (float(x.min()), float(x.max())) if len(x) > 1 else (x[0] - 1, x[0] + 1)
    y_values = linear_ticks(float(y.min()), float(y.max()))
    y_range = y_values[0], y_values[-1]

    def place_x(value: np.ndarray | float) -> np.ndarray:
        span = (x_range[1] - x_range[0]) or 1.0
        return _LEFT + (np.asarray(value) - x_range[0]) / span * (width - _LEFT - _RIGHT)

    def place_y(value: np.ndarray | float) -> np.ndarray:
        share = (np.asarray(value) - y_range[0]) / (y_range[1] - y_range[0])
        return height - _BOTTOM - share * (height - _TOP - _BOTTOM)

    lines = []
    drawn = y
    if len(y) > 40:
        lines.append(Line(_path(*_thin(place_x(x), place_y(y))), faint=True))
        drawn = _smooth(y, max(3, len(y) // 25))
    lines.append(Line(_path(*_thin(place_x(x), place_y(drawn)))))
    x_values = linear_ticks(*x_range)
    x_ticks = zip(x_values, _labels(x_values), strict=True)
    y_ticks = zip(y_values, _labels(y_values), strict=True)
    return LineChart(
        width=width,
        height=height,
        x_ticks=tuple(
            Tick(float(place_x(v)), label) for v, label in x_ticks if x_range[0] <= v <= x_range[1]
        ),
        y_ticks=tuple(Tick(float(place_y(v)), label) for v, label in y_ticks),
        lines=tuple(lines),
        end=(float(place_x(x[-1])), float(place_y(drawn[-1]))),
        last=float(y[-1]),
        best=float(y.min()),
        steps=len(values),
        dropped=dropped,
    )


def degree_histogram(degree: np.ndarray, width: float = 360, height: float = 210) -> Histogram:
    """How many nodes have which degree: bins 0, 1, 2–3, 4–7, …; both axes logarithmic.

    ``degree`` is int64 (nodes,). The bin of 0 stands apart, for a logarithm has no place for it.
    """
    exponents = np.zeros(len(degree), np.int64)
    connected = degree > 0
    # frexp is exact where log2 is not: 2**k must open bin k + 1.
    exponents[connected] = np.frexp(degree[connected].astype(float))[1]
    counts = np.bincount(exponents, minlength=2)
    inner_width = width - _LEFT - _RIGHT
    gap = 10.0
    band = (inner_width - gap) / len(counts)
    top = max(1.0, math.log10(max(1, counts.max())))
    decades = range(math.ceil(top) + 1)
    top = max(top, 1.0) * 1.04

    def place_y(count: float) -> float:
        # A bin of one node is a thin bar, not nothing.
        share = (math.log10(count) + 0.12) / (top + 0.12) if count > 0 else 0.0
        return height - _BOTTOM - share * (height - _TOP - _BOTTOM)

    bars = []
    for exponent, count in enumerate(counts.tolist()):
        x = _LEFT + exponent * band + (gap if exponent else 0)
        low = 0 if exponent == 0 else 1 << (exponent - 1)
        high = 0 if exponent == 0 else (1 << exponent) - 1
        y = place_y(count)
        bars.append(Bar(x, y, band * 0.86, height - _BOTTOM - y, low, high, count))
    every = max(1, math.ceil(len(bars) / 9))
    x_ticks = [
        Tick(bar.x + bar.width / 2, short_number(bar.low))
        for number, bar in enumerate(bars)
        if number == 0 or (number - 1) % every == 0
    ]
    y_ticks = [Tick(place_y(10**d), short_number(10**d)) for d in decades if d <= top]
    return Histogram(width, height, tuple(bars), tuple(x_ticks), tuple(y_ticks))


def linear_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values from at or below ``low`` to at or above ``high`` (Heckbert, Graphics Gems)."""
    largest = max(abs(low), abs(high))
    if high - low < max(1e-12 * largest, sys.float_info.min):
        pad = largest * 0.1 if largest > sys.float_info.min else 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / wanted
    magnitude = 10 ** math.floor(math.log10(raw))
    step = magnitude * next(m for m in (1, 2, 2.5, 5, 10) if raw <= m * magnitude * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = 1 - math.floor(math.log10(step))
    return [round(number * step, decimals) for number in range(first, last + 1)]


def short_number(value: float, digits: int = 3) -> str:
    """12,500 as ``12.5k``: for axes, where room is short."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{letter}"
    return f"{value:.{digits}g}"


def _labels(ticks: Sequence[float]) -> list[str]:
    """With as many digits as the step between ticks asks for: 0.693 and 0.6932."""
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    finest = math.floor(math.log10(step)) - 1
    return [
        short_number(tick, max(3, math.floor(math.log10(abs(tick))) - finest + 1) if tick else 3)
        for tick in ticks
    ]


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 300 points, the last among them."""
    if len(x) <= _MOST_POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).round().astype(int))
    return x[kept], y[kept]


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean; at the ends over what there is."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    position = np.arange(len(values))
    low = np.maximum(0, position - window // 2)
    high = np.minimum(len(values), position + window // 2 + 1)
    mean: np.ndarray = (total[high] - total[low]) / (high - low)
    return mean


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
