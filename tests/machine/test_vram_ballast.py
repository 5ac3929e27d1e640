"""A ballast on a card that is only counted: the sums, the pipes and the ends are real."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_latency.errors import LabError
from llm_latency.machine import devices, vram_ballast
from llm_latency.machine.nvml import NvidiaDevice
from tests.support.cuda_library import CONTEXT, Library

GIB = 2**30
SUPPORT = Path(__file__).parents[1] / "support"
SCRIPT = SUPPORT / "cuda_library.py"


def stand_in(monkeypatch: pytest.MonkeyPatch, **card: int) -> None:
    """Let ballasts be processes on a counted card."""
    given = [f"{name}={value}" for name, value in card.items()]
    monkeypatch.setattr(vram_ballast, "COMMAND", (sys.executable, str(SCRIPT), *given))


def gone(pid: int) -> bool:
    """Whether a process ends within a good while."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@given(
    st.integers(1 << 30, 80 << 30),
    st.integers(0, 8 << 30),
    st.integers(1 << 24, 80 << 30),
    st.sampled_from([1 << 62, 5 << 30, 300 << 20]),
)
def test_what_is_left_is_what_was_asked(total: int, taken: int, leave: int, piece: int) -> None:
    library = Library(total + CONTEXT, min(taken, total // 2), piece)
    cuda = vram_ballast.Cuda(library)
    free, _ = cuda.memory()
    if free < leave:
        with pytest.raises(LabError, match=r"are free, fewer than.*leave less"):
            vram_ballast.fill(cuda, leave)
        return
    held = vram_ballast.fill(cuda, leave)
    # Its own context is not counted twice, and nothing is short by more than a page.
    assert 0 <= held.free_bytes - leave < vram_ballast.GRAIN
    assert held.held_bytes == sum(library.allocated) == free - held.free_bytes
    assert held.total_bytes == total + CONTEXT


def test_a_card_in_small_pieces_is_filled_too() -> None:
    held = vram_ballast.fill(vram_ballast.Cuda(Library(total=GIB, piece=3 << 20)), 100 << 20)
    assert held.free_bytes - (100 << 20) < vram_ballast.GRAIN


def test_a_driver_that_moves_what_is_held_is_found_out() -> None:
    with pytest.raises(LabError, match=r"stay free.*although.*are held.*without one"):
        vram_ballast.fill(vram_ballast.Cuda(Library(blind=1)), 6 * GIB)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"cards": 0}, "sees no card.*CUDA_VISIBLE_DEVICES"),
        ({"code": 100}, r"cuInit says CUDA_ERROR_NO_DEVICE \(100\).*nvidia-smi"),
        ({"code": 999}, r"cuInit says error \(999\)"),
        ({"taken": 23 * GIB}, r"724 MiB of the card's 24,576 MiB are free, fewer than the 6,144"),
    ],
)
def test_what_keeps_it_from_holding_is_said(
    card: dict[str, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, **card)
    with pytest.raises(LabError, match=words), vram_ballast.ballast(6 * GIB):
        pytest.fail("there is nothing to hold")
    assert not devices.OURS


def test_it_holds_as_long_as_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, total=24 * GIB, taken=GIB)
    with vram_ballast.ballast(6 * GIB) as held:
        assert held.held_bytes == 24 * GIB - GIB - CONTEXT - 6 * GIB
        assert (held.free_bytes, held.total_bytes) == (6 * GIB, 24 * GIB)
        (pid,) = devices.OURS
        assert psutil.Process(pid).is_running()
    assert gone(pid)
    assert not devices.OURS


def test_it_ends_with_the_context_when_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    with pytest.raises(ZeroDivisionError), vram_ballast.ballast(GIB):
        (pid,) = devices.OURS
        raise ZeroDivisionError
    assert gone(pid)


def test_a_ballast_that_ends_early_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    with (
        pytest.raises(LabError, match=r"ended before its time.*run again"),
        vram_ballast.ballast(GIB),
    ):
        (pid,) = devices.OURS
        os.kill(pid, signal.SIGTERM)
        assert gone(pid)


def test_a_ballast_that_dies_at_once_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        vram_ballast, "COMMAND", (sys.executable, "-c", "raise SystemExit('why not')")
    )
    with (
        pytest.raises(LabError, match=r"died before.*exit code 1, why not"),
        vram_ballast.ballast(GIB),
    ):
        pytest.fail("there is nothing to hold")


def test_a_ballast_that_is_never_ready_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vram_ballast, "COMMAND", (sys.executable, "-c", "input()"))
    monkeypatch.setattr(vram_ballast, "START_S", 0.2)
    with pytest.raises(LabError, match="died before it held anything"), vram_ballast.ballast(GIB):
        pytest.fail("there is nothing to hold")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_it_ends_when_its_parent_is_killed() -> None:
    lines = f"""
import sys, time
from llm_latency.machine import vram_ballast
from llm_latency.machine import devices
vram_ballast.COMMAND = (sys.executable, {str(SCRIPT)!r})
with vram_ballast.ballast(2**30):
    print(*devices.OURS, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.Process(pid).ppid() == parent.pid
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_without_a_driver_it_says_so() -> None:
    """For real, where this machine has no driver: in the ballast's own process."""
    try:
        ctypes.CDLL(vram_ballast.LIBRARIES[sys.platform == "win32"])
    except OSError:
        words = r"needs NVIDIA's driver.*libcuda\.so\.1.*measure without a ballast"
        with pytest.raises(LabError, match=words), vram_ballast.ballast(GIB):
            pytest.fail("there is nothing to hold")
    else:
        pytest.skip("this machine has the driver")


def test_a_ballast_is_no_foreign_process(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in (7, 8, 9)]
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        NVML_TEMPERATURE_GPU=0,
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: "card",
        nvmlDeviceGetMigMode=lambda card: [0, 0],
        nvmlDeviceGetName=lambda card: "Test",
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(used=0, total=GIB),
        nvmlDeviceGetComputeRunningProcesses=lambda card: processes,
    )
    monkeypatch.setattr(devices, "OURS", {8})
    with devices.GpuWatch(lambda: NvidiaDevice(library, {})) as watch:
        watch.sample(7)
        assert watch.state().foreign_processes == 1


@pytest.mark.gpu
def test_on_the_real_card() -> None:
    with devices.GpuWatch() as watch:
        card = watch.card()
        assert card.available, card.why
        before = watch.vram().before_bytes or 0
        leave = ((card.total_bytes or 0) - before) // 2
        with vram_ballast.ballast(leave) as held:
            watch.sample()
            assert abs(held.free_bytes - leave) <= vram_ballast.NEAR
            assert (watch.vram().peak_bytes or 0) - before >= held.held_bytes
            # What a second process sees is what was asked for, less its own context.
            seen = "from llm_latency.machine.vram_ballast import Cuda; print(Cuda().memory()[0])"
            free = int(subprocess.check_output([sys.executable, "-c", seen]))
            assert leave - 2 * GIB < free <= held.free_bytes
    # It gives back all that it held.
    with devices.GpuWatch() as watch:
        assert (watch.vram().before_bytes or 0) < before + held.held_bytes // 2
