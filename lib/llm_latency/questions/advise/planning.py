"""Which settings to set: the candidates that may meet an application's needs, measured."""

from __future__ import annotations

from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import names
from llm_latency.model.names import header_of
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import plain, shown, whole
from llm_latency.plan.spec import Plan, Settings, Trial
from llm_latency.questions.advise.candidates import VARIED, candidates, worth_measuring
from llm_latency.questions.advise.needs import needs_of

ONE = (
    "n_ctx",
    "prompt_tokens",
    "max_tokens",
    "ttft_s",
    "load_s",
    "use",
    "memory",
    "keep_free",
)
"""What is needed: one value each."""


def plan(
    model: str = "synthetic:tiny",
    n_ctx: int = 2048,
    prompt_tokens: int = 512,
    max_tokens: int = 32,
    ttft_s: float = 0.0,
    load_s: float = 0.0,
    use: str = "start_up",
    memory: str = "",
    keep_free: str = "256 MiB",
    n_ubatch: Grid = (),
    flash_attn: Grid = (False, True),
    n_gpu_layers: Grid = (),
    page_cache: str = "resident",
    rounds: int = 6,
    **options: Any,
) -> Plan:
    """Plan what has to be measured to say which settings meet some needs.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    n_ctx
        Tokens of context that are needed.
    prompt_tokens, max_tokens
        Length of the prompt and of its answer.
    ttft_s
        Longest time to the first token of that prompt, in seconds; 0: no bound.
    load_s
        Longest time to load, in seconds; 0: no bound.
    use
        ``start_up``: loaded once, then answers; ``on_demand``: loaded anew for each answer,
        which then waits for loading too.
    memory
        Memory that there is, such as ``"6 GiB"``: of the GPU where there is one, else RAM;
        empty: what this machine has.
    keep_free
        What is to be left of it for others.
    n_ubatch
        Batches to try; empty: chosen by the prompt's length. One value, with one of
        ``flash_attn``, verifies these settings.
    flash_attn
        Values to try.
    n_gpu_layers
        Numbers of layers on the GPU to try; empty: as many as fit.
    page_cache
        State of the model's file when a process starts: ``resident``, as after a second start,
        ``evicted``, as after the machine's, or ``as_is``.
    rounds
        Fresh processes per candidate.
    **options
        See :data:`~llm_latency.plan.builder.OPTIONS`.
    """
    asked = Request("advise", locals(), names.check)
    one = {name: asked.one(name) for name in ONE}
    needs = needs_of({**one, "n_gpu_layers": asked.given["n_gpu_layers"]})
    tried = {name: _values(asked, name) for name in ("n_ubatch", "flash_attn", "n_gpu_layers")}
    if "n_batch" in options:
        raise ParameterError(
            f"n_batch={shown(options['n_batch'])} is refused: advise sets it to each n_ubatch that "
            "it tries; give n_ubatch."
        )
    for size in tried["n_ubatch"]:
        whole("n_ubatch", size)

    def cell(settings: Settings) -> Trial:
        return asked.cell(
            **settings.model_dump(include=set(VARIED)),
            prompt_tokens=needs.prompt_tokens,
            max_tokens=needs.max_tokens,
            repeats=0,
            page_cache=asked.one("page_cache"),
        )

    # All that is asked for is checked before the model's header is looked at.
    for layers in tried["n_gpu_layers"] or [-1]:
        for flash in tried["flash_attn"] or [False]:
            for batch in tried["n_ubatch"] or [1]:
                base = asked.cell(
                    n_ctx=needs.n_ctx,
                    n_batch=batch,
                    n_ubatch=batch,
                    flash_attn=flash,
                    n_gpu_layers=layers,
                    prompt_tokens=needs.prompt_tokens,
                    max_tokens=needs.max_tokens,
                    page_cache=asked.one("page_cache"),
                )
    asked.plan([base])  # rounds, seed, times and names: refused before a file is fetched
    found = candidates(
        header_of(asked.model),
        base.settings,
        needs,
        batches=tried["n_ubatch"],
        flash=tried["flash_attn"] or [False],
        layers=tried["n_gpu_layers"],
    )
    # Kept with the plan: a stored run is judged by the memory that there was.
    asked.given |= {"on": needs.on, "memory_there_bytes": needs.memory_bytes}
    cells = [cell(one.settings) for one in worth_measuring(found, needs)]
    return asked.plan(cells, twins=cells[:1])


def _values(asked: Request, name: str) -> list[Any]:
    """Return the values of a grid that may be empty, which leaves the choice to the lab."""
    given = plain(asked.given[name])
    return [] if given in ([], (), "", None) else asked.many(name)
