"""Carry out a plan: every trial in its order, each in a fresh process, each stored at once.

Reads like the method section of a paper: look up what is done; hold the machine, so that nobody
else measures; then trial after trial, one process each, in the plan's shuffled order, and those
that follow from the results. The same plan with the same ``run_id`` goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from importlib import import_module
from typing import Any, overload

from tqdm import tqdm

from llm_latency.base import Frozen
from llm_latency.errors import ParameterError
from llm_latency.measure import engines
from llm_latency.measure.dealing import Places
from llm_latency.measure.resume import (
    SEARCHES,
    check_cores,
    check_offload,
    check_places,
    check_vram,
    find,
    for_this_machine,
    next_trials,
)
from llm_latency.measure.rounds import time_is_up, used_s
from llm_latency.measure.session import Session, session
from llm_latency.plan.spec import Plan
from llm_latency.records.record import Record
from llm_latency.records.store import RunStore
from llm_latency.words import duration

OTHER_PLANS = {
    "CalibrationPlan": "llm_latency.questions.calibration.measuring",
    "ComparePlan": "llm_latency.questions.compare",
    "Everything": "llm_latency.questions.everything",
}
"""Plans of other than the trials of one run: the modules whose ``run`` carries them out."""


@overload
def run(
    plan: Plan,
    *,
    places: Sequence[Executor] | None = None,
    progress: bool | tqdm[Any] = True,
) -> RunStore: ...
@overload
def run(
    plan: Frozen,
    *,
    places: Sequence[Executor] | None = None,
    progress: bool | tqdm[Any] = True,
) -> Any: ...
def run(
    plan: Frozen,
    *,
    places: Sequence[Executor] | None = None,
    progress: bool | tqdm[Any] = True,
) -> Any:
    """Carry out a plan, or what is left of it, and return its run.

    Parameters
    ----------
    plan
        What to measure: whatever a function of :mod:`llm_latency.experiments`,
        ``calibration.plan`` or ``frontier.plan`` returns.
    places
        Where it is measured, by default on this machine: one ``concurrent.futures.Executor`` for
        each machine or GPU, such as :func:`llm_latency.places.dask` makes. A round is measured
        whole at one place, one trial at a time; each place holds its own machine meanwhile.
    progress
        Show a bar with the time left; or a bar of yours, which is moved on by one per trial of
        the plan.

    Raises
    ------
    ParameterError
        If the run_id is taken by another plan, or this is no plan.
    LabError
        If another run is measuring on this machine, if no place is left, if a record cannot be
        stored, or if nothing could be measured at all: no trial's child came as far as loading.
    """
    if not isinstance(plan, Plan):
        return _carry_out_other(plan, places, progress)
    if places is not None:
        check_places(plan)
    plan = for_this_machine(plan)
    stored = find(plan)
    if stored is not None and not next_trials(plan, stored):
        stored.drop_states()  # those of a process that was killed when all was measured
        if not isinstance(progress, bool):
            progress.update(len(plan.trials()))
        return stored
    if places is None:
        check_vram(plan)
        check_cores(plan)
        engines.check(plan)
        there = None
    else:
        there = Places(places, plan.wait_s)
    with session(plan, stored=stored, places=there, progress=bool(progress)) as held:
        store = held.store
        for one in (store.info.get("machines") or {"": store.info}).values():
            check_offload(plan, {**store.info, "engine": one["engine"]})
        planned = set() if plan.experiment in SEARCHES else {t.trial_id for t in plan.trials()}
        held.tell(_done(store, planned), len(planned) or None)
        bar = _bar(progress, store, planned)
        left = len(planned) - _done(store, planned) if planned else 0
        others = (bar.total or 0) - bar.n - left  # of other plans, where they share a bar
        try:
            for record in there.measure(plan, held) if there else _one_by_one(plan, held):
                held.step()
                bar.total = (bar.total or 0) + (record.trial.trial_id not in planned)
                bar.update()
                if record.status != "ok" and planned:  # a search looks for what fails
                    line = f"{record.trial.trial_id}: {record.status}: {record.reason}"
                    bar.write(line, file=sys.stderr)
                if progress is True and planned and len(store.records()) == len(plan.cells):
                    bar.write(_how_long(plan, store), file=sys.stderr)
            bar.total = bar.n + others  # what was saved is not waited for
        except KeyboardInterrupt:
            of = f" of {len(planned)}" if planned else ""
            print(
                f"Stopped: {_done(store, planned)}{of} trials are stored in {store.path}; run "
                f"again with run_id={store.run_id!r} to go on.",
                file=sys.stderr,
            )
            raise
        finally:
            if bar is not progress:
                bar.close()
        store.drop_states()
        if there is not None:
            there.leave(store.run_id)
    return store


def _one_by_one(plan: Plan, held: Session) -> Iterator[Record]:
    """Measure what is left of a plan on this machine, and yield each record when it is stored."""
    while trials := next_trials(plan, held.store):
        for trial in trials:
            yield held.measure(trial)
            if time_is_up(plan, held.store):
                break


def _carry_out_other(
    plan: Frozen, places: Sequence[Executor] | None, progress: bool | tqdm[Any]
) -> Any:
    """Carry out a plan of more than the trials of one run."""
    kind = type(plan).__name__
    if kind not in OTHER_PLANS:
        raise ParameterError(
            f"plan is a {kind}; give a plan, such as lab.experiments.sweep() returns."
        )
    if places is not None:
        raise ParameterError(
            f"places={places!r} is refused: a {kind} is measured on this machine, one trial "
            "after the other; leave it out."
        )
    return import_module(OTHER_PLANS[kind]).run(plan, progress=bool(progress))


def _bar(progress: bool | tqdm[Any], store: RunStore, planned: set[str]) -> tqdm[Any]:
    """Return the bar to show, moved on over what is stored already."""
    done = _done(store, planned)
    if isinstance(progress, bool):
        total = len(planned) or done
        return tqdm(
            desc=store.run_id, unit="trial", total=total, initial=done, disable=not progress
        )
    progress.update(done)
    return progress


def _how_long(plan: Plan, store: RunStore) -> str:
    """Say, after the first round, how long the run will take; the bar corrects it from then on."""
    records = store.records()
    first_s = used_s(records)
    again_s = used_s([one for one in records if not one.trial.workload.quality_against])
    whole_s = 60 * plan.minutes or first_s + (plan.rounds - 1) * again_s
    trials = round(whole_s / first_s * len(records)) if plan.minutes else len(plan.trials())
    most = " at most" * plan.stop_when_decided
    return f"About {duration(whole_s)} for {trials:,} trials{most}."


def _done(store: RunStore, planned: set[str]) -> int:
    """Return how many of the planned trials are stored; of a search, how many in all."""
    return len(planned & store.done() if planned else store.done())
