"""The cold start: why the first reply after a start is late, and what of it is the disk."""

from __future__ import annotations

from typing import Any, get_args

from typing_extensions import Unpack

from llm_latency.errors import ParameterError, did_you_mean
from llm_latency.plan import loading as ways
from llm_latency.plan.builder import Asked, Grid, Options
from llm_latency.plan.spec import PageCache, Plan


def cold_start(  # type: ignore[misc]  # rounds has a default of its own
    model: str = "synthetic:tiny",
    reading: Grid = ("mmap", "read", "mlock"),
    page_cache: Grid = ("evicted", "resident"),
    prompt_tokens: int = 12,
    max_tokens: int = 40,
    rounds: int = 6,
    repeats: int = 1,
    **options: Unpack[Options],
) -> Plan:
    """Plan why the first reply after a start is late, and what of it is the disk.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    reading
        Ways to bring the file into memory: ``mmap`` (map it), ``read`` (copy it) and ``mlock``
        (map it and lock it in RAM). They set ``use_mmap`` and ``use_mlock``.
    page_cache
        States of the model file when a process starts: ``evicted``, ``resident``, ``as_is``.
    prompt_tokens
        Length of the prompt, in tokens; 12 is a greeting, "Bonjour, comment vas-tu ?".
    max_tokens
        Tokens to generate: exactly so many.
    rounds
        How often every start is made, each time in a fresh process.
    repeats
        Further generations in each process, to compare the first with.
    **options
        See :class:`~llm_latency.plan.builder.Options`.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Asked("cold_start", locals())
    chosen = ways.settings(asked.many("reading"), options)
    states = _states(asked.many("page_cache"))
    cells = {
        (state, way): asked.cell(
            prompt_tokens=asked.one("prompt_tokens"),
            max_tokens=asked.one("max_tokens"),
            repeats=asked.one("repeats"),
            page_cache=state,
            **settings,
        )
        for state in states
        for way, settings in chosen.items()
    }
    plan = asked.plan(list(cells.values()), twin=0)
    # Starts from the disk scatter more than starts from RAM: each state has a noise of its own.
    first = next(iter(chosen))
    twins = (cells[state, first].model_copy(update={"twin": True}) for state in states)
    return ways.own(plan.model_copy(update={"cells": (*plan.cells[:-1], *twins)}))


def _states(named: list[Any]) -> list[str]:
    every = get_args(PageCache)
    for state in named:
        if not isinstance(state, str) or state not in every:
            raise ParameterError(
                f"page_cache={state!r} is refused{did_you_mean(str(state), every)} Give some of: "
                "evicted, resident, as_is."
            )
    return named
