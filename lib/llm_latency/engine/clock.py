"""One run of the clock: prefill, first token, every later token, on one clock.

Two phases make an answer. *Prefill* evaluates the prompt in batches: many tokens per pass over
the weights, bound by arithmetic. *Decode* evaluates one token per pass: every weight is read
once per token, bound by memory bandwidth. The first token comes at the end of prefill; TTFT is
prefill plus one sampling.

What would make a figure false, and what is done about it here:

- On a GPU ``llama_decode`` returns before the work is done: every stamp follows a
  ``llama_synchronize``.
- Between two tokens Python does nothing but take the time. The cyclic garbage collector runs
  between generations, not inside them: a sampler's memory is freed only by it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

from llm_latency.engine.chat import Chat
from llm_latency.engine.llama import Counters, Model
from llm_latency.errors import EngineError
from llm_latency.plan.workload import Sampling, Via
from llm_latency.records.generation import Timings


class Answer:
    """One run of the clock; see the picture in :mod:`llm_latency.records.generation`.

    The kinds differ in the way through llama-cpp-python. Each does all that is not the model's
    work before ``t0_s`` or after ``end_s``.
    """

    t1_s: float | None = None
    template_s: float | None = None
    text: str | None = None

    def __init__(
        self,
        model: Model,
        prompt: list[int],
        limit: int,
        prefix: int,
        *,
        natural: bool,
        sampling: Sampling | None = None,
        chat: Chat | None = None,
    ) -> None:
        self.limit, self.natural, self.sampling, self.chat = limit, natural, sampling, chat
        self.tokens: list[int] = []
        self.stamps_s: list[float] = []
        self.stopped = False
        self.refilled = model.kv_cache.prime(prompt[:prefix])
        self.cached = model.kv_cache.length()
        model.choose_by(sampling)
        gc.collect()
        gc.disable()
        try:
            model.reset_counters()
            self.clock(model, prompt, prefix)
            last = model.counters()
        finally:
            gc.enable()
        # A prompt of one token is counted among the single ones.
        alone = len(prompt) - prefix == 1
        self.evaluated = last.prompt_tokens
        self.engine_prefill_s = self.first.engine_s if alone else last.prompt_s
        self.engine_s = last.engine_s
        self.singles = last.singles - alone

    def clock(self, model: Model, prompt: list[int], prefix: int) -> None:
        """Set ``t0_s``, ``end_s``, ``first``, the tokens and their stamps."""
        raise NotImplementedError

    def goes_on(self, model: Model, token: int, stamp: float) -> bool:
        """Take a token that came, unless it ends the answer; return whether another is to come."""
        if self.natural and model.is_end(token):
            self.stopped = True
            return False
        self.tokens.append(token)
        self.stamps_s.append(stamp)
        return len(self.tokens) < self.limit

    @property
    def generated(self) -> int:
        """How many tokens came."""
        return len(self.tokens)

    def timings(self, *, tokenize_s: float, detokenize_s: float) -> Timings:
        """Return the stamps as durations in seconds."""
        first_s = self.stamps_s[0] if self.stamps_s else self.end_s
        last_s = self.stamps_s[-1] if self.stamps_s else self.end_s
        before = [self.t0_s, *self.stamps_s]
        return Timings(
            ttft_s=first_s - self.t0_s,
            prefill_s=None if self.t1_s is None else self.t1_s - self.t0_s,
            decode_s=last_s - first_s,
            total_s=self.end_s - self.t0_s,
            itl_s=[b - a for a, b in zip(before, self.stamps_s, strict=False)],
            engine_prefill_s=self.engine_prefill_s,
            engine_decode_s=self.engine_s - self.engine_prefill_s,
            template_s=self.template_s,
            sampling_s=self.sampling_s,
            tokenize_s=tokenize_s,
            detokenize_s=detokenize_s,
        )

    t0_s: float
    end_s: float
    sampling_s: float
    first: Counters


class EngineAnswer(Answer):
    """llama.cpp's calls alone: the least that stands between the user and the engine."""

    def clock(self, model: Model, prompt: list[int], prefix: int) -> None:
        """Prefill, wait, then one token after another."""
        clock, goes_on = time.perf_counter, self.goes_on
        sample, evaluate_one, wait = model.sample, model.evaluate_one, model.wait
        batches = model.batches(prompt[prefix:])
        self.t0_s = clock()
        for batch in batches:
            model.evaluate(batch)
        wait()
        self.t1_s = clock()
        self.first = model.counters()
        chosen_s = clock()
        token = sample()
        stamp = clock()
        spent_s = stamp - chosen_s
        while goes_on(model, token, stamp):
            evaluate_one(token)
            wait()
            chosen_s = clock()
            token = sample()
            stamp = clock()
            spent_s += stamp - chosen_s
        self.end_s, self.sampling_s = stamp, spent_s
        # The last token was sampled and not evaluated, unless it ended the answer.
        model.kv_cache.note([*prompt, *(self.tokens if self.stopped else self.tokens[:-1])])


class GenerateAnswer(Answer):
    """``Llama.generate``, token by token."""

    def clock(self, model: Model, prompt: list[int], prefix: int) -> None:
        """Take what the generator yields; it would go on for ever."""
        clock = time.perf_counter
        self.t0_s = clock()
        with model.sampling_clocked() as spent:
            for token in model.generate_tokens(prompt, self.sampling):
                stamp = clock()
                if not self.tokens:
                    self.first = model.counters()
                if not self.goes_on(model, token, stamp):
                    break
        self.end_s, self.sampling_s = stamp, spent.seconds


class StreamAnswer(Answer):
    """A streamed completion as an application sees it: chunks of text, which are not tokens."""

    def clock(self, model: Model, prompt: list[int], prefix: int) -> None:
        """Stamp every chunk that carries text; the last chunk says why it ended."""
        parts: list[str] = []
        stamps, clock = self.stamps_s, time.perf_counter
        self.t0_s = clock()
        with model.sampling_clocked() as spent:
            for chunk in self.chunks(model, prompt):
                stamp = clock()
                if not parts:
                    self.first = model.counters()
                choice = chunk["choices"][0]
                text = self.text_of(choice)
                if text:
                    stamps.append(stamp)
                parts.append(text)
                self.stopped = choice["finish_reason"] == "stop"
        self.end_s, self.sampling_s = clock(), spent.seconds
        self.text = "".join(parts)

    def chunks(self, model: Model, prompt: list[int]) -> Iterator[dict[str, Any]]:
        """Return what llama-cpp-python streams."""
        return model.stream(prompt, self.limit, self.sampling)

    def text_of(self, choice: dict[str, Any]) -> str:
        """Return the text that a chunk carries."""
        return str(choice["text"])

    @property
    def generated(self) -> int:
        """Tokens by llama.cpp's count: all but the first were evaluated one by one.

        One that ends the answer is none of it.
        """
        return self.singles + (not self.stopped)


class ChatAnswer(StreamAnswer):
    """A streamed chat as an application asks it: the template and its tokens are on the clock."""

    def chunks(self, model: Model, prompt: list[int]) -> Iterator[dict[str, Any]]:
        """Return what llama-cpp-python streams, once its template has written the prompt."""
        if self.chat is None:
            raise EngineError("via='chat' asks messages; give text, or another way")
        chunks = model.chat(self.chat, self.limit, self.sampling)
        self.template_s = time.perf_counter() - self.t0_s
        return chunks

    def text_of(self, choice: dict[str, Any]) -> str:
        """Return the text that a chunk carries; the first carries a role."""
        return str(choice["delta"].get("content") or "")


WAYS: dict[Via, type[Answer]] = {
    "engine": EngineAnswer,
    "generate": GenerateAnswer,
    "stream": StreamAnswer,
    "chat": ChatAnswer,
}
