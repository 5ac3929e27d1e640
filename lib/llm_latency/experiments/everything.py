"""Everything: all of the questions in one go, each a run of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from llm_latency.errors import LabError, ParameterError, did_you_mean
from llm_latency.parameters import as_list, build, plain
from llm_latency.spec import Frozen, Plan
from llm_latency.store import project_dir

PRESETS = ("quick", "standard", "rigorous")


class Everything(Frozen):
    """The plans of several questions."""

    experiment: str = "everything"
    run_id: str = Field(pattern=r"^[\w][\w.\-]{0,60}$", description="Head of the runs' names")
    plans: tuple[Plan, ...]
    parameters: dict[str, Any] = Field(default_factory=dict)


def plan_everything(
    questions: dict[str, Callable[..., Plan]], wanted: Any, preset: str, run_id: str, **given: Any
) -> Everything:
    """Return the plans of the wanted questions at a preset.

    With ``quick`` each question has its own default grid, otherwise that of ``params/<name>.yaml``;
    the model and how strictly it is measured come from ``params/<preset>.yaml``.

    Parameters
    ----------
    questions
        All there are, by name.
    wanted
        The names of those to ask; empty: all.
    preset
        One of ``quick``, ``standard`` and ``rigorous``.
    run_id
        Head of the runs' names; empty makes one.
    **given
        Parameters for every question; empty text is left to the preset.
    """
    if preset not in PRESETS:
        raise ParameterError(
            f"preset={preset!r} is not one{did_you_mean(str(preset), PRESETS)} "
            f"Give one of {', '.join(PRESETS)}."
        )
    names = [str(name) for name in as_list("questions", wanted)] if wanted else list(questions)
    for name in names:
        if name not in questions:
            raise ParameterError(
                f"questions={name!r} is not one{did_you_mean(name, questions)} "
                f"Allowed are: {', '.join(questions)}."
            )
    head = str(run_id).strip() or time.strftime("everything-%Y%m%d-%H%M%S")
    values = {key: value for key, value in given.items() if plain(value) not in ("", None)}
    plans = []
    for name in names:
        own = {} if preset == "quick" else _read(f"{name}.yaml")
        asked = own | _read(f"{preset}.yaml") | values
        plans.append(questions[name](**asked, run_id=f"{head}-{name}"))
    parameters = {"preset": preset, "questions": names, "run_id": head, **given}
    return build(Everything, {"run_id": head, "plans": tuple(plans), "parameters": parameters})


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
