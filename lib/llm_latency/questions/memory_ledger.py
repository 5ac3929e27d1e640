"""Where the memory is: predicted, allocated and seen, before and after the first generation."""

from __future__ import annotations

from typing import Any

from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.sizes import size_bytes
from llm_latency.plan.spec import Plan


def plan(
    model: str = "synthetic:tiny",
    n_ctx: Grid = (1024, 4096),
    n_ubatch: Grid = (128, 512),
    prompt_tokens: int = 600,
    max_tokens: int = 16,
    rounds: int = 6,
    budget: str = "",
    **options: Any,
) -> Plan:
    """Plan where the memory of each context and batch is, phase by phase.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    n_ctx, n_ubatch
        Contexts and batches computed at once; one value or a list. ``n_ubatch`` 0 is the
        engine's own.
    prompt_tokens
        Length of the prompt: at least the largest batch, or a part of the compute buffer is
        never touched.
    max_tokens
        Tokens to generate.
    rounds
        Fresh processes per cell.
    budget
        Memory that there is, such as ``"6 GiB"``: the answer says what fits; empty: not asked.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.
    """
    asked = Request("memory_ledger", locals(), names.check)
    if str(asked.given["budget"]).strip():
        size_bytes("budget", asked.given["budget"])
    cells = [
        asked.cell(
            **sizes,
            prompt_tokens=asked.one("prompt_tokens"),
            max_tokens=asked.one("max_tokens"),
            repeats=1,
            page_cache="resident",
        )
        for sizes in asked.grid("n_ctx", "n_ubatch")
    ]
    return asked.plan(cells)
