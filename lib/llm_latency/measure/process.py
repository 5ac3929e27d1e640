"""A child process, started, supervised and ended: whatever it does, it is gone afterwards.

What it reports comes line by line on a private pipe, and is bounded: a child that floods its
pipe cannot fill this process's memory. A line that is no event is never passed over, or a figure
might be missing and nobody know. A child is ended at its deadline, and sooner where it has come
to a standstill.

Lines of JSON on a plain pipe, and not :mod:`multiprocessing.connection`: whatever a broken child
writes is still a line that can be shown, not a length that cannot be believed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

import psutil

from llm_latency.engine.protocol import Event, Request
from llm_latency.errors import LabError
from llm_latency.machine.devices import GpuWatch, without_gpus

GPU_POLL_S = 0.05
"""How often the GPU is sampled while a child works, in seconds; not at all without a GPU."""
CHECK_S = 5.0
"""How often a process is asked for signs of activity, in seconds, at most."""
IDLE_LIMIT_S = 60.0
"""How long a child may do nothing, in seconds; never longer than its trial may take."""
DRAIN_S = 1.0
"""How long a pipe is read whose child is gone: somebody else may hold it open."""
MAX_LINE_BYTES = 1 << 25
"""Longest line that is taken for an event; the times of a million tokens need less."""
MAX_BYTES = 1 << 30
"""Most that a child may report in all."""
EXTRA_EVENTS = 16
"""Events that a child may send beside one for each generation."""

StoppedAt = Literal["deadline", "standstill"]


@dataclass
class Transcript:
    """What a child reported, and how it ended.

    Attributes
    ----------
    max_events : int
        How many events it may report.
    phase : str
        What the child was at last doing.
    events : list of Event
        All that it reported, in order.
    final_event : Event or None
        The one that says how it ended, if it came so far.
    protocol_error : str or None
        Head of the first line that was no event, or one too many.
    stopped_at : str or None
        Why it was ended from here; ``None`` where it ended by itself.
    idle_limit_s : float
        How long it may do nothing, in seconds.
    received_bytes : int
        How much it has reported.
    exit_code : int
        Its exit code; negative: a signal.
    pid : int
        Its number.
    """

    max_events: int = EXTRA_EVENTS
    phase: str = "start"
    events: list[Event] = field(default_factory=list)
    final_event: Event | None = None
    protocol_error: str | None = None
    stopped_at: StoppedAt | None = None
    idle_limit_s: float = IDLE_LIMIT_S
    received_bytes: int = 0
    exit_code: int = 0
    pid: int = 0

    def receive(self, line: bytes) -> None:
        """Take one line; half a line is what a child leaves that dies while it writes."""
        torn = not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES
        if torn and self.final_event is None:
            return
        try:
            event = Event.model_validate_json(line)
        except ValueError:
            event = None
        self.received_bytes += len(line)
        flood = len(self.events) >= self.max_events or self.received_bytes > MAX_BYTES
        if event is None or self.final_event is not None or flood:
            self.protocol_error = line[:80].decode("utf-8", "replace").strip()
            return
        self.events.append(event)
        if event.ended:
            self.final_event = event
        else:
            self.phase = event.phase

    def latest(self, name: str) -> object:
        """Return the latest value that was reported of an event's field; ``None``: none was."""
        values = (getattr(event, name) for event in reversed(self.events))
        return next((value for value in values if value is not None), None)


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
            if self._process.status() == psutil.STATUS_DISK_SLEEP:
                return None
            times = self._process.cpu_times()
            # macOS does not count what a process reads.
            counters: tuple[int, ...] = getattr(self._process, "io_counters", tuple)()
        except psutil.Error:
            return None
        return (times.user, times.system, *counters)


def run_child(
    command: Sequence[str],
    request: Request,
    gpu: GpuWatch,
    *,
    timeout_s: float,
    hide_gpu: bool,
) -> Transcript:
    """Let a child carry out a request, and return what it reported when it is gone.

    Whatever happens, a ``KeyboardInterrupt`` included, the child is gone afterwards.

    Raises
    ------
    LabError
        If no child can be started, or its log cannot be written: nothing was tried then.
    """
    transcript = Transcript(idle_limit_s=min(IDLE_LIMIT_S, timeout_s))
    if request.trial is not None:
        transcript.max_events += request.trial.workload.repeats
    deadline_s = time.perf_counter() + timeout_s
    child = _spawn(command, request, hide_gpu=hide_gpu)
    transcript.pid = child.pid
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
    assert child.stdin is not None and child.stdout is not None
    threads = [
        # A child that reads nothing must not stop this process while it writes to it.
        threading.Thread(target=_write_request, args=(child.stdin, request), daemon=True),
        threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        transcript.stopped_at = _supervise(child, lines, transcript, gpu, deadline_s)
    finally:
        transcript.exit_code = _end(child, lines, threads)
    return transcript


def _spawn(command: Sequence[str], request: Request, *, hide_gpu: bool) -> subprocess.Popen[bytes]:
    environment = without_gpus() if hide_gpu else dict(os.environ)
    # An abort inside llama.cpp would otherwise start a debugger to print its stack.
    environment["GGML_NO_BACKTRACE"] = "1"
    try:
        log = open(request.log_path, "ab")  # noqa: SIM115
    except OSError as error:
        raise LabError(
            f"the log {request.log_path} cannot be written ({error.strerror}); make room there, "
            "or set LLM_LATENCY_OUTPUTS to a folder that can, and run again to go on"
        ) from None
    with log:
        try:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, who ends the child
            )
        except OSError as error:
            raise LabError(
                f"no process can be started with {command[0]} ({error.strerror}); see that its "
                "environment is still there and that the system has room for a process, and run "
                "again to go on"
            ) from None


def _write_request(pipe: IO[bytes], request: Request) -> None:
    with contextlib.suppress(OSError, ValueError):
        pipe.write(request.model_dump_json().encode() + b"\n")
        pipe.flush()


def _read_lines(pipe: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while line := pipe.readline(MAX_LINE_BYTES):
            lines.put(line)
    lines.put(None)


def _supervise(
    child: subprocess.Popen[bytes],
    lines: queue.Queue[bytes | None],
    transcript: Transcript,
    gpu: GpuWatch,
    deadline_s: float,
) -> StoppedAt | None:
    """Receive what the child reports until it is gone; return why it has to be ended, if it has."""
    activity = Activity(child.pid, transcript.idle_limit_s)
    closed = False  # whether all that it reported has been received
    gone_s: float | None = None
    while transcript.protocol_error is None:
        wait_s = max(0.0, min(deadline_s, activity.next_check_s) - time.perf_counter())
        if gone_s is not None:
            wait_s = GPU_POLL_S
        elif gpu.present or transcript.final_event is not None:
            wait_s = min(wait_s, GPU_POLL_S)
        try:
            if closed:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=wait_s)
                    return None
                raise queue.Empty
            line = lines.get(timeout=wait_s)
        except queue.Empty:
            # Judged only when nothing is left to receive: what was reported in time counts.
            now_s = time.perf_counter()
            if child.poll() is not None:
                gone_s = now_s if gone_s is None else gone_s
                if now_s - gone_s > DRAIN_S:
                    return None
            elif now_s >= deadline_s:
                return "deadline"
            elif activity.is_idle():
                return "standstill"
        else:
            closed = line is None
            if line is not None:
                transcript.receive(line)
                activity.reported()
        gpu.sample(child.pid)
    return None


def _end(
    child: subprocess.Popen[bytes],
    lines: queue.Queue[bytes | None],
    threads: Sequence[threading.Thread],
) -> int:
    """End the child if it still lives, and return its exit code (negative: a signal)."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(child.pid, signal.SIGKILL)  # what it may have started, too
        child.kill()
    code = child.wait()
    for thread in threads:
        until_s = time.perf_counter() + 2
        while thread.is_alive() and time.perf_counter() < until_s:
            with contextlib.suppress(queue.Empty):
                while True:  # a full queue would hold the thread that reads
                    lines.get_nowait()
            thread.join(timeout=0.02)
    for thread, pipe in zip(threads, (child.stdin, child.stdout), strict=True):
        # A pipe that somebody else holds open, and a thread that still reads it, are left alone.
        if pipe is not None and not thread.is_alive():
            with contextlib.suppress(OSError):
                pipe.close()
    return code
