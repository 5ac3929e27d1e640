"""Locking the model in RAM: whether answers get steadier, and what happens when memory is short."""

from __future__ import annotations

from typing import Any

from llm_latency.model import names
from llm_latency.plan import loading as ways
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.sizes import limit_bytes
from llm_latency.plan.spec import Plan, Trial


def plan(
    model: str = "synthetic:tiny",
    reading: Grid = ("mmap", "read", "mlock"),
    memory_limit: Grid = ("none", "+20 MiB"),
    prompt_tokens: int = 64,
    max_tokens: int = 32,
    n_ctx: int = 512,
    rounds: int = 6,
    repeats: int = 3,
    timeout_s: float = 60.0,
    **options: Any,
) -> Plan:
    """Plan whether locking makes answers steadier, and what happens when memory is short.

    A process without a limit starts with the model's file in RAM. One with a limit starts with
    the file put out of the page cache: pages that were there before would not count against it.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    reading
        Ways to bring the file into memory: ``mmap`` (map it), ``read`` (copy it) and ``mlock``
        (map it and lock it in RAM). They set ``use_mmap`` and ``use_mlock``.
    memory_limit
        Most memory that a process may use: ``none``, an amount such as ``64 MiB``, a share of
        the model's file such as ``110 %``, or ``+20 MiB``: so much beyond the file. What Python
        took before is not counted; the engine itself, its context and its buffers are.
    prompt_tokens
        Length of the prompt, in tokens.
    max_tokens
        Tokens to generate: exactly so many.
    n_ctx
        Tokens that the context can hold.
    rounds
        How often every cell is measured, each time in a fresh process.
    repeats
        Further generations in each process after the first.
    timeout_s
        Longest life of one process, in seconds. One that reads its weights from the disk again
        for every token may take very long: this ends it.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Request("memory_locking", locals(), names.check, ways.REPLACED)
    chosen = {way: ways.READING[way] for way in asked.chosen("reading", ways.READING)}
    named = asked.many("memory_limit")
    limits = list(
        dict.fromkeys(
            limit_bytes("memory_limit", value, lambda: names.file_bytes(asked.model))
            for value in named
        )
    )
    cells = [_cell(asked, settings, limit) for limit in limits for settings in chosen.values()]
    # The noise of equal cells is that of processes that have all the memory they want.
    most = max(range(len(limits)), key=lambda i: limits[i] or float("inf"))
    return asked.plan(cells, twins=[cells[most * len(chosen)]])


def _cell(asked: Request, settings: dict[str, bool], limit: int | None) -> Trial:
    values: dict[str, Any] = {
        name: asked.one(name) for name in ("prompt_tokens", "max_tokens", "repeats")
    }
    return asked.cell(
        page_cache="resident" if limit is None else "evicted",
        memory_limit_bytes=limit,
        **values,
        **settings,
    )
