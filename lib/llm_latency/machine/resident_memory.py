"""Where a process's resident bytes lie: in the model's file, the engine's buffers, Python's own.

The system knows of every mapping how much of it is in RAM. What a mapping is for follows from
its name and from when it appeared: anonymous memory that was there before loading is Python's,
what appeared while the model loaded is the engine's (weights that were read, KV cache, compute
and output buffers), and what appeared later is work space of the first generations. A buffer
that was allocated and not yet touched is in none of these sums: it grows when it is first used.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import psutil

from llm_latency.model import parts

ANONYMOUS = "[anon]"
"""psutil's name of a mapping that has none."""


class ResidentMap:
    """Takes the resident bytes of a process apart, phase by phase.

    Parameters
    ----------
    model
        The model's file, or the first of several.
    """

    def __init__(self, model: Path) -> None:
        self._model = {str(part.resolve()) for part in parts.of(model)}
        self._before: set[str] = set()
        self._loaded: set[str] | None = None

    def by_place(self, phase: str, pid: int | None = None) -> dict[str, int]:
        """Return the resident bytes of each of the :data:`~llm_latency.records.record.PLACES`.

        Empty where the system does not tell.

        Parameters
        ----------
        phase
            One of :data:`~llm_latency.records.record.PHASES`, in their order.
        pid
            The process; this one if none is named.
        """
        mappings = _mappings(pid)
        anonymous = {start for start, name, _ in mappings if name == ANONYMOUS}
        if phase == "before":
            self._before = anonymous
        elif self._loaded is None:
            self._loaded = anonymous
        resident: Counter[str] = Counter()
        for start, name, rss in mappings:
            resident[self._place(start, name)] += rss
        return dict(resident)

    def _place(self, start: str, name: str) -> str:
        if name in self._model:
            return "model_file"
        if name.startswith("[heap"):
            return "heap"
        if name != ANONYMOUS:
            return "code"  # shared libraries, and the little that the kernel maps
        if start in self._before:
            return "python"
        return "engine" if self._loaded is None or start in self._loaded else "work_space"


def _mappings(pid: int | None) -> list[tuple[str, str, int]]:
    """Return the start, name and resident bytes of every mapping; empty but on Linux."""
    if sys.platform != "linux":
        return []
    try:
        mappings = psutil.Process(pid).memory_maps(grouped=False)
    except (psutil.Error, OSError, ValueError):  # ValueError: a kernel that words it anew
        return []
    # Its end is no part of it: a mapping grows, and stays what it was.
    return [(mapping.addr.partition("-")[0], mapping.path, mapping.rss) for mapping in mappings]
