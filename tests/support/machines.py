"""Made-up machines: the files of ``/proc`` and ``/sys`` that say what one is, in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

V1 = "cgroup cgroup rw,"
V2 = "cgroup2 cgroup2 rw"


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def mounted(root: Path, groups: Sequence[str], mounts: Sequence[tuple[str, str, str]]) -> None:
    """Say which groups this process is in, and what is mounted: place, group, file system."""
    lines = [
        f"{31 + i} 23 0:{i} {top} {place} rw,relatime shared:{i} - {system}"
        for i, (place, top, system) in enumerate(mounts)
    ]
    write(root, {"proc/self/cgroup": "\n".join(groups), "proc/self/mountinfo": "\n".join(lines)})


def cores(root: Path, siblings: Sequence[str], file: str = "core_cpus_list") -> None:
    """Make the CPUs: of each, by its number, the list of those on its core."""
    cpus = "sys/devices/system/cpu"
    write(root, {f"{cpus}/cpu{n}/topology/{file}": text for n, text in enumerate(siblings)})
    write(root, {f"{cpus}/online": f"0-{len(siblings) - 1}"})
