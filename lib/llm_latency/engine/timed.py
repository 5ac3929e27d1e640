"""One answer of a loaded model, timed, with the counts that prove what was evaluated.

llama.cpp keeps the tokens of the answer before; the same prompt again would evaluate none of
them. Before each generation the KV cache is brought into the state that was asked for, empty or
holding a named part of the prompt, and llama.cpp's own count of evaluated tokens must agree,
else the generation says which proof failed. The clock itself is in :mod:`llm_latency.engine.clock`.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from llm_latency.engine import library
from llm_latency.engine.answering import Answering, Asked
from llm_latency.engine.chat import Chat
from llm_latency.engine.clock import WAYS
from llm_latency.engine.llama import Model
from llm_latency.errors import EngineError, ParameterError
from llm_latency.plan.parameters import build
from llm_latency.plan.settings import BLOCKWISE, Settings
from llm_latency.records import proof
from llm_latency.records.generation import Generation


class TimedModel(Model, Answering):
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

    pid: int | None = None
    """The process that holds the model, where it is another than this one."""

    @property
    def system_info(self) -> str:
        """What llama.cpp says of the CPU features that it was compiled for and found."""
        return library.system_info()

    def answer(self, asked: Asked) -> Generation:
        """Answer on the clock, from the KV cache that was asked for."""
        prompt, chat = asked.prompt, asked.chat
        if asked.via == "chat" and chat is None and isinstance(prompt, str):
            chat = Chat([{"role": "user", "content": prompt}])
            prompt = self.chat_tokens(chat)
        start_s = time.perf_counter()
        tokens = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        tokenize_s = time.perf_counter() - start_s if isinstance(prompt, str) else 0.0
        self._check_room(len(tokens), asked.max_tokens, asked.prefix_tokens)
        answer = WAYS[asked.via](
            self,
            tokens,
            asked.max_tokens,
            asked.prefix_tokens,
            natural=asked.natural,
            sampling=asked.sampling,
            chat=chat,
        )
        start_s = time.perf_counter()
        text = answer.text
        if text is None:
            text = self.detokenize(answer.tokens, after=tokens)
        detokenize_s = time.perf_counter() - start_s
        return Generation(
            repeat=asked.repeat,
            prompt_tokens=len(tokens),
            prompt_words=len(self.detokenize(tokens, after=[]).split()),
            evaluated_tokens=answer.evaluated,
            cached_tokens=len(tokens) - answer.evaluated,
            refilled_tokens=answer.refilled,
            generated_tokens=answer.generated,
            finish_reason="stop" if answer.stopped else "length",
            timings=answer.timings(tokenize_s=tokenize_s, detokenize_s=detokenize_s),
            text=text,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
            problem=proof.problem(
                prompt=len(tokens),
                prefix=asked.prefix_tokens,
                cached=answer.cached,
                evaluated=answer.evaluated,
                asked=asked.exactly,
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


def load(model: str | Path, **settings: Any) -> TimedModel:
    """Load one model by hand, in this process.

    Parameters
    ----------
    model
        A path, ``synthetic:tiny``, ``package:<name>`` or ``hf:owner/repo/file.gguf@revision``.
    **settings
        llama-cpp-python's names, see :class:`~llm_latency.plan.settings.Settings`.

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
    from llm_latency.model import kinds, names  # here: a measured process is given a path
    from llm_latency.model.header import read_header

    wanted = build(Settings, settings)
    path = names.resolve(str(model), progress=True)
    if not path.is_file():
        raise ParameterError(f"model={str(model)!r} is not a file; give the path of a GGUF file")
    kinds.check(path)
    if {wanted.type_k, wanted.type_v} & BLOCKWISE:
        read_header(path).check_cache(wanted)
    return TimedModel(path, wanted)
