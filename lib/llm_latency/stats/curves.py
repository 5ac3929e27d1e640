"""Curves that processes drew over the same places: their line, and where it ends.

The points of one curve are not independent of each other, since one process drew them all; the
curves are. So each is fitted by itself, and what the fits say has an interval over the curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm_latency.stats.compare import SMALLEST_EFFECT
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.stats.fit import Bend, bend

Array = npt.NDArray[np.float64]
SIDE = 3
"""The fewest places on either side of a break: one more than a line needs."""


@dataclass(frozen=True)
class Break:
    """Where a line ends, and how far what follows lies off it.

    Attributes
    ----------
    place
        Number of the first place that is off the line.
    last, first
        The last place on the line, and the first off it.
    beyond
        By how much the values from there on exceed the line before, as a share of it: the median
        over curves, each judged at the place that the others chose.
    """

    place: int
    last: float
    first: float
    beyond: Estimate


class Curves:
    """One number per process and place.

    Parameters
    ----------
    places
        Ascending.
    values
        A row per process, a column per place; NaN is missing.
    """

    def __init__(self, places: npt.ArrayLike, values: Array) -> None:
        self.places = np.asarray(places, dtype=float)
        self.values = values

    @classmethod
    def of(cls, rows: pd.DataFrame, place: str, column: str) -> Curves:
        """Return the curves of a frame's rows; of several rows at a place, their median."""
        wide = rows.pivot_table(column, "process", place, "median").dropna(how="all")
        return cls(wide.columns, wide.to_numpy(dtype=float))

    def at(self, number: int) -> Estimate:
        """Return what was measured at a place, by its number."""
        return estimate(self.values[:, number])

    @property
    def held_out(self) -> list[int]:
        """Numbers of the places that are held out of a fit to test it: every second, not the last.

        Beyond the last place a line could only be trusted, not tested.
        """
        return list(range(1, len(self.places) - 1, 2))

    @cached_property
    def broken(self) -> Break | None:
        """Where the line ends, by evidence; ``None`` where it holds, or nobody can tell.

        Two lines that meet nowhere must explain the curves better than one line and than a
        parabola, by the Bayesian information criterion, which charges for what they have more to
        fit by. And no curve is a witness of its own: where the line ends for it is chosen by the
        others, so that of a curve without a break it is as often above the line as below.
        """
        x, n = self.places, len(self.places)
        whole = self.values[~np.isnan(self.values).any(axis=1)]
        if len(whole) < 2 or n < 2 * SIDE:
            return None
        middle = _typical(whole)
        place = _split(x, middle)
        apart = _off(x[:place], middle[:place], 1) + _off(x[place:], middle[place:], 1)
        smooth = min(_information(_off(x, middle, d), d + 1, n) for d in (1, 2))
        if _information(apart, 5, n) >= smooth:
            return None
        beyond = []
        for number, curve in enumerate(whole):
            at = _split(x, _typical(np.delete(whole, number, axis=0)))
            before = np.polyval(np.polyfit(x[:at], curve[:at], 1), x[at:])
            beyond.append(float(np.mean(curve[at:] / before - 1)))
        found = estimate(beyond)
        sure = found.kind == "interval" and (found.low > 0 or found.high < 0)
        if not sure or abs(found.median) <= SMALLEST_EFFECT:
            return None
        return Break(place, float(x[place - 1]), float(x[place]), found)

    @cached_property
    def bend(self) -> Bend | None:
        """How far the curves depart from a line as a parabola does; ``None`` below four places."""
        known = np.argwhere(~np.isnan(self.values))
        if not len(known):
            return None
        y = self.values[known[:, 0], known[:, 1]]
        return bend(self.places[known[:, 1]], y, known[:, 0], float(self.places[-1]))

    @property
    def _pieces(self) -> list[range]:
        """Numbers of the places that lie on one line each."""
        n = len(self.places)
        at = self.broken.place if self.broken else n
        return [piece for piece in (range(at), range(at, n)) if piece]

    def _lines(self, piece: range, left_out: Sequence[int] = ()) -> Array:
        """Return slope and value at 0 of each curve's own line through a piece."""
        taken = [number for number in piece if number not in left_out]
        made = []
        for curve in self.values[:, taken]:
            known = ~np.isnan(curve)
            enough = known.sum() > 1
            x, y = self.places[taken][known], curve[known]
            made.append(np.polyfit(x, y, 1) if enough else (math.nan, math.nan))
        return np.array(made, dtype=float).reshape(-1, 2)

    @property
    def slope(self) -> Estimate:
        """How much one step along the places adds, up to a break."""
        return estimate(self._lines(self._pieces[0])[:, 0] if self._pieces else ())

    def fitted(self, places: Array) -> Array:
        """Return the curves' own lines at any places: a row per curve."""
        made = np.full((len(self.values), len(places)), math.nan)
        for piece in self._pieces:
            slope, constant = self._lines(piece).T[:, :, None]
            # Between the last place of one line and the first of the next nobody knows: the first.
            here = places >= (self.places[piece[0]] if piece[0] else -math.inf)
            made[:, here] = (constant + slope * places)[:, here]
        return made

    def foretold(self) -> dict[int, Estimate]:
        """Return the error of lines at each place that they have not seen, as a share."""
        found = {}
        for piece in self._pieces:
            slope, constant = self._lines(piece, self.held_out).T
            for number in set(piece) & set(self.held_out):
                told = constant + slope * self.places[number]
                found[number] = estimate(told / self.values[:, number] - 1)
        return dict(sorted(found.items()))

    def reaches(self, bound: float) -> Estimate:
        """Return from which place on the lines are above a bound; of no curve: none is."""
        if not len(self.places):
            return estimate([])
        fine = np.arange(self.places[0], self.places[-1] + 1)
        above = self.fitted(fine) > bound
        return estimate(float(fine[row.argmax()]) for row in above if row.any())


def _typical(curves: Array) -> Array:
    """Return the shape that curves have in common, whatever the speed of each."""
    levels = np.median(curves, axis=1, keepdims=True)
    shape: Array = np.median(curves / levels, axis=0)
    return shape


def _off(x: Array, y: Array, degree: int) -> float:
    """Return the sum of squares by which the best polynomial misses the points."""
    return float(np.sum((np.polyval(np.polyfit(x, y, degree), x) - y) ** 2))


def _split(x: Array, y: Array) -> int:
    """Return the place from which on a second line does best."""
    sums = {
        at: _off(x[:at], y[:at], 1) + _off(x[at:], y[at:], 1)
        for at in range(SIDE, len(x) - SIDE + 1)
    }
    return min(sums, key=lambda at: sums[at])


def _information(squares: float, parameters: int, n: int) -> float:
    # A clock's grain: no fit is better than one part in ten thousand.
    return n * math.log(max(squares / n, 1e-8)) + parameters * math.log(n)
