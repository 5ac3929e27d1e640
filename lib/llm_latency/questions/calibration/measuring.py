"""Measure the lab and llama-bench in turn: one fresh process each, stored pair by pair."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from llm_latency.base import Frozen
from llm_latency.engine import probe
from llm_latency.errors import ParameterError
from llm_latency.machine import disturbance
from llm_latency.measure.resume import find
from llm_latency.measure.session import Session, session
from llm_latency.questions.calibration import bench
from llm_latency.questions.calibration.folder import (
    HOME,
    LINES,
    PAIRS,
    TRIALS,
    CalibrationRun,
    Pair,
    append,
    mend,
    stored_pairs,
    whole_lines,
)
from llm_latency.questions.calibration.planning import CalibrationPlan, Planned


def run(plan: Frozen, progress: bool = True) -> CalibrationRun:
    """Carry out a plan, or what is left of it; what is complete is only opened.

    Parameters
    ----------
    plan
        What :func:`llm_latency.questions.calibration.plan` returns.
    progress
        Show a bar with the time left.

    Raises
    ------
    ParameterError
        If the plan is another experiment's, or the run_id is taken by another plan.
    LabError
        If llama-bench has not been built: names the command; or if another run is measuring on
        this machine.
    """
    if not isinstance(plan, CalibrationPlan):
        raise ParameterError(
            f"plan is a {type(plan).__name__}; give what calibration.plan() returns, or carry "
            "this one out with lab.run()."
        )
    stored = find(plan, HOME)
    if stored is not None and not _left(plan, stored.path):
        return CalibrationRun(stored.path)
    tool = bench.executable()
    card = bench.card(tool)
    with session(
        plan, home=HOME, stored=stored, more={"llama_bench": card}, progress=progress
    ) as held:
        store = held.store
        if store.info["llama_bench"]["sha256"] != card["sha256"]:
            raise ParameterError(
                f"run_id={store.run_id!r} was begun with another build of llama-bench; "
                "give a new run_id"
            )
        for name in (PAIRS, LINES):
            mend(store.path / name)
        left = _left(plan, store.path)  # another process may have measured meanwhile
        planned_pairs = len(plan.planned())
        held.tell(planned_pairs - len(left), planned_pairs)
        with tqdm(total=len(left), desc=store.run_id, unit="pair", disable=not progress) as bar:
            for planned in left:
                pair = _measure(planned, held, tool)
                append(store.path / PAIRS, pair.model_dump_json())
                if pair.llama_bench_reason:
                    bar.write(f"{pair.pair_id}: {pair.llama_bench_reason}")
                held.step()
                bar.update()
    return CalibrationRun(store.path)


def _left(plan: CalibrationPlan, folder: Path) -> list[Planned]:
    """Return the pairs that have not been measured."""
    done = {pair.pair_id for pair in stored_pairs(folder)}
    return [planned for planned in plan.planned() if planned.pair_id not in done]


def _measure(planned: Planned, held: Session, tool: Path) -> Pair:
    """Measure both, the one named first first, and store what each left."""
    trial, store = planned.trial, held.store

    def other() -> bench.Outcome:
        sizes = {name: getattr(planned, name) for name in ("n_prompt", "n_gen", "n_depth")}
        test = bench.Test(trial.settings, trial.workload.repeats, **sizes)
        log = store.log_path(f"{planned.pair_id}-llama-bench")
        return bench.carry_out(tool, test, held.path, log, held.timeout_s)

    if planned.first == "lab":
        held.measure(trial)
        outcome = other()
    else:
        outcome = other()
        held.measure(trial)
    trial_line = len(whole_lines(store.path / TRIALS))
    costs = _probe(planned, held) if planned.n_gen and not planned.n_depth else None
    line = None if outcome.line is None else append(store.path / LINES, outcome.line)
    return Pair(
        pair_id=planned.pair_id,
        test=planned.test,
        tokens=planned.n_prompt or planned.n_gen,
        n_depth=planned.n_depth,
        n_threads=trial.settings.n_threads or 0,
        pair=trial.round,
        first=planned.first,
        trial_line=trial_line,
        llama_bench_line=line,
        llama_bench_reason=outcome.reason,
        llama_bench_s=outcome.child_s,
        llama_bench_disturbed=disturbance.disturbances(outcome.host, outcome.child_s),
        probe=costs,
    )


def _probe(planned: Planned, held: Session) -> probe.Costs | None:
    request = probe.Request(
        model_path=str(held.path),
        log_path=str(held.store.log_path(f"{planned.pair_id}-probe")),
        settings=planned.trial.settings,
        tokens=planned.n_gen,
        repeats=planned.trial.workload.repeats,
    )
    return probe.measure(request, held.timeout_s)
