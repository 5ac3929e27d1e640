"""Whether a process that reports nothing still does something, asked of the system."""

from __future__ import annotations

import contextlib
import time

import psutil

CHECK_S = 5.0
"""How often a process is asked for signs of activity, in seconds, at most."""


class Activity:
    """Whether a process that reports nothing still does something, asked of the system.

    A child that got no CPU time, read and wrote nothing and is not waiting for a disk has come to
    a standstill (stopped, or its threads wait for each other), and to wait for its deadline would
    be to wait for nothing. It is asked every few seconds only, by the parent: a thread that wakes
    up in the measured process would disturb it.

    Parameters
    ----------
    pid
        The process.
    limit_s
        How long it may do nothing, in seconds.
    """

    def __init__(self, pid: int, limit_s: float) -> None:
        self._limit_s = limit_s
        self._interval_s = min(CHECK_S, limit_s / 4)
        self._counters: tuple[float, ...] | None = None
        self._checked_s = time.perf_counter()
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)
        self._idle_s = 0.0

    @property
    def next_check_s(self) -> float:
        """When to check again."""
        return self._checked_s + self._interval_s

    def reported(self) -> None:
        """Begin the time anew: it reported something."""
        self._idle_s = 0.0

    def is_idle(self) -> bool:
        """Check, if it is time to, and return whether it did nothing for too long."""
        now_s = time.perf_counter()
        passed_s = now_s - self._checked_s
        if passed_s < self._interval_s:
            return False
        self._checked_s = now_s
        before, self._counters = self._counters, self._read_counters()
        if self._counters is None or self._counters != before:
            self._idle_s = 0.0
        else:
            # A machine that slept, or a stopped parent, is no idleness of the child.
            self._idle_s += min(passed_s, 2 * self._interval_s)
        return self._idle_s >= self._limit_s

    def _read_counters(self) -> tuple[float, ...] | None:
        """Return counts that only grow while it does something; ``None``: nobody can tell.

        Whoever waits for a disk does so until it answers, be it to write (``fsync``), which no
        count shows: only the deadline ends that.
        """
        if self._process is None:
            return None
        try:
            counters: list[float] = []
            # What it started may do its work, while it waits for an answer.
            for process in (self._process, *self._process.children(recursive=True)):
                if process.status() == psutil.STATUS_DISK_SLEEP:
                    return None
                times = process.cpu_times()
                # macOS does not count what a process reads.
                counters += [times.user, times.system, *getattr(process, "io_counters", tuple)()]
        except psutil.Error:
            return None
        return tuple(counters)
