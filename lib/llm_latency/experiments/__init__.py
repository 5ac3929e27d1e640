"""The questions: one function per notebook, which returns the plan that answers it.

A function takes its own parameters and those of :class:`~llm_latency.experiments.asked.Options`,
checks every one before anything is made or loaded, and returns pure data. Every grid parameter
takes one value or a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_latency.calibration import plan as calibration
from llm_latency.experiments.asked import Options
from llm_latency.experiments.notebook import plan_of
from llm_latency.experiments.sweep import sweep

EXPERIMENTS: dict[str, Callable[..., Any]] = {"sweep": sweep, "calibration": calibration}

__all__ = ["EXPERIMENTS", "Options", "calibration", "from_notebook", "sweep"]


def from_notebook(name: str, namespace: Mapping[str, Any]) -> Any:
    """Return the plan of an experiment out of a notebook's variables.

    Parameters
    ----------
    name
        Name of the experiment: the function of this module.
    namespace
        The notebook's ``globals()``.

    Raises
    ------
    ParameterError
        If papermill injected a parameter that the experiment does not take, or a value cannot
        be right.
    """
    return plan_of(name, EXPERIMENTS[name], namespace)
