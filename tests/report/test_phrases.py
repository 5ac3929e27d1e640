"""What is told of an estimate, a difference or a line, and what is not."""

from __future__ import annotations

from llm_latency.report import phrases
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
