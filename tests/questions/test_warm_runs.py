"""Warm runs: the plan, an answer that follows the data, figures, and the notebook as it runs."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency import answers, experiments, plots
from llm_latency.errors import ParameterError
from llm_latency.plan.spec import CacheMode, Settings, Start, Workload
from tests.support import factories
from tests.support.pages import CarriedOut, words

ROOT = Path(__file__).parents[2]
INFO = factories.info()
MODES: tuple[CacheMode, ...] = ("cold", "kept")


def frame(
    *,
    prompts: tuple[int, ...] = (12, 200),
    modes: tuple[CacheMode, ...] = MODES,
    rounds: int = 6,
    repeats: int = 10,
    first: float = 1.0,
    failed: tuple[str, ...] = (),
    twin: bool = True,
    between: float = 0.02,
) -> pd.DataFrame:
    """Return a run as the plan leaves it; ``first`` is how much longer all of the first takes."""
    rng = np.random.default_rng(3)
    made = []
    for round in range(rounds):
        cells = [(prompt, mode, False) for prompt in prompts for mode in modes]
        for prompt, mode, again in [*cells, *([(*cells[0][:2], True)] if twin else [])]:
            made.append(
                factories.record(
                    Settings(),
                    workload=Workload(
                        prompt_tokens=prompt, max_tokens=8, cache_mode=mode, repeats=repeats
                    ),
                    start=Start(page_cache="resident"),
                    ttft=lambda _, count: count * 0.001,
                    itl=lambda _, count: 0.005,
                    evaluated=lambda repeat, prompt=prompt, mode=mode: (  # type: ignore[misc]
                        1 if repeat and mode == "kept" else prompt
                    ),
                    first=first,
                    factor=float(np.exp(rng.normal(0, between))),
                    within=0.002,
                    rng=rng,
                    round=round,
                    twin=again,
                    failure=("crashed", "SIGSEGV <b>") if mode in failed else None,
                )
            )
    return factories.to_frame(made)


def text(df: pd.DataFrame, answer: Callable[..., Any] = answers.warm_runs) -> str:
    said = answer(df, INFO) if answer is answers.warm_runs else answer(df)
    return html.unescape(str(said.data)).replace("\N{NO-BREAK SPACE}", " ")


def line(said: str, mode: str, prompt: int) -> str:
    head = f"- **{mode}, prompt of {prompt} tokens**"
    return next(one for one in said.splitlines() if one.startswith(head))


def test_the_plan_holds_both_modes_at_each_length() -> None:
    plan = experiments.warm_runs()
    cells = [cell for cell in plan.cells if not cell.twin]
    assert {(c.workload.prompt_tokens, c.workload.cache_mode) for c in cells} == {
        (12, "cold"), (12, "kept"), (200, "cold"), (200, "kept"),
    }  # fmt: skip
    assert plan.rounds == 6 and {c.workload.repeats for c in cells} == {10}
    assert {c.start.page_cache for c in cells} == {"resident"}
    (twin,) = (cell for cell in plan.cells if cell.twin)
    assert (twin.workload.prompt_tokens, twin.workload.cache_mode) == (12, "cold")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"repeats": 0}, "repeats=0 is refused: give 1 or more"),
        ({"prompt_tokens": []}, "prompt_tokens=[] has no value"),
        ({"prompt_tokens": -1}, "prompt_tokens=-1"),
        ({"page_cache": ["resident", "evicted"]}, "warm_runs takes one value of it"),
        ({"n_bacth": 3}, "did you mean 'n_batch'"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)):
        experiments.warm_runs(**given)


def test_all_of_the_gain_is_the_prompt_cache() -> None:
    said = text(frame())
    assert "With synthetic:tiny and 8 tokens generated, 10 warm runs after the first" in said
    assert "every time (cold), **same** after 12 and 200 tokens of prompt" in said
    assert "prompt cache kept (kept), **faster** after 12 and 200 tokens of prompt" in said
    assert "**same**" in line(said, "cold", 200) and "faster" not in line(said, "cold", 200)
    assert re.search(r"TTFT (199|20\d) ms → 1\.0\d* ms, −(99|100) %", line(said, "kept", 200))
    share = re.search(r"Of TTFT (\d+) ms .*?prompt cache (\d+) ms .*?\*\*(\d+) %\*\*", said)
    split = said[said.index("after a prompt of 200 tokens:**") :]
    share = re.search(r"Of TTFT ([\d.]+) ms .*?prompt cache ([\d.]+) ms .*?\*\*(\d+) %\*\*", split)
    assert share and [float(x) for x in share.groups()] == pytest.approx([199, 199, 100], rel=0.05)
    assert "not told from none" in split
    assert "n = 6 paired rounds" in said and "equal cells differ in this change of TTFT" in said


def test_gain_without_the_prompt_cache_is_told_apart() -> None:
    # The first run takes twice as long in all: 200 of 399 ms are not the prompt cache.
    said = text(frame(first=2.0))
    assert "every time (cold), **faster** after 12 and 200 tokens" in said
    split = said[said.index("after a prompt of 200 tokens:**") :]
    share = re.search(r"Of TTFT ([\d.]+) ms .*?prompt cache ([\d.]+) ms .*?\*\*(\d+) %\*\*", split)
    assert share and [float(x) for x in share.groups()] == pytest.approx([399, 199, 50], rel=0.06)
    assert "not told from none" not in split


def test_warm_runs_that_are_slower() -> None:
    said = text(frame(first=0.5, modes=("cold",)))
    assert "every time (cold), **slower** after 12 and 200 tokens of prompt" in said
    assert "faster" not in said
    assert "share of the prompt cache is **undecided**" in said
    nothing = text(frame(first=0.001))
    assert "no gain to split (verdict: slower)" in nothing


def test_speeds_are_those_of_the_data() -> None:
    said = line(text(frame(between=0)), "cold", 200)
    # 8 tokens in 200 + 7 x 5 ms; 7 of them in 35 ms.
    found = re.search(r"whole answer ([\d.]+) → ([\d.]+) tok/s.*token ([\d.]+) → ([\d.]+)", said)
    assert found and [float(x) for x in found.groups()] == pytest.approx(
        [34, 34, 200, 200], rel=0.02
    )


def test_too_few_rounds_or_no_twin_give_no_verdict() -> None:
    for df, why in (
        (frame(rounds=2), "6 are the fewest for a verdict"),
        (frame(twin=False), "not known, so there is no verdict"),
    ):
        said = text(df)
        assert why in said and "**undecided**" in said
        for verdict in ("**faster**", "**slower**", "**same**"):
            assert verdict not in said


def test_failures_and_gaps_are_told() -> None:
    answer = answers.warm_runs(frame(failed=MODES), INFO)
    assert "No cell could be measured" in str(answer.data) and "<b>" not in str(answer.data)
    said = text(frame(failed=("kept",)))
    assert "1 of 2 cells failed" in said and "kept, prompt" not in said
    assert "Nothing has been measured" in text(factories.to_frame([]))
    assert "no process has both a first and a further generation" in text(frame(repeats=0))
    unknown = frame().assign(decode_s=None)
    assert "after the first token" not in line(text(unknown), "cold", 200)


def test_one_process_alone_is_held_against_the_others() -> None:
    far = re.search(r"holds the medians of (\d+) of (\d+) other", text(frame(between=0.2)))
    assert far and int(far[1]) <= 4 and int(far[2]) == 20
    table = answers.warm_runs_one_process(frame(between=0))
    assert list(table["runs"]) == ["10"] * 4
    # 12 + 7 x 5 ms.
    assert float(table["mean, ms"][0]) == pytest.approx(47, rel=0.02)
    assert answers.warm_runs_one_process(factories.to_frame([])).empty
    assert "One process alone" not in text(frame(rounds=1))


def test_reading_and_table() -> None:
    df = frame()
    assert "cold, 200 tokens 100 %" in text(df, answers.warm_runs_by_repeat)
    assert "no course to read" in text(frame(repeats=1), answers.warm_runs_by_repeat)
    assert "no course to read" in text(factories.to_frame([]), answers.warm_runs_by_repeat)
    table = answers.warm_runs_table(df)
    assert list(table["warm: evaluated"]) == ["12", "1", "200", "1"]
    assert answers.warm_runs_table(factories.to_frame([])).empty


def test_a_thin_line_per_process_and_a_thick_one_per_cell() -> None:
    left, right = plots.warm_runs(frame())
    for ax in (left, right):
        labels = [ln.get_label() for ln in ax.lines]
        assert labels.count("_process") == 4 * 6
        named = [label for label in labels if not str(label).startswith("_")]
        assert named == ["cold · 12", "kept · 12", "cold · 200", "kept · 200"]
        assert ax.get_ylim()[0] == 0
    (kept,) = (ln for ln in left.lines if ln.get_label() == "kept · 200")
    assert list(kept.get_xdata()) == list(range(11))
    assert kept.get_ydata()[0] == pytest.approx(200, rel=0.05)
    assert kept.get_ydata()[1] == pytest.approx(1, rel=0.05)


def test_poor_frames_are_drawn_as_what_they_are() -> None:
    for df in (factories.to_frame([]), frame(failed=MODES, rounds=1)):
        axes = plots.warm_runs(df)
        axes[0].figure.canvas.draw()
        assert "Nothing was measured" in words(axes[0])
    assert "crashed 12" in words(plots.warm_runs(frame(failed=("kept",)))[0])
    with pytest.raises(ParameterError, match="give two"):
        plots.warm_runs(frame(rounds=1), axes=[plt.subplots()[1]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_runs(carried_out: CarriedOut) -> None:
    df, page = carried_out(
        "warm_runs", prompt_tokens=[6, 24], max_tokens=3, rounds=2, repeats=2, n_threads=1
    )
    assert set(df["status"]) == {"ok"}
    warm = df[df["repeat"] > 0]
    assert set(warm.loc[warm["cache_mode"] == "kept", "evaluated_tokens"]) == {1}
    assert set(warm.loc[warm["cache_mode"] == "cold", "evaluated_tokens"]) == {6, 24}
    assert "What a kept warm run saves" in page
