"""The memory that layers of a model are kept in where the engine sees a device for them.

Which devices these are, is llama.cpp's choice: all GPUs, and those that share the RAM only where
there is no other. How much memory they have, the driver tells of an NVIDIA card, and the engine
of any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_latency.machine import limits
from llm_latency.machine.devices import GpuCard
from llm_latency.records.record import EngineDevice


def shares_ram(device: EngineDevice, card: GpuCard) -> bool:
    """Return whether a device's memory is the machine's RAM.

    An integrated GPU says so. Apple's and some of NVIDIA's (Jetson, GB10, Thor) call themselves
    GPUs; of the latter NVML tells no memory.
    """
    apart = not _is_nvidia(device) or not card.available or card.total_bytes is not None
    return device.kind == "igpu" or device.description.startswith("Apple") or not apart


def taken(devices: Sequence[EngineDevice]) -> list[EngineDevice]:
    """Return the devices that llama.cpp spreads layers over, among those that the engine sees."""
    gpus = [one for one in devices if one.kind == "gpu"]
    here = [one for one in gpus if not one.name.startswith("RPC")]
    return gpus if here else [*gpus, *(one for one in devices if one.kind == "igpu")]


def memory_bytes(devices: Sequence[EngineDevice], card: GpuCard) -> int | None:
    """Return the memory that there is for layers; ``None`` where there is no device for them.

    Parameters
    ----------
    devices
        Those that the engine sees.
    card
        The card that the driver shows.
    """
    used = taken(devices)
    if not used:
        return None
    if all_of_card(used, card):
        return card.total_bytes
    ram = limits.memory_limit_bytes()
    if all(one.unified for one in used):  # the same memory, however many see it
        return min(max(one.total_bytes or ram for one in used), ram)
    return sum(one.total_bytes or 0 for one in used) or ram


def all_of_card(devices: Sequence[EngineDevice], card: GpuCard) -> bool:
    """Return whether some devices are what the driver shows, with memory of their own."""
    return card.total_bytes is not None and all(_is_nvidia(one) for one in devices)


def _is_nvidia(device: EngineDevice) -> bool:
    return device.name.startswith("CUDA") or "NVIDIA" in device.description
