"""What llama.cpp can be asked for and ``Llama()`` has no argument for, and what it asks too much.

``Llama()`` fills the parameters of two calls by itself. For as long as it loads a model, these
calls go through functions that change the parameters, and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

from llm_latency.engine.library import CHAT_FORMATS, C
from llm_latency.engine.log import WARN, LlamaLog
from llm_latency.plan.settings import Settings

EXPERTS = r"blk\.{}\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Names of the tensors of one layer's experts, as llama.cpp's own ``--n-cpu-moe`` has them."""


class _Override(ctypes.Structure):
    """llama.cpp's ``llama_model_tensor_buft_override``."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@contextlib.contextmanager
def beyond_llama(settings: Settings) -> Iterator[None]:
    """Ask for all of the settings while ``Llama()`` loads a model."""
    load, make_context = C.llama_model_load_from_file, C.llama_init_from_model

    def load_with(path: bytes, asked: Any) -> Any:
        with experts_on_cpu(asked, settings.n_cpu_moe or 0):
            return load(path, asked)

    def make_context_with(model: Any, asked: Any) -> Any:
        asked.flash_attn_type = flash_attn_type(settings)
        return make_context(model, asked)

    C.llama_model_load_from_file, C.llama_init_from_model = load_with, make_context_with
    try:
        yield
    finally:
        C.llama_model_load_from_file, C.llama_init_from_model = load, make_context


def flash_attn_type(settings: Settings) -> int:
    """Return llama.cpp's number for what is asked: on, off, or as the device can."""
    return -1 if settings.flash_attn == "auto" else int(settings.flash_attn)


@contextlib.contextmanager
def experts_on_cpu(asked: Any, layers: int) -> Iterator[None]:
    """Keep the experts of the first layers on the CPU, where the model is loaded meanwhile."""
    C._lib.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    cpu = C._lib.ggml_backend_cpu_buffer_type()
    entries = [_Override(EXPERTS.format(number).encode(), cpu) for number in range(layers)]
    kept = (_Override * (layers + 1))(*entries)  # llama.cpp's list ends in an empty entry
    if layers:
        asked.tensor_buft_overrides = ctypes.addressof(kept)
    yield
    asked.tensor_buft_overrides = None


@contextlib.contextmanager
def without_broken_templates(log: LlamaLog) -> Iterator[None]:
    """Warn of chat templates that do not compile, on which ``Llama()`` would give up.

    The lab fills templates in by itself, where a chat is to be asked by one.
    """
    original = CHAT_FORMATS.Jinja2ChatFormatter

    class Lenient(original):  # type: ignore[misc, valid-type]
        compiles = False

        def __init__(self, *arguments: Any, **named: Any) -> None:
            try:
                super().__init__(*arguments, **named)
                self.compiles = True
            except Exception as error:  # whatever stands in the file
                log.feed(WARN, f"chats go without the template, which does not compile: {error}\n")

        def to_chat_handler(self) -> Any:
            return super().to_chat_handler() if self.compiles else None

    CHAT_FORMATS.Jinja2ChatFormatter = Lenient
    try:
        yield
    finally:
        CHAT_FORMATS.Jinja2ChatFormatter = original
