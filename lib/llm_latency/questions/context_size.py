"""Which ``n_ctx`` is enough, and what more of it costs: in memory, and per token."""

from __future__ import annotations

from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import whole
from llm_latency.plan.spec import Plan

QUESTION_TOKENS = 16
"""Tokens that are asked on top of what the context holds."""
CHAT_N_CTX = 2048
"""Least context of the process in which the turns of a conversation are counted."""
MOST_TURNS = 11
"""Turns that are counted; those beyond go on at the same rate."""


def plan(
    model: str = "synthetic:tiny",
    n_ctx: Grid = (512, 1024, 2048, 4096),
    fill: Grid = (0.0, 0.45, 0.9),
    turns: Grid = (3, 10, 30),
    answer_tokens: int = 128,
    max_tokens: int = 16,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan what each ``n_ctx`` costs, empty and filled, and how many tokens conversations need.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    n_ctx
        Tokens the context can hold.
    fill
        Shares of ``n_ctx`` that are in the KV cache before the question, from 0 to below 1.
        Shares that give two sizes the same number of tokens let these be compared there.
    turns
        Lengths of conversation to find an ``n_ctx`` for.
    answer_tokens
        Room left for the last answer of such a conversation.
    max_tokens
        Tokens to generate.
    rounds
        How often every cell is measured, each time in a fresh process.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Request("context_size", locals(), names.check)
    lengths = [whole("turns", value) for value in asked.many("turns")]
    whole("answer_tokens", asked.one("answer_tokens"))
    tokens = asked.one("max_tokens")
    if type(tokens) is int and tokens < 2:
        raise ParameterError(
            f"max_tokens={tokens} is refused: give 2 or more, since decode is what follows the "
            "first token."
        )
    common = {"repeats": 1, "page_cache": "resident"}
    cells = []
    for size in asked.many("n_ctx"):
        # Whatever is wrong with a size or with max_tokens is refused here, before it is counted.
        cold = asked.cell(
            n_ctx=size, prompt_tokens=QUESTION_TOKENS, max_tokens=tokens, length="fixed", **common
        )
        for share in asked.many("fill"):
            prefix = _prefix(share, size, tokens)
            filled = {"prompt_tokens": prefix + QUESTION_TOKENS, "prefix_tokens": prefix}
            cells.append(
                asked.cell(
                    n_ctx=size, max_tokens=tokens, cache_mode="prefix", length="fixed",
                    **filled, **common,
                )
                if prefix
                else cold
            )  # fmt: skip
    # Equal cells are measured once; the twin is a short one, and so it shows the most noise.
    short = min(
        range(len(cells)),
        key=lambda place: (cells[place].workload.prefix_tokens, -cells[place].settings.n_ctx),
    )
    chat = asked.cell(
        n_ctx=max(CHAT_N_CTX, *asked.many("n_ctx")),
        conversation="fr",
        cache_mode="kept",
        max_tokens=1,
        length="fixed",
        repeats=min(max(lengths), MOST_TURNS) - 1,
        page_cache="resident",
    )
    unique = list(dict.fromkeys(cell.cell_id for cell in cells))
    return asked.plan([*cells, chat], twins=[cells[short]])


def _prefix(share: Any, n_ctx: int, max_tokens: int) -> int:
    """Return how many tokens a share of the context is, if question and answer fit behind."""
    if type(share) not in (int, float) or not 0 <= share < 1:
        raise ParameterError(
            f"fill={share!r} is refused: give shares of n_ctx from 0 to below 1, such as 0.5."
        )
    prefix: int = round(share * n_ctx)
    room = n_ctx - prefix
    if room < QUESTION_TOKENS + max_tokens:
        raise ParameterError(
            f"fill={share!r} of n_ctx={n_ctx} leaves {room} tokens, but question and answer need "
            f"{QUESTION_TOKENS + max_tokens}; give a smaller fill, a larger n_ctx or fewer "
            "max_tokens."
        )
    return prefix
