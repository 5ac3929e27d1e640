"""Straight lines through measured points, with an interval for the slope, and what bends them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_latency.stats.estimate import FEWEST


@dataclass(frozen=True)
class Line:
    """A straight line with intervals of 95 %, by the method of Theil and Sen.

    Its slope is the median of the slopes of all pairs of points, so a few outliers do not bend
    it. The points must be independent: one per process.
    """

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    n: int
    pivot: float = 0.0
    """Median of the points' x: lines of every slope within the interval meet there."""

    def at(self, x: float) -> float:
        """Return the line's value."""
        return self.intercept + self.slope * x

    def bounds(self, x: float) -> tuple[float, float]:
        """Return the line's lowest and highest value for slopes within their interval."""
        middle, away = self.at(self.pivot), x - self.pivot
        low, high = sorted((middle + self.slope_low * away, middle + self.slope_high * away))
        return low, high


def line(x: Iterable[float], y: Iterable[float]) -> Line | None:
    """Fit a line; ``None`` below six points or where all x are equal."""
    points = np.asarray([(a, b) for a, b in zip(x, y, strict=True) if a == a and b == b])
    if len(points) < FEWEST or len(set(points[:, 0])) < 2:
        return None
    from scipy.stats import theilslopes  # here, because it takes half a second to import

    slope, intercept, low, high = theilslopes(points[:, 1], points[:, 0], alpha=0.95)
    pivot = float(np.median(points[:, 0]))
    return Line(float(slope), float(low), float(high), float(intercept), len(points), pivot)


FEWEST_PLACES = 4
"""The fewest different x through which a parabola is told from noise: one more than it needs."""


def parabolas(
    x: Iterable[float], y: Iterable[float], group: Iterable[object]
) -> npt.NDArray[np.float64]:
    """Fit a parabola through the points of each group, by least squares.

    A group is a round: its points were measured one shortly after the other, and rounds are
    independent, so the coefficients are samples whose median has a distribution-free interval.

    Returns
    -------
    numpy.ndarray
        A row per group that has enough different x: constant, slope at 0, factor of the square.
    """
    groups: dict[object, list[tuple[float, float]]] = {}
    for a, b, name in zip(x, y, group, strict=True):
        if a == a and b == b:
            groups.setdefault(name, []).append((float(a), float(b)))
    rows = [
        np.polyfit([a for a, _ in points], [b for _, b in points], 2)[::-1]
        for points in groups.values()
        if len({a for a, _ in points}) >= FEWEST_PLACES
    ]
    return np.array(rows, dtype=float).reshape(-1, 3)
