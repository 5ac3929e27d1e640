"""What is told of an estimate, a difference or a line, and what is not."""

from __future__ import annotations

import pytest

from llm_latency.report import phrases
from llm_latency.stats.compare import Comparison
from llm_latency.stats.estimate import Estimate
from llm_latency.stats.fit import Line


def test_a_slope_is_told_with_its_speed() -> None:
    line = Line(slope=0.01, slope_low=0.008, slope_high=0.0125, intercept=0.0, n=12)
    assert phrases.slope(line, "ms", 2) == (
        "20.0 ms",
        "(95 % interval 16.0 to 25.0 ms, n = 12 processes), 100 tok/s",
    )


def test_of_no_slope_there_is_no_speed() -> None:
    flat = Line(slope=0.0, slope_low=-0.001, slope_high=0.001, intercept=0.5, n=3)
    assert phrases.slope(flat, "ms")[1].endswith("**not told from nothing**")


def comparison(median: float, low: float, high: float, n: int) -> Comparison:
    kind = "interval" if n >= 6 else "range"
    return Comparison(Estimate(median, low, high, n, kind), 0.02, "undecided", "")


@pytest.mark.parametrize(
    ("median", "low", "high", "shown"),
    [
        (0.402, 0.398, 0.41, "402 [398–410] n 6"),
        (0.0034, 0.00332, 0.00338, "3.40 [3.32–3.38] n 6"),
        (0.00572, -1.28561, 0.01823, "5.72 [−1,286 to 18] n 6"),
    ],
)
def test_bounds_have_the_decimals_of_the_largest_number(
    median: float, low: float, high: float, shown: str
) -> None:
    assert phrases.short(Estimate(median, low, high, 6, "interval"), "ms") == shown


def test_a_difference_of_one_round_has_no_range() -> None:
    one, two = comparison(1.18, 1.18, 1.18, 1), comparison(1.18, 1.1, 1.2, 2)
    assert phrases.change(one) == "+18 % undecided"
    assert phrases.change(two) == "+18 % (10 to 20 %) undecided"
    assert phrases.difference(one) == "**18 % longer** (one round): **undecided**"
    assert "(range 10 to 20 %, n = 2)" in phrases.difference(two)


def test_what_is_not_paired_is_never_told_without_saying_so() -> None:
    found = Comparison(
        Estimate(1.2, 1.1, 1.3, 6, "interval"), 0.02, "slower", "", apart="another day"
    )
    assert phrases.change(found) == "+20 % [10 to 30 %] slower, not paired"
    assert phrases.difference(found).endswith("**slower**, not paired: another day")
    assert phrases.sureness(found).startswith("6 processes of each run, not paired")
