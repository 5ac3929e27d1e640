"""Measure what advice needs: every candidate in turn, then whether the chosen one holds when full.

A context that loads can still fail when it is full. So the candidate that would be advised has
to answer a prompt that fills its whole window, in a process of its own, and under a cap where
the memory was stated and is RAM. If it fails, the next best candidate is tried.
"""

from __future__ import annotations

import contextlib
from typing import Any

from llm_latency.machine import lock
from llm_latency.measure import runner
from llm_latency.measure import trial as child
from llm_latency.plan.spec import Plan, Trial
from llm_latency.questions.advise.judgement import judge
from llm_latency.questions.advise.needs import Needs
from llm_latency.records.store import RunStore

FILL_TOKENS = 4
"""Tokens that are generated behind a prompt that fills the window."""


def run(plan: Plan, *, progress: Any = True) -> RunStore:
    """Carry out a plan of ``advise``, or what is left of it, and try the choice with a full window.

    Parameters
    ----------
    plan
        What :func:`llm_latency.questions.advise.plan` returns.
    progress
        See :func:`llm_latency.measure.runner.run`.
    """
    with contextlib.ExitStack() as stack:
        stored = runner.find(plan)
        if stored is None or runner.left(plan, stored) or _unproven(plan, stored):
            # Over both parts, so that no other run comes between them.
            stack.enter_context(lock.machine(plan.wait_s))
        store = runner.run(plan, progress=progress)
        if not _unproven(plan, store):
            return store
        named = plan.model_copy(update={"run_id": store.run_id})
        with runner.begun(named, progress=bool(progress)) as (store, path, hold):
            hold.tell(store.run_id, store.path, store.final, store.planned)
            while trial := _unproven(plan, store):
                log = str(store.log_path(trial.trial_id))
                job = child.Job(store.run_id, trial, str(path), log, plan.timeout_s)
                store.append(child.carry_out(job))
                hold.beat()
    return store


def _unproven(plan: Plan, store: RunStore) -> Trial | None:
    """Return the trial that fills the window of what would be advised; ``None`` if that is done."""
    found = judge(store.frame(), store.info)
    if found.chosen is None or found.chosen.full == "ok":
        return None
    cell = next(c for c in plan.cells if c.settings == found.chosen.settings)
    trial = filled(cell, found.needs)
    done = store.done()
    # Once more where its proof failed: the machine may have kept the file in RAM, or been busy.
    again = (trial, trial.model_copy(update={"attempt": 1}))
    return next((one for one in again if one.trial_id not in done), None)


def filled(cell: Trial, needs: Needs) -> Trial:
    """Return a candidate's trial with a prompt that fills its window.

    Parameters
    ----------
    cell
        The candidate, as it was planned.
    needs
        Whether the memory was stated decides whether it is capped.
    """
    start: dict[str, Any] = {}
    if needs.stated and needs.on == "cpu":
        start["memory_limit_bytes"] = needs.memory_bytes
        if cell.settings.use_mmap:
            # Mapped pages that were in RAM before would count as nobody's.
            start["page_cache"] = "evicted"
    elif needs.stated and cell.settings.n_gpu_layers != 0:
        start["leave_vram_bytes"] = needs.memory_bytes
    tokens = {"prompt_tokens": cell.settings.n_ctx - FILL_TOKENS, "max_tokens": FILL_TOKENS}
    return cell.model_copy(
        update={
            "twin": False,
            "workload": cell.workload.model_copy(update=tokens),
            "start": cell.start.model_copy(update=start),
        }
    )
