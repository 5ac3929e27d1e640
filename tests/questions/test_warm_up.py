"""Warm-ups: the plan, an answer that follows the data, figures, and the notebook as it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import PREFIX_WARM_UPS, STATE_WARM_UPS, Start
from llm_latency.plan.workload import Workload
from llm_latency.questions import warm_up
from llm_latency.report import phrases
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

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


def seen_in(df: pd.DataFrame) -> warm_up.View:
    return warm_up.View(Rows(df, INFO))


def view(**options: Any) -> warm_up.View:
    return seen_in(frame(**options))


RAM, DISK = warm_up.Place("resident", 470), warm_up.Place("evicted", 470)


def verdicts(seen: warm_up.View, column: str = "ttft_s") -> dict[str, str]:
    return {kind: seen.compare(column, RAM, kind).verdict for kind in seen.others(RAM)}


def test_the_plan_holds_every_strategy_and_a_twin_per_state() -> None:
    plan = warm_up.plan()
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
    plan = warm_up.plan(warm_up="system_prompt", page_cache="as_is", system_tokens=64)
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
        warm_up.plan(**given)


def test_the_answer_where_a_kept_system_prompt_wins() -> None:
    seen = view()
    assert seen.compared[:2] == [RAM, DISK]
    found = verdicts(seen)
    assert {kind for kind, verdict in found.items() if verdict == "faster"} == PREFIX_WARM_UPS
    assert found["tokens"] == found["batch"] == "same"
    ratio = seen.compare("ttft_s", RAM, "system_prompt").ratio
    assert ratio.median == pytest.approx(0.043, abs=0.001)
    assert seen.difference("rss_after_load_bytes", RAM, "python_state").median == 30 * factories.MIB
    # 250 ms of warm-up save 450 ms at each first reply.
    assert seen.worth(RAM, "system_prompt") == pytest.approx(0.56, abs=0.01)
    assert seen.worth(RAM, "tokens") is None
    demand = verdicts(seen, "load_and_ttft_s")
    assert demand["system_prompt"] == "faster" and demand["tokens"] == "slower"
    answer = warm_up.answer(seen)
    assert answer.verdict == "faster" and len(answer.sentences) <= 5
    assert answer.sure.startswith("6 paired rounds; equal cells differ by")


def test_of_a_state_that_cannot_be_cut_only_the_first_reply_is_warmed() -> None:
    data = frame()
    held = data["warm_up"].isin(PREFIX_WARM_UPS) & (data["repeat"] > 0)
    data.loc[held, "refilled_tokens"] = 450
    seen = seen_in(data)
    assert verdicts(seen) == verdicts(view())
    assert seen.estimate("ttft_s", RAM, "system_prompt", later=True).n == 0
    assert seen.estimate("ttft_s", RAM, "tokens", later=True).n == 6
    answer = warm_up.answer(seen)
    assert phrases.UNCUT in answer.text and len(answer.sentences) <= 5
    assert phrases.UNCUT not in warm_up.answer(view()).text


def test_the_answer_where_warm_ups_do_harm() -> None:
    def harm(kind: str, count: int) -> float:
        return 0.1 if kind == "none" else 0.2

    seen = view(ttft=harm)
    assert set(verdicts(seen).values()) == {"slower"}
    assert {seen.worth(RAM, kind) for kind in seen.others(RAM)} == {None}
    assert warm_up.answer(seen).verdict == "slower"


def test_a_warm_up_dearer_than_its_gain_is_said_to_be() -> None:
    def little(kind: str, count: int) -> float:
        return 0.4 if kind == "none" else 0.3

    seen = view(ttft=little)
    assert seen.worth(RAM, "system_prompt") == pytest.approx(2.5, rel=0.05)
    assert seen.worth(RAM, "restored_state") == pytest.approx(0.02, rel=0.05)


def test_loading_is_compared_without_the_warm_up() -> None:
    assert set(verdicts(view(), "bare_load_s").values()) == {"same"}
    halved = view(loads=lambda kind, state: 0.1 if kind == "none" else 0.05)
    assert set(verdicts(halved, "bare_load_s").values()) == {"faster"}


@pytest.mark.parametrize("options", [{"rounds": 2}, {"twin": False}])
def test_too_few_rounds_and_no_twin_are_undecided(options: dict[str, Any]) -> None:
    seen = view(**options)
    assert set(verdicts(seen).values()) == {"undecided"}
    assert warm_up.answer(seen).verdict == "undecided"


def test_failures_and_gaps_are_told() -> None:
    assert "batch" not in view(failed=("batch",)).measured[RAM]
    assert warm_up.answer(view(failed=KINDS)).verdict == "none"
    assert warm_up.answer(view(failed=("none",))).verdict == "undecided"
    assert warm_up.answer(seen_in(factories.to_frame([]))).verdict == "none"
    unknown = ("state_bytes", "rss_after_load_bytes", "rss_peak_bytes")
    gaps = seen_in(frame().assign(**dict.fromkeys(unknown, float("nan"))))
    assert "RAM" not in warm_up.answer(gaps).sentences[2]


def test_one_value_of_each() -> None:
    seen = view(kinds=("none", "tokens"), states=("as_is",), lengths=(64,))
    assert list(seen.measured) == [warm_up.Place("as_is", 84)]
    assert warm_up.answer(seen).verdict == "same"


def test_the_table() -> None:
    table = warm_up.table(view())
    assert len(table) == 18 and list(table["warm-up"][:6]) == list(KINDS)
    assert set(table["file, MiB"][table["warm-up"] == "tokens"]) == {"–"}
    prompt = table[(table["warm-up"] == "system_prompt") & (table["page cache"] == "resident")]
    assert prompt["first TTFT against none"].str.endswith("faster").all()
    assert prompt["saves if asked after"].iloc[0] == "56 %"
    assert warm_up.table(seen_in(factories.to_frame([]))).empty


def test_bars_begin_at_zero_on_both_sides() -> None:
    ax = warm_up.figure(view())
    bars = [p for p in ax.patches if not p.get_hatch()]
    # Two places: each strategy waits, and all but none were paid for.
    assert len(bars) == 2 * (6 + 5)
    assert all(bar.get_x() == 0 for bar in bars)
    assert min(bar.get_width() for bar in bars) == pytest.approx(-300, rel=0.05)
    assert max(bar.get_width() for bar in bars) == pytest.approx(470, rel=0.05)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(KINDS) * 2
    assert "model's file in RAM" in words(ax) and "model's file on the disk" in words(ax)


def test_failed_strategies_are_hatched() -> None:
    ax = warm_up.figure(view(failed=("batch",)))
    assert sum(bool(p.get_hatch()) for p in ax.patches) == 2
    assert "oom 6" in words(ax) and "Not drawn" in words(ax)


def test_lines_by_prompt() -> None:
    left, right = warm_up.by_prompt(view())
    named = {ln.get_label() for ln in right.lines}
    assert named == set(KINDS) and {ln.get_label() for ln in left.lines} == set(KINDS[1:])
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    with pytest.raises(ParameterError, match="give two"):
        warm_up.by_prompt(view(rounds=1), axes=[left])


@pytest.mark.parametrize("draw", [warm_up.figure, warm_up.by_prompt])
def test_poor_frames_are_drawn(draw: Callable[..., Any]) -> None:
    for df in (factories.to_frame([]), frame(rounds=1, failed=KINDS)):
        ax = np.atleast_1d(draw(seen_in(df)))[0]
        ax.figure.canvas.draw()
        assert "Nothing was measured" in words(ax)
    draw(view(rounds=1, kinds=("none",), states=("evicted",), lengths=(9,)))


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
    assert "Loaded on demand" in page
