"""The machine: its card, the memory of this process, and what else ran meanwhile.

llama.cpp's decode threads wait for each other at a barrier for every operation, spinning. One
other busy process on a 2-core machine took decode from 53 to 1.3 tokens/s, and the spread of
repeats did not show it. So the share of CPU time that others took is kept with every trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from llm_latency.base import Part
from llm_latency.machine import limits
from llm_latency.records.record import Generation, HostState, ProcessMemory

OTHER_LIMIT = 0.05
"""Share of CPU time taken by others above which a trial is called disturbed."""
STEAL_LIMIT = 0.02
"""Share of CPU time taken by the hypervisor above which a trial is called disturbed."""
PRESSURE_LIMIT = 0.05
"""Share of time spent waiting for memory above which a trial is called disturbed."""
SWAP_LIMIT = 1 << 24
"""Bytes swapped above which a trial is called disturbed."""
TICK_S = 0.01
"""The grain of the kernel's CPU clocks."""


class MachineCard(Part):
    """What does not change while a run lasts."""

    machine_id: str = Field(description="Hash of the host's name: tells machines apart, no name")
    system: str
    architecture: str
    cpu: str
    physical_cores: int | None
    logical_cpus: int
    usable_cpus: int = Field(description="What affinity and cgroup quota leave to this process")
    cpu_features: list[str]
    ram_bytes: int
    governor: str | None
    python: str
    engine_build: dict[str, Any] = Field(description="How llama.cpp was compiled, if known")


def _cpu_info() -> tuple[str, list[str]]:
    wanted = "avx avx2 fma f16c bmi2 avx512f avx512_vnni amx_tile amx_int8 asimddp i8mm sve"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    features = [flag for flag in wanted.split() if flag in flags]
    return fields.get("model name", platform.machine()), features


def engine_build() -> dict[str, Any]:
    """Return how the installed engine was compiled: what ``bootstrap.py`` wrote down."""
    try:
        facts = json.loads((Path(sys.prefix) / "engine-build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"why": "llama-cpp-python was not installed by bootstrap.py"}
    return facts if isinstance(facts, dict) else {}


def machine_card() -> MachineCard:
    """Return the card of this machine."""
    cpu, features = _cpu_info()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return MachineCard(
        machine_id=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=cpu,
        physical_cores=psutil.cpu_count(logical=False),
        logical_cpus=os.cpu_count() or 1,
        usable_cpus=limits.usable_cpus(),
        cpu_features=features,
        ram_bytes=psutil.virtual_memory().total,
        governor=governor.read_text().strip() if governor.exists() else None,
        python=platform.python_version(),
        engine_build=engine_build(),
    )


def versions() -> dict[str, str]:
    """Return the versions of the lab and of what the figures depend on."""
    from importlib import metadata  # here, because a measured process does not ask

    names = ("llm-latency-lab", "llama_cpp_python", "numpy", "pandas", "papermill", "gguf")
    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def process_memory() -> ProcessMemory:
    """Return this process's resident memory now, split as the system can tell it."""
    process = psutil.Process()
    basic = process.memory_info()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return ProcessMemory(rss_bytes=basic.rss, rss_peak_bytes=getattr(basic, "peak_wset", None))
    kib = {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if value.strip().endswith("kB")
    }
    # Fields 10 and 12 of stat are the process's own minor and major faults; the name in
    # brackets may hold spaces, so count from behind it.
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    try:
        io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except (OSError, ValueError):
        io = {}
    return ProcessMemory(
        rss_bytes=kib.get("VmRSS", basic.rss),
        rss_anon_bytes=kib.get("RssAnon"),
        rss_file_bytes=kib.get("RssFile"),
        locked_bytes=kib.get("VmLck"),
        rss_peak_bytes=kib.get("VmHWM"),
        minor_faults=int(stat[7]),
        major_faults=int(stat[9]),
        read_bytes=int(io["read_bytes"]) if "read_bytes" in io else None,
    )


@dataclass(frozen=True)
class CpuWatch:
    """The CPU clocks at the start of a trial; :meth:`state` says what others took since.

    Ours is what this process uses, which it counts by itself, and what the child uses that it
    measures; all the rest is others'.
    """

    started_s: float
    busy_s: float
    steal_s: float
    own_s: float
    waited_s: float | None
    swapped_bytes: int
    available_bytes: int

    @classmethod
    def start(cls) -> CpuWatch:
        """Read the clocks."""
        busy, steal = _cpu_clocks()
        return cls(
            started_s=time.perf_counter(),
            busy_s=busy,
            steal_s=steal,
            own_s=_own_cpu_s(),
            waited_s=_waited_for_memory_s(),
            swapped_bytes=_swapped_bytes(),
            available_bytes=_available_bytes(),
        )

    def state(self, child_cpu_s: float | None = 0.0) -> HostState:
        """Return what others took of all CPU time since the start.

        Parameters
        ----------
        child_cpu_s
            CPU time of a child that is measured, in seconds; 0 where this process measures
            itself; ``None`` where the child died without telling: then nobody can say what
            was taken by others.
        """
        busy, steal = _cpu_clocks()
        elapsed_s = time.perf_counter() - self.started_s
        capacity_s = elapsed_s * (os.cpu_count() or 1)
        waited_s = _waited_for_memory_s()
        pressure = other = stolen = None
        if waited_s is not None and self.waited_s is not None:
            pressure = min(1.0, (waited_s - self.waited_s) / elapsed_s)
        # A few ticks say nothing.
        if capacity_s >= 10 * TICK_S:
            stolen = min(1.0, max(0.0, (steal - self.steal_s) / capacity_s))
            if child_cpu_s is not None:
                own_s = child_cpu_s + _own_cpu_s() - self.own_s
                other = min(1.0, max(0.0, (busy - self.busy_s - own_s) / capacity_s))
        return HostState(
            cpu_other_fraction=other,
            cpu_steal_fraction=stolen,
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


def _cpu_clocks() -> tuple[float, float]:
    """Return the seconds that all CPUs were busy, and were stolen, since the machine started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    steal = getattr(times, "steal", 0.0)
    # guest time is already contained in user time.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - idle - steal - guest, steal


def _own_cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def _available_bytes() -> int:
    return int(psutil.virtual_memory().available)


def _blur(span_s: float) -> float:
    """Return the share of CPU time that two ticks of the kernel's clocks make of a span."""
    return 2 * TICK_S / max(span_s * (os.cpu_count() or 1), TICK_S)


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
    other = [o for s, o, _ in spans if o is not None and o > OTHER_LIMIT + _blur(s)]
    steal = [t for s, _, t in spans if t is not None and t > STEAL_LIMIT + _blur(s)]
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
    if (state.memory_pressure_fraction or 0) > PRESSURE_LIMIT:
        causes.append(
            f"processes waited for memory {state.memory_pressure_fraction:.0%} of the time; free "
            "some RAM, or choose a smaller n_ctx or model"
        )
    if (state.swapped_bytes or 0) > SWAP_LIMIT:
        causes.append(
            f"{(state.swapped_bytes or 0) / 2**20:.0f} MiB went to or from swap; free some RAM"
        )
    if state.gpu.throttle:
        causes.append(f"the GPU slowed itself down ({state.gpu.throttle}); let it cool and repeat")
    if state.gpu.lost:
        causes.append(state.gpu.lost)
    if state.gpu.foreign_processes:
        causes.append(
            f"{state.gpu.foreign_processes} other processes computed on the GPU; close them"
        )
    return causes
