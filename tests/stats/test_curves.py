"""Curves of several processes: a line, its end, and what it foretells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from llm_latency.stats.curves import Array, Curves

PLACES = np.array([0, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584], dtype=float)
Shape = Callable[[Array], Array]


def line(x: Array) -> Array:
    return np.asarray(5e-3 + 1e-6 * x)


def stepped(x: Array) -> Array:
    return np.asarray(line(x) * (1 + 0.1 * (x >= 1500)))


def kinked(x: Array) -> Array:
    return np.asarray(line(x) + 1e-6 * np.maximum(0, x - 1500))


def bent(x: Array) -> Array:
    return np.asarray(line(x) + 3e-10 * x**2)


def curves(shape: Shape, noise: float = 0.005, n: int = 6, seed: int = 0) -> Curves:
    random = np.random.default_rng(seed)
    speed = np.exp(random.normal(0, 0.02, (n, 1)))
    return Curves(PLACES, shape(PLACES) * speed * np.exp(random.normal(0, noise, (n, 12))))


@pytest.mark.parametrize("shape", [stepped, kinked])
def test_a_line_that_ends_is_found_where_it_ends(shape: Shape) -> None:
    for seed in range(5):
        found = curves(shape, seed=seed).broken
        assert found is not None and found.last in (1280, 1536)
        assert found.beyond.low > 0.02
    step = curves(stepped).broken
    assert step is not None and (step.place, step.last, step.first) == (6, 1280, 1536)
    assert step.beyond.median == pytest.approx(0.1, abs=0.02)


def test_neither_a_line_nor_a_bend_is_broken() -> None:
    seeds = range(20)
    assert sum(curves(line, 0.02, seed=seed).broken is not None for seed in seeds) <= 1
    assert not any(curves(bent, seed=seed).broken for seed in seeds)
    straight, curve = curves(line).bend, curves(bent).bend
    assert straight is not None and straight.turn == "none"
    assert curve is not None and curve.turn == "upwards"


def test_few_curves_and_few_places_tell_no_break() -> None:
    assert curves(stepped, n=5).broken is None
    assert Curves(PLACES[:5], curves(stepped).values[:, :5]).broken is None
    assert curves(stepped, n=1).broken is None


def test_places_that_the_lines_have_not_seen_are_foretold() -> None:
    for shape in (line, stepped):
        errors = curves(shape).foretold()
        assert list(errors) == [1, 3, 5, 7, 9]
        assert max(abs(error.median) for error in errors.values()) < 0.02
    assert max(abs(error.median) for error in curves(bent).foretold().values()) > 0.02
    assert curves(line).slope.low <= 1e-6 <= curves(line).slope.high


def test_a_bound_is_reached_between_places_or_at_a_break() -> None:
    assert curves(line, 1e-6).reaches(6e-3).median == pytest.approx(1000, abs=120)
    assert curves(stepped, 1e-6).reaches(6.8e-3).median == 1536
    assert curves(line).reaches(1.0).n == 0
    assert curves(line).reaches(0.0).median == 0


def test_curves_that_were_cut_short_count_for_what_they_have() -> None:
    whole = curves(line)
    whole.values[0, 6:] = whole.values[1, 1:] = np.nan
    assert [whole.at(number).n for number in (0, 1, 6)] == [6, 5, 4]
    assert whole.slope.n == 5 and whole.foretold()[9].n == 4
    rows = pd.DataFrame({"process": ["a", "a", "b"], "d": [0, 8, 0], "s": [1.0, 2.0, np.nan]})
    assert Curves.of(rows, "d", "s").values.tolist() == [[1.0, 2.0]]
    nothing = Curves.of(rows.head(0), "d", "s")
    assert nothing.broken is None and nothing.bend is None and nothing.foretold() == {}
    assert nothing.slope.n == nothing.reaches(1.0).n == 0
