"""A session holds a machine and one run, and measures: trial by trial, each stored at once.

The machine is held first, so that nobody else measures meanwhile; then the model is made or
fetched, and the run's folder is taken. What is measured is on the disk before the next trial
starts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llm_latency.engine import programs, token_count
from llm_latency.engine.dry_run import DryRun, NotForetoldError, Side
from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import devices, host, lock, offload
from llm_latency.measure import engines
from llm_latency.measure.job import Job, ModelFile
from llm_latency.measure.resume import check_origin, find
from llm_latency.measure.trial import carry_out, engine_card
from llm_latency.model import kinds, names
from llm_latency.plan.spec import Trial
from llm_latency.records.folders import make_folder, outputs_dir
from llm_latency.records.record import SCHEMA_VERSION, EngineCard, Record
from llm_latency.records.store import RunStore


class Session:
    """A run on a machine that is held for it.

    Attributes
    ----------
    store : RunStore
        The run, ready for the next record.
    path : Path
        The model's file.
    model : ModelFile
        The same, by what it is.
    timeout_s : float
        Longest life of one process, in seconds.
    """

    def __init__(
        self,
        store: RunStore,
        path: Path,
        model: ModelFile,
        timeout_s: float,
        hold: lock.Hold,
        began: float,
    ) -> None:
        self.store, self.path, self.model, self.timeout_s = store, path, model, timeout_s
        self._hold, self._since = hold, began

    def tell(self, stored: int, planned: int | None = None) -> None:
        """Let others know how far the run is; each step moves it on by one."""
        self._hold.tell(self.store.run_id, self.store.path, stored, planned)

    def step(self) -> None:
        """Take note that one more of what was planned is stored."""
        self._hold.beat()

    def job(self, trial: Trial) -> Job:
        """Return a trial as a job of this run."""
        return Job(self.store.run_id, trial, self.model, self.store.path, self.timeout_s)

    def measure(self, trial: Trial) -> Record:
        """Measure one trial here, and return its record, which is stored."""
        record = carry_out(self.job(trial))
        # The run's machine, though a container of it may have another name at its next start.
        here = (self.store.info.get("machine") or {}).get("machine_id")
        return self._stored(record.model_copy(update={"machine_id": here or record.machine_id}))

    def measure_all(self, trials: Sequence[Trial], executor: Executor | None) -> Iterator[Record]:
        """Measure trials, and yield each record as soon as it is stored.

        Parameters
        ----------
        trials
            What to measure; without an executor one after the other, in this order.
        executor
            Where they are carried out.

        Raises
        ------
        LabError
            If the executor lost some; what the others measured is stored.
        """
        if executor is None:
            for trial in trials:
                yield self.measure(trial)
            return
        futures = [executor.submit(carry_out, self.job(trial)) for trial in trials]
        lost: list[Exception] = []
        try:
            for future in as_completed(futures):
                try:
                    record = future.result()
                except Exception as error:
                    lost.append(error)
                else:
                    yield self._stored(record)
        finally:
            for future in futures:  # where this ends early, nobody waits for the others
                future.cancel()
        if lost:
            raise LabError(
                f"the executor lost {len(lost)} of {len(trials)} trials ({type(lost[0]).__name__}: "
                f"{lost[0]}); what the others measured is stored: run again with "
                f"run_id={self.store.run_id!r} to go on"
            ) from lost[0]

    def _stored(self, record: Record) -> Record:
        now = time.monotonic()
        record = record.model_copy(update={"took_s": now - self._since})
        self._since = now
        self.store.append(record)
        return record


@contextlib.contextmanager
def session(
    plan: Any,
    *,
    home: str = "runs",
    stored: RunStore | None = None,
    more: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Iterator[Session]:
    """Hold the machine and a plan's run while the context lasts.

    Parameters
    ----------
    plan
        What is carried out: its ``model``, ``run_id``, ``plan_id``, ``wait_s`` and ``timeout_s``.
    home
        The folder in the outputs where the run lies.
    stored
        The run as it was found stored, where it was.
    more
        Further content of a new run's ``run.json``.
    progress
        Show how far the model's making or fetching is.

    Raises
    ------
    LabError
        If another run is measuring on this machine, the run cannot go on here, or the engine
        does not start.
    """
    with contextlib.ExitStack() as after, lock.machine(plan.wait_s) as hold:
        began = time.monotonic()  # what is prepared counts into the first trial's time
        hold.tell(plan.run_id or plan.experiment, outputs_dir() / home)
        make_folder(outputs_dir() / home)  # or refuse, before a model is made or fetched
        begun_with = stored.info if stored else {}
        path = names.resolve(names.pinned(plan.model, begun_with), progress=progress)
        kinds.check(path)
        described = names.describe(plan.model, path)
        if described.header is not None:
            for settings in dict.fromkeys(cell.settings for cell in plan.cells):
                described.header.check_cache(settings)
        token_count.check_room(path, plan.cells)
        if any(cell.workload.via == "server" for cell in plan.cells):
            programs.llama_server(build=True)
        folder = _folder(plan, home)
        hold.take(folder / "run.lock", plan.wait_s)
        # Only now: another process may have begun the same run meanwhile.
        store = stored or find(plan, home)
        others = engines.cards(plan, folder)
        if store is not None:
            check_origin(store.info, described.card, others)
        else:
            try:
                card = _run_card(plan, described, path, folder) | dict(more or {})
                card |= {"engines": others} if others else {}
            except ParameterError:  # no run was begun
                after.callback(_unmake, folder)
                raise
            store = RunStore.create(folder, card)
        store.mend()
        yield Session(store, path, ModelFile.of(described.card), plan.timeout_s, hold, began)


def _folder(plan: Any, home: str) -> Path:
    """Make the folder of a plan's run; one that nobody else has where it has no name yet."""
    runs = outputs_dir() / home
    if plan.run_id:
        return make_folder(runs / plan.run_id)
    while True:
        # Another machine that shares the disk may choose the same name in the same second.
        with contextlib.suppress(FileExistsError):
            return make_folder(runs / new_run_id(plan, home), new=True)


def _unmake(folder: Path) -> None:
    """Remove a folder in which no run was begun, with what the lab put there, and nothing else."""
    for own in (folder / "logs" / "engine.log", folder / "run.lock"):
        own.unlink(missing_ok=True)
    for empty in (folder / "logs", folder):
        with contextlib.suppress(OSError):  # somebody's own files are in it
            empty.rmdir()


def new_run_id(plan: Any, home: str = "runs") -> str:
    """Return a name for a new run: experiment, model and time."""
    named = plan.model.removeprefix("synthetic:").removeprefix("package:")
    model = Path(named.replace(":", "-")).stem
    short = "".join(c if c.isalnum() or c in "-_." else "-" for c in model)[:32].strip("-.")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = f"{plan.experiment}-{short or 'model'}-{stamp}"
    number, name = 2, base
    while (outputs_dir() / home / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def _run_card(plan: Any, model: names.Described, path: Path, folder: Path) -> dict[str, Any]:
    """Return the content of ``run.json``: the plan and all that its figures depend on."""
    log = folder / "logs" / "engine.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    engine = engine_card(log)
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
        "model": model.card.model_dump(),
        "header": model.header and model.header.model_dump(mode="json"),
        "foretold": _foretold(plan, path, engine),
    }


def _foretold(plan: Any, path: Path, engine: EngineCard) -> list[dict[str, Any]]:
    """Return what llama.cpp says that each setting of the engine at home will allocate."""
    told, seen = [], offload.taken(engine.devices)
    cells = [cell for cell in getattr(plan, "cells", ()) if cell.start.engine is None]
    every = dict.fromkeys(cell.settings for cell in cells)
    with DryRun(path) as dry_run:
        for settings in every:
            on: Side = "gpu" if seen and settings.n_gpu_layers else "cpu"
            try:
                allocation = dry_run.ask(settings, on).model_dump()
            except NotForetoldError as error:
                if "unknown model architecture" in str(error):  # no trial would say more
                    raise ParameterError(f"model={plan.model!r} is refused: {error}") from None
                continue
            told.append({"settings": settings.model_dump(), "on": on, "allocation": allocation})
    return told
