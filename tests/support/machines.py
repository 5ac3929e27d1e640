"""Machines: made-up ones, by the files that say what one is, and real limits of this one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from llm_latency.machine import cgroups

V1 = "cgroup cgroup rw,"
V2 = "cgroup2 cgroup2 rw"
HALF_A_CPU = {
    1: {"cpu.cfs_quota_us": "50000", "cpu.shares": "262144"},
    2: {"cpu.max": "50000 100000", "cpu.weight": "10000"},
}
"""A quota, by the version of control groups, and precedence: who gets less than its quota of a
busy machine is not held back by it."""


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


@contextlib.contextmanager
def nested(controller: str, limit: Mapping[int, Mapping[str, str]]) -> Iterator[Path]:
    """Make a group with a limit, and one in it for a process to join."""
    found = cgroups.groups(controller)
    if sys.platform != "linux" or not found:
        pytest.skip("no control groups here")
    outer = found[-1].folder / f"llm-latency-{os.getpid()}-test"
    try:
        (outer / "in").mkdir(parents=True)
        for name, text in limit[found[-1].version].items():
            (outer / name).write_text(text)
    except OSError as error:
        _remove(outer)
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield outer / "in"
    finally:
        _remove(outer)


def _remove(outer: Path) -> None:
    for folder in (outer / "in", outer):
        with contextlib.suppress(OSError):
            folder.rmdir()


def within(group: Path, code: str) -> str:
    """Run Python in a process of a group, and return what it prints."""
    join = "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))"
    words = [sys.executable, "-c", f"{join}\n{code}", str(group)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
