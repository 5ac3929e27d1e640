"""Lines through measured points."""

from __future__ import annotations

import numpy as np
import pytest

from llm_latency.stats.estimate import estimate
from llm_latency.stats.fit import bend, line, parabolas


def test_a_line_has_an_interval_that_holds_the_truth() -> None:
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        x = np.repeat([16, 64, 256, 1024], 5)
        y = 0.01 + 2e-4 * x + 0.005 * random.standard_normal(len(x))
        fit = line(x, y)
        assert fit is not None
        held += fit.slope_low <= 2e-4 <= fit.slope_high
    assert held >= 0.9 * 200
    outlier = line([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 70])
    assert outlier is not None
    assert outlier.slope == pytest.approx(1.0, abs=0.2)
    assert outlier.at(10) == pytest.approx(10, abs=1)
    assert line([1, 2, 3], [1, 2, 3]) is None
    assert line([2] * 9, range(9)) is None


def test_the_bounds_of_a_line_meet_in_its_middle_and_open_outwards() -> None:
    random = np.random.default_rng(1)
    x = np.repeat([10, 20, 30, 40, 50], 6)
    fit = line(x, 3 + 2 * x + random.standard_normal(len(x)))
    assert fit is not None and fit.pivot == 30
    assert fit.bounds(30) == pytest.approx((fit.at(30), fit.at(30)))
    for far in (0, 100):
        low, high = fit.bounds(far)
        assert low < fit.at(far) < high
    assert np.diff(fit.bounds(100)) > np.diff(fit.bounds(40))


def test_a_parabola_per_round_finds_a_square_that_is_there_and_none_that_is_not() -> None:
    lengths, rounds = np.array([2, 64, 256, 512, 1024, 2048]), 8

    def found(square: float, seed: int) -> tuple[float, float]:
        random = np.random.default_rng(seed)
        x, group = np.tile(lengths, rounds), np.repeat(range(rounds), len(lengths))
        y = (0.002 + 1e-4 * x + square * x**2) * (1 + 0.01 * random.standard_normal(len(x)))
        value = estimate(parabolas(x, y, group)[:, 2])
        return value.low, value.high

    bent = [found(1e-8, seed) for seed in range(40)]
    assert all(low > 0 for low, _ in bent)
    assert sum(low <= 1e-8 <= high for low, high in bent) >= 36
    straight = [found(0.0, seed) for seed in range(40)]
    assert sum(low <= 0 <= high for low, high in straight) >= 36


def test_parabolas_need_four_places_and_leave_out_what_is_missing() -> None:
    x = [1, 2, 3, 4, 1, 2, 3, 4]
    y = [1, 4, 9, 16, 1, 4, 9, float("nan")]
    (row,) = parabolas(x, y, [0] * 4 + [1] * 4)
    assert row == pytest.approx([0, 0, 1], abs=1e-9)
    assert parabolas([], [], []).shape == (0, 3)


def test_a_bend_says_what_the_square_adds_and_which_way_it_turns() -> None:
    x, group = np.tile([0, 100, 500, 1000], 6), np.repeat(range(6), 4)
    curve = bend(x, 1 + 0.01 * x + 1e-6 * x**2, group, 1000)
    assert curve is not None and curve.turn == "upwards"
    assert curve.added.median == pytest.approx(1.0)
    assert curve.share.median == pytest.approx(1 / 12)
    assert curve.noticeable.median == pytest.approx(1000)  # 1e-6 x = 0.1 * 0.01
    assert curve.at(1000) == pytest.approx(12)
    turned = bend(x, 1 + 0.01 * x - 1e-6 * x**2, group, 1000)
    assert turned is not None and turned.turn == "downwards" and turned.noticeable.n == 0
    few = bend(x[:20], x[:20] ** 2, group[:20], 1000)
    assert few is not None and few.turn == "undecided"
    assert bend([1, 2, 3], [1, 2, 3], [0, 0, 0], 3) is None
