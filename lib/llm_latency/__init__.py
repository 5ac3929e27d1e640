"""LLM Latency Lab: why a local LLM answers late, and which settings make it answer sooner.

Five lines do the work::

    import llm_latency as lab
    plan = lab.experiments.sweep(model="synthetic:tiny", n_ctx=[1024, 2048], n_batch=[256, 512])
    run = lab.run(plan)                 # a fresh process per trial
    df = run.frame()                    # tidy pandas
    lab.plots.latency_by_tokens(df)

Everything is imported when it is first used: a measured process must not pay for what draws.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llm_latency import (
        answers,
        calibration,
        cards,
        compare,
        experiments,
        llama_bench,
        models,
        plots,
        report,
        stats,
        tables,
    )
    from llm_latency.budget import fits
    from llm_latency.errors import LabError, ParameterError
    from llm_latency.generation import load
    from llm_latency.runner import run
    from llm_latency.spec import Plan, Settings, Start, Trial, Workload
    from llm_latency.store import RunStore, load_runs, open_run

_HOMES = {
    "fits": "budget",
    "load": "generation",
    "LabError": "errors",
    "ParameterError": "errors",
    "run": "runner",
    "Plan": "spec",
    "Settings": "spec",
    "Start": "spec",
    "Trial": "spec",
    "Workload": "spec",
    "RunStore": "store",
    "load_runs": "store",
    "open_run": "store",
}
_ROOMS = (
    "answers",
    "calibration",
    "cards",
    "compare",
    "experiments",
    "llama_bench",
    "models",
    "plots",
    "report",
    "stats",
    "tables",
)

__all__ = [
    "LabError",
    "ParameterError",
    "Plan",
    "RunStore",
    "Settings",
    "Start",
    "Trial",
    "Workload",
    "answers",
    "calibration",
    "cards",
    "compare",
    "experiments",
    "fits",
    "llama_bench",
    "load",
    "load_runs",
    "models",
    "open_run",
    "plots",
    "report",
    "run",
    "stats",
    "tables",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"llm_latency.{name}")
    if name in _HOMES:
        return getattr(import_module(f"llm_latency.{_HOMES[name]}"), name)
    raise AttributeError(f"llm_latency has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
