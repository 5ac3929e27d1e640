"""llama-server's flags for what a model is loaded with, and for what else must not be in force.

The server's defaults are not llama-cpp-python's: it fits settings to the memory that is free,
keeps up to 8 GiB of old prompts in RAM, cuts caches of sliding windows short, makes checkpoints of
states, and runs a model once before anybody asks. What was measured without all that holds on a
line that switches it off, and on no other.
"""

from __future__ import annotations

from typing import Any

from llm_latency.plan.loading import load_mode
from llm_latency.plan.settings import UBATCH, Settings

PINNED: dict[str, Any] = {
    "--fit": "off",
    "--cache-ram": 0,
    "--no-cache-idle-slots": None,
    "--ctx-checkpoints": 0,
    "--no-context-shift": None,
    "--no-warmup": None,
}
"""What differs from llama-cpp-python, whatever the settings."""
FLASH_ATTN = {True: "on", False: "off", "auto": "auto"}


def flags(settings: Settings, slots: int = 1) -> list[str]:
    """Return the flags by which llama-server loads a model as llama-cpp-python would.

    Parameters
    ----------
    settings
        With its threads: where they are ``None``, the server takes its own number.
    slots
        How many requests it may answer at once; they share the context, each its equal part.
    """
    threads = settings.n_threads_batch or settings.n_threads
    values: dict[str, Any] = {
        "-c": settings.n_ctx,
        "-b": settings.n_batch,
        "-ub": settings.n_ubatch or min(settings.n_batch, UBATCH),
        **({"-t": settings.n_threads} if settings.n_threads else {}),
        **({"-tb": threads} if threads else {}),
        "-ngl": "all" if settings.n_gpu_layers < 0 else settings.n_gpu_layers,
        # A device that is seen would compute batches.
        **({"-dev": "none"} if settings.n_gpu_layers == 0 else {}),
        "-fa": FLASH_ATTN[settings.flash_attn],
        "-ctk": settings.type_k,
        "-ctv": settings.type_v,
        "-lm": load_mode(settings.use_mmap, settings.use_mlock),
        **({} if settings.offload_kqv else {"--no-kv-offload": None}),
        **({} if settings.swa_full is False else {"--swa-full": None}),
        **({"--no-op-offload": None} if settings.op_offload is False else {}),
        **({"-ncmoe": settings.n_cpu_moe} if settings.n_cpu_moe else {}),
        "-np": slots,
        **PINNED,
    }
    return [str(word) for pair in values.items() for word in pair if word is not None]
