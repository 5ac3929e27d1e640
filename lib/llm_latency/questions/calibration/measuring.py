"""Measure the lab and llama-bench in turn: one fresh process each, stored pair by pair."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import devices, host, lock
from llm_latency.measure import trial as child
from llm_latency.model import names
from llm_latency.plan.spec import Frozen
from llm_latency.questions.calibration import bench, probe
from llm_latency.questions.calibration.folder import (
    LINES,
    PAIRS,
    TRIALS,
    CalibrationRun,
    Pair,
    append,
    folder_of,
    mend,
    whole_lines,
)
from llm_latency.questions.calibration.planning import CalibrationPlan, Planned
from llm_latency.records.folders import make_folder
from llm_latency.records.record import SCHEMA_VERSION, Record
from llm_latency.records.store import RunStore

TIMEOUT_S = 900.0
"""Longest life of one process of either tool."""


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
    if plan.run_id and not _left(plan, folder_of(plan.run_id)):
        return CalibrationRun(folder_of(plan.run_id))
    tool = bench.executable()
    with lock.machine(plan.wait_s) as hold:
        folder = folder_of(plan.run_id or _new_run_id(plan))
        hold.tell(folder.name, folder)
        begun_with = RunStore(folder).info if (folder / "run.json").is_file() else {}
        path = names.resolve(names.pinned(plan.model, begun_with), progress=progress)
        hold.take(make_folder(folder) / "run.lock", plan.wait_s)
        left = _left(plan, folder)  # another process may have measured meanwhile
        if not (folder / "run.json").is_file():
            RunStore.create(folder, _describe(plan, path, folder, tool))
        made = CalibrationRun(folder)
        if made.info["llama_bench"]["sha256"] != bench.card(tool)["sha256"]:
            raise ParameterError(
                f"run_id={folder.name!r} was begun with another build of llama-bench; "
                "give a new run_id"
            )
        made.store.mend()
        for name in (PAIRS, LINES):
            mend(folder / name)
        planned_pairs = len(plan.planned())
        hold.tell(folder.name, folder, planned_pairs - len(left), planned_pairs)
        with tqdm(total=len(left), desc=folder.name, unit="pair", disable=not progress) as bar:
            for planned in left:
                pair = _carry_out(planned, made.store, tool, path)
                append(folder / PAIRS, pair.model_dump_json())
                if pair.llama_bench_reason:
                    bar.write(f"{pair.pair_id}: {pair.llama_bench_reason}")
                hold.beat()
                bar.update()
    return made


def _left(plan: CalibrationPlan, folder: Path) -> list[Planned]:
    """Return the pairs that have not been measured."""
    if not (folder / "run.json").is_file():
        return plan.planned()
    found = CalibrationRun(folder)
    if found.plan.planned() != plan.planned():
        raise ParameterError(
            f"run_id={folder.name!r} holds another plan; give a new run_id, or the parameters "
            f"that {folder / 'run.json'} names"
        )
    done = {pair.pair_id for pair in found.pairs()}
    return [planned for planned in plan.planned() if planned.pair_id not in done]


def _carry_out(planned: Planned, store: RunStore, tool: Path, model: Path) -> Pair:
    """Measure both, the one named first first, and store what each left."""
    trial = planned.trial

    def lab() -> Record:
        return child.carry_out(
            child.Job(
                run_id=store.run_id,
                trial=trial,
                model_path=str(model),
                log_path=str(store.log_path(planned.pair_id)),
                timeout_s=TIMEOUT_S,
            )
        )

    def other() -> bench.Outcome:
        sizes = {"n_prompt": planned.n_prompt, "n_gen": planned.n_gen}
        test = bench.Test(trial.settings, trial.workload.repeats, **sizes)
        log = store.log_path(f"{planned.pair_id}-llama-bench")
        return bench.carry_out(tool, test, model, log, TIMEOUT_S)

    if planned.first == "lab":
        record, outcome = lab(), other()
    else:
        outcome, record = other(), lab()
    costs = _probe(planned, store, model) if planned.n_gen else None
    store.append(record)
    line = None if outcome.line is None else append(store.path / LINES, outcome.line)
    return Pair(
        pair_id=planned.pair_id,
        test=planned.test,
        tokens=planned.n_prompt or planned.n_gen,
        n_threads=trial.settings.n_threads or 0,
        pair=trial.round,
        first=planned.first,
        trial_line=len(whole_lines(store.path / TRIALS)),
        llama_bench_line=line,
        llama_bench_reason=outcome.reason,
        llama_bench_s=outcome.child_s,
        llama_bench_disturbed=host.disturbances(outcome.host, outcome.child_s),
        probe=costs,
    )


def _probe(planned: Planned, store: RunStore, model: Path) -> probe.Costs | None:
    request = probe.Request(
        model_path=str(model),
        log_path=str(store.log_path(f"{planned.pair_id}-probe")),
        settings=planned.trial.settings,
        tokens=planned.n_gen,
        repeats=planned.trial.workload.repeats,
    )
    return probe.measure(request, TIMEOUT_S)


def _describe(plan: CalibrationPlan, path: Path, folder: Path, tool: Path) -> dict[str, Any]:
    log = folder / "logs" / "engine.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    engine = child.engine_card(log)
    if isinstance(engine, str):
        raise LabError(f"llama.cpp does not start here: {engine}; run 'make doctor'.")
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.name,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "plan": plan.model_dump(mode="json"),
        "machine": host.machine_card().model_dump() | {"gpu": devices.gpu_card().model_dump()},
        "engine": engine.model_dump(),
        "llama_bench": bench.card(tool),
        "versions": host.versions(),
        "model": names.card(plan.model, path).model_dump(),
    }


def _new_run_id(plan: CalibrationPlan) -> str:
    stem = Path(plan.model.replace(":", "-").removeprefix("synthetic-")).stem
    short = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem)[:32].strip("-.")
    base = name = f"{short or 'model'}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 2
    while folder_of(name).exists():
        name, number = f"{base}-{number}", number + 1
    return name
