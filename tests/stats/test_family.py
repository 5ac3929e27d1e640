"""Many comparisons at once: none of equal cells is named, and a tenth is found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from llm_latency.stats.compare import compare
from llm_latency.stats.family import family_floor

KNOBS, ROUNDS = 24, 6
Drawn = npt.NDArray[np.float64]


def floor_of(twin: Drawn) -> float:
    """As noise_floor makes it of a cell and its twin."""
    deviation = 1.4826 * float(np.median(np.abs(np.log(twin))))
    return float(np.expm1(2 * 1.2533 * deviation / np.sqrt(len(twin))))


def pages(noise: float, factor: float, count: int = 200) -> tuple[float, float]:
    """Return the shares of pages that name a knob: by the family's floor, and by the twin's."""
    rng = np.random.default_rng(0)
    found = np.zeros(2)
    for _ in range(count):
        base, twin, *knobs = np.exp(rng.normal(0, noise, (KNOBS + 2, ROUNDS)))
        knobs[0] = knobs[0] * factor
        each = [knob / base for knob in knobs]
        alone = floor_of(twin / base)
        for at, floor in enumerate((family_floor(alone, each, KNOBS), alone)):
            verdicts = [compare(pd.Series(base), pd.Series(knob), floor).verdict for knob in knobs]
            named = [verdict in ("faster", "slower") for verdict in verdicts]
            found[at] += named == [factor > 1, *[False] * (KNOBS - 1)] if factor > 1 else any(named)
    return float(found[0] / count), float(found[1] / count)


def test_equal_cells_are_rarely_named_on_a_page_of_many() -> None:
    together, alone = pages(noise=0.02, factor=1.0)
    assert together <= 0.05 and together < alone


@pytest.mark.parametrize("noise", [0.005, 0.01, 0.02])
def test_a_tenth_is_found_and_nothing_else(noise: float) -> None:
    assert pages(noise, factor=1.1)[0] >= 0.9


def test_the_floor_rises_with_the_number_of_comparisons_and_never_below_the_twins() -> None:
    each = list(np.exp(np.random.default_rng(1).normal(0, 0.01, (4, ROUNDS))))
    few, many = (family_floor(0.001, each, count) or 0.0 for count in (4, 40))
    assert 0.001 < few < many
    assert family_floor(0.5, each, 40) == 0.5
    assert family_floor(None, each, 40) is None, "without a twin there is no verdict"
    assert family_floor(0.01, [np.ones(2)], 40) == 0.01


def test_a_large_effect_does_not_raise_it() -> None:
    each = list(np.exp(np.random.default_rng(1).normal(0, 0.01, (6, ROUNDS))))
    far = [each[0] * 5, *each[1:]]
    assert family_floor(0.001, far, 12) == pytest.approx(family_floor(0.001, each, 12))
