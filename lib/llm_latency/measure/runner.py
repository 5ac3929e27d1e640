"""Carry out a plan: every trial in its order, each in a fresh process, each stored at once.

Reads like the method section of a paper: look up what is done; see that nobody else measures;
make or fetch the model; card of the machine; then trial after trial, one process each, in the
plan's shuffled order. What is measured is on the disk before the next trial starts; the same
plan with the same ``run_id`` goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, as_completed
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import devices, host, lock
from llm_latency.measure import resume
from llm_latency.measure import trial as child
from llm_latency.model import header, names
from llm_latency.plan.spec import Plan, Trial
from llm_latency.records.folders import make_folder, outputs_dir
from llm_latency.records.record import SCHEMA_VERSION, Record
from llm_latency.records.store import RunStore


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
        If another run is measuring on this machine, if a record cannot be stored, or if nothing
        could be measured at all: no trial's child came as far as loading.
    """
    stored = find(plan)
    if stored is not None and not left(plan, stored):
        stored.drop_states()  # those of a process that was killed when all was measured
        if not isinstance(progress, bool):
            progress.update(len(plan.trials()))
        return stored
    with begun(plan, progress=bool(progress)) as (store, path, hold):

        def job(trial: Trial) -> child.Job:
            log_path = str(store.log_path(trial.trial_id))
            state = str(store.state_path(trial.cell_id))
            return child.Job(store.run_id, trial, str(path), log_path, plan.timeout_s, state)

        def keep(record: Record) -> None:
            store.append(record)
            hold.beat()
            bar.update()
            if record.status != "ok":
                line = f"{record.trial.trial_id}: {record.status}: {record.reason}"
                bar.write(line, file=sys.stderr)

        bar = _bar(progress, plan, store)
        hold.tell(store.run_id, store.path, store.final, store.planned)
        try:
            for first in (True, False):
                jobs = [job(trial) for trial in left(plan, store, first=first)]
                bar.total = (bar.total or 0) + (0 if first else len(jobs))
                _carry_out(jobs, executor, keep)
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


def find(plan: Plan) -> RunStore | None:
    """Return the stored run that a plan names; ``None`` where there is none yet.

    Raises
    ------
    ParameterError
        If that run is of another plan.
    """
    folder = outputs_dir() / "runs" / (plan.run_id or "")
    if not plan.run_id or not (folder / "run.json").is_file():
        return None
    store = RunStore(folder)
    if store.plan.plan_id != plan.plan_id:
        raise ParameterError(
            f"run_id={folder.name!r} holds another plan; give a new run_id, or the parameters "
            f"that {folder / 'run.json'} names"
        )
    return store


@contextlib.contextmanager
def begun(plan: Plan, *, progress: bool) -> Iterator[tuple[RunStore, Path, lock.Hold]]:
    """Hold the machine and a plan's run while the context lasts.

    Yields
    ------
    RunStore
        The run, new or stored, ready for the next record.
    Path
        The model's file.
    Hold
        To tell others how far the run is.
    """
    with lock.machine(plan.wait_s) as hold:
        hold.tell(plan.run_id or plan.experiment, outputs_dir() / "runs")
        make_folder(outputs_dir() / "runs")  # or refuse, before a model is made or fetched
        begun_with = stored.info if (stored := find(plan)) else {}
        path = names.resolve(names.pinned(plan.model, begun_with), progress=progress)
        folder = _folder(plan)
        hold.take(folder / "run.lock", plan.wait_s)
        # Only now: another process may have begun the same run, or ended it, meanwhile.
        stored = find(plan)
        if stored is not None:
            resume.check(stored.info, names.card(plan.model, path))
        store = stored or RunStore.create(folder, describe(plan, path, folder))
        store.mend()
        yield store, path, hold


def _folder(plan: Plan) -> Path:
    """Make the folder of a plan's run; one that nobody else has where it has no name yet."""
    runs = outputs_dir() / "runs"
    if plan.run_id:
        return make_folder(runs / plan.run_id)
    while True:
        # Another machine that shares the disk may choose the same name in the same second.
        with contextlib.suppress(FileExistsError):
            return make_folder(runs / new_run_id(plan), new=True)


def left(plan: Plan, store: RunStore, *, first: bool = False) -> list[Trial]:
    """Return the trials without a final record; those to be repeated too, unless ``first``."""
    done = store.done()
    repeated = again(store) if plan.repeat_disturbed and not first else []
    return [trial for trial in [*plan.trials(), *repeated] if trial.trial_id not in done]


def _bar(progress: bool | tqdm[Any], plan: Plan, store: RunStore) -> tqdm[Any]:
    """Return the bar to show, moved on over the trials that are stored already."""
    planned = len(plan.trials())
    done = planned - len(left(plan, store, first=True))
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
    jobs: list[child.Job], executor: Executor | None, keep: Callable[[Record], None]
) -> None:
    """Have all jobs done, and keep each record as soon as it is there."""
    if executor is None:
        for job in jobs:
            keep(child.carry_out(job))
        return
    futures = [executor.submit(child.carry_out, job) for job in jobs]
    lost: list[Exception] = []
    try:
        for future in as_completed(futures):
            try:
                record = future.result()
            except Exception as error:
                lost.append(error)
            else:
                keep(record)
    finally:
        for future in futures:  # where this ends early, nobody waits for the others
            future.cancel()
    if lost:
        raise LabError(
            f"the executor lost {len(lost)} of {len(jobs)} trials ({type(lost[0]).__name__}: "
            f"{lost[0]}); what the others measured is stored: run again with "
            f"run_id={jobs[0].run_id!r} to go on"
        ) from lost[0]


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
        "machine": host.machine_card().model_dump() | {"gpu": devices.gpu_card().model_dump()},
        "engine": engine.model_dump(),
        "versions": host.versions(),
        "model": names.card(plan.model, path).model_dump(),
        "header": _header(path),
    }


def _header(path: Path) -> dict[str, Any] | None:
    """Return what memory is predicted from; ``None`` for a file that has no header."""
    try:
        return header.read_header(path).model_dump(mode="json")
    except ParameterError:
        return None
