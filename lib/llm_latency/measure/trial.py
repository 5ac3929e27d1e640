"""One trial in one fresh process, and the record that it leaves.

:func:`carry_out` turns a job into exactly one record, whatever happens to the child: it answers,
refuses, runs out of memory, dies by a signal, or does not end in time. It holds no state and
takes plain data, so that any executor can run it, here or on another machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from llm_latency.engine.protocol import Request
from llm_latency.errors import ParameterError
from llm_latency.machine import (
    affinity,
    disturbance,
    host,
    interpreters,
    offload,
    page_cache,
    power,
)
from llm_latency.machine.cpu_watch import CpuWatch
from llm_latency.machine.devices import GpuCard, GpuWatch
from llm_latency.machine.memory_cap import limited
from llm_latency.machine.vram_ballast import leaving
from llm_latency.measure import process
from llm_latency.measure.job import Job, worker_command
from llm_latency.measure.outcome import Circumstances, outcome_of
from llm_latency.measure.prompt_state import NoState, stored_state
from llm_latency.measure.transcript import Transcript
from llm_latency.measure.vram import vram_of
from llm_latency.plan.spec import STATE_WARM_UPS
from llm_latency.records.folders import size_of
from llm_latency.records.generation import Generation
from llm_latency.records.proof import proven
from llm_latency.records.record import (
    Affinity,
    Buffers,
    Effective,
    EngineCard,
    EngineDevice,
    HostState,
    MemoryLimit,
    ProcessMemory,
    Record,
    Status,
)

ENGINE_TIMEOUT_S = 120.0
"""How long an engine may take to say what it is."""


def carry_out(job: Job) -> Record:
    """Measure one trial in a fresh process and return its record.

    A ``KeyboardInterrupt`` while the child works ends the child and is passed on.

    Raises
    ------
    LabError
        If nothing could be tried: the model's file has become another one or cannot be fetched,
        no process can be started, the disk is full, or the VRAM to be left is not there.
    """
    try:
        model = job.model.find()
        pinned = affinity.chosen(job.trial.start.cores)
        interpreters.interpreter(job.trial.start.engine)
    except ParameterError as error:
        return _unmeasured(job, "refused", str(error))
    with contextlib.suppress(OSError):  # whoever writes the log says why there is none
        job.files.log.parent.mkdir(parents=True, exist_ok=True)
    with leaving(job.trial.start.leave_vram_bytes) as held:
        record = _measure(job, model, pinned)
    if held is None:
        return record
    vram = record.vram.model_copy(update={"ballast_bytes": held.held_bytes})
    return record.model_copy(update={"vram": vram})


def _measure(job: Job, model: Path, pinned: Sequence[int] | None) -> Record:
    """Measure one trial in a fresh process on these CPUs, on the card as it is."""
    started_at, start_s = _now(), time.perf_counter()
    try:
        state = stored_state(job, model) if job.trial.start.warm_up in STATE_WARM_UPS else None
    except NoState as ended:
        made = _unmeasured(
            job, ended.status, f"the state to restore could not be made: {ended.reason}"
        )
        child_s = time.perf_counter() - start_s
        return made.model_copy(update={"child_s": child_s, "exit_code": ended.exit_code})
    file_pages = page_cache.prepare(model, job.trial.start.page_cache)
    log, generations = job.files.log, job.trial.workload.generations
    circumstances = Circumstances(
        job.timeout_s, log, log_start=size_of(log), generations=generations
    )
    cpu, fed = CpuWatch.start(cpus=pinned), power.now()
    with limited(job.trial.start.memory_limit_bytes) as limit, GpuWatch() as gpu:
        request = job.request(model).model_copy(
            update={"join": limit.join, "data_bytes": limit.data_bytes}
        )
        start_s = time.perf_counter()
        transcript = process.run_child(
            job.command, request, gpu, timeout_s=job.timeout_s, hide_gpu=job.hides_gpu
        )
        child_s = time.perf_counter() - start_s
        memory_limit = limit.state()
        status, reason = outcome_of(transcript, circumstances.after(memory_limit))
        final = transcript.final_event
        beside = cpu.state(final.cpu_s if final else None)
        beside = beside.model_copy(
            update={"gpu": gpu.state(), **fed.model_dump(), **_frequencies(transcript)}
        )
        watched = gpu.vram()
        effective = transcript.latest("effective")
        on_card = isinstance(effective, Effective) and effective.n_gpu_layers > 0
        gpu_uuid = gpu.card().uuid if on_card else None
    answers: list[Generation] = [e.generation for e in transcript.events if e.generation]
    memory: dict[str, ProcessMemory] = {}
    for event in transcript.events:
        memory |= event.memory
    told = transcript.latest("buffers")
    buffers = told if isinstance(told, Buffers) else Buffers()
    record = Record.model_validate(
        {
            "run_id": job.run_id,
            "machine_id": host.machine_id(),
            "gpu_uuid": gpu_uuid,
            "trial": job.trial,
            "status": status,
            "reason": reason,
            "started_at": started_at,
            "child_s": child_s,
            "exit_code": transcript.exit_code,
            "load": transcript.latest("load"),
            "effective": effective,
            "generations": answers,
            "quality": transcript.latest("quality"),
            "buffers": buffers,
            "memory": memory,
            "page_cache": file_pages,
            "vram": vram_of(watched, memory, buffers),
            "memory_limit": memory_limit,
            "state": state,
            "affinity": transcript.latest("affinity") or Affinity(),
            "host": beside,
            "warnings": [
                *(final.warnings if final else []),
                *([file_pages.why] if file_pages.why else []),
            ],
            "disturbed": disturbance.disturbances(_judged(beside, memory_limit), child_s, answers),
            "system_info": transcript.latest("system_info"),
        }
    )
    return proven(record, job.model.size_bytes)


def _unmeasured(job: Job, status: Status, reason: str) -> Record:
    """Return the record of a trial whose process was never begun."""
    return Record(
        run_id=job.run_id,
        machine_id=host.machine_id(),
        trial=job.trial,
        status=status,
        reason=reason,
        started_at=_now(),
        child_s=0.0,
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _frequencies(transcript: Transcript) -> dict[str, float]:
    """Return the CPUs' frequency before the first generation and, where it came, after the last."""
    ends = {"generation 0": "cpu_frequency_start_hz", "end": "cpu_frequency_end_hz"}
    return {
        ends[event.phase]: event.cpu_frequency_hz
        for event in transcript.events
        if event.cpu_frequency_hz is not None and event.phase in ends
    }


def _judged(beside: HostState, limit: MemoryLimit | None) -> HostState:
    """Return what the machine did beside the trial, without what the trial did to it.

    A process that comes to its memory limit waits for memory by itself.
    """
    return beside.model_copy(update={"memory_pressure_fraction": None}) if limit else beside


def engine_card(log_path: Path, command: Sequence[str] = ()) -> EngineCard | str:
    """Ask a child what the installed engine is, or that of a worker; where it dies, return how."""
    circumstances = Circumstances(ENGINE_TIMEOUT_S, log_path, log_start=size_of(log_path))
    request = Request(log_path=str(log_path))
    with GpuWatch() as gpu:
        transcript = process.run_child(
            command or worker_command(), request, gpu, timeout_s=ENGINE_TIMEOUT_S, hide_gpu=False
        )
        seen = gpu.card()
    card = transcript.latest("engine")
    if isinstance(card, EngineCard):
        return card.model_copy(update={"devices": [_known(one, seen) for one in card.devices]})
    return outcome_of(transcript, circumstances.after(None))[1] or "it did not say what it is"


def _known(device: EngineDevice, card: GpuCard) -> EngineDevice:
    """Return a device with what the engine does not know of it."""
    if not device.holds_layers:
        return device
    return device.model_copy(update={"unified": offload.shares_ram(device, card)})
