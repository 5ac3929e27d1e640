"""Whether a process that tells nothing still does something, asked of the system from outside.

A child that got no CPU time, read and wrote nothing and is not waiting for a disk has come to a
standstill (stopped, or its threads wait for each other), and to wait for its deadline would be to
wait for nothing. It is asked every few seconds only, by the parent: a thread that wakes up in
the measured process would disturb it.
"""

from __future__ import annotations

import contextlib
import time

import psutil

LOOK_S = 5.0
"""How often a process is looked at, in seconds, at most."""


class Life:
    """Signs of life of one process, and for how long there was none.

    Parameters
    ----------
    pid
        The process.
    limit_s
        For how long it may do nothing, in seconds.
    """

    def __init__(self, pid: int, limit_s: float) -> None:
        self._limit_s = limit_s
        self._each_s = min(LOOK_S, limit_s / 4)
        self._signs: tuple[float, ...] | None = None
        self._looked_s = time.perf_counter()
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)
        self._silent_s = 0.0

    @property
    def next_s(self) -> float:
        """When to look again."""
        return self._looked_s + self._each_s

    def told(self) -> None:
        """Take note that it told something."""
        self._silent_s = 0.0

    def stands_still(self) -> bool:
        """Look, if it is time to, and return whether there was no sign for too long."""
        now_s = time.perf_counter()
        passed_s = now_s - self._looked_s
        if passed_s < self._each_s:
            return False
        self._looked_s = now_s
        before, self._signs = self._signs, self._look()
        if self._signs is None or self._signs != before:
            self._silent_s = 0.0
        else:
            # A machine that slept, or a stopped parent, is no silence of the child.
            self._silent_s += min(passed_s, 2 * self._each_s)
        return self._silent_s >= self._limit_s

    def _look(self) -> tuple[float, ...] | None:
        """Return what only grows while the process does something; ``None``: nobody can tell.

        Whoever waits for a disk does so until it answers, be it to write (``fsync``), which no
        count shows: only the deadline ends that.
        """
        if self._process is None:
            return None
        try:
            if self._process.status() == psutil.STATUS_DISK_SLEEP:
                return None
            times = self._process.cpu_times()
            # macOS does not count what a process reads.
            counters: tuple[int, ...] = getattr(self._process, "io_counters", tuple)()
        except psutil.Error:
            return None
        return (times.user, times.system, *counters)
