"""The device that the engine computes on beside the CPU: its card, and a watch around a trial.

No device is a normal case: then every figure is missing and :class:`GpuCard` says why. Where the
system does not tell the memory of one process, the change of the whole device's memory is what
is left, which is right only while nothing else uses the card.

What a maker's driver answers is asked by one class, see :class:`Device`: today NVIDIA's, in
:mod:`llm_latency.machine.nvml`. Another maker's is one more such class, chosen in
:func:`first_device`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple, Protocol, TypeVar

from pydantic import Field

from llm_latency.base import Part
from llm_latency.records.record import GpuState, Vram

OURS: set[int] = set()
"""Processes of the lab's own on the card: they disturb nobody."""

Answer = TypeVar("Answer")


class NoDeviceError(Exception):
    """There is no device to watch; the text says why."""


class DeviceLostError(Exception):
    """The device answers no more until it is started anew; the text is the driver's."""


class GpuCard(Part):
    """Which card there is, or why none can be seen."""

    available: bool
    why: str | None = None
    note: str | None = Field(None, description="Which of several cards it is")
    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    total_bytes: int | None = None
    total_bytes_why: str | None = Field(None, description="Why its memory is not known")
    reserved_bytes: int | None = Field(
        None, description="What driver and firmware keep for themselves; no program can have it"
    )
    power_limit_w: float | None = None


class Memory(NamedTuple):
    """The memory of a device at one moment, in bytes."""

    used: int
    total: int


@dataclass(frozen=True)
class Activity:
    """What a device does at one moment; ``None`` where it does not tell.

    Attributes
    ----------
    processes
        Those that compute on it, and the bytes that each holds.
    throttles
        What makes it slower than it could be.
    idle
        Whether its clock is low because there is nothing to do.
    """

    processes: Mapping[int, int | None] = field(default_factory=dict)
    temperature_c: float | None = None
    sm_clock_hz: float | None = None
    power_w: float | None = None
    throttles: frozenset[str] = frozenset()
    idle: bool = False


class Device(Protocol):
    """What is asked of a device; each answer may raise :class:`DeviceLostError`."""

    def memory(self) -> Memory | None:
        """Return its memory now; ``None`` where it is not told."""

    def activity(self) -> Activity:
        """Return what it does now."""

    def card(self) -> GpuCard:
        """Return what it is."""

    def close(self) -> None:
        """Let go of its driver."""


def first_device() -> Device:
    """Return the first device that the engine would compute on.

    Raises
    ------
    NoDeviceError
        If there is none.
    """
    from llm_latency.machine.nvml import NvidiaDevice  # which is built on this module

    return NvidiaDevice()


def without_gpus(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which a child sees no GPU.

    With ``n_gpu_layers=0`` a CUDA build still computes batches of 32 tokens and more on a GPU
    that it sees.
    """
    return {**environment, "CUDA_VISIBLE_DEVICES": ""}


class GpuWatch:
    """Watches a device during one trial, from outside the measured process.

    Use as a context manager; call :meth:`sample` from time to time while the trial runs. All
    is ``None`` where there is no device.

    Parameters
    ----------
    find
        What returns the device, or raises :class:`NoDeviceError`.

    Attributes
    ----------
    why : str or None
        Why there is no device to watch, or no more.
    """

    def __init__(self, find: Callable[[], Device] = first_device) -> None:
        self._find = find
        self._device: Device | None = None
        self._lost = False
        self.why: str | None = None
        self._before: Memory | None = None
        self._peak: int | None = None
        self._process: int | None = None
        self._temperature_c: float | None = None
        self._sm_clock_hz: float | None = None
        self._working_hz: list[float] = []
        self._power_w: float | None = None
        self._throttles: set[str] = set()
        self._seen: set[int] = set()
        self._own: set[int | None] = set()

    def __enter__(self) -> GpuWatch:
        try:
            self._device = self._find()
        except NoDeviceError as error:
            self.why = str(error)
        self._before = self._ask(lambda device: device.memory())
        self._peak = self._before.used if self._before else None
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._device is not None:
            self._device.close()
            self._device = None

    @property
    def present(self) -> bool:
        """Whether there is a device to watch."""
        return self._device is not None

    def _ask(self, question: Callable[[Device], Answer]) -> Answer | None:
        """Return the device's answer; ``None`` where there is no device, or no more."""
        if self._device is None:
            return None
        try:
            return question(self._device)
        except DeviceLostError as error:
            self._lost = True
            self.why = f"the card was lost while it was watched ({error}); restart the machine"
            self._close()
            return None

    def sample(self, pid: int | None = None) -> None:
        """Look at the device once: keep peaks of memory, temperature and power."""
        memory = self._ask(lambda device: device.memory())
        activity = self._ask(lambda device: device.activity())
        if memory is not None:
            self._peak = _higher(self._peak, memory.used)
        if activity is None:
            return
        self._seen |= set(activity.processes) - OURS
        self._own |= {pid}  # a server is on the card before anybody tells that it is ours
        self._process = _higher(self._process, activity.processes.get(pid or 0))
        self._temperature_c = _higher(self._temperature_c, activity.temperature_c)
        self._sm_clock_hz = _higher(self._sm_clock_hz, activity.sm_clock_hz)
        if activity.sm_clock_hz is not None and not activity.idle:
            self._working_hz.append(activity.sm_clock_hz)
        self._power_w = _higher(self._power_w, activity.power_w)
        self._throttles |= activity.throttles

    def vram(self) -> Vram:
        """Return the device's memory before, at its peak and, where it tells, of the process."""
        told = self._before is not None or self._process is not None
        return Vram(
            source="nvml" if told else "",
            before_bytes=self._before.used if self._before else None,
            # Of a card that was lost nobody knows the peak.
            peak_bytes=None if self._lost else self._peak,
            process_bytes=None if self._lost else self._process,
            total_bytes=self._before.total if self._before else None,
        )

    def state(self) -> GpuState:
        """Return the highest temperature, clock and power, the mean clock, and what throttled."""
        return GpuState(
            # In a container the driver's process numbers are not ours: then who is who is open.
            foreign_processes=None if self._process is None else len(self._seen - self._own),
            temperature_c=self._temperature_c,
            sm_clock_hz=self._sm_clock_hz,
            sm_clock_mean_hz=fmean(self._working_hz) if self._working_hz else None,
            power_w=self._power_w,
            throttle=", ".join(sorted(self._throttles)) or None,
            lost=self.why if self._lost else None,
        )

    def card(self) -> GpuCard:
        """Return what the device is, or why there is none."""
        card = self._ask(lambda device: device.card())
        return card or GpuCard(available=False, why=self.why or "not looked at")


Number = TypeVar("Number", int, float)


def _higher(peak: Number | None, now: Number | None) -> Number | None:
    """Return the higher of two figures; each may be missing."""
    if peak is None or now is None:
        return now if peak is None else peak
    return max(peak, now)


def gpu_card(find: Callable[[], Device] = first_device) -> GpuCard:
    """Return the card of the first device beside the CPU, or why there is none."""
    with GpuWatch(find) as watch:
        return watch.card()
