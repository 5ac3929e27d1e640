"""From a notebook's variables to the plan that answers its question, and back to its parameters.

papermill only warns of a parameter that a notebook does not know, and measures with the default
instead. Here a name that papermill injected and the question does not take stops the notebook.

A notebook's parameters cell is written from the question's ``plan`` and the options that every
question takes, so that a new setting is declared once:
``python -m llm_latency.questions.notebook notebooks/*.ipynb`` writes them anew.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_latency import questions
from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.plan.builder import (
    LEFT_TO_THE_ENGINE,
    OPTIONS,
    SAMPLING,
    STRICTNESS,
    set_by_itself,
)
from llm_latency.plan.parameters import plain, shown
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import Plan, Start
from llm_latency.plan.workload import Sampling, Workload
from llm_latency.records.folders import outputs_dir
from llm_latency.records.store import RunStore, holds_run

SHAPES = (Settings, Workload, Start, Plan, Sampling)
"""Where a parameter that a question does not describe itself is described."""
MODEL = "a GGUF file's path, synthetic:<shape>, package:<name>, or hf:owner/repo/file.gguf"


def defaults(plan: Callable[..., Any]) -> dict[str, Any]:
    """Return every parameter that a question's plan takes, with its default."""
    signature = inspect.signature(plan).parameters.values()
    own = {p.name: p.default for p in signature if p.kind is not p.VAR_KEYWORD}
    takes_options = any(p.kind is p.VAR_KEYWORD for p in signature)
    if not takes_options:
        return own
    sampled = getattr(sys.modules[plan.__module__], "SAMPLED", False)
    options = (SAMPLING if sampled else {}) | OPTIONS
    return {name: value for name, value in options.items() if name not in _replaced(plan)} | own


def _replaced(plan: Callable[..., Any]) -> Mapping[str, str]:
    """Return the options that a parameter of the question's own stands for, and which."""
    replaced: Mapping[str, str] = getattr(sys.modules[plan.__module__], "REPLACED", {})
    return replaced


def from_notebook(name: str, namespace: Mapping[str, Any]) -> Any:
    """Return the plan of a question out of a notebook's variables.

    Where a stored run is named and nothing else is asked, its plan is returned: it is gone on
    with, or drawn where it is complete.

    Parameters
    ----------
    name
        The question.
    namespace
        The notebook's ``globals()``.

    Raises
    ------
    ParameterError
        If papermill injected a parameter that the question does not take, or a value cannot be
        right.
    """
    make = questions.module(name).plan
    allowed = defaults(make)
    for injected in injected_names(namespace.get("In", [])):
        if instead := _replaced(make).get(injected):
            raise set_by_itself(name, injected, namespace.get(injected), instead)
        if injected not in allowed:
            raise ParameterError(
                f"{injected}={shown(namespace.get(injected))}: the notebook {name} has no "
                f"parameter {injected!r}{did_you_mean(injected, allowed)} Allowed are: "
                f"{', '.join(allowed)}."
            )
    given = {key: namespace[key] for key in allowed if key in namespace}
    plan = make(**given)
    differs = {key for key in given if plain(given[key]) != plain(allowed[key])}
    if differs <= {"run_id", "wait_s"}:
        return stored(plan) or plan
    if isinstance(plan, Plan):
        stored(plan)  # refuses the run of another question
    return plan


def stored(plan: Any) -> Any:
    """Return the plan that is stored under a plan's run_id; ``None`` where there is none.

    Raises
    ------
    ParameterError
        If that run is of another question.
    """
    if plans := getattr(plan, "plans", None):  # of everything: those of its questions
        known = tuple(one for one in map(stored, plans) if one is not None)
        return plan.model_copy(update={"plans": known}) if known else None
    if not isinstance(plan, Plan):
        return None
    folder = outputs_dir() / "runs" / str(plan.run_id or "")
    if not plan.run_id or not holds_run(folder):
        return None
    begun = RunStore(folder).plan
    if begun.experiment != plan.experiment:
        raise ParameterError(
            f"run_id={plan.run_id!r} is a run of {begun.experiment}; open it with the notebook "
            f"{begun.experiment}, or give a new run_id."
        )
    # The run goes on under the name of its folder, whatever made that name.
    return begun.model_copy(update={"run_id": plan.run_id, "wait_s": plan.wait_s})


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


def parameters_cell(name: str) -> str:
    """Return the source of a question's parameters cell: in groups, a line per parameter."""
    plan = questions.module(name).plan
    own = inspect.signature(plan).parameters
    values = defaults(plan)
    groups = {
        "# The question": [n for n in own if n in values and n not in OPTIONS],
        "# How the next token is chosen: the most likely one where all of these are None": [
            n for n in values if n in SAMPLING and n not in own
        ],
        "# The engine": [n for n in values if n in (*Settings.model_fields, "cores")],
        "# How strictly": [n for n in values if n in STRICTNESS],
    }
    told = {n for names in groups.values() for n in names}
    groups["# The question"] += [n for n in values if n not in told]
    blocks = []
    for head, names in groups.items():
        if names:
            blocks.append("\n".join([head, *(_line(plan, n, values[n]) for n in names)]))
    return "\n\n".join(blocks)


def _line(plan: Callable[..., Any], name: str, value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    kind = "object" if value is None else type(value).__name__
    if isinstance(value, list):
        first = (value or [OPTIONS.get(name, "")])[0]
        kind = f"list[{type(first).__name__}]"
    written = repr(value).replace("'", '"')
    return f"{name}: {kind} = {written}  # {description(plan, name)}"


def description(plan: Callable[..., Any], name: str) -> str:
    """Return what a parameter is, in a few words: the question's own, or those of the shapes."""
    hint = typing.get_type_hints(plan, include_extras=True).get(name)
    for text in getattr(hint, "__metadata__", ()):
        if isinstance(text, str):
            return text
    if name == "model":
        return MODEL
    for shape in SHAPES:
        if (field := shape.model_fields.get(name)) is not None and field.description:
            text = field.description[0].lower() + field.description[1:]
            return text.replace("None:", "0:") if name in LEFT_TO_THE_ENGINE else text
    raise KeyError(f"{name} of {plan.__module__} is not described; annotate it there")


def main(paths: list[str]) -> None:
    """Write the parameters cells of notebooks anew."""
    import nbformat  # here, because it takes a second to import, which every notebook would wait

    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = parameters_cell(path.stem)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(sys.argv[1:])
