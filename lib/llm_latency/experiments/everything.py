"""Everything: all of the questions in one go, each a run of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.experiments.batch_size import batch_size
from llm_latency.experiments.cold_start import cold_start
from llm_latency.experiments.context_size import context_size
from llm_latency.experiments.conversation import conversation
from llm_latency.experiments.max_tokens import max_tokens
from llm_latency.experiments.memory_locking import memory_locking
from llm_latency.experiments.prompt_size import prompt_size
from llm_latency.experiments.warm_runs import warm_runs
from llm_latency.experiments.warm_up import warm_up
from llm_latency.plan.builder import Grid
from llm_latency.plan.parameters import as_list, build, check_sizes, closed, plain, run_name, shown
from llm_latency.plan.spec import Frozen, Plan, RunId
from llm_latency.records.folders import project_dir

PRESETS = ("quick", "standard", "rigorous")


class Everything(Frozen):
    """The plans of several questions."""

    experiment: str = "everything"
    run_id: RunId = Field(max_length=60, description="Head of the runs' names")
    plans: tuple[Plan, ...]
    parameters: dict[str, Any] = Field(default_factory=dict)


PLANS: dict[str, Callable[..., Plan]] = {
    "cold_start": cold_start,
    "warm_runs": warm_runs,
    "prompt_size": prompt_size,
    "max_tokens": max_tokens,
    "warm_up": warm_up,
    "context_size": context_size,
    "batch_size": batch_size,
    "memory_locking": memory_locking,
    "conversation": conversation,
}
"""The questions that are asked, in the order of the page of answers."""


@closed("everything")
def everything(
    model: str = "",
    preset: str = "quick",
    questions: Grid = ("all",),
    n_gpu_layers: int = -1,
    n_threads: int = 0,
    rounds: int = 0,
    seed: int = 0,
    wait_s: float = 0.0,
    run_id: str = "",
) -> Everything:
    """Plan all questions at a preset.

    With ``quick`` each question has its own default grid, else that of ``params/<name>.yaml``;
    the model and how strictly it is measured come from ``params/<preset>.yaml``.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``; empty: the preset's.
    preset
        ``quick``, ``standard`` or ``rigorous``.
    questions
        Names of notebooks, one or a list; ``all``: all nine.
    n_gpu_layers, n_threads
        llama-cpp-python's settings, for all questions.
    rounds
        Fresh processes per cell; 0: the preset's.
    seed
        Of the shuffled orders.
    wait_s
        How long to wait for another run that measures on this machine, in seconds; 0 refuses
        at once.
    run_id
        Head of the runs' names; empty makes one.

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
    asked = {"n_gpu_layers": n_gpu_layers, "n_threads": n_threads, "seed": seed, "wait_s": wait_s}
    # What is left empty is the preset's; False and 0.0 are equal to 0, and are not it.
    usual = {"model": "''", "rounds": "0"}
    asked |= {name: given[name] for name, none in usual.items() if shown(given[name]) != none}
    # By itself first: else a question would refuse the longer name of its own run.
    build(Everything, {"run_id": head, "plans": ()})
    plans = []
    for name in _names(questions):
        own = {} if preset == "quick" else _read(f"{name}.yaml")
        values = own | _read(f"{preset}.yaml") | asked
        plans.append(PLANS[name](**values, run_id=f"{head}-{name}"))
    parameters = given | {"questions": [plan.experiment for plan in plans], "run_id": head}
    return build(Everything, {"run_id": head, "plans": tuple(plans), "parameters": parameters})


def _names(questions: Grid) -> list[str]:
    names = [str(name) for name in as_list("questions", questions)]
    for name in names:
        if name not in (*PLANS, "all"):
            raise ParameterError(
                f"questions={name!r} is not one{did_you_mean(name, PLANS)} "
                f"Allowed are: all, {', '.join(PLANS)}."
            )
    return [name for name in PLANS if name in names or "all" in names]


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
