"""Watching a device of any maker: peaks, what is missing, and a device that is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llm_latency.machine import devices, disturbance
from llm_latency.machine.devices import (
    Activity,
    DeviceLostError,
    GpuCard,
    GpuWatch,
    Memory,
    NoDeviceError,
    gpu_card,
    without_gpus,
)
from llm_latency.records.record import HostState, Vram

MIB = 2**20


class Scripted:
    """A device that tells one step of a script at each look; lost where a step is ``None``."""

    def __init__(self, *steps: tuple[int | None, Activity] | None) -> None:
        self._steps: Iterator[tuple[int | None, Activity] | None] = iter(steps)
        self.closed = 0

    def memory(self) -> Memory | None:
        step = next(self._steps)
        if step is None:
            raise DeviceLostError("gone")
        used, self._activity = step
        return None if used is None else Memory(used, 100 * MIB)

    def activity(self) -> Activity:
        return self._activity

    def card(self) -> GpuCard:
        return GpuCard(available=True, name="Another maker's")

    def close(self) -> None:
        self.closed += 1


def test_a_watch_keeps_the_highest_of_what_is_told() -> None:
    device = Scripted(
        (1 * MIB, Activity()),
        (7 * MIB, Activity({5: 3 * MIB}, temperature_c=60, throttles=frozenset({"hot"}))),
        (4 * MIB, Activity({5: None}, sm_clock_hz=1e9, power_w=20)),
        (None, Activity({5: 2 * MIB}, temperature_c=50, power_w=30, throttles=frozenset({"cap"}))),
    )
    with GpuWatch(lambda: device) as watch:
        for _ in range(3):
            watch.sample(5)
        vram, state = watch.vram(), watch.state()
        assert watch.card().name == "Another maker's"
    assert vram.model_dump(exclude_none=True) == {
        "source": "nvml",
        "before_bytes": 1 * MIB,
        "peak_bytes": 7 * MIB,
        "process_bytes": 3 * MIB,
        "total_bytes": 100 * MIB,
    }
    assert state.model_dump(exclude_none=True) == {
        "foreign_processes": 0,
        "temperature_c": 60,
        "sm_clock_hz": 1e9,
        "sm_clock_mean_hz": 1e9,
        "power_w": 30,
        "throttle": "cap, hot",
    }
    assert device.closed == 1


def test_the_mean_clock_is_that_of_work() -> None:
    steps = [(idle, hertz) for idle, hertz in ((True, 2e8), (False, 1e9), (False, 2e9))]
    device = Scripted(
        (0, Activity()), *((0, Activity(sm_clock_hz=hertz, idle=idle)) for idle, hertz in steps)
    )
    with GpuWatch(lambda: device) as watch:
        for _ in steps:
            watch.sample(5)
        state = watch.state()
    assert (state.sm_clock_hz, state.sm_clock_mean_hz) == (2e9, 1.5e9)


def test_others_on_the_device_are_counted_and_the_labs_own_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "OURS", {8})
    device = Scripted((0, Activity()), (0, Activity({5: 1, 8: 1, 9: 1, 10: None})))
    with GpuWatch(lambda: device) as watch:
        watch.sample(5)
        assert watch.state().foreign_processes == 2


def test_a_server_is_no_foreigner_before_it_is_told_of() -> None:
    seen = Activity({6: 2**20, 9: 1})
    device = Scripted((0, Activity()), (0, seen), (0, seen))
    with GpuWatch(lambda: device) as watch:
        watch.sample(5)  # the child, which has begun the server 6
        assert watch.vram().process_bytes is None
        watch.sample(6)
        assert watch.state().foreign_processes == 1
        assert watch.vram().process_bytes == 2**20


def test_a_device_that_is_lost_has_no_peak_and_disturbs() -> None:
    device = Scripted((1 * MIB, Activity()), (5 * MIB, Activity({5: MIB}, temperature_c=70)), None)
    with GpuWatch(lambda: device) as watch:
        for _ in range(4):
            watch.sample(5)
        assert not watch.present
        vram, state, card = watch.vram(), watch.state(), watch.card()
    assert (vram.before_bytes, vram.peak_bytes, vram.process_bytes) == (1 * MIB, None, None)
    assert state.temperature_c == 70  # seen while it was there
    assert "(gone)" in str(state.lost)
    assert state.lost in disturbance.disturbances(HostState(gpu=state), 1.0)
    assert (card.available, card.why) == (False, state.lost)
    assert device.closed == 1


def test_no_device_says_why() -> None:
    def find() -> Scripted:
        raise NoDeviceError("there is none")

    with GpuWatch(find) as watch:
        watch.sample(5)
        assert not watch.present
        assert watch.vram() == Vram()
        assert set(watch.state().model_dump().values()) == {None}
    card = gpu_card(find)
    assert (card.available, card.why) == (False, "there is none")


def test_a_child_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    code = "import os; print(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"
    printed = subprocess.check_output([sys.executable, "-c", code], env=without_gpus(), text=True)
    assert printed.strip() == "''"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert without_gpus({"A": "b"}) == {"A": "b", "CUDA_VISIBLE_DEVICES": ""}
