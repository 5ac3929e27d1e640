"""A model in this process: loaded by llama.cpp, and the calls that evaluate it.

How it is loaded is in :mod:`llm_latency.engine.loading`, the clock of a generation in
:mod:`llm_latency.engine.clock`, and what the context holds in :mod:`llm_latency.engine.kv_cache`.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from llm_latency.engine import loading
from llm_latency.engine import sampling as chains
from llm_latency.engine.chat import Chat
from llm_latency.engine.kv_cache import KvCache
from llm_latency.engine.library import C, logging_to
from llm_latency.engine.log import LlamaLog
from llm_latency.engine.vocabulary import Vocabulary
from llm_latency.errors import EngineError
from llm_latency.model.gguf import FORMATS
from llm_latency.plan.settings import KvType, Settings
from llm_latency.plan.workload import Sampling


class Counters(NamedTuple):
    """What llama.cpp counted: tokens and seconds, of prompts and of single tokens.

    llama.cpp counts a batch of one token as generation, and never answers less than one: after
    a prompt of one token both counts are one.
    """

    prompt_tokens: int
    single_tokens: int
    prompt_s: float
    single_s: float

    @property
    def singles(self) -> int:
        """Tokens evaluated one by one, none being none."""
        return self.single_tokens if self.single_s > 0 else 0

    @property
    def engine_s(self) -> float:
        """All seconds of evaluation."""
        return self.prompt_s + self.single_s


ModelT = TypeVar("ModelT", bound="Model")


class Model(Vocabulary):
    """A model that is loaded, with the time stamps, sizes and settings that proved it.

    Attributes
    ----------
    load : LoadTimings
        Where the loading time went, in seconds.
    effective : Effective
        The settings in force.
    buffers : Buffers
        What llama.cpp says it allocated, in bytes.
    log : LlamaLog
        llama.cpp's log of this model.
    kv_cache : KvCache
        What its context holds.
    devices_before : dict
        The memory of devices before it was loaded; none where it is kept from them.
    """

    def __init__(self, path: Path, settings: Settings, stream: TextIO | None = None) -> None:
        self.log = LlamaLog(stream)
        llama, self.load, self.devices_before = loading.load(path, settings, self.log)
        super().__init__(llama)
        self._ctx = self._llama.ctx
        self.kv_cache = KvCache(self._llama, self.log)
        self._sampler = C.llama_sampler_init_greedy()
        self._chain: Any = None
        self._one = (C.llama_token * 1)()
        self._step = C.llama_batch_get_one(self._one, 1)
        self.effective = loading.in_force(
            self.log,
            settings,
            n_ctx=C.llama_n_ctx(self._ctx),
            n_batch=C.llama_n_batch(self._ctx),
            n_ubatch=C.llama_n_ubatch(self._ctx),
            n_threads=C.llama_n_threads(self._ctx),
            n_threads_batch=C.llama_n_threads_batch(self._ctx),
            # No word of llama.cpp tells it: this is what it was handed.
            op_offload=bool(self._llama.context_params.op_offload),
            n_cpu_moe=self.log.experts_on_cpu(),
            all_layers=C.llama_model_n_layer(self._llama._model.model) + 1,
        )
        self.buffers = self.log.buffers()

    def __enter__(self: ModelT) -> ModelT:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and its context."""
        if self._sampler is not None:
            C.llama_sampler_free(self._sampler)
            self._sampler = self._chain = None
            self._llama.close()

    @property
    def context(self) -> Any:
        """Its context, as llama.cpp's calls take it."""
        return self._ctx

    @contextlib.contextmanager
    def another_context(self, kv_type: KvType, n_batch: int, log: LlamaLog) -> Iterator[Any]:
        """Yield a second context of the model, whose KV cache is in another format."""
        asked = C.llama_context_params.from_buffer_copy(self._llama.context_params)
        asked.type_k = asked.type_v = FORMATS[kv_type].number
        asked.n_batch = asked.n_ubatch = n_batch
        asked.flash_attn_type = int(bool(self.effective.flash_attn))  # not chosen anew
        with logging_to(log):
            context = C.llama_init_from_model(self._llama._model.model, asked)
        with logging_to(self.log):
            if not context:
                raise EngineError(log.reason("no context"), out_of_memory=log.out_of_memory())
        try:
            yield context
        finally:
            C.llama_free(context)

    def reset_counters(self) -> None:
        """Set llama.cpp's counters to zero, when all that was begun is done."""
        C.llama_perf_context_reset(self._ctx)
        C.llama_synchronize(self._ctx)

    def batches(self, tokens: list[int]) -> list[Any]:
        """Return the tokens as llama.cpp's batches of at most ``n_batch``, ready to evaluate."""
        # The batches point into this array: it must live as long as they do.
        self._prompt = (C.llama_token * len(tokens))(*tokens)
        size = self.effective.n_batch
        return [
            C.llama_batch_get_one(
                ctypes.cast(ctypes.byref(self._prompt, 4 * at), C.llama_token_p),
                min(size, len(tokens) - at),
            )
            for at in range(0, len(tokens), size)
        ]

    def evaluate(self, batch: Any, context: Any = None) -> None:
        """Begin to evaluate a batch; on a GPU this returns before the work is done."""
        answer = C.llama_decode(context or self._ctx, batch)
        if answer:
            raise EngineError(
                f"llama_decode returned {answer}: {self.log.reason('no reason in its log')}",
                out_of_memory=self.log.out_of_memory(),
            )

    def evaluate_one(self, token: int) -> None:
        """Begin to evaluate one token."""
        self._one[0] = token
        self.evaluate(self._step)

    def wait(self) -> None:
        """Return when all that was begun is done."""
        C.llama_synchronize(self._ctx)

    def choose_by(self, sampling: Sampling | None) -> None:
        """Have the tokens of the next answer chosen so; ``None``: always the most likely one.

        Raises
        ------
        EngineError
            If llama.cpp does not understand its grammar.
        """
        chains.check(self._llama, sampling)
        self._chain = sampling and chains.chain(self._llama, sampling)

    def sample(self) -> int:
        """Wait, and return the next token."""
        sampler = self._chain.sampler if self._chain else self._sampler
        return int(C.llama_sampler_sample(sampler, self._ctx, -1))

    def generate_tokens(self, prompt: list[int], sampling: Sampling | None) -> Iterator[int]:
        """Return llama-cpp-python's own generator of tokens; it does not end by itself."""
        told = chains.options(sampling)
        self._llama.set_seed(told.pop("seed"))
        return iter(self._llama.generate(prompt, temp=told.pop("temperature"), **told))

    def stream(
        self, prompt: list[int], max_tokens: int, sampling: Sampling | None
    ) -> Iterator[dict[str, Any]]:
        """Return llama-cpp-python's streamed completion: chunks of text, as applications use."""
        told = chains.options(sampling) | {"max_tokens": max_tokens, "stream": True}
        chunks: Any = self._llama.create_completion(prompt, **told)
        return iter(chunks)

    def chat(
        self, chat: Chat, max_tokens: int, sampling: Sampling | None
    ) -> Iterator[dict[str, Any]]:
        """Return llama-cpp-python's streamed answer to a chat, its prompt read, not evaluated."""
        return chat.ask(self._llama, max_tokens=max_tokens, **chains.options(sampling))

    def sampling_clocked(self) -> contextlib.AbstractContextManager[chains.Spent]:
        """Clock what llama-cpp-python takes to choose tokens, while the context lasts."""
        return chains.clocked(self._llama)

    def counters(self) -> Counters:
        """Return what llama.cpp counted since the counters were last reset."""
        perf = C.llama_perf_context(self._ctx)
        return Counters(
            int(perf.n_p_eval), int(perf.n_eval), perf.t_p_eval_ms / 1e3, perf.t_eval_ms / 1e3
        )
