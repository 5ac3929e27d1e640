"""Where the memory is: predicted, allocated and seen, before and after the first generation."""

from __future__ import annotations

from typing_extensions import Unpack

from llm_latency.memory.fits import parse_bytes
from llm_latency.plan.builder import Asked, Grid, Options
from llm_latency.plan.spec import Plan


def memory_ledger(  # type: ignore[misc]  # these have defaults of their own
    model: str = "synthetic:tiny",
    n_ctx: Grid = (1024, 4096),
    n_ubatch: Grid = (128, 512),
    prompt_tokens: int = 600,
    max_tokens: int = 16,
    rounds: int = 6,
    budget: str = "",
    **options: Unpack[Options],
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
        See :class:`~llm_latency.plan.builder.Options`.
    """
    asked = Asked("memory_ledger", locals())
    if str(asked.given["budget"]).strip():
        parse_bytes("budget", asked.given["budget"])
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
