"""What was asked for, understood and checked, becomes cells, twins and a plan.

A question takes parameters of its own and, besides, :data:`OPTIONS`: the engine's settings and how
strictly it measures. Names and defaults of the options are those of the shapes in
:mod:`llm_latency.plan.spec`; nothing declares them again. All are checked before anything is made
or loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.plan import cores, own_prompt
from llm_latency.plan.parameters import (
    as_list,
    build,
    check_room,
    check_sizes,
    grid,
    plain,
    refusal,
    run_name,
    shape,
    shown,
    unknown,
    whole,
)
from llm_latency.plan.settings import Settings
from llm_latency.plan.spec import HOME, Plan, Start, Trial
from llm_latency.plan.workload import MAX_SEED, Sampling, Workload

Grid = Any
"""One value or a list of values."""

SETTINGS = tuple(Settings.model_fields)
LEFT_TO_THE_ENGINE = tuple(n for n, field in Settings.model_fields.items() if field.default is None)
"""Settings for which users write 0 where they mean the engine's own value."""
STRICTNESS = (
    *("rounds", "seed", "timeout_s", "repeat_disturbed", "stop_when_decided", "minutes"),
    *("wait_s", "run_id"),
)
"""Fields of a plan that say how strictly, how long and under which name it is measured."""
OPTIONS: dict[str, Any] = {
    **{n: 0 if f.default is None else f.default for n, f in Settings.model_fields.items()},
    "cores": "any",
    **{n: Plan.model_fields[n].default for n in STRICTNESS},
    "run_id": "",
}
"""Parameters that every question takes besides its own, and what holds where none is given."""
SAMPLING = {n: None for n in Sampling.model_fields if n != "seed"}
"""Parameters of questions that sample; greedy where none is given. The seed is the plan's."""
TEXTS = ("prompt", "grammar", "json_schema")
"""Parameters that may be longer than a line."""


class Request:
    """The parameters of one question.

    Parameters
    ----------
    question
        Its name.
    given
        The ``locals()`` of its ``plan``: ``model``, its own parameters, and ``options``.
    check_model
        Returns a model's name in its canonical form, or refuses it.
    replaced
        Options that a parameter of the question's own stands for: name and what to give instead.
    grids
        Whether options may be lists too, since the question asks every combination of them.
    how_much
        Whether the question asks how much and not which: no verdict ends it before its rounds.
    sampled
        Whether it takes :data:`SAMPLING` too; its module then says so, for its notebook.

    Attributes
    ----------
    given : dict
        Every parameter by its name.
    model : str
        The model's name.
    """

    def __init__(
        self,
        question: str,
        given: Mapping[str, Any],
        check_model: Callable[[Any], str],
        replaced: Mapping[str, str] | None = None,
        *,
        grids: bool = False,
        how_much: bool = False,
        sampled: bool = False,
    ) -> None:
        own = {name: value for name, value in given.items() if name != "options"}
        options = dict(given.get("options", {}))
        self._replaced, self._how_much = replaced or {}, how_much
        self._options = OPTIONS | (SAMPLING if sampled else {})
        for name, value in options.items():
            if name in self._replaced:
                raise set_by_itself(question, name, value, self._replaced[name])
            if name not in self._options:
                allowed = dict.fromkeys([*own, *self._options])
                raise unknown(name, question, [n for n in allowed if n not in self._replaced])
        self.question = question
        self.given: dict[str, Any] = own | {**self._options, **options} | own
        check_sizes({name: value for name, value in self.given.items() if name not in TEXTS})
        if not grids:  # those that no cell of this question reads would not be looked at again
            shape(Settings, {name: self._setting(name) for name in options if name in SETTINGS})
        self.model = check_model(plain(self.given["model"]))

    def one(self, name: str) -> Any:
        """Return a parameter that takes one value."""
        value = plain(self.given[name])
        if isinstance(value, list | tuple | range):
            raise ParameterError(
                f"{name}={shown(value)} is refused: {self.question} takes one value of it; give "
                "one, and ask again for the others."
            )
        return value

    def many(self, name: str) -> list[Any]:
        """Return a parameter that takes one value or a list, as a list without repetitions."""
        return as_list(name, self.given[name])

    def chosen(self, name: str, allowed: Collection[str]) -> list[str]:
        """Return a parameter that takes some of a few words.

        Raises
        ------
        ParameterError
            If a value is none of them.
        """
        values = self.many(name)
        for value in values:
            if not isinstance(value, str) or value not in allowed:
                raise unknown_value(name, value, allowed)
        return values

    def own_prompt(self) -> dict[str, Any]:
        """Return the user's own prompt as a field of ``Workload``; empty where there is none."""
        if own_prompt.given(self.given["prompt_file"]):  # it is asked again from anywhere
            self.given["prompt_file"] = str(own_prompt.path_of(self.given["prompt_file"]))
        return own_prompt.understood(self.given["prompt"], self.given["prompt_file"])

    def asked(self) -> dict[str, Any]:
        """Return what is asked, as fields of ``Workload``: the user's own, or so many tokens."""
        return self.own_prompt() or {"prompt_tokens": self.one("prompt_tokens")}

    def grid(self, *names: str) -> list[dict[str, Any]]:
        """Return every combination of the values of some parameters, the last turning fastest."""
        return grid({name: self.many(name) for name in names})

    def cell(self, **values: Any) -> Trial:
        """Return one cell; what is not told of its settings is what was asked for.

        A default ``n_batch`` is no more than the context holds.

        Parameters
        ----------
        **values
            Fields of ``Settings``, ``Workload`` and ``Start``.
        """
        if values.get("prompt_tokens", 1) is None:  # it would be taken for another kind of prompt
            whole("prompt_tokens", None)
        by_default = "n_batch" not in values and plain(self.given["n_batch"]) == OPTIONS["n_batch"]
        named = {
            name: _engines_own(name, values.pop(name)) if name in values else self._setting(name)
            for name in SETTINGS
        }
        settings = shape(Settings, named)
        if by_default:
            held = min(settings.n_batch, settings.n_ctx)
            settings = settings.model_copy(update={"n_batch": held})
        start = {name: values.pop(name) for name in Start.model_fields if name in values}
        if "sampling" not in values:
            values["sampling"] = self._sampling({n: values.pop(n) for n in SAMPLING if n in values})
        if "cores" not in start:
            start["cores"] = cores.understood(self.given["cores"])
        if start.get("engine") == HOME:
            start["engine"] = None
        return build(
            Trial,
            {
                "experiment": self.question,
                "model": self.model,
                "settings": settings,
                "workload": build(Workload, values),
                "start": build(Start, start),
            },
        )

    def _sampling(self, chosen: dict[str, Any]) -> Sampling | None:
        """Return how tokens are chosen, as it was asked for; ``None``: the most likely one."""
        asked = {n: self.one(n) for n in SAMPLING if n in self._options and n not in chosen}
        given = {n: v for n, v in (asked | chosen).items() if v not in (None, "")}
        if not given:
            return None
        seed = whole("seed", self.one("seed"), -(2**63), 2**63 - 1)
        return build(Sampling, given | {"seed": seed % (MAX_SEED + 1)})

    def _setting(self, name: str) -> Any:
        return _engines_own(name, self.one(name))

    def plan(self, cells: Sequence[Trial], twins: Sequence[Trial] | None = None) -> Plan:
        """Return the plan over some cells, some of which are measured twice in each round.

        Parameters
        ----------
        cells
            In any order; equal ones are measured once. Those whose settings do not go together
            are left out.
        twins
            Cells that are measured once more: two that are equal show the noise. By default the
            last; none where it is empty.

        Raises
        ------
        ParameterError
            If nothing is left, or a prompt does not fit into its context.
        """
        conflicts = [conflict for cell in cells if (conflict := cell.settings.conflict)]
        unique = list({c.cell_id: c for c in cells if not c.settings.conflict}.values())
        if not unique:
            raise refusal(conflicts[0])
        for cell in unique:
            check_room(cell)
        if twins is None:
            twins = unique[-1:]
        elif twins:
            twins = [cell for cell in twins if not cell.settings.conflict] or unique[-1:]
        again = [cell.model_copy(update={"twin": True}) for cell in twins]
        made = build(
            Plan,
            {
                **{name: self.one(name) for name in STRICTNESS},
                "experiment": self.question,
                "model": self.model,
                "cells": (*unique, *again),
                "run_id": run_name(self.given["run_id"]),
                "parameters": {
                    name: value if name == "prompt" else plain(value)
                    for name, value in self.given.items()
                    if name not in self._replaced
                },
                "left_out": tuple(dict.fromkeys(conflict.what for conflict in conflicts)),
            },
        )
        return made.model_copy(update={"stop_when_decided": False}) if self._how_much else made


def set_by_itself(question: str, name: str, value: Any, instead: str) -> ParameterError:
    """Return the error of an option that a parameter of the question's own stands for."""
    return ParameterError(
        f"{name}={shown(value)} is refused: {question} sets it itself; give {instead}."
    )


def unknown_value(name: str, value: Any, allowed: Collection[str]) -> ParameterError:
    """Return the error of a value that is none of a few words."""
    return ParameterError(
        f"{name}={shown(value)} is refused{did_you_mean(str(value), allowed)} Give some of: "
        f"{', '.join(allowed)}."
    )


def _engines_own(name: str, value: Any) -> Any:
    """Return a setting; ``None`` where 0 leaves it to the engine."""
    return None if name in LEFT_TO_THE_ENGINE and type(value) is int and value == 0 else value
