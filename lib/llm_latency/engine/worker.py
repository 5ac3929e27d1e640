"""The child: ``python -m llm_latency.engine.worker`` measures one trial and sends what it measured.

One process per trial, because llama.cpp can end the process that holds it (an allocation that
fails during decode aborts, running out of memory kills), and because only processes are
independent samples. Nothing that a trial does not need is imported here: each import is part
of what every trial waits for.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, cast

import psutil

from llm_latency.engine import log as llama_log
from llm_latency.engine.protocol import Event, Request
from llm_latency.errors import EngineError, LabError
from llm_latency.machine import affinity, cpu_watch, host, memory_cap, power
from llm_latency.machine.resident_memory import ResidentMap
from llm_latency.plan.spec import Trial
from llm_latency.records.record import Affinity, DeviceMemory, ProcessMemory

if TYPE_CHECKING:
    from llm_latency.engine.remote import RemoteModel
    from llm_latency.engine.served import ServedModel
    from llm_latency.engine.timed import TimedModel

BESIDE = {"cpu_other_fraction", "cpu_steal_fraction", "throttled_periods", "throttled_s"}
"""What is kept, by generation, of what else the machine did."""


def main() -> None:
    """Read one request from standard input, carry it out, and end this process."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    log: TextIO = sys.stderr  # until its name is known; the parent opened it

    def send(event: Event) -> None:
        with contextlib.suppress(OSError):  # a full disk must not spoil what was measured
            log.flush()
        pipe.write(event.model_dump_json(exclude_defaults=True) + "\n")
        pipe.flush()

    try:
        request = Request.model_validate_json(sys.stdin.readline())
        log = open(request.log_path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        _die_with_parent()
        _die_first()
        with contextlib.suppress(OSError, ValueError):  # a lower limit may be in force
            memory_cap.come_under("", memory_cap.ceiling_bytes())
        memory_cap.come_under(request.join, request.data_bytes)
        if request.trial is None:
            from llm_latency.engine import library

            send(Event(phase="end", engine=library.engine_card(), ended="done"))
        else:
            measure(request, request.trial, log, send)
    except Exception as error:  # whatever it is, the parent is told
        with contextlib.suppress(OSError):
            traceback.print_exc()
        words = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")[:400]
        short = llama_log.speaks_of_memory(words)  # a library that cannot be mapped, say
        reason = words + llama_log.next_step(words)
        send(Event(phase="end", ended="oom" if short else "crashed", reason=reason))
    _leave(0)


def measure(request: Request, trial: Trial, log: TextIO, send: Callable[[Event], None]) -> None:
    """Load, warm up, generate first and repeat, sending each part as it is measured."""
    try:
        pinned = affinity.pin(trial.start.cores)  # the threads of llama.cpp will follow
    except LabError as error:
        send(Event(phase="end", ended="refused", reason=str(error)))
        return
    send(Event(phase="import llama_cpp"))
    from llm_latency.engine import library, prompts, quality, warm_up

    resident = ResidentMap(Path(request.model_path))
    memory: dict[str, ProcessMemory] = {}
    threads: dict[str, dict[str, int]] = {}
    served, remote = (trial.workload.via == way for way in ("server", "openai"))
    holder: int | None = None  # the process that holds the model: this one, or a server

    def remember(phase: str, devices: dict[str, DeviceMemory]) -> None:
        if remote:  # it is somebody else's, and not seen into
            return
        noted = {"places": resident.by_place(phase, holder), "devices": devices}
        memory[phase] = host.process_memory(holder).model_copy(update=noted)
        threads[phase] = affinity.of_threads(holder)

    def on_devices() -> dict[str, DeviceMemory]:
        own = trial.settings.n_gpu_layers and not served and not remote
        return library.device_memory() if own else {}

    if served:  # it is not there yet, and has read and touched nothing
        memory["before"] = ProcessMemory(rss_bytes=0, read_bytes=0, major_faults=0, minor_faults=0)
    else:
        remember("before", {})
    try:
        send(Event(phase="load", memory=memory))
        model = _loaded(Path(request.model_path), trial, log)
        holder = model.pid
        if model.devices_before:
            told = {"devices": model.devices_before}
            memory["before"] = memory["before"].model_copy(update=told)
        workload, state = trial.workload, Path(request.state_path)
        if request.make_state:
            made = warm_up.make_state(cast("TimedModel", model), trial.start, workload, state)
            send(Event(phase="end", state=made, ended="done"))
            return
        send(
            Event(
                phase="warm-up",
                pid=holder,
                system_info=model.system_info,
                effective=model.effective,
                buffers=model.buffers,
                load=model.load,
            )
        )
        warm_up.warm_up(model, trial.start, workload, state)
        remember("after_load", on_devices())
        kept = Affinity(pinned=pinned, threads=threads)
        send(
            Event(
                phase="generation 0",
                load=model.load,
                memory=memory,
                affinity=kept,
                cpu_frequency_hz=power.cpu_frequency_hz(),
            )
        )
        if workload.quality_against:
            tokens = prompts.reading(model, workload)
            lost = quality.quality(cast("TimedModel", model), tokens, workload.quality_against)
            send(Event(phase="quality", quality=lost))
        answers: list[str] = []
        for repeat in range(workload.generations):
            held = model.kv_cache.tokens() if workload.cache_mode == "kept" else ()
            asked = prompts.question(model, workload, repeat, answers, held)
            watch = cpu_watch.CpuWatch.start(measured=True)
            answer = model.generate(
                asked.prompt,
                workload.max_tokens,
                length=workload.length,
                prefix_tokens=asked.prefix_tokens,
                sampling=workload.sampling,
                via=workload.via,
                chat=asked.chat,
                repeat=repeat,
            )
            answers.append(answer.text)
            beside = watch.state().model_dump(include=BESIDE)
            answer = answer.model_copy(update={**asked.told, **beside})
            if repeat == 0:
                remember("after_first", on_devices())
            send(Event(phase=f"generation {repeat + 1}", generation=answer, memory=memory))
        remember("after_last", on_devices())
        send(
            Event(
                phase="end",
                ended="done",
                cpu_frequency_hz=power.cpu_frequency_hz(),
                memory=memory,
                affinity=Affinity(pinned=pinned, threads=threads),
                buffers=model.log.buffers(),
                warnings=model.log.warnings(),
                cpu_s=cpu_watch.cpu_s(descendants=True),
            )
        )
    except EngineError as error:
        ended: Literal["oom", "refused"] = "oom" if error.out_of_memory else "refused"
        send(Event(phase="end", ended=ended, reason=str(error)))
    except MemoryError as error:
        send(Event(phase="end", ended="oom", reason=f"Python ran out of memory: {error}"))


def _loaded(path: Path, trial: Trial, log: TextIO) -> TimedModel | ServedModel | RemoteModel:
    """Return the model, loaded in this process or in a server's."""
    if trial.workload.via == "server":
        from llm_latency.engine.served import ServedModel  # here: HTTP is a third of a second

        return ServedModel(path, trial.settings, log, trial.workload.at_once or 1)
    if trial.workload.address is not None:
        from llm_latency.engine.remote import RemoteModel

        return RemoteModel(path, trial.workload.address)
    from llm_latency.engine.timed import TimedModel

    return TimedModel(path, trial.settings, log)


def _leave(code: int) -> None:
    """End this process, and what it started.

    Without unloading anything: the system frees memory faster than destructors do.
    """
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    os._exit(code)


def _die_with_parent() -> None:
    """End this process when the parent's end of the request pipe closes.

    A thread that is blocked in a read costs no CPU, and this works on every system.
    """

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while sys.stdin.readline():
                pass
        _leave(1)

    threading.Thread(target=watch, daemon=True).start()


def _die_first() -> None:
    """Ask Linux to end this process first when memory runs out, not the notebook's kernel."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
