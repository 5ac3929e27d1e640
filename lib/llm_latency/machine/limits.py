"""What is really ours of the machine: the CPUs and the memory that quotas leave to this process.

A container, a batch job or a pinned process sees all CPUs and all RAM of the machine, and may
use a part of them. One thread more than the CPUs it may use, and llama.cpp's threads wait for
each other at every barrier; one byte more than its memory, and the process is killed.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Literal

import psutil

from llm_latency.errors import ParameterError
from llm_latency.machine import cgroups, topology

ROOT = Path("/")
"""Where the system's files are; a test has a machine of its own."""

Cores = Literal["any", "physical", "performance"]


def allowed_cpus() -> tuple[int, ...]:
    """Return the logical CPUs that this process may run on: by affinity, cpuset or job object."""
    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # macOS has none
    return tuple(affinity() if affinity else range(os.cpu_count() or 1))


def cores(kind: Cores) -> tuple[int, ...]:
    """Return the logical CPUs to run on, of those that this process may use.

    Parameters
    ----------
    kind
        ``any``: all of them; ``physical``: one of each core; ``performance``: one of each fast
        core.

    Raises
    ------
    ParameterError
        If the system does not tell cores, or fast from slow ones, or none of them is fast.
    """
    allowed = allowed_cpus()
    if kind == "any":
        return allowed
    among = topology.fast(allowed, ROOT) if kind == "performance" else allowed
    chosen = topology.one_per_core(among, ROOT) if among else None
    if not chosen:
        instead = "'physical', or a list" if kind == "performance" else "'any', or a list"
        raise ParameterError(
            f"cores={kind!r} cannot be told from other cores on this machine, of the CPUs that "
            f"this process may use; give {instead}"
        )
    return chosen


def quota_cpus() -> float | None:
    """Return how many CPUs' time the cgroups leave to this process; ``None``: all of it."""
    return cgroups.smallest("cpu", cgroups.Group.cpus, ROOT)


def usable_cpus() -> int:
    """Return how many threads this process may keep busy: one per fast core, and no quota broken.

    Two threads on one core's two hardware threads gain nothing for decode and disturb each
    other, and a thread on a slow core lets those on fast ones wait.
    """
    (count, _), quota = _cores_to_use(), quota_cpus()
    return max(1, count if quota is None else min(count, int(quota)))


def why_usable() -> str:
    """Return how :func:`usable_cpus` came about, ``2 cores of 4 logical CPUs``."""
    (count, kind), quota = _cores_to_use(), quota_cpus()
    allowed = len(allowed_cpus())
    words = f"{count} {kind}core{'s' * (count != 1)} of {allowed} logical CPUs"
    if allowed < (machine := os.cpu_count() or 1):
        words += f" that this process may use of {machine}"
    return words if quota is None else f"{words}; quota {quota:.3g} CPUs"


def _cores_to_use() -> tuple[int, str]:
    """Return how many cores are worth a thread, and of which kind they are, in words."""
    allowed = allowed_cpus()
    if among := topology.fast(allowed, ROOT):
        return len(topology.one_per_core(among, ROOT) or among), "performance "
    if told := topology.one_per_core(allowed, ROOT):
        return len(told), ""
    if performance := _fast_cores_of_macos():
        return performance, "performance "
    return min(len(allowed), psutil.cpu_count(logical=False) or len(allowed)), ""


@lru_cache(maxsize=1)
def _fast_cores_of_macos() -> int | None:
    """Return how many fast cores a Mac has; ``None`` elsewhere."""
    if platform.system() != "Darwin":
        return None
    asked = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]
    try:
        return int(subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def memory_quota_bytes() -> int | None:
    """Return how much memory the cgroups leave to this process; ``None``: all there is."""
    limit = cgroups.smallest("memory", cgroups.Group.memory_bytes, ROOT)
    return None if limit is None else int(limit)


def lockable_bytes() -> int | None:
    """Return how much memory this process may lock in RAM; ``None``: all, or nobody tells."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most: int = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if most == resource.RLIM_INFINITY or _may_lock_all() else most


def _may_lock_all() -> bool:
    """Return whether this process has the capability ``CAP_IPC_LOCK``, which knows no limit."""
    try:
        status = (ROOT / "proc" / "self" / "status").read_text()
    except OSError:
        return False
    effective = next((x for x in status.splitlines() if x.startswith("CapEff:")), "CapEff: 0")
    return bool(int(effective.split()[1], 16) >> 14 & 1)


def memory_limit_bytes() -> int:
    """Return all the memory there is for this process: RAM and swap, or its cgroup's limit."""
    machine_bytes = psutil.virtual_memory().total + psutil.swap_memory().total
    return min(machine_bytes, memory_quota_bytes() or machine_bytes)
