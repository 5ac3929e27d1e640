"""Which logical CPUs are one core, and which cores are the fast ones, as Linux tells it.

A core with two hardware threads is two logical CPUs, and a second thread on it gains decode
nothing. A slow core beside fast ones is worse: llama.cpp's threads wait for the slowest of
them at every operation.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FAST = 0.7
"""Share of the greatest capacity or frequency below which a core is plainly a slow one: turbo
differs by a tenth between cores of one kind, kinds by a third and more."""

CPUS = "sys/devices/system/cpu"


def numbers(text: str) -> set[int]:
    """Return the CPUs of a list such as ``0-3,8``.

    Raises
    ------
    ValueError
        If it is no such list.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def online(root: Path = Path("/")) -> list[int] | None:
    """Return the CPUs that run, in order; ``None`` where the system does not tell."""
    return sorted(_listed(root / CPUS / "online") or ()) or None


def one_per_core(cpus: Iterable[int], root: Path = Path("/")) -> tuple[int, ...] | None:
    """Return the first of these CPUs on each core; ``None`` where the system does not tell."""
    chosen, taken = [], set[int]()
    for cpu in sorted(cpus):
        folder = root / CPUS / f"cpu{cpu}" / "topology"
        siblings = _listed(folder / "core_cpus_list") or _listed(folder / "thread_siblings_list")
        if not siblings:
            return None
        if cpu not in taken:
            chosen.append(cpu)
        taken |= siblings
    return tuple(chosen)


def fast(cpus: Iterable[int], root: Path = Path("/")) -> tuple[int, ...] | None:
    """Return those CPUs that are on fast cores; ``None`` where the machine has one kind only.

    Intel's hybrids name their kinds; of others the capacity that the scheduler goes by tells
    them apart, or the greatest frequency.
    """
    mine = sorted(cpus)
    devices = root / "sys/devices"
    named = _listed(devices / "cpu_core/cpus")
    if named and _listed(devices / "cpu_atom/cpus"):
        return tuple(cpu for cpu in mine if cpu in named)
    every = sorted((root / CPUS).glob("cpu[0-9]*"))
    for file in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {int(folder.name[3:]): _number(folder / file) for folder in every}
        enough = FAST * max(speeds.values(), default=0)
        if any(0 < speed < enough for speed in speeds.values()):
            return tuple(cpu for cpu in mine if speeds.get(cpu, 0) >= enough)
    return None


def _listed(path: Path) -> set[int] | None:
    try:
        return numbers(path.read_text())
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
