"""One generation: what was asked and answered, when, and what a KV cache loses.

One generation on one clock (``time.perf_counter``), every stamp taken after
``llama_synchronize``, since on a GPU llama.cpp returns before the work is done::

    t0 ------------ t1 --------- t2 ---- ... ---- tN
       prefill_s       sample       itl_s[1:]
    '------ ttft_s -------------'
    '------------------ total_s ------------------'

``decode_s`` is ``tN - t2``: N - 1 tokens, each one evaluation and one sampling.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from llm_latency.base import Part

ChatForm = Literal["template", "plain"]
Lost = Literal["rewritten", "thinking", "tokens", "beginning"]
LOST: dict[Lost, str] = {
    "rewritten": "the template writes what was said before otherwise",
    "thinking": "the template leaves out what the model thought before",
    "tokens": "the answer's text is read as other tokens than it was written in",
    "beginning": "the prompt begins otherwise",
}
"""Why a chat does not go on from all that the KV cache holds."""


class Timings(Part):
    """One generation on one clock; see the picture at the head of this module."""

    ttft_s: float
    prefill_s: float | None = Field(description="None where the way through hides its end")
    decode_s: float
    total_s: float
    itl_s: list[float] = Field(
        description="Time to each token (streamed: chunk) since the one before; [0] is TTFT"
    )
    engine_prefill_s: float | None = Field(
        description="llama.cpp's own count of prompt evaluation; None: a server that tells none"
    )
    engine_decode_s: float | None = Field(
        description="llama.cpp's own count of token evaluation; of a server, of its whole loop"
    )
    template_s: float | None = Field(
        None, description="Writing a chat by its template, and text to tokens: a part of ttft_s"
    )
    sampling_s: float | None = Field(
        None, description="Choosing the tokens, evaluation over: a part of ttft_s and decode_s"
    )
    tokenize_s: float = Field(0.0, description="Text to tokens, before t0; 0 for given tokens")
    detokenize_s: float = Field(0.0, description="Tokens to text, after the last token")

    @property
    def binding_overhead_s(self) -> float | None:
        """What the user waits beyond llama.cpp's evaluation: sampling, binding, text and back."""
        visible_s = self.tokenize_s + self.total_s + self.detokenize_s
        return None if self.engine_s is None else visible_s - self.engine_s

    @property
    def engine_s(self) -> float | None:
        """All evaluation by llama.cpp's own count."""
        if self.engine_prefill_s is None or self.engine_decode_s is None:
            return None
        return self.engine_prefill_s + self.engine_decode_s


class Generation(Part):
    """One answer of the model, timed, with the counts that prove what was evaluated."""

    repeat: int = Field(0, description="0 is the first generation after load")
    prompt_tokens: int
    prompt_words: int | None = Field(None, description="Words of the prompt, set apart by spaces")
    chat_form: ChatForm | None = Field(
        None, description="How a chat was written: by the model's template, or as of every model"
    )
    evaluated_tokens: int | None = Field(
        description="Prompt tokens that llama.cpp says it evaluated; None: a server tells nothing"
    )
    unproven: str | None = Field(
        None, description="What a server that was already there does not prove; None: nothing"
    )
    template_tokens: int | None = Field(
        None, description="Of the prompt, what a chat's template added to its messages"
    )
    cached_tokens: int | None = Field(
        None, description="Prompt tokens found in the KV cache; None: not told when measured"
    )
    held_tokens: int | None = Field(
        None, description="What it held of the chat before, to be found again"
    )
    lost: Lost | None = Field(None, description="Why not all of it was found, see LOST")
    refilled_tokens: int = Field(
        0,
        description="Evaluated anew before the clock, of a state that cannot be cut: an "
        "application would have waited for them",
    )
    depth_tokens: int | None = Field(
        None, description="Tokens that a walk had brought into the context before this prompt's own"
    )
    generated_tokens: int
    together_tps: float | None = Field(
        None,
        description="Tokens per second of all requests at once; all else is of the last served",
    )
    finish_reason: Literal["length", "stop"]
    timings: Timings
    text: str = Field("", exclude=True, description="The answer; not stored")
    text_sha256: str | None = Field(None, description="By which equal answers are known")
    problem: str | None = Field(None, description="Which proof failed, if one did")
    cpu_other_fraction: float | None = Field(
        None, description="Share of its CPUs' time that others took during this generation"
    )
    cpu_steal_fraction: float | None = Field(None, description="Share the hypervisor took")
    throttled_periods: int | None = Field(
        None, description="Periods in which a CPU quota held it back; None: there is no quota"
    )
    throttled_s: float | None = Field(None, description="For how long, all CPUs together")

    @property
    def sampling_token_s(self) -> float:
        """Seconds that choosing one token took; NaN where the way through hides it."""
        chosen = self.generated_tokens + (self.finish_reason == "stop")
        seconds = self.timings.sampling_s
        return seconds / chosen if seconds is not None and chosen else math.nan

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens evaluated per second of prefill, by our clock if it can see its end."""
        if self.evaluated_tokens is None:
            return math.nan
        seconds = self.timings.prefill_s or self.timings.engine_prefill_s
        return self.evaluated_tokens / seconds if seconds else math.nan

    @property
    def decode_tps(self) -> float:
        """Tokens per second after the first; NaN where there was only one."""
        decoded = self.generated_tokens - 1
        seconds = self.timings.decode_s
        return decoded / seconds if decoded > 0 and seconds > 0 else math.nan


class Quality(Part):
    """What a KV cache loses against one in another format, by blocks of the tokens, in order.

    The same tokens went through two contexts of the same model. A block's figures are means over
    its tokens; blocks are the sample, since neighbouring tokens share what was said before.
    """

    block_tokens: int = Field(description="Tokens in each block; a rest is left out")
    divergence: list[float] = Field(
        description="Kullback-Leibler divergence of what is predicted next, in nats"
    )
    same_token: list[float] = Field(description="Share of tokens with the same most likely next")
    probability_change: list[float] = Field(
        description="By how much the probability of that token changes, whichever way"
    )
    reference_kv_bytes: int | None = Field(None, description="The other cache, held beside it")
    problem: str | None = Field(None, description="Which proof failed, if one did")
