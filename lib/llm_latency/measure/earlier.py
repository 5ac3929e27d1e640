"""How long a plan takes, as far as that is known: what its cells took in earlier runs here."""

from __future__ import annotations

import contextlib
import statistics

from llm_latency.errors import LabError
from llm_latency.machine import host
from llm_latency.measure.rounds import cost_s
from llm_latency.plan.spec import Plan
from llm_latency.records.folders import outputs_dir
from llm_latency.records.store import RunStore

NEWEST = 10
"""Runs that are looked into, the newest first: reading hundreds would take longer than it tells."""


def round_s(plan: Plan, number: int = 0) -> float | None:
    """Return how long a round of a plan takes; ``None`` where no run here has all its cells.

    A cell counts with the newest run that has it, by the median of what its trials took.
    """
    wanted, known = {cell.cell_id for cell in plan.cells}, dict[str, float]()
    cpu = host.machine_card().cpu
    found = (outputs_dir() / "runs").glob("*/trials.jsonl")
    for file in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:NEWEST]:
        if wanted <= set(known):
            break
        with contextlib.suppress(LabError):  # a run that cannot be read tells nothing
            run = RunStore(file.parent)
            if (run.info.get("machine") or {}).get("cpu") != cpu:
                continue
            took: dict[str, list[float]] = {}
            for record in run.records():
                took.setdefault(record.trial.cell_id, []).append(cost_s(record))
            known = {cell: statistics.median(times) for cell, times in took.items()} | known
    if not wanted <= set(known):
        return None
    return sum(known[trial.cell_id] for trial in plan.round(number))
