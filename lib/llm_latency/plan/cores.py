"""The cores that a process may use, as users write them and as readers see them."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.plan.parameters import as_list, plain, shown
from llm_latency.plan.spec import CoreKind, Cores, Start
from llm_latency.words import cpu_list

KINDS = ("any", *get_args(CoreKind))
"""Cores by their kind, in words."""


def understood(value: Any) -> Cores | None:
    """Return one choice of cores; ``None``: any.

    Raises
    ------
    ParameterError
        If it is neither a kind nor a list of CPUs.
    """
    value = plain(value)
    if value in ("any", "", None):
        return None
    if isinstance(value, str) and value in KINDS:
        return value  # type: ignore[return-value]
    if isinstance(value, list):
        with contextlib.suppress(TypeError, ValueError):
            return Start(cores=tuple(sorted(as_list("cores", value)))).cores
    near = did_you_mean(value, KINDS) if isinstance(value, str) else "."
    raise ParameterError(
        f"cores={shown(value)} is refused{near} Give one of {', '.join(KINDS)}, or a list of "
        "logical CPUs, such as [0, 2]."
    )


def choices(value: Any) -> list[Cores | None]:
    """Return several choices of cores; a list of numbers alone is one of them."""
    value = plain(value)
    several = isinstance(value, list) and any(type(one) is not int for one in value)
    return list(dict.fromkeys(map(understood, as_list("cores", value) if several else [value])))


def in_words(cores: Cores | None) -> str:
    """Return a choice of cores as one word: ``any``, ``physical``, ``0,2``."""
    if cores is None or isinstance(cores, str):
        return cores or "any"
    return cpu_list(cores)
