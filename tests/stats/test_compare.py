"""Verdicts: right when something differs, silent when nothing does, undecided when unknown."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.stats.compare import (
    Comparison,
    compare,
    noise_floor,
    ratios,
    samples,
)


def measured(
    effect: float,
    rounds: int,
    noise: float,
    seed: int,
    *,
    drift: float = 0.0,
    twin: bool = True,
    repeats: int = 2,
) -> pd.DataFrame:
    """Return the frame of two cells, b taking (1 + effect) times as long, and a's twin."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(rounds):
        weather = 1 + drift * random.standard_normal()
        for cell, is_twin in [("a", False), ("b", False), *([("a", True)] if twin else [])]:
            process = weather * math.exp(noise * random.standard_normal())
            for repeat in range(repeats):
                true = 1.0 + (effect if cell == "b" else 0.0)
                rows.append(
                    {
                        "run_id": "r",
                        "round": number,
                        "cell_id": cell,
                        "twin": is_twin,
                        "status": "ok",
                        "superseded": False,
                        "repeat": repeat,
                        "n_batch": {"a": 128, "b": 256}[cell],
                        "total_s": true * process * math.exp(0.002 * random.standard_normal()),
                    }
                )
    return pd.DataFrame(rows)


def judged(frame: pd.DataFrame, smallest: float = 0.02) -> Comparison:
    pair = (samples(frame, "total_s", cell_id=c) for c in "ab")
    return compare(*pair, noise_floor(frame, "total_s"), smallest)


def test_a_large_effect_is_found_in_either_direction() -> None:
    slower = judged(measured(0.2, 6, 0.01, seed=1))
    assert slower.verdict == "slower"
    assert slower.change == pytest.approx(0.2, abs=0.03)
    assert slower.ratio.low > 1
    assert judged(measured(-0.2, 6, 0.01, seed=1)).verdict == "faster"


def test_no_effect_is_the_same_where_the_interval_is_narrow() -> None:
    found = judged(measured(0.0, 12, 0.003, seed=2))
    assert found.verdict == "same"
    assert "within 2.0%" in found.why


def test_a_real_but_tiny_effect_is_no_verdict_that_anyone_needs() -> None:
    assert judged(measured(0.005, 20, 0.001, seed=3)).verdict == "same"


def test_a_drift_that_falls_on_all_cells_alike_does_not_hide_an_effect() -> None:
    frame = measured(0.08, 10, 0.005, seed=4, drift=0.2)
    assert judged(frame).verdict == "slower"
    wide = samples(frame, "total_s", cell_id="a")
    assert wide.max() / wide.min() > 1.3  # unpaired, the cells would overlap widely


@pytest.mark.parametrize(
    ("rounds", "twin", "word"),
    [(5, True, "6 are the fewest"), (6, False, "noise floor is not known")],
)
def test_without_enough_rounds_or_a_twin_there_is_no_verdict(
    rounds: int, twin: bool, word: str
) -> None:
    found = judged(measured(0.5, rounds, 0.01, seed=5, twin=twin))
    assert found.verdict == "undecided"
    assert word in found.why


def test_noise_larger_than_the_effect_is_undecided() -> None:
    found = judged(measured(0.03, 6, 0.15, seed=6))
    assert found.verdict == "undecided"
    assert (found.noise_floor or 0) > 0.05


def test_equal_cells_are_seldom_called_different_and_five_percent_is_found() -> None:
    verdicts = [judged(measured(0.0, 10, 0.02, seed=s)).verdict for s in range(400)]
    assert sum(v in ("faster", "slower") for v in verdicts) <= 0.05 * len(verdicts)
    found = [judged(measured(0.05, 10, 0.01, seed=s)).verdict for s in range(200)]
    assert found.count("slower") >= 0.9 * len(found)
    assert found.count("faster") == 0


def test_only_good_rows_enter_and_only_rounds_that_have_both() -> None:
    frame = measured(0.2, 8, 0.0, seed=7, repeats=1)
    frame.loc[(frame["round"] == 0) & (frame["cell_id"] == "b"), "status"] = "invalid"
    frame.loc[(frame["round"] == 1) & (frame["cell_id"] == "a"), "superseded"] = True
    frame.loc[frame["status"] == "invalid", "total_s"] = 1e9
    a, b = (samples(frame, "total_s", cell_id=c) for c in "ab")
    assert (len(a), len(b)) == (7, 7)
    assert len(ratios(a, b)) == 6


def test_wrong_names_are_named() -> None:
    frame = measured(0.2, 8, 0.005, seed=8)
    with pytest.raises(ParameterError, match="n_bath"):
        samples(frame, "total_s", n_bath=1)
    with pytest.raises(ParameterError, match="nothing_s"):
        samples(frame, "nothing_s")
    with pytest.raises(ParameterError, match="smallest_effect=2"):
        judged(frame, smallest=2)


def test_the_noise_floor_follows_the_noise() -> None:
    floors = [
        float(np.median([noise_floor(measured(0, 12, n, seed=s), "total_s") for s in range(30)]))
        for n in (0.005, 0.02, 0.08)
    ]
    assert floors[0] * 2 < floors[1] < floors[2] / 2
    assert noise_floor(measured(0, 2, 0.1, seed=1), "total_s") is None


def test_a_pair_is_of_one_machine() -> None:
    frame = measured(0.1, 6, 0.01, seed=5)
    split = frame.assign(machine_id=["x" if cell == "a" else "y" for cell in frame["cell_id"]])
    a, b = (samples(split, "total_s", cell_id=cell) for cell in "ab")
    assert len(a) == len(b) == 6 and len(ratios(a, b)) == 0
    found = compare(a, b, 0.01)
    assert found.verdict == "undecided" and found.ratio.n == 0
    assert found.sides == (("total_s", "a"), ("total_s", "b"))
