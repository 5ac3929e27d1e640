"""The NVIDIA card through NVML: its card, its memory around a trial, and what slowed it.

No card is a normal case: then every figure is missing and :class:`GpuCard` says why. NVML's
memory of one process is missing on Windows (WDDM) and WSL2, and process numbers inside a
container are not those of the driver; then the change of the whole device's memory is what is
left, which is right only while nothing else uses the card. Of several cards the first that a
CUDA program sees is watched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import pynvml
from pydantic import Field

from llm_latency.machine import visible
from llm_latency.records.record import GpuState, Part, Vram

THROTTLES = {
    "HwSlowdown": 0x8,
    "SwPowerCap": 0x4,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}
"""Bits of NVML's clocks-event reasons that mean a slower card (nvml.h)."""
LOST = (15, 16)
"""NVML's errors of a card that is gone until it is started anew: lost, and reset required."""
NOT_AVAILABLE = 2**64 - 1
"""NVML's number for a size that it does not know."""
MEMORY_V2 = 0x02000028
"""Version of NVML's answer that tells the driver's own memory apart."""
OURS: set[int] = set()
"""Processes of the lab's own on the card: they disturb nobody."""


class GpuCard(Part):
    """Which card there is, or why none can be seen."""

    available: bool
    why: str | None = None
    note: str | None = Field(None, description="Which of several cards it is")
    name: str | None = None
    driver: str | None = None
    total_bytes: int | None = None
    reserved_bytes: int | None = Field(
        None, description="What driver and firmware keep for themselves; no program can have it"
    )
    power_limit_w: float | None = None


class GpuWatch:
    """Watches an NVIDIA card during one trial, from outside the measured process.

    Use as a context manager; call :meth:`sample` from time to time while the trial runs. All
    is ``None`` where there is no card.

    Parameters
    ----------
    nvml
        The ``pynvml`` module, or what stands in for it.
    environment
        Where ``CUDA_VISIBLE_DEVICES`` is looked up, which names the card.

    Attributes
    ----------
    why : str or None
        Why there is no card to watch, or no more.
    """

    def __init__(self, nvml: Any = pynvml, environment: Mapping[str, str] = os.environ) -> None:
        self._nvml, self._environment = nvml, environment
        self._device: visible.Device | None = None
        self._note: str | None = None
        self._lost = False
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
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self.why = f"NVML found no NVIDIA card: {error}"
            return self
        try:
            devices = visible.visible(nvml, self._environment)
            memory = nvml.nvmlDeviceGetMemoryInfo(devices[0].handle)
            self._note = visible.note(nvml, devices, self._environment)
            self._before, self._total = int(memory.used), int(memory.total)
            self._device, self._peak = devices[0], self._before
        except (nvml.NVMLError, visible.NoCardError) as error:
            known = isinstance(error, visible.NoCardError)
            self.why = str(error) if known else f"NVML found no NVIDIA card: {error}"
            self._ask("nvmlShutdown")
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
        return self._device is not None and not self._lost

    def _ask(self, call: str, *arguments: Any) -> Any:
        """Return NVML's answer; ``None`` where this card, driver or binding does not give it."""
        try:
            return getattr(self._nvml, call)(*arguments)
        except (AttributeError, TypeError):  # a binding of another age
            return None
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) in LOST and not self._lost:
                self._lost = True
                self.why = f"the card was lost while it was watched ({error}); restart the machine"
            return None

    def sample(self, pid: int | None = None) -> None:
        """Look at the card once: keep peaks of memory, temperature and power."""
        if self._device is None or self._lost:
            return
        handle, chip = self._device
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        if memory is not None:
            self._peak = max(self._peak or 0, int(memory.used))
        for process in self._ask("nvmlDeviceGetComputeRunningProcesses", handle) or []:
            used = getattr(process, "usedGpuMemory", None)
            if process.pid != pid:
                self._foreign |= {int(process.pid)} - OURS
            elif used is not None and used != NOT_AVAILABLE:
                self._process = max(self._process or 0, int(used))
        hot = self._ask("nvmlDeviceGetTemperature", chip, self._nvml.NVML_TEMPERATURE_GPU)
        clock = self._ask("nvmlDeviceGetClockInfo", chip, self._nvml.NVML_CLOCK_SM)
        # The power of a card that is cut up is also that of others: an instance has none.
        power = self._ask("nvmlDeviceGetPowerUsage", handle)
        if hot is not None:
            self._hot = max(self._hot or 0.0, float(hot))
        if clock is not None:
            self._clock = max(self._clock or 0.0, clock * 1e6)
        if power is not None:
            self._power = max(self._power or 0.0, power / 1e3)
        self._throttle |= self._reasons(chip)

    def _reasons(self, chip: Any) -> int:
        """Return why the clocks are what they are; older drivers have an older name for it."""
        found = self._ask("nvmlDeviceGetCurrentClocksEventReasons", chip)
        if found is None:
            found = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", chip)
        return int(found or 0)

    def vram(self) -> Vram:
        """Return the card's memory before, at its peak and, where NVML tells, of the process."""
        return Vram(
            before_bytes=self._before,
            # Of a card that was lost nobody knows the peak.
            peak_bytes=None if self._lost else self._peak,
            process_bytes=None if self._lost else self._process,
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
            lost=self.why if self._lost else None,
        )

    def card(self) -> GpuCard:
        """Return the card's name, driver and size, or why there is none."""
        if self._device is None:
            return GpuCard(available=False, why=self.why or "not looked at")
        handle, chip = self._device
        # The limit of a card that is cut up is not that of an instance.
        limit = self._ask("nvmlDeviceGetPowerManagementLimit", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle, MEMORY_V2)
        return GpuCard(
            available=True,
            note=self._note,
            name=_text(self._ask("nvmlDeviceGetName", handle))
            or _text(self._ask("nvmlDeviceGetName", chip)),
            driver=_text(self._ask("nvmlSystemGetDriverVersion")),
            total_bytes=self._total,
            reserved_bytes=None if memory is None else int(memory.reserved),
            power_limit_w=None if limit is None else limit / 1e3,
        )


def _text(answer: Any) -> str | None:
    # Older bindings answer in bytes.
    return answer.decode() if isinstance(answer, bytes) else answer


def gpu_card(nvml: Any = pynvml, environment: Mapping[str, str] = os.environ) -> GpuCard:
    """Return the card of the first GPU that a CUDA program sees, or why there is none."""
    with GpuWatch(nvml, environment) as watch:
        return watch.card()
