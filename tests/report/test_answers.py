"""Sentences follow the data: the same question, other data, another answer."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from IPython.display import Markdown

from llm_latency import answers
from llm_latency.records import frame
from llm_latency.words import escape
from tests.support import factories

INFO = factories.info()
READINGS = [
    answers.latency_by_tokens,
    answers.speed_heatmap,
    answers.latency_by_memory,
    answers.memory_by_n_ctx,
]


def text(markdown: Markdown) -> str:
    """Return what a reader sees."""
    return html.unescape(str(markdown.data)).replace("\N{NO-BREAK SPACE}", " ")


def steps(settings: Any, prompt: int) -> float:
    return prompt * 0.001 * (settings.n_ctx / 512) * (128 / settings.n_batch)


def same(settings: Any, prompt: int) -> float:
    return 0.1 + prompt * 0.0005


def test_a_clear_winner_is_decided() -> None:
    said = text(answers.sweep(factories.frame(rounds=6, ttft=steps), INFO))
    assert "n_ctx 512, n_batch 512** has the lowest median TTFT of 9 measured cells" in said
    assert "It is the fastest, **decided** round by round" in said and "undecided" not in said
    assert re.search(r"every other cell takes at least (9\d|10\d) % longer", said)
    assert re.search(r"two equal cells differ by [\d.]+ %", said)
    assert re.search(r"TTFT \*\*11\d ms\*\* \(95 % interval 11\d–11\d ms, n = 6 processes\)", said)
    assert "32 tokens generated after" in said
    assert re.search(r"slowest cell, n_ctx 2048, n_batch 128, takes 1,?\d{3} % longer", said)
    assert "failed" not in said and "Disturbed" not in said


def test_a_draw_is_undecided() -> None:
    said = text(answers.sweep(factories.frame(rounds=6, ttft=same, between=0.05), INFO))
    assert "undecided" in said and "the rounds do not tell it from" in said
    assert "the fastest, **decided**" not in said
    assert "cannot tell from none" in said


def test_equal_cells_on_a_quiet_machine_are_the_same() -> None:
    quiet = {"ttft": same, "between": 0.001, "within": 0.001}
    said = text(answers.sweep(factories.frame(rounds=8, **quiet), INFO))
    assert (
        "It is **no faster than** all the others: round by round these take the same time" in said
    )
    assert "decided" not in said


def test_without_a_twin_there_is_no_verdict() -> None:
    said = text(answers.sweep(factories.frame(rounds=6, ttft=steps, twin=False), INFO))
    assert "undecided" in said and "no cell was measured twice" in said


def test_too_few_processes_are_undecided_and_say_what_to_do() -> None:
    said = text(answers.sweep(factories.frame(rounds=2, ttft=steps), INFO))
    assert "undecided" in said and "2 paired rounds; set rounds=6" in said
    assert "range" in said and "95 % interval 1" not in said


def test_the_winner_is_the_one_in_the_data() -> None:
    def turned(settings: Any, prompt: int) -> float:
        return prompt * 0.001 * (2048 / settings.n_ctx) * (settings.n_batch / 128)

    said = text(answers.sweep(factories.frame(rounds=6, ttft=turned), INFO))
    assert "**n_ctx 2048, n_batch 128** has the lowest" in said
    assert "It is the fastest" in said


def test_failed_cells_are_counted_and_named() -> None:
    said = text(answers.sweep(factories.frame(rounds=6, failed=factories.FAILED), INFO))
    assert "2 of 9 cells failed" in said
    assert "n_ctx 2048, n_batch 512 (oom 18)" in said
    assert "n_ctx 1024, n_batch 128 (invalid 18)" in said
    assert "of 7 measured cells" in said


def test_partly_failed_cells_are_told_apart() -> None:
    made = factories.records(rounds=2)
    made.append(
        factories.record(made[0].trial.settings, 64, round=7, failure=("timeout", "too slow"))
    )
    said = text(answers.sweep(factories.to_frame(made), INFO))
    assert "Some trials failed" in said and "(timeout 1)" in said
    assert "cells failed" not in said


def test_all_failed() -> None:
    every = {(c, b): ("crashed", "SIGSEGV <b>") for c in (512, 1024, 2048) for b in (128, 256, 512)}
    data = factories.frame(rounds=1, failed=every)
    answer = answers.sweep(data, INFO)
    assert "No cell could be measured" in text(answer)
    assert "crashed 27" in text(answer)
    assert "<b>" not in str(answer.data)
    for reading in READINGS:
        assert not re.search(r"\d", text(reading(data))), reading


def test_one_cell() -> None:
    data = factories.frame(rounds=6, n_ctx=(512,), n_batch=(128,))
    said = text(answers.sweep(data, INFO))
    assert "the only cell" in said
    assert "decided" not in said and "slowest" not in said
    assert "nothing to weigh" in text(answers.latency_by_memory(data))
    assert "only cell" in text(answers.speed_heatmap(data))


def test_nothing_yet() -> None:
    assert "Nothing has been measured" in text(answers.sweep(factories.to_frame([]), {}))
    for reading in READINGS:
        assert text(reading(factories.to_frame([])))


def test_the_longest_prompt_that_failed_is_named() -> None:
    made = factories.records(rounds=1, prompts=(64,))
    made.append(
        factories.record(factories.Settings(n_ctx=2048), 1900, failure=("oom", "no memory"))
    )
    said = text(answers.sweep(factories.to_frame(made), INFO))
    assert "prompt of 64 tokens" in said
    assert "1,900 tokens, nothing could be measured" in said


def test_n_batch_above_n_ubatch_is_said_only_where_it_is() -> None:
    assert "cannot matter" not in text(answers.sweep(factories.frame(rounds=1), INFO))
    data = factories.frame(rounds=6, n_batch=(512, 1024), n_ctx=(2048,), ttft=same)
    said = text(answers.sweep(data, INFO))
    assert "n_batch above n_ubatch (512) cannot matter" in said
    assert "n_batch 1024; TTFT differs by up to" in said


def test_n_batch_that_seems_to_matter_is_a_disturbance() -> None:
    data = factories.frame(rounds=6, n_batch=(512, 1024), n_ctx=(2048,), ttft=steps)
    assert "something disturbed" in text(answers.sweep(data, INFO))


def test_memory_is_vram_only_with_a_gpu() -> None:
    assert "of RAM**" in text(answers.sweep(factories.frame(rounds=1), INFO))
    said = text(answers.sweep(factories.frame(rounds=1, gpu=True), INFO))
    assert "of VRAM**" in said and "of RAM" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"other": 0.2}, "27 of 27 trials: other processes took up to 20 % of the CPU time"),
        ({"steal": 0.1}, "27 of 27 trials: the hypervisor took up to 10 %"),
    ],
)
def test_disturbed_machines_are_named(options: dict[str, float], words: str) -> None:
    said = text(answers.sweep(factories.frame(rounds=1, **options), INFO))
    assert "Disturbed" in said and words in said
    quiet = text(answers.sweep(factories.frame(rounds=1, other=0.01, steal=None), INFO))
    assert "Disturbed" not in quiet


def test_completeness() -> None:
    partial = answers.completeness(54, 12)
    assert "INCOMPLETE: 12 of 54 trials" in text(partial)
    whole = answers.completeness(planned=54, final=54)
    assert text(whole) == ""
    assert whole.metadata["llm_latency"] == {"planned": 54, "final": 54}


def test_model_notice() -> None:
    assert "Random weights" in text(answers.model_notice(INFO))
    assert text(answers.model_notice({"model": {"name": "a.gguf"}})) == ""
    assert text(answers.model_notice({})) == ""
    odd = answers.model_notice({"model": {"name": "a.gguf", "notice": "<b>*x*</b>"}})
    assert "<b>" not in str(odd.data) and "*x*" not in str(odd.data)


def test_slopes_are_those_of_the_data() -> None:
    said = text(answers.latency_by_tokens(factories.frame(rounds=6, ttft=same)))
    slope = re.search(r"add ([\d.]+) ms to TTFT", said)
    assert slope and float(slope[1]) == pytest.approx(50, rel=0.05)
    assert "straight line" in said and "not along" not in said
    cost = re.search(r"further token takes ([\d.]+) ms", said)
    assert cost and float(cost[1]) == pytest.approx(6.9, rel=0.05)


def test_a_bent_line_is_called_bent() -> None:
    def bent(settings: Any, prompt: int) -> float:
        return 0.01 + (prompt / 448) ** 2

    said = text(answers.latency_by_tokens(factories.frame(rounds=6, ttft=bent)))
    assert re.search(r"not along a straight line: the last ones \d+ % more", said)


def test_ttft_that_does_not_grow() -> None:
    def falls(settings: Any, prompt: int) -> float:
        return 0.5 - prompt * 0.0005

    said = text(answers.latency_by_tokens(factories.frame(rounds=1, ttft=falls)))
    assert "does not grow" in said and "add" not in said


def test_one_length_and_one_token() -> None:
    said = text(answers.latency_by_tokens(factories.frame(prompts=(64,), max_tokens=1)))
    assert "one prompt length only" in said and "Only one token" in said


def test_speed_reading_of_both_outcomes() -> None:
    noise = text(answers.speed_heatmap(factories.frame(rounds=6, ttft=same, between=0.05)))
    assert "no reason to choose" in noise

    def slow(settings: Any, prompt: int) -> float:
        return 0.01 if settings.n_ctx == 512 else 0.02

    assert "no reason" not in text(answers.speed_heatmap(factories.frame(rounds=6, itl=slow)))
    assert "cannot tell" in text(answers.speed_heatmap(factories.frame(rounds=1), "prefill_tps"))


def test_memory_reading_of_both_outcomes() -> None:
    dear = text(answers.latency_by_memory(factories.frame(rounds=6)))
    assert re.search(r"least RAM, \d+ MiB, is taken by .* MiB more, .* sooner", dear)

    def small_is_fast(settings: Any, prompt: int) -> float:
        return settings.n_ctx * settings.n_batch * 1e-6

    free = text(answers.latency_by_memory(factories.frame(rounds=6, ttft=small_is_fast)))
    assert "at once the fastest" in free


def test_kv_reading() -> None:
    said = text(answers.memory_by_n_ctx(factories.frame(rounds=1)))
    assert "KV cache takes 7.81 MiB per 1,000 tokens" in said and "in proportion" in said
    data = factories.frame(rounds=1)
    data.loc[data["n_ctx"] == 2048, "kv_bytes"] *= 2
    assert "in proportion" not in text(answers.memory_by_n_ctx(data))
    assert "not known" in text(answers.memory_by_n_ctx(data.assign(kv_bytes=None)))


def test_method_is_the_plan() -> None:
    said = text(answers.method(INFO))
    assert "2 rounds: 54 trials" in said and "seed 0" in said and "0.3.36" in said
    assert "no 95 % interval" in said
    six = {"plan": {**INFO["plan"], "rounds": 6}}
    assert "with their distribution-free 95 % interval" in text(answers.method(six))
    assert text(answers.method({}))


@pytest.mark.parametrize(
    "hostile",
    ["<script>x</script>", "**bold**", "a_b_c", "`code`", "[a](http://b)", "$x$", "# x\n\n- y"],
)
def test_escape_leaves_only_letters(hostile: str) -> None:
    flat = escape(hostile)
    assert not set(flat) & set("<>*_`[]$\n") and (hostile[0] != "#" or flat[0] != "#")
    assert html.unescape(flat) == " ".join(hostile.split())


def test_hostile_names_stay_text() -> None:
    info = factories.info(name="<img src=x onerror=alert(1)>**")
    data = str(answers.sweep(factories.frame(rounds=1), info).data)
    assert "<img" not in data and "onerror=alert" in html.unescape(data)


def test_cells_are_described_as_shortly_as_the_grid_allows() -> None:
    data = frame.prepare(factories.frame(rounds=1))
    names = list(frame.cells(data)["cell"])
    assert frame.describe(data, names) == "all cells"
    column = [name for name in names if name.endswith("n_batch 128")]
    assert frame.describe(data, column) == "n_batch 128"
    assert frame.describe(data, names[:1]) == "n_ctx 512, n_batch 128"
    assert frame.describe(data, [names[0], names[4]]).count(";") == 1


@pytest.mark.parametrize(
    ("twins", "words"), [(0, ""), (1, "one of them twice"), (2, "2 of them twice")]
)
def test_the_method_counts_the_cells_measured_twice(twins: int, words: str) -> None:
    info = factories.info()
    info["plan"]["cells"] = [{}] * 5 + [{"twin": True}] * twins
    said = text(answers.method(info))
    assert "5 cells" in said
    assert (words in said) if words else ("twice" not in said)
