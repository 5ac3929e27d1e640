"""Is a rich context faster?"""

from __future__ import annotations

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
from llm_latency.plan.spec import Settings, Workload
from tests.support import factories
from tests.support.pages import CarriedOut, text, words

ROOT = Path(__file__).parents[2]
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
    if "repeat" not in data:
        return data
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
    plan = experiments.conversation()
    work = [cell.workload for cell in plan.cells if not cell.twin]
    asked = {(w.conversation, w.prompt_tokens, w.cache_mode) for w in work}
    assert asked == {
        *((one, None, mode) for one in ("fr", "en") for mode in ("kept", "cold")),
        (None, 20, "cold"),
    }
    assert {(w.repeats, w.max_tokens, w.length) for w in work} == {(9, 24, "fixed")}
    assert {cell.settings.n_ctx for cell in plan.cells} == {4096}
    assert plan.rounds == 6
    (twin,) = (cell for cell in plan.cells if cell.twin)
    assert twin.workload.conversation == "fr"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"turns": 1}, "turns=1 is refused: give a whole number from 2 up"),
        ({"turns": "many"}, "turns='many'"),
        ({"conversation": "de"}, "conversation='de' is refused"),
        ({"short_tokens": 0}, "short_tokens=0 is refused"),
        ({"max_tokens": 1}, "max_tokens=1 is refused: give 2 or more"),
        ({"turn": 3}, "did you mean 'turns'"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        experiments.conversation(**wrong)


@pytest.mark.parametrize(
    ("step", "head", "verdict"),
    [
        (slower, "A rich context is slower per token, not faster.", "slower"),
        (faster, "A rich context is faster per token.", "faster"),
        (equal, "A rich context is as fast per token as a short prompt.", "same"),
    ],
)
def test_the_answer_is_that_of_the_data(step: Step, head: str, verdict: str) -> None:
    said = text(answers.conversation(frame(step), INFO))
    assert said.startswith(f"**{head}** With synthetic:tiny")
    assert "undecided" not in said
    lines = re.findall(r"- (?:French|English) chat, last 3 turns of 9.*", said)
    assert len(lines) == 2
    for line in lines:
        assert "800 to 1,000 tokens in the context" in line
        assert "after short prompts of 20 tokens" in line
        assert line.count(f"**{verdict}**") == 2  # against short prompts, and its own start


def test_chats_that_differ_are_told_apart() -> None:
    said = text(answers.conversation(frame({"fr": slower, "en": equal}), INFO))
    assert "slower in the French chat and same in the English chat" in said or (
        "same in the English chat and slower in the French chat" in said
    )


def test_few_rounds_no_twin_and_noise_are_undecided() -> None:
    head = "**Whether a rich context is faster is undecided.**"
    few = text(answers.conversation(frame(slower, rounds=2), INFO))
    assert few.startswith(head) and "2 paired rounds; 6 are the fewest" in few
    alone = text(answers.conversation(frame(slower, twin=False), INFO))
    assert alone.startswith(head) and "no cell was measured twice" in alone
    noisy = text(answers.conversation(frame(equal, noise=0.3), INFO))
    assert noisy.startswith(head)


def test_the_prompt_cache() -> None:
    said = text(answers.conversation(frame(), INFO))
    # In the last turns 30 tokens are new of 900: 34 ms and 904.
    assert "French chat: TTFT 34.0 ms" in said and "904 ms" in said and "**96 % shorter**" in said
    assert "**faster**" in said
    useless = frame()
    kept = useless["cache_mode"] == "kept"
    useless.loc[kept, "ttft_s"] = 0.004 + useless.loc[kept, "prompt_tokens"] * 0.001
    assert "**faster**" not in text(answers.conversation(useless, INFO))


def test_the_way_of_counting() -> None:
    said = text(answers.conversation(frame(), INFO))
    # 24 tokens in 904 + 138 ms, and in 34 + 138 ms.
    assert re.search(r"23\.\d tok/s .*1[34]\d tok/s", said)
    assert "counting alone makes as large a difference" in said
    assert "167 tok/s, 1.00 times as much" in said
    cheap = text(answers.conversation(frame(per_prompt_s=1e-6), INFO))
    assert "counting alone makes a smaller difference" in cheap
    table = answers.conversation_counts(frame())
    assert list(table["asked"])[-1] == "short prompts" and len(table) == 5
    assert {"first 6 / their time, tok/s", "24 / total latency, tok/s"} <= set(table)


def test_the_course_over_the_turns() -> None:
    said = text(answers.conversation_reading(frame(slower)))
    assert "1,000 further tokens of context make each token 2.00 ms longer" in said
    assert "from 204 ms in turn 1 to 34.0 ms in turn 9 (French, with the prompt cache)" in said
    assert re.search(r"from 204 ms in turn 1 to 1,00\d ms in turn 9 \(French, without", said)
    assert "2.00 ms shorter" in text(answers.conversation_reading(frame(faster)))


def test_failures_and_nothing() -> None:
    failed = {("fr", "cold"): ("refused", "the prompt does not fit <b>")}
    answer = answers.conversation(frame(slower, failed=failed), INFO)
    said = text(answer)
    assert "slower per token" in said and "refused 6" in said and "<b>" not in str(answer.data)
    assert "French chat: TTFT" not in said and "English chat: TTFT" in said
    alone: dict[tuple[str | None, str], Any] = {
        (one, mode): ("crashed", "SIGSEGV") for one in ("fr", "en") for mode in ("kept", "cold")
    }
    only_short = text(answers.conversation(frame(failed=alone), INFO))
    assert only_short.startswith("**Undecided**: no conversation could be measured")
    no_short = text(answers.conversation(frame(failed={(None, "cold"): ("oom", "")}), INFO))
    assert "no short prompt could be measured" in no_short
    broken = frame(failed=alone | {(None, "cold"): ("crashed", "SIGSEGV")})
    assert "No cell could be measured" in text(answers.conversation(broken, INFO))
    assert "Nothing has been measured" in text(answers.conversation(factories.to_frame([]), {}))
    for data in (factories.to_frame([]), broken):
        assert "nothing to read" in text(answers.conversation_reading(data))
        assert answers.conversation_counts(data).empty and answers.conversation_turns(data).empty
    poor = frame(rounds=1).assign(decode_tps=None, decode_s=None, itl_s=None)
    assert "one token shows no decode" in text(answers.conversation(poor, INFO))


def test_the_table_of_turns() -> None:
    table = answers.conversation_turns(frame())
    assert len(table) == 2 * TURNS
    french = table[table["chat"] == "French"]
    assert list(french["prompt, tokens"])[:2] == ["200", "300"]
    assert list(french["new, tokens"])[:2] == ["200", "30"]


def test_the_figure_has_a_line_per_chat_and_the_short_prompts() -> None:
    left, right = plots.conversation(frame(slower))
    assert {line.get_label() for line in left.lines} == {
        *(f"{one}, {mode}" for one in ("fr", "en") for mode in ("kept", "cold"))
    }
    assert {line.get_label() for line in right.lines} == {"fr", "en", "short\nprompts"}
    assert {len(line.get_xdata()) for line in (*left.lines, *right.lines)} == {TURNS}
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    assert "Context: 200 to 1,000 tokens" in words([left])


def test_the_figure_says_what_failed() -> None:
    failed = {("fr", "cold"): ("refused", "it does not fit")}
    axes = plots.conversation(frame(failed=failed))
    assert "Not drawn" in words(axes) and "refused" in words(axes)
    assert "Nothing was measured" in words(plots.conversation(factories.to_frame([])))
    _, two = plt.subplots(1, 2)
    assert list(plots.conversation(frame(rounds=1), axes=two)) == list(two)
    with pytest.raises(ParameterError, match="give two"):
        plots.conversation(frame(rounds=1), axes=[two[0]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook(carried_out: CarriedOut) -> None:
    # One thread: two would wait for each other on a busy machine.
    data, page = carried_out(
        "conversation", turns=2, conversation="en", max_tokens=4, n_ctx=512, rounds=1, n_threads=1
    )
    assert set(data["status"]) == {"ok"}
    later = data[data["repeat"] == 1].set_index(["conversation", "cache_mode"])
    later = later[later.index.get_level_values(0) == "en"].droplevel(0)
    kept, cold = (later[~later["twin"]].loc[mode] for mode in ("kept", "cold"))
    assert kept["prompt_tokens"] == cold["prompt_tokens"] == cold["evaluated_tokens"]
    assert kept["evaluated_tokens"] < cold["evaluated_tokens"]
    assert "Whether a rich context is faster is undecided" in page
