"""What an experiment was asked for: its parameters, understood and checked, become a plan.

Every experiment takes its own parameters and, besides, those of :class:`Options`: the engine's
settings, and how strictly it measures. All are checked before anything is made or loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from llm_latency.errors import ParameterError
from llm_latency.model import names as models
from llm_latency.plan.parameters import (
    as_list,
    build,
    check_room,
    check_sizes,
    grid,
    plain,
    run_name,
    shown,
    unknown,
    whole,
)
from llm_latency.plan.spec import Plan, Settings, Start, Trial, Workload

Grid = Any
"""One value or a list of values."""


class Options(TypedDict, total=False):
    """Parameters that every experiment takes besides its own.

    The engine's settings have llama-cpp-python's names; 0 for ``n_ubatch`` and the threads is
    the engine's own (512 at most) and the CPUs that this process may use. ``rounds``: how often
    every cell is measured, each time in a fresh process. ``seed``: of the shuffled order.
    ``timeout_s``: longest life of one process. ``repeat_disturbed``: measure trials again, at
    the end, during which the machine was busy. ``wait_s``: how long to wait for another run that
    measures on this machine; 0 refuses at once. ``run_id``: a new name, or that of a stored run:
    it is gone on with, or drawn where it is complete; empty makes a name.
    """

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int
    n_threads: int
    n_threads_batch: int
    use_mmap: bool
    use_mlock: bool
    flash_attn: bool
    offload_kqv: bool
    type_k: str
    type_v: str
    rounds: int
    seed: int
    timeout_s: float
    repeat_disturbed: bool
    wait_s: float
    run_id: str


DEFAULTS: Options = {
    "n_ctx": 2048,
    "n_batch": 512,
    "n_ubatch": 0,
    "n_gpu_layers": -1,
    "n_threads": 0,
    "n_threads_batch": 0,
    "use_mmap": True,
    "use_mlock": False,
    "flash_attn": False,
    "offload_kqv": True,
    "type_k": "f16",
    "type_v": "f16",
    "rounds": 2,
    "seed": 0,
    "timeout_s": 900.0,
    "repeat_disturbed": False,
    "wait_s": 0.0,
    "run_id": "",
}
"""What holds where an experiment is not told otherwise."""

SETTINGS = tuple(Settings.model_fields)
LEFT_TO_THE_ENGINE = ("n_ubatch", "n_threads", "n_threads_batch")
"""Settings for which 0 means the engine's own value."""


class Asked:
    """The parameters of one experiment.

    Parameters
    ----------
    experiment
        Its name.
    given
        Its ``locals()``: ``model``, its own parameters, and ``options``.
    """

    def __init__(self, experiment: str, given: Mapping[str, Any]) -> None:
        own = {name: value for name, value in given.items() if name != "options"}
        options = dict(given.get("options", {}))
        for name in options:
            if name not in DEFAULTS:
                raise unknown(name, experiment, dict.fromkeys([*own, *DEFAULTS]))
        self.experiment = experiment
        self.given: dict[str, Any] = own | {**DEFAULTS, **options} | own
        named = self.given["model"]
        check_sizes(self.given)
        # Those that no cell of this experiment reads would not be looked at again.
        build(Settings, {name: self._setting(name) for name in options if name in SETTINGS})
        self.model = models.check(os.fspath(named) if isinstance(named, os.PathLike) else named)

    def one(self, name: str) -> Any:
        """Return a parameter that takes one value."""
        value = plain(self.given[name])
        if isinstance(value, list | tuple | range):
            raise ParameterError(
                f"{name}={shown(value)} is refused: {self.experiment} takes one value of it; give "
                "one, and ask again for the others."
            )
        return value

    def many(self, name: str) -> list[Any]:
        """Return a parameter that takes one value or a list, as a list without repetitions."""
        return as_list(name, self.given[name])

    def grid(self, *names: str) -> list[dict[str, Any]]:
        """Return every combination of the values of some parameters, the last turning fastest."""
        return grid({name: self.many(name) for name in names})

    def cell(self, **values: Any) -> Trial:
        """Return one cell; what is not told of its settings is what was asked for.

        Parameters
        ----------
        **values
            Fields of ``Settings``, ``Workload`` and ``Start``.
        """
        if values.get("prompt_tokens", 1) is None:  # it would be taken for another kind of prompt
            whole("prompt_tokens", None)
        settings = {
            name: _left(name, values.pop(name)) if name in values else self._setting(name)
            for name in SETTINGS
        }
        start = {name: values.pop(name) for name in Start.model_fields if name in values}
        return build(
            Trial,
            {
                "experiment": self.experiment,
                "model": self.model,
                "settings": build(Settings, settings),
                "workload": build(Workload, values),
                "start": build(Start, start),
            },
        )

    def _setting(self, name: str) -> Any:
        return _left(name, self.one(name))

    def plan(self, cells: Sequence[Trial], twin: int = -1) -> Plan:
        """Return the plan over some cells, one of which is measured twice in each round.

        Parameters
        ----------
        cells
            In any order; equal ones are measured once.
        twin
            Place of the cell that is measured once more: two that are equal show the noise.
        """
        unique = list({cell.cell_id: cell for cell in cells}.values())
        for cell in unique:
            check_room(cell)
        again = unique[twin].model_copy(update={"twin": True})
        return build(
            Plan,
            {
                "experiment": self.experiment,
                "model": self.model,
                "cells": (*unique, again),
                "rounds": self.one("rounds"),
                "seed": self.one("seed"),
                "timeout_s": self.one("timeout_s"),
                "repeat_disturbed": self.one("repeat_disturbed"),
                "wait_s": self.one("wait_s"),
                "run_id": run_name(self.given["run_id"]),
                "parameters": {name: plain(value) for name, value in self.given.items()},
            },
        )


def _left(name: str, value: Any) -> Any:
    """Return a setting; ``None`` where 0 leaves it to the engine."""
    return None if name in LEFT_TO_THE_ENGINE and type(value) is int and value == 0 else value
