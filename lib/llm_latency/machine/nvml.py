"""The NVIDIA card that a CUDA program sees first, asked through NVML.

NVML counts every card and takes no notice of ``CUDA_VISIBLE_DEVICES``; a CUDA program sees only
what that variable names, in its order, up to the first name that is wrong. A card in MIG mode is
cut into instances, of which a program sees one; memory and processes are the instance's own,
temperature and clocks are the card's.

NVML does not tell all of every card: the memory of one process is missing on Windows (WDDM) and
WSL2, process numbers inside a container are not those of the driver, and a GPU that shares the
RAM of the system (Jetson, GB10) has no memory of its own to tell of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pynvml

from llm_latency.machine.devices import (
    Activity,
    DeviceLostError,
    GpuCard,
    Memory,
    NoDeviceError,
)
from llm_latency.records.record import POWER_CAP

VARIABLE = "CUDA_VISIBLE_DEVICES"
THROTTLES = {
    "HwSlowdown": 0x8,
    POWER_CAP: 0x4,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}
"""Bits of NVML's clocks-event reasons that mean a slower card (nvml.h)."""
IDLE = 0x1
"""The bit of a card that has nothing to do."""
LOST = (15, 16)
"""NVML's errors of a card that is gone until it is started anew: lost, and reset required."""
NOT_AVAILABLE = 2**64 - 1
"""NVML's number for a size that it does not know."""
MEMORY_V2 = 0x02000028
"""Version of NVML's answer that tells the driver's own memory apart."""


class Visible(NamedTuple):
    """What a program computes on: a card, or an instance of one."""

    handle: Any
    """Of memory and processes: NVML's handle of the card or of the instance."""
    chip: Any
    """Of temperature and clocks: the card's."""


class NvidiaDevice:
    """The first card that a CUDA program sees; :meth:`close` lets go of NVML.

    Parameters
    ----------
    nvml
        The ``pynvml`` module, or what stands in for it.
    environment
        Where ``CUDA_VISIBLE_DEVICES`` is looked up, which names the card.

    Raises
    ------
    NoDeviceError
        If a CUDA program sees none.
    """

    def __init__(self, nvml: Any = pynvml, environment: Mapping[str, str] = os.environ) -> None:
        self._nvml = nvml
        self._refusals: dict[str, str] = {}
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise NoDeviceError(f"NVML found no NVIDIA card: {error}") from None
        try:
            devices = visible(nvml, environment)
            self._note = note(nvml, devices, environment)
        except nvml.NVMLError as error:
            self.close()
            raise NoDeviceError(f"NVML found no NVIDIA card: {error}") from None
        except NoDeviceError:
            self.close()
            raise
        self._handle, self._chip = devices[0]

    def close(self) -> None:
        """Let go of NVML; a card that is lost does not even answer that."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return

    def _ask(self, call: str, *arguments: Any) -> Any:
        """Return NVML's answer; ``None`` where this card, driver or binding does not give it."""
        try:
            return _answer(getattr(self._nvml, call), *arguments)
        except (AttributeError, TypeError):  # a binding of another age
            return None
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) in LOST:
                raise DeviceLostError(str(error)) from None
            self._refusals[call] = str(error)
            return None

    def memory(self) -> Memory | None:
        """Return the memory of the card or instance; ``None`` where NVML does not tell."""
        memory = self._ask("nvmlDeviceGetMemoryInfo", self._handle)
        return None if memory is None else Memory(int(memory.used), int(memory.total))

    def activity(self) -> Activity:
        """Return who computes on the card, how warm and how fast it is, and what slows it."""
        processes = {}
        for process in self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle) or []:
            used = getattr(process, "usedGpuMemory", None)
            processes[int(process.pid)] = None if used in (None, NOT_AVAILABLE) else int(used)
        celsius = self._ask("nvmlDeviceGetTemperature", self._chip, self._nvml.NVML_TEMPERATURE_GPU)
        megahertz = self._ask("nvmlDeviceGetClockInfo", self._chip, self._nvml.NVML_CLOCK_SM)
        # The power of a card that is cut up is also that of others: an instance has none.
        milliwatts = self._ask("nvmlDeviceGetPowerUsage", self._handle)
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._chip)
        if reasons is None:  # older drivers have an older name for it
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._chip)
        bits = int(reasons or 0)
        return Activity(
            processes=processes,
            temperature_c=None if celsius is None else float(celsius),
            sm_clock_hz=None if megahertz is None else megahertz * 1e6,
            power_w=None if milliwatts is None else milliwatts / 1e3,
            throttles=frozenset(n for n, bit in THROTTLES.items() if bits & bit),
            idle=bool(bits & IDLE),
        )

    def card(self) -> GpuCard:
        """Return the card's name, driver and size."""
        # The limit of a card that is cut up is not that of an instance.
        milliwatts = self._ask("nvmlDeviceGetPowerManagementLimit", self._handle)
        memory = self.memory()
        apart = self._ask("nvmlDeviceGetMemoryInfo", self._handle, MEMORY_V2)
        refusal = self._refusals.get("nvmlDeviceGetMemoryInfo", "no answer")
        return GpuCard(
            available=True,
            note=self._note,
            name=self._ask("nvmlDeviceGetName", self._handle)
            or self._ask("nvmlDeviceGetName", self._chip),
            uuid=self._ask("nvmlDeviceGetUUID", self._handle),
            driver=self._ask("nvmlSystemGetDriverVersion"),
            total_bytes=memory.total if memory else None,
            total_bytes_why=None if memory else f"NVML does not tell it of this card ({refusal})",
            reserved_bytes=None if apart is None else int(apart.reserved),
            power_limit_w=None if milliwatts is None else milliwatts / 1e3,
        )


def _answer(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what NVML answers, words as text: a driver may put any bytes there."""
    try:
        answer = call(*arguments)
    except UnicodeDecodeError as error:  # the binding's, which takes them for UTF-8
        answer = error.object
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def visible(nvml: Any, environment: Mapping[str, str]) -> list[Visible]:
    """Return the devices that a CUDA program sees, the first one first.

    Parameters
    ----------
    nvml
        The ``pynvml`` module, initialised.
    environment
        Where ``CUDA_VISIBLE_DEVICES`` is looked up.

    Raises
    ------
    NoDeviceError
        If it sees none.
    """
    cards = _cards(nvml)
    if not cards:
        raise NoDeviceError("NVML sees no NVIDIA card")
    names = environment.get(VARIABLE)
    if names is None:
        devices = [device for card in cards if (device := _whole(nvml, card))]
        if not devices:
            raise NoDeviceError("the card is in MIG mode and has no instance; make one, or end MIG")
        return devices
    devices = []
    for name in names.split(","):
        device = _named(nvml, cards, name.strip())
        if device is None:  # CUDA sees nothing behind a name that is wrong
            break
        devices.append(device)
    if not devices:
        raise NoDeviceError(f"{VARIABLE}={names!r} hides every NVIDIA card")
    return devices


def note(nvml: Any, devices: list[Visible], environment: Mapping[str, str]) -> str | None:
    """Return what a reader must know where there are several cards; ``None`` for one."""
    words = []
    if len(devices) > 1:
        words.append(
            f"the first of {len(devices)} that a CUDA program sees; llama.cpp spreads a model over "
            f"all of them unless {VARIABLE} names one"
        )
    by_number = not environment.get(VARIABLE, "0").strip().upper().startswith(("GPU-", "MIG-"))
    unordered = by_number and environment.get("CUDA_DEVICE_ORDER", "") != "PCI_BUS_ID"
    if unordered and len({_answer(nvml.nvmlDeviceGetName, card) for card in _cards(nvml)}) > 1:
        words.append(
            "CUDA counts the fastest card first and NVML does not: set CUDA_DEVICE_ORDER="
            f"PCI_BUS_ID, or name the card in {VARIABLE} by its UUID, to be sure that this is the "
            "one that computes"
        )
    return "; ".join(words) or None


def _cards(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]


def _named(nvml: Any, cards: list[Any], name: str) -> Visible | None:
    """Return the device of one name of the variable; ``None`` if it names none."""
    if name.isdecimal():
        return _whole(nvml, cards[int(name)]) if int(name) < len(cards) else None
    upper = name.upper()
    if upper.startswith("GPU-"):
        # The beginning of a UUID is enough where it is that of one card alone.
        alike = [card for card in cards if _uuid(nvml, card).startswith(upper)]
        return _whole(nvml, alike[0]) if len(alike) == 1 else None
    if upper.startswith("MIG-"):
        for card in cards:
            for instance in _instances(nvml, card):
                if _uuid(nvml, instance) == upper:
                    return Visible(instance, card)
    return None


def _whole(nvml: Any, card: Any) -> Visible | None:
    """Return a card as a program sees it: in MIG mode its first instance, if it has one."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(card)
    except nvml.NVMLError:  # most cards know no MIG
        current = 0
    if not current:
        return Visible(card, card)
    return next((Visible(instance, card) for instance in _instances(nvml, card)), None)


def _instances(nvml: Any, card: Any) -> Iterator[Any]:
    try:
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(card)
    except nvml.NVMLError:
        return
    for number in range(most):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
        except nvml.NVMLError:  # the numbers have gaps
            continue


def _uuid(nvml: Any, handle: Any) -> str:
    return str(_answer(nvml.nvmlDeviceGetUUID, handle)).upper()
