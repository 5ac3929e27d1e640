"""A device of kind GPU that is not there, for llama.cpp to plan on.

``n_gpu_layers`` means nothing to an engine that sees no device. Under ``no_alloc`` nothing is
allocated and nothing computed: there, the CPU's device with another name, kind and buffer type is
enough for llama.cpp to lay a model out as on a card. It computes every operation and reads no
host memory, as a card does; a card's own way of rounding sizes is not its.

Laid out as in ggml-backend-impl.h of ``GGML_BACKEND_API_VERSION`` 2, the one that the pinned
llama-cpp-python brings.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llm_latency.engine.library import C

POINTER = ctypes.c_void_p
NAME = b"DEVICE0"
CPU, GPU = 0, 1
"""Kinds of devices, ``enum ggml_backend_dev_type``."""
DEVICE = (
    *("get_name", "get_description", "get_memory", "get_type", "get_props", "init_backend"),
    *("get_buffer_type", "get_host_buffer_type", "buffer_from_host_ptr", "supports_op"),
    *("supports_buft", "offload_op", "event_new", "event_free", "event_synchronize"),
    *("reg", "context"),
)
"""Fields of ``ggml_backend_device``, each a pointer."""
BUFFER_TYPE = (
    *("get_name", "alloc_buffer", "get_alignment", "get_max_size", "get_alloc_size", "is_host"),
    *("device", "context"),
)
"""Fields of ``ggml_backend_buffer_type``."""
BACKEND_WORDS = 20
"""Words of a ``ggml_backend`` among which is its device."""


def _struct(name: str, fields: tuple[str, ...]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": [(field, POINTER) for field in fields]})


_Device = _struct("_Device", DEVICE)
_BufferType = _struct("_BufferType", BUFFER_TYPE)
_kept: list[Any] = []
"""What llama.cpp holds pointers to must live as long as the process."""


def device() -> int:
    """Return the address of a new stand-in, to be given as one of a model's devices."""
    library = C._lib
    library.ggml_backend_dev_by_type.restype = POINTER
    library.ggml_backend_dev_buffer_type.restype = POINTER
    library.ggml_backend_dev_buffer_type.argtypes = [POINTER]
    cpu = library.ggml_backend_dev_by_type(CPU)
    made: Any = _Device.from_buffer_copy(_Device.from_address(cpu))
    buffers: Any = _BufferType.from_buffer_copy(
        _BufferType.from_address(library.ggml_backend_dev_buffer_type(cpu))
    )
    here, there = ctypes.addressof(made), ctypes.addressof(buffers)
    begin = ctypes.CFUNCTYPE(POINTER, POINTER, ctypes.c_char_p)(made.init_backend)

    def init_backend(_: int, parameters: bytes | None) -> int:
        backend = int(begin(cpu, parameters))
        words = (POINTER * BACKEND_WORDS).from_address(backend)
        words[list(words).index(cpu)] = here
        return backend

    buffers.get_name = _call(ctypes.c_char_p, (POINTER,), lambda _: NAME)
    buffers.is_host = _call(ctypes.c_bool, (POINTER,), lambda _: False)
    buffers.device = here
    made.get_name = _call(ctypes.c_char_p, (POINTER,), lambda _: NAME)
    made.get_description = _call(ctypes.c_char_p, (POINTER,), lambda _: b"planned on, not there")
    made.get_type = _call(ctypes.c_int, (POINTER,), lambda _: GPU)
    made.init_backend = _call(POINTER, (POINTER, ctypes.c_char_p), init_backend)
    made.get_buffer_type = _call(POINTER, (POINTER,), lambda _: there)
    made.supports_op = _call(ctypes.c_bool, (POINTER, POINTER), lambda _, operation: True)
    made.supports_buft = _call(ctypes.c_bool, (POINTER, POINTER), lambda _, kind: kind == there)
    made.get_host_buffer_type = made.buffer_from_host_ptr = made.offload_op = None
    _kept.extend((made, buffers, begin))
    return here


def _call(result: Any, arguments: tuple[Any, ...], function: Callable[..., Any]) -> Any:
    """Return a Python function as a pointer that C can call."""
    made = ctypes.CFUNCTYPE(result, *arguments)(function)
    _kept.append(made)
    return ctypes.cast(made, POINTER).value
