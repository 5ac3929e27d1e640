"""A model's loading: what ``Llama()`` is handed, where its time goes, and what is in force then.

What would make a figure false, and what is done about it here:

- Unknown keyword arguments of ``Llama`` are dropped silently and sizes are clamped: what is in
  force is read back after loading (:class:`~llm_latency.records.record.Effective`).
- ``Llama(verbose=False)`` would hide llama.cpp's real errors: its log goes through a callback of
  the lab's own (:mod:`llm_latency.engine.library`).
- The loading calls that ``Llama()`` makes are clocked one by one, since the constructor itself
  reads the file, allocates the KV cache and reserves the compute buffers.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, NamedTuple

from llm_latency.engine.beyond import beyond_llama, without_broken_templates
from llm_latency.engine.library import (
    IMPORT_S,
    C,
    Llama,
    device_memory,
    logging_to,
    timed_calls,
    without_devices,
)
from llm_latency.engine.log import LlamaLog
from llm_latency.errors import EngineError
from llm_latency.machine import host, limits
from llm_latency.model.gguf import FORMATS
from llm_latency.plan.settings import UBATCH, Settings
from llm_latency.records.record import DeviceMemory, Effective, LoadTimings


class Loaded(NamedTuple):
    """llama-cpp-python's model, where its time went, and the memory of devices before it."""

    llama: Any
    timings: LoadTimings
    devices_before: dict[str, DeviceMemory]


def load(path: Path, settings: Settings, log: LlamaLog) -> Loaded:
    """Load a model; llama.cpp's words go to ``log`` from here on.

    Raises
    ------
    EngineError
        If llama.cpp refuses, with its own reason.
    """
    threads = settings.n_threads or limits.usable_cpus()
    calls = ("llama_backend_init", "llama_model_load_from_file", "llama_init_from_model")
    start_s = time.perf_counter()
    on_devices = contextlib.nullcontext() if settings.n_gpu_layers else without_devices()
    with (
        logging_to(log),
        on_devices,
        beyond_llama(settings),
        without_broken_templates(log),
        timed_calls(C, *calls) as spent,
    ):
        # Llama() does this once per process without saying how long it took.
        C.llama_backend_init()
        # The first question makes a device ready, for which the first load would wait.
        asked_s = time.perf_counter()
        devices_before = device_memory() if settings.n_gpu_layers else {}
        devices_s = time.perf_counter() - asked_s
        try:
            llama = Llama(
                str(path),
                n_ctx=settings.n_ctx,
                n_batch=settings.n_batch,
                n_ubatch=settings.n_ubatch or UBATCH,
                n_gpu_layers=settings.n_gpu_layers,
                n_threads=threads,
                n_threads_batch=settings.n_threads_batch or threads,
                use_mmap=settings.use_mmap,
                use_mlock=settings.use_mlock,
                flash_attn=bool(settings.flash_attn),
                offload_kqv=settings.offload_kqv,
                type_k=FORMATS[settings.type_k].number,
                type_v=FORMATS[settings.type_v].number,
                swa_full=settings.swa_full,
                op_offload=settings.op_offload,
                verbose=True,  # False would send what llama.cpp prints to /dev/null
            )
        except Exception as error:  # a damaged file fails anywhere
            short = isinstance(error, MemoryError) or log.out_of_memory()
            plain = isinstance(error, ValueError | RuntimeError)
            said = str(error) if plain else f"{type(error).__name__}: {error}"
            raise EngineError(log.reason(said), out_of_memory=short) from None
    # From here on it would print, and reset the counters, at every completion.
    llama.verbose = False
    timings = LoadTimings(
        import_s=IMPORT_S,
        backend_init_s=spent["llama_backend_init"] + devices_s,
        model_load_s=spent["llama_model_load_from_file"],
        context_s=spent["llama_init_from_model"],
        load_s=time.perf_counter() - start_s,
    )
    return Loaded(llama, timings, devices_before)


def in_force(log: LlamaLog, settings: Settings, pid: int | None = None, **told: Any) -> Effective:
    """Return the settings in force in a process that loaded a model.

    Parameters
    ----------
    log
        What llama.cpp said there.
    settings
        What was asked for.
    pid
        The process; ``None``: this one.
    **told
        What the log does not tell alike of every process, by its name in ``Effective``.
    """
    type_k, type_v = log.kv_types() or (None, None)
    mode = log.load_mode() or ""
    locked = host.process_memory(pid).locked_bytes
    return Effective(
        n_gpu_layers=log.offloaded_layers(),
        use_mmap="mmap" in mode if mode else settings.use_mmap,
        # llama.cpp only warns where the system refuses to lock: ask the system.
        use_mlock=bool(locked) if locked is not None else "mlock" in mode,
        flash_attn=log.flash_attn(),
        # Without a layer on a GPU there is nothing that the KV cache could follow.
        offload_kqv=log.kv_on_gpu() if log.offloaded_layers() else None,
        type_k=type_k,
        type_v=type_v,
        backend=log.backend(),
        swa_full=log.swa_full(),
        **told,
    )
