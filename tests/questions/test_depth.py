"""How fast is it deep in a context?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import llm_latency as lab
from llm_latency.errors import ParameterError
from llm_latency.measure.job import WORKER_VARIABLE
from llm_latency.plan.settings import Settings
from llm_latency.plan.workload import Workload
from llm_latency.questions import depth
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.pages import CarriedOut, words

DEPTHS = (0, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584)
Itl = Callable[[Settings, int], float]


def straight(settings: Settings, tokens: int) -> float:
    faster = 0.5 if settings.flash_attn else 1.0
    return 5e-3 + 1e-6 * tokens * faster


def paused(settings: Settings, tokens: int) -> float:
    return straight(settings, tokens) * (1.2 if tokens >= 1500 else 1.0)


def waits(settings: Settings, tokens: int) -> float:
    return 0.02 + 1e-5 * tokens


def made(
    itl: Itl = straight,
    *,
    depths: tuple[int, ...] = DEPTHS,
    rounds: int = 6,
    kinds: Sequence[dict[str, Any]] = ({}, {"flash_attn": True}),
    failure: factories.Failure | None = None,
) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    work = Workload(
        prompt_tokens=32, max_tokens=16, depths=depths, cache_mode="kept", repeats=len(depths) - 1
    )
    cells = [Settings(n_ctx=4096, **kind) for kind in kinds]
    records = [
        factories.record(
            settings,
            workload=work,
            round=number,
            twin=twin,
            itl=itl,
            ttft=waits,
            factor=float(np.exp(rng.normal(0, 0.005))),
            within=0.003,
            rng=rng,
            failure=failure,
        )
        for number in range(rounds)
        for settings, twin in [*((one, False) for one in cells), (cells[0], True)]
    ]
    return factories.to_frame(records)


def view(*given: Any, parameters: dict[str, Any] | None = None, **options: Any) -> depth.View:
    info = factories.info() | {"plan": {"parameters": parameters or {}}}
    return depth.View(Rows(made(*given, **options), info))


def test_the_plan_walks_once_through_a_context_for_each_kind_that_there_can_be() -> None:
    plan = depth.plan()
    cells = [cell for cell in plan.cells if not cell.twin]
    kinds = {(c.settings.flash_attn, c.settings.type_k, c.settings.type_v) for c in cells}
    assert kinds == {(False, "f16", "f16"), (True, "f16", "f16"), (True, "q8_0", "q8_0")}
    assert len(plan.left_out) == 1 and [c.twin for c in plan.cells].count(True) == 1
    (work,) = {cell.workload for cell in cells}
    assert work.depths == DEPTHS[:9] and work.repeats == 8 and work.prompt_tokens == 32
    assert {cell.settings.n_ctx for cell in cells} == {2304}
    mixed = depth.plan(depths="[700, 0, 700]", flash_attn=True, kv_type="q4_0", n_ctx=1024)
    assert {(c.workload.depths, c.settings.n_ctx) for c in mixed.cells} == {((0, 700), 1024)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"depths": [0, -1]}, ["depths=-1", "whole numbers from 0"]),
        ({"depths": []}, ["depths=[]"]),
        ({"max_tokens": 1}, ["max_tokens=1", "from 2"]),
        ({"n_ctx": 1024}, ["n_ctx=1024", "2096"]),
        ({"kv_type": "q8"}, ["q8"]),
        ({"type_k": "q8_0"}, ["type_k", "give kv_type"]),
        ({"ttft_s": -1}, ["ttft_s=-1", "seconds"]),
        ({"beside": "nowhere.jsonl"}, ["beside='nowhere.jsonl'", "cannot be read"]),
    ],
)
def test_wrong_values_are_refused(given: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        depth.plan(**given)
    for word in said:
        assert word in str(caught.value)


def test_a_line_is_told_with_its_slope_and_foretells_what_it_has_not_seen() -> None:
    seen = view()
    plain, flash = seen.kinds
    assert (plain.words, flash.words) == ("f16", "f16, flash")
    slopes = [seen.curves(kind, "token_s").slope.median for kind in seen.kinds]
    assert slopes == pytest.approx([1e-6, 0.5e-6], rel=0.1)
    assert seen.curves(plain, "token_s").broken is None
    assert seen.worst(plain, "token_s") < 0.02
    answer = depth.answer(seen)
    assert answer.verdict == "slower" and len(answer.sentences) <= 5
    assert seen.compare((plain, 3584.0), (flash, 3584.0)).verdict == "faster"


def test_a_pause_from_a_depth_on_shows_as_a_break() -> None:
    seen = view(paused)
    for kind in seen.kinds:
        end = seen.curves(kind, "token_s").broken
        assert end is not None and (end.last, end.first) == (1280, 1536)
        assert end.beyond.median == pytest.approx(0.2, abs=0.03)
        assert seen.curves(kind, "ttft_s").broken is None
    assert "1,280" in depth.answer(seen).sentences[1]
    assert list(depth.table(seen)["the line ends"]) == ["1,280–1,536"] * 2
    assert seen.worst(seen.kinds[0], "token_s") < 0.02  # on either side


def test_the_depth_at_which_a_wait_grows_too_long() -> None:
    crossed = view(parameters={"ttft_s": 0.04}).crossed
    for value in crossed.values():
        assert value.n == 6 and value.median == pytest.approx(2000 - 32, abs=60)
    never = view(parameters={"ttft_s": 9.0})
    assert {value.n for value in never.crossed.values()} == {0}
    assert "TTFT too long from, tokens" in depth.table(never)
    assert "TTFT too long from, tokens" not in depth.table(view())


def test_another_tools_rows_stand_beside_those_they_are_of(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    lines = [
        {"n_prompt": 0, "n_gen": 16, "n_depth": at, "avg_ns": 16e7, "flash_attn": flash,
         "type_k": "f16", "type_v": "f16"}
        for at in (0, 512) for flash in (0, 1)
    ]  # fmt: skip
    bench.write_text("\n".join(map(json.dumps, lines[:3])), encoding="utf-8")
    assert depth.plan(beside=str(bench)).parameters["beside"] == str(bench)
    seen = view(parameters={"beside": str(bench)})
    plain, flash = seen.kinds
    assert seen.beside_of(plain).to_dict() == {0: 0.01, 512: 0.01}
    assert seen.beside_of(flash).to_dict() == {0: 0.01}
    column = depth.steps(seen)["beside: token, ms"]
    assert list(column[:4]) == ["10.0", "–", "10.0", "–"]
    depth.figure(seen)[0].figure.canvas.draw()
    bench.unlink()
    assert view(parameters={"beside": str(bench)}).beside.empty


def test_the_tables_hold_every_kind_and_step() -> None:
    seen = view()
    assert list(depth.table(seen)["KV cache"]) == ["f16", "f16, flash"]
    steps = depth.steps(seen)
    assert len(steps) == 2 * len(DEPTHS)
    assert set(steps["evaluated"]) == {"32"}
    held = steps["line's error where held out, %"] != "–"
    assert list(steps["tokens in the context"][held][:3]) == ["256", "768", "1,280"]


@pytest.mark.parametrize(
    "frame",
    [
        factories.to_frame([]),
        made(failure=("crashed", "x")),
        made(depths=(256,)),
        made(rounds=1, kinds=({},)),
        made().assign(depth_tokens=np.nan),
        made().assign(decode_tps=np.nan),
        made().assign(ttft_s=np.nan, kv_bytes=np.nan, compute_bytes=np.nan),
        # A run that ended in its first round: a kind without a record, another cut short.
        made(rounds=1)[lambda f: f["flash_attn"].eq(False) & f["depth_tokens"].lt(900)],
    ],
)
def test_a_page_without_much_is_survived(frame: pd.DataFrame) -> None:
    info = factories.info() | {"plan": {"parameters": {"ttft_s": 0.03}}}
    seen = depth.View(Rows(frame, info))
    assert len(depth.answer(seen).sentences) <= 5
    depth.table(seen), depth.steps(seen)
    axes = depth.figure(seen)
    axes[0].figure.canvas.draw()
    if not seen.depths:
        assert "Nothing was measured" in words(axes)


@pytest.mark.engine
@pytest.mark.usefixtures("outputs")
def test_a_real_pause_from_a_depth_on_is_found(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pausing = [sys.executable, "-m", "benchmarks.verdicts.pausing_worker", "0.5", "600"]
    monkeypatch.setenv(WORKER_VARIABLE, json.dumps(pausing))
    plan = depth.plan(
        str(tiny), depths=[0, 128, 256, 384, 512, 640, 768, 896, 1024], max_tokens=8,
        flash_attn=False, kv_type="f16", n_threads=1,
    )  # fmt: skip
    seen = depth.View(lab.run(plan.model_copy(update={"cells": plan.cells[:1]}), progress=False))
    end = seen.curves(seen.kinds[0], "token_s").broken
    assert end is not None and (end.last, end.first) == (512, 640)
    assert end.beyond.low > 0.2


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_runs(carried_out: CarriedOut) -> None:
    frame, page = carried_out(
        "depth", depths=[0, 256, 300], prompt_tokens=5, max_tokens=3, rounds=1, kv_type="q8_0"
    )
    assert set(frame["status"]) == {"ok"} and len(frame) == 2 * 3
    assert set(frame["evaluated_tokens"]) == {5}
    assert list(frame["depth_tokens"][:3]) == [0, 256, 300]
    assert list(frame["prompt_tokens"][:3]) == [5, 261, 305]
    assert "How fast is it deep in a context?" in page
