"""Which settings should I set? Needs, candidates, the choice, its words, and the real thing."""

from __future__ import annotations

import ast
import itertools
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import llm_latency as lab
from llm_latency import experiments
from llm_latency.errors import ParameterError
from llm_latency.machine import limits
from llm_latency.machine.devices import GpuCard
from llm_latency.measure import session
from llm_latency.measure.job import Job
from llm_latency.memory.dry_run import stored
from llm_latency.memory.predict import Parts, Prediction, predict
from llm_latency.model.header import Header, Tensor, read_header
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Start
from llm_latency.plan.workload import Workload
from llm_latency.questions import advise
from llm_latency.questions.advise import needs as needs_module
from llm_latency.questions.advise import planning
from llm_latency.questions.advise.candidates import candidates, ladder, placement, worth_measuring
from llm_latency.questions.advise.needs import needs_of
from llm_latency.questions.advise.pasting import parameters_to_verify
from llm_latency.records.generation import Quality
from llm_latency.records.record import EngineCard, EngineDevice, Record
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.factories import SecondDevice
from tests.support.pages import CarriedOut, plain, words

MIB = 2**20
Ttft = Callable[[Settings, int], float]
FILLED = Workload(prompt_tokens=2044, max_tokens=4, repeats=0)
GIVEN: dict[str, Any] = {
    "n_ctx": 2048, "prompt_tokens": 512, "max_tokens": 32, "ttft_s": 0, "load_s": 0,
    "use": "start_up", "memory": "", "keep_free": 0,
    "n_ubatch": [], "flash_attn": [False, True], "n_gpu_layers": [],
}  # fmt: skip
"""What is needed and varied, as a run stores it beside the memory that there was."""


@pytest.fixture
def header(tiny: Path) -> Header:
    return read_header(tiny)


def plan_of(**given: Any) -> Plan:
    """Return a plan as it is carried out here, on the CPU."""
    usual = {"n_ubatch": [128, 512], "flash_attn": False, "keep_free": "0", "n_gpu_layers": 0}
    return planning.for_this_machine(experiments.advise(**{**usual, **given}))


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
    failed: dict[int | str, factories.Failure] | None = None,
    late: dict[str, float] | None = None,
    **options: Any,
) -> list[Record]:
    """Return what the candidates' own trials would leave.

    ``failed`` by batch or way of asking, ``late`` by way: how many times later it answers.
    """
    rng = np.random.default_rng(1)
    return [
        factories.record(
            trial.settings,
            workload=trial.workload,
            round=trial.round,
            twin=trial.twin,
            factor=float(np.exp(rng.normal(0, between)))
            * (late or {}).get(trial.workload.via, 1.0),
            ttft=ttft,
            model=trial.model,
            failure=(failed or {}).get(trial.settings.n_ubatch or 0)
            or (failed or {}).get(trial.workload.via),
            **options,
        )
        for trial in plan.trials()
    ]


def run_of(
    plan: Plan, header: Header, *how: Any, filled: tuple[str, ...] = ("ok",), **options: Any
) -> Rows:
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
    return Rows(factories.to_frame(made), info_of(plan, header))


def view_of(plan: Plan, header: Header, *how: Any, **options: Any) -> advise.View:
    return advise.View(run_of(plan, header, *how, **options))


def size(view: advise.View) -> int | None:
    """Return the batch that is advised."""
    chosen = view.advice.chosen
    return chosen.settings.n_ubatch if chosen else None


def reasons(view: advise.View) -> dict[str, str]:
    """Return the table's reason of each candidate."""
    table = advise.table(view)
    return dict(zip(table["candidate"], table["reason"], strict=True))


def broken(view: advise.View, n_ubatch: int) -> list[tuple[str, bool]]:
    """Return the needs that a candidate breaks, and how surely."""
    (one,) = (one for one in view.advice.options if one.settings.n_ubatch == n_ubatch)
    return [tuple(breach) for breach in one.breaches]


def said(view: advise.View) -> str:
    return plain(advise.answer(view).text)


def test_the_plan_varies_what_matters() -> None:
    plan = experiments.advise(n_ctx=2000, prompt_tokens=300)
    cells = {(c.settings.n_ubatch, c.settings.flash_attn) for c in plan.cells}
    assert cells == {(b, f) for b in (64, 128, 256, 512) for f in (False, True)}
    assert {c.settings.n_ctx for c in plan.cells} == {2048}
    assert all(c.settings.n_batch == c.settings.n_ubatch for c in plan.cells)
    assert plan.rounds == 6 and sum(c.twin for c in plan.cells) == 1


def test_no_batch_is_larger_than_the_context() -> None:
    plan = experiments.advise(n_ctx=700, prompt_tokens=600)
    assert max(c.settings.n_batch for c in plan.cells) == 768 and plan.left_out == ()


def test_what_is_left_out_of_the_plan_is_no_candidate(header: Header) -> None:
    plan = experiments.advise(type_v="q8_0", n_ubatch=[128, 4096])
    needs = needs_of(plan.parameters | needs_module.ANYWHERE)
    foretell = stored({}, header, "cpu")
    found = candidates(header, plan.cells[0].settings, needs, plan.parameters, foretell)
    assert [(c.settings.n_ubatch, c.settings.flash_attn) for c in found] == [(128, True)]


def test_a_plan_looks_at_no_machine_and_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plan is pure data")

    for room, name in (
        (needs_module, "gpu_card"), (needs_module, "engine_card"), (limits, "memory_limit_bytes"),
        (planning.names, "skeleton"),
    ):  # fmt: skip
        monkeypatch.setattr(room, name, refuse)
    plan = experiments.advise()
    assert not {"on", "memory_there_bytes"} & set(plan.parameters)
    assert {c.settings.n_gpu_layers for c in plan.cells} == {-1}


@pytest.mark.parametrize(
    ("device", "layers"),
    [("CUDA0 gpu", 3), ("Vulkan0 gpu", 3), ("Metal gpu", 3), ("Vulkan0 igpu", 3), ("CPU cpu", 0)],
)
def test_the_machine_decides_the_layers_when_a_plan_is_carried_out(
    device: str, layers: int, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = experiments.advise(n_ubatch=128, flash_attn=False, keep_free="0")
    one = asked.cells[0].settings.model_copy(update={"n_gpu_layers": 3})
    there = predict(header, one, gpu=True).gpu.total_bytes
    name, _, kind = device.partition(" ")
    # NVML tells what an NVIDIA card has, and the engine more than can be had of it.
    nvidia, told = name == "CUDA0", there + (MIB if name == "CUDA0" else 0)
    card = GpuCard(available=nvidia, total_bytes=there if nvidia else None)
    seen = EngineDevice.model_validate({"name": name, "kind": kind, "total_bytes": told})
    engine = EngineCard(version="0", system_info="", gpu_offload=kind != "cpu", devices=[seen])
    monkeypatch.setattr(needs_module, "gpu_card", lambda: card)
    monkeypatch.setattr(needs_module, "engine_card", lambda _: engine)
    monkeypatch.setattr(limits, "memory_limit_bytes", lambda: 2**30)
    plan = planning.for_this_machine(asked)
    assert [c.settings.n_gpu_layers for c in plan.cells] == [layers, layers]  # and its twin
    on_card = kind != "cpu"
    assert plan.parameters["on"] == ("gpu" if on_card else "cpu")
    assert plan.parameters["memory_there_bytes"] == (there if on_card else 2**30)
    # A stored run is judged, and gone on with, by the memory that there was.
    monkeypatch.setattr(limits, "memory_limit_bytes", lambda: 1)
    assert planning.for_this_machine(plan) == plan


def test_one_pool_holds_what_lies_on_either_side(
    header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    apple = EngineDevice(name="MTL0", kind="gpu", total_bytes=2**33, unified=True)
    engine = EngineCard(version="0", system_info="", gpu_offload=True, devices=[apple])
    monkeypatch.setattr(needs_module, "gpu_card", lambda: GpuCard(available=False))
    monkeypatch.setattr(needs_module, "engine_card", lambda _: engine)
    plan = planning.for_this_machine(
        experiments.advise(n_ubatch=128, flash_attn=False, memory="4 GiB")
    )
    (one,) = plan.parameters["candidates"]
    told = stored({}, header, "gpu")(Settings.model_validate(one["settings"]))
    held = told.host.total_bytes + told.gpu.total_bytes
    assert one["settings"]["n_gpu_layers"] == -1 and one["predicted_bytes"] > held
    needs = needs_of(plan.parameters)
    assert needs.word == "RAM" and needs.memory_bytes == 2**32 and not needs.capped
    # Of a smaller pool no layer is taken away: it would lie in the same memory.
    less = needs.model_copy(update={"memory_bytes": needs.keep_free_bytes + 1})
    assert placement(header, Settings(), less, stored({}, header, "gpu")) == {"n_gpu_layers": -1}


def test_memory_that_is_not_there_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "memory_limit_bytes", lambda: 2**28)
    with pytest.raises(ParameterError, match="keep_free='1 GiB' leaves nothing"):
        plan_of(keep_free="1 GiB")


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
        ({"prompt_file": "nosuch"}, "prompt_file='.*' does not exist"),
        ({"turns": -1}, "turns=-1 is refused: give whole numbers from 0"),
        ({"turns": 2, "tokens_per_turn": 32}, "tokens_per_turn=32 .*max_tokens=32 are the answer"),
        ({"n_bacth": 1}, "n_bacth is not a parameter of advise"),
        ({"n_batch": 512}, "n_batch=512 is refused: .* give n_ubatch"),
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


def test_a_conversation_is_a_window_and_a_prompt_whose_beginning_is_kept() -> None:
    given = {"prompt_tokens": 200, "max_tokens": 40, "turns": 10, "tokens_per_turn": 100}
    needs = needs_of(GIVEN | needs_module.ANYWHERE | given | {"n_ctx": 512})
    # Before the last message: what opens it, and nine turns.
    assert (needs.n_ctx, needs.prefix_tokens) == (1200, 1100)
    assert (needs.prompt_tokens, needs.new_tokens) == (1160, 60)
    assert needs_of(GIVEN | needs_module.ANYWHERE | given).n_ctx == 2048  # as asked, at least
    own = needs_of(GIVEN | needs_module.ANYWHERE | given | {"own_tokens": 300})
    assert (own.prefix_tokens, own.new_tokens) == (1200, 60)
    plan = experiments.advise(n_ctx=512, **given)
    assert {c.settings.n_ubatch for c in plan.cells} == {64}  # by what is new
    (work,) = {c.workload for c in plan.cells}
    assert (work.cache_mode, work.prefix_tokens, work.prompt_tokens) == ("prefix", 1100, 1160)
    assert {c.settings.n_ctx for c in plan.cells} == {1280}


@pytest.mark.engine
def test_a_prompt_of_ones_own_is_counted_before_candidates_are_chosen(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("evening " * 300)
    asked: dict[str, Any] = {"prompt_file": file, "flash_attn": False, "n_gpu_layers": 0}
    plan = planning.for_this_machine(experiments.advise(n_ctx=512, **asked))
    counted = plan.parameters["own_tokens"]
    assert 300 <= counted <= 310 and needs_of(plan.parameters).prompt_tokens == counted
    assert {c.settings.n_ubatch for c in plan.cells} == {64, 128, 256, 512}
    assert {c.workload.prompt for c in plan.cells} == {"evening " * 300}
    file.unlink()  # the plan holds the text
    assert planning.for_this_machine(plan) == plan
    file.write_text("evening " * 300)
    with pytest.raises(ParameterError, match=f"n_ctx=256 .* the prompt has {counted} tokens"):
        planning.for_this_machine(experiments.advise(n_ctx=256, **asked))
    chat = planning.for_this_machine(experiments.advise(n_ctx=256, turns=3, **asked))
    (work,) = {c.workload for c in chat.cells}
    assert (work.prompt, work.prefix_tokens) == (None, counted + 2 * 96)


def test_processes_that_did_not_come_to_an_own_prompt_count(header: Header) -> None:
    plan = planning.for_this_machine(
        experiments.advise(prompt="a", n_ubatch=[128, 512], flash_attn=False, n_gpu_layers=0)
    )
    plan = plan.model_copy(update={"parameters": plan.parameters | {"own_tokens": 192}})
    view = view_of(plan, header, failed={512: ("refused", "n_seq_max")})
    assert size(view) == 128 and broken(view, 512) == [("runs", True)]


def test_what_cannot_fit_is_not_measured_but_the_smallest_always_is(header: Header) -> None:
    given = GIVEN | {"n_ubatch": [64, 512, 2048], "n_gpu_layers": 0, "on": "cpu"}
    needs = needs_of(given | {"memory_there_bytes": 100 * MIB})
    every = candidates(header, Settings(), needs, given, stored({}, header, "cpu"))
    kept = worth_measuring(every, needs)
    assert 0 < len(kept) < len(every) == 6
    assert max(c.predicted_bytes for c in kept) <= 1.1 * needs.limit_bytes
    none = needs.model_copy(update={"memory_bytes": MIB})
    (smallest,) = worth_measuring(every, none)
    assert smallest.predicted_bytes == min(c.predicted_bytes for c in every)


def test_as_many_layers_as_fit_on_the_gpu(header: Header) -> None:
    given = GIVEN | {"on": "gpu", "memory_there_bytes": 1}
    settings, foretell = Settings(n_ctx=2048, n_batch=64, n_ubatch=64), stored({}, header, "gpu")

    def taken(layers: int) -> int:
        one = settings.model_copy(update={"n_gpu_layers": layers})
        return predict(header, one, gpu=True).gpu.total_bytes

    for layers in range(1, header.n_layer + 2):
        needs = needs_of(given | {"memory_there_bytes": taken(layers)})
        most = placement(header, settings, needs, foretell)["n_gpu_layers"]
        assert taken(most) <= needs.limit_bytes
        assert most == -1 or taken(most + 1) > needs.limit_bytes
    for there, most in ((taken(-1), -1), (1, 0)):
        needs = needs_of(given | {"memory_there_bytes": there})
        assert placement(header, settings, needs, foretell) == {"n_gpu_layers": most}


def test_of_experts_as_few_as_it_takes_stay_on_the_cpu(header: Header) -> None:
    expert = Tensor(name="blk.0.ffn_up_exps.weight", kind="f16", dims=(1, 1, 8), bytes=16)
    routed = header.model_copy(update={"tensors": (*header.tensors, expert)})

    def foretell(settings: Settings) -> Prediction:
        of_experts = 10 * (header.n_layer - (settings.n_cpu_moe or 0))
        of_layers = header.n_layer + 1 if settings.n_gpu_layers < 0 else settings.n_gpu_layers
        gpu = Parts(weights_bytes=(of_experts + of_layers) * MIB)
        return Prediction(host=Parts(), gpu=gpu, gpu_layers=of_layers)

    given, layers = GIVEN | {"on": "gpu", "keep_free": 0}, header.n_layer
    for there, placed in (
        (11 * layers + 1, {"n_gpu_layers": -1}),
        (11 * layers, {"n_gpu_layers": -1, "n_cpu_moe": 1}),
        (layers + 1, {"n_gpu_layers": -1, "n_cpu_moe": layers}),
    ):
        needs = needs_of(given | {"memory_there_bytes": there * MIB})
        assert placement(routed, Settings(), needs, foretell) == placed
    needs = needs_of(given | {"memory_there_bytes": (11 * layers - 3) * MIB})
    assert placement(header, Settings(), needs, foretell) == {"n_gpu_layers": layers - 3}


def test_the_soonest_is_advised_and_the_slower_rejected_with_its_figure(header: Header) -> None:
    view = view_of(plan_of(), header)
    advice = view.advice
    assert size(view) == 512 and advice.confidence == "high"
    # The factory: 100 + 16 + (20 + 46.08 + 8.39) + 0.125 + 60 MiB.
    assert advice.margin_bytes == pytest.approx(advice.needs.limit_bytes - 250.6 * MIB, abs=MIB)
    slower = advice.options[1].against
    assert slower is not None and slower.verdict == "slower"
    assert slower.ratio.median == pytest.approx(2.5, rel=0.1)
    answer = advise.answer(view)
    assert answer.verdict == "measured" and len(answer.sentences) == 5
    assert "set **n_ctx 2048, n_batch 512, n_ubatch 512, flash_attn False**" in said(view)
    assert "Confidence is **high**" in said(view)


def test_of_equals_the_one_that_takes_least_is_advised(header: Header) -> None:
    view = view_of(plan_of(), header, ttft=alike, between=1e-4, filled=("ok", "ok"))
    assert size(view) == 128
    assert reasons(view)["n_ubatch 512"].endswith("takes 40.9 MiB more")


def test_the_margin_in_tokens_is_what_the_prediction_has_room_for(header: Header) -> None:
    view = view_of(plan_of(memory="300 MiB"), header)
    advice, chosen = view.advice, view.advice.chosen
    assert chosen is not None and advice.edge_n_ctx is not None
    assert advice.margin_bytes == pytest.approx((300 - 250.6) * MIB, abs=MIB)

    def taken(n_ctx: int) -> int:
        one = chosen.settings.model_copy(update={"n_ctx": n_ctx})
        return predict(header, one).host.total_bytes

    room = taken(2048) + advice.margin_bytes
    assert taken(advice.edge_n_ctx) <= room < taken(advice.edge_n_ctx + 256)
    assert f"room for **{advice.edge_n_ctx - 2048:,} more tokens**" in said(view)
    assert "under a cap of 300 MiB" in said(view)


def test_nothing_soon_enough_is_refused_with_the_nearest(header: Header) -> None:
    view = view_of(plan_of(ttft_s=0.1), header, filled=())
    nearest = view.advice.options[0]
    assert size(view) is None and advise.answer(view).verdict == "none"
    assert nearest.settings.n_ubatch == 512
    assert nearest.ttft.median == pytest.approx(100 / 512, rel=0.01)
    assert broken(view, 512) == broken(view, 128) == [("ttft_s", True)]
    assert "It would do with ttft_s of 0.19" in said(view)
    assert "Llama(" not in advise.lines(view).data


def test_a_bound_that_the_interval_crosses_is_in_doubt(header: Header) -> None:
    free = view_of(plan_of(), header, between=0.02).advice.chosen
    assert free is not None
    bound = free.ttft.median * 1.001
    assert bound < free.ttft.high
    advice = view_of(plan_of(ttft_s=bound), header, between=0.02).advice
    assert advice.chosen is not None and advice.chosen.doubts == ("ttft_s",)
    assert advice.confidence == "low" and "doubt" in advice.weak_points()


def test_what_takes_more_than_there_is_is_refused(header: Header) -> None:
    view = view_of(plan_of(memory="200 MiB"), header, filled=())
    assert size(view) is None
    assert broken(view, 128) == broken(view, 512) == [("memory", True)]
    assert "It would do with memory of 210 MiB or more" in said(view)
    view = view_of(plan_of(memory="220 MiB"), header, filled=("ok", "ok"))
    assert size(view) == 128
    assert reasons(view)["n_ubatch 512"] == "takes 251 MiB, 220 MiB may be taken"


def test_what_the_prediction_rules_out_is_named(header: Header) -> None:
    plan = plan_of(n_ubatch=[64, 2048], memory="130 MiB", prompt_tokens=1800)
    assert {c.settings.n_ubatch for c in plan.cells} == {64}
    view = view_of(plan, header, filled=())
    ruled = next(one for one in view.advice.options if one.settings.n_ubatch == 2048)
    assert ruled.measured == "" and broken(view, 2048) == [("memory", True)]
    assert reasons(view)["n_ubatch 2048"].startswith("predicted to take")


def test_a_window_that_fails_when_full_rules_a_candidate_out(header: Header) -> None:
    view = view_of(plan_of(), header, filled=("oom", "ok"))
    assert size(view) == 128 and broken(view, 512) == [("full", True)]
    assert reasons(view)["n_ubatch 512"].endswith("ended with oom: no room when full")
    view = view_of(plan_of(), header, filled=("oom", "crashed"))
    assert size(view) is None and broken(view, 128) == [("full", True)]
    advice = view_of(plan_of(), header, filled=()).advice
    assert advice.confidence == "low" and advice.weak_points() == ["not filled"]


def test_failed_processes_rule_a_candidate_out(header: Header) -> None:
    view = view_of(plan_of(), header, failed={512: ("refused", "n_seq_max")})
    assert size(view) == 128 and broken(view, 512) == [("runs", True)]
    assert reasons(view)["n_ubatch 512"] == "its processes ended with refused: n_seq_max"


def test_what_is_advised_does_in_each_way_of_asking(header: Header) -> None:
    both: dict[str, Any] = {"via": ["engine", "stream"], "ttft_s": 0.5}
    view = view_of(plan_of(**both), header, late={"stream": 1.5}, filled=())
    assert size(view) == 512 and [one.via for one in view.advice.ways] == ["engine", "stream"]
    one, other = view.advice.ways
    assert other.ttft.median == pytest.approx(1.5 * one.ttft.median, rel=0.02)
    assert view.advice.need_bytes == other.need_bytes > one.need_bytes  # type: ignore[operator]
    assert "asked through" not in said(view)
    late = view_of(plan_of(**both), header, late={"stream": 3.0}, filled=())
    assert size(late) is None and reasons(late)["n_ubatch 512, stream"].startswith("TTFT")
    assert reasons(late)["n_ubatch 512, engine"] == "does not do in each way of asking"
    assert "Nearest comes n_ubatch 512, stream: TTFT" in said(late)
    chat = view_of(plan_of(**both | {"via": ["chat", "stream"]}), header)
    assert [one.full for one in chat.advice.ways] == ["", ""]  # no exact number of tokens fills it
    alone = plan_of(**both, n_ubatch=512)
    held = view_of(alone, header, filled=())
    assert "asked through engine and stream, **these settings hold**" in said(held)
    dead = view_of(alone, header, filled=(), failed={"stream": ("refused", "not built")})
    assert size(dead) is None and "**these settings do not hold**" in said(dead)
    assert reasons(dead)["n_ubatch 512, stream"] == "its processes ended with refused: not built"


def test_where_nothing_ran_there_is_no_advice(header: Header) -> None:
    dead: dict[int | str, factories.Failure]
    dead = dict.fromkeys((128, 512), ("crashed", "signal 11"))
    view = view_of(plan_of(), header, filled=(), failed=dead)
    assert size(view) is None and advise.answer(view).verdict == "none"
    assert "(crashed 12)" in said(view)
    assert "Nothing was measured" in words(advise.figure(view))
    run = run_of(plan_of(), header)
    empty = advise.View(Rows(run.rows.iloc[:0], run.info))
    assert advise.answer(empty).line == "nothing has been measured yet"
    assert set(reasons(empty).values()) == {"not measured"}
    with pytest.raises(ParameterError, match="give the run, not its rows"):
        advise.View(Rows(run.rows, {}))


def test_few_rounds_and_open_orders_lower_the_confidence(header: Header) -> None:
    few = view_of(plan_of(rounds=2), header).advice
    assert few.confidence == "low" and "few" in few.weak_points()
    noisy = view_of(plan_of(), header, ttft=alike, between=0.05, filled=("ok", "ok")).advice
    assert noisy.confidence == "fair" and noisy.weak_points() == ["open"]
    busy = view_of(plan_of(), header, other=0.5).advice
    assert busy.confidence == "fair" and busy.weak_points() == ["disturbed"]


def test_on_demand_each_answer_waits_for_loading(header: Header) -> None:
    slow = {"load_s": 3.0}
    start = view_of(plan_of(), header, load=slow).advice.chosen
    demand = view_of(plan_of(use="on_demand"), header, load=slow)
    assert start is not None and demand.advice.chosen is not None
    waited = demand.advice.chosen.answer.median
    assert waited == pytest.approx(start.answer.median + 3.0, rel=0.01)
    assert "loading and answer take" in said(demand)
    late = view_of(plan_of(load_s=2.0), header, load=slow)
    assert size(late) is None and broken(late, 512) == [("load_s", True)]


def pasted(view: advise.View) -> list[str]:
    """Return the code of the blocks to paste, letter by letter."""
    text = advise.lines(view).data
    assert "\N{NO-BREAK SPACE}" not in text
    return [part.split("\n", 1)[1].strip() for part in text.split("~~~")[1::2]]


def test_the_lines_can_be_pasted(header: Header) -> None:
    plan = plan_of(use_mmap=False, type_k="q8_0", ttft_s=0.5)
    python, server, _ = pasted(view_of(plan, header))
    call = ast.parse(python).body[-1].value  # type: ignore[attr-defined]
    values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert values == {
        "model_path": "/models/a model.gguf", "n_ctx": 2048, "n_batch": 512, "n_ubatch": 512,
        "n_gpu_layers": 0, "n_threads": 2, "n_threads_batch": 2, "flash_attn": False,
        "use_mmap": False, "type_k": 8,
    }  # fmt: skip
    typed = shlex.split(server)
    assert typed[:3] == ["llama-server", "-m", "/models/a model.gguf"]
    pairs = dict(itertools.pairwise(typed))
    assert pairs["-c"] == "2048" and pairs["-ub"] == "512" and pairs["-fa"] == "off"
    assert pairs["-ctk"] == "q8_0" and pairs["-lm"] == "none" and pairs["-np"] == "1"
    assert pairs["-ngl"] == "0" and pairs["-t"] == "2"
    # What was not in force when it was measured is switched off.
    assert (pairs["--cache-ram"], pairs["--fit"]) == ("0", "off")
    assert {"--swa-full", "--no-context-shift"} <= set(typed)


def test_the_command_that_verifies_measures_just_that(header: Header) -> None:
    plan = plan_of(use_mmap=False, ttft_s=0.5, n_ctx=1500, memory="300 MiB")
    view = view_of(plan, header, filled=())
    assert view.advice.chosen is not None
    typed = shlex.split(pasted(view)[2])
    assert typed[:3] == ["papermill", "advise.ipynb", "verify.ipynb"]
    given = dict(zip(typed[4::3], typed[5::3], strict=True))
    assert given["via"] == '["engine", "server"]'
    # Every value as text, as papermill hands it over.
    again = planning.for_this_machine(experiments.advise(**given))
    (cell,) = {c.settings for c in again.cells}
    assert cell == view.advice.chosen.settings
    assert needs_of(again.parameters) == needs_of(plan.parameters)
    assert "**these settings hold**" in said(view_of(again, header))
    slow = view_of(again, header, lambda s, p: 9.0, filled=())
    assert "**these settings do not hold**" in said(slow)


def test_the_figure_marks_the_choice_and_draws_near_bounds(header: Header) -> None:
    plan = plan_of(memory="300 MiB", ttft_s=0.3)
    left, right = advise.figure(view_of(plan, header))
    bold = [label.get_text() for label in left.get_yticklabels() if label.get_weight() == "bold"]
    assert bold == ["n_ubatch 512"]
    assert "TTFT asked for" in words(left) and "may be taken" in words(right)
    plan = plan_of(ttft_s=0.01, memory="64 GiB")
    far = view_of(plan, header, filled=(), failed={128: ("oom", "no room")})
    drawn = words(advise.figure(far, plt.subplots(1, 2)[1]))
    assert "may be taken" not in drawn and "oom" in drawn


def test_the_table_has_every_candidate(header: Header) -> None:
    table = advise.table(view_of(plan_of(), header))
    assert list(table["candidate"]) == ["n_ubatch 512", "n_ubatch 128"]
    assert list(table["reason"]) == ["advised", "answers later"]
    assert list(table["takes, MiB of RAM"]) == ["251", "210"]
    assert list(table["window full"]) == ["ok", "–"]


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
    chosen = advise.View(store).advice.chosen
    assert chosen is not None and chosen.full == "ok"


@pytest.mark.engine
def test_real_advice_holds_when_it_is_verified(outputs: Path, tmp_path: Path) -> None:
    chat = tmp_path / "my chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": "evening " * 60}]))
    small: dict[str, Any] = {
        "n_ctx": 512, "prompt_file": str(chat), "max_tokens": 4, "n_threads": 1, "rounds": 6,
        "ttft_s": 30.0, "memory": "1 GiB", "keep_free": "0", "use_mmap": False,
    }  # fmt: skip
    plan = experiments.advise(n_ubatch=[32, 128], flash_attn=False, **small)
    run = lab.run(plan, progress=False)
    advice = advise.View(run).advice
    assert advice.chosen is not None and advice.chosen.full == "ok"
    assert advice.margin_bytes is not None and 0 < advice.margin_bytes < 2**30
    records = run.records()
    assert len(records) == 3 * 6 + 1  # two candidates, a twin, and the full window
    assert records[-1].trial.start.memory_limit_bytes == 2**30
    again = experiments.advise(**parameters_to_verify(advice.chosen, run.info) | {"rounds": 2})
    verified = lab.run(again, progress=False)
    assert "**these settings hold**" in said(advise.View(verified))
    before = len(verified.records())
    drawn = lab.run(verified.plan.model_copy(update={"run_id": verified.run_id}))
    assert len(drawn.records()) == before


@pytest.mark.engine
def test_real_needs_that_nothing_meets_are_refused(outputs: Path) -> None:
    small: dict[str, Any] = {
        "n_ctx": 512, "prompt_tokens": 96, "max_tokens": 4, "n_threads": 1, "rounds": 1,
        "n_ubatch": 32, "flash_attn": False, "keep_free": "0",
    }  # fmt: skip
    late = advise.View(lab.run(experiments.advise(**small, ttft_s=1e-6), progress=False))
    assert size(late) is None and broken(late, 32) == [("ttft_s", True)]
    tight = advise.View(lab.run(experiments.advise(**small, memory="30 MiB"), progress=False))
    assert size(tight) is None and broken(tight, 32) == [("memory", True)]


@pytest.mark.engine
@pytest.mark.parametrize(("size_mib", "layers"), [(29, 8), (32, 9)])
def test_as_many_layers_are_advised_as_a_real_device_holds(
    outputs: Path, second_device: SecondDevice, size_mib: int, layers: int
) -> None:
    second_device(size_mib * MIB)
    # Small batches: what they are computed with takes less than a layer, which is 3 MiB.
    plan = experiments.advise(
        n_ctx=4096, prompt_tokens=96, max_tokens=4, rounds=1, n_ubatch=32, flash_attn=False,
        keep_free="0",
    )  # fmt: skip
    run = lab.run(plan, progress=False)
    chosen = advise.View(run).advice.chosen
    assert chosen is not None and chosen.full == "ok"
    frame = run.frame()
    assert set(frame["status"]) == {"ok"}
    assert set(frame["effective_n_gpu_layers"]) == {layers}
    assert set(frame["vram_total_bytes"]) == {size_mib * MIB}
    assert (frame["vram_peak_bytes"] <= size_mib * MIB).all()


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_answers(carried_out: CarriedOut) -> None:
    data, page = carried_out(
        "advise", n_ubatch=[32, 64], flash_attn="false", prompt_tokens=60, n_ctx=256, max_tokens=4,
        rounds=1, n_threads=1, turns=2, tokens_per_turn=20,
    )  # fmt: skip
    # Two candidates and a twin, then the full window of each that came out on top.
    assert set(data["status"]) == {"ok"} and len(data) - sum(data["prompt_tokens"] > 96) == 3
    assert set(data.loc[data["prompt_tokens"] == 96, "evaluated_tokens"]) == {16}
    assert "fills the whole window was answered" in page


CACHES = {"f16": 0.0, "q8_0": 0.004, "q5_1": 0.012, "q4_0": 0.08}
"""Share of tokens after which a format makes another one the most likely."""


def view_of_caches(header: Header, *, unknown: bool = False, **given: Any) -> advise.View:
    """Judge candidates that are equally soon, their caches of different formats."""
    plan = plan_of(**{"n_ubatch": 128, "flash_attn": True, **given})
    missing: factories.Failure | None = ("invalid", "none came") if unknown else None
    made = []
    for trial in plan.trials():
        bits = {"f16": 16, "q8_0": 8, "q5_1": 6, "q4_0": 4}[trial.settings.type_k]
        share = CACHES[trial.settings.type_k]
        one = factories.record(
            trial.settings,
            workload=trial.workload,
            round=trial.round,
            twin=trial.twin,
            ttft=alike,
            model=trial.model,
            kv_per_token=512 * bits,
            failure=missing if trial.workload.quality_against else None,
        )
        if trial.workload.quality_against:
            lost = Quality(
                block_tokens=64,
                divergence=[share] * 16,
                same_token=[1 - share * (0.9 + 0.2 * (at % 2)) for at in range(16)],
                probability_change=[share] * 16,
            )
            one = one.model_copy(update={"generations": [], "quality": lost})
        made.append(one)
    return advise.View(Rows(factories.to_frame(made), info_of(plan, header)))


def cache(view: advise.View) -> str | None:
    """Return the format of the KV cache that is advised."""
    chosen = view.advice.chosen
    assert chosen is None or chosen.settings.type_k == chosen.settings.type_v
    return chosen.settings.type_k if chosen else None


def test_a_cache_is_varied_where_it_is_said_what_may_be_lost() -> None:
    plan = plan_of(quality="99 %", flash_attn=[False, True], n_ubatch=128)
    timed = [c.settings for c in plan.cells if not (c.twin or c.workload.quality_against)]
    assert [(s.flash_attn, s.type_k, s.type_v) for s in timed] == [
        (False, "f16", "f16"),
        *[(True, kind, kind) for kind in CACHES],
    ]
    lost = [c for c in plan.cells if c.workload.quality_against]
    assert {c.settings.type_k for c in lost} == {"q8_0", "q5_1", "q4_0"} and len(lost) == 3
    assert {c.workload.prompt_tokens for c in lost} == {1024}
    usual = plan_of(flash_attn=True)
    assert {c.settings.type_k for c in usual.cells} == {"f16"}
    assert not any(c.workload.quality_against for c in usual.cells)
    named = plan_of(quality="99 %", flash_attn=True, type_k="q8_0", n_ubatch=128)
    assert {(c.settings.type_k, c.settings.type_v) for c in named.cells} == {("q8_0", "f16")}
    assert sum(c.workload.quality_against is not None for c in named.cells) == 1


def test_the_smallest_cache_that_surely_loses_little_enough_is_advised(header: Header) -> None:
    seen = view_of_caches(header, quality="99 %")
    assert cache(seen) == "q8_0" and seen.advice.needs.quality == pytest.approx(0.99)
    text = plain(advise.answer(seen).text)
    assert "type_k q8_0, type_v q8_0" in text and "at most 1.0 % asked for" in text
    assert len(advise.answer(seen).sentences) <= 5
    breaches = {o.settings.type_k: o.breaches for o in seen.advice.options}
    assert not breaches["f16"] and [tuple(b) for b in breaches["q4_0"]] == [("quality", True)]
    assert "another token the most likely" in " ".join(reasons(seen).values())
    assert parameters_to_verify(seen.advice.options[0], seen.info)["type_k"] == "q8_0"
    assert cache(view_of_caches(header, quality="98 %")) == "q5_1"
    assert cache(view_of_caches(header, quality="100 %")) == "f16"


def test_a_smaller_cache_is_never_advised_without_its_measured_loss(header: Header) -> None:
    seen = view_of_caches(header, quality="0 %", unknown=True)
    assert cache(seen) == "f16"
    assert {b.need for o in seen.advice.options for b in o.breaches} == {"quality"}
    alone = view_of_caches(header, quality="99 %", type_k="q4_0", type_v="q4_0")
    assert cache(alone) is None
    assert "It would do with quality of" in plain(advise.answer(alone).text)


@pytest.mark.engine
def test_real_caches_are_advised_by_what_they_lose(outputs: Path) -> None:
    small: dict[str, Any] = {
        "n_ctx": 512, "prompt_tokens": 32, "max_tokens": 4, "n_threads": 1, "rounds": 1,
        "n_ubatch": 32, "flash_attn": True, "keep_free": "0", "n_gpu_layers": 0,
    }  # fmt: skip
    view = advise.View(lab.run(experiments.advise(**small, quality="0 %"), progress=False))
    lost = view.rows[view.rows["quality_against"].notna()]
    assert list(lost["status"]) == ["ok"] * 3 and cache(view) in CACHES
    known = {o.settings.type_k: o.loss for o in view.advice.options}
    assert known["f16"].n == 0 and {known[k].kind for k in ("q8_0", "q4_0")} == {"interval"}
    assert known["q8_0"].median < known["q4_0"].median
