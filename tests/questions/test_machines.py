"""A run on two machines: each told by itself, and together only what both agree on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import llm_latency as lab
from llm_latency.errors import LabError, ParameterError
from llm_latency.measure.resume import for_this_machine
from llm_latency.plan.spec import Plan
from llm_latency.questions import deciding, module
from llm_latency.records.machines import by_machine, machines
from llm_latency.records.record import Record
from llm_latency.records.store import RunStore
from llm_latency.report.page import Rows
from llm_latency.stats.pooled import Pooled
from tests.support import factories
from tests.support.pages import cells_after, text

HERE, THERE = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def card(cpu: str) -> dict[str, Any]:
    machine = factories.info()["machine"] | {"cpu": cpu}
    return {"machine": machine, "gpu": machine.pop("gpu")}


def store(path: Path, plan: Plan, made: list[Record], on: tuple[str, ...] = (HERE, THERE)) -> Any:
    """Return the stored run of a plan whose rounds were dealt to machines in turn."""
    asked = {"on": "cpu", "memory_there_bytes": 2**33} if plan.experiment == "advise" else {}
    data = plan.model_dump(mode="json") | {"parameters": plan.parameters | asked}
    cards = {name: card(f"A CPU of {name}") for name in on}
    info = factories.info() | {"run_id": path.name, "plan": data, "machines": cards}
    run = RunStore.create(path, info)
    for one in made:
        at = on[one.trial.round % len(on)]
        run.append(one.model_copy(update={"run_id": path.name, "machine_id": at}))
    return run


def swept(path: Path, effects: Mapping[str, float], rounds: int = 24) -> RunStore:
    """Return a sweep of two cells, the second taking so much longer on each machine."""
    plan = lab.experiments.sweep(
        model="synthetic:tiny", n_ctx=512, n_batch=[128, 256], prompt_tokens=64, rounds=rounds
    )
    first, random, made = plan.cells[0].cell_id, np.random.default_rng(1), []
    for number in range(rounds):
        longer = 1 + list(effects.values())[number % len(effects)]
        for trial in plan.round(number):
            factor = 0.1 * (longer if trial.cell_id != first else 1) * random.normal(1, 0.005)
            one = factories.record(
                trial.settings, workload=trial.workload, ttft=lambda *_, factor=factor: factor
            )
            made.append(one.model_copy(update={"trial": trial}))
    return store(path, plan, made, tuple(effects))


def over(run: RunStore) -> Pooled:
    (one,) = deciding.compared("sweep", run)
    assert isinstance(one, Pooled)
    return one


@pytest.mark.parametrize("name", ["knobs", "advise", "sweep", "threads"])
def test_every_page_tells_a_run_of_two_machines(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plt, "show", plt.close)
    plan = lab.experiments.__getattr__(name)(model=str(tiny), rounds=2)
    assert isinstance(plan, Plan)
    plan = plan if name == "advise" else for_this_machine(plan)
    run = store(tmp_path / "r", plan, factories.carried_out(plan, rounds=2))
    seen = {"lab": lab, "question": module(name), "plan": plan, "run": run}
    for source in cells_after(name):
        exec(compile(source, name, "exec"), seen)
    plt.close("all")
    assert set(seen["view"].data["machine_id"]) == {HERE}
    told = lab.answers.__getattr__(name)(run)
    for at in (HERE, THERE):
        assert at in text(lab.notices(run)) and at in told.line
        assert f"A CPU of {at}" in told.sentences[0]
    assert "2 machines" in told.sentences[0] and told.verdict in ("undecided", "measured", "none")


def test_an_effect_on_both_is_pooled_and_one_of_either_way_depends(tmp_path: Path) -> None:
    both = over(swept(tmp_path / "both", {HERE: 0.1, THERE: 0.1}))
    assert both.verdict == "slower" and both.ratio.n == 24
    assert both.change == pytest.approx(0.1, abs=0.01)
    run = swept(tmp_path / "either", {HERE: 0.1, THERE: -0.1})
    either = over(run)
    assert either.verdict == "depends" and either.settled
    assert {at: one.ratio.n for at, one in either.each.items()} == {HERE: 12, THERE: 12}
    assert either.each[HERE].change * either.each[THERE].change < 0
    told = lab.answers.sweep(run)
    assert told.verdict == "depends" and "depends on the machine" in told.text
    assert "depends on the machine" in text(lab.notices(run))
    assert lab.answers.sweep(run.on(THERE)).verdict == "faster"  # of the other cell, there


def test_a_machine_of_another_speed_changes_no_ratio(tmp_path: Path) -> None:
    run = swept(tmp_path / "r", {HERE: 0.1, THERE: 0.1})
    rows = run.frame()
    slow = rows["machine_id"] == THERE
    rows.loc[slow, "ttft_s"] *= 7
    (one,) = deciding.compared("sweep", Rows(rows, run.info))
    assert one.logs == pytest.approx(over(run).logs)


def test_nothing_leaves_early_but_what_all_machines_agree_on(tmp_path: Path) -> None:
    def left(run: RunStore) -> set[str] | None:
        rows = run.frame()
        rows.attrs["looks"] = 24
        return deciding.undecided("sweep", rows, run.info, set(rows["cell_id"]))

    agreed = swept(tmp_path / "agreed", {HERE: 0.1, THERE: 0.1})
    assert left(agreed) == set()
    few = swept(tmp_path / "few", {HERE: 0.1, THERE: 0.1}, rounds=4)
    assert left(few) == set(few.frame()["cell_id"])


def test_one_machine_of_a_run_is_a_run_of_its_own(tmp_path: Path) -> None:
    run = swept(tmp_path / "r", {HERE: 0.0, THERE: 0.0}, rounds=4)
    part = run.on(THERE)
    assert set(part.frame()["round"]) == {1, 3}
    assert part.info["machine"]["cpu"] == f"A CPU of {THERE}"
    assert dict(lab.cards.machine(part.info).values)["CPU"] == f"A CPU of {THERE}"
    with pytest.raises(ParameterError, match=f"'{HERE}', '{THERE}'"):
        run.on("elsewhere")
    drawn = lab.plots.sweep(run)
    assert list(drawn) == [HERE, THERE]
    titles = [np.ravel(axes)[0].figure.get_suptitle() for axes in drawn.values()]
    assert [title.partition(":")[0] for title in titles] == [HERE, THERE]
    plt.close("all")
    # A frame of one's own says nothing of its machines: estimates refuse it until it is grouped.
    with pytest.raises(LabError, match="2 machines"):
        lab.answers.sweep(run.frame())
    for _, rows in run.frame().groupby("machine_id"):
        assert lab.answers.sweep(rows).text


def test_each_of_several_gpus_is_a_machine_that_a_trial_without_layers_belongs_to() -> None:
    rows = factories.frame(rounds=4, n_ctx=(512,), prompts=(64,))
    card = rows["round"].map({0: "GPU-0", 1: "GPU-1", 2: "GPU-0", 3: "GPU-1"})
    rows = rows.assign(machine_id="m", gpu_uuid=card.where(rows["n_batch"] > 128, None))
    assert set(machines(rows)) == {"m GPU-0", "m GPU-1"}
    parts = by_machine(Rows(rows, {}))
    assert {at: set(part.frame()["round"]) for at, part in parts.items()} == {
        "m GPU-0": {0, 2},
        "m GPU-1": {1, 3},
    }
    with pytest.raises(LabError, match="2 GPUs"):
        lab.answers.sweep(rows)
    alone = rows.assign(gpu_uuid=rows["gpu_uuid"].where(rows["gpu_uuid"].isna(), "GPU-0"))
    assert set(machines(alone)) == {"m"}
