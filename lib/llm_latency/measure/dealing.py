"""Rounds are dealt to places: each whole to one, and to whoever is free.

Ratios are taken within a round, so a round must not be spread over machines. Nothing is kept of
who has what but the records: what a place that died has left of its round is without a record,
and is dealt again with the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, ParamSpec, Protocol, TypeVar

from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import host
from llm_latency.measure import place
from llm_latency.measure.job import Job, ModelFile
from llm_latency.measure.ready import Here
from llm_latency.measure.resume import next_trials
from llm_latency.measure.rounds import time_is_up
from llm_latency.model.names import Described
from llm_latency.plan.spec import Plan, Trial
from llm_latency.records.record import Record
from llm_latency.records.store import RunStore

ONE_VERSION = ("llm-latency-lab", "llama_cpp_python")
"""What must be of one version at all places, and here: figures of two are not compared."""

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Run(Protocol):
    """What is asked of the session that holds the run."""

    store: RunStore

    def job(self, trial: Trial) -> Job:
        """Return a trial as a job of this run."""

    def keep(self, record: Record) -> Record:
        """Store a record, and return it as it is stored."""


class Place:
    """One machine, or one GPU of it, that an executor reaches.

    Attributes
    ----------
    here : Here
        What it is, as it said itself.
    lock : str
        The file of its lock there.
    """

    here: Here
    lock: str

    def __init__(self, number: int, executor: Executor) -> None:
        self.number, self._executor = number, executor

    def ask(
        self, call: Callable[Given, Answer], *given: Given.args, **more: Given.kwargs
    ) -> Future[Answer]:
        """Have something done there; what the executor does not even take has failed."""
        try:
            return self._executor.submit(call, *given, **more)
        except Exception as error:
            refused: Future[Answer] = Future()
            refused.set_exception(error)
            return refused

    def introduce(self, told: dict[str, Any]) -> None:
        """Take what it says of itself, or refuse it by what it has another version of."""
        here = host.versions()
        for name in ONE_VERSION:
            if (there := told["versions"].get(name)) != here[name]:
                raise LabError(
                    f"place {self.number} has {name} {there}, and here is {here[name]}; one run "
                    "is of one version: install the same there, or leave that place out"
                )
        self.lock = told.pop("lock")
        self.here = Here.model_validate(told)

    @property
    def machine_id(self) -> str:
        """Its machine."""
        return self.here.machine.machine_id


class Places:
    """The places of a run, all of which have said what they are.

    Parameters
    ----------
    executors
        One for each.
    wait_s
        How long to wait for what else measures at one.

    Raises
    ------
    LabError
        If one cannot be asked, has another version, or is another's machine once more.
    """

    def __init__(self, executors: Sequence[Executor], wait_s: float) -> None:
        self._all = [Place(number, one) for number, one in enumerate(executors, 1)]
        if not self._all:
            raise ParameterError(
                "places=[] names none; give one executor per machine, or leave it out to measure "
                "on this one."
            )
        for one, told in zip(self._all, self._ask_all(place.introduce, wait_s), strict=True):
            one.introduce(told)
        for one in self._all:
            for other in self._all[: one.number - 1]:
                _apart(one, other)

    def _ask_all(
        self, call: Callable[Given, Answer], *given: Given.args, **more: Given.kwargs
    ) -> list[Answer]:
        """Return what each answers; where one fails, it is named."""
        asked = [one.ask(call, *given, **more) for one in self._all]
        wait(asked)
        for one, future in zip(self._all, asked, strict=True):
            if (error := future.exception()) is not None:
                raise LabError(f"place {one.number}: {_why(error)}") from error
        return [future.result() for future in asked]

    @property
    def first(self) -> Here:
        """The place whose facts stand for a run of several, where only one is asked for."""
        return self._all[0].here

    @property
    def machines(self) -> dict[str, dict[str, Any]]:
        """The facts of each machine, by its identifier, as ``run.json`` keeps them."""
        return {one.machine_id: one.here.model_dump(mode="json") for one in reversed(self._all)}

    def describe(
        self, plan: Plan, name: str, *, new: bool
    ) -> tuple[Described, list[dict[str, Any]]]:
        """Have the model at every place; return what it is, and of a new run what it will take."""
        first = self._all[0]
        asked = first.ask(place.describe, plan, name, first.here.engine if new else None)
        try:
            described, foretold = asked.result()
        except Exception as error:
            kind = ParameterError if isinstance(error, ParameterError) else LabError
            raise kind(f"place 1: {_why(error)}") from error
        self._ask_all(place.prepare, plan, ModelFile.of(described.card))
        return described, foretold

    def measure(self, plan: Plan, run: Run) -> Iterator[Record]:
        """Measure what is left of a plan, and yield each record as soon as it is stored.

        Raises
        ------
        LabError
            If no place is left; what was measured is stored.
        """
        return _Deal(plan, run, self._all).records()

    def leave(self, run_id: str) -> None:
        """Have what only the trials needed deleted; a place that is gone keeps it."""
        wait([one.ask(place.leave, run_id) for one in self._all])


class _Deal:
    """Who works on which round."""

    def __init__(self, plan: Plan, run: Run, places: Sequence[Place]) -> None:
        self._plan, self._run = plan, run
        self._left: dict[Place, list[Trial]] = {one: [] for one in places}  # of those that live
        self._at: dict[Place, int] = {}
        self._last_error: BaseException | None = None

    def records(self) -> Iterator[Record]:
        asked: dict[Future[Record], Place] = {}
        try:
            while True:
                for one in [one for one in self._left if one not in asked.values()]:
                    if (trial := self._next(one)) is not None:
                        job = self._run.job(trial)
                        asked[one.ask(place.measure, job, self._plan.wait_s)] = one
                if not asked:
                    break
                for future in wait(asked, return_when=FIRST_COMPLETED).done:
                    one = asked.pop(future)
                    try:
                        record = future.result()
                    except Exception as error:
                        self._lose(one, error)
                    else:
                        yield self._run.keep(record)
        finally:
            for future in asked:  # where this ends early, nobody waits for the others
                future.cancel()
        if self._last_error is not None and next_trials(self._plan, self._run.store):
            raise LabError(
                f"no place is left ({_why(self._last_error)}); what was measured is stored: run "
                f"again with run_id={self._run.store.run_id!r} to go on"
            ) from self._last_error

    def _lose(self, one: Place, error: Exception) -> None:
        self._last_error = error
        del self._left[one]
        self._at.pop(one, None)
        warnings.warn(
            f"place {one.number} (machine {one.machine_id}) measures no more: {_why(error)}; what "
            "is left of its round goes on elsewhere",
            stacklevel=3,
        )

    def _next(self, one: Place) -> Trial | None:
        """Return the next trial of a place's round, or of a round that is dealt to it now."""
        if time_is_up(self._plan, self._run.store):
            return None
        if not self._left[one]:
            self._at.pop(one, None)
            self._left[one] = self._round_for(one)
        return self._left[one].pop(0) if self._left[one] else None

    def _round_for(self, one: Place) -> list[Trial]:
        """Return what is left of the first round that nobody works on, and keep it for a place.

        What was begun goes on where it was begun, while that machine is here.
        """
        store, taken = self._run.store, set(self._at.values())
        begun = {r.trial.round: r.machine_id for r in reversed(store.records())}
        here = {place.machine_id for place in self._left}
        rounds: dict[int, list[Trial]] = {}
        for trial in next_trials(self._plan, store, len(taken) + 1):
            rounds.setdefault(trial.round, []).append(trial)
        for number, trials in rounds.items():
            machine = begun.get(number)
            if number not in taken and (machine == one.machine_id or machine not in here):
                self._at[one] = number
                return trials
        return []


def _apart(one: Place, other: Place) -> None:
    """Refuse two places that would disturb each other, or keep each other out."""
    if one.machine_id != other.machine_id:
        return
    cards = one.here.gpu.uuid, other.here.gpu.uuid
    which = f"places {other.number} and {one.number}"
    if None in cards or len(set(cards)) == 1:
        raise LabError(
            f"{which} are of one machine ({one.machine_id}) and would disturb each other; give "
            "one of them, name their GPUs by CUDA_VISIBLE_DEVICES or, where these are two "
            f"machines of one image, name each by {host.VARIABLE}"
        )
    if one.lock == other.lock:
        raise LabError(
            f"{which} are two GPUs of one machine and take turns by one lock, {one.lock}; give "
            "each a file of its own by LLM_LATENCY_LOCK"
        )


def _why(error: BaseException) -> str:
    return str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
