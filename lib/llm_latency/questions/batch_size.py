"""Which ``n_batch`` and ``n_ubatch``: how fast a long prompt is read, and in what memory."""

from __future__ import annotations

from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.spec import Plan


def plan(
    model: str = "synthetic:tiny",
    n_batch: Grid = (256, 512, 1024),
    n_ubatch: Grid = (64, 256, 512, 1024),
    prompt_tokens: int = 1024,
    max_tokens: int = 16,
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan how ``n_batch`` and ``n_ubatch`` change prefill, decode and memory.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    n_batch
        Most prompt tokens handed over in one call.
    n_ubatch
        Most tokens computed at once. One above ``n_batch`` would be cut down to it: such cells
        are not planned.
    prompt_tokens
        Length of the prompt; no batch above it can matter.
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
    asked = Request("batch_size", locals(), names.check)
    work = {
        "prompt_tokens": asked.one("prompt_tokens"),
        "max_tokens": asked.one("max_tokens"),
        "length": "fixed",
        "repeats": 0,
        "page_cache": "resident",
    }
    batches, ubatches = asked.many("n_batch"), asked.many("n_ubatch")
    for size in ubatches:
        if size is None or (type(size) is int and size == 0):
            raise ParameterError(
                f"n_ubatch={size}, the engine's own, is refused here: give sizes to compare, such "
                "as n_ubatch=[128, 512]."
            )
    # Each size by itself first: what is wrong with one is refused before any are compared.
    for size in batches:
        asked.cell(n_batch=size, n_ubatch=1, **work)
    for size in ubatches:
        asked.cell(n_batch=1, n_ubatch=size, **work)
    need, room = work["prompt_tokens"] + work["max_tokens"], asked.one("n_ctx")
    if need > room:
        raise ParameterError(
            f"prompt_tokens={work['prompt_tokens']} and max_tokens={work['max_tokens']} need "
            f"{need} tokens of context, n_ctx={room}; raise n_ctx, or shorten the prompt."
        )
    pairs = [(batch, ubatch) for batch in batches for ubatch in ubatches if ubatch <= batch]
    if not pairs:
        raise ParameterError(
            f"n_ubatch={ubatches!r}: none is within n_batch={batches!r}, and llama.cpp would cut "
            f"each down to it; give an n_ubatch of {max(batches)} or less."
        )
    return asked.plan([asked.cell(n_batch=a, n_ubatch=b, **work) for a, b in pairs])
