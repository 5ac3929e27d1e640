"""A device whose memory runs out, wherever it does, is out of memory and not a crash."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from llm_latency.engine.log import in_host_memory, speaks_of_memory
from llm_latency.measure.outcome import where_ended
from llm_latency.measure.trial import carry_out
from llm_latency.model import names
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Trial
from llm_latency.plan.workload import Workload
from llm_latency.records.record import Record
from tests.support import jobs
from tests.support import second_device as second_device_rig
from tests.support.factories import SecondDevice

pytestmark = pytest.mark.engine
MIB = 2**20


def measured(folder: Path, n_ctx: int) -> Record:
    trial = Trial(
        experiment="t",
        model="m",
        settings=Settings(n_ctx=n_ctx, n_gpu_layers=-1),
        workload=Workload(prompt_tokens=400, max_tokens=2, repeats=0),
    )
    return carry_out(jobs.job(folder, trial, model=names.resolve("synthetic:125m"), timeout_s=60))


@pytest.mark.parametrize(
    ("size_mib", "n_ctx", "what"),
    [
        (60, 512, "failed to load model"),
        (220, 32768, "failed to allocate buffer for kv cache"),
        (160, 512, "failed to allocate compute"),
    ],
)
def test_memory_that_runs_out_while_loading(
    tmp_path: Path, second_device: SecondDevice, size_mib: int, n_ctx: int, what: str
) -> None:
    second_device(size_mib * MIB)
    record = measured(tmp_path, n_ctx=n_ctx)
    assert record.status == "oom"
    assert speaks_of_memory(record.reason or "")
    assert what in (record.reason or "")
    assert record.generations == []


def test_memory_that_runs_out_in_the_middle_of_an_answer(
    tmp_path: Path, second_device: SecondDevice
) -> None:
    second_device(2000 * MIB)
    enough = measured(tmp_path / "enough", n_ctx=512)
    assert (enough.status, enough.reason) == ("ok", None)
    # Room for its buffers and for little else: what evaluation needs beside them is not there.
    by_device = enough.buffers.by_device
    held = [h for device, h in by_device.items() if not in_host_memory(device)]
    second_device(sum(held[0].values()) + MIB)
    record = measured(tmp_path / "short", n_ctx=512)
    assert record.status == "oom"
    assert (record.exit_code or 0) < 0
    assert where_ended(record.reason or "") == "in the first generation"
    assert speaks_of_memory(record.reason or "")


def test_a_device_is_gone_with_its_trial(tmp_path: Path, second_device: SecondDevice) -> None:
    second_device()
    endpoint = second_device_rig.worker(0)[-2]
    assert measured(tmp_path, n_ctx=512).status == "ok"
    left = [p for p in psutil.process_iter(["cmdline"]) if endpoint in (p.info["cmdline"] or ())]
    assert psutil.wait_procs(left, timeout=5)[1] == []
