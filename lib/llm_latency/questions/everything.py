"""Many questions in one go: one bar of progress, a run for each, and one page of answers."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from tqdm import tqdm

from llm_latency.errors import LabError, ParameterError
from llm_latency.experiments.everything import Everything
from llm_latency.machine import lock
from llm_latency.measure import resume, runner
from llm_latency.plan.spec import Plan
from llm_latency.records.folders import outputs_dir
from llm_latency.records.store import RunStore
from llm_latency.report import tables


@dataclass(frozen=True)
class Runs:
    """What carrying out :class:`~llm_latency.experiments.everything.Everything` left.

    Attributes
    ----------
    plan : Everything
        What was to be measured.
    stores : dict
        By question: its run.
    stopped : dict
        By question that could not be run at all: why.
    """

    plan: Everything
    stores: dict[str, RunStore] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """How many trials the plans hold."""
        return sum(len(plan.cells) * plan.rounds for plan in self.plan.plans)

    @property
    def final(self) -> int:
        """How many of them have a final record."""
        return sum(store.final for store in self.stores.values())

    @property
    def info(self) -> dict[str, Any]:
        """What is known of machine, engine and model, and what was asked for."""
        first = next((store.info for store in self.stores.values()), {})
        return {**first, "plan": {"parameters": self.plan.parameters}}

    def frame(self, question: str) -> pd.DataFrame:
        """Return the rows of one question; empty if it could not be run."""
        store = self.stores.get(question)
        return pd.DataFrame() if store is None else store.frame()

    def given(self, question: str, name: str) -> Any:
        """Return a parameter that a question was asked with; ``None`` if it was not run."""
        store = self.stores.get(question)
        return None if store is None else store.plan.parameters.get(name)

    def failures(self) -> pd.DataFrame:
        """Return the trials of all questions that did not end well."""
        found = []
        for question, store in self.stores.items():
            frame = store.frame()
            part = tables.failures(frame) if len(frame) else pd.DataFrame()
            if len(part):
                kept = ["status", "trials", "reason", "log"]
                found.append(part[kept].assign(log=f"{store.run_id}/" + part["log"]))
                found[-1].insert(0, "question", question)
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    def folders(self) -> pd.DataFrame:
        """Return where the data of each question lies."""
        table = pd.DataFrame(
            [(name, s.planned, s.final, str(s.path)) for name, s in self.stores.items()],
            columns=["question", "trials planned", "measured", "folder"],
        )
        table.attrs["card"] = True
        return table.astype(str)


def run(plan: Everything, progress: bool = True) -> Runs:
    """Carry out the plans of all questions, or what is left of them, one after the other.

    A question that cannot be run at all does not stop the others.

    Parameters
    ----------
    plan
        What :func:`llm_latency.experiments.everything` returns.
    progress
        Show one bar over all trials, with the time left.

    Raises
    ------
    LabError
        If no question could be run, or if another run is measuring on this machine.
    """
    if not isinstance(plan, Everything):
        raise ParameterError(
            f"plan is a {type(plan).__name__}; give what experiments.everything() returns, or "
            "carry this one out with lab.run()."
        )
    runs = Runs(plan)
    with contextlib.ExitStack() as stack:
        if any(_measures(one) for one in plan.plans):
            # Over all questions, so that no other run comes between two of them.
            wait_s = max(one.wait_s for one in plan.plans)
            stack.enter_context(lock.machine(wait_s)).tell(plan.run_id, outputs_dir() / "runs")
        bar = stack.enter_context(tqdm(total=runs.planned, unit="trial", disable=not progress))
        for one in plan.plans:
            bar.set_description(one.experiment)
            try:
                runs.stores[one.experiment] = runner.run(one, progress=bar)
            except LabError as error:
                runs.stopped[one.experiment] = str(error)
                bar.write(f"{one.experiment}: {error}", file=sys.stderr)
    if not runs.stores:
        raise LabError(next(iter(runs.stopped.values()), "there was no question to ask"))
    return runs


def _measures(plan: Plan) -> bool:
    """Return whether a plan has trials left to measure; one that cannot be run says so later."""
    with contextlib.suppress(LabError):
        stored = resume.find(plan)
        return stored is None or bool(resume.next_trials(plan, stored))
    return False
