"""Which n_ctx is enough, and what does more of it cost?"""

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
from llm_latency.questions import context_size
from llm_latency.records.record import ProcessMemory
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

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
    plan = context_size.plan()
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
    plan = context_size.plan(n_ctx="512", fill=0.5, turns=2, rounds=1, n_threads=1)
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
        context_size.plan(**wrong)


def view(*given: Any, info: dict[str, Any] = INFO, **options: Any) -> context_size.View:
    return context_size.View(Rows(frame(*given, **options), info))


def test_each_conversation_has_its_smallest_context() -> None:
    seen = view()
    assert [tuple(need) for need in seen.needs()] == [
        (3, 280, 128, True), (10, 910, 128, True), (30, 2710, 128, False),
    ]  # fmt: skip
    # 512 takes 80 + 8 + 1 + 4 MiB, 1024 80 + 16 + 1 + 8.
    assert seen.memory() == {512: 93 * MIB, 1024: 105 * MIB, 2048: 121 * MIB}
    answer = context_size.answer(seen)
    assert answer.line == "3 turns: 512; 10 turns: 2048; 30 turns: none that ran"
    assert "measure 3072 or more" in answer.text and len(answer.sentences) <= 5


def test_a_context_of_which_a_fill_failed_holds_nothing() -> None:
    seen = view(failed={(2048, 512): ("oom", "no memory <b>")})
    assert set(seen.memory()) == {512, 1024}
    answer = context_size.answer(seen)
    assert "10 turns: none that ran" in answer.line and "<b>" not in answer.text


@pytest.mark.parametrize(
    ("itl", "verdict"), [(flat, "same"), (larger, "slower"), (smaller, "faster")]
)
def test_whether_a_larger_context_is_slower_follows_the_data(itl: Itl, verdict: str) -> None:
    seen = view(itl)
    depths = seen.same_depth()
    assert {depth: sizes[:2] for depth, sizes in depths.items()} == {
        16: (512, 2048),
        528: (1024, 2048),
    }
    assert {found.verdict for *_, found in depths.values()} == {verdict}
    assert context_size.answer(seen).verdict == verdict


@pytest.mark.parametrize("options", [{"rounds": 2}, {"twin": False}])
def test_few_rounds_and_no_twin_are_undecided(options: dict[str, Any]) -> None:
    assert context_size.answer(view(larger, **options)).verdict == "undecided"


def test_a_fuller_context() -> None:
    empty, full = (2048, 16), (2048, 528)
    fuller = view(deeper).compare(empty, full)
    assert fuller.verdict == "slower" and fuller.change == pytest.approx(0.34, abs=0.01)
    assert view(flat).compare(empty, full).verdict == "same"


def test_how_a_conversation_feels_at_its_end() -> None:
    seen = view(deeper)
    at_280 = seen.late("token_s", 280)
    assert at_280 == pytest.approx(0.006 + 280 * 4e-6 + 8 * 4e-6, rel=0.01)
    # Ten turns go beyond the fullest context that was measured.
    assert seen.late("token_s", 910) is None
    assert list(context_size.turns(seen)["token at the end, ms"]) == ["7.16", "–", "–"]
    answer = context_size.answer(seen)
    assert len(answer.sentences) == 5 and "At the end of 3 turns" in answer.text
    assert "At the end" not in context_size.answer(view(deeper, chat=False)).text


def test_beyond_training_is_said_where_it_is() -> None:
    beyond = view(info=info(n_ctx_train=1024))
    assert beyond.beyond_training() == [2048]
    assert "beyond the 1,024 tokens" in context_size.answer(beyond).text
    assert view(info=info(n_ctx_train=2048)).beyond_training() == []


def test_nothing_all_failed_and_missing_values() -> None:
    nothing = context_size.View(Rows(factories.to_frame([]), {}))
    assert context_size.answer(nothing).verdict == "none"
    every = {(n, p): ("crashed", "SIGSEGV") for n in SIZES for p in (0, round_half(n))}
    assert context_size.answer(view(failed=every, chat=False)).verdict == "none"
    assert view(chat=False).needs() == []
    columns = ["rss_after_load_bytes", "kv_bytes", "rss_peak_bytes", "rss_bytes", "decode_tps"]
    poor = frame(rounds=1).assign(**dict.fromkeys(columns, float("nan")))
    assert "RAM is not known" in context_size.answer(context_size.View(Rows(poor, INFO))).text


def test_the_tables() -> None:
    table = context_size.table(view())
    assert list(table["n_ctx"]) == ["512", "1024", "2048"]
    assert list(table["first generation adds, most filled, MiB"]) == ["5.00", "9.00", "9.00"]
    assert list(context_size.turns(view())["n_ctx needed"]) == ["408", "1,038", "2,838"]
    nothing = context_size.View(Rows(factories.to_frame([]), INFO))
    assert context_size.turns(nothing).empty and context_size.table(nothing).empty


def drawn(df: pd.DataFrame) -> Any:
    return context_size.figure(context_size.View(Rows(df, INFO)))


def test_the_figure_shows_memory_and_speed() -> None:
    left, right = drawn(frame(deeper))
    by_name = {line.get_label(): line for line in left.lines}
    assert list(by_name["KV cache"].get_xdata()) == list(SIZES)
    assert list(by_name["resident, loaded"].get_ydata()) == [88, 96, 112]
    assert list(by_name["resident, first answer"].get_ydata()) == [93, 105, 121]
    assert [line.get_label() for line in right.lines] == [f"{size}" for size in SIZES]
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
    assert right.lines[0].get_ydata()[1] > right.lines[0].get_ydata()[0]


def test_the_figure_says_what_failed() -> None:
    failed = {(2048, 512): ("oom", "no memory")}
    assert "Not drawn" in words(drawn(frame(failed=failed)))
    assert "Nothing was measured" in words(drawn(factories.to_frame([])))
    _, two = plt.subplots(1, 2)
    assert list(context_size.figure(view(rounds=1), axes=two)) == list(two)
    with pytest.raises(ParameterError, match="give two"):
        context_size.figure(view(rounds=1), axes=[two[0]])


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
