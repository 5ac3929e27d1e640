"""A child process, started, supervised and ended: whatever it does, it is gone afterwards.

What it reports comes line by line on a private pipe (:mod:`llm_latency.measure.transcript`). A
child is ended at its deadline, and sooner where it has come to a standstill
(:mod:`llm_latency.measure.activity`).

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
from typing import IO

from llm_latency.engine.protocol import Request
from llm_latency.errors import LabError
from llm_latency.machine.devices import GpuWatch, without_gpus
from llm_latency.measure.activity import Activity
from llm_latency.measure.transcript import MAX_LINE_BYTES, StoppedAt, Transcript

GPU_POLL_S = 0.05
"""How often the GPU is sampled while a child works, in seconds; not at all without a GPU."""
IDLE_LIMIT_S = 60.0
"""How long a child may do nothing, in seconds; never longer than its trial may take."""
DRAIN_S = 1.0
"""How long a pipe is read whose child is gone: somebody else may hold it open."""


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
    transcript.pid = transcript.holder = child.pid
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
        gpu.sample(transcript.holder)
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
