"""Many comparisons at once: how far apart equal cells may seem, so that none is named by chance.

One comparison of equal cells in twenty lies beyond the noise floor; of two dozen on one page, one
would. Six rounds cannot make up for that by their order: their interval misses with 3 % at best,
and a share of 5 % / 24 needs ten. So the floor itself is raised. It is the bound that the median
of normal noise exceeds with 5 % divided by the number of comparisons (Bonferroni), and at least
the noise floor of the twin. The noise is that of all comparisons together, each about its own
median: six differences of a twin alone tell it to within half.

In 1,500 simulated pages of twelve knobs in two columns, six rounds each and noise of 0.3 to 5 %
(normal, or with one process in ten late by some five times that), equal cells brought a false
verdict to 0 to 3 % of the pages, and with the twin's floor alone to up to 15 %. Where one looks
after every round up to the twelfth, any look named one in 1 to 7 % of 250 pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

SHARE = 0.05
"""Of pages without any difference, those that may name one."""


def family_floor(
    floor: float | None, compared: Sequence[npt.NDArray[np.float64]], comparisons: int
) -> float | None:
    """Return the relative difference that one of many equal comparisons shows.

    Parameters
    ----------
    floor
        That of two equal cells, see :func:`~llm_latency.stats.compare.noise_floor`; without it
        there is none.
    compared
        The ratios of each comparison of one figure, round by round.
    comparisons
        How many verdicts the page gives in all.
    """
    several = [np.log(ratios) for ratios in compared if len(ratios) > 2]
    if floor is None or not several:
        return floor
    rounds = min(map(len, several))
    about = np.concatenate([logs - np.median(logs) for logs in several])
    # Scaled as in noise_floor; about its own median a sample scatters by so much less.
    deviation = 1.4826 * float(np.median(np.abs(about))) * math.sqrt(rounds / (rounds - 1))
    bound = float(ndtri(1 - SHARE / 2 / comparisons))
    return max(floor, math.expm1(bound * 1.2533 * deviation / math.sqrt(rounds)))
