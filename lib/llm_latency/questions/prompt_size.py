"""Prompt size: what a longer prompt costs, from one word to thousands of tokens."""

from __future__ import annotations

from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import MAX_INT32, Plan, Settings

PADDING = 256
"""llama.cpp rounds a context up to a multiple of this."""


def plan(
    model: str = "synthetic:tiny",
    prompt_tokens: Grid = (2, 16, 64, 128, 256, 512, 520, 768, 1024, 1536, 2048),
    max_tokens: int = 16,
    n_ctx: int = 0,
    rounds: int = 6,
    repeats: int = 1,
    **options: Any,
) -> Plan:
    """Plan what a longer prompt costs, with the same number of tokens generated after each.

    All lengths are measured in the same context, that of the longest. Of two lengths close to
    each other, one at a multiple of ``n_ubatch`` and one a few tokens beyond, the answer tells
    what it costs to begin another batch.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    prompt_tokens
        Lengths of the prompt, in tokens; 2 are the beginning token and one word.
    max_tokens
        Tokens to generate: exactly so many.
    n_ctx
        Tokens that the context can hold; 0: as many as the longest prompt needs.
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
    asked = Request("prompt_size", locals(), names.check)
    answer = asked.one("max_tokens")

    def cell(tokens: Any, context: int) -> Any:
        return asked.cell(
            prompt_tokens=tokens,
            max_tokens=answer,
            repeats=asked.one("repeats"),
            page_cache="resident",
            n_ctx=context,
        )

    # Every length is checked before they are added up, compared and put in order.
    lengths = sorted(cell(t, PADDING).workload.prompt_tokens for t in asked.many("prompt_tokens"))
    n_batch = cell(lengths[0], PADDING).settings.n_batch
    context = _context(asked.one("n_ctx"), lengths[-1], answer, n_batch)
    cells = [cell(tokens, context) for tokens in lengths]
    return asked.plan(cells, twins=[cells[_finest(lengths, cells[0].settings)]])


def _context(given: Any, longest: int, answer: int, n_batch: int) -> Any:
    needed = longest + answer
    # llama.cpp limits n_batch to the context.
    enough = -(-max(needed, n_batch) // PADDING) * PADDING
    if enough > MAX_INT32:
        raise ParameterError(
            f"prompt_tokens={longest}, max_tokens={answer} and n_batch={n_batch} are refused: a "
            f"context that holds them would be larger than {MAX_INT32:,} tokens; give fewer."
        )
    if type(given) is not int or given < 0:
        return given  # refused by the settings, with what is allowed
    if given == 0:
        return enough
    if given < needed:
        raise ParameterError(
            f"n_ctx={given} is refused: the longest prompt, prompt_tokens={longest}, "
            f"and max_tokens={answer} need {needed}; give n_ctx={enough}, or 0 for just enough."
        )
    return given


def _finest(lengths: list[int], settings: Settings) -> int:
    """Return the place of the length just above a batch's edge, else the last.

    The smallest difference that is asked for lies there, so there the noise must be known.
    """
    size = min(settings.n_batch, settings.n_ubatch or 512)
    above = (i for i, n in enumerate(lengths) if n > size and 0 < n % size <= size // 16)
    return next(above, -1)
