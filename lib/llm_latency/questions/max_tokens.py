"""``max_tokens``: what it costs, and whether a formula predicts latency from it."""

from __future__ import annotations

from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import Plan

FEWEST_FITTED = 2
"""A line needs two lengths."""


def plan(
    model: str = "synthetic:tiny",
    max_tokens: Grid = (8, 16, 25, 50, 75, 100, 150),
    held_out: Grid = (25, 75, 150),
    length: Grid = ("fixed", "natural"),
    prompt_tokens: int = 12,
    rounds: int = 6,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan what ``max_tokens`` costs, and how well latency is predicted from it.

    A line is fitted to some lengths and tested on the others, which it has not seen.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    max_tokens
        Tokens to ask for.
    held_out
        Those of ``max_tokens`` that the fit does not see; at least two must remain.
    length
        ``fixed`` generates exactly as many as asked, ``natural`` stops at end-of-generation.
    prompt_tokens
        Length of the prompt, in tokens.
    rounds
        How often every cell is measured, each time in a fresh process.
    repeats
        Further generations in each process after the first.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Request("max_tokens", locals(), names.check)
    cells = [
        asked.cell(
            prompt_tokens=asked.one("prompt_tokens"),
            max_tokens=tokens,
            length=length,
            repeats=asked.one("repeats"),
            page_cache="resident",
        )
        for length in asked.many("length")
        for tokens in asked.many("max_tokens")
    ]
    lengths = sorted({cell.workload.max_tokens for cell in cells})
    _check_held_out(asked.many("held_out"), lengths)
    _check_room(cells[0].workload.prompt_tokens or 0, lengths[-1], cells[0].settings.n_ctx)
    return asked.plan(cells)


def _check_held_out(held_out: list[object], lengths: list[int]) -> None:
    for value in held_out:
        if type(value) is not int or value not in lengths:
            raise ParameterError(
                f"held_out={value!r} is refused: give lengths that are among max_tokens={lengths}."
            )
    if len(lengths) - len(held_out) < FEWEST_FITTED:
        raise ParameterError(
            f"held_out={held_out} is refused: of max_tokens={lengths} at least {FEWEST_FITTED} "
            "must remain for the fit; hold out fewer, or give max_tokens more lengths."
        )


def _check_room(prompt: int, longest: int, n_ctx: int) -> None:
    if prompt + longest > n_ctx:
        raise ParameterError(
            f"n_ctx={n_ctx} is refused: prompt_tokens={prompt} and max_tokens={longest} need "
            f"{prompt + longest}; give n_ctx={-(-(prompt + longest) // 256) * 256} or more."
        )
