"""The clock of a model loaded by hand: parts that add up, and nothing drawn that was not there."""

from __future__ import annotations

import pytest

from llm_latency.records.generation import Generation, Timings
from llm_latency.records.record import LoadTimings
from llm_latency.report import clock

LOAD = LoadTimings(backend_init_s=0.001, model_load_s=0.020, context_s=0.006, load_s=0.030)


def answer(*itl_s: float, prefill_s: float | None = 0.05, problem: str | None = None) -> Generation:
    total_s = sum(itl_s)
    return Generation(
        prompt_tokens=1200,
        evaluated_tokens=1000,
        generated_tokens=len(itl_s),
        finish_reason="length",
        problem=problem,
        timings=Timings(
            ttft_s=itl_s[0],
            prefill_s=prefill_s,
            decode_s=total_s - itl_s[0],
            total_s=total_s,
            itl_s=list(itl_s),
            engine_prefill_s=0.049,
            engine_decode_s=0.01,
        ),
    )


def test_the_parts_of_loading_and_of_an_answer_add_up() -> None:
    assert clock.loading(LOAD) == pytest.approx(
        {"backend": 0.001, "model file": 0.02, "context": 0.006, "rest of loading": 0.003}
    )
    parts = clock.answering(answer(0.052, 0.004, 0.006))
    assert parts == pytest.approx(
        {"prefill": 0.05, "first token": 0.002, "to the last token": 0.01}
    )


def test_where_the_end_of_prefill_is_hidden_all_until_the_first_token_is_prefill() -> None:
    parts = clock.answering(answer(0.052, 0.004, prefill_s=None))
    assert parts["prefill"] == 0.052 and parts["first token"] == 0


def test_the_table_has_a_column_per_answer() -> None:
    made = clock.table({"first": answer(0.052, 0.004, 0.006), "one": answer(0.052)}).set_index("")
    assert list(made.columns) == ["first", "one"]
    assert made.loc["TTFT, ms", "first"] == "52.0"
    assert made.loc["prefill, tok/s", "first"] == "20,000"
    assert made.loc["ITL, median, ms", "first"] == "5.00"
    assert made.loc["ITL, longest, ms", "first"] == "6.00"
    assert made.loc["decode, tok/s", "first"] == "200"
    assert made.loc["total, ms", "first"] == "62.0"
    assert made.loc["decode, tok/s", "one"] == made.loc["ITL, median, ms", "one"] == "–"


def test_a_percentile_stands_only_where_the_tokens_carry_it() -> None:
    gaps = [0.004] * 55 + [0.010] * 4
    made = clock.table({"59": answer(0.05, *gaps), "58": answer(0.05, *gaps[1:])}).set_index("")
    assert list(made.loc["ITL, 95th percentile, ms"]) == ["10.0", "–"]


def test_an_answer_that_failed_its_proof_says_so() -> None:
    failed = answer(0.052, 0.004, problem="7 tokens were evaluated")
    text = str(clock.answer(LOAD, {"first": failed}).data)
    assert "1,000 of 1,200 prompt tokens" in text and "7 tokens were evaluated" in text


def test_bars_end_where_the_times_do() -> None:
    above, below = clock.figure(LOAD, {"first": answer(0.052, 0.004, 0.006)})
    ends: dict[float, float] = {}
    for bar in above.patches:
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0), bar.get_x() + bar.get_width())
    assert list(ends.values()) == pytest.approx([30, 62])
    assert list(below.lines[0].get_xdata()) == [2, 3]
    assert list(below.lines[0].get_ydata()) == pytest.approx([4, 6])


def test_without_a_second_token_there_is_no_line() -> None:
    _, below = clock.figure(LOAD, {"one": answer(0.052)})
    assert not below.lines and not below.axison
