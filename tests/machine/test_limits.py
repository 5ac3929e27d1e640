"""What quotas, affinity and cores leave to this process."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llm_latency.machine import limits

GIB = 2**30


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_cgroup_quota_limits_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: float | None
) -> None:
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert limits.cgroup_cpus() == cpus


def test_threads_are_never_more_than_quota_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(limits, "cgroup_cpus", lambda: None)
    assert limits.usable_cpus() == 8
    monkeypatch.setattr(limits, "cgroup_cpus", lambda: 2.5)
    assert limits.usable_cpus() == 2
    monkeypatch.setattr(limits, "cgroup_cpus", lambda: 0.5)
    assert limits.usable_cpus() == 1


@pytest.mark.parametrize(
    ("written", "left"),
    [("max", 12 * GIB), (f"{2 * GIB}\n", 2 * GIB), (str(2**62), 12 * GIB), (None, 12 * GIB)],
)
def test_memory_is_the_cgroups_or_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, left: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * GIB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=4 * GIB))
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    if written is not None:
        (tmp_path / "memory.max").write_text(written)
    assert limits.memory_limit_bytes() == left
