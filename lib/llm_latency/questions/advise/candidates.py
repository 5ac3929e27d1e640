"""Which settings are worth a measurement: those that may meet the needs, by the prediction.

Only what matters is varied. ``n_ctx`` is the smallest that holds what is needed, since a larger
one takes memory and gives nothing. ``n_batch`` equals ``n_ubatch``: llama.cpp computes no more
at once than the smaller, and a larger ``n_batch`` only takes memory. A batch beyond the prompt
cannot matter. On a GPU as many layers as fit: each one more makes every token sooner. Of a mixture
of experts all of them, and the experts of as few layers as it takes stay on the CPU.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_latency.memory.dry_run import Foretell
from llm_latency.model.header import Header
from llm_latency.plan.parameters import as_list, plain, whole
from llm_latency.plan.settings import Settings, padded
from llm_latency.questions.advise.needs import Needs

BATCHES = (64, 128, 256, 512, 1024, 2048)
"""Sizes of batches that are tried where none is asked for."""

VARIED = ("n_ctx", "n_batch", "n_ubatch", "flash_attn", "n_gpu_layers", "type_k", "type_v")
"""Settings that candidates differ in."""

CACHES = ("f16", "q8_0", "q5_1", "q4_0")
"""Number formats of K and V that are tried where it is said what may be lost."""

PROCESS_RESIDENT_BYTES = 68 << 20
"""What is resident beside a model (``memory_ledger`` on Linux): Python, libraries, small pieces.

Pages of libraries count here whoever else uses them; a cap counts fewer, see
:data:`~llm_latency.memory.frontier.PROCESS_CHARGED_BYTES`.
"""

CLEARLY = 1.1
"""A prediction beyond this many times the limit needs no measurement."""


@dataclass(frozen=True)
class Candidate:
    """Settings, and the memory that they are predicted to take on the side that counts."""

    settings: Settings
    predicted_bytes: int

    def as_data(self) -> dict[str, Any]:
        """Return it as a stored run keeps it."""
        return {"settings": self.settings.model_dump(), "predicted_bytes": self.predicted_bytes}

    def may_fit(self, needs: Needs) -> bool:
        """Whether it is worth trying in the memory that there is."""
        return self.predicted_bytes <= CLEARLY * needs.limit_bytes


def variants(needs: Needs, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of what is varied, by names of settings.

    Parameters
    ----------
    needs
        What the application needs.
    given
        ``n_ubatch``, ``flash_attn`` and ``n_gpu_layers`` as users write them. Where they name
        none, batches are chosen by the prompt, and all layers stand for as many as fit. A format
        of the KV cache that they name is not varied.
    """
    batches = [whole("n_ubatch", size) for size in named(given, "n_ubatch")]
    n_ctx = padded(needs.n_ctx)
    named_caches = {plain(given.get(name, "f16")) for name in ("type_k", "type_v")} != {"f16"}
    caches = CACHES if needs.quality is not None and not named_caches else ()
    return [
        {
            **{"n_ctx": n_ctx, "n_batch": size, "n_ubatch": size},
            **{"flash_attn": flash, "n_gpu_layers": layers},
            **({"type_k": cache, "type_v": cache} if cache else {}),
        }
        for size in batches or dict.fromkeys(min(n, n_ctx) for n in ladder(needs.new_tokens))
        for flash in named(given, "flash_attn") or [False]
        for layers in named(given, "n_gpu_layers") or [-1]
        for cache in (caches if flash else caches[:1]) or [None]
    ]


def named(given: Mapping[str, Any], name: str) -> list[Any]:
    """Return the values of a grid that may be empty, which leaves the choice to the lab."""
    value = plain(given[name])
    return [] if value in ([], (), "", None) else as_list(name, value)


def candidates(
    header: Header, base: Settings, needs: Needs, given: Mapping[str, Any], foretell: Foretell
) -> list[Candidate]:
    """Return every combination that could be advised, with its predicted memory.

    Parameters
    ----------
    header
        Of the model's file.
    base
        All settings that are not varied.
    needs
        What the application needs.
    given
        What is varied, see :func:`variants`.
    foretell
        What the memory is predicted by.
    """
    every = []
    for values in variants(needs, given):
        one = base.model_copy(update=values)
        if one.conflict or not header.holds_cache(one):  # left out of the plan
            continue
        if not named(given, "n_gpu_layers"):
            one = one.model_copy(update=placement(header, one, needs, foretell))
        every.append(Candidate(one, _bytes(one, needs, foretell)))
    return every


def worth_measuring(every: Sequence[Candidate], needs: Needs) -> list[Candidate]:
    """Return those that may fit; if none does, the smallest, so that its failure is evidence."""
    fitting = [one for one in every if one.may_fit(needs)]
    return fitting or [min(every, key=lambda one: one.predicted_bytes)]


def ladder(new_tokens: int) -> list[int]:
    """Return the batches to try for new tokens: up to the first that holds them all."""
    enough = next((size for size in BATCHES if size >= new_tokens), BATCHES[-1])
    return [size for size in BATCHES if size <= enough]


def placement(
    header: Header, settings: Settings, needs: Needs, foretell: Foretell
) -> dict[str, int]:
    """Return the settings that put as much of a model on the device as fits.

    Of a mixture of experts all layers go there, and the experts of as few as it takes stay on
    the CPU: a token reads few of them, and all of the rest. Else as many layers as fit. Where one
    pool of memory holds both sides, fewer there would save nothing.
    """
    if not needs.of_gpu:
        return {"n_gpu_layers": -1 if needs.unified else 0}

    def fits(**changed: int) -> bool:
        return _bytes(settings.model_copy(update=changed), needs, foretell) <= needs.limit_bytes

    if fits(n_gpu_layers=-1):
        return {"n_gpu_layers": -1}
    blocks = range(1, header.n_layer + 1)
    if header.has_experts and settings.n_cpu_moe is None:
        # What fits with the experts of so many layers on the CPU fits with those of more.
        fewest = bisect_left(blocks, True, key=lambda n: fits(n_gpu_layers=-1, n_cpu_moe=n))
        if fewest < len(blocks):
            return {"n_gpu_layers": -1, "n_cpu_moe": blocks[fewest]}
    return {"n_gpu_layers": bisect_left(blocks, True, key=lambda n: not fits(n_gpu_layers=n))}


def _bytes(settings: Settings, needs: Needs, foretell: Foretell) -> int:
    told = foretell(settings)
    if needs.of_gpu:
        return told.gpu.total_bytes
    return told.host.total_bytes + told.gpu.total_bytes + PROCESS_RESIDENT_BYTES
