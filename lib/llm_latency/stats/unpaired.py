"""Is B slower than A, where no round has both? Two independent samples of processes.

What a machine does at one time falls on all cells of a round alike, and that is why the lab pairs
them. Two runs of different days share no round. All that can be compared then are two samples, and
the interval knows only how processes scatter within each run: a machine that is hotter, busier or
updated on the other day moves all of them, and no number of processes tells. So a verdict of here
never stands without what lies between the two, ``Comparison.apart``.

The estimate is that of Hodges and Lehmann (Estimates of location based on rank tests, Annals of
Mathematical Statistics 34, 1963): the median of all differences of one logarithm of B and one of
A, whose exponential is a ratio. Its interval inverts the rank test of Mann and Whitney: the
differences in their order, without as many at each end as chance brings to one side. It is exact
for samples of any size and distribution, as long as both have the same shape, shifted.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison, judge
from llm_latency.stats.estimate import FEWEST, Estimate

ALPHA = 0.05
"""Probability that the interval misses."""
EXACT = 10_000
"""Differences up to which the ways are counted; beyond, their sum is as good as normal."""


def unpaired(
    a: pd.Series[float],
    b: pd.Series[float],
    floor: float | None,
    apart: str,
    smallest_effect: float = SMALLEST_EFFECT,
) -> Comparison:
    """Compare B with A as two independent samples of processes.

    Parameters
    ----------
    a, b
        One number above 0 per process, see :func:`~llm_latency.stats.compare.samples`.
    floor
        The relative difference that equal cells show: of both runs' twins, the larger.
    apart
        What lies between the two, such as another day.
    smallest_effect
        Relative difference that would matter to the user.

    Returns
    -------
    Comparison
        With the verdicts of :func:`~llm_latency.stats.compare.compare`; its ``n`` is the number
        of processes in the smaller sample, and six of each are the fewest for an interval.
    """
    log = shift(np.log(a.to_numpy(dtype=float)), np.log(b.to_numpy(dtype=float)))
    middle, low, high = (math.exp(x) for x in (log.median, log.low, log.high))
    ratio = Estimate(middle, low, high, log.n, log.kind, log.coverage)
    verdict, why = judge(log, ratio, floor, smallest_effect, "unpaired sample")
    cells = frozenset(str(cell) for one in (a, b) for cell in one.attrs.get("cells", ()))
    return Comparison(ratio, floor, verdict, why, cells, apart=apart)


def shift(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Estimate:
    """Return by how much B lies above A: the median of all differences, with its interval.

    Of fewer than six in either the bounds are the smallest and the largest difference, a range.
    """
    between = np.sort(np.subtract.outer(b, a).ravel())
    n = min(len(a), len(b))
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "range")
    middle = float(np.median(between))
    if n < FEWEST:
        return Estimate(middle, float(between[0]), float(between[-1]), n, "range")
    outside, missed = left_out(len(a), len(b))
    bounds = float(between[outside]), float(between[-1 - outside])
    return Estimate(middle, *bounds, n, "interval", 1 - missed)


@lru_cache(maxsize=256)
def left_out(m: int, n: int) -> tuple[int, float]:
    """Return how many differences lie outside the interval at each end, and how often it misses."""
    if m * n > EXACT:
        spread = math.sqrt(m * n * (m + n + 1) / 12)
        return max(0, math.floor(m * n / 2 - 1.96 * spread) - 1), ALPHA
    missed = 2 * np.cumsum(_ways(m, n))
    outside = int(np.count_nonzero(missed <= ALPHA)) - 1
    return outside, float(missed[outside])


def _ways(m: int, n: int) -> npt.NDArray[np.float64]:
    """Return the probability of each number of pairs in which A is the larger, of equal samples.

    The largest of all is one of A's with probability m / (m + n), and then is in n such pairs.
    """
    row = [np.ones(1) for _ in range(n + 1)]
    for i in range(1, m + 1):
        for j in range(1, n + 1):
            found = np.zeros(i * j + 1)
            found[j:] += row[j] * i / (i + j)
            found[: i * (j - 1) + 1] += row[j - 1] * j / (i + j)
            row[j] = found
    return row[n]
