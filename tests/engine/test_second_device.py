"""Layers on a second device: what is in force, and where weights, KV cache and work lie."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from llm_latency.engine.log import in_host_memory
from llm_latency.machine import devices
from llm_latency.measure.trial import carry_out, engine_card
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Trial
from llm_latency.plan.workload import Workload
from llm_latency.questions.advise import needs
from llm_latency.records.record import EngineCard, Record
from tests.support import jobs
from tests.support.factories import SecondDevice

pytestmark = pytest.mark.engine
MIB = 2**20
BLOCKS = 8
"""Of synthetic:tiny, beside its output layer."""
N_CTX = 2048
KV_BYTES = N_CTX * 512
"""Of one block at that size: 1 MiB."""
WORKLOAD = Workload(prompt_tokens=8, max_tokens=2, repeats=0)


def measured(folder: Path, **settings: object) -> Record:
    asked = Settings.model_validate({"n_ctx": N_CTX, "n_batch": 512} | settings)
    trial = Trial(experiment="t", model="m", settings=asked, workload=WORKLOAD)
    return carry_out(jobs.job(folder, trial, timeout_s=60))


def on_device(record: Record) -> dict[str, int]:
    """Return what lies outside host memory, by purpose."""
    held = [h for d, h in record.buffers.by_device.items() if not in_host_memory(d)]
    assert len(held) <= 1
    return held[0] if held else {}


def test_the_engines_card_names_the_device(tmp_path: Path, second_device: SecondDevice) -> None:
    second_device()
    card = engine_card(tmp_path / "engine.log")
    assert isinstance(card, EngineCard)
    assert card.gpu_offload
    assert [(device.name, device.kind) for device in card.devices] == [
        ("CPU", "cpu"), ("RPC0", "gpu")
    ]  # fmt: skip
    assert [device.unified for device in card.devices] == [None, False]


def test_advice_and_runs_put_the_model_where_the_device_is(second_device: SecondDevice) -> None:
    second_device(3 << 30)
    if not devices.gpu_card().available:  # of which NVML would tell the memory
        assert needs.here([]) == needs.here(-1) == {
            "on": "gpu", "memory_there_bytes": 3 << 30, "unified": False, "can_be_withheld": False
        }  # fmt: skip
    assert needs.here(0)["on"] == "cpu"


@pytest.mark.parametrize("layers", [0, 2])
def test_a_device_is_not_even_used_for_batches_where_no_layer_is_to_be_on_it(
    tmp_path: Path, second_device: SecondDevice, layers: int
) -> None:
    second_device()
    record = measured(tmp_path, n_gpu_layers=layers)
    assert record.status == "ok"
    log = next(tmp_path.rglob("*.log")).read_text(encoding="utf-8")
    assert ("using device RPC0" in log) is (layers > 0)
    assert bool(on_device(record)) is (layers > 0)
    assert all(bool(memory.devices) is (layers > 0) for memory in record.memory.values())


def test_layers_go_to_the_device_the_output_first(
    tmp_path: Path, second_device: SecondDevice
) -> None:
    second_device()
    held = []
    for layers in [*range(BLOCKS + 2), -1]:
        record = measured(tmp_path / str(layers), n_gpu_layers=layers)
        in_force = BLOCKS + 1 if layers < 0 else layers
        assert (record.status, record.reason) == ("ok", None)
        assert record.effective is not None
        assert record.effective.n_gpu_layers == in_force
        assert ("RPC0" in (record.effective.backend or "")) is (layers != 0)
        device = on_device(record)
        # The output layer is one of them, and it keeps no KV cache.
        assert device.get("kv_bytes", 0) == max(0, in_force - 1) * KV_BYTES
        assert record.buffers.kv_bytes == BLOCKS * KV_BYTES
        held.append(device.get("weights_bytes", 0))
    assert held[0] == 0
    output, *blocks, all_again = [after - before for before, after in itertools.pairwise(held)]
    assert output > max(blocks) > 0
    assert max(blocks) - min(blocks) < 0.02 * MIB  # llama.cpp prints hundredths of MiB
    assert (len(blocks), all_again) == (BLOCKS, 0)


def test_the_kv_cache_stays_on_the_host_where_that_is_asked(
    tmp_path: Path, second_device: SecondDevice
) -> None:
    second_device()
    for offload in (True, False):
        record = measured(tmp_path / str(offload), n_gpu_layers=-1, offload_kqv=offload)
        assert record.status == "ok"
        assert record.effective is not None
        assert record.effective.offload_kqv is offload
        assert on_device(record).get("kv_bytes", 0) == offload * BLOCKS * KV_BYTES


def test_a_device_tells_its_size_and_what_is_used_of_it(
    tmp_path: Path, second_device: SecondDevice
) -> None:
    size = 300 * MIB
    second_device(size)
    record = measured(tmp_path, n_gpu_layers=-1)
    moments = [record.memory[at].devices["RPC0"] for at in ("before", "after_load", "after_last")]
    assert {moment.total_bytes for moment in moments} == {size}
    before, loaded, last = [moment.used_bytes or 0 for moment in moments]
    allocated = sum(on_device(record).values())
    assert 0 <= before < MIB
    assert abs(loaded - before - allocated) < 8 * MIB  # what it works with comes on top
    assert loaded <= last < size
