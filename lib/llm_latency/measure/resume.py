"""May this run go on, and what is left of it.

A run stands on one plan, one machine, one engine and one model file; going on must not change
them. What is left is asked of the records that there are, so that a run that goes on and one
that was never stopped take the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from llm_latency.base import Frozen
from llm_latency.errors import LabError, ParameterError
from llm_latency.machine import affinity, devices, host
from llm_latency.measure import engines
from llm_latency.measure.rounds import left
from llm_latency.model.names import ModelCard
from llm_latency.plan.spec import Plan, Trial
from llm_latency.records.folders import outputs_dir
from llm_latency.records.store import RunStore, holds_run

BY_RESULTS = {
    "advise": "llm_latency.questions.advise.trying",
    "frontier": "llm_latency.memory.frontier",
}
"""Experiments whose trials depend on results: the modules whose ``next_trials`` says which."""
BY_MACHINE = {
    "advise": "llm_latency.questions.advise.planning",
    "threads": "llm_latency.questions.threads",
    "knobs": "llm_latency.questions.knobs.planning",
}
"""Experiments whose trials depend on the machine: the modules whose ``for_this_machine`` says."""
SEARCHES = frozenset({"frontier"})
"""Experiments that try places of their own choice, and not the trials of their plan."""


def for_this_machine(plan: Plan) -> Plan:
    """Return a plan with the trials that are worth measuring on this machine."""
    module = BY_MACHINE.get(plan.experiment)
    chosen: Plan = import_module(module).for_this_machine(plan) if module else plan
    return chosen


def find(plan: Any, home: str = "runs") -> RunStore | None:
    """Return the stored run that a plan names; ``None`` where there is none yet.

    Parameters
    ----------
    plan
        What is to be carried out.
    home
        The folder in the outputs where runs of that kind lie.

    Raises
    ------
    ParameterError
        If that run is of another plan.
    """
    folder = outputs_dir() / home / (plan.run_id or "")
    if not plan.run_id or not holds_run(folder):
        return None
    store = RunStore(folder)
    if _plan_of(store, type(plan)).plan_id != plan.plan_id:
        raise ParameterError(
            f"run_id={folder.name!r} holds another plan; give a new run_id, or the parameters "
            f"that {folder / 'run.json'} names"
        )
    return store


def _plan_of(store: RunStore, kind: type[Frozen]) -> Any:
    if kind is Plan:
        return store.plan
    return kind.model_validate_json(json.dumps(store.info["plan"]))


def next_trials(plan: Plan, store: RunStore, ahead: int = 1) -> list[Trial]:
    """Return the trials to measure now, in their order; none where the run is complete.

    They do not depend on each other's results. When they are stored, more may follow. Of a run
    that is looked at after every round they are those of one, or of so many ``ahead`` as are
    known already.
    """
    module = BY_RESULTS.get(plan.experiment)
    found = import_module(module).next_trials(plan, store) if module else left(plan, store, ahead)
    return list(found)


def check_places(plan: Plan) -> None:
    """Refuse to measure at several places what one machine's facts or results choose."""
    if plan.experiment in {*BY_RESULTS, *BY_MACHINE}:
        raise ParameterError(
            f"places are refused: what {plan.experiment!r} tries depends on the machine and on "
            "what was found there; measure it on each by itself, without places."
        )
    if named := engines.named(plan):
        raise ParameterError(
            f"places are refused: engine {named[0]!r} is a name on one machine; measure engines on "
            "each by itself, without places."
        )


def check_vram(plan: Plan) -> None:
    """Refuse a plan that leaves VRAM on a card that has not so much, before anything is loaded."""
    leave = max((cell.start.leave_vram_bytes or 0 for cell in plan.cells), default=0)
    if not leave:
        return
    asked, card = plan.parameters.get("leave_vram", f"{leave} bytes"), devices.gpu_card()
    if not card.available:
        raise ParameterError(
            f"leave_vram={asked!r} is refused: {card.why}; leave it out, or give memory_limit for "
            "the RAM."
        )
    if card.total_bytes is not None and leave >= card.total_bytes:
        raise ParameterError(
            f"leave_vram={asked!r} is refused: {card.name} has {card.total_bytes / 2**20:,.0f} MiB "
            "in all; give less."
        )


def check_cores(plan: Plan) -> None:
    """Refuse CPUs that this machine does not give to a process, before anything is loaded."""
    for cores in dict.fromkeys(cell.start.cores for cell in plan.cells):
        affinity.chosen(cores)


def check_offload(plan: Plan, info: Mapping[str, Any]) -> None:
    """Refuse to leave some VRAM to an engine that uses none, or to put some layers there."""
    cells = [one for one in plan.cells if not engines.of(info, one.start.engine)["gpu_offload"]]
    if any(cell.start.leave_vram_bytes is not None for cell in cells):
        raise LabError(
            "leave_vram is refused: this engine computes on the CPU alone; build it with "
            "'python bootstrap.py --engine cuda', or leave it out"
        )
    n_layer = (info.get("model") or {}).get("n_layer") or 0
    layers = [cell.settings.n_gpu_layers for cell in cells]
    some = next((count for count in layers if 0 < count <= n_layer), None)
    if some is not None:
        raise LabError(
            f"n_gpu_layers={some} is refused: this engine sees no device to put layers on; give 0, "
            "or build it with 'python bootstrap.py --engine cuda' (or another that fits the card)"
        )


def check_origin(
    info: Mapping[str, Any],
    model: ModelCard,
    others: Mapping[str, Any] | None = None,
    *,
    anywhere: bool = False,
) -> None:
    """Refuse to go on with a run whose further records would not belong to those it has.

    Parameters
    ----------
    info
        The content of the run's ``run.json``; what it does not know is not compared.
    model
        The card of the file that would be measured now.
    others
        What :func:`llm_latency.measure.engines.cards` tells now of engines beside the one at home.
    anywhere
        Whether it may be of several machines: it goes on at places.

    Raises
    ------
    LabError
        One sentence that names what has changed.
    """
    machine, now = info.get("machine") or {}, host.machine_card()
    # A container has a new name each time that it starts, and a machine keeps its CPU.
    another = _differ(machine.get("machine_id"), now.machine_id)
    if not anywhere and another and _differ(machine.get("cpu"), now.cpu):
        _refuse(info, "on another machine", f"{machine['cpu']}, here {now.cpu}")
    engine = (info.get("versions") or {}).get("llama_cpp_python")
    if _differ(engine, here := host.versions()["llama_cpp_python"]):
        _refuse(info, "with another engine", f"llama-cpp-python {engine}, here {here}")
    if other := engines.changed(info, others or {}):
        _refuse(info, f"with another engine {other[0]!r}", other[1])
    sha256 = (info.get("model") or {}).get("sha256")
    if _differ(sha256, model.sha256):
        _refuse(info, "with another model file", f"SHA-256 {sha256}, now {model.sha256}")


def _differ(before: object, now: object) -> bool:
    return before is not None and before != now


def _refuse(info: Mapping[str, Any], how: str, what: str) -> None:
    raise LabError(
        f"run {info.get('run_id')!r} was begun {how} ({what}), and one run is of one; give a new "
        "run_id to begin anew, or go on where it was begun"
    )
