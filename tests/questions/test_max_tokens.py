"""What does max_tokens cost, and can latency be predicted?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency import answers, experiments, plots
from llm_latency.errors import ParameterError
from llm_latency.plan.spec import Settings, Workload
from llm_latency.views.answer_lengths import AnswerLengths, Place, signed_percent
from tests.support import factories
from tests.support.pages import CarriedOut, text, words

ROOT = Path(__file__).parents[2]
LENGTHS = (8, 16, 25, 50, 75, 100, 150)
HELD = [25, 75, 150]
Itl = Callable[[Settings, int], float]


def info(held_out: Any = HELD) -> dict[str, Any]:
    made = factories.info()
    made["plan"]["parameters"]["held_out"] = held_out
    return made


def steady(settings: Settings, place: int) -> float:
    return 0.004


def growing(settings: Settings, place: int) -> float:
    """Each token takes longer than the one before: no line."""
    return 0.001 + 8e-5 * place


def made(
    itl: Itl = steady,
    *,
    lengths: Sequence[int] = LENGTHS,
    kinds: Sequence[str] = ("fixed", "natural"),
    ends_at: int = 10_000,
    rounds: int = 6,
    between: float = 0.003,
    twin: bool = True,
    failed: dict[int, factories.Failure] | None = None,
) -> pd.DataFrame:
    """Natural answers end by themselves after ``ends_at`` tokens."""
    rng = np.random.default_rng(5)
    cells: list[tuple[Any, int, bool]] = [(k, n, False) for k in kinds for n in lengths]
    records = []
    for number in range(rounds):
        for kind, asked, is_twin in [*cells, *([(*cells[-1][:2], True)] if twin else [])]:
            came = min(asked, ends_at) if kind == "natural" else asked
            one = factories.record(
                Settings(n_ctx=2048),
                workload=Workload(prompt_tokens=12, max_tokens=came, length=kind, repeats=1),
                round=number,
                order=len(records),
                ttft=lambda settings, prompt: 0.02,
                itl=itl,
                factor=float(np.exp(rng.normal(0, between))),
                rng=rng,
                failure=(failed or {}).get(asked),
            )
            work = one.trial.workload.model_copy(update={"max_tokens": asked})
            reason = "stop" if came < asked else "length"
            records.append(
                one.model_copy(
                    update={
                        "trial": one.trial.model_copy(update={"workload": work, "twin": is_twin}),
                        "generations": [
                            g.model_copy(update={"finish_reason": reason}) for g in one.generations
                        ],
                    }
                )
            )
    return factories.to_frame(records)


def said(frame: pd.DataFrame, held_out: Any = HELD) -> str:
    return text(answers.max_tokens(frame, info(held_out)))


def test_the_default_plan_asks_both_kinds_of_end() -> None:
    plan = experiments.max_tokens()
    assert len(plan.cells) == 2 * 7 + 1 and plan.rounds == 6
    assert {c.workload.length for c in plan.cells} == {"fixed", "natural"}
    assert {c.workload.max_tokens for c in plan.cells} == set(LENGTHS)
    assert plan.parameters["held_out"] == HELD
    assert {c.workload.prompt_tokens for c in plan.cells} == {12}
    one = experiments.max_tokens(length="natural", max_tokens="[4, 8, 12]", held_out="8")
    assert len(one.cells) == 3 + 1 and one.parameters["held_out"] == 8


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"held_out": [30]}, ["held_out=30", "among max_tokens=[8, 16"]),
        ({"held_out": ["many"]}, ["held_out='many'"]),
        ({"held_out": []}, ["held_out=[]"]),
        ({"max_tokens": [8, 16, 25], "held_out": [8, 16]}, ["held_out=[8, 16]", "at least 2"]),
        ({"max_tokens": [8, 0], "held_out": [8]}, ["max_tokens=0", "greater than or equal to 1"]),
        ({"length": "long"}, ["length='long'", "fixed"]),
        ({"n_ctx": 128}, ["n_ctx=128", "need 162", "give n_ctx=256"]),
        ({"prompt_tokens": [1, 2]}, ["prompt_tokens=[1, 2]", "one value"]),
        ({"max_token": 8}, ["max_token", "did you mean 'max_tokens'"]),
    ],
)
def test_wrong_values_are_refused(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        experiments.max_tokens(**given)
    for word in words:
        assert word in str(caught.value)


def test_a_line_predicts_what_it_has_not_seen() -> None:
    answer = said(made())
    assert "max_tokens 150 instead of 8 takes, with fixed length **12." in answer
    assert answer.count("**slower**") == 2
    found = re.search(
        r"Each further token generated takes ([\d.]+) ms\*\* \(95 % interval ([\d.]+) to ([\d.]+) "
        r"ms, n = 48 processes\), that is 2\d\d tok/s; prefill and all else take ([\d.]+) ms",
        answer,
    )
    assert found
    middle, low, high, rest = map(float, found.groups())
    assert low <= middle <= high
    assert middle == pytest.approx(4.0, rel=0.01) and rest == pytest.approx(16, abs=0.5)
    worst = re.search(r"it is off by at most \*\*([\d.]+) %\*\*; (\d) of 3 predictions", answer)
    assert worst and float(worst[1]) < 1 and int(worst[2]) >= 2
    assert answer.count("**inside** the interval") == int(worst[2])
    assert re.search(r"75 tokens: predicted 31\d ms, measured 31\d ms \(95 % interval", answer)
    assert "and is the same line, because every process generated what was asked" in answer


def test_growing_costs_are_not_predicted_by_a_line() -> None:
    answer = said(made(growing))
    assert answer.count("**outside** the interval") == 3 and "yet no more" not in answer
    assert "0 of 3 predictions lie within" in answer
    # The longest lies beyond what was fitted: predicted too short.
    assert re.search(r"150 tokens: .* error −\d\d %", answer)


def test_a_cost_that_may_be_none_is_not_told_as_a_speed() -> None:
    frame = made(lambda settings, place: 0.0, between=0.05)
    answer = said(frame)
    assert "processes), which is **not told from nothing**" in answer
    assert "that is" not in answer


def test_the_first_formula_is_tested_on_the_same_processes() -> None:
    frame = made()
    tested = AnswerLengths(frame, HELD).test("original", Place(150.0, 150.0))
    assert tested is not None and tested.predicted_s == 0.5 + 150 / 16
    assert tested.error.median == pytest.approx(9.875 / 0.616 - 1, rel=0.02)
    assert tested.inside is False and tested.error.n == 12
    answer = said(frame)
    assert "0.5 s + tokens / 16, made on another machine and of another model, is off by" in answer
    assert re.search(r"is off by \+1,\d{3} % to \+1,\d{3} %;", answer)


def test_asked_and_generated_differ_only_where_the_data_say_so() -> None:
    full = said(made())
    assert "of 84 generations with a natural end none ended by itself (finish_reason length" in full
    assert "natural against fixed" in full and "both generate 150 tokens" in full
    early = said(made(ends_at=40))
    assert "48 (57 %) ended by themselves" in early
    assert "48 (57 %) generated fewer tokens than asked for, at the median 47 % of them" in early
    assert "none ended by itself" not in early and "is the same line" not in early
    assert "75 asked, 40 came" in early and "both generate 25 tokens" in early
    # A line through what was asked for is far off, the other is not.
    assert re.search(r"tokens asked for is off by −\d\d % to \+\d{3} %, that through", early)
    assert "natural end was measured" in said(made(kinds=("fixed",)))


def test_a_natural_end_that_comes_just_at_the_limit_is_told() -> None:
    frame = made(ends_at=40).assign(generated_tokens=lambda d: d["max_tokens"])
    answer = said(frame)
    assert "48 (57 %) ended by themselves" in answer
    assert "0 (0.0 %) generated fewer" in answer


def test_too_few_rounds_are_undecided_with_the_reason() -> None:
    answer = said(made(rounds=2))
    assert "(2 paired rounds; 6 are the fewest for a verdict)" in answer
    assert "**slower**" not in answer and "inside" not in answer
    few = said(made(rounds=1, kinds=("fixed",)))
    assert "What a further token costs is **undecided**: a line needs 6 processes" in few
    assert "**Undecided**: there is no line to test." in few
    assert "latency =" not in few
    short = said(made(rounds=2, kinds=("fixed",)))
    assert "whether predictions lie within an interval is **undecided**" in short


def test_without_a_twin_there_is_no_verdict() -> None:
    answer = said(made(twin=False))
    assert "no cell was measured twice" in answer and "**slower**" not in answer


def test_one_length_says_nothing_of_others() -> None:
    answer = said(made(lengths=(16,)), [16])
    assert "what more tokens cost is **undecided**: only max_tokens 16 could be" in answer
    assert "**Each further token" not in answer
    assert "0 processes with 0 lengths are there to be fitted" in answer


def test_failures_and_missing_values() -> None:
    oom: factories.Failure = ("oom", "no room <b>")
    some = said(made(failed={150: oom}))
    assert "max_tokens 100 instead of 8" in some
    assert "of 14 cells failed" in some and "oom 12" in some
    assert "150 tokens" not in some
    every = made(failed=dict.fromkeys(LENGTHS, oom))
    assert "No cell could be measured" in said(every)
    assert "<b>" not in str(answers.max_tokens(every, info()).data)
    assert "Too little was measured" in text(answers.max_tokens_reading(every, info()))
    assert "Nothing has been measured yet" in said(factories.to_frame([]))
    assert "no process has a known latency" in said(made().assign(total_s=None))
    assert "finish" in answers.max_tokens_table(made().assign(finish_reason=None), info())


def test_held_out_lengths_come_from_the_plan() -> None:
    frame = made()
    assert AnswerLengths(frame, [8]).held_out == [8]
    assert AnswerLengths(frame).held_out == HELD
    assert AnswerLengths(frame, 8).held_out == [8]
    _, right = plots.max_tokens(frame, 8)  # as papermill gives one value
    assert [line.get_label() for line in right.lines].count("_line") == 1
    assert "n = 72 processes" in said(frame, [8]) and "- 8 tokens: predicted" in said(frame, 8)
    assert "- 25 tokens: predicted" in said(frame, None)
    table = answers.max_tokens_table(frame, info([8]))
    held = table[table["in the fit"] == "held out"]
    assert set(held["max_tokens"]) == {"8"} and len(held) == 2


def test_wide_intervals_prove_nothing_and_say_so() -> None:
    wide = said(made(between=0.5))
    assert "would lie within their intervals too: more rounds" in wide
    assert "would lie within" not in said(made())


def test_an_error_in_the_table_is_that_of_its_own_row() -> None:
    frame = made()
    slow = frame["length"] == "natural"
    frame.loc[slow, "total_s"] *= 2
    table = answers.max_tokens_table(frame, info())
    for kind in ("fixed", "natural"):
        row = table[(table["length"] == kind) & (table["max_tokens"] == "75")].iloc[0]
        total = float(row["total, ms"].split(" ")[0])
        predicted = float(row["line, ms"])
        error = float(row["error"].replace("−", "-").replace("%", ""))
        assert error == pytest.approx(100 * (predicted / total - 1), abs=1.5)


def test_the_table_has_a_row_per_kind_and_length() -> None:
    table = answers.max_tokens_table(made(ends_at=40), info())
    assert list(table["max_tokens"]) == [str(n) for n in LENGTHS] * 2
    assert list(table["generated"][-4:]) == ["40"] * 4
    assert list(table["finish"][-2:]) == ["stop 12"] * 2
    assert (table["trials"] == "ok 6").all()
    assert answers.max_tokens_table(factories.to_frame([]), info()).empty


def test_signs_and_thousands() -> None:
    shown = [signed_percent(v) for v in (-0.0361, 0.0001, -0.0001, 2.59, 20.19)]
    assert shown == ["−3.6 %", "0.0 %", "0.0 %", "+259 %", "+2,019 %"]


def test_the_figure_tells_seen_from_held_out_and_shows_every_error() -> None:
    left, right = plots.max_tokens(made(), HELD)
    left.figure.canvas.draw()
    sizes = {
        c.get_label(): len(c.get_offsets())
        for c in left.collections
        if "_band" not in c.get_label()
    }
    assert sizes == {
        "fixed length": 24, "_fixed held out": 18, "natural length": 24, "_natural held out": 18,
    }  # fmt: skip
    assert sum("× tokens" in str(line.get_label()) for line in left.lines) == 1
    labels = [line.get_label() for line in right.lines]
    assert [labels.count(f"_{name}") for name in ("line", "naive", "original")] == [3, 3, 3]
    assert right.get_xscale() == "symlog" and "log beyond ±10" in right.get_xlabel()
    assert left.get_ylim()[0] == 0
    assert "75 asked" in words([left]) and "came" not in words([left])
    assert "75 asked, 40 came" in words(plots.max_tokens(made(ends_at=40), HELD))


def test_every_error_lies_within_the_axes() -> None:
    for frame in (made(), made(growing), made(ends_at=9)):
        _, right = plots.max_tokens(frame, HELD)
        low, high = right.get_xlim()
        for line in right.lines:
            assert all(low <= x <= high for x in line.get_xdata())


def test_the_figure_says_what_failed_and_copes_with_little() -> None:
    drawn = plots.max_tokens(made(failed={150: ("oom", "x")}), HELD)
    assert "Not drawn" in words(drawn) and "oom 12" in words(drawn)
    for frame in (factories.to_frame([]), made(failed=dict.fromkeys(LENGTHS, ("crashed", "x")))):
        assert "Nothing was measured" in words(plots.max_tokens(frame))
    few = plots.max_tokens(made(rounds=1, kinds=("fixed",)), HELD)
    few[0].figure.canvas.draw()
    assert "Too few processes for a line" in words(few)
    assert "No held-out length was measured" in words(plots.max_tokens(made(lengths=(16,))))
    with pytest.raises(ParameterError, match="give two"):
        plots.max_tokens(made(rounds=1), axes=[plt.subplots()[1]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_runs(carried_out: CarriedOut) -> None:
    frame, page = carried_out(
        "max_tokens", max_tokens=[2, 4, 6], held_out=4, rounds=2, repeats=0, n_ctx=512
    )
    assert set(frame["status"]) == {"ok"} and len(frame) == (2 * 3 + 1) * 2
    assert set(frame["length"]) == {"fixed", "natural"}
    assert "can latency be predicted?" in page
    assert "4 tokens: predicted" in page and "Asked and generated" in page
