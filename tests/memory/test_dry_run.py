"""What llama.cpp says that it would allocate, against what it then allocates."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from llm_latency.engine.dry_run import DryRun, NotForetoldError
from llm_latency.engine.llama import Model
from llm_latency.engine.log import in_host_memory
from llm_latency.measure.trial import carry_out
from llm_latency.memory.dry_run import foretelling, stored
from llm_latency.memory.predict import Parts
from llm_latency.model import names
from llm_latency.model.header import read_header
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Trial
from llm_latency.plan.workload import Workload
from tests.support import jobs
from tests.support.factories import SecondDevice

pytestmark = pytest.mark.engine
MIB = 2**20


def test_every_part_is_what_is_allocated() -> None:
    chance, kinds = random.Random(3), ("f16", "q8_0", "f32")
    for name in ("synthetic:tiny", "synthetic:tiny:q4_0", "synthetic:125m"):
        path = names.resolve(name)
        with foretelling(path, read_header(path), "cpu") as foretell:
            for _ in range(5):
                flash = chance.random() < 0.5
                kind = chance.choice(kinds)
                settings = Settings(
                    n_ctx=chance.choice([256, 1000, 4096]),
                    n_batch=256,
                    n_ubatch=chance.choice([32, 256]),
                    flash_attn=flash,
                    use_mmap=chance.random() < 0.5,
                    type_k=kind,  # type: ignore[arg-type]
                    type_v=kind if flash else "f16",  # type: ignore[arg-type]
                )
                with open(os.devnull, "w") as nowhere, Model(path, settings, nowhere) as model:
                    real = model.log.buffers()
                found = foretell(settings).host
                for part in ("kv_bytes", "compute_bytes", "output_bytes"):
                    allocated = getattr(real, part)
                    assert abs(getattr(found, part) - allocated) <= 0.0051 * MIB, (part, settings)
                assert found.weights_bytes == pytest.approx(real.weights_bytes, rel=0.03)


def test_layers_on_a_device_that_is_not_there(tiny: Path) -> None:
    header = read_header(tiny)
    with foretelling(tiny, header, "gpu") as foretell:
        by_layers = {k: foretell(Settings(n_gpu_layers=k)) for k in (0, 1, 2, 9, 99, -1)}
    # 8 blocks, whose caches of 1 MiB follow them; the output layer is the first to go.
    assert [by_layers[k].gpu.kv_bytes / MIB for k in (0, 1, 2, 9)] == [0, 0, 1, 8]
    assert by_layers[0].gpu.total_bytes == 0
    output = next(t.bytes for t in header.tensors if t.name == "output.weight")
    assert by_layers[1].gpu.weights_bytes >= output
    assert by_layers[9] == by_layers[99] == by_layers[-1]
    assert by_layers[9].host.compute_bytes > 0


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize(
    ("name", "layers"),
    [("synthetic:tiny", -1), ("synthetic:tiny", 5), ("synthetic:tiny", 2), ("synthetic:125m", 5)],
)
def test_a_device_holds_what_was_foretold_of_a_stand_in(
    tmp_path: Path, second_device: SecondDevice, name: str, layers: int, flash_attn: bool
) -> None:
    second_device()
    path = names.resolve(name)
    asked = Settings(n_ctx=2048, n_gpu_layers=layers, flash_attn=flash_attn)
    work = Workload(prompt_tokens=8, max_tokens=2, repeats=0)
    trial = Trial(experiment="t", model="m", settings=asked, workload=work)
    record = carry_out(jobs.job(tmp_path, trial, model=path))
    assert record.status == "ok"
    with foretelling(path, read_header(path), "gpu") as foretell:
        foretold = foretell(asked)
    for side, on_host in ((foretold.host, True), (foretold.gpu, False)):
        real = {part: 0 for part in Parts.model_fields}
        for device, held in record.buffers.by_device.items():
            for part, size in held.items():
                real[part] += size * (in_host_memory(device) is on_host)
        for part, size in real.items():
            assert getattr(side, part) == pytest.approx(size, abs=0.02 * MIB), (part, on_host)


def test_a_context_of_gigabytes_of_cells_is_not_planned(tiny: Path) -> None:
    with DryRun(tiny) as dry_run, pytest.raises(NotForetoldError, match="4,194,304"):
        dry_run.ask(Settings(n_ctx=20_000_000), "cpu")


def test_a_hole_behind_the_header_is_enough(tiny: Path, tmp_path: Path) -> None:
    hollow = tmp_path / "hollow.gguf"
    with tiny.open("rb") as whole, hollow.open("wb") as file:
        file.write(whole.read(2 * MIB))
        file.truncate(tiny.stat().st_size)
    with DryRun(tiny) as one, DryRun(hollow) as other:
        assert one.ask(Settings(), "cpu") == other.ask(Settings(), "cpu")


def test_what_llama_does_not_load_is_not_foretold(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with DryRun(broken) as dry_run:
        for _ in range(2):
            with pytest.raises(NotForetoldError):
                dry_run.ask(Settings(), "cpu")


def test_what_was_foretold_is_kept_with_the_run(tiny: Path) -> None:
    header, asked = read_header(tiny), Settings(n_ctx=512)
    with DryRun(tiny) as dry_run:
        allocation = dry_run.ask(asked, "gpu").model_dump()
    info = {"foretold": [{"settings": asked.model_dump(), "on": "gpu", "allocation": allocation}]}
    with foretelling(tiny, header, "gpu") as foretell:
        assert stored(info, header, "gpu")(asked) == foretell(asked)
