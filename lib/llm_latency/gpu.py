"""The NVIDIA card through NVML: its card, its memory around a trial, and what slowed it.

No card is a normal case: then every figure is missing and :class:`GpuCard` says why. NVML's
memory of one process is missing on Windows (WDDM) and WSL2, and process numbers inside a
container are not those of the driver; then the change of the whole device's memory is what is
left, which is right only while nothing else uses the card.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import pynvml

from llm_latency.record import GpuState, Part, Vram

THROTTLES = {
    "HwSlowdown": 0x8,
    "SwPowerCap": 0x4,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}
"""Bits of NVML's clocks-event reasons that mean a slower card (nvml.h)."""


class GpuCard(Part):
    """Which card there is, or why none can be seen."""

    available: bool
    why: str | None = None
    name: str | None = None
    driver: str | None = None
    total_bytes: int | None = None
    power_limit_w: float | None = None


class GpuWatch:
    """Watches the first NVIDIA card during one trial, from outside the measured process.

    Use as a context manager; call :meth:`sample` from time to time while the trial runs. All
    is ``None`` where there is no card.
    """

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._device: Any = None
        self.why: str | None = None
        self._before: int | None = None
        self._peak: int | None = None
        self._process: int | None = None
        self._total: int | None = None
        self._hot: float | None = None
        self._clock: float | None = None
        self._power: float | None = None
        self._throttle = 0
        self._foreign: set[int] = set()

    def __enter__(self) -> GpuWatch:
        try:
            self._nvml.nvmlInit()
            self._device = self._nvml.nvmlDeviceGetHandleByIndex(0)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._device)
            self._before, self._total = int(memory.used), int(memory.total)
            self._peak = self._before
        except self._nvml.NVMLError as error:
            self.why = f"NVML found no NVIDIA card: {error}"
            self._device = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._device is not None:
            self._ask("nvmlShutdown")
            self._device = None

    @property
    def present(self) -> bool:
        """Whether there is a card to watch."""
        return self._device is not None

    def _ask(self, call: str, *arguments: Any) -> Any:
        """Return NVML's answer; ``None`` where this card or driver does not give it."""
        try:
            return getattr(self._nvml, call)(*arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def sample(self, pid: int | None = None) -> None:
        """Look at the card once: keep peaks of memory, temperature and power."""
        if self._device is None:
            return
        device = self._device
        memory = self._ask("nvmlDeviceGetMemoryInfo", device)
        if memory is not None:
            self._peak = max(self._peak or 0, int(memory.used))
        for process in self._ask("nvmlDeviceGetComputeRunningProcesses", device) or []:
            used = getattr(process, "usedGpuMemory", None)
            if process.pid != pid:
                self._foreign.add(int(process.pid))
            elif used is not None:
                self._process = max(self._process or 0, int(used))
        hot = self._ask("nvmlDeviceGetTemperature", device, self._nvml.NVML_TEMPERATURE_GPU)
        clock = self._ask("nvmlDeviceGetClockInfo", device, self._nvml.NVML_CLOCK_SM)
        power = self._ask("nvmlDeviceGetPowerUsage", device)
        if hot is not None:
            self._hot = max(self._hot or 0.0, float(hot))
        if clock is not None:
            self._clock = max(self._clock or 0.0, clock * 1e6)
        if power is not None:
            self._power = max(self._power or 0.0, power / 1e3)
        self._throttle |= self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", device) or 0

    def vram(self) -> Vram:
        """Return the card's memory before, at its peak and, where NVML tells, of the process."""
        return Vram(
            before_bytes=self._before,
            peak_bytes=self._peak,
            process_bytes=self._process,
            total_bytes=self._total,
        )

    def state(self) -> GpuState:
        """Return the highest temperature, clock and power seen, and what throttled the card."""
        reasons = [name for name, bit in THROTTLES.items() if self._throttle & bit]
        return GpuState(
            # In a container the driver's process numbers are not ours: then who is who is open.
            foreign_processes=len(self._foreign) if self._process is not None else None,
            temperature_c=self._hot,
            sm_clock_hz=self._clock,
            power_w=self._power,
            throttle=", ".join(reasons) or None,
        )

    def card(self) -> GpuCard:
        """Return the card's name, driver and size, or why there is none."""
        if self._device is None:
            return GpuCard(available=False, why=self.why or "not looked at")
        limit = self._ask("nvmlDeviceGetPowerManagementLimit", self._device)
        return GpuCard(
            available=True,
            name=_text(self._ask("nvmlDeviceGetName", self._device)),
            driver=_text(self._ask("nvmlSystemGetDriverVersion")),
            total_bytes=self._total,
            power_limit_w=None if limit is None else limit / 1e3,
        )


def _text(answer: Any) -> str | None:
    # Older bindings answer in bytes.
    return answer.decode() if isinstance(answer, bytes) else answer


def gpu_card(nvml: Any = pynvml) -> GpuCard:
    """Return the card of this machine's first GPU, or why there is none."""
    with GpuWatch(nvml) as watch:
        return watch.card()
