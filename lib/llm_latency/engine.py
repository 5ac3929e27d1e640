"""llama.cpp, loaded and timed: the only room that knows ``llama_cpp``.

Two phases make an answer. *Prefill* evaluates the prompt in batches: many tokens per pass over
the weights, bound by arithmetic. *Decode* evaluates one token per pass: every weight is read
once per token, bound by memory bandwidth. The first token comes at the end of prefill; TTFT is
prefill plus one sampling.

What would make a figure false, and what is done about it here:

- On a GPU ``llama_decode`` returns before the work is done: every stamp follows a
  ``llama_synchronize``.
- llama.cpp keeps the tokens of the answer before; the same prompt again would evaluate none of
  them. The KV memory is cleared before each generation, and llama.cpp's own count of evaluated
  tokens must equal the prompt's length, else the generation says which proof failed.
- Unknown keyword arguments of ``Llama`` are dropped silently and sizes are clamped: what is in
  force is read back after loading (:class:`~llm_latency.record.Effective`).
- The tokens are produced by llama.cpp's own calls with one preallocated batch; the time stamp
  is the only work of Python between two tokens. The cyclic garbage collector runs between
  generations, not inside them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

_import_started_s = time.perf_counter()
import llama_cpp  # noqa: E402
import llama_cpp.llama_cpp as C  # noqa: E402

IMPORT_S = time.perf_counter() - _import_started_s
"""Seconds that importing llama_cpp took in this process."""

from llm_latency import host, prompts, proof  # noqa: E402
from llm_latency.errors import LabError, ParameterError  # noqa: E402
from llm_latency.llama_log import LlamaLog  # noqa: E402
from llm_latency.record import (  # noqa: E402
    Effective,
    EngineCard,
    Generation,
    LoadTimings,
    Timings,
)
from llm_latency.spec import Settings, WarmUp  # noqa: E402

_GGML_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30,
}  # fmt: skip


class EngineError(LabError):
    """llama.cpp would not load or run it; the text is llama.cpp's own reason.

    ``out_of_memory`` tells that the reason was memory.
    """

    def __init__(self, text: str, *, out_of_memory: bool = False) -> None:
        super().__init__(text)
        self.out_of_memory = out_of_memory


_log = LlamaLog()


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    # An exception must not travel through C.
    with contextlib.suppress(Exception):
        _log.feed(level, text.decode("utf-8", "replace"))


@contextlib.contextmanager
def _logging_to(log: LlamaLog) -> Iterator[None]:
    """Send llama.cpp's log to ``log`` from here on; llama-cpp-python's own chatter too."""
    global _log
    _log = log
    C.llama_log_set(_on_log, ctypes.c_void_p(0))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


@contextlib.contextmanager
def _timed_calls(*names: str) -> Iterator[dict[str, float]]:
    """Clock the named llama.cpp calls that ``Llama()`` makes, in seconds."""
    spent = dict.fromkeys(names, 0.0)
    originals = {name: getattr(C, name) for name in names}

    def clocked(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start_s = time.perf_counter()
            try:
                return originals[name](*arguments)
            finally:
                spent[name] += time.perf_counter() - start_s

        return call

    for name in names:
        setattr(C, name, clocked(name))
    try:
        yield spent
    finally:
        for name, original in originals.items():
            setattr(C, name, original)


def system_info() -> str:
    """Return what llama.cpp says of the CPU features it was compiled for and found."""
    return str(C.llama_print_system_info().decode())


def engine_card() -> EngineCard:
    """Return what the installed engine is and which devices it sees."""
    C.llama_backend_init()
    library = C._lib
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    devices = []
    for number in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(number)
        name = library.ggml_backend_dev_name(device).decode("utf-8", "replace")
        text = library.ggml_backend_dev_description(device).decode("utf-8", "replace")
        devices.append(f"{name}: {text}")
    return EngineCard(
        version=llama_cpp.__version__,
        system_info=system_info(),
        gpu_offload=bool(C.llama_supports_gpu_offload()),
        devices=devices,
    )


class Model:
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
    """

    def __init__(self, path: Path, settings: Settings, stream: TextIO | None = None) -> None:
        self.log = LlamaLog(stream)
        threads = settings.n_threads or host.usable_cpus()
        calls = ("llama_backend_init", "llama_model_load_from_file", "llama_init_from_model")
        start_s = time.perf_counter()
        with _logging_to(self.log), _timed_calls(*calls) as spent:
            # Llama() does this once per process without saying how long it took.
            C.llama_backend_init()
            try:
                self._llama = llama_cpp.Llama(
                    str(path),
                    n_ctx=settings.n_ctx,
                    n_batch=settings.n_batch,
                    n_ubatch=settings.n_ubatch or 512,
                    n_gpu_layers=settings.n_gpu_layers,
                    n_threads=threads,
                    n_threads_batch=settings.n_threads_batch or threads,
                    use_mmap=settings.use_mmap,
                    use_mlock=settings.use_mlock,
                    flash_attn=settings.flash_attn,
                    offload_kqv=settings.offload_kqv,
                    type_k=_GGML_TYPES[settings.type_k],
                    type_v=_GGML_TYPES[settings.type_v],
                    verbose=True,  # False would send what llama.cpp prints to /dev/null
                )
            except (ValueError, RuntimeError, MemoryError, AssertionError) as error:
                short = isinstance(error, MemoryError) or self.log.out_of_memory()
                raise EngineError(self.log.reason(str(error)), out_of_memory=short) from None
        self._ctx = self._llama.ctx
        self._memory = C.llama_get_memory(self._ctx)
        self._vocab = self._llama._model.vocab
        self._sampler = C.llama_sampler_init_greedy()
        self.load = LoadTimings(
            import_s=IMPORT_S,
            backend_init_s=spent["llama_backend_init"],
            model_load_s=spent["llama_model_load_from_file"],
            context_s=spent["llama_init_from_model"],
            load_s=time.perf_counter() - start_s,
        )
        self.effective = self._in_force(settings)
        self.buffers = self.log.buffers()

    def __enter__(self) -> Model:
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
            self._sampler = None
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
        )

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text, with the model's own beginning token if it has one."""
        return list(self._llama.tokenize(text.encode(), add_bos=True, special=True))

    def passage(self, n_tokens: int) -> list[int]:
        """Return exactly ``n_tokens`` tokens: the passage that ships with the lab, repeated."""
        tokens = self.tokenize(prompts.passage())
        # The beginning token stands once, at the head.
        body = tokens[1:] if tokens[0] == self._llama.token_bos() else tokens
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
            room = self.effective.n_ctx - 1
            self.generate(
                self.passage(min(self.effective.n_batch, room)), max_tokens=1, length="fixed"
            )
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
        repeat: int = 0,
    ) -> Generation:
        """Answer a prompt with the most likely tokens, every prompt token evaluated anew.

        Parameters
        ----------
        prompt
            Text, or the tokens themselves.
        max_tokens
            Most tokens to generate; with ``length="fixed"`` exactly so many.
        length
            ``natural`` stops at end-of-generation, ``fixed`` ignores it.
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
        if not tokens:
            raise EngineError("the prompt has no token; give at least one word")
        room = self.effective.n_ctx
        if len(tokens) + max_tokens > room:
            raise EngineError(
                f"prompt of {len(tokens)} tokens and max_tokens={max_tokens} need "
                f"{len(tokens) + max_tokens} tokens of context, n_ctx in force is {room}; "
                "raise n_ctx, or shorten the prompt or the answer"
            )
        generated, evaluated, left, stopped, timings = self._decode(
            tokens, max_tokens, natural=length == "natural"
        )
        start_s = time.perf_counter()
        text = self._llama.detokenize(generated, prev_tokens=tokens).decode("utf-8", "replace")
        detokenize_s = time.perf_counter() - start_s
        return Generation(
            repeat=repeat,
            prompt_tokens=len(tokens),
            evaluated_tokens=evaluated,
            generated_tokens=len(generated),
            finish_reason="stop" if stopped else "length",
            timings=timings.model_copy(
                update={"tokenize_s": tokenize_s, "detokenize_s": detokenize_s}
            ),
            text=text,
            problem=proof.problem(
                asked=(len(tokens), max_tokens if length == "fixed" else None),
                counted=(evaluated, len(generated)),
                cached=left,
            ),
        )

    def _decode(
        self, tokens: list[int], max_tokens: int, *, natural: bool
    ) -> tuple[list[int], int, int, bool, Timings]:
        """Prefill, then one token after another; see the picture in :mod:`llm_latency.record`."""
        ctx, sampler, clock = self._ctx, self._sampler, time.perf_counter
        prompt = (C.llama_token * len(tokens))(*tokens)
        size = self.effective.n_batch
        batches = [
            C.llama_batch_get_one(
                ctypes.cast(ctypes.byref(prompt, 4 * at), C.llama_token_p),
                min(size, len(tokens) - at),
            )
            for at in range(0, len(tokens), size)
        ]
        one = (C.llama_token * 1)()
        step = C.llama_batch_get_one(one, 1)
        generated: list[int] = []
        stamps: list[float] = []
        stopped = False

        gc.collect()
        gc.disable()
        try:
            C.llama_memory_clear(self._memory, False)
            left = C.llama_memory_seq_pos_max(self._memory, 0) + 1
            C.llama_perf_context_reset(ctx)
            C.llama_synchronize(ctx)
            t0 = clock()
            for batch in batches:
                self._check(C.llama_decode(ctx, batch))
            C.llama_synchronize(ctx)
            t1 = clock()
            after_prefill = C.llama_perf_context(ctx)
            token = C.llama_sampler_sample(sampler, ctx, -1)
            stamp = clock()
            while True:
                if natural and C.llama_vocab_is_eog(self._vocab, token):
                    stopped = True
                    break
                generated.append(token)
                stamps.append(stamp)
                if len(generated) == max_tokens:
                    break
                one[0] = token
                self._check(C.llama_decode(ctx, step))
                token = C.llama_sampler_sample(sampler, ctx, -1)  # synchronises
                stamp = clock()
            after_decode = C.llama_perf_context(ctx)
        finally:
            gc.enable()
        first_s = stamps[0] if stamps else stamp
        engine_prefill_s = (after_prefill.t_p_eval_ms + after_prefill.t_eval_ms) / 1e3
        engine_total_s = (after_decode.t_p_eval_ms + after_decode.t_eval_ms) / 1e3
        timings = Timings(
            ttft_s=first_s - t0,
            prefill_s=t1 - t0,
            decode_s=(stamps[-1] if stamps else first_s) - first_s,
            total_s=stamp - t0,
            itl_s=[b - a for a, b in zip([t0, *stamps], stamps, strict=False)],
            engine_prefill_s=engine_prefill_s,
            engine_decode_s=engine_total_s - engine_prefill_s,
        )
        return generated, int(after_prefill.n_p_eval), int(left), stopped, timings

    def _check(self, answer: int) -> None:
        if answer == 0:
            return
        reason = self.log.reason("no reason in its log")
        raise EngineError(
            f"llama_decode returned {answer}: {reason}", out_of_memory=self.log.out_of_memory()
        )


def load(model: str | Path, **settings: Any) -> Model:
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
    from llm_latency import models
    from llm_latency.spec import build

    wanted = build(Settings, settings)
    path = models.resolve(str(model), progress=True)
    if not path.is_file():
        raise ParameterError(f"model={str(model)!r} is not a file; give the path of a GGUF file")
    return Model(path, wanted)
