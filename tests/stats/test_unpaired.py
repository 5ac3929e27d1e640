"""Two samples without rounds in common: the interval holds, and no verdict stands alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from llm_latency.stats.compare import Comparison
from llm_latency.stats.unpaired import left_out, shift, unpaired

DAY = "another day"


def judged(effect: float, n: tuple[int, int] = (8, 8), floor: float | None = 0.01) -> Comparison:
    random = np.random.default_rng(1)
    a, b = (pd.Series(np.exp(random.normal(0, 0.005, count))) for count in n)
    return unpaired(a, b * (1 + effect), floor, DAY)


@pytest.mark.parametrize(
    ("effect", "verdict"), [(0.2, "slower"), (-0.2, "faster"), (0.0, "same"), (0.02, "undecided")]
)
def test_verdicts_are_those_of_paired_cells_and_say_what_lies_between(
    effect: float, verdict: str
) -> None:
    found = judged(effect, (24, 24) if verdict == "same" else (8, 8), floor=0.025)
    assert (found.verdict, found.apart) == (verdict, DAY)
    assert found.ratio.low <= 1 + effect <= found.ratio.high
    assert found.change == pytest.approx(effect, abs=0.01)


def test_six_processes_of_each_are_the_fewest() -> None:
    few = judged(0.5, (5, 50))
    assert (few.verdict, few.ratio.kind, few.ratio.n) == ("undecided", "range", 5)
    assert judged(0.5, (6, 50)).verdict == "slower"
    assert judged(0.5, floor=None).verdict == "undecided"


def test_nothing_on_one_side_is_no_comparison() -> None:
    assert judged(0.5, (0, 6)).ratio.n == 0
    assert math.isnan(judged(0.5, (6, 0)).ratio.median)


def test_what_lies_outside_is_counted_exactly() -> None:
    # Of all orders of three of each, by trial: how often so few pairs have A above B.
    for m, n in ((6, 6), (6, 7)):
        orders = list(itertools.combinations(range(m + n), m))
        pairs = [sum(place - rank for rank, place in enumerate(order)) for order in orders]
        outside, missed = left_out(m, n)
        share = sum(count <= outside for count in pairs) / len(orders)
        assert missed == pytest.approx(2 * share) and missed <= 0.05
        assert 2 * sum(count <= outside + 1 for count in pairs) / len(orders) > 0.05
    assert left_out(6, 6)[0] == 5  # the critical value of the tables


def test_beyond_what_is_counted_the_bounds_go_on_smoothly() -> None:
    (exact, _), (near, _) = left_out(100, 100), left_out(100, 101)
    assert exact < near < 1.02 * exact


@pytest.mark.parametrize("n", [(6, 6), (6, 20), (12, 12)])
def test_the_interval_holds_the_truth_as_often_as_it_says(n: tuple[int, int]) -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(1000):
        found = shift(*(random.normal(0, 1, count) for count in n))
        held += found.low <= 0 <= found.high
    assert held / 1000 == pytest.approx(1 - left_out(*n)[1], abs=0.02)
