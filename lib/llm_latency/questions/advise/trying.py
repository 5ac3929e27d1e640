"""Measure what advice needs: every candidate, threads for the best, whether it holds when full.

A context that loads can still fail when it is full. So the candidate that would be advised has
to answer a prompt that fills its whole window, in a process of its own, which is held to the
memory where that was stated and can be withheld. If it fails, the next best candidate is tried.
"""

from __future__ import annotations

from typing import Any

from llm_latency.measure.rounds import left, time_is_up, used_s
from llm_latency.plan.spec import Plan, Trial
from llm_latency.plan.workload import Workload
from llm_latency.questions.advise import threads
from llm_latency.questions.advise.judgement import Advice, judge
from llm_latency.questions.advise.needs import Needs
from llm_latency.questions.advise.options import FILL_TOKENS, FILLED_BY
from llm_latency.records.store import RunStore


def next_trials(plan: Plan, store: RunStore) -> list[Trial]:
    """Return what is left: candidates, then threads for the best, then that with a full window.

    Where there are so many minutes, the rounds of the candidates leave some to the threads, and
    what would be advised is still proven when another round would take too long.
    """
    # As the run was begun: one of before was never to vary them.
    tried = store.plan.parameters.get("threads_tried", [])
    trials = left(plan, store)
    further = [one for one in trials if one.round >= plan.rounds and not one.attempt]
    if trials and not (tried and further):
        return trials
    found = judge(store.frame(), store.info)
    if found.chosen is None:
        return trials
    timed = [c for c in plan.cells if not (c.twin or c.workload.quality_against)]
    advised = [cell for cell in timed if cell.settings == found.chosen.settings]
    done = store.done()
    stage = [] if time_is_up(plan, store) else threads.trials(plan, advised[0], tried)
    if trials := [one for one in stage if one.trial_id not in done]:
        return trials
    if found.threads is not None:
        advised = [threads.with_threads(cell, found.threads.asked) for cell in advised]
    if plan.minutes and used_s(store.records()) > 60 * plan.minutes:
        return []
    return _unproven(advised, found, done)[:1]


def _unproven(advised: list[Trial], found: Advice, done: set[str]) -> list[Trial]:
    """Return the trials that fill the window of what would be advised and are not done."""
    full = {one.via: one.full for one in found.ways}
    every = [filled(cell, found.needs) for cell in advised if full[cell.workload.via] != "ok"]
    # Once more where its proof failed: the machine may have kept the file in RAM, or been busy.
    again = [trial.model_copy(update={"attempt": 1}) for trial in every]
    pairs = zip(every, again, strict=True)
    return [trial for pair in pairs for trial in pair if trial.trial_id not in done]


def filled(cell: Trial, needs: Needs) -> Trial:
    """Return a candidate's trial with a prompt that fills its window.

    Parameters
    ----------
    cell
        The candidate, as it was planned.
    needs
        What the memory is, and whether a process is held to it.
    """
    start: dict[str, Any] = {}
    if needs.capped and needs.on == "cpu":
        start["memory_limit_bytes"] = needs.memory_bytes
        if cell.settings.use_mmap:
            # Mapped pages that were in RAM before would count as nobody's.
            start["page_cache"] = "evicted"
    elif needs.capped and cell.settings.n_gpu_layers != 0:
        start["leave_vram_bytes"] = needs.memory_bytes
    whole = Workload(
        prompt_tokens=cell.settings.n_ctx - FILL_TOKENS,
        max_tokens=FILL_TOKENS,
        repeats=0,
        via=FILLED_BY.get(cell.workload.via, cell.workload.via),
    )
    return cell.model_copy(
        update={
            "twin": False,
            "workload": whole,
            "start": cell.start.model_copy(update=start),
        }
    )
