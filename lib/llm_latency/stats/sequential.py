"""Looks after every round: an interval that still holds, and when further rounds tell no more.

Whoever looks at a 95 % interval after each round and stops when it pleases is wrong far more often
than one time in twenty. Here all looks together are: errors are spent, look by look, as Lan and
DeMets do (Discrete sequential boundaries for clinical trials, Biometrika 70, 1983), by a function
of the number of rounds alone, so that the last look need not be known; the intervals of all looks
together are a confidence sequence of the median, as those of Howard and Ramdas (Sequential
estimation of quantiles, Bernoulli 28, 2022), and exact for few samples instead of for many.

It rests on signs: of two equal cells either is the quicker with probability 1/2, round by round,
so the number of rounds that one won is a random walk, whose ways are counted here and not
approximated. The price: at twelve rounds the interval leaves out one sample at each end instead
of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llm_latency.stats.estimate import FEWEST, Estimate, estimate

ALPHA = 0.05
"""Probability that any look at all is wrong."""
FIRST = 2.0 ** (1 - FEWEST)
"""What the first look takes of it: six equal signs, the least that says anything."""


class Look(NamedTuple):
    """The interval after some samples.

    Attributes
    ----------
    outside : int
        How many samples lie outside it at each end; -1 where there is none yet.
    spent : float
        Probability that this look or one before missed the median.
    """

    outside: int
    spent: float


def may_be_spent(n: int) -> float:
    """Return the most that looks up to ``n`` samples may err: little is left for much later."""
    return FIRST + (ALPHA - FIRST) * (1 - (FEWEST / n) ** 2)


@lru_cache(maxsize=256)
def looks(most: int) -> tuple[Look, ...]:
    """Return the look after each number of samples, from none to ``most``.

    ``ways[s]`` is the probability that s of n samples lie above the median and that no look so
    far has missed it. Each look leaves out as many samples as what may be spent allows.
    """
    ways: npt.NDArray[np.float64] = np.ones(1)
    found, spent, outside = [Look(-1, 0.0)], 0.0, -1
    for n in range(1, most + 1):
        ways = (np.append(ways, 0.0) + np.append(0.0, ways)) / 2
        # Both ends alike: the walk is symmetric.
        while n >= FEWEST and spent + 2 * ways[: outside + 2].sum() <= may_be_spent(n):
            outside += 1
        if outside >= 0:
            spent += 2 * ways[: outside + 1].sum()
            ways[: outside + 1] = ways[n - outside :] = 0.0
        found.append(Look(outside, float(spent)))
    return tuple(found)


def widened(values: Iterable[float]) -> Estimate:
    """Return the median with an interval that holds although one looked after each sample.

    Where the run ended because of what was seen, the median lies somewhat too far from none.

    Parameters
    ----------
    values
        Independent samples in any order, as for :func:`~llm_latency.stats.estimate.estimate`.
    """
    sample = np.sort(np.asarray(list(values), dtype=float))
    plain = estimate(sample)
    if plain.kind == "range":
        return plain
    outside, spent = looks(plain.n)[-1]
    low, high = float(sample[outside]), float(sample[plain.n - 1 - outside])
    return replace(plain, low=low, high=high, coverage=1 - spent)


def hopeless(logs: npt.NDArray[np.float64], most: int, reach: float) -> bool:
    """Return whether no verdict can be reached any more, whatever the samples to come say.

    A sample that lies on the wrong side stays there: when more do than the last interval leaves
    out, neither faster, slower nor the same can follow. To end then changes no verdict.

    Parameters
    ----------
    logs
        Logarithms of ratios.
    most
        How many there will be at the end.
    reach
        How far from 0 the interval of equal cells may extend.
    """
    outside = looks(most)[-1].outside
    against_faster, against_slower = np.sum(logs >= 0), np.sum(logs <= 0)
    against_same = max(np.sum(logs > reach), np.sum(logs < -reach))
    return bool(min(against_faster, against_slower, against_same) > outside)
