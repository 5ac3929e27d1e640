"""What quotas, affinity and cores leave to this process."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llm_latency.errors import ParameterError
from llm_latency.machine import limits
from tests.support import machines
from tests.support.machines import V2

GIB = 2**30
SMT = [f"{n // 2 * 2}-{n // 2 * 2 + 1}" for n in range(16)]
HYBRID = [*SMT[:12], *(str(n) for n in range(12, 20))]
"""Six fast cores with two hardware threads, eight slow ones with one."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a machine that tells nothing of itself."""
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    return tmp_path


def allow(monkeypatch: pytest.MonkeyPatch, cpus: Iterable[int]) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: list(cpus), raising=False)


def hybrid(root: Path) -> None:
    machines.cores(root, HYBRID)
    kinds = {"cpu_core": "0-11", "cpu_atom": "12-19"}
    machines.write(root, {f"sys/devices/{kind}/cpus": cpus for kind, cpus in kinds.items()})


def quota(root: Path, text: str) -> None:
    machines.mounted(root, ["0::/job/step"], [("/cg", "/", V2)])
    machines.write(root, {"cg/job/cpu.max": text})


def test_a_cpuset_of_eight_that_are_four_cores(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    machines.cores(machine, SMT)
    allow(monkeypatch, range(4, 12))
    assert limits.usable_cpus() == 4
    assert limits.cores("any") == limits.allowed_cpus() == tuple(range(4, 12))
    assert limits.cores("physical") == (4, 6, 8, 10)
    assert limits.why_usable() == "4 cores of 8 logical CPUs that this process may use of 64"


def test_six_fast_cores_beside_eight_slow_ones(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 20)
    hybrid(machine)
    allow(monkeypatch, range(20))
    assert limits.usable_cpus() == 6
    assert limits.cores("performance") == (0, 2, 4, 6, 8, 10)
    assert len(limits.cores("physical")) == 14
    assert limits.why_usable() == "6 performance cores of 20 logical CPUs"
    allow(monkeypatch, range(12, 16))  # slow ones only
    assert limits.usable_cpus() == 4
    with pytest.raises(ParameterError):
        limits.cores("performance")


@pytest.mark.parametrize(
    ("written", "threads"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("6400000 100000", 8)],
)
def test_no_more_threads_than_the_quota(
    machine: Path, monkeypatch: pytest.MonkeyPatch, written: str, threads: int
) -> None:
    machines.cores(machine, SMT)
    allow(monkeypatch, range(16))
    quota(machine, written)
    assert limits.usable_cpus() == threads
    assert ("quota" in limits.why_usable()) == (written[:3] != "max")


def test_where_cores_are_not_told_psutil_counts_them(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    allow(monkeypatch, range(16))
    assert limits.usable_cpus() == 8
    allow(monkeypatch, range(4))
    assert limits.usable_cpus() == 4
    for kind in ("physical", "performance"):
        with pytest.raises(ParameterError):
            limits.cores(kind)


@pytest.mark.parametrize(("told", "threads"), [("6\n", 6), ("", 10)])
def test_a_mac_tells_its_fast_cores(
    machine: Path, monkeypatch: pytest.MonkeyPatch, told: str, threads: int
) -> None:
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 10)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=told))
    limits._fast_cores_of_macos.cache_clear()
    assert limits.usable_cpus() == threads
    limits._fast_cores_of_macos.cache_clear()


@pytest.mark.parametrize(
    ("written", "left"),
    [("max", 12 * GIB), (str(2 * GIB), 2 * GIB), (str(2**62), 12 * GIB), (None, 12 * GIB)],
)
def test_memory_is_the_cgroups_or_all_there_is(
    machine: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, left: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * GIB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=4 * GIB))
    machines.mounted(machine, ["0::/job/step"], [("/cg", "/", V2)])
    if written is not None:
        machines.write(machine, {"cg/job/memory.max": written})
    assert limits.memory_limit_bytes() == left


@pytest.mark.parametrize(
    ("effective", "lockable"), [("0000000000000000", 2**20), ("0000000000004000", None)]
)
def test_what_may_be_locked_is_the_limit_or_all_that_there_is(
    machine: Path, monkeypatch: pytest.MonkeyPatch, effective: str, lockable: int | None
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**20))
    status = machine / "proc" / "self" / "status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(f"Name:\tpython\nCapEff:\t{effective}\n")
    assert limits.lockable_bytes() == lockable
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, 0))
    assert limits.lockable_bytes() is None
