"""What the GPU's backend takes for itself: seen by NVML, less what llama.cpp allocated there."""

from __future__ import annotations

from typing import Any

import factories
import pytest

from llm_latency.overhead import gpu_overhead
from llm_latency.record import Buffers, Record, Vram
from llm_latency.spec import Settings

ON_CARD = {"weights": 700, "KV": 200, "compute": 100}


def record(vram: Vram, status: str = "ok", devices: dict[str, Any] | None = None) -> Record:
    held = {"CUDA0": ON_CARD, "CUDA_Host": {"output": 5000}, "CPU_Mapped": {"weights": 9000}}
    more = {"vram": vram, "buffers": Buffers(by_device=devices or held), "status": status}
    return factories.record(Settings(), more=more)


def test_what_the_process_holds_beyond_its_buffers() -> None:
    found = gpu_overhead([record(Vram(process_bytes=1000 + extra)) for extra in (30, 10, 20)])
    assert (found.median, found.low, found.high, found.n) == (20, 10, 30, 3)


def test_without_the_process_the_change_of_the_card_is_taken() -> None:
    found = gpu_overhead([record(Vram(before_bytes=500, peak_bytes=1600))])
    assert found.median == 100


@pytest.mark.parametrize(
    "one",
    [
        record(Vram()),
        record(Vram(process_bytes=1500), status="invalid"),
        record(Vram(process_bytes=1500), devices={"CPU": {"weights": 700}}),
    ],
)
def test_what_cannot_tell_does_not_count(one: Record) -> None:
    assert gpu_overhead([one]).n == 0
