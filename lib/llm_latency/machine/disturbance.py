"""What else ran on the machine while a trial was measured, and whether that disturbed it.

llama.cpp's decode threads wait for each other at a barrier for every operation, spinning. One
other busy process on a 2-core machine took decode from 53 to 1.3 tokens/s, and the spread of
repeats did not show it. So the share of CPU time that others took is kept with every trial: of
the CPUs that this process may use, since a neighbour on one of them holds up all threads, and
one on a CPU that is not ours holds up none. A CPU quota does the same from within: threads that
have used it up wait for its next period, and those that wait for them spin.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from llm_latency.machine import cgroups, limits, topology
from llm_latency.records.record import Generation, HostState

OTHER_LIMIT = 0.05
"""Share of CPU time taken by others above which a trial is called disturbed."""
STEAL_LIMIT = 0.02
"""Share of CPU time taken by the hypervisor above which a trial is called disturbed."""
PRESSURE_LIMIT = 0.05
"""Share of time spent waiting for memory above which a trial is called disturbed."""
THROTTLE_LIMIT = 0.05
"""Share of the time that a CPU quota held it back above which a trial is called disturbed."""
SWAP_LIMIT = 1 << 24
"""Bytes swapped above which a trial is called disturbed."""
HEAT = {"HwThermalSlowdown", "SwThermalSlowdown"}
"""NVML's names for a clock that is lowered because the card is hot."""
POWER_BRAKE = "HwPowerBrakeSlowdown"
"""NVML's name for a clock that is lowered because a power supply asks for it."""
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


def _blur(span_s: float, cpus: int | None) -> float:
    """Return the share of CPU time that two ticks of the kernel's clocks make of a span."""
    return 2 * TICK_S / max(span_s * (cpus or os.cpu_count() or 1), TICK_S)


def disturbances(
    state: HostState, span_s: float, generations: Sequence[Generation] = ()
) -> list[str]:
    """Return what disturbed a trial, one sentence each: what was seen and what to do.

    Parameters
    ----------
    state
        The machine during the whole trial.
    span_s
        How long the trial took, in seconds. The kernel counts CPU time in ticks of 10 ms, so
        the shorter a span, the coarser its share; that much is forgiven.
    generations
        The trial's generations: the worst moment counts, where it was long enough to be seen.
    """
    spans = [
        (span_s, state.cpu_other_fraction, state.cpu_steal_fraction),
        *((g.timings.total_s, g.cpu_other_fraction, g.cpu_steal_fraction) for g in generations),
    ]
    cpus = state.watched_cpus
    other = [o for s, o, _ in spans if o is not None and o > OTHER_LIMIT + _blur(s, cpus)]
    steal = [t for s, _, t in spans if t is not None and t > STEAL_LIMIT + _blur(s, cpus)]
    causes = []
    if other:
        causes.append(
            f"other processes took {max(other):.0%} of the CPU time; close them and measure again"
        )
    if steal:
        causes.append(
            f"the hypervisor took {max(steal):.0%} of the CPU time; measure again, or on a "
            "machine of your own"
        )
    if state.quota_cpus and (periods := _periods_held_back(state, span_s, generations)):
        causes.append(
            f"the quota of {state.quota_cpus:.3g} CPUs held it back in {periods} periods; give "
            f"{within_quota(state.quota_cpus)}"
        )
    if (state.memory_pressure_fraction or 0) > PRESSURE_LIMIT:
        causes.append(
            f"processes waited for memory {state.memory_pressure_fraction:.0%} of the time; free "
            "some RAM, or choose a smaller n_ctx or model"
        )
    if (state.swapped_bytes or 0) > SWAP_LIMIT:
        causes.append(
            f"{(state.swapped_bytes or 0) / 2**20:.0f} MiB went to or from swap; free some RAM"
        )
    causes += _slowed(set((state.gpu.throttle or "").split(", ")))
    if state.gpu.lost:
        causes.append(state.gpu.lost)
    if state.gpu.foreign_processes:
        causes.append(
            f"{state.gpu.foreign_processes} other processes computed on the GPU; close them"
        )
    return causes


def _slowed(reasons: set[str]) -> list[str]:
    """Return why a GPU slowed itself down; its power limit is no disturbance, but a condition."""
    causes = []
    if hot := reasons & HEAT:
        causes.append(
            f"the GPU was hot and slowed itself down ({', '.join(sorted(hot))}); let it cool and "
            "repeat"
        )
    if POWER_BRAKE in reasons:
        causes.append(
            f"the GPU's power supply slowed it down ({POWER_BRAKE}); check the supply and its "
            "cables, and repeat"
        )
    if "HwSlowdown" in reasons and not causes:  # which is in force beside either
        causes.append(
            "the GPU slowed itself down (HwSlowdown); 'nvidia-smi -q -d PERFORMANCE' may say why"
        )
    return causes


def within_quota(cpus: float) -> str:
    """Return what to give, so that a CPU quota holds nothing back."""
    if cpus < 1:
        return "n_threads=1, and a quota of a whole CPU"
    return f"n_threads={int(cpus)}, or a larger quota"


def _periods_held_back(state: HostState, span_s: float, generations: Sequence[Generation]) -> int:
    """Return in how many periods a quota held a trial back; 0 where that is not worth a word."""
    spans = [
        (state.throttled_s, span_s),
        *((g.throttled_s, g.timings.total_s) for g in generations),
    ]
    if not any((held_s or 0) > THROTTLE_LIMIT * s for held_s, s in spans):
        return 0
    return sum(g.throttled_periods or 0 for g in generations) or state.throttled_periods or 0
