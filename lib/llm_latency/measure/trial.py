"""One trial in one fresh process, and the record that it leaves.

:func:`carry_out` turns a job into exactly one record, whatever happens to the child: it answers,
refuses, runs out of memory, dies by a signal, or does not end in time. It holds no state and
takes plain data, so that any executor can run it, here or on another machine.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from llm_latency.engine import log as llama_log
from llm_latency.engine.protocol import Request
from llm_latency.errors import LabError
from llm_latency.machine import host
from llm_latency.machine import page_cache as pagecache
from llm_latency.machine.devices import GpuWatch
from llm_latency.machine.memory_cap import limited
from llm_latency.machine.vram_ballast import leaving
from llm_latency.measure import process
from llm_latency.measure.outcome import Circumstances, outcome_of, tail_of
from llm_latency.plan.spec import STATE_WARM_UPS, Trial
from llm_latency.records import files
from llm_latency.records.proof import proven
from llm_latency.records.record import (
    EngineCard,
    Generation,
    HostState,
    MemoryLimit,
    ProcessMemory,
    Record,
    StateFile,
    Status,
)

WORKER: tuple[str, ...] = (sys.executable, "-m", "llm_latency.engine.worker")
"""The command line of a child."""
ENGINE_TIMEOUT_S = 120.0
"""How long an engine may take to say what it is."""


@dataclass(frozen=True)
class Job:
    """One trial to carry out, with all that it needs; plain data that can be sent elsewhere."""

    run_id: str
    trial: Trial
    model_path: str
    log_path: str
    timeout_s: float
    state_path: str = ""


class NoState(Exception):
    """The prompt's stored state could not be made; its making ended like this."""

    def __init__(self, status: Status, reason: str | None, exit_code: int) -> None:
        super().__init__(reason)
        self.status, self.reason, self.exit_code = status, reason, exit_code


def carry_out(job: Job) -> Record:
    """Measure one trial in a fresh process and return its record.

    A ``KeyboardInterrupt`` while the child works ends the child and is passed on.

    Raises
    ------
    LabError
        If nothing could be tried: no process can be started, the disk is full, or the VRAM that
        is to be left is not there.
    """
    with leaving(job.trial.start.leave_vram_bytes) as held:
        record = _carried_out(job)
    if held is None:
        return record
    vram = record.vram.model_copy(update={"ballast_bytes": held.held_bytes})
    return record.model_copy(update={"vram": vram})


def _carried_out(job: Job) -> Record:
    """Measure one trial in a fresh process, on the card as it is."""
    started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    start_s = time.perf_counter()
    try:
        state = stored_state(job) if job.trial.start.warm_up in STATE_WARM_UPS else None
    except NoState as ended:
        return Record(
            run_id=job.run_id,
            trial=job.trial,
            status=ended.status,
            reason=f"the state to restore could not be made: {ended.reason}",
            started_at=started_at,
            child_s=time.perf_counter() - start_s,
            exit_code=ended.exit_code,
        )
    page_cache = pagecache.prepare(Path(job.model_path), job.trial.start.page_cache)
    log, wanted = Path(job.log_path), job.trial.workload.repeats + 1
    around = Circumstances(job.timeout_s, log, log_start=_size(log), generations=wanted)
    cpu = host.CpuWatch.start()
    with limited(job.trial.start.memory_limit_bytes) as limit, GpuWatch() as gpu:
        request = _request(job).model_copy(
            update={"join": limit.join, "data_bytes": limit.data_bytes}
        )
        start_s = time.perf_counter()
        transcript = _run_child(job, request, gpu)
        child_s = time.perf_counter() - start_s
        memory_limit = limit.state()
        status, reason = outcome_of(transcript, around.after(memory_limit))
        final = transcript.final_event
        beside = cpu.state(final.cpu_s if final else None)
        beside = beside.model_copy(update={"gpu": gpu.state()})
        vram = gpu.vram()
    generations: list[Generation] = [e.generation for e in transcript.events if e.generation]
    memory: dict[str, ProcessMemory] = {}
    for event in transcript.events:
        memory |= event.memory
    record = Record.model_validate(
        {
            "run_id": job.run_id,
            "trial": job.trial,
            "status": status,
            "reason": reason,
            "started_at": started_at,
            "child_s": child_s,
            "exit_code": transcript.exit_code,
            "load": transcript.latest("load"),
            "effective": transcript.latest("effective"),
            "generations": generations,
            "buffers": transcript.latest("buffers") or {},
            "memory": memory,
            "page_cache": page_cache,
            "vram": vram,
            "memory_limit": memory_limit,
            "state": state,
            "host": beside,
            "warnings": [
                *(final.warnings if final else []),
                *([page_cache.why] if page_cache.why else []),
            ],
            "disturbed": host.disturbances(_judged(beside, memory_limit), child_s, generations),
            "system_info": transcript.latest("system_info"),
        }
    )
    return proven(record, _size(Path(job.model_path)))


def _judged(beside: HostState, limit: MemoryLimit | None) -> HostState:
    """Return what the machine did beside the trial, without what the trial did to it.

    A process that comes to its memory limit waits for memory by itself.
    """
    return beside.model_copy(update={"memory_pressure_fraction": None}) if limit else beside


def stored_state(job: Job) -> StateFile:
    """Have the prompt's KV cache on the disk, made by a process of its own where it is not yet.

    A process that made it would have touched all weights, and its first reply would not be the
    first.

    Raises
    ------
    NoState
        If the process that was to make it failed.
    LabError
        If there is no room for it: no trial's fault, and to be made when there is.
    """
    path, log = Path(job.state_path), Path(job.log_path)
    if (known := _stored_card(path)) is None:
        try:
            known = _make_state(job, path, Circumstances(job.timeout_s, log, _size(log)))
            files.write(path.with_suffix(".json"), known.model_dump_json())
        except OSError as error:
            raise LabError(
                f"a prompt's state cannot be kept in {path.parent} ({error.strerror}); make room "
                "there, and run again with the same run_id to go on"
            ) from None
    pagecache.prepare(path, job.trial.start.page_cache)
    return known


def _make_state(job: Job, path: Path, around: Circumstances) -> StateFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    with GpuWatch() as gpu:
        transcript = _run_child(job, _request(job).model_copy(update={"make_state": True}), gpu)
    status, reason = outcome_of(transcript, around.after(None))
    made = transcript.latest("state")
    if status == "ok" and isinstance(made, StateFile):
        return made
    with contextlib.suppress(OSError, ValueError):
        path.with_name(f"{path.name}.{transcript.pid}").unlink()  # half of it, and in the way
    told = f"{reason} {tail_of(around.log, around.log_start)}"
    if full := llama_log.no_room(told):
        raise OSError(0, full)
    raise NoState("crashed" if status == "ok" else status, reason, transcript.exit_code)


def _stored_card(path: Path) -> StateFile | None:
    """Return the card of a state that is whole; ``None`` where a kill came between the two."""
    try:
        card = StateFile.model_validate_json(path.with_suffix(".json").read_text(encoding="utf-8"))
        return card if path.stat().st_size == card.bytes else None
    except (OSError, ValueError):
        return None


def _request(job: Job) -> Request:
    return Request(
        trial=job.trial,
        model_path=job.model_path,
        log_path=job.log_path,
        state_path=job.state_path,
    )


def _run_child(job: Job, request: Request, gpu: GpuWatch) -> process.Transcript:
    hide_gpu = job.trial.settings.n_gpu_layers == 0
    return process.run_child(WORKER, request, gpu, timeout_s=job.timeout_s, hide_gpu=hide_gpu)


def engine_card(log_path: Path) -> EngineCard | str:
    """Ask a child what the installed engine is; where it dies, return how."""
    around = Circumstances(ENGINE_TIMEOUT_S, log_path, log_start=_size(log_path))
    request = Request(log_path=str(log_path))
    with GpuWatch() as gpu:
        transcript = process.run_child(
            WORKER, request, gpu, timeout_s=ENGINE_TIMEOUT_S, hide_gpu=False
        )
    card = transcript.latest("engine")
    if isinstance(card, EngineCard):
        return card
    return outcome_of(transcript, around.after(None))[1] or "it did not say what it is"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
