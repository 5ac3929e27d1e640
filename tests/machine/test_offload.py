"""Which devices layers go to, and what memory there is for them."""

from __future__ import annotations

import pytest

from llm_latency.machine import limits, offload
from llm_latency.machine.devices import GpuCard
from llm_latency.records.record import EngineDevice

RAM = 64
NONE = GpuCard(available=False)
CARD = GpuCard(available=True, total_bytes=24)
GB10 = GpuCard(available=True, name="NVIDIA GB10")


def seen(name: str, kind: str, total: int | None, description: str = "") -> EngineDevice:
    made = {"name": name, "kind": kind, "total_bytes": total, "description": description}
    return EngineDevice.model_validate(made)


CPU = seen("CPU", "cpu", RAM)
CUDA = seen("CUDA0", "gpu", 25, "NVIDIA GeForce RTX 4090")
RADEON = seen("Vulkan0", "gpu", 16, "AMD Radeon RX 7800 XT")
APPLE = seen("Metal", "gpu", 48, "Apple M3 Max")
INTEL = seen("Vulkan0", "igpu", 32, "Intel(R) Arc Graphics")
RPC = seen("RPC0", "gpu", 8, "127.0.0.1:50052")
BLAS = seen("BLAS", "accel", None)


@pytest.mark.parametrize(
    ("devices", "card", "memory", "unified"),
    [
        ([CPU, BLAS], NONE, None, []),
        ([CPU], CARD, None, []),  # an engine that cannot use it
        ([CUDA, CPU], CARD, 24, [False]),
        ([CUDA, CPU], GB10, 25, [True]),
        ([RADEON, CPU], NONE, 16, [False]),
        ([RADEON, CPU], CARD, 16, [False]),  # not the card that the driver shows
        ([RADEON, RADEON, CPU], NONE, 32, [False, False]),
        ([APPLE, BLAS, CPU], NONE, 48, [True]),
        ([INTEL, CPU], NONE, 32, [True]),
        ([INTEL, INTEL, CPU], NONE, 32, [True, True]),  # one pool, seen twice
        ([RADEON, INTEL, CPU], NONE, 16, [False]),
        ([RPC, INTEL, CPU], NONE, 40, [False, True]),
        ([seen("SYCL0", "gpu", None), CPU], NONE, RAM, [False]),
    ],
)
def test_the_memory_is_that_of_the_devices_that_are_used(
    devices: list[EngineDevice],
    card: GpuCard,
    memory: int | None,
    unified: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "memory_limit_bytes", lambda: RAM)
    known = [one.model_copy(update={"unified": offload.shares_ram(one, card)}) for one in devices]
    assert [one.unified for one in offload.taken(known)] == unified
    assert offload.memory_bytes(known, card) == memory


def test_a_pool_is_no_larger_than_what_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "memory_limit_bytes", lambda: 10)
    assert offload.memory_bytes([APPLE.model_copy(update={"unified": True})], NONE) == 10
