"""llama.cpp's library in this process: what it is, what it prints, and how long its calls take.

``Llama(verbose=False)`` sends what llama.cpp prints to /dev/null and hides its real errors: the
lab takes the log through a callback of its own. Whoever needs ``llama_cpp`` has it from here, so
that its import is clocked whoever comes first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Literal

_import_started_s = time.perf_counter()
import llama_cpp.llama_cpp  # noqa: E402

IMPORT_S = time.perf_counter() - _import_started_s
"""Seconds that importing llama_cpp took in this process."""

from llm_latency.engine.log import LlamaLog  # noqa: E402
from llm_latency.records.record import DeviceMemory, EngineCard, EngineDevice  # noqa: E402

C = llama_cpp.llama_cpp
"""llama.cpp's own calls."""
CHAT_FORMATS: Any = llama_cpp.llama_chat_format
"""llama-cpp-python's chat templates."""
Llama = llama_cpp.Llama
"""llama-cpp-python's model."""
ChatFormatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter
"""A chat template, as llama-cpp-python fills it in."""
Grammar: Any = llama_cpp.llama_grammar.LlamaGrammar
"""What an answer may be, as llama-cpp-python holds it."""

KINDS: tuple[Literal["cpu", "gpu", "igpu", "accel"], ...] = ("cpu", "gpu", "igpu", "accel")
"""The kinds of a device in the order of ggml_backend_dev_type (ggml-backend.h)."""

_NO_DEVICES = (ctypes.c_void_p * 1)(None)
"""A list that ends at once. It lives as long as any model that keeps its address."""
_log = LlamaLog()


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    # An exception must not travel through C.
    with contextlib.suppress(Exception):
        _log.feed(level, text.decode("utf-8", "replace"))


@contextlib.contextmanager
def logging_to(log: LlamaLog) -> Iterator[None]:
    """Send llama.cpp's log to ``log`` from here on; llama-cpp-python's own chatter too."""
    global _log
    _log = log
    C.llama_log_set(_on_log, ctypes.c_void_p(0))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def system_info() -> str:
    """Return what llama.cpp says of the CPU features it was compiled for and found."""
    return str(C.llama_print_system_info().decode())


def devices() -> list[EngineDevice]:
    """Return the devices that the engine sees, and what they say of their memory now.

    To be asked, a device is made ready for use, which takes time and some of its memory.
    """
    library = C._lib
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size = ctypes.POINTER(ctypes.c_size_t)
    library.ggml_backend_dev_memory.restype = None
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    seen = []
    for number in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(number)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        seen.append(
            EngineDevice(
                name=library.ggml_backend_dev_name(device).decode("utf-8", "replace"),
                kind=KINDS[library.ggml_backend_dev_type(device)],
                description=library.ggml_backend_dev_description(device).decode("utf-8", "replace"),
                total_bytes=total.value or None,
                # What is wholly free, or has nothing, is a backend's way to say nothing.
                free_bytes=free.value if 0 < free.value < total.value else None,
            )
        )
    return seen


def device_memory() -> dict[str, DeviceMemory]:
    """Return what is used of the memory of each device on which layers can be kept."""
    return {
        one.name: DeviceMemory(
            used_bytes=one.total_bytes - one.free_bytes
            if one.total_bytes and one.free_bytes
            else None,
            total_bytes=one.total_bytes,
        )
        for one in devices()
        if one.holds_layers
    }


def engine_card() -> EngineCard:
    """Return what the installed engine is and which devices it sees."""
    C.llama_backend_init()
    return EngineCard(
        version=llama_cpp.__version__,
        system_info=system_info(),
        gpu_offload=bool(C.llama_supports_gpu_offload()),
        devices=devices(),
    )


@contextlib.contextmanager
def without_devices() -> Iterator[None]:
    """Load models on the CPU alone while the context lasts, whatever devices the engine sees.

    ``n_gpu_layers=0`` is not enough: llama.cpp then still computes batches on a device that it
    may use. ``Llama`` has no parameter for that; the list of devices is put into what it starts
    from.
    """
    original = C.llama_model_default_params

    def changed() -> Any:
        parameters = original()
        parameters.devices = ctypes.cast(_NO_DEVICES, ctypes.c_void_p)
        return parameters

    C.llama_model_default_params = changed
    try:
        yield
    finally:
        C.llama_model_default_params = original


@contextlib.contextmanager
def timed_calls(module: ModuleType, *names: str) -> Iterator[dict[str, float]]:
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
