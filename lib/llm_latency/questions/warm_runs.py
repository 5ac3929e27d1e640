"""Warm runs: whether the later answers of a process come sooner than its first, and why."""

from __future__ import annotations

from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import Plan

MODES = ("cold", "kept")
"""Every prompt token evaluated every time; or the KV cache kept from one run to the next."""


def plan(
    model: str = "synthetic:tiny",
    prompt_tokens: Grid = (12, 200),
    max_tokens: int = 40,
    n_ctx: int = 512,
    page_cache: str = "resident",
    rounds: int = 6,
    repeats: int = 10,
    **options: Any,
) -> Plan:
    """Plan whether a warm run is faster than the first, and how much of that is the prompt cache.

    The same prompt is answered again and again in one process: once with an empty KV cache each
    time (``cold``), so that all its tokens are evaluated every time, and once with the cache as
    the answer before left it (``kept``), so that the same prompt again is found there.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    prompt_tokens
        Lengths of the prompt, in tokens.
    max_tokens
        Tokens to generate: exactly so many.
    n_ctx
        Tokens that the context can hold.
    page_cache
        State of the model file when a process starts: ``resident``, ``evicted`` or ``as_is``.
    rounds
        How often every cell is measured, each time in a fresh process.
    repeats
        Warm runs in each process, after the first generation.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Request("warm_runs", locals(), names.check)
    again = asked.one("repeats")
    if type(again) is not int or again < 1:
        raise ParameterError(
            f"repeats={again!r} is refused: give 1 or more, for a first generation alone has no "
            "warm run to compare it with."
        )
    cells = [
        asked.cell(
            prompt_tokens=tokens,
            max_tokens=asked.one("max_tokens"),
            cache_mode=mode,
            repeats=again,
            page_cache=asked.one("page_cache"),
        )
        for tokens in asked.many("prompt_tokens")
        for mode in MODES
    ]
    # The first cell, of all that is evaluated the shortest, shows the most relative noise.
    return asked.plan(cells, twins=cells[:1])
