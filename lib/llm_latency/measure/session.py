"""A session holds a machine and one run, and measures: trial by trial, each stored at once.

The machine is held first, so that nobody else measures meanwhile; then the model is made or
fetched, and the run's folder is taken. What is measured is on the disk before the next trial
starts. Of a run that is measured at places each holds its own machine, and this one is free.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.machine import lock
from llm_latency.measure import engines, ready
from llm_latency.measure.dealing import Places
from llm_latency.measure.job import Job, ModelFile
from llm_latency.measure.resume import check_origin, find
from llm_latency.measure.trial import carry_out
from llm_latency.model import names
from llm_latency.plan.spec import Trial
from llm_latency.records.folders import LOGS, make_folder, outputs_dir
from llm_latency.records.record import SCHEMA_VERSION, Record
from llm_latency.records.store import RunStore


class Session:
    """A run, on a machine that is held for it or at places that hold theirs.

    Attributes
    ----------
    store : RunStore
        The run, ready for the next record.
    path : Path
        The model's file, where this machine measures.
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
        *,
        here: bool = True,
    ) -> None:
        self.store, self.path, self.model, self.timeout_s = store, path, model, timeout_s
        self._hold, self._since, self._here = hold, began, here

    def tell(self, stored: int, planned: int | None = None) -> None:
        """Let others know how far the run is; each step moves it on by one."""
        self._hold.tell(self.store.run_id, self.store.path, stored, planned)

    def step(self) -> None:
        """Take note that one more of what was planned is stored."""
        self._hold.beat()

    def job(self, trial: Trial) -> Job:
        """Return a trial as a job of this run."""
        folder = self.store.path if self._here else None
        return Job(self.store.run_id, trial, self.model, folder, self.timeout_s)

    def measure(self, trial: Trial) -> Record:
        """Measure one trial here, and return its record, which is stored."""
        record = carry_out(self.job(trial))
        # The run's machine, though a container of it may have another name at its next start.
        here = (self.store.info.get("machine") or {}).get("machine_id")
        return self.keep(record.model_copy(update={"machine_id": here or record.machine_id}))

    def keep(self, record: Record) -> Record:
        """Store a record, and return it as it is stored: with what it cost."""
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
    places: Places | None = None,
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
    places
        Where it is measured, if not on this machine.
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
    locked = lock.machine(plan.wait_s) if places is None else lock.none()
    with contextlib.ExitStack() as after, locked as hold:
        began = time.monotonic()  # what is prepared counts into the first trial's time
        hold.tell(plan.run_id or plan.experiment, outputs_dir() / home)
        make_folder(outputs_dir() / home)  # or refuse, before a model is made or fetched
        name = names.pinned(plan.model, stored.info if stored else {})
        if places is None:
            path, described = ready.model(plan, name, progress=progress)
            ready.programs_for(plan)
        else:
            described, foretold = places.describe(plan, name, new=stored is None)
            path = Path(described.card.path)
        folder = _folder(plan, home)
        hold.take(folder / "run.lock", plan.wait_s)
        # Only now: another process may have begun the same run meanwhile.
        store = stored or find(plan, home)
        others = engines.cards(plan, folder)
        if store is not None:
            anywhere = places is not None
            check_origin(store.info, described.card, others, anywhere=anywhere)
            if places is not None:
                store.tell(machines=_machines(store.info) | places.machines)
        else:
            try:
                if places is None:
                    here = ready.here(folder / LOGS / "engine.log")
                    told = ready.foretold(plan, path, here.engine)
                    card = _run_card(plan, described, folder, here, told)
                    card |= {"engines": others} if others else {}
                else:
                    card = _run_card(plan, described, folder, places.first, foretold)
                    card["machines"] = places.machines
            except ParameterError:  # no run was begun
                after.callback(_unmake, folder)
                raise
            store = RunStore.create(folder, card | dict(more or {}))
        store.mend()
        model = ModelFile.of(described.card)
        yield Session(store, path, model, plan.timeout_s, hold, began, here=places is None)


def _machines(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machines of a run that goes on at places: its own, where it was begun on one."""
    machine = dict(info["machine"])
    own = {"machine": machine, "gpu": machine.pop("gpu", None)}
    own |= {name: info.get(name) for name in ("engine", "versions")}
    return dict(info.get("machines") or {machine["machine_id"]: own})


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
    for own in (folder / LOGS / "engine.log", folder / "run.lock"):
        own.unlink(missing_ok=True)
    for empty in (folder / LOGS, folder):
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


def _run_card(
    plan: Any, model: names.Described, folder: Path, here: ready.Here, foretold: list[Any]
) -> dict[str, Any]:
    """Return the content of ``run.json``: the plan and all that its figures depend on."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.name,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "plan_id": plan.plan_id,
        "plan": plan.model_dump(mode="json"),
        "machine": here.machine.model_dump() | {"gpu": here.gpu.model_dump()},
        "engine": here.engine.model_dump(),
        "versions": here.versions,
        "model": model.card.model_dump(),
        "header": model.header and model.header.model_dump(mode="json"),
        "foretold": foretold,
    }
