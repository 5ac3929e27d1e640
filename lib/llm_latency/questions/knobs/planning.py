"""Which knobs there are: those that this machine and this model have, each turned once.

A plan is pure data: every knob that some machine has. When it is carried out, those that are not
here leave it, each with its reason, and the threads join it: how many they are by themselves is
the machine's word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any

from llm_latency.errors import ParameterError
from llm_latency.machine import affinity, limits, offload
from llm_latency.model import names
from llm_latency.model.header import Header
from llm_latency.plan import loading
from llm_latency.plan.builder import Request
from llm_latency.plan.own_prompt import PROMPT, PROMPT_FILE
from llm_latency.plan.settings import BLOCKWISE, UBATCH, Settings
from llm_latency.plan.spec import Cores, Plan, Trial
from llm_latency.questions.advise.needs import devices_seen
from llm_latency.words import MIB, number, several

STEPWISE = 4
"""Threads up to which one more or less is tried; beyond, twice and half as many."""
QUANTISED: dict[str, Any] = {"type_k": "q8_0", "type_v": "q8_0"}
NO_DEVICE = "the engine sees no device for layers"
OF_DEVICES = ("offload_kqv", "op_offload", "n_gpu_layers 0", "n_gpu_layers -1")
Knobs = dict[str, dict[str, Any]]
"""By name: the settings that turn it."""


def plan(
    model: str = "synthetic:tiny",
    prompt_tokens: Annotated[int, "length of the prompt, in tokens"] = 512,
    prompt: Annotated[str, PROMPT] = "",
    prompt_file: Annotated[str, PROMPT_FILE] = "",
    max_tokens: int = 32,
    repeats: int = 2,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan the baseline, which is the options as given, and every knob turned once."""
    asked = Request("knobs", locals(), names.check)
    work = asked.asked() | {name: asked.one(name) for name in ("max_tokens", "repeats")}
    base = asked.cell(**work, page_cache="resident")
    changes, no_room = every(base), without_room(base.settings)
    cells = [turned(base, change) for name, change in changes.items() if name not in no_room]
    return asked.plan([base, *cells], twins=[base])


def for_this_machine(plan: Plan) -> Plan:
    """Return the plan with the knobs that are here, and why others are not."""
    if "not_here" in plan.parameters:  # a stored run goes on with what there was when it began
        return plan
    base, header = plan.cells[0], names.header_of(plan.model)
    allowed = affinity.chosen(base.start.cores) or limits.allowed_cpus()
    threads = base.settings.n_threads or min(limits.usable_cpus(), len(allowed))
    changes = every(base, threads, fewer_cores(threads, allowed))
    absent = (
        without_room(base.settings)
        | beyond_cpus(base, changes, allowed)
        | not_of_model(header)
        | ({} if offload.taken(devices_seen()) else dict.fromkeys(OF_DEVICES, NO_DEVICE))
    )
    cells = [base, *(turned(base, change) for n, change in changes.items() if n not in absent)]
    unique = {cell.cell_id: cell for cell in cells}
    not_here = {name: absent[name] for name in changes if name in absent}
    return plan.model_copy(
        update={
            "cells": (*unique.values(), base.model_copy(update={"twin": True})),
            "parameters": plan.parameters | {"not_here": not_here},
        }
    )


def turned(base: Trial, change: Mapping[str, Any]) -> Trial:
    """Return a cell that differs from the baseline in some fields of settings and start."""
    settings = {name: value for name, value in change.items() if name in Settings.model_fields}
    start = {name: value for name, value in change.items() if name not in settings}
    return base.model_copy(
        update={
            "settings": base.settings.model_copy(update=settings),
            "start": base.start.model_copy(update=start),
        }
    )


def every(base: Trial, threads: int | None = None, pinned: Cores | None = "physical") -> Knobs:
    """Return every knob that some machine has, and what turns it.

    Parameters
    ----------
    base
        The baseline.
    threads
        How many there are; ``None``: not known yet.
    pinned
        The cores to pin them to.
    """
    asked = base.settings
    batch = min(asked.n_ubatch or UBATCH, asked.n_batch)
    way = loading.reading_of(asked.use_mmap, asked.use_mlock)
    cache: dict[str, Any] = {"type_k": "f16", "type_v": "f16"}
    if asked.type_k not in BLOCKWISE and asked.type_v not in BLOCKWISE:
        # Of V only with flash attention.
        cache = QUANTISED | {"flash_attn": asked.flash_attn or True}
    return {
        **_threads(threads),
        "cores": {"cores": pinned if base.start.cores is None else None},
        "flash_attn": {"flash_attn": not asked.flash_attn},
        "KV cache": cache,
        "n_ubatch × 2": {"n_ubatch": 2 * batch, "n_batch": max(asked.n_batch, 2 * batch)},
        "n_ubatch ÷ 2": {"n_ubatch": batch // 2},
        **{name: flags for name, flags in loading.READING.items() if name != way},
        "offload_kqv": {"offload_kqv": not asked.offload_kqv},
        "op_offload": {"op_offload": asked.op_offload is False},
        "swa_full": {"swa_full": asked.swa_full is False},
        **{f"n_gpu_layers {n}": {"n_gpu_layers": n} for n in (0, -1) if n != asked.n_gpu_layers},
    }


def _threads(now: int | None) -> Knobs:
    if now is None:
        return {}
    fewer, more = (now - 1, now + 1) if now <= STEPWISE else (now // 2, 2 * now)
    return {"fewer threads": {"n_threads": fewer}, "more threads": {"n_threads": more}}


def without_room(asked: Settings) -> dict[str, str]:
    """Return the knobs that the baseline's other settings leave no room for, and why."""
    batch, absent = min(asked.n_ubatch or UBATCH, asked.n_batch), {}
    if asked.type_v in BLOCKWISE:
        absent["flash_attn"] = f"type_v {asked.type_v} needs it"
    if 2 * batch > asked.n_ctx:
        absent["n_ubatch × 2"] = f"n_ctx {asked.n_ctx} holds no more"
    if batch < 2:
        absent["n_ubatch ÷ 2"] = "one token is the least"
    if asked.n_gpu_layers == 0:
        absent |= dict.fromkeys(("offload_kqv", "op_offload"), "no layer is on a device")
    return absent


def beyond_cpus(base: Trial, changes: Knobs, allowed: tuple[int, ...]) -> dict[str, str]:
    """Return the threads and cores that these CPUs do not allow, and why."""
    absent = {}
    if changes["fewer threads"]["n_threads"] < 1:
        absent["fewer threads"] = "one is the least"
    if changes["more threads"]["n_threads"] > len(allowed):
        absent["more threads"] = f"this process may use {several(len(allowed), 'CPU')}"
    if changes["cores"]["cores"] == base.start.cores:
        absent["cores"] = "the threads fill all CPUs that they may use, or this system pins none"
    return absent


def fewer_cores(threads: int, allowed: tuple[int, ...]) -> Cores | None:
    """Return the cores to pin threads to, fewer than all; ``None`` where that cannot be."""
    for cores in ("physical", allowed[:threads]):
        with contextlib.suppress(ParameterError):
            if threads <= len(affinity.chosen(cores) or ()) < len(allowed):
                return cores
    return None


def not_of_model(header: Header) -> dict[str, str]:
    """Return the knobs that a model does not have, or not here, and why."""
    absent = {}
    if not any(header.n_head_kv):
        absent["KV cache"] = "the model keeps none"
    else:
        try:
            header.check_cache(Settings.model_validate(QUANTISED))
        except ParameterError:
            absent["KV cache"] = f"blocks of q8_0 do not fill a head, {header.key_width} wide"
    if not header.sliding_window:
        absent["swa_full"] = "no layer has a sliding window"
    lockable = limits.lockable_bytes()
    if lockable is not None and lockable < header.file_bytes:
        absent["mlock"] = f"the system locks no more than {number(lockable * MIB)} MiB (ulimit -l)"
    return absent
