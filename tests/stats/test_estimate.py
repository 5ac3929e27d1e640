"""Estimates keep what they promise, and say so where they promise nothing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from llm_latency.errors import ParameterError
from llm_latency.records.frame import by_cell
from llm_latency.stats.estimate import (
    FEWEST,
    Estimate,
    estimate,
    estimates,
    mean,
    outliers,
    per_process,
    percentile,
)
from tests.support import factories

NUMBERS = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@given(st.lists(NUMBERS, min_size=1, max_size=60))
def test_bounds_are_samples_around_the_median(values: list[float]) -> None:
    found = estimate(values)
    assert found.n == len(values)
    assert found.low <= found.median <= found.high
    assert {found.low, found.high} <= set(values)
    assert found.median == pytest.approx(float(np.median(values)))
    if len(values) < FEWEST:
        assert (found.kind, found.coverage) == ("range", None)
        assert (found.low, found.high) == (min(values), max(values))
    else:
        assert found.kind == "interval"
        assert found.coverage is not None and 0.95 <= found.coverage <= 1


@given(st.permutations(list(range(20))))
def test_order_does_not_matter(values: list[int]) -> None:
    assert estimate(values) == estimate(range(20))


@given(st.integers(min_value=FEWEST, max_value=80))
def test_no_narrower_pair_would_do(n: int) -> None:
    found = estimate(range(n))
    left_out = int(found.low)
    assert found.coverage == pytest.approx(1 - 2 * binom.cdf(left_out, n, 0.5))
    assert 1 - 2 * binom.cdf(left_out + 1, n, 0.5) < 0.95


def test_six_are_the_fewest() -> None:
    assert estimate(range(FEWEST - 1)).kind == "range"
    six = estimate(range(FEWEST))
    assert (six.low, six.high, six.coverage) == (0, 5, 1 - 2 / 2**6)
    assert estimate(range(5), confidence=0.9).kind == "interval"


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    for n in (6, 9, 20):
        hits = [
            found.low <= 1.0 <= found.high
            for found in (estimate(np.exp(rng.normal(0, 0.5, n))) for _ in range(1500))
        ]
        coverage = estimate(range(n)).coverage
        assert coverage is not None
        assert np.mean(hits) == pytest.approx(coverage, abs=0.02)


def test_missing_values_are_left_out_and_not_counted() -> None:
    assert estimate([1.0, math.nan, 3.0]) == estimate([1.0, 3.0])
    nothing = estimate([math.nan])
    assert nothing.n == 0 and math.isnan(nothing.median) and nothing.coverage is None


@pytest.mark.parametrize("wrong", [[1.0, math.inf], [-math.inf]])
def test_infinite_values_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ParameterError, match="give NaN"):
        estimate(wrong)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ParameterError, match=r"such as 0\.95"):
        estimate([1, 2], confidence)


def test_below_needs_two_intervals_apart() -> None:
    low, high = estimate(range(6)), estimate(range(10, 16))
    assert low.below(high) and not high.below(low)
    assert not low.below(estimate(range(5, 11)))  # they touch
    assert not estimate([1, 2]).below(estimate([8, 9])), "ranges promise nothing"


def test_times_changes_the_unit_only() -> None:
    assert Estimate(1, 0.5, 2, 3, "range").times(1e3) == Estimate(1e3, 500, 2e3, 3, "range")


def test_repeats_in_one_process_do_not_narrow_the_interval() -> None:
    few = factories.frame(n_ctx=(512,), n_batch=(128,), prompts=(64,), rounds=6, repeats=0)
    many = factories.frame(n_ctx=(512,), n_batch=(128,), prompts=(64,), rounds=6, repeats=30)
    narrow, wide = (next(iter(estimates(frame, "ttft_s").values())) for frame in (many, few))
    assert narrow.n == wide.n == 6
    assert narrow.kind == "interval"


def test_a_process_counts_with_the_median_of_its_good_generations() -> None:
    frame = factories.frame(
        n_ctx=(512,), n_batch=(128,), prompts=(64,), rounds=1, repeats=2, twin=False
    )
    frame["ttft_s"] = [1.0, 5.0, 2.0]
    assert per_process(frame, "ttft_s")["ttft_s"].tolist() == [2.0]
    frame.loc[0, "status"] = "invalid"
    assert per_process(frame, "ttft_s")["ttft_s"].tolist() == [3.5]


def test_failed_cells_stay_with_n_zero() -> None:
    frame = factories.frame(failed=factories.FAILED, rounds=6)
    table = estimates(frame, "ttft_s", by=["n_ctx", "n_batch"])
    assert len(table) == 9
    for failed in factories.FAILED:
        assert table[failed].n == 0
        assert math.isnan(table[failed].median)


def test_the_same_trial_in_two_runs_is_two_processes() -> None:
    one = factories.frame(n_ctx=(512,), n_batch=(128,), prompts=(64,), rounds=3)
    both = pd.concat([one, one.assign(run_id="run-2")])
    assert [value.n for value in estimates(both, "ttft_s").values()] == [6]


def test_twins_and_superseded_trials_do_not_count() -> None:
    frame = factories.frame(n_ctx=(512,), n_batch=(128,), prompts=(64,), rounds=3, twin=False)
    twin = frame.assign(trial_id=frame["trial_id"] + "-twin", twin=True, ttft_s=9.0)
    gone = frame.assign(trial_id=frame["trial_id"] + "-old", superseded=True, ttft_s=9.0)
    both = pd.concat([frame, twin, gone])
    assert estimates(both, "ttft_s") == estimates(frame, "ttft_s")
    assert len(by_cell(both)) == len(frame)


def test_a_setting_that_was_not_given_is_a_key() -> None:
    frame = factories.frame(others={"n_ubatch": [None, 64]}, prompts=(64,), rounds=2)
    found = estimates(frame, "ttft_s", ["n_ubatch"])
    assert set(found) == {None, 64}
    assert all(value.n for value in found.values())


@pytest.mark.parametrize("column", ["ttft", "status_", "nonsense"])
def test_an_unknown_column_is_named(column: str) -> None:
    with pytest.raises(ParameterError, match=column):
        estimates(factories.frame(rounds=1), column)


def test_outliers_are_flagged_and_constant_values_are_not() -> None:
    assert list(outliers([1.0, 1.01, 0.99, 1.0, 1.02, 9.0])) == [False] * 5 + [True]
    assert not outliers([1.0] * 5 + [1.0001]).any()
    assert not outliers([1.0, 100.0]).any()
    assert list(outliers([1.0, 1.1, 0.9, 1.0, math.nan, 50.0])) == [False] * 5 + [True]


@given(st.lists(st.floats(0, 1e3), max_size=400), st.floats(0.5, 0.999))
def test_a_percentile_is_given_only_where_the_sample_carries_it(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    chance_of_none_beyond = share ** len(values)
    if found is None:
        assert chance_of_none_beyond > 0.05 * (1 - 1e-9)
    else:
        assert chance_of_none_beyond <= 0.05 * (1 + 1e-9)
        assert min(values) <= found <= max(values)


def test_fifty_nine_values_carry_the_95th_percentile() -> None:
    assert percentile([1.0] * 58, 0.95) is None
    assert percentile([1.0] * 59, 0.95) == 1.0


def test_a_mean_with_students_interval() -> None:
    found = mean([0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    # 2.5706 is Student's quantile for five degrees of freedom; the standard error is sqrt(2 / 45).
    aside = 2.5706 * (2 / 45) ** 0.5
    assert (found.median, found.kind, found.n) == (pytest.approx(1 / 3), "interval", 6)
    assert found.low == pytest.approx(1 / 3 - aside, abs=1e-4)
    assert found.high == pytest.approx(1 / 3 + aside, abs=1e-4)
    few = mean([1.0, 2.0, 6.0])
    assert (few.median, few.low, few.high, few.kind) == (3.0, 1.0, 6.0, "range")
    assert mean([]).n == 0
