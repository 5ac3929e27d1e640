"""Looks after every round: boundaries counted way by way, and verdicts that stay rarely wrong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from llm_latency.stats.compare import Comparison, compare, noise_floor, samples
from llm_latency.stats.estimate import FEWEST, estimate
from llm_latency.stats.sequential import ALPHA, hopeless, looks, may_be_spent, widened


def missed(most: int, outside: list[int]) -> float:
    """Return in how many of all ways of signs some look misses a median of 0."""
    wrong = 0
    for signs in itertools.product((0, 1), repeat=most):
        above = np.cumsum(signs)
        wrong += any(min(above[n - 1], n - above[n - 1]) <= outside[n] for n in range(1, most + 1))
    return wrong / 2**most


def test_every_way_of_signs_is_counted() -> None:
    most = 12
    found = looks(most)
    outside = [look.outside for look in found]
    assert outside[:FEWEST] == [-1] * FEWEST and outside[FEWEST] == 0
    assert outside[most] == 1  # one look at twelve leaves out two
    for n in (FEWEST, 10, most):
        assert found[n].spent == missed(n, outside) <= may_be_spent(n) <= ALPHA
    # One sample more outside, at any look, and too much would be spent by then.
    for n in range(FEWEST, most + 1):
        bolder = [*outside[:n], outside[n] + 1]
        assert missed(n, bolder) > may_be_spent(n)


def test_the_looks_do_not_depend_on_the_last() -> None:
    assert looks(40)[:13] == looks(12)
    assert looks(400)[-1].spent < ALPHA


def test_of_equal_cells_one_run_in_twenty_errs_at_any_look() -> None:
    random, wrong, wrong_unwidened = np.random.default_rng(2), 0, 0
    for _ in range(1000):
        logs = random.standard_t(2, 20)  # symmetric, with outliers
        seen = [logs[:n] for n in range(FEWEST, 21)]
        wrong += any(one.low > 0 or one.high < 0 for one in map(widened, seen))
        wrong_unwidened += any(one.low > 0 or one.high < 0 for one in map(estimate, seen))
    assert wrong <= 0.05 * 1000 < wrong_unwidened


def test_the_interval_is_never_narrower_than_that_of_one_look() -> None:
    random = np.random.default_rng(1)
    for n in (5, 6, 9, 12, 20, 50):
        values = random.normal(size=n)
        wide, plain = widened(values), estimate(values)
        assert wide.low <= plain.low <= wide.median == plain.median <= plain.high <= wide.high
        assert (wide.kind, wide.n) == (plain.kind, n)
    assert wide.coverage is not None and wide.coverage >= 1 - ALPHA


@pytest.mark.parametrize(
    ("so_far", "hope"),
    [
        ([0.1, 0.1, 0.1, 0.1, 0.1, -0.1], True),  # slower, if none of the others is below
        ([0.1, 0.1, 0.1, 0.1, -0.1, -0.1], False),
        ([0.001, -0.001, 0.001, -0.001, 0.1, -0.1], True),  # the same
        ([0.001, -0.001, 0.001, -0.001, 0.1, 0.1], False),
    ],
)
def test_hope_ends_when_no_continuation_decides(so_far: list[float], hope: bool) -> None:
    most, reach = 12, math.log1p(0.02)
    assert hopeless(np.array(so_far), most, reach) is not hope
    verdicts = set()
    for rest in itertools.product((-0.1, 0.0, 0.1), repeat=most - len(so_far)):
        one = widened([*so_far, *rest])
        verdicts.add(one.low > 0 or one.high < 0 or (one.low >= -reach and one.high <= reach))
    assert (True in verdicts) is hope


def ended(random: np.random.Generator, effect: float, rounds: int = 12) -> Comparison:
    """Return the comparison at the look that settles it; each process is 1.5 % off."""
    a, b, twin = np.exp(random.normal(0, 0.015, (3, rounds))) * np.array([[1], [1 + effect], [1]])
    for n in range(FEWEST, rounds + 1):
        frame = pd.DataFrame(
            {"run_id": "r", "status": "ok", "superseded": False, "total_s": [*a[:n], *twin[:n]]}
            | {"cell_id": "a", "round": [*range(n)] * 2, "twin": [False] * n + [True] * n}
        )
        frame.attrs["looks"] = rounds
        one = samples(frame, "total_s", cell_id="a")
        found = compare(one, pd.Series(b[:n], one.index), noise_floor(frame, "total_s"))
        if found.settled:
            break
    return found


def test_looks_find_five_percent_and_save_rounds_without_false_verdicts() -> None:
    random = np.random.default_rng(3)
    equal = [ended(random, 0.0) for _ in range(200)]
    assert sum(one.verdict in ("faster", "slower") for one in equal) <= 10
    apart = [ended(random, 0.05) for _ in range(200)]
    assert sum(one.verdict == "slower" for one in apart) >= 180
    used = [one.ratio.n for one in (*equal, *apart)]
    assert min(used) == FEWEST and np.mean(used) <= 0.7 * 12
