"""What llama.cpp would allocate, by its own arithmetic: ``python -m llm_latency.engine.dry_run``.

With ``no_alloc`` llama.cpp reads a file's header, decides for every tensor where it goes, lays out
the caches and the graph, and allocates nothing: so for every architecture and device that it
knows, in milliseconds. The weights are never looked at; a header with a hole behind it is enough.
A child does it, since llama.cpp ends the process of a file that it cannot lay out.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from llm_latency.base import Part
from llm_latency.errors import LabError
from llm_latency.model.gguf import FORMATS
from llm_latency.plan.settings import UBATCH, Settings

COMMAND = (sys.executable, "-m", "llm_latency.engine.dry_run")
MOST_TOKENS = 1 << 22
"""Longest context that is planned: also under no_alloc each cell of the cache takes some bytes."""
TIMEOUT_S = 120.0
"""How long a child may take for one answer."""
BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
"""llama.cpp's account of its memory, as C++ compilers on Linux and macOS name it."""

Side = Literal["cpu", "gpu"]


class NotForetoldError(LabError):
    """What a model takes is not known before it is loaded; the text says why."""


def check_placed(settings: Settings, on: Side) -> None:
    """Refuse what nobody plans rightly: a cache on the host beside layers on a device.

    llama.cpp puts attention on the host then, and its ``ggml_backend_sched_reserve_size``, which
    measures under ``no_alloc``, forgets that before it splits the graph.

    Raises
    ------
    NotForetoldError
        If these settings are such.
    """
    if on == "gpu" and settings.n_gpu_layers and not settings.offload_kqv:
        raise NotForetoldError(
            "offload_kqv=false beside layers on a device is not foretold; measure it"
        )


class Request(Part):
    """Which model is loaded how; on ``gpu`` a stand-in serves where the engine sees no device."""

    path: str
    settings: Settings
    on: Side


class Buffers(Part):
    """Bytes in the buffers of one type."""

    in_host_memory: bool
    weights_bytes: int = 0
    context_bytes: int = Field(0, description="KV cache, and the state of recurrent layers")
    compute_bytes: int = 0


class Allocation(Part):
    """All buffers by their types, llama.cpp's names; or why there are none."""

    buffers: dict[str, Buffers] = Field(default_factory=dict)
    why: str | None = None


class DryRun:
    """A child that plans one model file, for one setting after another, while a context lasts.

    Parameters
    ----------
    path
        The model's file; behind its header there may be a hole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._child: subprocess.Popen[str] | None = None
        self._known: dict[tuple[Settings, Side], Allocation] = {}

    def __enter__(self) -> DryRun:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def ask(self, settings: Settings, on: Side) -> Allocation:
        """Return what would be allocated.

        Raises
        ------
        NotForetoldError
            If llama.cpp does not lay the model out, or is not here.
        """
        check_placed(settings, on)
        if settings.n_ctx > MOST_TOKENS:
            raise NotForetoldError(
                f"no context beyond {MOST_TOKENS:,} tokens is foretold; measure it"
            )
        if (settings, on) not in self._known:
            request = Request(path=str(self._path), settings=settings, on=on)
            self._known[settings, on] = self._answer(request)
        answer = self._known[settings, on]
        if answer.why is not None:
            raise NotForetoldError(answer.why)
        return answer

    def _answer(self, request: Request) -> Allocation:
        try:
            child = self._child or self._begin()
            limit = threading.Timer(TIMEOUT_S, child.kill)
            limit.start()
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(request.model_dump_json() + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
            limit.cancel()
            return Allocation.model_validate_json(line)
        except (OSError, ValidationError):
            self._end()
            return Allocation(why="llama.cpp does not lay this model out; measure it")

    def _begin(self) -> subprocess.Popen[str]:
        self._child = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            encoding="utf-8",
        )
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


class _Planner:
    """llama.cpp under ``no_alloc``, in the child: the model loaded last stays for the next."""

    def __init__(self) -> None:
        from llm_latency.engine import library
        from llm_latency.engine.log import LlamaLog

        self._c, self._log = library.C, LlamaLog()
        with library.logging_to(self._log):
            self._c.llama_backend_init()
        self._model: tuple[Any, Any] = (None, None)
        self._stand_in: int | None = None

    def answer(self, request: Request) -> Allocation:
        """Lay the model out; what llama.cpp refuses is an answer too."""
        self._log.lines.clear()
        model = self._loaded(request)
        context = self._c.llama_init_from_model(model, self._context(request)) if model else None
        if not context:
            return Allocation(why=self._log.reason())
        buffers = breakdown(self._c, context)
        self._c.llama_free(context)
        return Allocation(buffers=buffers)

    def _loaded(self, request: Request) -> Any:
        settings = request.settings
        from llm_latency.engine.beyond import experts_on_cpu

        key = (request.path, request.on, settings.n_gpu_layers, settings.n_cpu_moe)
        if self._model[0] != key:
            if self._model[1]:
                self._c.llama_model_free(self._model[1])
            asked = self._c.llama_model_default_params()
            asked.no_alloc, asked.load_mode = True, 0
            asked.n_gpu_layers = settings.n_gpu_layers
            devices = self._devices(request.on)
            if devices is not None:
                asked.devices = ctypes.addressof(devices)
            with experts_on_cpu(asked, settings.n_cpu_moe or 0):
                loaded = self._c.llama_model_load_from_file(request.path.encode(), asked)
            self._model = (key, loaded)
        return self._model[1]

    def _devices(self, on: Side) -> Any:
        """Return the devices to plan on; ``None``: those that llama.cpp sees."""
        if on == "cpu":
            return (ctypes.c_void_p * 1)(None)
        if self._c.llama_supports_gpu_offload():
            return None
        from llm_latency.engine import stand_in

        self._stand_in = self._stand_in or stand_in.device()
        return (ctypes.c_void_p * 2)(self._stand_in, None)

    def _context(self, request: Request) -> Any:
        from llm_latency.engine.beyond import flash_attn_type

        settings, asked = request.settings, self._c.llama_context_default_params()
        asked.n_ctx = settings.n_ctx
        asked.n_batch = min(settings.n_ctx, settings.n_batch)
        asked.n_ubatch = min(asked.n_batch, settings.n_ubatch or UBATCH)
        asked.flash_attn_type = flash_attn_type(settings)
        if settings.swa_full is not None:
            asked.swa_full = settings.swa_full
        if settings.op_offload is not None:
            asked.op_offload = settings.op_offload
        asked.offload_kqv = settings.offload_kqv
        asked.type_k = FORMATS[settings.type_k].number
        asked.type_v = FORMATS[settings.type_v].number
        return asked


class _Map(ctypes.Structure):
    """A ``std::map``: libstdc++'s is six words, libc++'s three."""

    _fields_ = [("words", ctypes.c_void_p * (3 if sys.platform == "darwin" else 6))]


def breakdown(c: Any, context: Any) -> dict[str, Buffers]:
    """Return a context's buffers by their types, out of llama.cpp's own account of its memory.

    The account is a C++ map from a type of buffer to three sizes: weights, context, compute.
    Read here node by node, as the C++ libraries of Linux and macOS lay it out.
    """
    library = c._lib
    account = getattr(library, BREAKDOWN)
    account.restype, account.argtypes = _Map, [ctypes.c_void_p]
    library.ggml_backend_buft_name.restype = ctypes.c_char_p
    library.ggml_backend_buft_is_host.restype = ctypes.c_bool
    for name in ("ggml_backend_buft_name", "ggml_backend_buft_is_host"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    # Of a node: left, right and the value; of the map: its root.
    left, right, value, root = (0, 1, 4, 1) if sys.platform == "darwin" else (2, 3, 4, 2)
    found: dict[str, Buffers] = {}

    def walk(node: int | None) -> None:
        if not node:
            return
        words = (ctypes.c_void_p * 8).from_address(node)
        kind, (weights, held, compute) = words[value], (words[value + n] or 0 for n in (1, 2, 3))
        name = library.ggml_backend_buft_name(kind).decode()
        found[name] = Buffers(
            in_host_memory=is_host(library, kind, name),
            weights_bytes=weights,
            context_bytes=held,
            compute_bytes=compute,
        )
        walk(words[left])
        walk(words[right])

    walk(account(context).words[root])
    return found


def is_host(library: Any, kind: int | None, name: str) -> bool:
    """Return whether buffers of a type are host memory; those of repacked weights do not say so."""
    from llm_latency.engine.log import in_host_memory

    return bool(library.ggml_backend_buft_is_host(kind)) or in_host_memory(name)


def main() -> None:
    """Answer each request on standard input with a line on standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    planner = _Planner()
    for line in sys.stdin:
        try:
            answer = planner.answer(Request.model_validate_json(line))
        except Exception as error:  # a library without the account, say
            answer = Allocation(why=f"llama.cpp tells no plan here ({error}); measure it")
        answers.write(answer.model_dump_json() + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
