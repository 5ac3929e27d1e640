"""The clocks of this machine's CPUs while a trial is measured: what others took of them.

Only those count that this process may use: a neighbour on one of them holds up all of
llama.cpp's threads, and one on a CPU that is not ours holds up none. A CPU quota does the same
from within: threads that have used it up wait for its next period, and others for them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from llm_latency.machine import cgroups, limits, topology
from llm_latency.records.record import HostState

TICK_S = 0.01
"""The grain of the kernel's CPU clocks."""


@dataclass(frozen=True)
class CpuWatch:
    """The CPU clocks at the start of a trial; :meth:`state` says what others took since.

    Ours is what this process uses, which it counts by itself, and what the child uses that it
    measures; all the rest is others'. Of a process that is itself measured, what it started is
    its own, too.
    """

    started_s: float
    cpus: tuple[int, ...]
    pinned: bool
    quotas: tuple[cgroups.Group, ...]
    held_back: cgroups.HeldBack
    busy_s: float
    steal_s: float
    own_s: float
    measured: bool
    waited_s: float | None
    swapped_bytes: int
    available_bytes: int

    @classmethod
    def start(cls, *, measured: bool = False, cpus: Sequence[int] | None = None) -> CpuWatch:
        """Read the clocks.

        Parameters
        ----------
        measured
            Whether this process is itself measured, or only looks on.
        cpus
            The logical CPUs that a child is pinned to; left out: all that this process may use.
        """
        watched = tuple(cpus or limits.allowed_cpus())
        quotas = tuple(g for g in cgroups.groups("cpu", limits.ROOT) if g.cpus() is not None)
        busy, steal = _cpu_clocks(watched)
        return cls(
            started_s=time.perf_counter(),
            cpus=watched,
            pinned=cpus is not None,
            quotas=quotas,
            held_back=_held_back(quotas),
            busy_s=busy,
            steal_s=steal,
            own_s=cpu_s(descendants=measured),
            measured=measured,
            waited_s=_waited_for_memory_s(),
            swapped_bytes=_swapped_bytes(),
            available_bytes=_available_bytes(),
        )

    def state(self, child_cpu_s: float | None = 0.0) -> HostState:
        """Return what others took of these CPUs' time since the start, and what a quota did.

        Parameters
        ----------
        child_cpu_s
            CPU time of a child that is measured, in seconds; 0 where this process measures
            itself; ``None`` where the child died without telling: then nobody can say what
            was taken by others.
        """
        busy, steal = _cpu_clocks(self.cpus)
        elapsed_s = time.perf_counter() - self.started_s
        capacity_s = elapsed_s * len(self.cpus)
        held_back = _held_back(self.quotas)
        waited_s = _waited_for_memory_s()
        pressure = other = stolen = None
        if waited_s is not None and self.waited_s is not None:
            pressure = min(1.0, (waited_s - self.waited_s) / elapsed_s)
        # A few ticks say nothing.
        if capacity_s >= 10 * TICK_S:
            stolen = min(1.0, max(0.0, (steal - self.steal_s) / capacity_s))
            if child_cpu_s is not None:
                # Who looks on runs on any CPU, not on those that the child is pinned to.
                looking_s = 0.0 if self.pinned else cpu_s(descendants=self.measured) - self.own_s
                own_s = child_cpu_s + looking_s
                other = min(1.0, max(0.0, (busy - self.busy_s - own_s) / capacity_s))
        return HostState(
            cpu_other_fraction=other,
            cpu_steal_fraction=stolen,
            watched_cpus=len(self.cpus),
            quota_cpus=limits.quota_cpus(),
            throttled_periods=held_back.periods - self.held_back.periods if self.quotas else None,
            throttled_s=held_back.seconds - self.held_back.seconds if self.quotas else None,
            memory_pressure_fraction=pressure,
            swapped_bytes=_swapped_bytes() - self.swapped_bytes,
            available_bytes=self.available_bytes,
        )


def _waited_for_memory_s() -> float | None:
    """Return the seconds in which some process waited for memory; ``None`` where untold."""
    try:
        some = Path("/proc/pressure/memory").read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _swapped_bytes() -> int:
    swap = psutil.swap_memory()
    return int(swap.sin + swap.sout)


def _cpu_clocks(cpus: Sequence[int]) -> tuple[float, float]:
    """Return the seconds that these CPUs were busy, and were stolen, since the machine started."""
    every = psutil.cpu_times(percpu=True)
    of_each = dict(zip(topology.online(limits.ROOT) or range(len(every)), every, strict=False))
    busy = stolen = 0.0
    for times in (of_each[cpu] for cpu in cpus if cpu in of_each):
        idle = times.idle + getattr(times, "iowait", 0.0)
        steal = getattr(times, "steal", 0.0)
        # guest time is already contained in user time.
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        busy += sum(times) - idle - steal - guest
        stolen += steal
    return busy, stolen


def _held_back(quotas: Sequence[cgroups.Group]) -> cgroups.HeldBack:
    """Return what all quotas around this process have cost so far."""
    each = [group.held_back() for group in quotas]
    return cgroups.HeldBack(sum(one.periods for one in each), sum(one.seconds for one in each))


def cpu_s(*, descendants: bool) -> float:
    """Return the CPU time of this process, in seconds, with or without all that it started."""
    this = psutil.Process()
    if not descendants:
        times = this.cpu_times()
        return float(times.user + times.system)
    used_s = 0.0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            times = process.cpu_times()
            # Those that it started and that have ended are in its own count.
            used_s += times.user + times.system + times.children_user + times.children_system
    return used_s


def _available_bytes() -> int:
    return int(psutil.virtual_memory().available)
