"""Straight lines through measured points, with an interval for the slope, and what bends them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llm_latency.stats.estimate import FEWEST, Estimate, estimate


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


Turn = Literal["upwards", "downwards", "none", "undecided"]
NOTICEABLE = 0.10
"""Share of the straight part from which on a bend is called noticeable."""


@dataclass(frozen=True)
class Bend:
    """How far something departs from a straight line; estimates over groups.

    Attributes
    ----------
    added, share
        What the square adds at the largest x, and that as a share of the whole there.
    noticeable
        The x from which on the square is a tenth of the straight part.
    coefficients
        Medians of the constant, the slope at 0, and the square.
    """

    square: Estimate
    added: Estimate
    share: Estimate
    noticeable: Estimate
    coefficients: tuple[float, float, float]

    @property
    def turn(self) -> Turn:
        """Which way the line bends, if the interval leaves zero out."""
        if self.square.kind != "interval":
            return "undecided"
        if self.square.low > 0:
            return "upwards"
        return "downwards" if self.square.high < 0 else "none"

    def at(self, x: float) -> float:
        """Return the parabola's value."""
        constant, slope, square = self.coefficients
        return constant + slope * x + square * x**2


def bend(
    x: Iterable[float], y: Iterable[float], group: Iterable[object], far: float
) -> Bend | None:
    """Fit :func:`parabolas` and say how far they bend up to ``far``; ``None`` without any."""
    fitted = parabolas(x, y, group)
    if not len(fitted):
        return None
    constant, slope, square = fitted.T
    added, bent = square * far**2, (square > 0) & (slope > 0)
    middle = [estimate(values).median for values in fitted.T]
    return Bend(
        estimate(square),
        estimate(added),
        estimate(added / (constant + slope * far + added)),
        estimate(NOTICEABLE * slope[bent] / square[bent]),
        (middle[0], middle[1], middle[2]),
    )
