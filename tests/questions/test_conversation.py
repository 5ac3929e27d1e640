"""Is a rich context faster?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from llm_latency.questions import conversation
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

INFO = factories.info()
TURNS = 9
TOKENS = 24
Step = Callable[[float], float]
"""From the tokens in the context to the seconds that a token takes."""


def slower(context: float) -> float:
    return 0.006 + context * 2e-6


def faster(context: float) -> float:
    return 0.006 - context * 2e-6


def equal(context: float) -> float:
    return 0.006


def works(languages: tuple[str, ...]) -> list[Workload]:
    common: dict[str, Any] = {"max_tokens": TOKENS, "repeats": TURNS - 1}
    chats = [
        Workload(conversation=one, cache_mode=mode, **common)  # type: ignore[arg-type]
        for one in languages
        for mode in ("kept", "cold")
    ]
    return [*chats, Workload(prompt_tokens=20, **common)]


def frame(
    step: Step | dict[str, Step] = equal,
    rounds: int = 6,
    languages: tuple[str, ...] = ("fr", "en"),
    failed: dict[tuple[str | None, str], Any] | None = None,
    twin: bool = True,
    noise: float = 0.001,
    per_prompt_s: float = 0.001,
) -> pd.DataFrame:
    """Return a run whose chats grow by 100 tokens a turn from 200, 30 of them new."""
    rng = np.random.default_rng(2)
    made = []
    for round in range(rounds):
        for place, work in enumerate(works(languages)):
            for again in (False, True) if twin and place == 0 else (False,):
                made.append(
                    factories.record(
                        Settings(n_ctx=4096),
                        workload=work,
                        round=round,
                        twin=again,
                        failure=(failed or {}).get((work.conversation, work.cache_mode)),
                    )
                )
    data = factories.to_frame(made)
    factor = {key: float(np.exp(rng.normal(0, noise))) for key in data["trial_id"].unique()}
    for at, row in data[data["repeat"].notna()].iterrows():
        chat = isinstance(row["conversation"], str)
        size = 200 + 100 * row["repeat"] if chat else 20
        new = 30 if row["cache_mode"] == "kept" and row["repeat"] else size
        steps = step[row["conversation"]] if isinstance(step, dict) and chat else step
        token = (steps if callable(steps) else equal)(size) * factor[row["trial_id"]]
        wait = (0.004 + new * per_prompt_s) * factor[row["trial_id"]]
        values = {
            "prompt_tokens": size,
            "evaluated_tokens": new,
            "ttft_s": wait,
            "decode_s": token * (TOKENS - 1),
            "total_s": wait + token * (TOKENS - 1),
            "decode_tps": 1 / token,
        }
        for name, value in values.items():
            data.loc[at, name] = value  # type: ignore[index]
        data.at[at, "itl_s"] = [wait, *[token] * (TOKENS - 1)]  # type: ignore[index]
    return data


def test_the_plan() -> None:
    plan = conversation.plan()
    work = [cell.workload for cell in plan.cells if not cell.twin]
    asked = {(w.conversation, w.prompt_tokens, w.cache_mode) for w in work}
    assert asked == {
        *((one, None, mode) for one in ("fr", "en") for mode in ("kept", "cold")),
        (None, 20, "cold"),
    }
    assert {(w.repeats, w.max_tokens, w.length) for w in work} == {(9, 24, "natural")}
    assert {w.template for w in work if w.conversation} == {"own"}
    assert {cell.settings.n_ctx for cell in plan.cells} == {4096}
    assert plan.rounds == 6
    (twin,) = (cell for cell in plan.cells if cell.twin)
    assert twin.workload.conversation == "fr"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"turns": 1}, "turns=1 is refused: give whole numbers from 2"),
        ({"turns": "many"}, "turns='many'"),
        ({"conversation": "de"}, "conversation='de' is refused"),
        ({"short_tokens": 0}, "short_tokens=0 is refused"),
        ({"max_tokens": 1}, "max_tokens=1 is refused: give whole numbers from 2"),
        ({"turn": 3}, "did you mean 'turns'"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        conversation.plan(**wrong)


def view(*given: Any, **options: Any) -> conversation.View:
    return conversation.View(Rows(frame(*given, **options), INFO))


def verdicts(seen: conversation.View) -> set[str]:
    return {seen.compare("token_s", conversation.SHORT, kind).verdict for kind in seen.chats}


@pytest.mark.parametrize(
    ("step", "verdict"), [(slower, "slower"), (faster, "faster"), (equal, "same")]
)
def test_the_answer_is_that_of_the_data(step: Step, verdict: str) -> None:
    seen = view(step)
    assert verdicts(seen) == {verdict} and len(seen.chats) == 2
    assert {seen.against_own_start("token_s", kind).verdict for kind in seen.chats} == {verdict}
    answer = conversation.answer(seen)
    assert answer.verdict == verdict and len(answer.sentences) <= 5
    assert "800 to 1,000 tokens" in answer.text


def test_chats_that_differ_are_told_apart() -> None:
    seen = view({"fr": slower, "en": equal})
    assert verdicts(seen) == {"slower", "same"}
    assert conversation.answer(seen).verdict == "undecided"


@pytest.mark.parametrize("options", [{"rounds": 2}, {"twin": False}, {"noise": 0.3}])
def test_few_rounds_no_twin_and_noise_are_undecided(options: dict[str, Any]) -> None:
    step = equal if "noise" in options else slower
    assert conversation.answer(view(step, **options)).verdict == "undecided"


def test_the_prompt_cache() -> None:
    seen = view()
    kept, cold = (conversation.Kind("fr", mode) for mode in ("kept", "cold"))
    # In the last turns 30 tokens are new of 900: 34 ms and 904.
    assert seen.over(kept, "ttft_s").median == pytest.approx(0.034, rel=0.01)
    assert seen.over(cold, "ttft_s").median == pytest.approx(0.904, rel=0.01)
    assert seen.compare("ttft_s", cold, kept).verdict == "faster"
    useless = frame()
    is_kept = useless["cache_mode"] == "kept"
    useless.loc[is_kept, "ttft_s"] = 0.004 + useless.loc[is_kept, "prompt_tokens"] * 0.001
    without = conversation.View(Rows(useless, INFO))
    assert without.compare("ttft_s", cold, kept).verdict != "faster"


def test_the_way_of_counting() -> None:
    seen = view()
    kept, cold = (conversation.Kind("fr", mode) for mode in ("kept", "cold"))
    # 24 tokens in 904 + 138 ms, and in 34 + 138 ms.
    assert seen.over(cold, "count_tps").median == pytest.approx(23, abs=0.5)
    assert seen.over(kept, "count_tps").median == pytest.approx(139, abs=3)
    assert seen.over(cold, "decode_tps").median == pytest.approx(167, abs=1)
    table = conversation.table(seen)
    assert list(table["asked"])[-1] == "short prompts" and len(table) == 5
    assert {"first quarter / its time, tok/s", "all / total latency, tok/s"} <= set(table)


def test_the_share_that_ended_by_itself() -> None:
    assert conversation._ends(view()) == ""  # none was free to
    data = frame()
    data["length"] = "natural"
    data.loc[data["repeat"] % 3 == 0, "finish_reason"] = "stop"
    seen = conversation.View(Rows(data, INFO))
    assert seen.ended(seen.of(conversation.Kind("fr", "kept"))) == pytest.approx(1 / 3)
    assert set(conversation.table(seen)["ended by itself"]) == {"33 %"}
    assert "33 % of all answers" in conversation.answer(seen).text


def test_the_course_over_the_turns() -> None:
    kept = conversation.Kind("fr", "kept")
    assert view(slower).slope(kept).median == pytest.approx(2e-6, rel=0.02)
    assert view(faster).slope(kept).median == pytest.approx(-2e-6, rel=0.02)
    waits = view(slower).by_turn(kept, "ttft_s")
    assert (waits[1].median, waits[9].median) == pytest.approx((0.204, 0.034), rel=0.01)


def test_failures_and_nothing() -> None:
    failed = {("fr", "cold"): ("refused", "the prompt does not fit <b>")}
    answer = conversation.answer(view(slower, failed=failed))
    assert answer.verdict == "slower" and "<b>" not in answer.text
    alone: dict[tuple[str | None, str], Any] = {
        (one, mode): ("crashed", "SIGSEGV") for one in ("fr", "en") for mode in ("kept", "cold")
    }
    only_short = conversation.answer(view(failed=alone))
    assert only_short.line == "no conversation could be measured"
    no_short = conversation.answer(view(failed={(None, "cold"): ("oom", "")}))
    assert no_short.line == "no short prompt could be measured"
    broken = frame(failed=alone | {(None, "cold"): ("crashed", "SIGSEGV")})
    for data in (factories.to_frame([]), broken):
        seen = conversation.View(Rows(data, INFO))
        assert conversation.answer(seen).verdict == "none"
        assert conversation.table(seen).empty and conversation.turns(seen).empty


def test_the_table_of_turns() -> None:
    table = conversation.turns(view())
    assert len(table) == 2 * TURNS
    french = table[table["chat"] == "French"]
    assert list(french["prompt, tokens"])[:2] == ["200", "300"]
    assert list(french["new, tokens"])[:2] == ["200", "30"]


def drawn(df: pd.DataFrame) -> Any:
    return conversation.figure(conversation.View(Rows(df, INFO)))


def test_the_figure_has_a_line_per_chat_and_the_short_prompts() -> None:
    left, right = drawn(frame(slower))
    assert {line.get_label() for line in left.lines} == {
        *(f"{one}, {mode}" for one in ("fr", "en") for mode in ("kept", "cold"))
    }
    assert {line.get_label() for line in right.lines} == {"fr", "en", "short\nprompts"}
    assert {len(line.get_xdata()) for line in (*left.lines, *right.lines)} == {TURNS}
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    assert "Context: 200 to 1,000 tokens" in words([left])


def test_the_figure_says_what_failed() -> None:
    failed = {("fr", "cold"): ("refused", "it does not fit")}
    axes = drawn(frame(failed=failed))
    assert "Not drawn" in words(axes) and "refused" in words(axes)
    assert "Nothing was measured" in words(drawn(factories.to_frame([])))
    _, two = plt.subplots(1, 2)
    assert list(conversation.figure(view(rounds=1), axes=two)) == list(two)
    with pytest.raises(ParameterError, match="give two"):
        conversation.figure(view(rounds=1), axes=[two[0]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook(carried_out: CarriedOut) -> None:
    # One thread: two would wait for each other on a busy machine.
    data, page = carried_out(
        "conversation", turns=2, conversation="en", max_tokens=4, n_ctx=512, rounds=1, n_threads=1
    )
    assert set(data["status"]) == {"ok"}
    assert set(data["chat_form"].dropna()) == {"template"}
    later = data[data["repeat"] == 1].set_index(["conversation", "cache_mode"])
    later = later[later.index.get_level_values(0) == "en"].droplevel(0)
    kept, cold = (later[~later["twin"]].loc[mode] for mode in ("kept", "cold"))
    assert kept["prompt_tokens"] == cold["prompt_tokens"] == cold["evaluated_tokens"]
    assert kept["evaluated_tokens"] < cold["evaluated_tokens"]
    assert "Whether a rich context is faster is undecided" in page
