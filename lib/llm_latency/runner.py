"""Carry out a plan: every trial in its order, each in a fresh process, each stored at once.

Reads like the method section of a paper: look up what is done; make or fetch the model; card
of the machine; then trial after trial, one process each, in the plan's shuffled order. What is
measured is on the disk before the next trial starts; the same plan with the same ``run_id``
goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import Executor, as_completed
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_latency import child, gpu, header, host, models
from llm_latency.errors import LabError, ParameterError
from llm_latency.record import SCHEMA_VERSION, Record
from llm_latency.spec import Plan, Trial
from llm_latency.store import RunStore, outputs_dir


def run(
    plan: Plan, *, executor: Executor | None = None, progress: bool | tqdm[Any] = True
) -> RunStore:
    """Carry out a plan, or what is left of it, and return its run.

    Parameters
    ----------
    plan
        What to measure; see :mod:`llm_latency.experiments`.
    executor
        Where trials are carried out: any ``concurrent.futures.Executor``. By default one after
        another in this thread. An executor that works on several at a time on one machine
        makes them disturb each other.
    progress
        Show a bar with the time left; or a bar of yours, which is moved on by one per trial of
        the plan.

    Raises
    ------
    ParameterError
        If the run_id is taken by another plan.
    LabError
        If nothing could be measured at all: no trial's child came as far as loading.
    """
    folder = outputs_dir() / "runs" / (plan.run_id or new_run_id(plan))
    resumed = (folder / "run.json").is_file()
    if resumed and RunStore(folder).plan.plan_id != plan.plan_id:
        raise ParameterError(
            f"run_id={folder.name!r} holds another plan; give a new run_id, or the parameters "
            f"that {folder / 'run.json'} names"
        )
    if resumed and RunStore(folder).complete and not _left(plan, RunStore(folder)):
        if not isinstance(progress, bool):
            progress.update(len(plan.trials()))
        return RunStore(folder)
    path = models.resolve(plan.model, progress=bool(progress))
    store = RunStore(folder) if resumed else RunStore.create(folder, describe(plan, path, folder))
    store.mend()

    def job(trial: Trial) -> child.Job:
        log_path = str(store.log_path(trial.trial_id))
        state = str(store.state_path(trial.cell_id))
        return child.Job(store.run_id, trial, str(path), log_path, plan.timeout_s, state)

    bar = _bar(progress, plan, store)
    try:
        _carry_out([job(trial) for trial in _left(plan, store, first=True)], store, executor, bar)
        repeated = [job(trial) for trial in _left(plan, store)]
        bar.total = (bar.total or 0) + len(repeated)
        _carry_out(repeated, store, executor, bar)
    except KeyboardInterrupt:
        print(
            f"Stopped: {store.final} of {store.planned} trials are stored in {store.path}; "
            f"run again with run_id={store.run_id!r} to go on.",
            file=sys.stderr,
        )
        raise
    finally:
        if bar is not progress:
            bar.close()
    store.drop_states()
    return store


def _left(plan: Plan, store: RunStore, *, first: bool = False) -> list[Trial]:
    """Return the trials without a final record; those to be repeated too, unless ``first``."""
    done = store.done()
    repeated = again(store) if plan.repeat_disturbed and not first else []
    return [trial for trial in [*plan.trials(), *repeated] if trial.trial_id not in done]


def _bar(progress: bool | tqdm[Any], plan: Plan, store: RunStore) -> tqdm[Any]:
    """Return the bar to show, moved on over the trials that are stored already."""
    planned = len(plan.trials())
    done = planned - len(_left(plan, store, first=True))
    if isinstance(progress, bool):
        return tqdm(
            desc=store.run_id, unit="trial", total=planned, initial=done, disable=not progress
        )
    progress.update(done)
    return progress


def again(store: RunStore) -> list[Trial]:
    """Return the trials to be measured a second time because the machine was disturbed."""
    return [
        record.trial.model_copy(update={"attempt": 1})
        for record in store.records()
        if record.disturbed and record.status == "ok" and record.trial.attempt == 0
    ]


def _carry_out(
    jobs: list[child.Job], store: RunStore, executor: Executor | None, bar: tqdm[Any]
) -> None:
    if executor is None:
        for job in jobs:
            _store(child.carry_out(job), store, bar)
        return
    futures = [executor.submit(child.carry_out, job) for job in jobs]
    for future in as_completed(futures):
        _store(future.result(), store, bar)


def _store(record: Record, store: RunStore, bar: Any) -> None:
    store.append(record)
    bar.update()
    if record.status != "ok":
        bar.write(f"{record.trial.trial_id}: {record.status}: {record.reason}", file=sys.stderr)


def new_run_id(plan: Plan) -> str:
    """Return a name for a new run: experiment, model and time."""
    model = Path(plan.model.replace(":", "-").removeprefix("synthetic-")).stem
    short = "".join(c if c.isalnum() or c in "-_." else "-" for c in model)[:32].strip("-.")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = f"{plan.experiment}-{short or 'model'}-{stamp}"
    number, name = 2, base
    while (outputs_dir() / "runs" / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def describe(plan: Plan, path: Path, folder: Path) -> dict[str, Any]:
    """Return the content of ``run.json``: the plan and all that its figures depend on.

    Raises
    ------
    LabError
        If the engine does not even start: then no trial could be measured.
    """
    log = folder / "logs" / "engine.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    engine = child.engine_card(log)
    if isinstance(engine, str):
        raise LabError(
            f"llama.cpp does not start here: {engine}; run 'python -m llm_latency doctor' to "
            "learn which build line to use"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.name,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "plan_id": plan.plan_id,
        "plan": plan.model_dump(mode="json"),
        "machine": host.machine_card().model_dump() | {"gpu": gpu.gpu_card().model_dump()},
        "engine": engine.model_dump(),
        "versions": host.versions(),
        "model": models.card(plan.model, path).model_dump(),
        "header": _header(path),
    }


def _header(path: Path) -> dict[str, Any] | None:
    """Return what memory is predicted from; ``None`` for a file that has no header."""
    try:
        return header.read_header(path).model_dump(mode="json")
    except ParameterError:
        return None
