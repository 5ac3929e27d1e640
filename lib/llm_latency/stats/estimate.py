"""Estimates: a median, the interval that its sample supports, and how many samples there are.

The process is the sample. Generations in one process share its memory layout, page cache and
thread placement, and so are not independent of each other: in a simulation with 2 % spread
between processes and 1 % within, the nominal 95 % interval out of 20 repeats in one process
covered the truth 18 % of the time; 20 processes with one generation each, 93 %. So each process
is first reduced to one number, and only then are processes compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtr, stdtrit  # scipy.stats takes half a second to import

from llm_latency.errors import ParameterError
from llm_latency.records.frame import counted, of_one_origin

FEWEST = 6
"""The fewest processes that give a median a distribution-free 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """A median and what is known of it.

    Attributes
    ----------
    median : float
        Median of the samples; NaN where there is none.
    low, high : float
        Bounds of the interval, or smallest and largest sample where ``kind`` is ``"range"``.
    n : int
        Number of samples.
    kind : {"interval", "range"}
        Whether the bounds are a confidence interval; a range promises nothing.
    coverage : float or None
        Probability with which such an interval holds the median; ``None`` for a range.
    """

    median: float
    low: float
    high: float
    n: int
    kind: Literal["interval", "range"]
    coverage: float | None = None

    def times(self, factor: float) -> Estimate:
        """Return the same estimate in another unit."""
        return replace(
            self, median=self.median * factor, low=self.low * factor, high=self.high * factor
        )

    def below(self, other: Estimate) -> bool:
        """Return whether this one lies below the other beyond doubt: two intervals, apart."""
        return self.kind == other.kind == "interval" and self.high < other.low


def estimate(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """Return the median with its distribution-free interval from order statistics.

    The bounds are two of the samples themselves, chosen by the binomial distribution: the
    narrowest pair, equally far from both ends, that holds the median with at least the wanted
    probability. It assumes independent samples and nothing else. Six samples are the fewest
    that give 95 %; below that the bounds are the smallest and the largest sample, called a
    range.

    Parameters
    ----------
    values
        Independent samples, one per process. NaN is a value that could not be had: it is left
        out and not counted in ``n``.
    confidence
        Wanted probability, between 0 and 1.

    Raises
    ------
    ParameterError
        If a value is infinite, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence={confidence!r} is refused: give a number such as 0.95.")
    sample = np.sort(np.asarray([float(v) for v in values if not math.isnan(v)], dtype=float))
    if np.isinf(sample).any():
        raise ParameterError(
            "an infinite value is no measurement; give NaN for a value that could not be had."
        )
    n = len(sample)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "range")
    # Leaving out k samples at each end, the rest miss the median with probability
    # 2 P(B <= k), B ~ Binomial(n, 1/2).
    tails = 2 * bdtr(np.arange((n + 1) // 2, dtype=float), n, 0.5)
    k = int(np.count_nonzero(1 - tails >= confidence)) - 1
    middle = float(np.median(sample))
    if k < 0:
        return Estimate(middle, float(sample[0]), float(sample[-1]), n, "range")
    bounds = float(sample[k]), float(sample[n - 1 - k])
    return Estimate(middle, *bounds, n, "interval", float(1 - tails[k]))


def mean(values: Iterable[float]) -> Estimate:
    """Return the mean of independent samples that are means themselves, with Student's interval.

    For shares and sums, where the whole counts: of a rare event most samples have none, and their
    median would be none. ``median`` holds the mean. Below six samples the bounds are a range.
    """
    sample = np.asarray([float(v) for v in values if not math.isnan(v)], dtype=float)
    if len(sample) < FEWEST:
        few = estimate(sample)
        return replace(few, median=float(sample.mean())) if len(sample) else few
    middle, n = float(sample.mean()), len(sample)
    aside = float(stdtrit(n - 1, 0.975) * sample.std(ddof=1) / math.sqrt(n))
    return Estimate(middle, middle - aside, middle + aside, n, "interval", 0.95)


def per_process(frame: pd.DataFrame, column: str, by: Sequence[str] = ("cell_id",)) -> pd.DataFrame:
    """Return one number per process: the median over its ``ok`` generations.

    Parameters
    ----------
    frame
        Rows of a run, ``run.frame()``.
    column
        The measured column.
    by
        Columns that name a cell; kept.

    Raises
    ------
    ParameterError
        If the frame lacks a column.
    LabError
        If it holds rows of several machines, engines or model files, and ``by`` does not take
        them apart.
    """
    process = [name for name in ("run_id", "trial_id") if name in frame]
    for name in (*by, column, "status", "trial_id"):
        if name not in frame:
            raise ParameterError(
                f"the frame has no column {name!r}; give the frame of a run, run.frame()."
            )
    good = counted(frame)
    of_one_origin(good, by)
    good = good[good["status"] == "ok"]
    values = good[column]
    groups = list(dict.fromkeys([*by, *process]))
    reduced = values.groupby([good[name] for name in groups], dropna=False, sort=False).median()
    return reduced.rename(column).reset_index()


def estimates(
    frame: pd.DataFrame,
    column: str,
    by: Sequence[str] = ("cell_id",),
    confidence: float = 0.95,
) -> dict[Any, Estimate]:
    """Return the estimate of every cell, also of those in which nothing could be measured.

    The keys are the values of ``by``: one value where ``by`` is one column, else a tuple.
    """
    samples = per_process(frame, column, by)
    unit = by[0] if len(by) == 1 else list(by)
    found = {
        _key(key): estimate(group[column], confidence)
        for key, group in samples.groupby(unit, dropna=False, sort=False)
    }
    every = frame[list(by)].drop_duplicates().itertuples(index=False, name=None)
    named = [_key(row[0] if len(by) == 1 else row) for row in every]
    return {key: found.get(key, estimate([], confidence)) for key in named}


def _key(value: Any) -> Any:
    # NaN is not equal to itself and so no key; a setting that was not given is None.
    if isinstance(value, tuple):
        return tuple(_key(part) for part in value)
    return None if value is None or value != value else value


def outliers(values: Iterable[float], beyond: float = 5.0) -> npt.NDArray[np.bool_]:
    """Flag values further than ``beyond`` scaled median absolute deviations from the median.

    They are flagged beside the number, never dropped. Fewer than five values flag nothing.
    """
    sample = np.asarray(list(values), dtype=float)
    known = sample[~np.isnan(sample)]
    if len(known) < 5:
        return np.zeros(len(sample), dtype=bool)
    middle = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - middle)))
    # Clocks have a grain: where most values are equal, a tiny difference is no outlier.
    return np.abs(sample - middle) > beyond * max(spread, 1e-3 * abs(middle))


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return a percentile, or ``None`` where the sample is too small to carry it.

    A sample of n carries the share p if, with 95 % probability, at least one value lies beyond
    it: ``n >= log(0.05) / log(p)``; 59 for the 95th percentile, 299 for the 99th.
    """
    if not 0 < share < 1:
        raise ParameterError(f"share={share!r} is refused: give a number such as 0.95.")
    sample = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    far = max(share, 1 - share)
    if len(sample) < math.log(0.05) / math.log(far):
        return None
    return float(np.quantile(sample, share))
