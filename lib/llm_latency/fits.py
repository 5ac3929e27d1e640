"""Straight lines through measured points, with an interval for the slope."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llm_latency.stats import FEWEST


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

    def at(self, x: float) -> float:
        """Return the line's value."""
        return self.intercept + self.slope * x


def line(x: Iterable[float], y: Iterable[float]) -> Line | None:
    """Fit a line; ``None`` below six points or where all x are equal."""
    points = np.asarray([(a, b) for a, b in zip(x, y, strict=True) if a == a and b == b])
    if len(points) < FEWEST or len(set(points[:, 0])) < 2:
        return None
    from scipy.stats import theilslopes  # here, because it takes half a second to import

    slope, intercept, low, high = theilslopes(points[:, 1], points[:, 0], alpha=0.95)
    return Line(float(slope), float(low), float(high), float(intercept), len(points))
