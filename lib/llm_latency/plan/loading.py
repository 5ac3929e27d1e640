"""Ways to bring a model's file into memory: their names, and llama-cpp-python's settings for them.

``mmap`` maps the file: its pages are the page cache's own, and the system may take them away.
``read`` copies it into memory of the process. ``mlock`` maps it and asks the system to keep it in
RAM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.plan.spec import Plan

WAYS: dict[str, dict[str, bool]] = {
    "mmap": {"use_mmap": True, "use_mlock": False},
    "read": {"use_mmap": False, "use_mlock": False},
    "mlock": {"use_mmap": True, "use_mlock": True},
}
"""By name: the settings that make it."""


def settings(names: Sequence[Any], options: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """Return the settings of the named ways.

    Parameters
    ----------
    names
        Values of the parameter ``reading``.
    options
        The experiment's other parameters, among which ``use_mmap`` and ``use_mlock`` would
        contradict the names.

    Raises
    ------
    ParameterError
        If a name is unknown, or the settings themselves are given too.
    """
    for setting in WAYS["mmap"]:
        if setting in options:
            raise ParameterError(
                f"{setting}={options[setting]!r} is refused: this question measures several ways "
                f"of reading; give reading, some of: {', '.join(WAYS)}."
            )
    for name in names:
        if not isinstance(name, str) or name not in WAYS:
            raise ParameterError(
                f"reading={name!r} is refused{did_you_mean(str(name), WAYS)} Give some of: "
                f"{', '.join(WAYS)}."
            )
    return {name: WAYS[name] for name in names}


def own(plan: Plan) -> Plan:
    """Return a plan whose parameters name the ways alone, not the settings that they replace."""
    kept = {key: value for key, value in plan.parameters.items() if key not in WAYS["mmap"]}
    return plan.model_copy(update={"parameters": kept})


def name_of(use_mmap: Any, use_mlock: Any) -> str:
    """Return the name of the way that two settings make."""
    if use_mlock:
        return "mlock" if use_mmap else "read and lock"
    return "mmap" if use_mmap else "read"


def names(frame: pd.DataFrame) -> pd.Series:
    """Return the way of each row of a run's frame."""
    if not {"use_mmap", "use_mlock"} <= set(frame):
        return pd.Series("", index=frame.index, dtype=object)
    pairs = zip(frame["use_mmap"], frame["use_mlock"], strict=True)
    return pd.Series([name_of(*pair) for pair in pairs], index=frame.index, dtype=object)


def ranked(found: Sequence[str]) -> list[str]:
    """Return names of ways, each once, in the order of :data:`WAYS`."""
    order = list(WAYS)
    return sorted(set(found), key=lambda name: (order.index(name) if name in order else 9, name))
