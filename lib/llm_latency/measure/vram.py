"""The VRAM that a trial took, by whoever can tell of it.

NVML sees an NVIDIA card from outside, all the time and in part by process. Of any other device
the engine itself tells how much is used, between the phases of the trial. Where neither tells
that anything changed, as of a device that calls all its memory free, what is left is the sum of
the buffers that llama.cpp said it allocated there: a little less than what is really taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_latency.engine.log import in_host_memory
from llm_latency.records.record import Buffers, ProcessMemory, Vram


def vram_of(watched: Vram, memory: Mapping[str, ProcessMemory], buffers: Buffers) -> Vram:
    """Return the VRAM of a trial by the first that tells of a change.

    Parameters
    ----------
    watched
        What was seen from outside.
    memory
        The process's memory by phase, and that of the engine's devices.
    buffers
        What llama.cpp said it allocated.
    """
    told = _by_engine(memory)
    total = watched.total_bytes or told.total_bytes
    for one in (watched, told):
        if one.process_bytes is not None or (one.delta_bytes or 0) > 0:
            return one.model_copy(update={"total_bytes": total})
    held = sum(
        sum(parts.values()) for name, parts in buffers.by_device.items() if not in_host_memory(name)
    )
    if held:
        return Vram(process_bytes=held, total_bytes=total, source="buffers")
    return watched if watched.source else told


def _by_engine(memory: Mapping[str, ProcessMemory]) -> Vram:
    """Return the sum over the devices that tell of their use, which not all do.

    One that called all its memory free and later does not, as Metal does, had nothing in use.
    """
    phases = {phase: held.devices for phase, held in memory.items() if held.devices}
    if not phases:
        return Vram()
    total = sum(one.total_bytes or 0 for one in next(iter(phases.values())).values())
    each = [item for devices in phases.values() for item in devices.items()]
    telling = {name for name, one in each if one.used_bytes is not None}
    used = {
        phase: sum(devices[name].used_bytes or 0 for name in telling)
        for phase, devices in phases.items()
        if telling
    }
    return Vram(
        before_bytes=used.get("before"),
        peak_bytes=max(used.values(), default=None),
        total_bytes=total or None,
        source="engine" if total else "",
    )
