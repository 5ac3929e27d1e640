"""What looking after every round saves in a sweep, and whether its verdicts stay.

A sweep is measured to its end; then the same records are gone through as a run that may stop
would have: which of them it would have measured, and what it would have answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import llm_latency as lab
from llm_latency.measure.rounds import going_on
from llm_latency.plan.spec import Plan
from llm_latency.questions import sweep
from llm_latency.records.record import Record
from llm_latency.records.store import RunStore, framed
from llm_latency.report.page import Rows


class Replay(NamedTuple):
    """What of a run would have been measured so far: as much of a stored run as rounds read."""

    kept: list[Record]
    info: dict[str, Any]

    def records(self) -> list[Record]:
        """Return it, in the order of writing."""
        return self.kept


def measured(rounds: int) -> RunStore:
    """Carry out a sweep of three contexts by three batches, as params/standard.yaml does."""
    plan = lab.experiments.sweep(
        model="synthetic:125m", prompt_tokens=448, rounds=rounds, repeats=0, max_tokens=8
    )
    return lab.run(plan)


def replayed(run: RunStore) -> list[Record]:
    """Return the records of a whole run that it would have, had it stopped what is decided."""
    plan = run.plan.model_copy(update={"stop_when_decided": True})
    known = {record.trial.trial_id: record for record in run.records()}
    replay = Replay([], run.info)
    for number in range(plan.rounds):
        replay.kept.extend(known[t.trial_id] for t in going_on(plan, replay, number))
    return replay.kept


def verdicts(records: list[Record], plan: Plan, info: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict on each cell against the soonest."""
    view = sweep.View(Rows(framed(records, plan), dict(info)))
    return {cell: found.verdict for cell, found in view.against_soonest.items()}


def report(run: RunStore) -> None:
    """Print how many trials a run needed that stops what is decided, and both verdicts."""
    kept, plan = replayed(run), run.plan
    stopping = plan.model_copy(update={"stop_when_decided": True})
    whole, early = (
        verdicts(records, of, run.info) for records, of in ((run.records(), plan), (kept, stopping))
    )
    share = len(kept) / len(run.records())
    print(f"3 x 3 sweep: {len(kept)} of {len(run.records())} trials = {share:.0%}")
    for cell in sorted({*whole, *early}):
        print(f"  {cell}: {whole.get(cell, 'soonest')}; stopped {early.get(cell, 'soonest')}")
