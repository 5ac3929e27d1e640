"""The NVIDIA card, or its absence. The answers follow NVML's documented forms (nvml.h)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llm_latency.gpu import GpuWatch, gpu_card

GIB = 2**30


class NVMLError(Exception):
    """Stands in for pynvml's."""


class Card:
    """An NVML that answers for one card, step by step."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1

    def __init__(self, used: list[int], per_process: bool = True) -> None:
        self.used = used
        self.per_process = per_process
        self.shut = 0

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlDeviceGetHandleByIndex(self, _: int) -> str:
        return "card"

    def nvmlDeviceGetMemoryInfo(self, _: str) -> SimpleNamespace:
        used = self.used.pop(0) if len(self.used) > 1 else self.used[0]
        return SimpleNamespace(used=used, total=6 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list[SimpleNamespace]:
        # WDDM and WSL2 answer with processes whose memory is not available.
        memory = 3 * GIB if self.per_process else None
        return [SimpleNamespace(pid=7, usedGpuMemory=memory)]

    def nvmlDeviceGetTemperature(self, _: str, kind: int) -> int:
        assert kind == self.NVML_TEMPERATURE_GPU
        return 83

    def nvmlDeviceGetClockInfo(self, _: str, kind: int) -> int:
        return 1500

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:
        raise NVMLError("Not Supported")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: str) -> int:
        return 0x20

    def nvmlDeviceGetName(self, _: str) -> bytes:
        return b"NVIDIA Test Card"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "575.1"

    def nvmlDeviceGetPowerManagementLimit(self, _: str) -> int:
        return 80_000


class NoCard(Card):
    """A machine without driver."""

    def nvmlInit(self) -> None:
        raise NVMLError("NVML Shared Library Not Found")


def test_no_card_is_a_normal_case_that_says_why() -> None:
    with GpuWatch(NoCard([0])) as watch:
        watch.sample(7)
        assert not watch.present
        assert set(watch.vram().model_dump().values()) == {None}
        assert set(watch.state().model_dump().values()) == {None}
    card = gpu_card(NoCard([0]))
    assert not card.available
    assert "Shared Library Not Found" in str(card.why)


def test_peaks_are_kept() -> None:
    nvml = Card([1 * GIB, 2 * GIB, 5 * GIB, 4 * GIB])
    with GpuWatch(nvml) as watch:
        for _ in range(3):
            watch.sample(7)
        vram = watch.vram()
        state = watch.state()
    assert (vram.before_bytes, vram.peak_bytes) == (1 * GIB, 5 * GIB)
    assert (vram.process_bytes, vram.total_bytes) == (3 * GIB, 6 * GIB)
    assert (state.temperature_c, state.sm_clock_hz) == (83.0, 1.5e9)
    assert state.power_w is None  # this card does not tell
    assert state.throttle == "SwThermalSlowdown"
    assert nvml.shut == 1


@pytest.mark.parametrize(("pid", "per_process"), [(8, True), (7, False)])
def test_memory_of_the_process_is_missing_where_nvml_cannot_tell(
    pid: int, per_process: bool
) -> None:
    with GpuWatch(Card([GIB], per_process)) as watch:
        watch.sample(pid)
        assert watch.vram().process_bytes is None
        assert watch.vram().peak_bytes == GIB


def test_the_card() -> None:
    card = gpu_card(Card([0]))
    assert card.model_dump() == {
        "available": True,
        "why": None,
        "name": "NVIDIA Test Card",
        "driver": "575.1",
        "total_bytes": 6 * GIB,
        "power_limit_w": 80.0,
    }


@pytest.mark.gpu
def test_the_real_card() -> None:
    card: Any = gpu_card()
    assert card.available, card.why
    with GpuWatch() as watch:
        watch.sample()
        assert 0 < (watch.vram().peak_bytes or 0) <= (card.total_bytes or 0)
