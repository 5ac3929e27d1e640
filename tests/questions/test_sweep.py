"""The sweep: the same question, other data, another answer."""

from __future__ import annotations

import html
import itertools
import re
from typing import Any

import pandas as pd
import pytest

from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Sampling, Workload
from llm_latency.questions import sweep
from llm_latency.report.page import Rows
from tests.support import factories

INFO = factories.info()


def steps(settings: Any, prompt: int) -> float:
    return prompt * 0.001 * (settings.n_ctx / 512) * (128 / settings.n_batch)


def same(settings: Any, prompt: int) -> float:
    return 0.1 + prompt * 0.0005


def view(data: pd.DataFrame | None = None, **options: Any) -> sweep.View:
    return sweep.View(Rows(factories.frame(**options) if data is None else data, INFO))


def verdicts(seen: sweep.View) -> set[str]:
    return {found.verdict for found in seen.against_soonest.values()}


def test_a_clear_winner_is_decided() -> None:
    seen = view(rounds=6, ttft=steps)
    told = sweep.answer(seen)
    assert seen.soonest == "n_ctx 512, n_batch 512" and len(seen.ttft) == 9
    assert seen.ttft[seen.soonest].median == pytest.approx(0.112, rel=0.05)
    assert told.verdict == "faster" and verdicts(seen) == {"slower"}
    assert min(c.change for c in seen.against_soonest.values()) == pytest.approx(1, abs=0.1)
    assert len(told.sentences) == 4


def test_a_draw_is_undecided() -> None:
    seen = view(rounds=6, ttft=same, between=0.05)
    assert sweep.answer(seen).verdict == "undecided" and "undecided" in verdicts(seen)


def test_equal_cells_on_a_quiet_machine_are_the_same() -> None:
    seen = view(rounds=8, ttft=same, between=0.001, within=0.001)
    assert sweep.answer(seen).verdict == "same" and verdicts(seen) == {"same"}


@pytest.mark.parametrize("options", [{"rounds": 6, "twin": False}, {"rounds": 2}])
def test_without_a_noise_floor_or_enough_rounds_there_is_no_verdict(
    options: dict[str, Any],
) -> None:
    seen = view(ttft=steps, **options)
    assert sweep.answer(seen).verdict == "undecided" and verdicts(seen) == {"undecided"}


def test_the_soonest_is_the_one_in_the_data() -> None:
    def turned(settings: Any, prompt: int) -> float:
        return prompt * 0.001 * (2048 / settings.n_ctx) * (settings.n_batch / 128)

    seen = view(rounds=6, ttft=turned)
    assert seen.soonest == "n_ctx 2048, n_batch 128" and sweep.answer(seen).verdict == "faster"


def test_failed_cells_are_in_no_estimate() -> None:
    seen = view(rounds=6, failed=factories.FAILED)
    assert len(seen.ttft) == 7 and "n_ctx 2048, n_batch 512" not in seen.ttft


def test_all_failed() -> None:
    every = {(c, b): ("crashed", "SIGSEGV <b>") for c in (512, 1024, 2048) for b in (128, 256, 512)}
    seen = view(rounds=1, failed=every)
    told = sweep.answer(seen)
    assert told.verdict == "none" and "crashed 27" in told.text and "<b>" not in told.text
    assert seen.soonest is None and seen.longest is None and seen.memory == {}


def test_one_cell_is_compared_with_none() -> None:
    seen = view(rounds=6, n_ctx=(512,), n_batch=(128,))
    told = sweep.answer(seen)
    assert told.verdict == "measured" and seen.against_soonest == {}
    assert len(told.sentences) == 2


def test_nothing_yet() -> None:
    seen = sweep.View(Rows(factories.to_frame([]), {}))
    assert sweep.answer(seen).verdict == "none"
    assert sweep.table(seen).empty and sweep.memory_table(seen).empty


def test_the_longest_prompt_that_failed_is_named() -> None:
    made = factories.records(rounds=1, prompts=(64,))
    made.append(
        factories.record(factories.Settings(n_ctx=2048), 1900, failure=("oom", "no memory"))
    )
    seen = view(factories.to_frame(made))
    assert seen.longest == 64
    assert "64 tokens (with 1,900 nothing could be measured)" in sweep.answer(seen).text


def test_n_batch_above_n_ubatch_cannot_matter() -> None:
    assert view(rounds=1).larger_batches() is None
    quiet = view(rounds=6, n_batch=(512, 1024), n_ctx=(2048,), ttft=same).larger_batches()
    assert quiet is not None and quiet.sizes == [1024] and not quiet.told_apart
    assert quiet.apart is not None and quiet.apart < 0.05
    disturbed = view(rounds=6, n_batch=(512, 1024), n_ctx=(2048,), ttft=steps)
    larger = disturbed.larger_batches()
    assert larger is not None and larger.told_apart and larger.apart == pytest.approx(1, abs=0.2)
    assert "measure again" in sweep.answer(disturbed).text
    alone = view(rounds=2, n_batch=(1024,), n_ctx=(2048,)).larger_batches()
    assert alone is not None and alone.apart is None


def test_memory_is_vram_only_with_a_gpu() -> None:
    assert view(rounds=1).memory_word == "RAM"
    on_gpu = view(rounds=1, gpu=True)
    assert on_gpu.memory_word == "VRAM"
    assert "VRAM, MiB" in sweep.memory_table(on_gpu) and "VRAM, MiB" in sweep.table(on_gpu)


def test_hostile_names_stay_text() -> None:
    info = factories.info(name="<img src=x onerror=alert(1)>**")
    text = sweep.answer(sweep.View(Rows(factories.frame(rounds=1), info))).text
    assert "<img" not in text and "onerror=alert" in html.unescape(text)


def test_every_cell_has_a_state() -> None:
    table = sweep.table(view(failed=factories.FAILED, rounds=6))
    state = table.set_index(["n_ctx", "n_batch"])["trials"]
    assert len(table) == 9 and (table["trials"] != "").all()
    assert state["512", "128"] == "ok 18"
    assert state["2048", "512"] == "oom 18"
    assert state["1024", "128"] == "invalid 18"


def test_estimates_stand_with_their_interval_and_n() -> None:
    table = sweep.table(view(failed=factories.FAILED, rounds=6))
    for column in ("TTFT at 64, ms", "TTFT at 448, ms", "decode after 448, tok/s", "load, ms"):
        for text in table[column]:
            assert re.fullmatch(r"–|[\d.,]+ \[[\d.,]+–[\d.,]+\] n \d+", text)
    few = sweep.table(view(rounds=2))["TTFT at 448, ms"]
    assert few.str.fullmatch(r"[\d.,]+ \([\d.,]+–[\d.,]+\) n 2").all()


def test_what_a_hundred_tokens_add_is_a_column() -> None:
    added = sweep.table(view(rounds=6, ttft=same))["100 tokens more, ms"]
    assert [float(text.split()[0]) for text in added] == pytest.approx([50] * 9, rel=0.1)
    assert set(sweep.table(view(prompts=(64,)))["100 tokens more, ms"]) == {"–"}


def test_each_cell_stands_against_the_soonest() -> None:
    against = sweep.table(view(rounds=6, ttft=steps))["against the soonest"]
    assert list(against).count("soonest") == 1
    assert sum(text.endswith("slower") for text in against) == 8


def test_failed_cells_show_no_number() -> None:
    table = sweep.table(view(failed=factories.FAILED, rounds=6))
    bad = table[table["trials"] != "ok 18"]
    assert len(bad) == 2
    for column in table.columns:
        if column.endswith((", ms", "tok/s", "MiB")):
            assert (bad[column] == "–").all(), column
    assert "not allocate" in table.set_index("trials")["notes"]["oom 18"]


def test_partly_failed_cells_count_both() -> None:
    made = factories.records(n_ctx=(512,), n_batch=(128,), prompts=(64,), rounds=3)
    bad = factories.record(made[0].trial.settings, 64, round=9, failure=("timeout", "too slow"))
    table = sweep.table(view(factories.to_frame([*made, bad])))
    assert table["trials"].tolist() == ["ok 3, timeout 1"]
    assert table["notes"].tolist() == ["too slow (1 of 4)"]


def test_settings_that_vary_are_columns() -> None:
    table = sweep.table(view(others={"flash_attn": [False, True]}, rounds=1))
    assert list(table["flash_attn"]) == ["False", "True"] * 9


def test_memory_is_told_part_by_part() -> None:
    table = sweep.memory_table(view(rounds=1, n_ctx=(512,), n_batch=(512,)))
    row = table.iloc[0]
    parts = ("weights, MiB", "KV cache, MiB", "compute, MiB", "output, MiB")
    assert sum(float(row[part]) for part in parts) == pytest.approx(float(row["sum, MiB"]), abs=1)
    assert row["KV cache, MiB"] == "4.00"
    assert float(row["KV cache per 1,000 tokens, MiB"]) == pytest.approx(7.81, abs=0.01)


def test_warnings_that_differ_in_numbers_are_one() -> None:
    made = [
        factories.record(
            factories.Settings(), 64, round=n, warnings=[f"others took {n}% of the time; stop them"]
        )
        for n in (7, 23, 11)
    ]
    notes = sweep.table(view(factories.to_frame(made)))["notes"]
    assert notes.tolist() == ["others took 7–23% of the time"]


def test_ways_to_sample_are_cells_and_a_seed_of_the_order_is_theirs() -> None:
    plan = sweep.plan(n_ctx=512, n_batch=512, temperature=[None, 0, 0.7], top_k=20, seed=-1)
    found = {cell.workload.sampling for cell in plan.cells}
    # top_k is given, so that no temperature is llama-cpp-python's.
    assert {one.temperature for one in found if one} == {0.0, 0.7, 0.8}
    assert {one.seed for one in found if one} == {2**32 - 2} and None not in found
    assert {c.workload.sampling for c in sweep.plan().cells} == {None}


def test_what_choosing_takes_stands_beside_decode_where_it_was_asked() -> None:
    records = []
    for round, sampling in itertools.product(range(2), (None, Sampling(temperature=0.7))):
        one = factories.record(
            Settings(n_ctx=512),
            round=round,
            workload=Workload(prompt_tokens=64, max_tokens=10, sampling=sampling),
        )
        update = {"sampling_s": 0.05 if sampling else 0.01}
        records.append(
            one.model_copy(
                update={
                    "generations": [
                        g.model_copy(update={"timings": g.timings.model_copy(update=update)})
                        for g in one.generations
                    ]
                }
            )
        )
    told = sweep.table(view(factories.to_frame(records)))
    assert list(told["sampling"]) == ["greedy", "temperature 0.7"]
    assert [text.split()[0] for text in told["sampling, ms per token"]] == ["1.00", "5.00"]
    assert "sampling, ms per token" not in sweep.table(view(rounds=2))
