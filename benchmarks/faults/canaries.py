"""Folders where programs like to write, and whether one did."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class Canaries:
    """Folders into which nothing may be written, stood where programs like to write.

    The home folder, the working folder, the folder for temporary files and the model's own.
    """

    NAMES = ("home", "cwd", "tmp", "models")

    def __init__(self, place: Path) -> None:
        self.folders = {name: place / name for name in self.NAMES}
        self.place = place
        self._before: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def standing(self) -> Iterator[Canaries]:
        """Have them in force while a ``with`` block lasts."""
        for folder in self.folders.values():
            folder.mkdir()
        own = {
            "HOME": str(self.folders["home"]),
            "TMPDIR": str(self.folders["tmp"]),
            "LLM_LATENCY_CACHE": str(self.place / "cache"),
        }
        gone = [name for name in os.environ if name.startswith("XDG_")]
        kept = {name: os.environ.get(name) for name in [*own, *gone]}
        here = Path.cwd()
        for name in gone:
            del os.environ[name]
        os.environ.update(own)
        os.chdir(self.folders["cwd"])
        tempfile.tempdir = None
        try:
            yield self
        finally:
            os.chdir(here)
            for name, value in kept.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            tempfile.tempdir = None

    def set(self) -> None:
        """Take note of what is in them now."""
        self._before = self._now()

    def touched(self) -> list[str]:
        """Return what was written, changed or removed since."""
        now = self._now()
        names = {*now, *self._before}
        return sorted(name for name in names if now.get(name) != self._before.get(name))

    def _now(self) -> dict[str, tuple[int, int]]:
        found = {}
        for folder in self.folders.values():
            for path in folder.rglob("*"):
                stat = path.lstat()
                found[str(path)] = (stat.st_size, stat.st_mtime_ns)
        return found
