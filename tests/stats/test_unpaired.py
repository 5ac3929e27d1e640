"""Two samples without rounds in common: the interval holds, and no verdict stands alone."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from llm_latency.stats.compare import Comparison
from llm_latency.stats.unpaired import unpaired

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


@pytest.mark.parametrize("n", [(6, 6), (20, 6), (12, 12)])
@pytest.mark.parametrize("noisier", [1, 4])
def test_the_interval_holds_the_truth_also_where_one_day_is_noisier(
    n: tuple[int, int], noisier: float
) -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        pair = [
            pd.Series(np.exp(random.normal(0, spread, count)))
            for spread, count in zip((0.01, 0.01 * noisier), n, strict=True)
        ]
        ratio = unpaired(*pair, 0.0, DAY).ratio
        held += ratio.low <= 1 <= ratio.high
    assert held / 400 >= 0.95


def test_a_run_that_was_looked_at_has_the_wider_interval() -> None:
    random = np.random.default_rng(0)
    a, b = (pd.Series(np.exp(random.normal(0, 0.01, 12))) for _ in range(2))
    plain = unpaired(a, b, 0.0, DAY).ratio
    b.attrs["looks"] = 0
    wider = unpaired(a, b, 0.0, DAY).ratio
    assert wider.low < plain.low and wider.high > plain.high
