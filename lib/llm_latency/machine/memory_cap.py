"""A cap on the memory of one process, as if the machine had less.

On Linux a cgroup counts all that a process touches, its pages of the model's file included, and
takes pages away from it or ends it when it reaches its limit; the machine beside it stays
usable. Where no cgroup may be made, ``RLIMIT_DATA`` refuses allocations beyond the limit, but
does not count mapped files. Which of the two held is recorded, for they are not the same.

Pages of a file belong to the cgroup that read them first: a file that was in the page cache
before costs the process nothing. Evict it, to see what less memory does to a mapped model.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from llm_latency.machine import cgroups, limits
from llm_latency.records.record import MemoryLimit

PREFIX = "llm-latency-"
"""Head of the names of cgroups; the identity of the process that made it follows."""

RESERVING = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
"""Devices whose drivers reserve address space freely: NVIDIA's, and as WSL2 and Jetsons have it."""


class Limiter:
    """A limit that is ready for a process to join.

    Attributes
    ----------
    limit_bytes : int or None
        What it is; ``None``: there is none.
    join : str
        File into which the process writes its identity to come under the limit; may be empty.
    data_bytes : int or None
        Limit that the process sets on itself where there is no cgroup.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self.limit_bytes, self.join, self.why = limit_bytes, "", None
        self.data_bytes: int | None = None
        self._folder: Path | None = None
        if limit_bytes is None:
            return
        if sys.platform != "linux":
            self.why = "memory can be limited on Linux only"
            return
        for parent, files in _places(limit_bytes):
            if self._make(parent, files):
                return
        self.why = "no cgroup could be made here; RLIMIT_DATA does not count mapped files"
        self.data_bytes = limit_bytes

    def _make(self, parent: Path, files: Mapping[str, str]) -> bool:
        folder = None
        _sweep(parent)
        (limit, value), *others = files.items()
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
            (folder / limit).write_text(value)
        except OSError:
            if folder is not None:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return False
        for name, value in others:
            with contextlib.suppress(OSError):  # a controller that is not there
                (folder / name).write_text(value)
        self._folder, self.join = folder, str(folder / "cgroup.procs")
        return True

    def state(self) -> MemoryLimit | None:
        """Return what the limit did; ``None`` where none was asked for."""
        if self.limit_bytes is None:
            return None
        by = "cgroup" if self._folder else "rlimit" if self.data_bytes else None
        return MemoryLimit.model_validate(
            {
                "asked_bytes": self.limit_bytes,
                "by": by,
                "peak_bytes": self._number("memory.peak", "memory.max_usage_in_bytes"),
                "kills": self._count("oom_kill"),
                "why": self.why,
            }
        )

    def _number(self, *names: str) -> int | None:
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                if self._folder:
                    return int((self._folder / name).read_text())
        return None

    def _count(self, word: str) -> int | None:
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                lines = (self._folder / name).read_text().splitlines() if self._folder else []
                for line in lines:
                    if line.split()[0] == word:
                        return int(line.split()[1])
        return None

    def close(self) -> None:
        """Remove the cgroup; its last process may still be leaving."""
        for _ in range(50):
            if self._folder is None or not self._folder.exists():
                return
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.02)


def _places(limit_bytes: int) -> list[tuple[Path, dict[str, str]]]:
    """Return where a cgroup may be made, the best places first, and what is written into it.

    First the limit, without which it is none; a cgroup that is not within our own is given what
    ours allows.
    """
    found = cgroups.groups("memory")
    if not found:
        return []
    own, outermost = found[0], found[-1]
    size = str(min([limit_bytes, *filter(None, map(cgroups.Group.memory_bytes, found))]))
    if own.version == 2:
        # A cgroup that holds processes cannot have limited children: make a sibling.
        quota = {"cpu.max": f"{cpus * 1e5:.0f} 100000"} if (cpus := own.cpus()) else {}
        files = {"memory.max": size, "memory.swap.max": "0", **quota}
        return [(found[min(1, len(found) - 1)].folder, files)]
    files = {
        "memory.limit_in_bytes": size,
        "memory.swappiness": "0",
        "memory.memsw.limit_in_bytes": size,
    }
    return [(own.folder, files), (outermost.folder, files)]


def _sweep(parent: Path) -> None:
    """Remove what processes left that were killed before they could."""
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{PREFIX}*"):
            maker = folder.name.removeprefix(PREFIX).partition("-")[0]
            if maker.isdigit() and not psutil.pid_exists(int(maker)):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # refused while a process is in it


@contextlib.contextmanager
def limited(limit_bytes: int | None) -> Iterator[Limiter]:
    """Give a limit of that many bytes for a process to join, and remove it at the end."""
    limiter = Limiter(limit_bytes)
    try:
        yield limiter
    finally:
        limiter.close()


def ceiling_bytes() -> int | None:
    """Return beyond how many bytes an allocation is to fail, because no machine memory is left.

    Where Linux promises memory that it does not have, llama.cpp's allocation succeeds and the
    process is killed while it fills it; a clean failure names the buffer in llama.cpp's log.
    Mapped files do not count. ``None`` beside a driver that reserves more than it will use.
    """
    if sys.platform != "linux" or any(Path(device).exists() for device in RESERVING):
        return None
    return limits.memory_limit_bytes()


def come_under(join: str, data_bytes: int | None) -> None:
    """Put this process under a limit; what it used before is not counted."""
    if join:
        Path(join).write_text(str(os.getpid()))
    if data_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, resource.RLIM_INFINITY))
