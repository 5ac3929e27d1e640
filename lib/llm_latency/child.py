"""One trial in one fresh process: start it, watch it, and say how it ended.

:func:`carry_out` turns a job into exactly one record, whatever happens to the child: it answers,
refuses, runs out of memory, dies by a signal, or does not end in time. It holds no state and
takes plain data, so that any executor can run it, here or on another machine.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from llm_latency import host, pagecache
from llm_latency.gpu import GpuWatch
from llm_latency.limits import limited
from llm_latency.proof import proven
from llm_latency.protocol import Event, Request
from llm_latency.record import (
    EngineCard,
    Generation,
    HostState,
    MemoryLimit,
    ProcessMemory,
    Record,
    StateFile,
    Status,
)
from llm_latency.spec import STATE_WARM_UPS, Trial

WORKER = (sys.executable, "-m", "llm_latency.worker")
"""The command line of a child."""
POLL_S = 0.05
"""How often the GPU is looked at while a child works, in seconds; not at all without a GPU."""


@dataclass(frozen=True)
class Job:
    """One trial to carry out, with all that it needs; plain data that can be sent elsewhere."""

    run_id: str
    trial: Trial
    model_path: str
    log_path: str
    timeout_s: float
    state_path: str = ""


@dataclass
class _Heard:
    """What the child has told so far."""

    phase: str = "start"
    events: list[Event] = field(default_factory=list)
    ended: Event | None = None

    def take(self, event: Event) -> None:
        self.phase = event.phase
        self.events.append(event)
        if event.ended:
            self.ended = event

    def last(self, name: str) -> object:
        found = (getattr(event, name) for event in reversed(self.events))
        return next((value for value in found if value is not None), None)


def carry_out(job: Job) -> Record:
    """Measure one trial in a fresh process and return its record.

    A ``KeyboardInterrupt`` while the child works ends the child and is passed on.
    """
    heard = _Heard()
    started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    state = stored_state(job) if job.trial.start.warm_up in STATE_WARM_UPS else None
    page_cache = pagecache.prepare(Path(job.model_path), job.trial.start.page_cache)
    cpu = host.CpuWatch.start()
    with limited(job.trial.start.memory_limit_bytes) as limit, GpuWatch() as gpu:
        request = _request(job).model_copy(
            update={"join": limit.join, "data_bytes": limit.data_bytes}
        )
        start_s = time.perf_counter()
        child = _spawn(request, hide_gpu=job.trial.settings.n_gpu_layers == 0)
        try:
            in_time = _listen(child, heard, gpu, start_s + job.timeout_s)
        finally:
            exit_code = _end(child)
        child_s = time.perf_counter() - start_s
        memory_limit = limit.state()
        kills = (memory_limit.kills if memory_limit else None) or 0
        status, reason = how_it_ended(heard.ended, exit_code, heard.phase, in_time, job, kills)
        said = heard.ended
        beside = cpu.state(said.cpu_s if said else None)
        beside = beside.model_copy(update={"gpu": gpu.state()})
        vram = gpu.vram()
    generations: list[Generation] = [e.generation for e in heard.events if e.generation]
    memory: dict[str, ProcessMemory] = {}
    for event in heard.events:
        memory |= event.memory
    record = Record.model_validate(
        {
            "run_id": job.run_id,
            "trial": job.trial,
            "status": status,
            "reason": reason,
            "started_at": started_at,
            "child_s": child_s,
            "exit_code": exit_code,
            "load": heard.last("load"),
            "effective": heard.last("effective"),
            "generations": generations,
            "buffers": heard.last("buffers") or {},
            "memory": memory,
            "page_cache": page_cache,
            "vram": vram,
            "memory_limit": memory_limit,
            "state": state,
            "host": beside,
            "warnings": [
                *(said.warnings if said else []),
                *([page_cache.why] if page_cache.why else []),
            ],
            "disturbed": host.disturbances(_judged(beside, memory_limit), child_s, generations),
            "system_info": heard.last("system_info"),
        }
    )
    return proven(record, _size(Path(job.model_path)))


def _judged(beside: HostState, limit: MemoryLimit | None) -> HostState:
    """Return what the machine did beside the trial, without what the trial did to it.

    A process that comes to its memory limit waits for memory by itself.
    """
    return beside.model_copy(update={"memory_pressure_fraction": None}) if limit else beside


def stored_state(job: Job) -> StateFile | None:
    """Have the prompt's KV cache on the disk, made by a process of its own where it is not yet.

    A process that made it would have touched all weights, and its first reply would not be the
    first. ``None`` where it could not be made: the trial itself then says why.
    """
    path = Path(job.state_path)
    card = path.with_suffix(".json")
    if not (path.is_file() and card.is_file()):
        path.parent.mkdir(parents=True, exist_ok=True)
        heard = _Heard()
        request = _request(job).model_copy(update={"make_state": True})
        child = _spawn(request, hide_gpu=job.trial.settings.n_gpu_layers == 0)
        try:
            with GpuWatch() as gpu:
                _listen(child, heard, gpu, time.perf_counter() + job.timeout_s)
        finally:
            _end(child)
        made = heard.last("state")
        if not isinstance(made, StateFile):
            return None
        card.write_text(made.model_dump_json(), encoding="utf-8")
    pagecache.prepare(path, job.trial.start.page_cache)
    return StateFile.model_validate_json(card.read_text(encoding="utf-8"))


def _request(job: Job) -> Request:
    return Request(
        trial=job.trial,
        model_path=job.model_path,
        log_path=job.log_path,
        state_path=job.state_path,
    )


def engine_card(log_path: Path) -> EngineCard | str:
    """Ask a child what the installed engine is; where it dies, return how."""
    heard = _Heard()
    child = _spawn(Request(log_path=str(log_path)), hide_gpu=False)
    try:
        with GpuWatch() as gpu:
            in_time = _listen(child, heard, gpu, time.perf_counter() + 120)
    finally:
        exit_code = _end(child)
    card = heard.last("engine")
    if isinstance(card, EngineCard):
        return card
    return death(exit_code) if in_time else "it did not answer within 120 s"


def _spawn(request: Request, *, hide_gpu: bool) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    # An abort inside llama.cpp would otherwise start a debugger to print its stack.
    environment["GGML_NO_BACKTRACE"] = "1"
    if hide_gpu:
        # With n_gpu_layers=0 a CUDA build still computes batches of 32 and more on the GPU.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with open(request.log_path, "a", encoding="utf-8") as log:
        child = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the parent, who ends the child
        )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(request.model_dump_json() + "\n")
        child.stdin.flush()
    return child


def _listen(child: subprocess.Popen[str], heard: _Heard, gpu: GpuWatch, deadline_s: float) -> bool:
    """Take the child's events until its pipe closes; return whether it did so in time."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert child.stdout is not None
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    while (left_s := deadline_s - time.perf_counter()) > 0:
        try:
            line = lines.get(timeout=min(left_s, POLL_S) if gpu.present else left_s)
        except queue.Empty:
            gpu.sample(child.pid)
            continue
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=max(0.1, deadline_s - time.perf_counter()))
                return True
            return False
        with contextlib.suppress(ValueError):  # half a line of a child that died
            heard.take(Event.model_validate_json(line))
        gpu.sample(child.pid)
    return False


def _read(pipe: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in pipe:
            lines.put(line)
    lines.put(None)


def _end(child: subprocess.Popen[str]) -> int:
    """End the child if it still lives, and return its exit code (negative: a signal)."""
    if child.poll() is None:
        child.kill()
    code = child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    return code


def how_it_ended(
    said: Event | None, exit_code: int, phase: str, in_time: bool, job: Job, kills: int = 0
) -> tuple[Status, str | None]:
    """Return the status and reason of a child: by its last word, else by how it died."""
    if said is not None and said.ended is not None:
        return ("ok", None) if said.ended == "done" else (said.ended, said.reason)
    where = f"in phase '{phase}'; llama.cpp's log: {Path(job.log_path).name}"
    if not in_time:
        return "timeout", f"not finished within {job.timeout_s:g} s, {where}"
    if kills:
        limit = f"its limit of {(job.trial.start.memory_limit_bytes or 0) / 2**20:.0f} MiB"
        return "oom", f"killed by the system: it needed more than {limit}, {where}"
    if exit_code == -getattr(signal, "SIGKILL", 9):
        # Nobody but the system's out-of-memory killer, or a person, ends a child like this.
        return "oom", f"killed from outside, most likely because memory ran out, {where}"
    tail = _tail(Path(job.log_path))
    status: Status = "oom" if "bad_alloc" in tail or "out of memory" in tail else "crashed"
    return status, f"{death(exit_code)}, {where}" + (f"; last words: {tail}" if tail else "")


def death(exit_code: int) -> str:
    """Say in words what an exit code means."""
    if exit_code >= 0:
        return f"the child ended with exit code {exit_code} and no answer"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    meaning = {
        "SIGSEGV": "segmentation fault",
        "SIGILL": "illegal instruction: the engine is built for another CPU",
        "SIGABRT": "llama.cpp gave up",
        "SIGBUS": "bus error: the model file became shorter, or the disk is full",
    }.get(name)
    return f"the child died by {name}" + (f" ({meaning})" if meaning else "")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return " ".join(lines[-1].split())[:300] if lines else ""
