"""Everything: all of the questions in one go, each a run of its own, and one page of answers."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import yaml
from IPython.display import Markdown
from pydantic import Field
from tqdm import tqdm

from llm_latency.base import Frozen
from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.machine import lock
from llm_latency.measure import resume, rounds, runner
from llm_latency.plan.builder import Grid
from llm_latency.plan.parameters import as_list, build, check_sizes, closed, plain, run_name, shown
from llm_latency.plan.spec import Minutes, Plan, RunId
from llm_latency.questions import QUESTIONS, module
from llm_latency.records.folders import outputs_dir, project_dir
from llm_latency.records.store import RunStore
from llm_latency.report import conditions, page, phrases, tables
from llm_latency.words import escape

PRESETS = ("quick", "standard", "rigorous")


class Everything(Frozen):
    """The plans of several questions."""

    experiment: str = "everything"
    run_id: RunId = Field(max_length=60, description="Head of the runs' names")
    plans: tuple[Plan, ...]
    minutes: Minutes = 0.0
    parameters: dict[str, Any] = Field(default_factory=dict)


ASKED = tuple(name for name, question in QUESTIONS.items() if question.asked_with_all)
"""The questions that are asked, in the order of the page of answers."""


@closed("everything")
def plan(
    model: Annotated[str, "empty: the preset's; or a path, synthetic:…, package:…, hf:…"] = "",
    preset: Annotated[str, "quick, standard or rigorous: model and strictness"] = "quick",
    questions: Annotated[Grid, "some of the notebooks' names, such as warm_up; or all"] = ("all",),
    n_gpu_layers: int = -1,
    n_threads: int = 0,
    cores: str = "any",
    rounds: Annotated[int, "fresh processes per cell; 0: the preset's"] = 0,
    seed: int = 0,
    minutes: Annotated[float, "shared out over all questions; 0: as planned"] = 0.0,
    wait_s: float = 0.0,
    run_id: Annotated[str, "head of the runs' names; empty: one is made"] = "",
) -> Everything:
    """Plan all questions at a preset.

    With ``quick`` each question has its own default grid, else that of ``params/<name>.yaml``;
    the model and how strictly it is measured come from ``params/<preset>.yaml``.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    LabError
        If the presets are not here.
    """
    given = {name: plain(value) for name, value in locals().items()}
    check_sizes(given)
    preset = given["preset"]
    if preset not in PRESETS:
        raise ParameterError(
            f"preset={shown(preset)} is not one{did_you_mean(shown(preset), PRESETS)} "
            f"Give one of {', '.join(PRESETS)}."
        )
    head = run_name(run_id) or time.strftime("everything-%Y%m%d-%H%M%S")
    options = ("n_gpu_layers", "n_threads", "cores", "seed", "wait_s")
    asked = {name: given[name] for name in options}
    # What is left empty is the preset's; False and 0.0 are equal to 0, and are not it.
    usual = {"model": "''", "rounds": "0"}
    asked |= {name: given[name] for name, none in usual.items() if shown(given[name]) != none}
    # By itself first: else a question would refuse the longer name of its own run.
    build(Everything, {"run_id": head, "plans": (), "minutes": given["minutes"]})
    plans = []
    for name in _names(questions):
        own = {} if preset == "quick" else _read(f"{name}.yaml")
        values = own | _read(f"{preset}.yaml") | asked
        plans.append(module(name).plan(**values, run_id=f"{head}-{name}"))
    parameters = given | {"questions": [made.experiment for made in plans], "run_id": head}
    whole = {"run_id": head, "minutes": given["minutes"], "parameters": parameters}
    return build(Everything, whole | {"plans": _shared_out(plans, float(given["minutes"]))})


def _shared_out(plans: Sequence[Plan], minutes: float) -> tuple[Plan, ...]:
    """Return the plans, each with its share of the time: by its cells, as each is a process."""
    cells = sum(len(plan.cells) for plan in plans)
    shares = [{"minutes": minutes * len(plan.cells) / cells} for plan in plans]
    return tuple(
        plan.model_copy(update=share | {"parameters": plan.parameters | share})
        for plan, share in zip(plans, shares, strict=True)
    )


def _with_time_left(runs: Runs, number: int) -> Plan:
    """Return the plan of a question with its share of what those before it left of their time."""
    plans = runs.plan.plans[number:]
    used_min = sum(rounds.used_s(store.records()) for store in runs.stores.values()) / 60
    (shared, *_) = _shared_out(plans, max(runs.plan.minutes - used_min, 0.0))
    return shared if shared.minutes > plans[0].minutes else plans[0]


def _names(questions: Grid) -> list[str]:
    names = [str(name) for name in as_list("questions", questions)]
    for name in names:
        if name not in (*ASKED, "all"):
            raise ParameterError(
                f"questions={name!r} is not one{did_you_mean(name, ASKED)} "
                f"Allowed are: all, {', '.join(ASKED)}."
            )
    return [name for name in ASKED if name in names or "all" in names]


def _read(name: str) -> dict[str, Any]:
    root = project_dir()
    file = (root or Path()) / "params" / name
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError:
        raise LabError(
            f"params/{name} is not here; work in the project's folder, where params/ lies."
        ) from None
    return dict(found or {})


@dataclass(frozen=True)
class Runs:
    """What carrying out :class:`Everything` left.

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
        return sum(len(plan.trials()) for plan in self.plan.plans)

    @property
    def final(self) -> int:
        """How many of them have a final record, or need none since the run ended early."""
        return sum(store.final for store in self.stores.values()) + self.saved

    @cached_property
    def saved(self) -> int:
        """How many trials were not needed, or had no time."""
        ended = [store for store in self.stores.values() if page.ended_early(store)]
        return sum(store.planned - store.final for store in ended)

    @property
    def info(self) -> dict[str, Any]:
        """What is known of machine, engine and model, and what was asked for."""
        first = next((store.info for store in self.stores.values()), {})
        return {**first, "plan": {"parameters": self.plan.parameters}}

    @cached_property
    def views(self) -> dict[str, Any]:
        """The view of every question that was run."""
        return {name: module(name).View(store) for name, store in self.stores.items()}

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
        """Return the name of each question's run, which is that of its folder."""
        table = pd.DataFrame(
            [(name, s.planned, s.final, s.run_id) for name, s in self.stores.items()],
            columns=["question", "trials planned", "measured", "run_id"],
        )
        table.attrs["card"] = True
        return table.astype(str)


def notices(runs: Runs) -> Markdown:
    """Return what a reader must know before the answers; nothing where all is well."""
    stopped = [
        f"**{escape(name)} was not run:** {escape(why)}" for name, why in runs.stopped.items()
    ]
    if runs.saved:
        stopped.append(
            f"**Saved: {runs.saved:,} of {runs.planned:,} trials** as planned, since all was "
            "decided without them, or the time was up."
        )
    rows = [view.data for view in runs.views.values()]
    data = pd.concat(rows) if rows else None
    around = [] if data is None else [conditions.told(data, runs.info), page.disturbed(data)]
    return page.head(runs.planned, runs.final, runs.info, *stopped, *around)


def table(runs: Runs) -> pd.DataFrame:
    """Return one row per question: what was asked, the answer in a line, and how sure that is."""
    rows = []
    for name, view in runs.views.items():
        found = module(name).answer(view)
        asks = QUESTIONS[name].asks.replace("`", "")
        verdict = phrases.WORDS.get(found.verdict, found.verdict)
        rows.append((asks, html.unescape(found.line), verdict, found.sure))
    return pd.DataFrame(rows, columns=["question", "answer", "verdict", "how sure"])


def answer(runs: Runs, name: str) -> page.Answer:
    """Return a question's answer, or why there is none."""
    if name in runs.views:
        found: page.Answer = module(name).answer(runs.views[name])
        return found
    why = escape(runs.stopped.get(name, "it was not asked"))
    return page.Answer("not run", "none", "", (f"**Not run:** {why}.",))


def figure(runs: Runs, name: str) -> Any:
    """Draw a question's figure; nothing where it was not run."""
    return module(name).figure(runs.views[name]) if name in runs.views else None


def run(plan: Everything, progress: bool = True) -> Runs:
    """Carry out the plans of all questions, or what is left of them, one after the other.

    A question that cannot be run at all does not stop the others.

    Parameters
    ----------
    plan
        What :func:`plan` returns.
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
        for number, one in enumerate(plan.plans):
            bar.set_description(one.experiment)
            try:
                asked = _with_time_left(runs, number)
                runs.stores[one.experiment] = runner.run(asked, progress=bar)
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
