"""Which settings should I set? Needs, candidates, the choice, its words, and the real thing."""

from __future__ import annotations

import ast
import html
import itertools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import llm_latency as lab
from llm_latency import answers, experiments, plots
from llm_latency.answers.advise_lines import parameters_to_verify
from llm_latency.errors import ParameterError
from llm_latency.measure import session
from llm_latency.measure.job import Job
from llm_latency.memory.predict import predict
from llm_latency.model.header import Header, read_header
from llm_latency.plan.spec import Plan, Settings, Start, Workload
from llm_latency.questions.advise.candidates import candidates, ladder, most_layers, worth_measuring
from llm_latency.questions.advise.judgement import Advice, judge
from llm_latency.questions.advise.needs import needs_of
from llm_latency.records.record import Record
from tests.support import factories
from tests.support.pages import CarriedOut

MIB = 2**20
ROOT = Path(__file__).parents[2]
Ttft = Callable[[Settings, int], float]
FILLED = Workload(prompt_tokens=2044, max_tokens=4, repeats=0)


@pytest.fixture
def header(tiny: Path) -> Header:
    return read_header(tiny)


def plan_of(**given: Any) -> Plan:
    usual = {"n_ubatch": [128, 512], "flash_attn": False, "keep_free": "0", "n_gpu_layers": 0}
    return experiments.advise(**{**usual, **given})


def info_of(plan: Plan, header: Header) -> dict[str, Any]:
    about = factories.info(path="/models/a model.gguf")
    about["plan"] = plan.model_dump(mode="json")
    return about | {"header": header.model_dump(mode="json")}


def larger_is_sooner(settings: Settings, prompt: int) -> float:
    return 100.0 / (settings.n_ubatch or 512)


def alike(settings: Settings, prompt: int) -> float:
    return 0.5


def frame_records(
    plan: Plan,
    ttft: Ttft = larger_is_sooner,
    *,
    between: float = 0.004,
    failed: dict[int, factories.Failure] | None = None,
    **options: Any,
) -> list[Record]:
    """Return what the candidates' own trials would leave."""
    rng = np.random.default_rng(1)
    return [
        factories.record(
            trial.settings,
            workload=trial.workload,
            round=trial.round,
            twin=trial.twin,
            factor=float(np.exp(rng.normal(0, between))),
            ttft=ttft,
            model=trial.model,
            failure=(failed or {}).get(trial.settings.n_ubatch or 0),
            **options,
        )
        for trial in plan.trials()
    ]


def frame(plan: Plan, *how: Any, filled: tuple[str, ...] = ("ok",), **options: Any) -> pd.DataFrame:
    """Return what a run would leave; ``filled``: how each try of a full window ended, in order."""
    made = frame_records(plan, *how, **options)
    sizes = [c.settings for c in plan.cells if not c.twin]
    sizes.sort(key=lambda s: -(s.n_ubatch or 0))
    for settings, ended in zip(sizes, filled, strict=False):
        failure: Any = None if ended == "ok" else (ended, "no room when full")
        capped = plan.parameters["memory"] != ""
        start = Start(memory_limit_bytes=2**30 if capped else None)
        made.append(
            factories.record(
                settings, workload=FILLED, start=start, failure=failure, model=plan.model
            )
        )
    return factories.to_frame(made)


def said(df: pd.DataFrame, info: dict[str, Any]) -> str:
    text = html.unescape(str(answers.advise(df, info).data))
    return text.replace("\N{NO-BREAK SPACE}", " ")


def advised(plan: Plan, header: Header, **options: Any) -> tuple[Advice, str]:
    df, info = frame(plan, **options), info_of(plan, header)
    return judge(df, info), said(df, info)


def test_the_plan_varies_what_matters() -> None:
    plan = experiments.advise(n_ctx=2000, prompt_tokens=300)
    cells = {(c.settings.n_ubatch, c.settings.flash_attn) for c in plan.cells}
    assert cells == {(b, f) for b in (64, 128, 256, 512) for f in (False, True)}
    assert {c.settings.n_ctx for c in plan.cells} == {2048}
    assert all(c.settings.n_batch == c.settings.n_ubatch for c in plan.cells)
    assert plan.rounds == 6 and sum(c.twin for c in plan.cells) == 1
    assert plan.parameters["memory_there_bytes"] > 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n_ctx": "many"}, "n_ctx='many'"),
        ({"n_ctx": 0}, "n_ctx=0"),
        ({"n_ctx": 300, "prompt_tokens": 400}, "n_ctx=300 .*432 tokens; give that or more"),
        ({"ttft_s": -1}, "ttft_s=-1 is refused: give seconds"),
        ({"ttft_s": True}, "ttft_s=True"),
        ({"load_s": "soon"}, "load_s='soon'"),
        ({"use": "sometimes"}, "use='sometimes'"),
        ({"memory": "much"}, "memory='much' is not a size"),
        ({"memory": "1 GiB", "keep_free": "2 GiB"}, "keep_free='2 GiB' leaves nothing"),
        ({"n_ubatch": "big"}, "n_batch='big'|n_ubatch='big'"),
        ({"flash_attn": "perhaps"}, "flash_attn='perhaps'"),
        ({"n_gpu_layers": -2}, "n_gpu_layers=-2"),
        ({"page_cache": "hot"}, "page_cache='hot'"),
        ({"n_bacth": 1}, "n_bacth is not a parameter of advise"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        experiments.advise(**wrong)


def test_batches_reach_up_to_the_prompt() -> None:
    assert ladder(1) == [64]
    assert ladder(64) == [64]
    assert ladder(65) == [64, 128]
    assert ladder(5000) == [64, 128, 256, 512, 1024, 2048]


def test_what_cannot_fit_is_not_measured_but_the_smallest_always_is(header: Header) -> None:
    needs = needs_of(
        {"n_ctx": 2048, "prompt_tokens": 512, "max_tokens": 32, "ttft_s": 0, "load_s": 0,
         "use": "start_up", "memory": "100 MiB", "keep_free": 0, "n_gpu_layers": 0}
    )  # fmt: skip
    every = candidates(header, Settings(n_gpu_layers=0), needs, batches=[64, 512, 2048])
    kept = worth_measuring(every, needs)
    assert 0 < len(kept) < len(every)
    assert max(c.predicted_bytes for c in kept) <= 1.1 * needs.limit_bytes
    none = needs.model_copy(update={"memory_bytes": MIB})
    (smallest,) = worth_measuring(every, none)
    assert smallest.predicted_bytes == min(c.predicted_bytes for c in every)


def test_as_many_layers_as_fit_on_the_gpu(header: Header) -> None:
    given = {"n_ctx": 2048, "prompt_tokens": 512, "max_tokens": 32, "ttft_s": 0, "load_s": 0,
             "use": "start_up", "memory": "", "keep_free": 0, "n_gpu_layers": [], "on": "gpu",
             "memory_there_bytes": 1}  # fmt: skip
    settings = Settings(n_ctx=2048, n_batch=64, n_ubatch=64)

    def taken(layers: int) -> int:
        one = settings.model_copy(update={"n_gpu_layers": layers})
        return predict(header, one, gpu=True).gpu.total_bytes

    for layers in range(1, header.n_layer + 2):
        needs = needs_of(given | {"memory_there_bytes": taken(layers)})
        found = most_layers(header, settings, needs)
        assert taken(found) <= needs.limit_bytes
        assert found == -1 or taken(found + 1) > needs.limit_bytes
    assert most_layers(header, settings, needs_of(given | {"memory_there_bytes": taken(-1)})) == -1
    assert most_layers(header, settings, needs_of(given)) == 0


def test_the_soonest_is_advised_and_the_slower_rejected_with_its_figure(header: Header) -> None:
    found, text = advised(plan_of(), header)
    assert found.chosen is not None and found.chosen.settings.n_ubatch == 512
    assert "set **n_ctx 2048, n_batch 512, n_ubatch 512, flash_attn False**" in text
    assert "Confidence: **high**" in text and found.confidence == "high"
    assert "n_ubatch 128: its answer takes" in text and "**slower**, against the one" in text
    # The factory: 100 + 16 + (20 + 46.08 + 8.39) + 0.125 + 60 MiB.
    assert "It takes **251 MiB of RAM**" in text
    limit = found.needs.limit_bytes
    assert found.margin_bytes == pytest.approx(limit - 250.6 * MIB, abs=MIB)


def test_of_equals_the_one_that_takes_least_is_advised(header: Header) -> None:
    found, text = advised(plan_of(), header, ttft=alike, between=1e-4, filled=("ok", "ok"))
    assert found.chosen is not None and found.chosen.settings.n_ubatch == 128
    assert "n_ubatch 512: answers as soon, within" in text
    assert "and takes 40.9 MiB more" in text


def test_the_margin_in_tokens_is_what_the_prediction_has_room_for(header: Header) -> None:
    found, text = advised(plan_of(memory="300 MiB"), header)
    assert found.chosen is not None and found.edge_n_ctx is not None
    assert found.margin_bytes == pytest.approx((300 - 250.6) * MIB, abs=MIB)

    def taken(n_ctx: int) -> int:
        one = found.chosen.settings.model_copy(update={"n_ctx": n_ctx})  # type: ignore[union-attr]
        return predict(header, one).host.total_bytes

    room = taken(2048) + found.margin_bytes
    assert taken(found.edge_n_ctx) <= room < taken(found.edge_n_ctx + 256)
    assert f"room for **{found.edge_n_ctx - 2048:,} more tokens**" in text
    assert "under a cap of 300 MiB" in text


def test_nothing_soon_enough_is_refused_with_the_nearest(header: Header) -> None:
    found, text = advised(plan_of(ttft_s=0.1), header, filled=())
    assert found.chosen is None
    assert "**Nothing meets these needs**" in text and "of 2 candidates, 2 were measured" in text
    assert "Nearest comes n_ubatch 512: TTFT 19" in text
    assert "at most 100 ms asked for" in text and "It would do with ttft_s of 0.19" in text
    assert "n_ubatch 128: TTFT 78" in text
    assert "Llama(" not in text and "llama-server" not in text


def test_a_bound_that_the_interval_crosses_is_said(header: Header) -> None:
    free, _ = advised(plan_of(), header, between=0.02)
    assert free.chosen is not None
    bound = free.chosen.ttft.median * 1.001
    assert bound < free.chosen.ttft.high
    found, text = advised(plan_of(ttft_s=bound), header, between=0.02)
    assert found.chosen is not None and found.chosen.doubts == ("ttft_s",)
    assert "Confidence: **low**: the interval of a time reaches beyond its bound" in text


def test_what_takes_more_than_there_is_is_refused(header: Header) -> None:
    found, text = advised(plan_of(memory="200 MiB"), header, filled=())
    assert found.chosen is None
    assert "takes 210 MiB, 200 MiB may be taken" in text
    assert "It would do with memory of 210 MiB or more" in text
    found, text = advised(plan_of(memory="220 MiB"), header, filled=("ok", "ok"))
    assert found.chosen is not None and found.chosen.settings.n_ubatch == 128
    assert "n_ubatch 512: takes 251 MiB, 220 MiB may be taken" in text


def test_what_the_prediction_rules_out_is_named(header: Header) -> None:
    plan = plan_of(n_ubatch=[64, 2048], memory="130 MiB", prompt_tokens=1800)
    assert {c.settings.n_ubatch for c in plan.cells} == {64}
    found, text = advised(plan, header, filled=())
    ruled = next(one for one in found.options if one.settings.n_ubatch == 2048)
    assert ruled.measured == "" and not ruled.meets
    assert "n_ubatch 2048: predicted to take" in text and "130 MiB may be taken" in text


def test_a_window_that_fails_when_full_rules_a_candidate_out(header: Header) -> None:
    found, text = advised(plan_of(), header, filled=("oom", "ok"))
    assert found.chosen is not None and found.chosen.settings.n_ubatch == 128
    assert "n_ubatch 512: with its window full it ended with **oom**: no room when full" in text
    found, text = advised(plan_of(), header, filled=("oom", "crashed"))
    assert found.chosen is None and "**crashed**" in text
    assert "A smaller file, or fewer tokens of context, take less" in text
    found, text = advised(plan_of(), header, filled=())
    assert (
        found.confidence == "low"
        and "whether the whole window can be filled was not proven" in text
    )


def test_failed_processes_are_told(header: Header) -> None:
    found, text = advised(plan_of(), header, failed={512: ("refused", "n_seq_max")})
    assert found.chosen is not None and found.chosen.settings.n_ubatch == 128
    assert "n_ubatch 512: its processes ended with **refused**: n_seq_max" in text


def test_few_rounds_and_open_orders_lower_the_confidence(header: Header) -> None:
    few, text = advised(plan_of(rounds=2), header)
    assert few.confidence == "low" and "set rounds=6 or more" in text
    noisy, text = advised(plan_of(), header, ttft=alike, between=0.05, filled=("ok", "ok"))
    assert noisy.confidence == "fair" and "leave open" in text
    busy, text = advised(plan_of(), header, other=0.5)
    assert busy.confidence == "fair" and "busy" in text


def test_on_demand_each_answer_waits_for_loading(header: Header) -> None:
    slow = {"load_s": 3.0}
    start, _ = advised(plan_of(), header, load=slow)
    demand, text = advised(plan_of(use="on_demand"), header, load=slow)
    assert start.chosen is not None and demand.chosen is not None
    assert demand.chosen.answer.median == pytest.approx(start.chosen.answer.median + 3.0, rel=0.01)
    assert "generated, loading included, after" in text
    late, text = advised(plan_of(load_s=2.0), header, load=slow)
    assert late.chosen is None and "loading 3,000 ms" in text


def test_the_lines_can_be_pasted(header: Header) -> None:
    plan = plan_of(use_mmap=False, type_k="q8_0", ttft_s=0.5)
    text = said(frame(plan), info_of(plan, header))
    blocks = dict(
        (part.split("\n", 1)[0], part.split("\n", 1)[1]) for part in text.split("~~~")[1::2]
    )
    call = ast.parse(blocks["python"]).body[-1].value  # type: ignore[attr-defined]
    values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert values == {
        "model_path": "/models/a model.gguf", "n_ctx": 2048, "n_batch": 512, "n_ubatch": 512,
        "n_gpu_layers": 0, "n_threads": 2, "n_threads_batch": 2, "flash_attn": False,
        "use_mmap": False, "type_k": 8,
    }  # fmt: skip
    server = next(part for part in text.split("~~~") if "llama-server" in part).split("\n")[1]
    words = shlex.split(server)
    assert words[:3] == ["llama-server", "-m", "/models/a model.gguf"]
    pairs = dict(itertools.pairwise(words))
    assert pairs["-c"] == "2048" and pairs["-ub"] == "512" and pairs["-fa"] == "off"
    assert pairs["-ctk"] == "q8_0" and pairs["-lm"] == "none" and "-ctv" not in words
    assert pairs["-ngl"] == "0" and pairs["-t"] == "2" and words[-2:] == ["-np", "1"]


def test_the_command_that_verifies_measures_just_that(header: Header) -> None:
    plan = plan_of(use_mmap=False, ttft_s=0.5, n_ctx=1500)
    info = info_of(plan, header)
    chosen = judge(frame(plan, filled=()), info).chosen
    assert chosen is not None
    text = said(frame(plan, filled=()), info)
    command = next(part for part in text.split("~~~") if "papermill" in part).split("\n")[1]
    words = shlex.split(command)
    assert words[:3] == ["papermill", "advise.ipynb", "verify.ipynb"]
    typed = dict(zip(words[4::3], words[5::3], strict=True))
    again = experiments.advise(**typed)  # every value as text, as papermill hands it over
    (cell,) = {c.settings for c in again.cells}
    assert cell == chosen.settings
    asked = ("ttft_s", "n_ctx", "keep_free")
    assert [needs_of(p.parameters).model_dump()[n] for p in (plan, again) for n in asked[:2]] == [
        0.5, 1500, 0.5, 1500,
    ]  # fmt: skip
    held = said(frame(again, filled=("ok",)), info_of(again, header))
    assert "**these settings hold**" in held
    slow = said(frame(again, lambda s, p: 9.0, filled=()), info_of(again, header))
    assert "**these settings do not hold**" in slow


def test_the_figure_rings_the_choice_and_draws_a_near_limit(header: Header) -> None:
    plan = plan_of(memory="300 MiB")
    ax = plots.advise(frame(plan), info_of(plan, header))
    assert any(line.get_label() == "_advised" for line in ax.lines)
    assert "may be taken" in [t.get_text() for t in ax.texts]
    plan = plan_of(ttft_s=0.01, memory="64 GiB")
    ax = plots.advise(frame(plan, filled=()), info_of(plan, header))
    assert not any(line.get_label() == "_advised" for line in ax.lines)
    assert "may be taken" not in [t.get_text() for t in ax.texts]


def test_the_table_has_every_candidate(header: Header) -> None:
    plan = plan_of()
    table = answers.advise_table(frame(plan), info_of(plan, header))
    assert list(table["candidate"]) == ["n_ubatch 512", "n_ubatch 128"]
    assert table["reason"].iloc[0] == "advised" and "slower" in table["reason"].iloc[1]


def test_a_full_window_that_proved_nothing_is_tried_once_more(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    tried: list[Record] = []

    def carry_out(job: Job) -> Record:
        made = factories.record(
            job.trial.settings, workload=job.trial.workload, model=job.trial.model
        )
        made = made.model_copy(update={"trial": job.trial, "run_id": job.run_id})
        if job.trial.workload.prompt_tokens == 2044:
            if not tried:
                made = made.model_copy(update={"status": "invalid", "reason": "it stayed in RAM"})
            tried.append(made)
        return made

    monkeypatch.setattr(session, "carry_out", carry_out)
    store = lab.run(plan, progress=False)
    assert [record.status for record in tried] == ["invalid", "ok"]
    assert [record.trial.attempt for record in tried] == [0, 1]
    chosen = judge(store.frame(), store.info).chosen
    assert chosen is not None and chosen.full == "ok"


@pytest.mark.engine
def test_real_advice_holds_when_it_is_verified(outputs: Path) -> None:
    small: dict[str, Any] = {
        "n_ctx": 512, "prompt_tokens": 96, "max_tokens": 4, "n_threads": 1, "rounds": 6,
        "ttft_s": 30.0, "memory": "1 GiB", "keep_free": "0", "use_mmap": False,
    }  # fmt: skip
    plan = experiments.advise(n_ubatch=[32, 128], flash_attn=False, **small)
    run = lab.run(plan, progress=False)
    found = judge(run.frame(), run.info)
    assert found.chosen is not None and found.chosen.full == "ok"
    assert found.margin_bytes is not None and 0 < found.margin_bytes < 2**30
    records = run.records()
    assert len(records) == 3 * 6 + 1  # two candidates, a twin, and the full window
    assert records[-1].trial.start.memory_limit_bytes == 2**30
    again = experiments.advise(**parameters_to_verify(found.chosen, run.info) | {"rounds": 2})
    verified = lab.run(again, progress=False)
    assert "**these settings hold**" in said(verified.frame(), verified.info)
    before = len(verified.records())
    drawn = lab.run(verified.plan.model_copy(update={"run_id": verified.run_id}))
    assert len(drawn.records()) == before


@pytest.mark.engine
def test_real_needs_that_nothing_meets_are_refused(outputs: Path) -> None:
    small: dict[str, Any] = {
        "n_ctx": 512, "prompt_tokens": 96, "max_tokens": 4, "n_threads": 1, "rounds": 1,
        "n_ubatch": 32, "flash_attn": False, "keep_free": "0",
    }  # fmt: skip
    late = lab.run(experiments.advise(**small, ttft_s=1e-6), progress=False)
    assert "TTFT" in (text := said(late.frame(), late.info))
    assert "**these settings do not hold**" in text and "It would do with ttft_s" in text
    tight = lab.run(experiments.advise(**small, memory="30 MiB"), progress=False)
    text = said(tight.frame(), tight.info)
    assert "**these settings do not hold**" in text and "30.0 MiB may be taken" in text


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_answers(carried_out: CarriedOut) -> None:
    data, page = carried_out(
        "advise", n_ubatch=[32, 64], flash_attn="false", prompt_tokens=60, n_ctx=256, max_tokens=4,
        rounds=1, n_threads=1,
    )  # fmt: skip
    assert set(data["status"]) == {"ok"} and len(data) == 4
    assert "fills the whole window was answered" in page
