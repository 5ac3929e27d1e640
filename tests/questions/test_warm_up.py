"""Warm-ups: the plan, an answer that follows the data, figures, and the notebook as it runs."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llm_latency import answers, experiments, plots
from llm_latency.errors import ParameterError
from llm_latency.plan.spec import PREFIX_WARM_UPS, STATE_WARM_UPS, Settings, Start, Workload
from tests.support import factories
from tests.support.pages import CarriedOut, words

ROOT = Path(__file__).parents[2]
KINDS = ("none", "tokens", "batch", "system_prompt", "restored_state", "python_state")
COST_S = {"tokens": 0.02, "batch": 0.3, "system_prompt": 0.25, "restored_state": 0.002,
          "python_state": 0.05}  # fmt: skip
INFO = factories.info()


def frame(
    *,
    kinds: tuple[str, ...] = KINDS,
    states: tuple[str, ...] = ("resident", "evicted"),
    lengths: tuple[int, ...] = (150, 450),
    rounds: int = 6,
    ttft: Callable[[str, int], float] = lambda kind, count: count * 0.001,
    loads: Callable[[str, str], float] = lambda kind, state: 0.05 if state == "resident" else 0.1,
    failed: tuple[str, ...] = (),
    twin: bool = True,
) -> pd.DataFrame:
    """Return a run as the plan leaves it; ``ttft`` of a strategy and the tokens it evaluates."""
    rng = np.random.default_rng(1)
    made = []
    for round in range(rounds):
        for state in states:
            for system in lengths if state == states[0] else lengths[-1:]:
                again = [("none", True)] if twin and system == lengths[-1] else []
                for kind, is_twin in [*((kind, False) for kind in kinds), *again]:
                    held = kind in PREFIX_WARM_UPS
                    spent = COST_S.get(kind, 0.0)
                    quiet = float(np.exp(rng.normal(0, 0.002)))
                    one = factories.record(
                        Settings(),
                        workload=Workload(
                            prompt_tokens=system + 20,
                            max_tokens=4,
                            cache_mode="prefix" if held else "cold",
                            prefix_tokens=system if held else 0,
                        ),
                        start=Start(page_cache=state, warm_up=kind),  # type: ignore[arg-type]
                        load={
                            "warm_up_s": spent * quiet,
                            "load_s": (loads(kind, state) + spent) * quiet,
                        },
                        ttft=lambda _, count, kind=kind: ttft(kind, count),  # type: ignore[misc]
                        factor=quiet,
                        round=round,
                        twin=is_twin,
                        failure=("oom", "no memory") if kind in failed else None,
                    )
                    made.append(one)
    df = factories.to_frame(made)
    extra = df["warm_up"].map({"python_state": 30.0, "system_prompt": 10.0}).fillna(0)
    df["rss_after_load_bytes"] = (80 + extra) * factories.MIB
    stored = df["warm_up"].isin(STATE_WARM_UPS)
    df.loc[stored, "state_bytes"] = df["prompt_tokens"] * 4096.0
    df.loc[stored, ["state_evaluate_s", "state_save_s"]] = (0.2, 0.01)
    return df


def text(df: pd.DataFrame, answer: Callable[..., Any] = answers.warm_up) -> str:
    said = answer(df, INFO) if answer is answers.warm_up else answer(df)
    return html.unescape(str(said.data)).replace("\N{NO-BREAK SPACE}", " ")


def line(said: str, kind: str) -> str:
    return next(one for one in said.splitlines() if one.startswith(f"- **{kind}**"))


def test_the_plan_holds_every_strategy_and_a_twin_per_state() -> None:
    plan = experiments.warm_up()
    cells = [cell for cell in plan.cells if not cell.twin]
    assert len(cells) == 18 and plan.rounds == 6
    assert {c.start.warm_up for c in cells} == set(KINDS)
    assert {(c.start.page_cache, c.workload.prompt_tokens) for c in cells} == {
        ("resident", 120), ("resident", 320), ("evicted", 320),
    }  # fmt: skip
    twins = [cell for cell in plan.cells if cell.twin]
    assert [(t.start.warm_up, t.start.page_cache) for t in twins] == [
        ("none", "resident"),
        ("none", "evicted"),
    ]
    assert {t.cell_id for t in twins} <= {c.cell_id for c in cells}
    for cell in cells:
        held = cell.start.warm_up in PREFIX_WARM_UPS
        assert cell.workload.cache_mode == ("prefix" if held else "cold")
        prompt = cell.workload.prompt_tokens or 0
        assert cell.workload.prefix_tokens == (prompt - 20 if held else 0)


def test_none_is_always_measured() -> None:
    plan = experiments.warm_up(warm_up="system_prompt", page_cache="as_is", system_tokens=64)
    assert [cell.start.warm_up for cell in plan.cells] == ["none", "system_prompt", "none"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"warm_up": ["system_promt"]}, "did you mean 'system_prompt'"),
        ({"warm_up": "none"}, "give a warm-up to compare it with"),
        ({"page_cache": "cold"}, "page_cache='cold'"),
        ({"system_tokens": [0]}, "system_tokens=0"),
        ({"question_tokens": "few"}, "question_tokens='few'"),
        ({"n_ctx": 256}, "give n_ctx=336 or more"),
        ({"rouns": 3}, "did you mean 'rounds'"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(words)):
        experiments.warm_up(**given)


def test_the_answer_where_a_held_system_prompt_wins() -> None:
    said = text(frame())
    assert "With synthetic:tiny, the model's file in RAM and a first prompt of 470 tokens" in said
    assert "450 of them the system prompt" in said
    assert re.search(r"soonest with \*\*\w+\*\*: after 20\.\d ms", said)
    assert "A share of 10 % or less is **reached**" in said
    assert "In brackets: 95 % intervals, n = 6 paired rounds" in said
    assert "first TTFT **4.3 %**" in line(said, "system_prompt")
    assert "**faster**" in line(said, "system_prompt")
    assert "RAM after loading +30.0 MiB" in line(said, "python_state")
    assert "made once in 200 ms of evaluation and 10.0 ms of writing" in line(said, "python_state")
    assert "**same**" in line(said, "tokens") and "faster" not in line(said, "tokens")
    # 250 ms of warm-up save 450 ms at each first reply.
    assert "at least 56 % of them are followed by a question" in line(said, "system_prompt")
    assert "Free for a user who asks 250 ms or more after" in line(said, "system_prompt")
    assert "With the model's file on the disk" in said
    assert re.search(r"from 170 to 470, .*none TTFT \+(100|99\.\d) ms", said)
    assert "it makes the wait longer with tokens" in said.lower()
    assert "It helps with system_prompt" in said


def test_the_answer_where_warm_ups_do_harm() -> None:
    def harm(kind: str, count: int) -> float:
        return 0.1 if kind == "none" else 0.2

    said = text(frame(ttft=harm))
    assert "**not reached**" in said
    for kind in KINDS[1:]:
        assert "**slower**" in line(said, kind)
        assert "not known (first TTFT: slower)" in line(said, kind)
    assert "it helps" not in said.lower()


def test_a_warm_up_dearer_than_its_gain_is_said_to_be() -> None:
    def little(kind: str, count: int) -> float:
        return 0.4 if kind == "none" else 0.3

    said = text(frame(ttft=little))
    assert re.search(r"takes more than it saves: 25\d % of it", line(said, "system_prompt"))
    assert re.search(r"sooner than without from 15\d ms on|from 150 ms on", said)
    assert "at least 2.0 % of them" in line(said, "restored_state")


def test_loading_is_compared_without_the_warm_up() -> None:
    said = text(frame())
    assert "by verdict: same 10." in said
    assert re.search(r"in RAM, against one on the disk: −50 % .*\*\*faster\*\*", said)
    halved = text(frame(loads=lambda kind, state: 0.1 if kind == "none" else 0.05))
    assert "by verdict: faster 10." in halved
    assert re.search(r"in RAM, against one on the disk: \+?[−\d.]+ % .*\*\*same\*\*", halved)


def test_too_few_rounds_are_undecided() -> None:
    said = text(frame(rounds=2))
    assert "undecided" in said and "6 are the fewest for a verdict" in said
    for verdict in ("**faster**", "**slower**", "**same**", "**reached**"):
        assert verdict not in said


def test_without_a_twin_there_is_no_verdict() -> None:
    said = text(frame(twin=False))
    assert "not known, so there is no verdict" in said and "**faster**" not in said


def test_failures_and_gaps_are_told() -> None:
    said = text(frame(failed=("batch",)))
    assert "2 of 15 cells failed" in said and "- **batch**" not in said
    assert "No cell could be measured" in text(frame(failed=KINDS))
    assert "undecided" in text(frame(failed=("none",)))
    assert "Nothing has been measured" in text(factories.to_frame([]))
    gaps = frame().assign(state_bytes=None, rss_after_load_bytes=None, rss_peak_bytes=None)
    assert "RAM" not in line(text(gaps), "python_state")


def test_one_value_of_each() -> None:
    df = frame(kinds=("none", "tokens"), states=("as_is",), lengths=(64,))
    said = text(df)
    assert "page cache as it was and a first prompt of 84 tokens" in said
    assert "further 100 tokens" not in said and "The next" not in said
    assert "One length only" in text(df, answers.warm_up_by_prompt)


def test_readings_and_table() -> None:
    df = frame()
    assert "system_prompt **12 %**" in text(df, answers.warm_up_by_prompt)
    assert re.search(r"none 470 ms, tokens 490 ms, batch 77\d ms", text(df, answers.warm_up_bars))
    table = answers.warm_up_table(df)
    assert len(table) == 18 and list(table["warm-up"][:6]) == list(KINDS)
    assert set(table["file, MiB"][table["warm-up"] == "tokens"]) == {"–"}
    for reading in (answers.warm_up_by_prompt, answers.warm_up_bars):
        assert text(factories.to_frame([]), reading)
    assert answers.warm_up_table(factories.to_frame([])).empty


def test_bars_begin_at_zero_on_both_sides() -> None:
    ax = plots.warm_up(frame())
    bars = [p for p in ax.patches if not p.get_hatch()]
    # Two places: each strategy waits, and all but none were paid for.
    assert len(bars) == 2 * (6 + 5)
    assert all(bar.get_x() == 0 for bar in bars)
    assert min(bar.get_width() for bar in bars) == pytest.approx(-300, rel=0.05)
    assert max(bar.get_width() for bar in bars) == pytest.approx(470, rel=0.05)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(KINDS) * 2
    assert "model's file in RAM" in words(ax) and "model's file on the disk" in words(ax)


def test_failed_strategies_are_hatched() -> None:
    ax = plots.warm_up(frame(failed=("batch",)))
    assert sum(bool(p.get_hatch()) for p in ax.patches) == 2
    assert "oom 6" in words(ax) and "Not drawn" in words(ax)


def test_lines_by_prompt() -> None:
    left, right = plots.warm_up_by_prompt(frame())
    named = {ln.get_label() for ln in right.lines}
    assert named == set(KINDS) and {ln.get_label() for ln in left.lines} == set(KINDS[1:])
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    with pytest.raises(ParameterError, match="give two"):
        plots.warm_up_by_prompt(frame(rounds=1), axes=[left])


@pytest.mark.parametrize("draw", [plots.warm_up, plots.warm_up_by_prompt])
def test_poor_frames_are_drawn(draw: Callable[..., Any]) -> None:
    for df in (factories.to_frame([]), frame(rounds=1, failed=KINDS)):
        ax = np.atleast_1d(draw(df))[0]
        ax.figure.canvas.draw()
        assert "Nothing was measured" in words(ax)
    draw(frame(rounds=1, kinds=("none",), states=("evicted",), lengths=(9,)))


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_runs(carried_out: CarriedOut) -> None:
    df, page = carried_out(
        "warm_up", page_cache="resident", system_tokens=[24, 48], rounds=1, max_tokens=2,
        n_threads=1, n_batch=64, warm_up='["tokens", "system_prompt", "restored_state"]',
    )  # fmt: skip
    assert set(df["status"]) == {"ok"}
    assert set(df["warm_up"]) == {"none", "tokens", "system_prompt", "restored_state"}
    # Held in the KV cache, the system prompt is not evaluated again.
    held = df[df["warm_up"].isin(PREFIX_WARM_UPS)]
    assert set(held["evaluated_tokens"]) == {20}
    assert "Started on demand" in page
