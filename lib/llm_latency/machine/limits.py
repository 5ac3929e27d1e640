"""What is really ours of the machine: the CPUs and the memory that quotas leave to this process.

A container, a batch job or a pinned process sees all CPUs and all RAM of the machine, and may
use a part of them. One thread more than the CPUs it may use, and llama.cpp's threads wait for
each other at every barrier; one byte more than its memory, and the process is killed.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

ROOT = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of the cgroup that this process is in."""


def cgroup_cpus() -> float | None:
    """Return the CPU quota of this process's cgroup in CPUs; ``None`` where there is none."""
    try:
        quota, period = (ROOT / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((ROOT / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((ROOT / "cpu" / "cpu.cfs_period_us").read_text())
        return None if quota_us < 0 else quota_us / period_us
    except (OSError, ValueError):
        return None


def usable_cpus() -> int:
    """Return how many CPUs this process may keep busy: affinity and cgroup quota, physical cores.

    Two threads on one core's two hardware threads gain nothing for decode and disturb each
    other, so no more than the physical cores are counted.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, int(min(allowed, physical, cgroup_cpus() or allowed)))


def memory_limit_bytes() -> int:
    """Return all the memory there is for this process: RAM and swap, or its cgroup's limit."""
    machine_bytes = psutil.virtual_memory().total + psutil.swap_memory().total
    try:
        limit = (ROOT / "memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return min(machine_bytes, int(limit)) if limit.isdigit() else machine_bytes
