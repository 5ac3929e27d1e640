"""Lines through measured points."""

from __future__ import annotations

import numpy as np
import pytest

from llm_latency.fits import line


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
