"""A cap on a process's memory, by the real system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_latency.machine import cgroups, disturbance, limits, memory_cap
from llm_latency.machine.memory_cap import limited
from llm_latency.measure import runner, trial
from llm_latency.model import names
from llm_latency.plan.builder import Request
from llm_latency.records.proof import proven
from llm_latency.records.record import HostState, MemoryLimit
from tests.support import machines

MIB = 2**20
EAT = """
import sys
from llm_latency.machine import memory_cap
memory_cap.come_under(sys.argv[1], int(sys.argv[2]) or None)
block = bytearray(int(sys.argv[3]))
print(len(block))
"""


def eat(limiter: memory_cap.Limiter, size: int) -> int:
    words = [limiter.join, str(limiter.data_bytes or 0), str(size)]
    done = subprocess.run([sys.executable, "-c", EAT, *words], capture_output=True)
    return done.returncode


def test_no_limit_is_none() -> None:
    with limited(None) as limiter:
        assert (limiter.join, limiter.data_bytes, limiter.state()) == ("", None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="memory can be limited on Linux only")
def test_a_process_within_its_limit_lives_and_one_beyond_does_not() -> None:
    with limited(200 * MIB) as limiter:
        assert eat(limiter, 20 * MIB) == 0
        assert eat(limiter, 400 * MIB) != 0
        state = limiter.state()
        folder = Path(limiter.join).parent if limiter.join else None
    assert state is not None
    assert state.by in ("cgroup", "rlimit")
    if state.by == "cgroup":
        assert state.kills == 1
        assert 20 * MIB < (state.peak_bytes or 0) <= 200 * MIB
    else:
        assert state.why
    left_behind = [folder] if folder and folder.exists() else []
    assert left_behind == []


@pytest.mark.parametrize("device", ["nvidiactl", "dxg", "nvmap"])
def test_no_ceiling_beside_a_driver_that_reserves_freely(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert f"/dev/{device}" in memory_cap.RESERVING
    here = tuple(str(tmp_path / Path(known).name) for known in memory_cap.RESERVING)
    monkeypatch.setattr(memory_cap, "RESERVING", here)
    assert memory_cap.ceiling_bytes() == limits.memory_limit_bytes()
    (tmp_path / device).touch()
    assert memory_cap.ceiling_bytes() is None


def test_without_cgroups_allocations_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_cap, "_places", lambda _: [])
    monkeypatch.setattr(sys, "platform", "linux")
    with limited(50 * MIB) as limiter:
        state = limiter.state()
    assert limiter.data_bytes == 50 * MIB
    assert state is not None and state.by == "rlimit" and "mapped files" in (state.why or "")


@pytest.mark.parametrize(("asked", "given"), [(50, "50"), (900, "600")])
def test_a_sibling_of_our_cgroup_is_given_what_ours_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, given: str
) -> None:
    own = tmp_path / "job" / "step"
    found = [cgroups.Group(folder, 2) for folder in (own, own.parent, tmp_path)]
    monkeypatch.setattr(cgroups, "groups", lambda controller: found)
    machines.write(own, {"memory.max": "600", "cpu.max": "25000 50000"})
    limiter = memory_cap.Limiter(asked)
    made = Path(limiter.join).parent
    assert made.parent == own.parent
    files = {name: (made / name).read_text() for name in ("memory.max", "cpu.max")}
    assert files == {"memory.max": given, "cpu.max": "50000 100000"}


def test_a_limit_that_is_not_in_force_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_latency.plan.settings import Settings
    from tests.support import factories

    record = factories.record(Settings())
    unlimited = MemoryLimit(asked_bytes=50 * MIB, why="memory can be limited on Linux only")
    judged = proven(record.model_copy(update={"memory_limit": unlimited}), 1)
    assert judged.status == "invalid"
    assert "memory_limit_bytes=52428800 was asked and is not in force" in (judged.reason or "")


@pytest.mark.engine
def test_a_model_that_needs_more_than_its_limit_is_oom(outputs: Path) -> None:
    asked = Request(
        "sweep", {"model": "synthetic:tiny", "options": {"rounds": 1, "n_ctx": 512}}, names.check
    )
    work = {"prompt_tokens": 16, "max_tokens": 4, "repeats": 0}
    cells = [
        asked.cell(memory_limit_bytes=size * MIB, use_mmap=False, **work) for size in (16, 2000)
    ]
    run = runner.run(asked.plan(cells), progress=False)
    by_limit = {r.trial.start.memory_limit_bytes: r for r in run.records()}
    assert by_limit[16 * MIB].status == "oom", by_limit[16 * MIB].reason
    assert by_limit[2000 * MIB].status == "ok", by_limit[2000 * MIB].reason


@pytest.mark.skipif(sys.platform != "linux", reason="memory can be limited on Linux only")
def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f"llm-latency-{gone.pid}-abc").mkdir()
    (tmp_path / f"llm-latency-{os.getpid()}-abc").mkdir()
    (tmp_path / "another").mkdir()
    memory_cap._sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "another",
        f"llm-latency-{os.getpid()}-abc",
    ]


def test_a_process_at_its_limit_did_not_disturb_itself() -> None:
    waiting = HostState(memory_pressure_fraction=0.3)
    assert disturbance.disturbances(waiting, 1.0, [])
    limit = MemoryLimit(asked_bytes=50 * MIB, by="cgroup")
    assert not disturbance.disturbances(trial._judged(waiting, limit), 1.0, [])
    assert disturbance.disturbances(trial._judged(waiting, None), 1.0, [])
