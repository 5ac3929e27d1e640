"""Whether what else ran on the machine disturbed a trial that was measured.

llama.cpp's decode threads wait for each other at a barrier for every operation, spinning. One
other busy process on a 2-core machine took decode from 53 to 1.3 tokens/s, and the spread of
repeats did not show it. So what :mod:`llm_latency.machine.cpu_watch` saw is judged with every
trial.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from llm_latency.machine.cpu_watch import TICK_S
from llm_latency.records.generation import Generation
from llm_latency.records.record import HostState

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
    causes += held_back(state, span_s, generations)
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


def held_back(state: HostState, span_s: float, generations: Sequence[Generation] = ()) -> list[str]:
    """Return what a CPU quota did, as :func:`disturbances` does; the same again, if repeated."""
    spans = [
        (state.throttled_s, span_s),
        *((g.throttled_s, g.timings.total_s) for g in generations),
    ]
    if not state.quota_cpus or not any((s or 0) > THROTTLE_LIMIT * span for s, span in spans):
        return []
    periods = sum(g.throttled_periods or 0 for g in generations) or state.throttled_periods
    return [
        f"the quota of {state.quota_cpus:.3g} CPUs held it back in {periods} periods; give "
        f"{within_quota(state.quota_cpus)}"
    ]
