"""Is a rich context faster? A chat, turn by turn, against short prompts."""

from __future__ import annotations

from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import whole
from llm_latency.plan.spec import Plan

MOST_TURNS = 10_000
"""Turns that one process may be asked for."""


def plan(
    model: str = "synthetic:tiny",
    conversation: Grid = ("fr", "en"),
    turns: int = 10,
    short_tokens: int = 20,
    max_tokens: int = 24,
    n_ctx: int = 4096,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan the chats that ship with the lab, turn by turn, and as many short prompts.

    Each chat is measured with the prompt cache, as an application keeps it, and without; the
    short prompts always without.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    conversation
        Languages of the chats: ``fr``, ``en``.
    turns
        Turns of each chat, and short prompts, in one process.
    short_tokens
        Length of a short prompt: about that of a single message.
    max_tokens
        Tokens to generate in each turn.
    n_ctx
        Tokens the context can hold: all turns must fit.
    rounds
        How often every cell is measured, each time in a fresh process.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Request("conversation", locals(), names.check)
    count = asked.one("turns")
    if type(count) is not int or not 2 <= count <= MOST_TURNS:
        raise ParameterError(
            f"turns={count!r} is refused: give a whole number from 2 up, so that a later turn can "
            f"be compared with the first, and {MOST_TURNS:,} at most."
        )
    tokens = asked.one("max_tokens")
    if type(tokens) is int and tokens < 2:
        raise ParameterError(
            f"max_tokens={tokens} is refused: give 2 or more, since decode is what follows the "
            "first token."
        )
    short_tokens = whole("short_tokens", asked.one("short_tokens"))
    common = {
        "max_tokens": tokens,
        "length": "fixed",
        "repeats": count - 1,
        "page_cache": "resident",
    }
    # The twin is the first: a chat, whose turns show how much equal turns differ.
    cells = [
        asked.cell(conversation=language, cache_mode=mode, **common)
        for language in asked.many("conversation")
        for mode in ("kept", "cold")
    ]
    short = asked.cell(prompt_tokens=short_tokens, cache_mode="cold", **common)
    if (need := short_tokens + short.workload.max_tokens) > short.settings.n_ctx:
        raise ParameterError(
            f"short_tokens={short_tokens} is refused: with max_tokens={tokens} it needs {need} "
            f"tokens of context, n_ctx={short.settings.n_ctx}; give a shorter prompt."
        )
    return asked.plan([*cells, short], twins=cells[:1])
