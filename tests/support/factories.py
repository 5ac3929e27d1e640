"""Made-up records: a grid with timing functions, seeds and failures, as a run would leave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llm_latency.engine.facts import sizes_in_force
from llm_latency.plan.parameters import grid
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Start, Trial
from llm_latency.plan.workload import Workload
from llm_latency.records import rows
from llm_latency.records.generation import Generation, Timings
from llm_latency.records.record import (
    Buffers,
    Effective,
    HostState,
    LoadTimings,
    ProcessMemory,
    Record,
    Status,
    Vram,
)

MIB = 2**20
Failure = tuple[Status, str]
FakeChild = Callable[[str], None]
FakeWorker = Callable[..., None]
"""Puts lines of Python in the place of the real worker."""
SecondDevice = Callable[..., None]
"""Gives the engine a device beside the CPU."""


def ttft(settings: Settings, prompt: int) -> float:
    """Prefill gets faster with n_batch, and slower at great depth."""
    ubatch = min(settings.n_ubatch or 512, settings.n_batch, settings.n_ctx)
    return 0.004 + prompt * (0.0006 + 0.03 / ubatch) * (1 + prompt / 8192)


def itl(settings: Settings, prompt: int) -> float:
    return 0.0062 + prompt * 1.5e-6


def record(
    settings: Settings,
    prompt: int = 192,
    *,
    round: int = 0,
    order: int = 0,
    max_tokens: int = 32,
    repeats: int = 1,
    factor: float = 1.0,
    rng: np.random.Generator | None = None,
    within: float = 0.0,
    ttft: Callable[[Settings, int], float] = ttft,
    itl: Callable[[Settings, int], float] = itl,
    failure: Failure | None = None,
    gpu: bool = False,
    other: float | None = 0.0,
    steal: float | None = 0.0,
    warnings: Sequence[str] = (),
    model: str = "synthetic:tiny",
    kv_per_token: int = 8192,
    twin: bool = False,
    workload: Workload | None = None,
    start: Start | None = None,
    load: dict[str, float] | None = None,
    first: float = 1.0,
    evaluated: Callable[[int], int] | None = None,
    more: dict[str, Any] | None = None,
) -> Record:
    """Return one trial's record; a failure other than ``invalid`` has no generations.

    ``workload`` and ``start`` replace those made of ``prompt``, ``max_tokens`` and ``repeats``;
    ``load`` replaces loading times; ``first`` multiplies the times of the first generation;
    ``evaluated`` tells from a repeat how many prompt tokens were evaluated; ``more`` replaces
    fields of the record.
    """
    workload = workload or Workload(prompt_tokens=prompt, max_tokens=max_tokens, repeats=repeats)
    prompt = workload.prompt_tokens or prompt
    max_tokens, repeats = workload.max_tokens, workload.repeats
    rng = rng or np.random.default_rng(0)
    trial = Trial(
        experiment="sweep",
        model=model,
        settings=settings,
        workload=workload,
        start=start or Start(),
        round=round,
        order=order,
        twin=twin,
    )
    common: dict[str, Any] = {
        "run_id": "run-1",
        "trial": trial,
        "started_at": "2026-01-01T00:00:00Z",
        "child_s": 1.0,
        "host": HostState(cpu_other_fraction=other, cpu_steal_fraction=steal),
        "warnings": list(warnings),
        "disturbed": ["the machine was busy; measure again"]
        if (other or 0) > 0.05 or (steal or 0) > 0.02
        else [],
    }
    if failure and failure[0] != "invalid":
        return Record(status=failure[0], reason=failure[1], **common)
    n_ctx, n_batch, n_ubatch = sizes_in_force(settings)
    generations = []
    for repeat in range(repeats + 1):
        depth = workload.depths[repeat % len(workload.depths)] if workload.depths else 0
        count = evaluated(repeat) if evaluated else prompt - workload.prefix_tokens
        noise = factor * np.exp(rng.normal(0, within, max_tokens)) * (1 if repeat else first)
        ttft_s = ttft(settings, depth + count) * float(noise[0])
        gaps = [
            ttft_s,
            *(itl(settings, depth + prompt + i) * float(noise[i]) for i in range(1, max_tokens)),
        ]
        generations.append(
            Generation(
                repeat=repeat,
                prompt_tokens=depth + prompt,
                prompt_words=prompt * 2 // 3,
                evaluated_tokens=count,
                depth_tokens=depth if workload.depths else None,
                generated_tokens=max_tokens,
                finish_reason="length",
                timings=Timings(
                    ttft_s=ttft_s,
                    prefill_s=ttft_s * 0.99,
                    decode_s=sum(gaps[1:]),
                    total_s=sum(gaps),
                    itl_s=gaps,
                    engine_prefill_s=ttft_s * 0.98,
                    engine_decode_s=sum(gaps[1:]) * 0.98,
                ),
                problem=failure[1] if failure else None,
            )
        )
    buffers = Buffers(
        weights_bytes=100 * MIB,
        kv_bytes=n_ctx * kv_per_token,
        compute_bytes=int((20 + 0.09 * n_ubatch + n_ctx * n_ubatch * 8e-6) * MIB),
        output_bytes=MIB // 8,
    )
    sizes = buffers.model_dump(exclude={"by_device"})
    peak = sum(sizes.values()) + int(60 * MIB * factor)
    on_card = int(sum(sizes.values()) * 1.02)
    return Record(
        status=failure[0] if failure else "ok",
        reason=failure[1] if failure else None,
        load=LoadTimings(
            backend_init_s=0.002,
            model_load_s=0.05 * factor,
            context_s=0.01,
            load_s=0.062 * factor,
        ).model_copy(update=load or {}),
        effective=Effective(
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_threads=2,
            n_threads_batch=2,
            n_gpu_layers=12 if gpu else 0,
            use_mmap=True,
            use_mlock=False,
            flash_attn=False,
            offload_kqv=True,
            type_k="f16",
            type_v="f16",
        ),
        generations=generations,
        buffers=buffers,
        memory={"after_last": ProcessMemory(rss_bytes=peak - MIB, rss_peak_bytes=peak)},
        vram=Vram(
            source="nvml",
            before_bytes=300 * MIB,
            peak_bytes=300 * MIB + on_card,
            process_bytes=on_card,
            total_bytes=6144 * MIB,
        )
        if gpu
        else Vram(),
        **common,
    ).model_copy(update=more or {})


def records(
    *,
    n_ctx: Sequence[int] = (512, 1024, 2048),
    n_batch: Sequence[int] = (128, 256, 512),
    prompts: Sequence[int] = (64, 192, 448),
    rounds: int = 2,
    between: float = 0.01,
    within: float = 0.005,
    seed: int = 0,
    failed: dict[tuple[int, int], Failure] | None = None,
    others: dict[str, Sequence[Any]] | None = None,
    twin: bool = True,
    **options: Any,
) -> list[Record]:
    """Return the records of a whole grid; ``failed`` names cells by ``(n_ctx, n_batch)``.

    The last cell is measured twice in each round, as in a real plan, unless ``twin`` is off.
    """
    rng = np.random.default_rng(seed)
    made = []
    for round in range(rounds):
        cells = [
            (Settings(**values), prompt, False)
            for values in grid({"n_ctx": n_ctx, "n_batch": n_batch, **(others or {})})
            for prompt in prompts
        ]
        for settings, prompt, again in [*cells, *([(*cells[-1][:2], True)] if twin else [])]:
            made.append(
                record(
                    settings,
                    prompt,
                    twin=again,
                    round=round,
                    order=len(made),
                    factor=float(np.exp(rng.normal(0, between))),
                    rng=rng,
                    within=within,
                    failure=(failed or {}).get((settings.n_ctx, settings.n_batch)),
                    **options,
                )
            )
    return made


def carried_out(plan: Plan, rounds: int = 1) -> list[Record]:
    """Return what carrying out a plan leaves where each cell takes another time."""
    order = {cell: place for place, cell in enumerate(dict.fromkeys(c.cell_id for c in plan.cells))}
    random, made = np.random.default_rng(0), []
    for trial in (trial for number in range(rounds) for trial in plan.round(number)):
        factor = (1 + 0.3 * order[trial.cell_id]) * float(np.exp(random.normal(0, 0.002)))
        one = record(
            trial.settings,
            workload=trial.workload,
            start=trial.start,
            ttft=lambda _, prompt, factor=factor: factor * prompt * 1e-3,
            itl=lambda _, __, factor=factor: factor * 1e-2,
            factor=factor,
            within=0.01,
            rng=random,
        )
        made.append(one.model_copy(update={"trial": trial}))
    return made


def to_frame(made: Sequence[Record]) -> pd.DataFrame:
    return rows.to_frame(made)


def frame(**options: Any) -> pd.DataFrame:
    return to_frame(records(**options))


FAILED: dict[tuple[int, int], Failure] = {
    (2048, 512): ("oom", "llama.cpp could not allocate 4,096 MiB for its compute buffers"),
    (1024, 128): ("invalid", "evaluated 1 token of 448: the prompt was in the cache"),
}


def info(**model: Any) -> dict[str, Any]:
    """Return what a run.json holds."""
    return {
        "run_id": "run-1",
        "created_at": "2026-01-01T00:00:00+00:00",
        "plan": {
            "cells": [{}] * 27,
            "rounds": 2,
            "seed": 0,
            "experiment": "sweep",
            "parameters": {
                "model": "synthetic:tiny",
                "n_ctx": [512, 1024, 2048],
                "max_tokens": 32,
                "repeats": 1,
                "warm_up": "none",
                "run_id": "",
            },
        },
        "machine": {
            "machine_id": "abc",
            "system": "Linux 6.1",
            "cpu": "A CPU @ 2 GHz",
            "physical_cores": 2,
            "logical_cpus": 2,
            "usable_cpus": 2,
            "cpu_features": ["avx2", "fma"],
            "ram_bytes": 8 * 1024 * MIB,
            "governor": None,
            "engine_build": {"why": "llama-cpp-python was not installed by bootstrap.py"},
            "gpu": {"available": False, "why": "NVML found no NVIDIA card", "name": None},
        },
        "engine": {"version": "0.3.36", "gpu_offload": False, "devices": [{"name": "CPU"}]},
        "versions": {"llm-latency-lab": "0.1.0", "llama_cpp_python": "0.3.36"},
        "model": {
            "name": "synthetic:tiny",
            "notice": "This model has random weights: its speed and memory are true.",
            "size_bytes": 100 * MIB,
            "sha256": "0" * 64,
            "architecture": "llama",
            "kv_bytes_per_token": 8192,
            "title": None,
            "why": None,
        }
        | model,
    }
