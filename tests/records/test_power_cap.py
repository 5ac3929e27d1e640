"""A power limit in every trial is no disturbance; a clock that fell is. The figures are made up."""

from __future__ import annotations

import pytest

from llm_latency.plan.settings import Settings
from llm_latency.records.power_cap import judged
from llm_latency.records.record import GpuState, HostState, Record
from tests.support import factories


def capped(
    *clocks: float | None, throttle: str | None = "SwPowerCap", n_ctx: int = 512
) -> list[Record]:
    return [
        factories.record(
            Settings(n_ctx=n_ctx),
            round=round,
            more={"host": HostState(gpu=GpuState(throttle=throttle, sm_clock_mean_hz=clock))},
        )
        for round, clock in enumerate(clocks)
    ]


@pytest.mark.parametrize(
    ("clocks", "fallen"),
    [
        ((1.2e9, 1.2e9, 1.2e9), []),
        ((1.2e9, 1.15e9, 1.21e9), []),
        ((1.2e9, 1.1e9, 1.21e9), [1]),
        ((1.2e9, 1.2e9, 1.2e9, 0.6e9), [3]),
        ((1.2e9, None, 1.2e9), []),
        ((0.6e9,), []),  # nothing to compare it with
    ],
)
def test_a_trial_is_disturbed_where_its_clock_fell(
    clocks: tuple[float | None, ...], fallen: list[int]
) -> None:
    found = judged(capped(*clocks))
    assert [n for n, record in enumerate(found) if record.disturbed] == fallen
    frame = factories.to_frame(capped(*clocks))
    assert sorted(frame.loc[frame["disturbed"], "round"].unique()) == fallen


def test_each_cell_has_a_clock_of_its_own_and_heat_is_judged_elsewhere() -> None:
    slow, fast = capped(0.8e9, 0.8e9), capped(1.2e9, 1.2e9, n_ctx=1024)
    assert not any(record.disturbed for record in judged([*slow, *fast]))
    hot = capped(1.2e9, 1.2e9, 0.6e9, throttle="SwThermalSlowdown")
    assert judged(hot) == hot
