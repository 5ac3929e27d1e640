"""What holds the machine back is told once, with how many trials it was."""

from __future__ import annotations

from typing import Any

import pytest

from llm_latency.plan.settings import Settings
from llm_latency.records import frame
from llm_latency.records.record import GpuState, HostState
from llm_latency.report import conditions
from tests.support import factories
from tests.support.pages import plain

INFO = {"machine": {"gpu": {"power_limit_w": 80.0}}}


def said(*hosts: HostState, info: dict[str, Any] = INFO) -> str:
    made = [
        factories.record(Settings(), round=round, more={"host": host})
        for round, host in enumerate(hosts)
    ]
    return plain(conditions.told(frame.by_cell(factories.to_frame(made)), info)).replace("**", "")


def test_a_machine_at_its_best_is_no_word() -> None:
    assert said(HostState(), HostState(on_battery=False, power_profile="balanced")) == ""


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostState(on_battery=True), "On battery in"),
        (HostState(power_profile="low-power"), "Power profile low-power in"),
        (HostState(gpu=GpuState(throttle="HwSlowdown, SwPowerCap")), "Power limit of 80.0 W in"),
    ],
)
def test_what_holds_back_is_told_with_its_trials(host: HostState, words: str) -> None:
    assert f"{words} all trials" in said(host, host)
    assert f"{words} 1 of 2 trials" in said(host, HostState())
    assert said(host, host).count("trials") == 1


def test_several_conditions_are_told_beside_each_other() -> None:
    gpu = GpuState(throttle="SwPowerCap")
    text = said(HostState(on_battery=True, power_profile="quiet", gpu=gpu), info={})
    assert [text.count(word) for word in ("On battery", "quiet", "Power limit in")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("n_threads", "usable", "logical", "told"),
    [
        (None, 6, 20, "Threads in force: 2 (6 performance cores of 20 logical CPUs)."),
        (None, 2, 2, ""),  # one for each CPU
        (2, 6, 20, ""),  # who gave them knows
    ],
)
def test_threads_are_told_with_whence_they_come(
    n_threads: int | None, usable: int, logical: int, told: str
) -> None:
    machine = {
        "usable_cpus": usable,
        "logical_cpus": logical,
        "threads_from": "6 performance cores of 20 logical CPUs",
    }
    made = [factories.record(Settings(n_threads=n_threads))]
    data = frame.by_cell(factories.to_frame(made))
    assert plain(conditions.told(data, {"machine": machine})) == told


def test_the_threads_in_force_are_of_all_cells() -> None:
    data = factories.to_frame([factories.record(Settings(n_threads=n)) for n in (4, 1)])
    data = data.assign(effective_n_threads=data["n_threads"])
    assert conditions.threads_in_force(data, {}) == "Threads in force: 1 and 4 (as given)."
    assert conditions.threads_in_force(data.head(0), {}) == ""
