"""Is B slower than A, where no round has both? Two independent samples of processes.

What a machine does at one time falls on all cells of a round alike, and that is why the lab pairs
them. Two runs of different days share no round. All that can be compared then are two samples, and
the interval knows only how processes scatter within each run: a machine that is hotter, busier or
updated on the other day moves all of them, and no number of processes tells. So a verdict of here
never stands without what lies between the two, ``Comparison.apart``.

The ratio is that of the medians. Its interval is put together of the distribution-free intervals of
both, by their distances from the medians, squared and added (Zou and Donner, Construction of
confidence limits about effect measures, Statistics in Medicine 27, 2008), on logarithms. Unlike a
rank test's, it needs no two samples of one shape: another day is often a noisier one. In 10,000
simulations each of 6 to 20 processes with normal, skewed or now and then late times, one side as
noisy as the other or four times so, it held the truth in 96.8 to 99.0 %; the shift of Hodges and
Lehmann with the interval of Mann and Whitney's test held it in 84.2 to 99.0 %.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from llm_latency.stats.compare import SMALLEST_EFFECT, Comparison, judge
from llm_latency.stats.estimate import Estimate, estimate
from llm_latency.stats.sequential import widened


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
    log = _between(_of_logs(a), _of_logs(b))
    middle, low, high = (math.exp(x) for x in (log.median, log.low, log.high))
    ratio = Estimate(middle, low, high, log.n, log.kind, log.coverage)
    verdict, why = judge(log, ratio, floor, smallest_effect, "unpaired sample")
    cells = frozenset(str(cell) for one in (a, b) for cell in one.attrs.get("cells", ()))
    return Comparison(ratio, floor, verdict, why, cells, apart=apart)


def _of_logs(sample: pd.Series[float]) -> Estimate:
    """Return the median of logarithms; of a run that was looked at with the wider interval."""
    logs = np.log(sample.to_numpy(dtype=float))
    return estimate(logs) if sample.attrs.get("looks") is None else widened(logs)


def _between(a: Estimate, b: Estimate) -> Estimate:
    """Return by how much the median of B lies above that of A.

    Without both intervals the bounds are the smallest and the largest difference, a range.
    """
    middle, n = b.median - a.median, min(a.n, b.n)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "range")
    if a.coverage is None or b.coverage is None:
        return Estimate(middle, b.low - a.high, b.high - a.low, n, "range")
    below = math.hypot(b.median - b.low, a.high - a.median)
    above = math.hypot(b.high - b.median, a.median - a.low)
    coverage = min(a.coverage, b.coverage)
    return Estimate(middle, middle - below, middle + above, n, "interval", coverage)
