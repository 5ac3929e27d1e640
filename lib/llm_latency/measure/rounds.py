"""Which trials come next: as planned, until the time is up, or until all is decided.

All of it follows from the records that there are: a run that was interrupted ends where one that
was never stopped does, and a complete one has nothing left. Rounds are decided about whole, by
the whole rounds before them, so that comparisons stay within rounds.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from llm_latency.machine import disturbance
from llm_latency.plan.spec import Plan, Trial
from llm_latency.records.power_cap import judged
from llm_latency.records.record import Record
from llm_latency.records.store import RunStore, framed


class Stored(Protocol):
    """What is asked of a run to decide about its next round."""

    @property
    def info(self) -> dict[str, Any]:
        """The content of ``run.json``."""

    def records(self) -> list[Record]:
        """Return every whole record."""


FEWEST = 6
"""Rounds in which every cell is measured: the fewest that give an interval and a verdict."""
MOST = 10_000
"""Rounds that no run goes beyond, whatever its time."""


def left(plan: Plan, store: RunStore, ahead: int = 1) -> list[Trial]:
    """Return the trials without a record, of one round where the run looks after every round.

    Or of so many ``ahead``, as far as it is known already who is in them.

    When there are none, those that are to be repeated, since the machine was disturbed.
    """
    done = store.done()
    if time_is_up(plan, store):
        return []
    trials = _next_rounds(plan, store, ahead) if plan.looked_at else plan.trials()
    planned = [trial for trial in trials if trial.trial_id not in done]
    if planned or not plan.repeat_disturbed:
        return planned
    return [trial for trial in again(store) if trial.trial_id not in done]


def again(store: RunStore) -> list[Trial]:
    """Return the trials to be measured a second time because the machine was disturbed."""
    return [
        record.trial.model_copy(update={"attempt": 1})
        for record in judged(store.records())
        if _passing(record) and record.status == "ok" and record.trial.attempt == 0
    ]


def _passing(record: Record) -> set[str]:
    """Return what disturbed a trial and may have passed by: a quota does not."""
    lasting = disturbance.held_back(record.host, record.child_s, record.generations)
    return {*record.disturbed} - {*lasting}


def used_s(records: Sequence[Record]) -> float:
    """Return how long a run has taken, all that came between its trials included."""
    return sum(map(cost_s, records))


def time_is_up(plan: Plan, store: RunStore) -> bool:
    """Return whether a trial of median length would end too late; one is measured always."""
    records = store.records()
    if not plan.minutes or not records:
        return False
    return used_s(records) + statistics.median(map(cost_s, records)) > 60 * plan.minutes


def cost_s(record: Record) -> float:
    """Return how long a trial took, with what came before it; of old records its child alone."""
    return record.child_s if record.took_s is None else record.took_s


def _next_rounds(plan: Plan, store: RunStore, ahead: int) -> list[Trial]:
    """Return the trials of the first rounds that are not whole yet; none where they have ended.

    Who is in a round that follows from results is known when all before it are whole.
    """
    cells = {(cell.cell_id, cell.twin, 0) for cell in plan.cells}
    trials = [record.trial for record in store.records()]
    if not {(one.cell_id, one.twin, one.attempt) for one in trials} <= cells:
        return []  # what comes after the rounds has begun
    done, count = store.done(), Counter(one.round for one in trials)
    last, known = max(count, default=0), FEWEST if plan.stop_when_decided else MOST
    begun = [n for n in range(min(last, known)) if count[n] < len(cells)]
    found: list[list[Trial]] = []
    for number in (*begun, *range(last, last + ahead + 1)):
        if len(found) == ahead or (found and number >= known):
            break
        planned = going_on(plan, store, number)
        if any(trial.trial_id not in done for trial in planned):
            found.append(planned)
    return [trial for planned in found for trial in planned]


def going_on(plan: Plan, store: Stored, number: int) -> list[Trial]:
    """Return the trials of a round: the cells that an open comparison is about.

    A cell that has left does not come back, or two equal ones that take turns at being the
    quickest would open what is decided. The twins of a known number of rounds leave with the
    first cells: their six pairs tell the noise, and a round of theirs costs as much as that of a
    comparison.
    """
    if number >= (MOST if plan.minutes else plan.rounds):
        return []
    trials = plan.round(number)
    if number < FEWEST or not plan.stop_when_decided:
        return trials
    before = [record for record in store.records() if record.trial.round < number]
    first = [record for record in before if record.trial.attempt == 0]
    # The layer of questions lies above; what they compare is theirs to say.
    deciding = import_module("llm_latency.questions.deciding")
    there = {one.trial.cell_id for one in first if one.trial.round == number - 1}
    open_ = deciding.undecided(plan.experiment, framed(first, plan), store.info, there)
    if open_ is None:
        return trials
    twins = {one.cell_id for one in trials if one.twin and plan.minutes and open_}
    return [one for one in trials if one.cell_id in (twins if one.twin else open_ | twins)]
