"""What the lab relies on of this llama.cpp, whatever the model; it can be read without loading it.

Another llama-cpp-python may have other facts: ``tests/engine/test_facts.py`` holds these to the
one that is installed. What stands elsewhere, since it is needed above this package: the grid of
contexts and the size of a batch that nobody chose (:mod:`llm_latency.plan.spec`), the names of
load modes (:mod:`llm_latency.plan.loading`), the number formats (:mod:`llm_latency.model.gguf`).
What llama.cpp says in its log is read in :mod:`llm_latency.engine.log`.
"""

from __future__ import annotations

from typing import NamedTuple

from llm_latency.plan.settings import UBATCH, Settings, padded

REPACKED = {
    "x86_64": frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4"}),
    "aarch64": frozenset({"q4_0", "q4_k", "q5_k", "q6_k", "iq4_nl", "mxfp4", "q8_0"}),
}
"""Number formats that the CPU backend holds in an order of its own, by the CPU's architecture."""


class Sizes(NamedTuple):
    """Context and batches in force, in tokens.

    A prompt is handed over in calls of ``n_batch``, each of which is computed in passes over the
    weights of at most ``n_ubatch``.
    """

    n_ctx: int
    n_batch: int
    n_ubatch: int

    def passes(self, tokens: int) -> int:
        """Return in how many passes a prompt of that length is computed."""
        calls, rest = divmod(tokens, self.n_batch)
        return calls * -(-self.n_batch // self.n_ubatch) + -(-rest // self.n_ubatch)

    def borders(self, longest: int) -> list[int]:
        """Return the lengths below ``longest`` beyond which one pass more begins."""
        inside = (*range(self.n_ubatch, self.n_batch, self.n_ubatch), self.n_batch)
        every = {start + border for start in range(0, longest, self.n_batch) for border in inside}
        return sorted(border for border in every if border < longest)


def sizes_in_force(settings: Settings) -> Sizes:
    """Return what llama.cpp makes of the sizes that are asked for: it pads one and clamps two."""
    n_batch = min(settings.n_ctx, settings.n_batch)
    return Sizes(padded(settings.n_ctx), n_batch, min(n_batch, settings.n_ubatch or UBATCH))
