"""What a real card answered: NVML's words and a run of advice, both of one NVIDIA H200."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from llm_latency.machine.devices import GpuWatch, gpu_card
from llm_latency.machine.nvml import NvidiaDevice
from llm_latency.memory.dry_run import stored
from llm_latency.model.header import Header
from llm_latency.records.store import RunStore

DATA = Path(__file__).parents[1] / "data" / "h200"


class Recorded:
    """NVML as it answered, with nothing computing."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = json.loads((DATA / "nvml.json").read_text("utf-8"))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("nvmlDeviceGet", "nvmlSystemGet")):
            return getattr(pynvml, name)
        return lambda *arguments: self.answer(name, *arguments[1:])

    def answer(self, name: str, *arguments: int) -> Any:
        if arguments == (pynvml.nvmlMemory_v2,):
            return SimpleNamespace(**self.answers["memory_v2"])
        found = self.answers[name + (str(list(arguments)) if arguments else "")]
        return SimpleNamespace(**found) if isinstance(found, dict) else found

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index


def device() -> NvidiaDevice:
    return NvidiaDevice(Recorded(), {})


def test_its_card() -> None:
    card = gpu_card(device)
    assert (card.available, card.name, card.driver) == (True, "NVIDIA H200", "580.159.04")
    assert (card.total_bytes, card.reserved_bytes) == (150_754_820_096, 644_939_776)
    assert card.power_limit_w == 700.0


def test_an_idle_card_is_not_throttled_and_its_own_memory_is_nobodys() -> None:
    with GpuWatch(device) as watch:
        watch.sample(7)
        state, vram = watch.state(), watch.vram()
    assert (state.throttle, state.temperature_c, state.sm_clock_hz) == (None, 36.0, 345e6)
    assert vram.before_bytes == vram.peak_bytes == 644_939_776 and vram.process_bytes is None


@pytest.fixture
def run() -> RunStore:
    return RunStore(DATA)


def test_what_was_foretold_is_what_llama_cpp_held_on_the_card(run: RunStore) -> None:
    foretell = stored(run.info, Header.model_validate(run.info["header"]), "gpu")
    planned = [one for one in run.records() if one.trial.settings.n_threads is None]
    assert len(planned) >= 8
    for record in planned:
        assert record.buffers is not None
        held, told = record.buffers.by_device["CUDA0"], foretell(record.trial.settings).gpu
        assert told.weights_bytes == pytest.approx(held["weights_bytes"], rel=1e-4)
        assert (told.kv_bytes, told.compute_bytes) == (held["kv_bytes"], held["compute_bytes"])


def test_a_process_takes_more_of_the_card_than_its_buffers(run: RunStore) -> None:
    df = run.frame()
    assert set(df["status"]) == {"ok"} and not df["disturbed"].any()
    beyond = df["vram_process_bytes"] - df[["kv_bytes", "compute_bytes"]].sum(axis=1) - 106_430_464
    # CUDA's context and kernels: most of what a small model takes.
    assert beyond.between(550 * 2**20, 720 * 2**20).all()
