"""A page's head and method: complete or not, failed, disturbed, and how it was measured."""

from __future__ import annotations

import html

import pytest

from llm_latency.plan.settings import Settings
from llm_latency.questions import kv_types
from llm_latency.records import frame
from llm_latency.report import page
from llm_latency.report.appendix import how_measured
from llm_latency.words import escape
from tests.support import factories
from tests.support.pages import plain, text

INFO = factories.info()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"other": 0.2}, "27 of 27 trials: other processes took up to 20 % of the CPU time"),
        ({"steal": 0.1}, "27 of 27 trials: the hypervisor took up to 10 %"),
    ],
)
def test_disturbed_machines_are_named(options: dict[str, float], words: str) -> None:
    said = plain(page.disturbed(frame.by_cell(factories.frame(rounds=1, **options))))
    assert "Disturbed" in said and words in said
    quiet = factories.frame(rounds=1, other=0.01, steal=None)
    assert page.disturbed(frame.by_cell(quiet)) == ""


def test_a_quota_that_disturbed_is_named_with_the_threads_to_give() -> None:
    state = {"quota_cpus": 2.5, "throttled_periods": 31, "throttled_s": 9.0}
    made = factories.record(Settings(), other=0.2)
    made = made.model_copy(update={"host": made.host.model_copy(update=state)})
    answers = [g.model_copy(update={"throttled_periods": 7}) for g in made.generations]
    data = factories.to_frame([made.model_copy(update={"generations": answers})])
    assert set(data["throttled_periods"]) == {7}  # an answer's own, not its trial's
    said = plain(page.disturbed(frame.by_cell(data)))
    for words in ("up to 20 %", "2.5 CPUs", "7 periods", "n_threads=2,"):
        assert words in said


def test_completeness() -> None:
    partial = page.head(54, 12, {})
    assert "INCOMPLETE: 12 of 54 trials" in text(partial)
    whole = page.head(54, 54, {})
    assert text(whole) == ""
    assert whole.metadata["llm_latency"] == {"planned": 54, "final": 54}


def test_model_notice() -> None:
    assert "Random weights" in text(page.head(1, 1, INFO))
    assert text(page.head(1, 1, {"model": {"name": "a.gguf"}})) == ""
    assert text(page.head(1, 1, {})) == ""
    odd = page.head(1, 1, {"model": {"name": "a.gguf", "notice": "<b>*x*</b>"}})
    assert "<b>" not in str(odd.data) and "*x*" not in str(odd.data)


def test_what_is_left_out_and_what_is_beyond_training_is_told() -> None:
    one = {"settings": {"n_ctx": 9000}}
    plan = {"cells": [one], "left_out": ["n_batch=2048 beside n_ctx=512"]}
    said = text(page.head(1, 1, {"plan": plan, "model": {"n_ctx_train": 8192}}))
    assert "Left out" in said and "n_batch=2048 beside n_ctx=512" in said
    assert "9,000" in said and "8,192" in said
    short = {"plan": {"cells": [one]}, "model": {"n_ctx_train": 9000}}
    assert text(page.head(1, 1, short)) == ""


def test_method_is_the_plan() -> None:
    said = text(how_measured(INFO))
    assert "2 rounds: 54 trials" in said and "seed 0" in said and "0.3.36" in said
    assert "no 95 % interval" in said
    losses = {"plan": kv_types.plan(type_k="q4_0", type_v="q4_0", rounds=3).model_dump()}
    assert "2 that show a loss once: 11 trials" in text(how_measured(losses))
    six = {"plan": {**INFO["plan"], "rounds": 6}}
    assert "with their distribution-free 95 % interval" in text(how_measured(six))
    assert text(how_measured({}))


@pytest.mark.parametrize(
    "hostile",
    ["<script>x</script>", "**bold**", "a_b_c", "`code`", "[a](http://b)", "$x$", "# x\n\n- y"],
)
def test_escape_leaves_only_letters(hostile: str) -> None:
    flat = escape(hostile)
    assert not set(flat) & set("<>*_`[]$\n") and (hostile[0] != "#" or flat[0] != "#")
    assert html.unescape(flat) == " ".join(hostile.split())


def test_cells_are_described_as_shortly_as_the_grid_allows() -> None:
    data = frame.by_cell(factories.frame(rounds=1))
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
    said = text(how_measured(info))
    assert "5 cells" in said
    assert (words in said) if words else ("twice" not in said)


def test_failed_cells_are_counted_and_named() -> None:
    said = plain(page.failed(frame.by_cell(factories.frame(rounds=6, failed=factories.FAILED))))
    assert "2 of 9 cells failed" in said
    assert "n_ctx 2048, n_batch 512 (oom 18)" in said
    assert "n_ctx 1024, n_batch 128 (invalid 18)" in said


def test_partly_failed_cells_are_told_apart() -> None:
    made = factories.records(rounds=2)
    made.append(
        factories.record(made[0].trial.settings, 64, round=7, failure=("timeout", "too slow"))
    )
    said = plain(page.failed(frame.by_cell(factories.to_frame(made))))
    assert "Some trials failed" in said and "(timeout 1)" in said and "cells failed" not in said
