"""Which knobs matter?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import llm_latency as lab
from llm_latency.errors import ParameterError
from llm_latency.machine import affinity, limits
from llm_latency.measure import resume
from llm_latency.model import names
from llm_latency.model.header import Header
from llm_latency.plan.spec import Plan, Trial
from llm_latency.questions import knobs
from llm_latency.questions.knobs import planning
from llm_latency.questions.knobs.judgement import BASELINE
from llm_latency.report.page import Rows
from tests.support import factories
from tests.support.factories import SecondDevice
from tests.support.pages import CarriedOut, words

NOISE = 0.01
"""Of a process, as a standard deviation."""
SLOWER = 1.1


def cells() -> list[Trial]:
    """Return a plan's cells of a machine with four CPUs and a device, the baseline first."""
    base = knobs.plan(max_tokens=4, repeats=0).cells[0]
    changes = planning.every(base, 2, (0, 1))
    return [base, *(planning.turned(base, change) for change in changes.values())]


def frame(
    factors: dict[str, float] | None = None,
    *,
    seed: int = 0,
    rounds: int = 6,
    noise: float = NOISE,
    failed: str = "",
    twin: bool = True,
) -> pd.DataFrame:
    """Return the rows of a run; ``factors`` by a setting, of all cells that change it."""
    rng = np.random.default_rng(seed)
    base, *turned = cells()
    made = []
    for number in range(rounds):
        for cell, again in [
            (base, False),
            *([(base, True)] if twin else []),
            *((c, False) for c in turned),
        ]:
            own = {n for n in type(cell.settings).model_fields
                   if getattr(cell.settings, n) != getattr(base.settings, n)}  # fmt: skip
            factor = math.prod(f for n, f in (factors or {}).items() if n in own)
            record = factories.record(
                cell.settings,
                workload=cell.workload,
                start=cell.start,
                round=number,
                twin=again,
                factor=factor * float(np.exp(rng.normal(0, noise))),
                ttft=lambda *_: 0.4,
                itl=lambda *_: 0.01,
                failure=("oom", "no room") if own == {failed} else None,
            )
            made.append(record)
    return factories.to_frame(made)


def view(factors: dict[str, float] | None = None, **options: Any) -> knobs.View:
    info = factories.info()
    info["plan"]["parameters"]["not_here"] = {"swa_full": "no layer has a sliding window"}
    return knobs.View(Rows(frame(factors, **options), info))


def header(**changed: Any) -> Header:
    return names.header_of("synthetic:tiny").model_copy(update=changed)


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four CPUs on two cores, that locks 1 MiB and has no device for layers."""
    monkeypatch.setattr(limits, "allowed_cpus", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(limits, "usable_cpus", lambda: 2)
    monkeypatch.setattr(limits, "lockable_bytes", lambda: 2**20)
    monkeypatch.setattr(affinity, "chosen", lambda cores: (0, 2) if cores == "physical" else cores)
    monkeypatch.setattr(planning, "devices_seen", list)


def turned(plan: Plan) -> list[dict[str, Any]]:
    """Return what each cell changes of the first."""
    base = plan.cells[0]
    found = []
    for cell in plan.cells[1:]:
        parts = [(cell.settings, base.settings), (cell.start, base.start)]
        found.append({n: getattr(a, n) for a, b in parts for n in type(a).model_fields
                      if getattr(a, n) != getattr(b, n)})  # fmt: skip
    return found


# ------------------------------------------------------------------------------- the plan


def test_a_plan_is_every_knob_of_some_machine() -> None:
    plan = knobs.plan()
    assert plan.rounds == 6 and sum(cell.twin for cell in plan.cells) == 1
    work = plan.cells[0].workload
    assert (work.prompt_tokens, work.max_tokens) == (512, 32)
    assert {cell.start.page_cache for cell in plan.cells} == {"resident"}
    for change in (
        {"flash_attn": True},
        {"flash_attn": True, "type_k": "q8_0", "type_v": "q8_0"},
        {"n_ubatch": 1024, "n_batch": 1024},
        {"n_ubatch": 256},
        {"use_mmap": False},
        {"use_mlock": True},
        {"offload_kqv": False},
        {"op_offload": False},
        {"swa_full": False},
        {"n_gpu_layers": 0},
        {"cores": "physical"},
        {},  # the twin
    ):
        assert turned(plan).count(change) == 1, change
    assert len(plan.cells) == 13


def test_the_machine_says_which_knobs_there_are(four_cpus: None) -> None:
    asked = knobs.plan()
    plan = resume.for_this_machine(asked)
    changes = turned(plan)
    assert {"n_threads": 1} in changes and {"n_threads": 3} in changes
    assert {"cores": "physical"} in changes
    assert set(plan.parameters["not_here"]) == {
        "mlock", "swa_full", "offload_kqv", "op_offload", "n_gpu_layers 0"
    }  # fmt: skip
    assert not any(set(c) & {"use_mlock", "swa_full", "n_gpu_layers"} for c in changes)
    assert plan.cells[-1].twin and plan.cells[-1].cell_id == plan.cells[0].cell_id
    assert resume.for_this_machine(asked).plan_id == plan.plan_id
    assert resume.for_this_machine(plan) is plan, "a stored run stays as it was begun"


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ({"n_threads": 4}, {"n_threads": {3}}),
        ({"n_threads": 1}, {"n_threads": {2}}),
        ({"cores": [0, 1], "n_threads": 1}, {"n_threads": {2}, "cores": {None}}),
        ({"flash_attn": True, "type_v": "q8_0"}, {"flash_attn": set(), "type_v": {"f16"}}),
        ({"flash_attn": True}, {"flash_attn": {False}, "type_v": {"q8_0"}}),
        ({"n_ctx": 800}, {"n_ubatch": {256}}),
        ({"use_mmap": False}, {"use_mmap": {True}}),
    ],
)
def test_knobs_turn_from_what_is_given(
    four_cpus: None, asked: dict[str, Any], there: dict[str, set[Any]]
) -> None:
    changes = turned(resume.for_this_machine(knobs.plan(**asked)))
    assert {n: {c[n] for c in changes if n in c} for n in there} == there


def test_many_threads_are_halved_and_doubled() -> None:
    changes = planning.every(knobs.plan().cells[0], 16)
    assert [changes[f"{word} threads"]["n_threads"] for word in ("fewer", "more")] == [8, 32]


def test_a_model_lacks_knobs() -> None:
    assert set(planning.not_of_model(header(sliding_window=512))) <= {"mlock"}
    assert "KV cache" in planning.not_of_model(header(key_width=80))
    assert "KV cache" in planning.not_of_model(header(n_head_kv=(0, 0)))


@pytest.mark.engine
def test_a_device_brings_its_knobs(second_device: SecondDevice) -> None:
    without = resume.for_this_machine(knobs.plan())
    assert {"offload_kqv", "op_offload", "n_gpu_layers 0"} <= set(without.parameters["not_here"])
    second_device()
    plan = resume.for_this_machine(knobs.plan())
    changes = turned(plan)
    for change in ({"offload_kqv": False}, {"op_offload": False}, {"n_gpu_layers": 0}):
        assert change in changes
    assert not set(planning.OF_DEVICES) & set(plan.parameters["not_here"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt_tokens": [1, 2]}, "takes one value"),
        ({"n_ctx": 256}, "n_ctx=256"),
        ({"knob": 1}, "knob"),
    ],
)
def test_wrong_values_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        knobs.plan(**given)


# ------------------------------------------------------------------------------- the answer


def named(seen: knobs.View) -> set[str]:
    return {one.name.split()[0] for one in seen.effects if one.decided}


@pytest.mark.parametrize("knob", ["flash_attn", "offload_kqv"])
def test_the_knob_that_costs_ten_per_cent_is_named_and_no_other(knob: str) -> None:
    runs = [named(view({knob: SLOWER}, seed=seed)) for seed in range(20)]
    assert runs.count({knob}) >= 18


def test_none_is_named_where_none_differs() -> None:
    runs = [named(view(seed=seed, noise=0.02)) for seed in range(20)]
    assert runs.count(set()) >= 18


def test_sentences_name_what_matters_what_does_not_and_what_is_open() -> None:
    seen = view({"offload_kqv": 1.5}, noise=0.003)
    by_name = {one.name: one for one in seen.effects}
    assert by_name["offload_kqv True → False"].matters and seen.effects[0].size == pytest.approx(
        np.log(1.5), abs=0.05
    )
    assert by_name["swa_full default → False"].same
    more = by_name["n_ubatch 512 → 1024"]
    assert more.memory_matters and more.times["TTFT"].verdict == "same"
    answer = knobs.answer(seen)
    assert answer.verdict == "slower" and len(answer.sentences) <= 5
    assert "do not matter" in answer.text and "swa" in answer.text
    assert knobs.answer(view({"offload_kqv": 1.5}, rounds=2)).text.count("**undecided**") == 1


def test_what_is_decided_costs_no_further_rounds() -> None:
    seen = view({"offload_kqv": 1.5}, noise=0.003)
    found = knobs.deciding(seen)
    assert len(found) == 2 * len(seen.effects) and {len(one.cells) for one in found} == {2}
    (dear,) = [one.cell_id for one in seen.effects if one.decided]
    assert all(one.settled for one in found if dear in one.cells)


def test_a_quantised_cache_is_held_against_flash_attention() -> None:
    seen = view({"flash_attn": 2.0})
    cache = next(one for one in seen.effects if one.name.startswith("KV cache"))
    assert cache.reference == "flash_attn False → True"
    assert cache.times["TTFT"].change == pytest.approx(0, abs=0.03) and not cache.matters
    assert all(one.reference == BASELINE for one in seen.effects if one is not cache)


def test_few_rounds_and_no_twin_decide_nothing() -> None:
    assert named(view({"flash_attn": 3.0}, rounds=2)) == set()
    without = view({"flash_attn": 3.0}, twin=False)
    assert without.effects == [] and knobs.answer(without).verdict == "none"


def test_failed_knobs_and_nothing() -> None:
    seen = view(failed="use_mmap")
    lost = next(one for one in seen.effects if "use_mmap" in one.name)
    assert not lost.measured and not lost.matters and lost.trials == "oom 6"
    assert "oom 6" in knobs.answer(seen).text and "oom 6" in words(knobs.figure(seen))
    nothing = knobs.View(Rows(factories.to_frame([]), {}))
    assert knobs.answer(nothing).verdict == "none" and knobs.table(nothing).empty
    assert "Nothing was measured" in words(knobs.figure(nothing))


def test_the_table_has_a_row_per_knob_under_the_baseline() -> None:
    seen = view({"offload_kqv": 1.5})
    table = knobs.table(seen).set_index("knob")
    assert list(table.index) == [BASELINE, *(one.name for one in seen.effects)]
    assert table.loc["offload_kqv True → False", "TTFT changes"].endswith("slower")
    assert knobs.absent(seen).to_dict("list") == {
        "not here": ["swa_full"], "why": ["no layer has a sliding window"]
    }  # fmt: skip


def test_the_figure_has_a_bar_per_knob() -> None:
    seen = view({"offload_kqv": 3.0, "op_offload": 0.9}, noise=0.003)
    drawn = knobs.figure(seen)
    assert len(drawn) == 3
    for ax in drawn:
        assert len([bar for bar in ax.patches if bar.get_label() != "_floor"]) == len(seen.effects)
    labels = [tick.get_text() for tick in drawn[0].get_yticklabels()]
    assert labels == [one.name for one in seen.effects]
    assert "× 3" in words(drawn)
    _, axes = plt.subplots(1, 3)
    assert list(knobs.figure(seen, axes=axes)) == list(axes)
    with pytest.raises(ParameterError, match="give three"):
        knobs.figure(seen, axes=axes[:2])


# ------------------------------------------------------------------------------- for real


@pytest.mark.engine
def test_on_a_device_its_knobs_are_measured(second_device: SecondDevice, outputs: Path) -> None:
    second_device()
    # One thread: two would wait for each other on a busy machine.
    small = {"n_threads": 1, "prompt_tokens": 32, "max_tokens": 2, "repeats": 0, "n_ctx": 1024}
    run = lab.run(knobs.plan(rounds=1, **small), progress=False)
    seen = knobs.View(run)
    assert set(seen.data["status"]) == {"ok"} and seen.memory[1] == "VRAM"
    assert set(seen.data["effective_op_offload"]) == {True, False}
    more = {one.name: one.memory_bytes for one in seen.effects}
    assert more["n_gpu_layers all → 0"] < more["offload_kqv True → False"] < 0
    assert more["n_ubatch 512 → 1024"] > 0


@pytest.mark.notebook
@pytest.mark.engine
def test_the_notebook_and_its_report(carried_out: CarriedOut) -> None:
    df, page = carried_out(
        "knobs", rounds=1, repeats=0, max_tokens=4, prompt_tokens=32, n_ctx=1024, n_threads=1,
    )  # fmt: skip
    good = df[df["status"] == "ok"]
    assert set(good["effective_flash_attn"]) == {True, False}
    assert {"q8_0"} <= set(good["effective_type_k"])
    assert "no layer has a sliding window" in page and "undecided" in page
