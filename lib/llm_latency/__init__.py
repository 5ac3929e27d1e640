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
    from llm_latency.engine.timed import load
    from llm_latency.errors import LabError, ParameterError
    from llm_latency.measure import places
    from llm_latency.measure.runner import run
    from llm_latency.memory.fits import fits
    from llm_latency.model import names as models
    from llm_latency.plan.settings import Settings
    from llm_latency.plan.spec import Plan, Start, Trial
    from llm_latency.plan.workload import Workload
    from llm_latency.questions import answers, calibration, experiments, plots
    from llm_latency.questions.machines import notices
    from llm_latency.records import llama_bench
    from llm_latency.records.many import load_runs
    from llm_latency.records.pack import pack
    from llm_latency.records.store import RunStore, open_run
    from llm_latency.report import cards, tables
    from llm_latency.report.appendix import appendix
    from llm_latency.report.expect import expect
    from llm_latency.report.html import write_report
    from llm_latency.report.show import show
    from llm_latency.stats import compare

_HOMES = {
    "LabError": "errors:LabError",
    "ParameterError": "errors:ParameterError",
    "Plan": "plan.spec:Plan",
    "RunStore": "records.store:RunStore",
    "Settings": "plan.settings:Settings",
    "Start": "plan.spec:Start",
    "Trial": "plan.spec:Trial",
    "Workload": "plan.workload:Workload",
    "answers": "questions:answers",
    "appendix": "report.appendix:appendix",
    "calibration": "questions.calibration",
    "cards": "report.cards",
    "compare": "stats.compare",
    "expect": "report.expect:expect",
    "experiments": "questions:experiments",
    "fits": "memory.fits:fits",
    "llama_bench": "records.llama_bench",
    "load": "engine.timed:load",
    "load_runs": "records.many:load_runs",
    "models": "model.names",
    "notices": "questions.machines:notices",
    "open_run": "records.store:open_run",
    "pack": "records.pack:pack",
    "places": "measure.places",
    "plots": "questions:plots",
    "run": "measure.runner:run",
    "show": "report.show:show",
    "tables": "report.tables",
    "write_report": "report.html:write_report",
}
"""Where each name of the face lives: a module, or something in one."""

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
    "appendix",
    "calibration",
    "cards",
    "compare",
    "expect",
    "experiments",
    "fits",
    "llama_bench",
    "load",
    "load_runs",
    "models",
    "notices",
    "open_run",
    "pack",
    "places",
    "plots",
    "run",
    "show",
    "tables",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"llm_latency has no {name!r}; it has {', '.join(__all__)}")
    module, _, inside = _HOMES[name].partition(":")
    found = import_module(f"llm_latency.{module}")
    return getattr(found, inside) if inside else found


def __dir__() -> list[str]:
    return list(__all__)
