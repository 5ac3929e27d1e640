"""Over machines: pooled where they agree, told apart where not, silent where all is equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest

from llm_latency.stats.compare import Comparison, paired
from llm_latency.stats.pooled import Pooled, apart, matched, pooled, turned

SIDES = (("total_s", "a"), ("total_s", "b"))
Noise = Callable[[np.random.Generator, int], np.ndarray]


def normal(random: np.random.Generator, n: int) -> np.ndarray:
    return random.standard_normal(n)


def late(random: np.random.Generator, n: int) -> np.ndarray:
    """Normal, and one process in ten late by some five times that."""
    return random.standard_normal(n) + (random.random(n) < 0.1) * random.exponential(5, n)


def measured(
    random: np.random.Generator,
    effect: float,
    rounds: int,
    noise: float,
    kind: Noise = normal,
    looks: int | None = None,
) -> Comparison:
    """Return what one machine finds: cells a and b, and a's twin, each once a round."""
    a, b, twin = (noise * kind(random, rounds) for _ in range(3))
    deviation = 1.4826 * float(np.median(np.abs(twin - a)))
    floor = math.expm1(2 * 1.2533 * deviation / math.sqrt(rounds)) if rounds > 2 else None
    return paired(b - a + math.log1p(effect), floor, 0.02, looks, SIDES)


def over(
    seed: int, effects: Sequence[float], rounds: Sequence[int], noise: float, kind: Noise = normal
) -> Pooled:
    random = np.random.default_rng(seed)
    pairs = zip(count(), effects, rounds, strict=False)
    return pooled({f"m{at}": measured(random, e, n, noise, kind) for at, e, n in pairs})


@pytest.mark.parametrize("kind", [normal, late])
@pytest.mark.parametrize("rounds", [(3, 3), (6, 6), (10, 4), (3, 3, 3, 3)])
def test_equal_cells_bring_a_verdict_to_few_plans(kind: Noise, rounds: tuple[int, ...]) -> None:
    equal = [0.0] * len(rounds)
    found = [over(seed, equal, rounds, 0.02, kind).verdict for seed in range(200)]
    false = sum(word not in ("same", "undecided") for word in found)
    assert false <= 0.03 * len(found)


def test_machines_of_unequal_noise_are_not_told_apart_by_it() -> None:
    random = np.random.default_rng(1)
    false = 0
    for _ in range(200):
        both = {"m0": measured(random, 0, 6, 0.005), "m1": measured(random, 0, 6, 0.05)}
        false += pooled(both).verdict not in ("same", "undecided")
    assert false <= 6


def test_an_effect_on_both_is_found() -> None:
    found = [over(seed, (0.05, 0.05), (6, 6), 0.01) for seed in range(60)]
    assert sum(one.verdict == "slower" for one in found) >= 57
    assert np.median([one.change for one in found]) == pytest.approx(0.05, abs=0.003)
    assert {one.ratio.n for one in found} == {12}
    # Three rounds on each are one verdict; neither machine had one by itself.
    few = [over(seed, (0.05, 0.05), (3, 3), 0.005) for seed in range(60)]
    assert sum(one.verdict == "slower" for one in few) >= 54
    assert all(part.verdict == "undecided" for one in few for part in one.each.values())


@pytest.mark.parametrize("rounds", [(3, 3), (6, 6), (6, 3)])
@pytest.mark.parametrize("effects", [(0.1, -0.1), (0.1, 0.5)])
def test_an_effect_of_another_size_or_way_depends_on_the_machine(
    effects: tuple[float, float], rounds: tuple[int, int]
) -> None:
    found = [over(seed, effects, rounds, 0.01) for seed in range(60)]
    assert sum(one.verdict == "depends" for one in found) >= 54
    assert not any(one.verdict in ("faster", "same") for one in found)
    assert all(
        list(one.each) == ["m0", "m1"] and one.settled for one in found if one.verdict == "depends"
    )


def test_a_machine_of_few_rounds_keeps_the_others_from_speaking_for_it() -> None:
    one = over(0, (0.1, -0.1), (10, 2), 0.01)
    assert one.verdict == "undecided" and "m1 has 2 pairs" in one.why and not one.settled
    assert one.each["m0"].verdict == "slower"


def test_differences_that_nobody_would_mind_are_no_dependence() -> None:
    assert over(0, (0.0, 0.01), (12, 12), 0.0005).verdict == "same"


def test_looking_after_every_round_tells_equal_machines_apart_no_more_often() -> None:
    false = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        whole = [measured(random, 0.0, 10, 0.02, looks=20) for _ in "ab"]
        words = set()
        for rounds in range(3, 11):
            parts = [paired(np.array(w.logs[:rounds]), 0.01, 0.02, 20, SIDES) for w in whole]
            words.add(pooled({str(at): part for at, part in enumerate(parts)}).verdict)
        false += bool(words - {"same", "undecided"})
    assert false <= 0.05 * 100


def test_floors_add_up_as_standard_errors() -> None:
    logs = np.full(8, 0.05)
    equal = pooled({m: paired(logs, 0.04, 0.02, None, SIDES) for m in "xyzw"})
    assert equal.noise_floor == pytest.approx(0.02, abs=1e-3)
    unknown = {"x": paired(logs, 0.04, 0.02), "y": paired(logs, None, 0.02)}
    assert pooled(unknown).noise_floor is None and pooled(unknown).verdict == "undecided"


def test_welch_agrees_with_the_two_sample_test() -> None:
    from scipy.stats import ttest_ind

    random = np.random.default_rng(3)
    for shift in (0.0, 0.5, 1.0, 2.0):
        a, b = random.normal(0, 1, 7), random.normal(shift, 3, 4)
        p = float(ttest_ind(a, b, equal_var=False).pvalue)
        assert apart([a, b], p * 1.001) and not apart([a, b], p * 0.999)
    assert not apart([a], 0.5) and not apart([a, [9.0, 9.1]], 0.5)


def test_a_comparison_is_found_again_whichever_side_came_first() -> None:
    random = np.random.default_rng(5)
    x, y = (measured(random, 0.1, 6, 0.01) for _ in "xy")
    (one,) = matched({"x": [x], "y": [turned(y)]})
    assert one.verdict == "slower" and one.ratio.n == 12 and one.cells == {"a", "b"}
    assert one.each["y"].ratio == y.ratio and one.sides == SIDES


def test_the_same_sides_twice_are_told_apart_by_their_place_and_what_is_lacking_has_no_pair() -> (
    None
):
    random = np.random.default_rng(6)
    x, y = ([measured(random, e, 6, 0.01) for e in (0.1, -0.1)] for _ in "xy")
    first, second = matched({"x": x, "y": y})
    assert (first.verdict, second.verdict) == ("slower", "faster")
    _, lacking = matched({"x": x, "y": y[:1]})
    assert lacking.verdict == "undecided" and lacking.each["y"].ratio.n == 0
