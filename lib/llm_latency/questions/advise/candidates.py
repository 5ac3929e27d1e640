"""Which settings are worth a measurement: those that may meet the needs, by the prediction.

Only what matters is varied. ``n_ctx`` is the smallest that holds what is needed, since a larger
one takes memory and gives nothing. ``n_batch`` equals ``n_ubatch``: llama.cpp computes no more
at once than the smaller, and a larger ``n_batch`` only takes memory. A batch beyond the prompt
cannot matter. On a GPU as many layers as fit: each one more makes every token sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_latency.memory.predict import Prediction, predict
from llm_latency.model.header import Header
from llm_latency.plan.spec import Settings, padded
from llm_latency.questions.advise.needs import Needs

BATCHES = (64, 128, 256, 512, 1024, 2048)
"""Sizes of batches that are tried where none is asked for."""

VARIED = ("n_ctx", "n_batch", "n_ubatch", "flash_attn", "n_gpu_layers")
"""Settings that candidates differ in."""

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

    def may_fit(self, needs: Needs) -> bool:
        """Whether it is worth trying in the memory that there is."""
        return self.predicted_bytes <= CLEARLY * needs.limit_bytes


def candidates(
    header: Header,
    base: Settings,
    needs: Needs,
    *,
    batches: Sequence[int] = (),
    flash: Sequence[bool] = (False, True),
    layers: Sequence[int] = (),
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
    batches, layers
        Values of ``n_ubatch`` and ``n_gpu_layers``; where empty, chosen by the prompt and by
        the memory that there is.
    flash
        Values of ``flash_attn``.
    """
    n_ctx = padded(needs.n_ctx)
    found = []
    for ubatch in batches or ladder(needs.prompt_tokens):
        for flash_attn in flash:
            sizes = {"n_ctx": n_ctx, "n_batch": ubatch, "n_ubatch": ubatch}
            settings = base.model_copy(update={**sizes, "flash_attn": flash_attn})
            for count in layers or [most_layers(header, settings, needs)]:
                one = settings.model_copy(update={"n_gpu_layers": count})
                found.append(Candidate(one, _bytes(header, one, needs)))
    return found


def worth_measuring(found: Sequence[Candidate], needs: Needs) -> list[Candidate]:
    """Return those that may fit; if none does, the smallest, so that its failure is evidence."""
    fitting = [one for one in found if one.may_fit(needs)]
    return fitting or [min(found, key=lambda one: one.predicted_bytes)]


def ladder(prompt_tokens: int) -> list[int]:
    """Return the batches to try for a prompt: up to the first that holds it whole."""
    enough = next((size for size in BATCHES if size >= prompt_tokens), BATCHES[-1])
    return [size for size in BATCHES if size <= enough]


def most_layers(header: Header, settings: Settings, needs: Needs) -> int:
    """Return how many layers fit on the GPU, -1 for all; 0 where the memory is the CPU's."""
    if needs.on == "cpu":
        return 0
    for count in range(header.n_layer + 1, 0, -1):
        one = settings.model_copy(update={"n_gpu_layers": count})
        if predict(header, one, gpu=True).gpu.total_bytes <= needs.limit_bytes:
            return -1 if count == header.n_layer + 1 else count
    return 0


def _bytes(header: Header, settings: Settings, needs: Needs) -> int:
    made: Prediction = predict(header, settings, gpu=needs.on == "gpu")
    if needs.on == "gpu":
        return made.gpu.total_bytes
    return made.host.total_bytes + PROCESS_RESIDENT_BYTES
