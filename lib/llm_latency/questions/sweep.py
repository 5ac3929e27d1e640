"""The sweep: which ``n_ctx`` and ``n_batch`` answer soonest, and what memory they take."""

from __future__ import annotations

from llm_latency.model import names
from llm_latency.plan.builder import Grid, Request
from llm_latency.plan.parameters import closed
from llm_latency.plan.spec import Plan, Settings


@closed("sweep")
def plan(
    model: str = "synthetic:tiny",
    n_ctx: Grid = (512, 1024, 2048),
    n_batch: Grid = (128, 256, 512),
    n_ubatch: Grid = 0,
    n_gpu_layers: Grid = -1,
    n_threads: Grid = 0,
    n_threads_batch: Grid = 0,
    use_mmap: Grid = True,
    use_mlock: Grid = False,
    flash_attn: Grid = False,
    offload_kqv: Grid = True,
    type_k: Grid = "f16",
    type_v: Grid = "f16",
    prompt_tokens: Grid = (64, 192, 448),
    max_tokens: int = 32,
    length: str = "fixed",
    prefix_tokens: int = 0,
    via: Grid = "engine",
    page_cache: Grid = "resident",
    warm_up: Grid = "none",
    rounds: int = 2,
    repeats: int = 1,
    seed: int = 0,
    timeout_s: float = 900.0,
    repeat_disturbed: bool = False,
    wait_s: float = 0.0,
    run_id: str = "",
) -> Plan:
    """Plan which ``n_ctx`` and ``n_batch`` answer soonest, and what memory they take.

    Parameters
    ----------
    model
        A path, ``synthetic:<shape>`` or ``hf:owner/repo/file.gguf@revision``.
    n_ctx, n_batch, n_ubatch, n_gpu_layers, n_threads, n_threads_batch
        llama-cpp-python's settings; 0 for ``n_ubatch`` and the threads is the engine's own
        (512 at most) and the CPUs that this process may use.
    use_mmap, use_mlock, flash_attn, offload_kqv, type_k, type_v
        llama-cpp-python's settings.
    prompt_tokens
        Prompt lengths, in tokens; every cell is measured with each.
    max_tokens
        Tokens to generate: exactly so many, or at most with ``length="natural"``.
    length
        ``fixed``, or ``natural`` to stop at end-of-generation.
    prefix_tokens
        Prompt tokens that are in the KV cache when the clock starts; 0: every token is evaluated.
    via
        Way through llama-cpp-python: ``engine``, ``generate`` or ``stream``.
    page_cache
        State of the model file when a process starts: ``resident``, ``evicted`` or ``as_is``.
    warm_up
        What is run after loading and before the first generation: ``none``, ``tokens`` (two),
        ``batch`` (a full one) or, with ``prefix_tokens``, ``system_prompt``,
        ``restored_state`` or ``python_state``.
    rounds
        How often every cell is measured, each time in a fresh process.
    repeats
        Further generations in each process after the first.
    seed
        Of the shuffled order.
    timeout_s
        Longest life of one trial's process, in seconds.
    repeat_disturbed
        Measure trials again, at the end, during which the machine was disturbed.
    wait_s
        How long to wait for another run that measures on this machine, in seconds; 0 refuses
        at once.
    run_id
        A new name, or that of a run to go on with; empty makes a name.

    Raises
    ------
    ParameterError
        One sentence that names the parameter, its value, and what to do.
    """
    asked = Request("sweep", locals(), names.check)
    prefix = asked.one("prefix_tokens")
    cells = [
        asked.cell(
            prompt_tokens=tokens,
            max_tokens=asked.one("max_tokens"),
            length=asked.one("length"),
            cache_mode="prefix" if prefix else "cold",
            prefix_tokens=prefix,
            via=way,
            repeats=asked.one("repeats"),
            **settings,
            **start,
        )
        for settings in asked.grid(*Settings.model_fields)
        for tokens in asked.many("prompt_tokens")
        for way in asked.many("via")
        for start in asked.grid("page_cache", "warm_up")
    ]
    return asked.plan(cells)
