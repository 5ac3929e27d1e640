"""One answer, timed: prefill, first token, every later token, on one clock.

Two phases make an answer. *Prefill* evaluates the prompt in batches: many tokens per pass over
the weights, bound by arithmetic. *Decode* evaluates one token per pass: every weight is read
once per token, bound by memory bandwidth. The first token comes at the end of prefill; TTFT is
prefill plus one sampling.

What would make a figure false, and what is done about it here:

- On a GPU ``llama_decode`` returns before the work is done: every stamp follows a
  ``llama_synchronize``.
- llama.cpp keeps the tokens of the answer before; the same prompt again would evaluate none of
  them. The KV cache is emptied before each generation, and llama.cpp's own count of evaluated
  tokens must equal the prompt's length, else the generation says which proof failed.
- Between two tokens Python does nothing but take the time. The cyclic garbage collector runs
  between generations, not inside them: a sampler's memory is freed only by it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llm_latency import prompts, proof
from llm_latency.engine import Counters, EngineError, Model
from llm_latency.errors import ParameterError
from llm_latency.record import Generation, Timings
from llm_latency.spec import Settings, Via, WarmUp, build


class TimedModel(Model):
    """A loaded model whose answers are timed.

    Attributes
    ----------
    load : LoadTimings
        Where the loading time went, the warm-up included, in seconds.
    effective : Effective
        The settings in force.
    buffers : Buffers
        What llama.cpp says it allocated, in bytes.
    """

    def passage(self, n_tokens: int) -> list[int]:
        """Return exactly ``n_tokens`` tokens: the passage that ships with the lab, repeated."""
        tokens = self.tokenize(prompts.passage())
        # The beginning token stands once, at the head.
        body = tokens[1:] if tokens[0] == self.beginning else tokens
        while len(tokens) < n_tokens:
            tokens += body
        return tokens[:n_tokens]

    def warm_up(self, kind: WarmUp) -> None:
        """Run what ``Start.warm_up`` names, and forget it again; its time goes to the load.

        ``tokens``: a one-word prompt and two tokens. ``batch``: one full batch and one token.
        """
        if kind == "none":
            return
        start_s = time.perf_counter()
        if kind == "tokens":
            self.generate("Bonjour", max_tokens=2, length="fixed")
        else:
            batch = min(self.effective.n_batch, self.effective.n_ctx - 1)
            self.generate(self.passage(batch), max_tokens=1, length="fixed")
        spent_s = time.perf_counter() - start_s
        self.load = self.load.model_copy(
            update={"warm_up_s": spent_s, "load_s": self.load.load_s + spent_s}
        )

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 64,
        *,
        length: Literal["fixed", "natural"] = "natural",
        prefix_tokens: int = 0,
        via: Via = "engine",
        repeat: int = 0,
    ) -> Generation:
        """Answer a prompt with the most likely tokens, and time it.

        Parameters
        ----------
        prompt
            Text, or the tokens themselves.
        max_tokens
            Most tokens to generate; with ``length="fixed"`` exactly so many.
        length
            ``natural`` stops at end-of-generation, ``fixed`` ignores it (a streamed completion
            cannot: it fails its proof where the model ends early).
        prefix_tokens
            How many tokens of the prompt are in the KV cache when the clock starts; 0: every
            prompt token is evaluated anew.
        via
            The way through llama-cpp-python, see :class:`~llm_latency.spec.Workload`.
        repeat
            Number of this generation in its process.

        Returns
        -------
        Generation
            With ``.timings`` in seconds, ``.text``, and ``.problem`` if a proof failed.

        Raises
        ------
        EngineError
            If prompt and answer do not fit the context, or llama.cpp fails to evaluate.
        """
        start_s = time.perf_counter()
        tokens = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        tokenize_s = time.perf_counter() - start_s if isinstance(prompt, str) else 0.0
        self._check_room(len(tokens), max_tokens, prefix_tokens)
        answer = WAYS[via](self, tokens, max_tokens, prefix_tokens, natural=length == "natural")
        start_s = time.perf_counter()
        text = answer.text
        if text is None:
            text = self.detokenize(answer.tokens, after=tokens)
        detokenize_s = time.perf_counter() - start_s
        return Generation(
            repeat=repeat,
            prompt_tokens=len(tokens),
            evaluated_tokens=answer.evaluated,
            generated_tokens=answer.generated,
            finish_reason="stop" if answer.stopped else "length",
            timings=answer.timings(tokenize_s=tokenize_s, detokenize_s=detokenize_s),
            text=text,
            problem=proof.problem(
                prompt=len(tokens),
                prefix=prefix_tokens,
                cached=answer.cached,
                evaluated=answer.evaluated,
                asked=max_tokens if length == "fixed" else None,
                generated=answer.generated,
            ),
        )

    def _check_room(self, prompt: int, max_tokens: int, prefix: int) -> None:
        if not prompt:
            raise EngineError("the prompt has no token; give at least one word")
        if not 0 <= prefix < prompt:
            raise EngineError(
                f"prefix_tokens={prefix} leaves nothing to evaluate of a prompt of {prompt} "
                "tokens; give fewer"
            )
        room = self.effective.n_ctx
        if prompt + max_tokens > room:
            raise EngineError(
                f"prompt of {prompt} tokens and max_tokens={max_tokens} need "
                f"{prompt + max_tokens} tokens of context, n_ctx in force is {room}; "
                "raise n_ctx, or shorten the prompt or the answer"
            )


class Answer:
    """One run of the clock; see the picture in :mod:`llm_latency.record`.

    The kinds differ in the way through llama-cpp-python. Each does all that is not the model's
    work before ``t0_s`` or after ``end_s``.
    """

    t1_s: float | None = None
    text: str | None = None

    def __init__(
        self, model: Model, prompt: list[int], limit: int, prefix: int, *, natural: bool
    ) -> None:
        self.tokens: list[int] = []
        self.stamps_s: list[float] = []
        self.stopped = False
        model.hold(prompt[:prefix])
        self.cached = model.cached()
        gc.collect()
        gc.disable()
        try:
            model.reset_counters()
            self.clock(model, prompt, limit, prefix, natural)
            last = model.counters()
        finally:
            gc.enable()
        # A prompt of one token is counted among the single ones.
        alone = len(prompt) - prefix == 1
        self.evaluated = last.prompt_tokens
        self.engine_prefill_s = self.first.engine_s if alone else last.prompt_s
        self.engine_s = last.engine_s
        self.singles = last.singles - alone

    def clock(
        self, model: Model, prompt: list[int], limit: int, prefix: int, natural: bool
    ) -> None:
        """Set ``t0_s``, ``end_s``, ``first``, the tokens and their stamps."""
        raise NotImplementedError

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
            tokenize_s=tokenize_s,
            detokenize_s=detokenize_s,
        )

    t0_s: float
    end_s: float
    first: Counters


class EngineAnswer(Answer):
    """llama.cpp's calls alone: the least that stands between the user and the engine."""

    def clock(
        self, model: Model, prompt: list[int], limit: int, prefix: int, natural: bool
    ) -> None:
        """Prefill, wait, then one token after another."""
        tokens, stamps, clock = self.tokens, self.stamps_s, time.perf_counter
        sample, evaluate_one = model.sample, model.evaluate_one
        batches = model.batches(prompt[prefix:])
        self.t0_s = clock()
        for batch in batches:
            model.evaluate(batch)
        model.wait()
        self.t1_s = clock()
        self.first = model.counters()
        token = sample()
        stamp = clock()
        while True:
            if natural and model.is_end(token):
                self.stopped = True
                break
            tokens.append(token)
            stamps.append(stamp)
            if len(tokens) == limit:
                break
            evaluate_one(token)
            token = sample()  # waits
            stamp = clock()
        self.end_s = stamp


class GenerateAnswer(Answer):
    """``Llama.generate``, token by token."""

    def clock(
        self, model: Model, prompt: list[int], limit: int, prefix: int, natural: bool
    ) -> None:
        """Take what the generator yields; it would go on for ever."""
        tokens, stamps, clock = self.tokens, self.stamps_s, time.perf_counter
        self.t0_s = clock()
        for token in model.generate_tokens(prompt):
            stamp = clock()
            if not tokens:
                self.first = model.counters()
            if natural and model.is_end(token):
                self.stopped = True
                break
            tokens.append(token)
            stamps.append(stamp)
            if len(tokens) == limit:
                break
        self.end_s = stamp


class StreamAnswer(Answer):
    """A streamed completion as an application sees it: chunks of text, which are not tokens."""

    def clock(
        self, model: Model, prompt: list[int], limit: int, prefix: int, natural: bool
    ) -> None:
        """Stamp every chunk that carries text; the last chunk says why it ended."""
        parts: list[str] = []
        stamps, clock = self.stamps_s, time.perf_counter
        self.t0_s = clock()
        for chunk in model.stream(prompt, limit):
            stamp = clock()
            if not parts:
                self.first = model.counters()
            choice = chunk["choices"][0]
            if choice["text"]:
                stamps.append(stamp)
            parts.append(choice["text"])
            self.stopped = choice["finish_reason"] == "stop"
        self.end_s = clock()
        self.text = "".join(parts)

    @property
    def generated(self) -> int:
        """Tokens by llama.cpp's count: all but the first were evaluated one by one."""
        return self.singles + 1


WAYS: dict[Via, type[Answer]] = {
    "engine": EngineAnswer,
    "generate": GenerateAnswer,
    "stream": StreamAnswer,
}


def load(model: str | Path, **settings: Any) -> TimedModel:
    """Load one model by hand, in this process.

    Parameters
    ----------
    model
        A path, ``synthetic:tiny`` or ``hf:owner/repo/file.gguf@revision``.
    **settings
        llama-cpp-python's names, see :class:`~llm_latency.spec.Settings`.

    Raises
    ------
    ParameterError
        If a setting or the model's name is wrong: before anything is loaded.
    EngineError
        If llama.cpp refuses; with its own reason.

    Examples
    --------
    >>> with load("synthetic:tiny", n_ctx=1024) as model:  # doctest: +SKIP
    ...     model.generate("Bonjour", max_tokens=50).timings.ttft_s
    """
    from llm_latency import models  # here, because a measured process is given a path

    wanted = build(Settings, settings)
    path = models.resolve(str(model), progress=True)
    if not path.is_file():
        raise ParameterError(f"model={str(model)!r} is not a file; give the path of a GGUF file")
    return TimedModel(path, wanted)
