"""The operating system's copy of a model file: put out, brought in, and proven to be so.

Reading a file leaves its pages in RAM; the next load finds them there and takes a fraction of
the time. "The second start is faster" is most often this and nothing else. On Linux a file can
be put out of the page cache without special rights (``posix_fadvise`` after ``fsync``), as
long as no process has it mapped or locked, and ``mincore`` tells which share of it is resident.
Where that cannot be had — on other systems, of a file that has no disk behind it, of one that is
larger than RAM — the state of the file stays what it was, and is said to be.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os
import sys
from functools import lru_cache
from pathlib import Path

import psutil

from llm_latency.machine import limits
from llm_latency.model import parts
from llm_latency.plan.spec import PageCache
from llm_latency.records.record import PageCacheState

_CHUNK_BYTES = 1 << 20
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))
"""The lowest bit of each of mincore's bytes says whether the page is there."""
NO_DISK = ("tmpfs", "ramfs", "9p", "virtiofs", "fuse")
"""Heads of file systems whose files lie in RAM, or with a host or a process that may keep them."""


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.mmap.restype = pointer
    library.mmap.argtypes = [pointer, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    library.munmap.argtypes = [pointer, size]
    library.mincore.argtypes = [pointer, size, pointer]
    return library


def controllable() -> bool:
    """Return whether this system lets a file be put out of the page cache, and tells."""
    return sys.platform == "linux"


def file_system(path: Path) -> str:
    """Return the kind of file system that a file lies on, as the mount table names it."""
    whole = path.resolve()
    # The last one of those that are mounted at the same place is the one that is seen.
    mounts = reversed(psutil.disk_partitions(all=True))
    above = [mount for mount in mounts if whole.is_relative_to(mount.mountpoint)]
    return max(above, key=lambda mount: len(mount.mountpoint)).fstype if above else ""


def out_of_reach(path: Path, wanted: PageCache) -> str | None:
    """Return why a model cannot be brought into a state on this machine.

    Parameters
    ----------
    path
        The model's file, the first where it has several.
    wanted
        The state.

    Returns
    -------
    str or None
        ``None`` where it is worth a try.
    """
    if wanted == "as_is":
        return None
    if not controllable():
        return f"{sys.platform} offers no way to control the page cache"
    kind = file_system(path)
    if kind == "zfs":
        return "ZFS has a cache of its own, which does not tell what it holds of a file"
    if wanted == "evicted" and kind.startswith(NO_DISK):
        return f"the model lies on {kind}, with no disk of this machine behind it"
    size = parts.size_bytes(path)
    # Which counts what the page cache holds already, since that can be given up.
    ram = min(psutil.virtual_memory().available, limits.memory_limit_bytes())
    if wanted == "resident" and size > ram:
        return (
            f"the model's {size / 2**20:,.0f} MiB are more than the {ram / 2**20:,.0f} MiB of RAM "
            "that are available"
        )
    return None


def resident_fraction(path: Path) -> float | None:
    """Return the share of a file's pages that are in RAM; ``None`` where nobody can tell.

    Asking brings nothing in: the mapping that ``mincore`` needs is never read.
    """
    size = path.stat().st_size if path.is_file() else 0
    if not controllable() or size == 0 or file_system(path) == "zfs" or not _may_ask(path):
        return None
    pages = -(-size // mmap.PAGESIZE)
    state = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file:
        address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address in (None, ctypes.c_void_p(-1).value):
            return None
        try:
            if _libc().mincore(address, size, state) != 0:
                return None
        finally:
            _libc().munmap(address, size)
    return bytes(state).translate(_LOWEST_BIT).count(1) / pages


def _may_ask(path: Path) -> bool:
    """Return whether Linux tells the truth: of another's file it says that all is in RAM."""
    return path.stat().st_uid == os.geteuid() or os.access(path, os.W_OK, effective_ids=True)


def evict(path: Path) -> None:
    """Ask the system to drop its copy of a file; pages that a process has mapped stay."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Pages that are not on the disk yet cannot be dropped.
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def bring_in(path: Path) -> None:
    """Read a file from end to end, so that the system has all of it, unless it has."""
    if resident_fraction(path) == 1.0:
        return
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_CHUNK_BYTES)
        while file.readinto(buffer):
            pass


def model_fraction(path: Path) -> float | None:
    """Return the share of a model's pages that are in RAM, over all of its files."""
    every = parts.of(path)
    found = [
        (share, part.stat().st_size)
        for part in every
        if (share := resident_fraction(part)) is not None
    ]
    if len(found) < len(every):
        return None
    return sum(share * size for share, size in found) / sum(size for _, size in found)


def prepare(path: Path, wanted: PageCache) -> PageCacheState:
    """Bring a model into the state that a trial is to start with, and say what it is then.

    Returns
    -------
    PageCacheState
        ``in_force`` is ``as_is`` where it cannot be had, with the reason in ``why``.
        Whether the resident share is what was wanted is for the proof to judge.
    """
    try:
        why = out_of_reach(path, wanted)
        for part in parts.of(path) if wanted != "as_is" and why is None else ():
            (evict if wanted == "evicted" else bring_in)(part)
    except OSError as error:
        why = f"the page cache could not be controlled: {error.strerror}"
    in_force = "as_is" if why else wanted
    return PageCacheState(in_force=in_force, resident_before=model_fraction(path), why=why)
