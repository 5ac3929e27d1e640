"""Which n_ctx is enough, and what does more of it cost?"""

from __future__ import annotations

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
from llm_latency.records.record import ProcessMemory
from tests.support import factories
from tests.support.pages import CarriedOut, text, words

ROOT = Path(__file__).parents[2]
MIB = factories.MIB
SIZES = (512, 1024, 2048)
Itl = Callable[[Settings, int], float]


def flat(settings: Settings, prompt: int) -> float:
    return 0.006


def deeper(settings: Settings, prompt: int) -> float:
    return 0.006 + prompt * 4e-6


def larger(settings: Settings, prompt: int) -> float:
    return 0.006 * (1 + settings.n_ctx / 4096)


def smaller(settings: Settings, prompt: int) -> float:
    return 0.006 * (1 + 512 / settings.n_ctx)


def frame(
    itl: Itl = flat,
    rounds: int = 6,
    failed: dict[tuple[int, int], Any] | None = None,
    chat: bool = True,
    twin: bool = True,
    warning: str = "",
) -> pd.DataFrame:
    """Return a run over three contexts; a conversation grows by 90 tokens a turn from 100."""
    rng = np.random.default_rng(0)
    made = []
    for round in range(rounds):
        for n_ctx in SIZES:
            for prefix in (0, round_half(n_ctx)):
                for again in (False, True) if twin and (n_ctx, prefix) == (2048, 0) else (False,):
                    work = Workload(
                        prompt_tokens=prefix + 16,
                        prefix_tokens=prefix,
                        cache_mode="prefix" if prefix else "cold",
                        max_tokens=16,
                    )
                    base = (80 + n_ctx / 64) * MIB
                    phases = {
                        name: ProcessMemory(rss_bytes=int(size), rss_peak_bytes=int(size))
                        for name, size in (
                            ("after_load", base),
                            ("after_first", base + (1 + prefix / 64) * MIB),
                            ("after_last", base + (1 + prefix / 64) * MIB),
                        )
                    }
                    failure = (failed or {}).get((n_ctx, prefix))
                    made.append(
                        factories.record(
                            Settings(n_ctx=n_ctx),
                            workload=work,
                            round=round,
                            itl=itl,
                            factor=float(np.exp(rng.normal(0, 0.002))),
                            twin=again,
                            failure=failure,
                            warnings=[warning] if warning and n_ctx == 2048 else [],
                            more={} if failure else {"memory": phases},
                        )
                    )
        if chat:
            work = Workload(conversation="fr", cache_mode="kept", max_tokens=1, repeats=10)
            made.append(factories.record(Settings(n_ctx=2048), workload=work, round=round))
    data = factories.to_frame(made)
    talk = data["conversation"].notna()
    if chat:
        data.loc[talk, "prompt_tokens"] = 100 + 90 * data.loc[talk, "repeat"]
    return data


def round_half(n_ctx: int) -> int:
    """Return a fill that the next context has at half the share, so that depths meet."""
    return n_ctx // 2 if n_ctx < 2048 else 512


def info(**model: Any) -> dict[str, Any]:
    made = factories.info(**model)
    made["plan"]["parameters"] |= {"turns": [3, 10, 30], "answer_tokens": 128}
    return made


INFO = info()


def test_the_plan() -> None:
    plan = experiments.context_size()
    cells = [cell for cell in plan.cells if not cell.twin]
    grid = [cell for cell in cells if cell.workload.conversation is None]
    assert (len(plan.cells), len(grid), plan.rounds) == (14, 12, 6)
    for cell in grid:
        work = cell.workload
        assert work.prompt_tokens == work.prefix_tokens + 16
        assert (work.prefix_tokens > 0) == (work.cache_mode == "prefix")
        assert work.prompt_tokens + work.max_tokens <= cell.settings.n_ctx
    (chat,) = (cell for cell in cells if cell.workload.conversation)
    assert (chat.workload.repeats, chat.workload.max_tokens) == (10, 1)
    assert plan.cells[-1].twin and plan.cells[-1].workload.prefix_tokens == 0
    # Neighbours share a depth, so that they can be compared there.
    depths = [cell.workload.prompt_tokens for cell in grid if cell.workload.prefix_tokens]
    assert len(set(depths)) < len(depths)


def test_a_small_plan_counts_no_more_turns_than_asked() -> None:
    plan = experiments.context_size(n_ctx="512", fill=0.5, turns=2, rounds=1, n_threads=1)
    assert len(plan.cells) == 3
    assert [c.workload.repeats for c in plan.cells if c.workload.conversation] == [1]
    assert {cell.settings.n_threads for cell in plan.cells} == {1}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"fill": 1.0}, "fill=1.0 is refused: give shares"),
        ({"fill": -0.1}, "fill=-0.1"),
        ({"fill": "full"}, "fill='full'"),
        ({"fill": 0.99}, "fill=0.99 of n_ctx=512 leaves 5 tokens.*give a smaller fill"),
        ({"n_ctx": "many"}, "n_ctx='many'"),
        ({"n_ctx": -5}, "n_ctx=-5"),
        ({"turns": 0}, "turns=0 is refused: give whole numbers"),
        ({"answer_tokens": 0}, "answer_tokens=0"),
        ({"max_tokens": 1}, "max_tokens=1 is refused.*2"),
        ({"n_cxt": 512}, "n_cxt is not a parameter.*did you mean 'n_ctx'"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        experiments.context_size(**wrong)


def test_each_conversation_has_its_smallest_context() -> None:
    said = text(answers.context_size(frame(), INFO))
    assert "synthetic:tiny" in said
    assert "3 turns** need 408 tokens (280 of prompt, 128 left" in said
    assert "n_ctx 512** is the smallest measured that holds them" in said
    assert "10 turns** need 1,038 tokens" in said and "**n_ctx 2048** is the smallest" in said
    assert "30 turns** need about 2,838 tokens" in said
    assert "no n_ctx that ran holds them**; measure again with n_ctx 3072" in said
    # 512 takes 80 + 8 + 1 + 4 MiB, 1024 80 + 16 + 1 + 8.
    assert "in 93.0 MiB of RAM" in said and "the next larger, 1024, takes 12.0 MiB more" in said


def test_a_context_of_which_a_fill_failed_holds_nothing() -> None:
    failed = {(2048, 512): ("oom", "no memory <b>")}
    answer = answers.context_size(frame(failed=failed), INFO)
    said = text(answer)
    assert (
        "10 turns** need 1,038 tokens (910 of prompt, 128 left for the answer): **no n_ctx" in said
    )
    assert "1 of 7 cells failed" in said and "oom 6" in said
    assert "<b>" not in str(answer.data)


@pytest.mark.parametrize(
    ("itl", "words", "verdict"),
    [
        (flat, "takes the same time per token at 2 depths", "same"),
        (larger, "takes longer per token at 2 depths", "slower"),
        (smaller, "takes less time per token at 2 depths", "faster"),
    ],
)
def test_whether_a_larger_context_is_slower_follows_the_data(
    itl: Itl, words: str, verdict: str
) -> None:
    said = text(answers.context_size(frame(itl), INFO))
    assert f"With the same tokens in it, a larger n_ctx {words}:" in said
    assert "after 16 tokens, a token with n_ctx 2048 against 512" in said
    assert "after 528 tokens, a token with n_ctx 2048 against 1024" in said
    assert said.count(f"**{verdict}**") == 2 and "undecided" not in said


def test_few_rounds_and_no_twin_are_undecided() -> None:
    few = text(answers.context_size(frame(larger, rounds=2), INFO))
    assert "not told from a smaller one (**undecided**) at 2 depths" in few
    assert "2 paired rounds; 6 are the fewest" in few
    alone = text(answers.context_size(frame(larger, twin=False), INFO))
    assert "no cell was measured twice" in alone and "**slower**" not in alone


def test_a_fuller_context() -> None:
    said = text(answers.context_size_reading(frame(deeper)))
    assert "With n_ctx 2048, a token after 528 tokens against one after 16" in said
    assert "**34 % longer**" in said and "**slower**" in said
    assert "**same**" in text(answers.context_size_reading(frame(flat)))
    assert "adds 1.00–9.00 MiB" in said
    assert "least with 16 tokens in n_ctx 512, most with 528 tokens in n_ctx" in said


def test_beyond_training_is_said_where_it_is() -> None:
    warning = "n_ctx_seq (2048) > n_ctx_train (1024) <i>; use less"
    answer = answers.context_size(frame(warning=warning), info(n_ctx_train=1024))
    said = text(answer)
    assert "n_ctx 2048** is beyond the 1,024 tokens" in said
    assert "llama.cpp warns: “n_ctx_seq (2048) > n_ctx_train (1024) <i>”" in said
    assert "<i>" not in str(answer.data)
    assert "beyond" not in text(answers.context_size(frame(), info(n_ctx_train=2048)))


def test_nothing_all_failed_and_missing_values() -> None:
    assert "Nothing has been measured" in text(answers.context_size(factories.to_frame([]), {}))
    assert "Nothing was measured" in text(answers.context_size_reading(factories.to_frame([])))
    every = {(n, p): ("crashed", "SIGSEGV") for n in SIZES for p in (0, round_half(n))}
    broken = frame(failed=every, chat=False)
    assert "No cell could be measured" in text(answers.context_size(broken, INFO))
    assert "was to be counted did not run" in text(answers.context_size(frame(chat=False), INFO))
    columns = ["rss_after_load_bytes", "kv_bytes", "rss_peak_bytes", "rss_bytes", "decode_tps"]
    poor = frame(rounds=1).assign(**dict.fromkeys(columns))
    assert "could not be measured" in text(answers.context_size_reading(poor))
    assert "RAM is not known" in text(answers.context_size(poor, INFO))


def test_the_tables() -> None:
    table = answers.context_size_table(frame())
    assert list(table["n_ctx"]) == ["512", "1024", "2048"]
    assert list(table["first generation adds, most filled, MiB"]) == ["5.00", "9.00", "9.00"]
    turns = answers.context_size_turns(frame(), INFO)
    assert list(turns["n_ctx needed"]) == ["408", "1,038", "2,838"]
    assert answers.context_size_turns(factories.to_frame([]), INFO).empty
    assert answers.context_size_table(factories.to_frame([])).empty


def test_the_figure_shows_memory_and_speed() -> None:
    left, right = plots.context_size(frame(deeper))
    drawn = {line.get_label(): line for line in left.lines}
    assert list(drawn["KV cache"].get_xdata()) == list(SIZES)
    assert list(drawn["resident, loaded"].get_ydata()) == [88, 96, 112]
    assert list(drawn["resident, first answer"].get_ydata()) == [93, 105, 121]
    assert [line.get_label() for line in right.lines] == [f"n_ctx {size}" for size in SIZES]
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    assert right.lines[0].get_ydata()[1] > right.lines[0].get_ydata()[0]


def test_the_figure_says_what_failed() -> None:
    failed = {(2048, 512): ("oom", "no memory")}
    assert "Not drawn" in words(plots.context_size(frame(failed=failed)))
    assert "Nothing was measured" in words(plots.context_size(factories.to_frame([])))
    _, two = plt.subplots(1, 2)
    assert list(plots.context_size(frame(rounds=1), axes=two)) == list(two)
    with pytest.raises(ParameterError, match="give two"):
        plots.context_size(frame(rounds=1), axes=[two[0]])


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook(carried_out: CarriedOut) -> None:
    # One thread: two would wait for each other on a busy machine.
    data, page = carried_out(
        "context_size", n_ctx=[512, 768], fill=[0.0, 0.1], turns=[1, 3], rounds=1, max_tokens=4,
        n_threads=1,
    )  # fmt: skip
    assert set(data["status"]) == {"ok"}
    filled = data[data["prefix_tokens"] > 0]
    assert set(filled["prompt_tokens"] - filled["prefix_tokens"]) == {16}
    assert set(filled["evaluated_tokens"]) == {16}
    assert "3 turns" in page
