"""Warm runs: the plan, an answer that follows the data, figures, and the notebook as it runs."""

from __future__ import annotations

import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Start
from llm_latency.plan.workload import CacheMode, Workload
from llm_latency.questions import warm_runs
from llm_latency.report import phrases
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

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


def view(**options: Any) -> warm_runs.View:
    return warm_runs.View(Rows(frame(**options), INFO))


def test_the_plan_holds_both_modes_at_each_length() -> None:
    plan = warm_runs.plan()
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
        warm_runs.plan(**given)


def verdicts(seen: warm_runs.View, column: str = "total_s") -> dict[tuple[float, str], str]:
    return {tuple(prompt): seen.compare(column, prompt).verdict for prompt in seen.measured}


def test_all_of_the_gain_is_the_prompt_cache() -> None:
    seen = view()
    assert verdicts(seen) == {
        (12, "cold"): "same",
        (12, "kept"): "faster",
        (200, "cold"): "same",
        (200, "kept"): "faster",
    }
    whole, cache = seen.cache_part("ttft_s", 200)
    assert (whole.median, cache.median) == pytest.approx((0.199, 0.199), rel=0.05)
    answer = warm_runs.answer(seen)
    assert answer.verdict == "faster" and len(answer.sentences) <= 5
    assert answer.sure.startswith("6 paired rounds; equal cells differ by")


def test_gain_without_the_prompt_cache_is_told_apart() -> None:
    # The first run takes twice as long in all: 200 of 399 ms are not the prompt cache.
    seen = view(first=2.0)
    assert set(verdicts(seen).values()) == {"faster"}
    whole, cache = seen.cache_part("ttft_s", 200)
    assert (whole.median, cache.median) == pytest.approx((0.399, 0.199), rel=0.06)


def test_a_state_that_cannot_be_cut_has_no_prompt_cache() -> None:
    data = frame()
    data.loc[(data["cache_mode"] == "kept") & (data["repeat"] > 0), "refilled_tokens"] = 199
    seen = warm_runs.View(Rows(data, INFO))
    assert seen.uncut and not view().uncut
    assert verdicts(seen) == {(12, "cold"): "same", (200, "cold"): "same"}
    assert seen.cache_part("ttft_s", 200)[1].n == 0
    answer = warm_runs.answer(seen)
    assert answer.verdict == "same" and phrases.UNCUT in answer.text
    assert "prompt cache is" not in answer.text


def test_warm_runs_that_are_slower() -> None:
    seen = view(first=0.5, modes=("cold",))
    assert set(verdicts(seen).values()) == {"slower"}
    answer = warm_runs.answer(seen)
    assert answer.verdict == "slower" and "prompt cache is **undecided**" in answer.text


def test_speeds_are_those_of_the_data() -> None:
    seen = view(between=0)
    cold = warm_runs.Prompt(200, "cold")
    # 8 tokens in 200 + 7 x 5 ms; 7 of them in 35 ms.
    for when in warm_runs.WHEN:
        assert 1 / seen.estimate("per_token_s", cold, when).median == pytest.approx(34, rel=0.02)
        assert 1 / seen.estimate("per_decoded_s", cold, when).median == pytest.approx(200, rel=0.02)


@pytest.mark.parametrize("options", [{"rounds": 2}, {"twin": False}])
def test_too_few_rounds_or_no_twin_give_no_verdict(options: dict[str, Any]) -> None:
    seen = view(**options)
    assert set(verdicts(seen).values()) == {"undecided"}
    assert warm_runs.answer(seen).verdict == "undecided"


def test_failures_and_gaps_are_told() -> None:
    answer = warm_runs.answer(view(failed=MODES))
    assert answer.verdict == "none" and "<b>" not in answer.text
    assert {prompt.mode for prompt in view(failed=("kept",)).measured} == {"cold"}
    nothing = warm_runs.View(Rows(factories.to_frame([]), INFO))
    assert warm_runs.answer(nothing).verdict == "none"
    assert warm_runs.answer(view(repeats=0)).line == "no warm run was measured"


def test_one_process_alone_is_compared_with_the_others() -> None:
    alone = [view(between=0.2).one_process(prompt) for prompt in view().measured]
    assert sum(one.inside for one in alone if one) <= 4
    assert sum(one.others for one in alone if one) == 20
    one = view(between=0).one_process(warm_runs.Prompt(12, "cold"))
    # 12 + 7 x 5 ms.
    assert one is not None and len(one.totals_s) == 10
    assert one.totals_s.mean() == pytest.approx(0.047, rel=0.02)
    assert view(rounds=1).one_process(warm_runs.Prompt(12, "cold")) is None


def test_the_course_and_the_table() -> None:
    seen = view()
    assert seen.drift(warm_runs.Prompt(200, "cold")).median == pytest.approx(1, abs=0.01)
    assert view(repeats=1).drift(warm_runs.Prompt(200, "cold")).n == 0
    table = warm_runs.table(seen)
    assert list(table["warm: evaluated"]) == ["12", "1", "200", "1"]
    assert warm_runs.table(warm_runs.View(Rows(factories.to_frame([]), INFO))).empty


def test_a_thin_line_per_process_and_a_thick_one_per_cell() -> None:
    left, right = warm_runs.figure(view())
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
        axes = warm_runs.figure(warm_runs.View(Rows(df, INFO)))
        axes[0].figure.canvas.draw()
        assert "Nothing was measured" in words(axes[0])
    assert "crashed 12" in words(warm_runs.figure(view(failed=("kept",)))[0])
    with pytest.raises(ParameterError, match="give two"):
        warm_runs.figure(view(rounds=1), axes=[plt.subplots()[1]])


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
    assert "evaluated anew, TTFT goes from" in page
