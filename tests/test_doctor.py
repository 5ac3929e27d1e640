"""The doctor: what the engine supports, and what to do where it dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_latency import doctor
from llm_latency.__main__ import main
from llm_latency.machine import devices, host
from llm_latency.records.record import EngineCard
from tests.support.factories import FakeWorker


@pytest.mark.engine
def test_a_working_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("machine", "GPU", "llama_cpp_python", "device    CPU", "the engine works"):
        assert word in shown


@pytest.mark.parametrize(
    ("behaviour", "by", "words"),
    [
        ("dies_at_once", "SIGILL", ["does not start", "SIGILL", "--engine portable"]),
        ("dies", "SIGSEGV", ["token     none: crashed", "AMX", "--engine portable"]),
    ],
)
def test_an_engine_that_dies_names_the_build_line(
    capsys: pytest.CaptureFixture[str],
    fake_worker: FakeWorker,
    behaviour: str,
    by: str,
    words: list[str],
) -> None:
    fake_worker(behaviour, by=by)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    for word in words:
        assert word in shown


def test_hints_name_what_the_engine_leaves_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = host.machine_card().model_copy(update={"cpu_features": ["avx2", "fma"]})
    slow = EngineCard(version="0", system_info="CPU : SSE3 = 1", gpu_offload=False, devices=[])
    fast = slow.model_copy(update={"system_info": "AVX2 = 1 | FMA = 1"})
    card = devices.GpuCard(available=True, name="A Card")
    none = devices.GpuCard(available=False)
    assert "avx2, fma" in doctor.hints(slow, machine, none)[0]
    monkeypatch.setattr(doctor, "other_gpus", list)
    assert doctor.hints(fast, machine, none) == []
    assert "--engine cuda" in doctor.hints(fast, machine, card)[0]


def test_gpus_of_other_makers_are_hinted_at(tmp_path: Path) -> None:
    for number, vendor in enumerate(["0x10de", "0x8086", "0x1002", "0x1002"]):
        (tmp_path / f"card{number}" / "device").mkdir(parents=True)
        (tmp_path / f"card{number}" / "device" / "vendor").write_text(f"{vendor}\n")
    assert doctor.other_gpus(tmp_path) == [("AMD", "hip"), ("Intel", "sycl")]
    assert doctor.other_gpus(tmp_path / "none") == []


def test_a_card_whose_memory_is_not_told_is_no_card_of_0_gib(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake_worker: FakeWorker,
) -> None:
    card = devices.GpuCard(available=True, name="Shared", total_bytes_why="(Not Supported)")
    monkeypatch.setattr(devices, "gpu_card", lambda: card)
    fake_worker("dies_at_once", by="SIGILL")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "Shared, memory not known: (Not Supported), driver" in shown
    assert "0.0 GiB" not in shown


def test_wrong_commands_end_with_one_sentence(
    capsys: pytest.CaptureFixture[str], outputs: object
) -> None:
    assert main(["report", "nosuch.ipynb"]) == 2
    assert "nosuch.ipynb" in capsys.readouterr().err
    assert main(["runs"]) == 0
