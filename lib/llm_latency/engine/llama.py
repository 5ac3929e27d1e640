"""A model, loaded by llama.cpp, and the calls that evaluate it.

What would make a figure false, and what is done about it here:

- Unknown keyword arguments of ``Llama`` are dropped silently and sizes are clamped: what is in
  force is read back after loading (:class:`~llm_latency.records.record.Effective`).
- ``Llama(verbose=False)`` would hide llama.cpp's real errors: its log goes through a callback of
  the lab's own (:mod:`llm_latency.engine.library`).
- The loading calls that ``Llama()`` makes are clocked one by one, since the constructor itself
  reads the file, allocates the KV cache and reserves the compute buffers.

The clock of a generation is in :mod:`llm_latency.engine.timed`, and what the context holds in
:mod:`llm_latency.engine.kv_cache`.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO, TypeVar

from llm_latency.engine import sampling as chains
from llm_latency.engine.beyond import beyond_llama, without_broken_templates
from llm_latency.engine.chat import Chat
from llm_latency.engine.kv_cache import KvCache
from llm_latency.engine.library import (
    IMPORT_S,
    C,
    Llama,
    device_memory,
    logging_to,
    timed_calls,
    without_devices,
)
from llm_latency.engine.log import LlamaLog
from llm_latency.engine.vocabulary import Vocabulary
from llm_latency.errors import EngineError
from llm_latency.machine import host, limits
from llm_latency.model.gguf import FORMATS
from llm_latency.plan.settings import UBATCH, KvType, Settings
from llm_latency.plan.workload import Sampling
from llm_latency.records.record import Effective, LoadTimings


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
        threads = settings.n_threads or limits.usable_cpus()
        calls = ("llama_backend_init", "llama_model_load_from_file", "llama_init_from_model")
        start_s = time.perf_counter()
        on_devices = contextlib.nullcontext() if settings.n_gpu_layers else without_devices()
        with (
            logging_to(self.log),
            on_devices,
            beyond_llama(settings),
            without_broken_templates(self.log),
            timed_calls(C, *calls) as spent,
        ):
            # Llama() does this once per process without saying how long it took.
            C.llama_backend_init()
            # The first question makes a device ready, for which the first load would wait.
            asked_s = time.perf_counter()
            self.devices_before = device_memory() if settings.n_gpu_layers else {}
            devices_s = time.perf_counter() - asked_s
            try:
                llama = Llama(
                    str(path),
                    n_ctx=settings.n_ctx,
                    n_batch=settings.n_batch,
                    n_ubatch=settings.n_ubatch or UBATCH,
                    n_gpu_layers=settings.n_gpu_layers,
                    n_threads=threads,
                    n_threads_batch=settings.n_threads_batch or threads,
                    use_mmap=settings.use_mmap,
                    use_mlock=settings.use_mlock,
                    flash_attn=bool(settings.flash_attn),
                    offload_kqv=settings.offload_kqv,
                    type_k=FORMATS[settings.type_k].number,
                    type_v=FORMATS[settings.type_v].number,
                    swa_full=settings.swa_full,
                    op_offload=settings.op_offload,
                    verbose=True,  # False would send what llama.cpp prints to /dev/null
                )
            except Exception as error:  # a damaged file fails anywhere
                short = isinstance(error, MemoryError) or self.log.out_of_memory()
                plain = isinstance(error, ValueError | RuntimeError)
                said = str(error) if plain else f"{type(error).__name__}: {error}"
                raise EngineError(self.log.reason(said), out_of_memory=short) from None
        super().__init__(llama)
        # From here on it would print, and reset the counters, at every completion.
        self._llama.verbose = False
        self._ctx = self._llama.ctx
        self.kv_cache = KvCache(self._llama, self.log)
        self._sampler = C.llama_sampler_init_greedy()
        self._chain: Any = None
        self._one = (C.llama_token * 1)()
        self._step = C.llama_batch_get_one(self._one, 1)
        self.load = LoadTimings(
            import_s=IMPORT_S,
            backend_init_s=spent["llama_backend_init"] + devices_s,
            model_load_s=spent["llama_model_load_from_file"],
            context_s=spent["llama_init_from_model"],
            load_s=time.perf_counter() - start_s,
        )
        self.effective = self._in_force(settings)
        self.buffers = self.log.buffers()

    def __enter__(self: ModelT) -> ModelT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and its context."""
        if self._sampler is not None:
            C.llama_sampler_free(self._sampler)
            self._sampler = self._chain = None
            self._llama.close()

    def _in_force(self, settings: Settings) -> Effective:
        kv_types = self.log.kv_types()
        mode = self.log.load_mode() or ""
        locked = host.process_memory().locked_bytes
        return Effective(
            n_ctx=C.llama_n_ctx(self._ctx),
            n_batch=C.llama_n_batch(self._ctx),
            n_ubatch=C.llama_n_ubatch(self._ctx),
            n_threads=C.llama_n_threads(self._ctx),
            n_threads_batch=C.llama_n_threads_batch(self._ctx),
            n_gpu_layers=self.log.offloaded_layers(),
            use_mmap="mmap" in mode if mode else settings.use_mmap,
            # llama.cpp only warns where the system refuses to lock: ask the system.
            use_mlock=bool(locked) if locked is not None else "mlock" in mode,
            flash_attn=self.log.flash_attn(),
            # Without a layer on a GPU there is nothing that the KV cache could follow.
            offload_kqv=self.log.kv_on_gpu() if self.log.offloaded_layers() else None,
            type_k=kv_types[0] if kv_types else None,
            type_v=kv_types[1] if kv_types else None,
            backend=self.log.backend(),
            swa_full=self.log.swa_full(),
            # No word of llama.cpp tells it: this is what it was handed.
            op_offload=bool(self._llama.context_params.op_offload),
            n_cpu_moe=self.log.experts_on_cpu(),
            all_layers=C.llama_model_n_layer(self._llama._model.model) + 1,
        )

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
