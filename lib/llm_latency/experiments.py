"""The questions: one function per notebook, which returns the plan that answers it.

A function takes exactly the notebook's parameters, checks every one before anything is made or
loaded, and returns pure data. Every grid parameter takes one value or a list.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from llm_latency import models
from llm_latency.calibration import plan as calibration
from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.spec import Plan, Settings, Start, Trial, Workload, as_list, build, grid, plain

Grid = Any
"""One value or a list of values."""


def sweep(
    model: str = "synthetic:tiny",
    n_ctx: Grid = (512, 1024, 2048),
    n_batch: Grid = (128, 256, 512),
    n_ubatch: Grid = 0,
    n_gpu_layers: Grid = -1,
    n_threads: Grid = 0,
    n_threads_batch: Grid = 0,
    use_mmap: Grid = True,
    use_mlock: Grid = False,
    flash_attn: Grid = False,
    offload_kqv: Grid = True,
    type_k: Grid = "f16",
    type_v: Grid = "f16",
    prompt_tokens: Grid = (64, 192, 448),
    max_tokens: int = 32,
    length: str = "fixed",
    prefix_tokens: int = 0,
    via: Grid = "engine",
    page_cache: Grid = "resident",
    warm_up: Grid = "none",
    rounds: int = 2,
    repeats: int = 1,
    seed: int = 0,
    timeout_s: float = 900.0,
    repeat_disturbed: bool = False,
    run_id: str = "",
) -> Plan:
    """Plan which ``n_ctx`` and ``n_batch`` answer soonest, and what memory they take.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    n_ctx, n_batch, n_ubatch, n_gpu_layers, n_threads, n_threads_batch
        llama-cpp-python's settings; 0 for ``n_ubatch`` and the threads is the engine's own
        (512 at most) and the CPUs that this process may use.
    use_mmap, use_mlock, flash_attn, offload_kqv, type_k, type_v
        llama-cpp-python's settings.
    prompt_tokens
        Prompt lengths, in tokens; every cell is measured with each.
    max_tokens
        Tokens to generate: exactly so many, or at most with ``length="natural"``.
    length
        ``fixed``, or ``natural`` to stop at end-of-generation.
    prefix_tokens
        Prompt tokens that are in the KV cache when the clock starts; 0: every token is evaluated.
    via
        Way through llama-cpp-python: ``engine``, ``generate`` or ``stream``.
    page_cache
        State of the model file when a process starts: ``resident``, ``evicted`` or ``as_is``.
    warm_up
        What is run after loading and before the first generation: ``none``, ``tokens`` (two)
        or ``batch`` (a full one).
    rounds
        How often every cell is measured, each time in a fresh process.
    repeats
        Further generations in each process after the first.
    seed
        Of the shuffled order.
    timeout_s
        Longest life of one trial's process, in seconds.
    repeat_disturbed
        Measure trials again, at the end, during which the machine was disturbed.
    run_id
        A new name, or that of a run to go on with; empty makes a name.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    given = dict(locals())
    axes = {
        name: [
            None if value == 0 and name in {"n_ubatch", "n_threads", "n_threads_batch"} else value
            for value in as_list(name, given[name])
        ]
        for name in Settings.model_fields
    }
    all_settings = [build(Settings, values) for values in grid(axes)]
    workloads = [
        build(
            Workload,
            {
                "prompt_tokens": tokens,
                "max_tokens": plain(max_tokens),
                "length": plain(length),
                "cache_mode": "prefix" if plain(prefix_tokens) else "cold",
                "prefix_tokens": plain(prefix_tokens),
                "via": way,
                "repeats": plain(repeats),
            },
        )
        for tokens in as_list("prompt_tokens", prompt_tokens)
        for way in as_list("via", via)
    ]
    starts = [
        build(Start, values)
        for values in grid({key: as_list(key, given[key]) for key in Start.model_fields})
    ]
    name = models.check(model)
    cells = tuple(
        Trial(experiment="sweep", model=name, settings=s, workload=w, start=start)
        for s in all_settings
        for w in workloads
        for start in starts
    )
    return build(
        Plan,
        {
            "experiment": "sweep",
            "model": name,
            "cells": with_twin(cells),
            "rounds": plain(rounds),
            "seed": plain(seed),
            "timeout_s": float(t) if isinstance(t := plain(timeout_s), int) else t,
            "repeat_disturbed": plain(repeat_disturbed),
            "run_id": str(run_id).strip() or None,
            "parameters": {key: _listed(value) for key, value in given.items()},
        },
    )


def with_twin(cells: tuple[Trial, ...]) -> tuple[Trial, ...]:
    """Return the cells and one of them once more: two that are equal show the noise."""
    return (*cells, cells[-1].model_copy(update={"twin": True}))


def _listed(value: Any) -> Any:
    value = plain(value)
    return list(value) if isinstance(value, tuple | range) else value


EXPERIMENTS: dict[str, Callable[..., Any]] = {"sweep": sweep, "calibration": calibration}


def from_notebook(name: str, namespace: Mapping[str, Any]) -> Any:
    """Return the plan of an experiment out of a notebook's variables.

    papermill only warns of a parameter that a notebook does not know, and measures with the
    default instead. Here a name that papermill injected and the experiment does not take stops
    the notebook.

    Parameters
    ----------
    name
        Name of the experiment: the function of this module.
    namespace
        The notebook's ``globals()``.
    """
    experiment = EXPERIMENTS[name]
    allowed = list(inspect.signature(experiment).parameters)
    for injected in injected_names(namespace.get("In", [])):
        if injected not in allowed:
            raise ParameterError(
                f"{injected}={namespace.get(injected)!r}: the notebook {name} has no parameter "
                f"{injected!r}{did_you_mean(injected, allowed)} Allowed are: "
                f"{', '.join(allowed)}."
            )
    return experiment(**{key: namespace[key] for key in allowed if key in namespace})


def injected_names(cells: list[str]) -> list[str]:
    """Return the names set by papermill's cell, which begins with the comment ``# Parameters``."""
    names: list[str] = []
    for source in cells:
        if not source.lstrip().startswith("# Parameters"):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign):
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names
