"""What does max_tokens cost, and can latency be predicted?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from llm_latency.questions import max_tokens
from llm_latency.questions.max_tokens import FORMULAS, Place, signed_percent
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

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


def seen_in(frame: pd.DataFrame, held_out: Any = HELD) -> max_tokens.View:
    return max_tokens.View(Rows(frame, info(held_out)))


def view(*given: Any, **options: Any) -> max_tokens.View:
    return seen_in(made(*given, **options))


def test_the_default_plan_asks_both_kinds_of_end() -> None:
    plan = max_tokens.plan()
    assert len(plan.cells) == 2 * 7 + 1 and plan.rounds == 6
    assert {c.workload.length for c in plan.cells} == {"fixed", "natural"}
    assert {c.workload.max_tokens for c in plan.cells} == set(LENGTHS)
    assert plan.parameters["held_out"] == HELD
    assert {c.workload.prompt_tokens for c in plan.cells} == {12}
    asked = [c.workload for c in max_tokens.plan(conversation="en").cells]
    assert {(w.conversation, w.template, w.repeats) for w in asked} == {("en", "own", 0)}
    one = max_tokens.plan(length="natural", max_tokens="[4, 8, 12]", held_out="8")
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
        ({"n_ctx": 128}, ["n_ctx=128", "need 162 tokens", "give n_ctx=256"]),
        ({"conversation": "de"}, ["conversation='de'", "none"]),
        ({"prompt_tokens": [1, 2]}, ["prompt_tokens=[1, 2]", "one value"]),
        ({"max_token": 8}, ["max_token", "did you mean 'max_tokens'"]),
    ],
)
def test_wrong_values_are_refused(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        max_tokens.plan(**given)
    for word in words:
        assert word in str(caught.value)


def test_a_line_predicts_what_it_has_not_seen() -> None:
    seen = view()
    fitted = seen.lines["generated"]
    assert fitted is not None and fitted.n == 48
    assert fitted.slope_low <= fitted.slope <= fitted.slope_high
    assert fitted.slope == pytest.approx(0.004, rel=0.01)
    assert fitted.intercept == pytest.approx(0.016, abs=0.0005)
    tests = seen.tests()
    assert [place.asked for place in tests] == HELD
    assert max(abs(test.error.median) for test in tests.values()) < 0.01
    assert sum(bool(test.inside) for test in tests.values()) >= 2
    assert fitted == seen.lines["asked"], "every process generated what was asked"
    answer = max_tokens.answer(seen)
    assert answer.verdict == "slower" and len(answer.sentences) <= 5


def test_growing_costs_are_not_predicted_by_a_line() -> None:
    tests = view(growing).tests()
    assert [test.inside for test in tests.values()] == [False] * 3
    # The longest lies beyond what was fitted: predicted too short.
    assert tests[Place(150, 150)].error.median < -0.1


def test_a_cost_that_may_be_none_is_not_told_as_a_speed() -> None:
    answer = max_tokens.answer(view(lambda settings, place: 0.0, between=0.05))
    assert "**not told from nothing**" in answer.text


def test_asked_and_generated_differ_only_where_the_data_say_so() -> None:
    full = view()
    assert len(full.natural) == 84 and set(full.natural["finish_reason"]) == {"length"}
    assert full.same_length == 150
    early = view(ends_at=40)
    stopped = early.natural[early.natural["finish_reason"] == "stop"]
    assert len(stopped) == 48 and early.same_length == 25
    assert Place(75, 40) in early.unseen_places
    # A line through what was asked for is far off, the other is not.
    off = {over: max(abs(t.error.median) for t in early.tests(over).values()) for over in FORMULAS}
    assert off["asked"] > 0.5 and off["generated"] < 0.05
    assert view(kinds=("fixed",)).natural.empty


@pytest.mark.parametrize("options", [{"rounds": 2}, {"twin": False}])
def test_too_few_rounds_and_no_twin_are_undecided(options: dict[str, Any]) -> None:
    assert max_tokens.answer(view(**options)).verdict == "undecided"


def test_few_processes_have_no_line_and_no_interval() -> None:
    few = view(rounds=1, kinds=("fixed",))
    assert few.lines["generated"] is None and few.tests() == {}
    short = view(rounds=2, kinds=("fixed",))
    assert {test.inside for test in short.tests().values()} == {None}


def test_one_length_says_nothing_of_others() -> None:
    seen = seen_in(made(lengths=(16,)), [16])
    assert seen.lines["generated"] is None and max_tokens.answer(seen).verdict == "undecided"


def test_failures_and_missing_values() -> None:
    oom: factories.Failure = ("oom", "no room <b>")
    assert view(failed={150: oom}).asked[-1] == 100
    every = max_tokens.answer(view(failed=dict.fromkeys(LENGTHS, oom)))
    assert every.verdict == "none" and "<b>" not in every.text
    assert max_tokens.answer(seen_in(factories.to_frame([]))).verdict == "none"
    unknown = seen_in(made().assign(total_s=float("nan")))
    assert max_tokens.answer(unknown).line == "no latency is known"
    assert "finish" in max_tokens.table(seen_in(made().assign(finish_reason=None)))


def test_held_out_lengths_come_from_the_plan() -> None:
    frame = made()
    assert seen_in(frame, [8]).held_out == seen_in(frame, 8).held_out == [8]
    assert seen_in(frame, None).held_out == seen_in(frame, []).held_out == HELD
    fitted = seen_in(frame, [8]).lines["generated"]
    assert fitted is not None and fitted.n == 72
    table = max_tokens.table(seen_in(frame, [8]))
    held = table[table["in the fit"] == "held out"]
    assert set(held["max_tokens"]) == {"8"} and len(held) == 2


def test_an_error_in_the_table_is_that_of_its_own_row() -> None:
    frame = made()
    slow = frame["length"] == "natural"
    frame.loc[slow, "total_s"] *= 2
    table = max_tokens.table(seen_in(frame))
    for kind in ("fixed", "natural"):
        row = table[(table["length"] == kind) & (table["max_tokens"] == "75")].iloc[0]
        total = float(row["total, ms"].split(" ")[0])
        predicted = float(row["line, ms"])
        error = float(row["error"].replace("−", "-").replace("%", ""))
        assert error == pytest.approx(100 * (predicted / total - 1), abs=1.5)


def test_the_table_has_a_row_per_kind_and_length() -> None:
    table = max_tokens.table(view(ends_at=40))
    assert list(table["max_tokens"]) == [str(n) for n in LENGTHS] * 2
    assert list(table["generated"][-4:]) == ["40"] * 4
    assert list(table["finish"][-2:]) == ["stop 12"] * 2
    assert (table["trials"] == "ok 6").all()
    assert max_tokens.table(seen_in(factories.to_frame([]))).empty


def test_signs_and_thousands() -> None:
    shown = [signed_percent(v) for v in (-0.0361, 0.0001, -0.0001, 2.59, 20.19)]
    assert shown == ["−3.6 %", "0.0 %", "0.0 %", "+259 %", "+2,019 %"]


def test_the_figure_tells_seen_from_held_out_and_shows_every_error() -> None:
    left, right = max_tokens.figure(view())
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
    assert [labels.count(f"_{over}") for over in FORMULAS] == [3, 3]
    assert left.get_ylim()[0] == 0 and "75 asked" in words([left])
    assert "75 asked, 40 came" in words(max_tokens.figure(view(ends_at=40)))


def test_every_error_lies_within_the_axes() -> None:
    for seen in (view(), view(growing), view(ends_at=9)):
        _, right = max_tokens.figure(seen)
        low, high = right.get_xlim()
        for line in right.lines:
            assert all(low <= x <= high for x in line.get_xdata())


def test_the_figure_says_what_failed_and_copes_with_little() -> None:
    drawn = words(max_tokens.figure(view(failed={150: ("oom", "x")})))
    assert "Not drawn" in drawn and "oom 12" in drawn
    lost = made(failed=dict.fromkeys(LENGTHS, ("crashed", "x")))
    for frame in (factories.to_frame([]), lost):
        assert "Nothing was measured" in words(max_tokens.figure(seen_in(frame)))
    few = max_tokens.figure(view(rounds=1, kinds=("fixed",)))
    few[0].figure.canvas.draw()
    assert "Too few processes for a line" in words(few)
    assert "No length was held out" in words(max_tokens.figure(view(lengths=(16,))))
    with pytest.raises(ParameterError, match="give two"):
        max_tokens.figure(view(rounds=1), axes=[plt.subplots()[1]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_runs(carried_out: CarriedOut) -> None:
    frame, page = carried_out(
        "max_tokens", max_tokens=[2, 4, 6], held_out=4, rounds=2, repeats=0, n_ctx=512
    )
    assert set(frame["status"]) == {"ok"} and len(frame) == (2 * 3 + 1) * 2
    assert set(frame["length"]) == {"fixed", "natural"}
    assert "can latency be predicted?" in page
    assert "At lengths that the line has not seen" in page
