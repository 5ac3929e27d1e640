"""From a notebook's variables to the plan that answers its question."""

from __future__ import annotations

import ast
import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.experiments.everything import Everything
from llm_latency.plan.builder import DEFAULTS
from llm_latency.plan.parameters import plain, shown
from llm_latency.plan.spec import Plan
from llm_latency.records.folders import outputs_dir
from llm_latency.records.store import RunStore


def defaults(experiment: Callable[..., Any]) -> dict[str, Any]:
    """Return every parameter that an experiment takes, with its default."""
    found = inspect.signature(experiment).parameters.values()
    own = {p.name: p.default for p in found if p.kind is not p.VAR_KEYWORD}
    takes_options = any(p.kind is p.VAR_KEYWORD for p in found)
    return {**(DEFAULTS if takes_options else {}), **own}


def plan_of(name: str, experiment: Callable[..., Any], namespace: Mapping[str, Any]) -> Any:
    """Return the plan of an experiment out of a notebook's variables.

    papermill only warns of a parameter that a notebook does not know, and measures with the
    default instead. Here a name that papermill injected and the experiment does not take stops
    the notebook. Where a stored run is named and no other question is asked, its plan is
    returned: it is gone on with, or drawn where it is complete.

    Parameters
    ----------
    name
        The notebook's name.
    experiment
        The function that plans.
    namespace
        The notebook's ``globals()``.
    """
    allowed = defaults(experiment)
    for injected in injected_names(namespace.get("In", [])):
        if injected not in allowed:
            raise ParameterError(
                f"{injected}={shown(namespace.get(injected))}: the notebook {name} has no "
                f"parameter {injected!r}{did_you_mean(injected, allowed)} Allowed are: "
                f"{', '.join(allowed)}."
            )
    given = {key: namespace[key] for key in allowed if key in namespace}
    plan = experiment(**given)
    return _stored(name, plan, given, allowed) or plan


def _stored(name: str, plan: Any, given: dict[str, Any], usual: dict[str, Any]) -> Any:
    """Return the stored plan where only its run_id was given; ``None`` otherwise."""
    asked = {key for key in given if not _same(given[key], usual[key])}
    alone = asked <= {"run_id", "wait_s"}
    if isinstance(plan, Everything):
        found = [_stored_plan(one.experiment, one) for one in plan.plans] if alone else []
        plans = tuple(one for one in found if one is not None)
        return plan.model_copy(update={"plans": plans}) if plans else None
    if not isinstance(plan, Plan):
        return None
    stored = _stored_plan(name, plan)
    return stored if alone else None


def _stored_plan(name: str, plan: Plan) -> Plan | None:
    """Return the plan that is stored under a plan's run_id, if there is one."""
    folder = outputs_dir() / "runs" / str(plan.run_id or "")
    if not plan.run_id or not (folder / "run.json").is_file():
        return None
    stored = RunStore(folder).plan
    if stored.experiment != name:
        raise ParameterError(
            f"run_id={plan.run_id!r} is a run of {stored.experiment}; open it with the notebook "
            f"{stored.experiment}, or give a new run_id."
        )
    # The run goes on under the name of its folder, whatever made that name.
    return stored.model_copy(update={"run_id": plan.run_id, "wait_s": plan.wait_s})


def _same(a: Any, b: Any) -> bool:
    return bool(plain(a) == plain(b))


def injected_names(cells: list[str]) -> list[str]:
    """Return the names set by papermill's cell, which begins with the comment ``# Parameters``."""
    names: list[str] = []
    for source in cells:
        if not source.lstrip().startswith("# Parameters"):
            continue
        with contextlib.suppress(SyntaxError):  # a cell of the user's, with IPython's own words
            for node in ast.parse(source).body:
                if isinstance(node, ast.Assign):
                    names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names
