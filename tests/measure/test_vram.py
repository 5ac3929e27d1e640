"""Whose word on VRAM counts: NVML's, the engine's, or the sum of llama.cpp's buffers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_latency.measure.trial import carry_out
from llm_latency.measure.vram import vram_of
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Trial
from llm_latency.plan.workload import Workload
from llm_latency.records import versions
from llm_latency.records.record import Buffers, DeviceMemory, ProcessMemory, Vram
from llm_latency.records.rows import rows
from tests.support import factories, jobs
from tests.support.factories import SecondDevice

HELD = Buffers(
    by_device={
        "CPU": {"weights_bytes": 1000},
        "CUDA_Host": {"output_bytes": 1000},
        "Vulkan0": {"weights_bytes": 5, "compute_bytes": 2},
        "Vulkan1": {"kv_bytes": 3},
    }
)
UNKNOWN = None


def phases(*used: dict[str, int | None], total: int = 100) -> dict[str, ProcessMemory]:
    """Return the memory of phases by what is used of each device."""
    names = ("before", "after_load", "after_first", "after_last")
    return {
        phase: ProcessMemory(
            rss_bytes=1,
            devices={n: DeviceMemory(used_bytes=u, total_bytes=total) for n, u in held.items()},
        )
        for phase, held in zip(names, used, strict=False)
    }


TOLD = phases(
    {"Vulkan0": 10, "Vulkan1": 1}, {"Vulkan0": 30, "Vulkan1": 1}, {"Vulkan0": 20, "Vulkan1": 1}
)
SILENT = phases({"Vulkan0": UNKNOWN, "Vulkan1": UNKNOWN}, {"Vulkan0": UNKNOWN, "Vulkan1": UNKNOWN})
STILL = phases({"Vulkan0": 10}, {"Vulkan0": 10})
METAL = phases({"Metal": UNKNOWN}, {"Metal": 30})
ENGINE = Vram(source="engine", before_bytes=11, peak_bytes=31, total_bytes=200)
NVML = Vram(source="nvml", before_bytes=7, peak_bytes=9, total_bytes=60)


@pytest.mark.parametrize(
    ("watched", "memory", "buffers", "expected"),
    [
        (NVML, TOLD, HELD, NVML),
        (Vram(source="nvml", process_bytes=4), TOLD, HELD,
         Vram(source="nvml", process_bytes=4, total_bytes=200)),
        (Vram(), TOLD, HELD, ENGINE),
        (NVML.model_copy(update={"peak_bytes": 7}), TOLD, HELD,
         ENGINE.model_copy(update={"total_bytes": 60})),
        (Vram(), SILENT, HELD, Vram(source="buffers", process_bytes=10, total_bytes=200)),
        (Vram(), STILL, HELD, Vram(source="buffers", process_bytes=10, total_bytes=100)),
        (Vram(), METAL, HELD,
         Vram(source="engine", before_bytes=0, peak_bytes=30, total_bytes=100)),
        (Vram(), {}, HELD, Vram(source="buffers", process_bytes=10)),
        (Vram(), STILL, Buffers(),
         Vram(source="engine", before_bytes=10, peak_bytes=10, total_bytes=100)),
        (Vram(), SILENT, Buffers(), Vram(source="engine", total_bytes=200)),
        (Vram(), phases({}, {}), Buffers(by_device={"CPU": {"kv_bytes": 9}}), Vram()),
    ],
)  # fmt: skip
def test_the_first_that_tells_of_a_change_is_believed(
    watched: Vram, memory: dict[str, ProcessMemory], buffers: Buffers, expected: Vram
) -> None:
    assert vram_of(watched, memory, buffers) == expected


@pytest.mark.engine
@pytest.mark.parametrize("layers", [0, 4])
def test_the_engine_tells_of_a_device_what_its_buffers_take(
    tmp_path: Path, second_device: SecondDevice, layers: int
) -> None:
    second_device()
    trial = Trial(
        experiment="t",
        model="m",
        settings=Settings(n_ctx=512, n_batch=256, n_gpu_layers=layers),
        workload=Workload(prompt_tokens=8, max_tokens=2, repeats=0),
    )
    record = carry_out(jobs.job(tmp_path, trial, timeout_s=60))
    assert record.status == "ok"
    device = sum(
        sum(held.values()) for name, held in record.buffers.by_device.items() if "RPC" in name
    )
    (row,) = rows(record)
    assert bool(device) is bool(layers)
    if record.vram.source != "nvml":  # a card beside it
        assert row["vram_source"] == ("engine" if layers else "")
        assert (row["vram_total_bytes"], row["vram_process_bytes"]) == (
            2**31 if layers else None,
            None,
        )
        # What the device's process takes beside the buffers is a little.
        assert not layers or 0 <= row["vram_delta_bytes"] - device < 2**20


def test_vram_of_older_records_is_nvmls() -> None:
    record = factories.record(Settings(n_ctx=512, n_batch=256), gpu=True)
    stored = json.loads(record.model_dump_json()) | {"schema_version": 2}
    del stored["vram"]["source"]
    assert versions.record(json.dumps(stored)).vram == record.vram
    stored["vram"] = {}
    assert versions.record(json.dumps(stored)).vram.source == ""
