"""llama.cpp, loaded: the only room that knows ``llama_cpp``.

What would make a figure false, and what is done about it here:

- Unknown keyword arguments of ``Llama`` are dropped silently and sizes are clamped: what is in
  force is read back after loading (:class:`~llm_latency.records.record.Effective`).
- ``Llama(verbose=False)`` sends what llama.cpp prints to /dev/null and hides its real errors:
  the lab takes the log through a callback of its own.
- The loading calls that ``Llama()`` makes are clocked one by one, since the constructor itself
  reads the file, allocates the KV cache and reserves the compute buffers.

The clock of a generation is in :mod:`llm_latency.engine.timed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, TextIO, TypeVar

_import_started_s = time.perf_counter()
import llama_cpp  # noqa: E402
import llama_cpp.llama_cpp as C  # noqa: E402

IMPORT_S = time.perf_counter() - _import_started_s
"""Seconds that importing llama_cpp took in this process."""

from llm_latency.engine.log import LlamaLog  # noqa: E402
from llm_latency.errors import EngineError  # noqa: E402
from llm_latency.machine import host, limits  # noqa: E402
from llm_latency.model.gguf import FORMATS  # noqa: E402
from llm_latency.plan.spec import UBATCH, Settings  # noqa: E402
from llm_latency.records.record import Effective, EngineCard, LoadTimings  # noqa: E402

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


@contextlib.contextmanager
def _timed_calls(module: ModuleType, *names: str) -> Iterator[dict[str, float]]:
    """Clock the named functions of a module while the context lasts, in seconds.

    Yields
    ------
    dict
        Seconds spent in each function so far, by name.
    """
    spent = dict.fromkeys(names, 0.0)
    originals = {name: getattr(module, name) for name in names}

    def clocked(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start_s = time.perf_counter()
            try:
                return originals[name](*arguments)
            finally:
                spent[name] += time.perf_counter() - start_s

        return call

    for name in names:
        setattr(module, name, clocked(name))
    try:
        yield spent
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


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
        threads = settings.n_threads or limits.usable_cpus()
        calls = ("llama_backend_init", "llama_model_load_from_file", "llama_init_from_model")
        start_s = time.perf_counter()
        with _logging_to(self.log), _timed_calls(C, *calls) as spent:
            # Llama() does this once per process without saying how long it took.
            C.llama_backend_init()
            try:
                self._llama = llama_cpp.Llama(
                    str(path),
                    n_ctx=settings.n_ctx,
                    n_batch=settings.n_batch,
                    n_ubatch=settings.n_ubatch or UBATCH,
                    n_gpu_layers=settings.n_gpu_layers,
                    n_threads=threads,
                    n_threads_batch=settings.n_threads_batch or threads,
                    use_mmap=settings.use_mmap,
                    use_mlock=settings.use_mlock,
                    flash_attn=settings.flash_attn,
                    offload_kqv=settings.offload_kqv,
                    type_k=FORMATS[settings.type_k].number,
                    type_v=FORMATS[settings.type_v].number,
                    verbose=True,  # False would send what llama.cpp prints to /dev/null
                )
            except Exception as error:  # a damaged file fails anywhere, even in its chat template
                short = isinstance(error, MemoryError) or self.log.out_of_memory()
                plain = isinstance(error, ValueError | RuntimeError)
                said = str(error) if plain else f"{type(error).__name__}: {error}"
                raise EngineError(self.log.reason(said), out_of_memory=short) from None
        # From here on it would print, and reset the counters, at every completion.
        self._llama.verbose = False
        self._ctx = self._llama.ctx
        self._memory = C.llama_get_memory(self._ctx)
        self._vocab = self._llama._model.vocab
        self._sampler = C.llama_sampler_init_greedy()
        self._one = (C.llama_token * 1)()
        self._step = C.llama_batch_get_one(self._one, 1)
        self.load = LoadTimings(
            import_s=IMPORT_S,
            backend_init_s=spent["llama_backend_init"],
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
            backend=self.log.backend(),
        )

    def tokenize(self, text: str, *, beginning: bool = True) -> list[int]:
        """Return the tokens of a text, with the model's own beginning token if it has one."""
        return list(self._llama.tokenize(text.encode(), add_bos=beginning, special=True))

    @property
    def begins(self) -> bool:
        """Whether the model wants its beginning token at the head of a prompt."""
        return bool(C.llama_vocab_get_add_bos(self._vocab))

    @property
    def beginning(self) -> int:
        """The model's token for the beginning of a text."""
        return int(self._llama.token_bos())

    def detokenize(self, tokens: list[int], after: list[int]) -> str:
        """Return the text of tokens that follow others."""
        return str(self._llama.detokenize(tokens, prev_tokens=after).decode("utf-8", "replace"))

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    def forget(self) -> None:
        """Empty the KV cache, and let llama-cpp-python know of it."""
        C.llama_memory_clear(self._memory, False)
        self._llama.reset()  # type: ignore[no-untyped-call]

    def cached(self) -> int:
        """Return how many tokens the KV cache holds, by llama.cpp's own account."""
        return int(C.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def prime_cache(self, tokens: list[int]) -> None:
        """Have exactly these tokens in the KV cache, before any clock starts.

        Those that it holds already, from the left, are kept, and only the others evaluated.
        """
        cached_tokens = self.cached_tokens()
        same = 0
        for have, want in zip(cached_tokens, tokens, strict=False):
            if have != want:
                break
            same += 1
        # Not every architecture can give up the end of what it has seen.
        kept = same > 0 and self.cached() == len(cached_tokens) and self._cut(same)
        if not kept:
            self.forget()
        rest = tokens[same:] if kept else tokens
        if rest:
            self._llama.eval(rest)
            self.wait()

    def _cut(self, length: int) -> bool:
        """Take all but the first tokens out of the KV cache, if that is possible."""
        if not C.llama_memory_seq_rm(self._memory, 0, length, -1):
            return False
        self._llama.n_tokens = length
        return True

    def cached_tokens(self) -> list[int]:
        """Return the tokens that were evaluated into the KV cache, by our own account."""
        return [int(token) for token in self._llama.input_ids[: self._llama.n_tokens]]

    def note_cached_tokens(self, tokens: list[int]) -> None:
        """Let llama-cpp-python know which tokens were evaluated past it."""
        self._llama.input_ids[: len(tokens)] = tokens
        self._llama.n_tokens = len(tokens)

    def save_state(self, path: Path) -> None:
        """Write the KV cache and its tokens to a file by llama.cpp's own call."""
        tokens = self.cached_tokens()
        array = (C.llama_token * len(tokens))(*tokens)
        name = os.fsencode(path)
        if not C.llama_state_seq_save_file(self._ctx, name, 0, array, len(tokens)):
            why = self.log.reason("llama.cpp gave no reason; make room on its disk")
            raise EngineError(f"the state could not be written to {path}: {why}")

    def restore_state(self, path: Path) -> None:
        """Read what :meth:`save_state` wrote into an empty KV cache."""
        self.forget()
        room = self.effective.n_ctx
        array, count = (C.llama_token * room)(), ctypes.c_size_t()
        name, counted = os.fsencode(path), ctypes.byref(count)
        if not C.llama_state_seq_load_file(self._ctx, name, 0, array, room, counted):
            raise EngineError(f"llama.cpp does not accept the state in {path}; delete that file")
        self.note_cached_tokens(array[: count.value])

    def save_python_state(self, path: Path) -> None:
        """Write the state as llama-cpp-python's ``save_state`` holds it, pickled."""
        with path.open("wb") as file:
            pickle.dump(self._llama.save_state(), file, protocol=pickle.HIGHEST_PROTOCOL)

    def restore_python_state(self, path: Path) -> None:
        """Read what :meth:`save_python_state` wrote: a file of the lab's own making."""
        with path.open("rb") as file:
            self._llama.load_state(pickle.load(file))

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

    def evaluate(self, batch: Any) -> None:
        """Begin to evaluate a batch; on a GPU this returns before the work is done."""
        answer = C.llama_decode(self._ctx, batch)
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

    def sample(self) -> int:
        """Wait, and return the most likely next token."""
        return int(C.llama_sampler_sample(self._sampler, self._ctx, -1))

    def generate_tokens(self, prompt: list[int]) -> Iterator[int]:
        """Return llama-cpp-python's own generator of tokens, greedy; it does not end by itself."""
        return iter(self._llama.generate(prompt, temp=0.0))

    def stream(self, prompt: list[int], max_tokens: int) -> Iterator[dict[str, Any]]:
        """Return llama-cpp-python's streamed completion: chunks of text, as applications use."""
        options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.0, "stream": True}
        chunks: Any = self._llama.create_completion(prompt, **options)
        return iter(chunks)

    def counters(self) -> Counters:
        """Return what llama.cpp counted since the counters were last reset."""
        perf = C.llama_perf_context(self._ctx)
        return Counters(
            int(perf.n_p_eval), int(perf.n_eval), perf.t_p_eval_ms / 1e3, perf.t_eval_ms / 1e3
        )
