"""A child process, started, heard and ended: whatever it does, it is gone afterwards.

What it tells comes line by line on a private pipe, and is bounded: a child that floods its pipe
cannot fill the memory of the one that listens. A line that is no event is never passed over, or
a figure might be missing and nobody know. Whether a child that tells nothing still does
something is asked of the system, see :mod:`llm_latency.measure.life`.
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

from llm_latency.engine.protocol import Event, Request
from llm_latency.errors import LabError
from llm_latency.machine.devices import GpuWatch, without_gpus
from llm_latency.measure.life import Life

POLL_S = 0.05
"""How often the GPU is looked at while a child works, in seconds; not at all without a GPU."""
SILENT_S = 60.0
"""How long a child may do nothing, in seconds; never longer than its trial may take."""
GRACE_S = 1.0
"""How long a pipe is listened to whose child is gone: somebody else may hold it open."""
LINE_BYTES = 1 << 25
"""Longest line that is taken for an event; the times of a million tokens need less."""
TOLD_BYTES = 1 << 30
"""Most that a child may tell in all."""
MORE_EVENTS = 16
"""Events that a child may send beside one for each generation."""

Stop = Literal["deadline", "silence"]


@dataclass
class Heard:
    """What a child has told, and how the listening ended.

    Attributes
    ----------
    most : int
        How many events it may send.
    phase : str
        What the child was at last doing.
    events : list of Event
        All that it told.
    ended : Event or None
        Its last word, if it said one.
    strange : str or None
        Head of the first line that was no event, or that no event may follow.
    stop : str or None
        Why it was ended from here; ``None`` where it ended by itself.
    silent_s : float
        How long it may do nothing, in seconds.
    told_bytes : int
        How much it has told.
    exit_code : int
        Its exit code; negative: a signal.
    pid : int
        Its number.
    """

    most: int = MORE_EVENTS
    phase: str = "start"
    events: list[Event] = field(default_factory=list)
    ended: Event | None = None
    strange: str | None = None
    stop: Stop | None = None
    silent_s: float = SILENT_S
    told_bytes: int = 0
    exit_code: int = 0
    pid: int = 0

    def take(self, line: bytes) -> None:
        """Take one line; half a line is what a child leaves that dies while it writes."""
        torn = not line.endswith(b"\n") and len(line) < LINE_BYTES
        if torn and self.ended is None:
            return
        try:
            event = Event.model_validate_json(line)
        except ValueError:
            event = None
        self.told_bytes += len(line)
        flood = len(self.events) >= self.most or self.told_bytes > TOLD_BYTES
        if event is None or self.ended is not None or flood:
            self.strange = line[:80].decode("utf-8", "replace").strip()
            return
        self.events.append(event)
        if event.ended:
            self.ended = event
        else:
            self.phase = event.phase

    def last(self, name: str) -> object:
        """Return the last value of an event's field that was told; ``None``: none was."""
        found = (getattr(event, name) for event in reversed(self.events))
        return next((value for value in found if value is not None), None)


def hear(
    command: Sequence[str],
    request: Request,
    gpu: GpuWatch,
    *,
    timeout_s: float,
    hide_gpu: bool,
) -> Heard:
    """Let a child carry out a request, and return what it told when it is gone.

    Whatever happens, a ``KeyboardInterrupt`` included, the child is gone afterwards.

    Raises
    ------
    LabError
        If no child can be started, or its log cannot be written: nothing was tried then.
    """
    heard = Heard(silent_s=min(SILENT_S, timeout_s))
    if request.trial is not None:
        heard.most += request.trial.workload.repeats
    deadline_s = time.perf_counter() + timeout_s
    child = _spawn(command, request, hide_gpu=hide_gpu)
    heard.pid = child.pid
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
    assert child.stdin is not None and child.stdout is not None
    threads = [
        # A child that reads nothing must not stop this process while it writes to it.
        threading.Thread(target=_tell, args=(child.stdin, request), daemon=True),
        threading.Thread(target=_read, args=(child.stdout, lines), daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        heard.stop = _listen(child, lines, heard, gpu, deadline_s)
    finally:
        heard.exit_code = _end(child, lines, threads)
    return heard


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


def _tell(pipe: IO[bytes], request: Request) -> None:
    with contextlib.suppress(OSError, ValueError):
        pipe.write(request.model_dump_json().encode() + b"\n")
        pipe.flush()


def _read(pipe: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while line := pipe.readline(LINE_BYTES):
            lines.put(line)
    lines.put(None)


def _listen(
    child: subprocess.Popen[bytes],
    lines: queue.Queue[bytes | None],
    heard: Heard,
    gpu: GpuWatch,
    deadline_s: float,
) -> Stop | None:
    """Take what the child tells until it is gone; return why it has to be ended, if it has."""
    life = Life(child.pid, heard.silent_s)
    closed = False  # whether all that it told has been taken
    gone_s: float | None = None
    while heard.strange is None:
        wait_s = max(0.0, min(deadline_s, life.next_s) - time.perf_counter())
        if gone_s is not None:
            wait_s = POLL_S
        elif gpu.present or heard.ended is not None:
            wait_s = min(wait_s, POLL_S)
        try:
            if closed:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=wait_s)
                    return None
                raise queue.Empty
            line = lines.get(timeout=wait_s)
        except queue.Empty:
            # Judged only when nothing is left to take: what was told in time counts.
            now_s = time.perf_counter()
            if child.poll() is not None:
                gone_s = now_s if gone_s is None else gone_s
                if now_s - gone_s > GRACE_S:
                    return None
            elif now_s >= deadline_s:
                return "deadline"
            elif life.stands_still():
                return "silence"
        else:
            closed = line is None
            if line is not None:
                heard.take(line)
                life.told()
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
