"""A disk that is full when one wants it to be."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[tuple[Path, str, Callable[[int], None]]]:
    """Give a folder on a disk of a few bytes, and a call that leaves it so many.

    Where none can be mounted, files of this process and its children may not grow instead.
    """
    folder = place / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and not subprocess.run(command, capture_output=True).returncode
    filler = folder / "filler"

    def leave(room: int) -> None:
        if not mounted:
            import resource  # not on Windows

            most = resource.RLIM_INFINITY if room >= size // 2 else room // 4
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
            return
        filler.unlink(missing_ok=True)
        used = shutil.disk_usage(folder).free - room
        filler.write_bytes(bytes(max(0, used)))

    try:
        yield folder, "a tmpfs" if mounted else "RLIMIT_FSIZE, as no disk can be mounted", leave
    finally:
        leave(size)
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
