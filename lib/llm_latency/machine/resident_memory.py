"""Where a process's resident bytes lie: in the model's file, the engine's buffers, Python's own.

The system knows of every mapping how much of it is in RAM. What a mapping is for follows from
its name and from when it appeared: anonymous memory that was there before loading is Python's,
what appeared while the model loaded is the engine's (weights that were read, KV cache, compute
and output buffers), and what appeared later is work space of the first generations. A buffer
that was allocated and not yet touched is in none of these sums: it grows when it is first used.
"""

from __future__ import annotations

import sys
from pathlib import Path

PLACES = {
    "model_file": "pages of the model's file",
    "engine": "the engine's buffers",
    "work_space": "work space that appeared later",
    "heap": "small pieces (heap)",
    "python": "Python, before the model",
    "code": "programs and libraries",
}
"""Names of the places, and what readers are told of them."""


class Places:
    """Takes the resident bytes of this process apart, phase by phase.

    Parameters
    ----------
    model
        The model's file.
    """

    def __init__(self, model: Path) -> None:
        self._model = str(model.resolve())
        self._before: set[str] = set()
        self._loaded: set[str] | None = None

    def now(self, phase: str) -> dict[str, int]:
        """Return the resident bytes of each place; empty where the system does not tell.

        Parameters
        ----------
        phase
            One of :data:`~llm_latency.records.record.PHASES`, in their order.
        """
        found = _mappings()
        anonymous = {start for start, name, _ in found if not name}
        if phase == "before":
            self._before = anonymous
        elif self._loaded is None:
            self._loaded = anonymous
        sums: dict[str, int] = {}
        for start, name, resident in found:
            place = self._place(start, name)
            sums[place] = sums.get(place, 0) + resident
        return sums

    def _place(self, start: str, name: str) -> str:
        if name == self._model:
            return "model_file"
        if name.startswith("[heap"):
            return "heap"
        if name:
            return "code"  # shared libraries, and the little that the kernel maps
        if start in self._before:
            return "python"
        return "engine" if self._loaded is None or start in self._loaded else "work_space"


def _mappings() -> list[tuple[str, str, int]]:
    """Return the start, name and resident bytes of every mapping; empty but on Linux."""
    if sys.platform != "linux":
        return []
    try:
        text = Path("/proc/self/smaps").read_text(errors="replace")
    except OSError:
        return []
    found, start, name = [], "", ""
    for line in text.splitlines():
        head = line[:4]
        if head == "Rss:":
            found.append((start, name, int(line.split()[1]) * 1024))
        elif line[0] in "0123456789abcdef":  # every other line begins with a capital
            fields = line.split(None, 5)
            start = fields[0].partition("-")[0]
            name = fields[5] if len(fields) > 5 else ""
    return found
