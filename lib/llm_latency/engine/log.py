"""What llama.cpp says of itself in its log, read into numbers.

llama.cpp has no stable call that tells which buffers it allocated, how many layers it offloaded
or why it gave up: those stand only in its log. The levels are DEBUG 1, INFO 2, WARN 3, ERROR 4
and CONT 5 (go on with the line before). llama-cpp-python's own handler reads them by an older
numbering and hides real errors, so the lab installs its own callback and keeps the lines here.

Sizes are printed in MiB with two decimals: what is read here is exact to 0.01 MiB.
"""

from __future__ import annotations

import re
from typing import TextIO

from llm_latency.records.record import Buffers

DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5
MIB = 1024 * 1024

_BUFFER = re.compile(
    r"(\S+)\s+(?:DSV4 \S+ )?(model|KV|compute|output|RS|state)\s+buffer size\s*=\s*([\d.]+) MiB"
)
_PARTS = {"model": "weights", "RS": "kv", "state": "kv"}
_HOST = re.compile(r"CPU|AMX|\w+_Host$")
"""Buffers in host memory: the CPU's own, its repacked copies, and what a device keeps pinned."""
_KV_TYPES = re.compile(r"\bK \((\w+)\):.*\bV \((\w+)\):")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_FLASH = re.compile(r"(?:flash_attn\s*=|Flash Attention(?: not supported, set to)?)\s+(\w+)")
_SLIDING = re.compile(r"(full-size SWA cache)|creating\s+SWA KV cache")
_ON_CPU = re.compile(r"blk\.(\d+)\.ffn_\w+exps\S* .*overridden to CPU")
_LOAD_MODE = re.compile(r"load_mode = (\w+)")
_OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate|unable to allocate|cannot allocate|bad_alloc"
    r"|alloc\w* .*failed|insufficient memory|MemoryError",
    re.IGNORECASE,
)
_ORDINARY = re.compile(
    r"model default pooling_type|not marked as EOG|swa_full is not supported by this model"
)
_NOT_IN_THE_WAY = re.compile(r"mlock|encountered bad_alloc error while reading")
"""Memory that could not be locked does no harm; and a file can ask for more than there is."""
_LAST_LINES = 12
_FOLDERS = re.compile(r"\S*/(?=[\w.-]+\.(?:c|cc|cpp|cu|h|hpp|m|py):\d+)")
_TELLING = re.compile(
    # llama.cpp's own, the C++ library's, and the last line of Python's traceback.
    r"GGML_ASSERT|CUDA error|\.(?:c|cpp|cu|h|m):\d+: |terminate called|what\(\):|error: "
    r"|^[\w.]*(?:Error|Exception)\b|No module named"
)
_NO_ROOM = "No space left on device|Disk quota exceeded|File too large"
_STEPS = {
    r"V cache.* requires flash_attn": "give flash_attn=true, or type_v='f16'",
    r"K cache type .* does not divide": "give type_k='f16'",
    r"V cache type .* does not divide": "give type_v='f16'",
    r"invalid magic|failed to read magic": "this is no GGUF file: give one, or fetch it again",
    r"unknown (?:model architecture|(?:pre-)?tokenizer)|unsupported model architecture"
    r"|only supports up to version|invalid ggml type": (
        "this llama.cpp does not know it: take a newer one, or a file that was made for this one"
    ),
    _NO_ROOM: "make room on that disk",
    r"No module named|cannot import name|cannot open shared object": (
        "install the environment again: python bootstrap.py"
    ),
    r"missing tensor|wrong number of tensors|wrong shape|key .*(?:not found|wrong)|GGUFv1": (
        "it was made for another llama.cpp, or is damaged: take a file that was made for this one"
    ),
    r"GGUF split|split file|split count": (
        "all parts of a model lie in one folder, under their own names: fetch them all"
    ),
    r"corrupted|not within|gguf_init|failed to read|invalid data": (
        "the file is damaged or cut short: fetch or convert it again"
    ),
    r"error loading model|failed to load model": (
        "take a newer llama.cpp, or a file that was made for this one"
    ),
}
"""What to do about what llama.cpp or Python said; the first that fits."""


class LlamaLog:
    """The lines that llama.cpp logged, from INFO up, and what can be read out of them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.lines: list[tuple[int, str]] = []
        self.stream = stream
        self._level = INFO
        self._on_cpu = 0

    def feed(self, level: int, text: str) -> None:
        """Take one message; a CONT message goes on with the line before."""
        if level == CONT:
            if self.lines and self._level >= INFO:
                before, line = self.lines[-1]
                self.lines[-1] = (before, line + text)
        else:
            self._level = level
            if level >= INFO:
                self.lines.append((level, text))
            elif moved := _ON_CPU.search(text):
                self._on_cpu = max(self._on_cpu, int(moved[1]) + 1)
        if self.stream is not None and self._level >= INFO:
            self.stream.write(text)
            if self._level >= WARN:
                # A crash may follow; what explains it must already be in the file.
                self.stream.flush()

    def _search(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = (pattern.search(text) for _, text in reversed(self.lines))
        return next((match for match in found if match), None)

    def buffers(self) -> Buffers:
        """Return the allocated bytes by purpose, in total and by device."""
        by_device: dict[str, dict[str, int]] = {}
        for _, text in self.lines:
            for device, kind, mib in _BUFFER.findall(text):
                part = _PARTS.get(kind, kind.lower()) + "_bytes"
                held = by_device.setdefault(device, {})
                size = round(float(mib) * MIB)
                # Weights and KV come in several buffers per device (split files, sliding-window
                # layers); compute and output buffers are announced anew when they are resized.
                several = part in {"weights_bytes", "kv_bytes"}
                held[part] = held.get(part, 0) + size if several else size
        totals = {
            part: sum(held[part] for held in by_device.values() if part in held)
            for part in ("weights_bytes", "kv_bytes", "compute_bytes", "output_bytes")
            if any(part in held for held in by_device.values())
        }
        return Buffers(**totals, by_device=by_device)

    def number(self, name: str) -> int | None:
        """Return what llama.cpp says a number of that name is, as ``n_ctx = 2048``."""
        match = self._search(re.compile(rf"\b{name}\s*= (\d+)"))
        return int(match[1]) if match else None

    def after(self, words: str) -> str | None:
        """Return the rest of the last line that holds these words."""
        match = self._search(re.compile(f"{re.escape(words)}(.*)"))
        return match[1].strip() if match else None

    def kv_types(self) -> tuple[str, str] | None:
        """Return the number formats of the K and the V cache."""
        match = self._search(_KV_TYPES)
        return (match[1], match[2]) if match else None

    def offloaded_layers(self) -> int:
        """Return how many layers are on a GPU; llama.cpp says nothing where there are none."""
        match = self._search(_OFFLOADED)
        return int(match[1]) if match else 0

    def flash_attn(self) -> bool | None:
        """Return whether flash attention is in force; ``None`` where the log does not say.

        What was left to llama.cpp is ``auto`` at first, and decided some lines later.
        """
        match = self._search(_FLASH)
        return {"enabled": True, "disabled": False}.get(match[1]) if match else None

    def swa_full(self) -> bool | None:
        """Return whether layers with a sliding window keep the whole context, where there are."""
        found = [match for _, text in self.lines if (match := _SLIDING.search(text))]
        return any(match[1] for match in found) if found else None

    def experts_on_cpu(self) -> int:
        """Return up to which layer, from 1, experts were kept on the CPU; 0: none were."""
        return self._on_cpu

    def load_mode(self) -> str | None:
        """Return llama.cpp's name of how the file is loaded, such as ``mmap``."""
        match = self._search(_LOAD_MODE)
        return match[1] if match else None

    def kv_on_gpu(self) -> bool | None:
        """Return whether some of the KV cache is outside host memory."""
        devices = [d for d, held in self.buffers().by_device.items() if "kv_bytes" in held]
        return not all(in_host_memory(d) for d in devices) if devices else None

    def backend(self) -> str | None:
        """Return the devices that hold weights, by llama.cpp's names, such as ``CPU + CUDA0``."""
        names = [
            "CPU" if in_host_memory(device) else device.partition("_")[0]
            for device, held in self.buffers().by_device.items()
            if "weights_bytes" in held
        ]
        return " + ".join(dict.fromkeys(names)) or None

    def warnings(self) -> list[str]:
        """Return llama.cpp's warnings, without those that every ordinary load gives."""
        lines = (_sentence(text) for level, text in self.lines if level == WARN)
        return list(dict.fromkeys(line for line in lines if line and not _ORDINARY.search(line)))

    def reason(self, fallback: str = "llama.cpp gave no reason") -> str:
        """Return why llama.cpp gave up: its first error line, its last, and what to do."""
        errors = [_sentence(text) for level, text in self.lines if level == ERROR]
        errors = [line for line in errors if line]
        said = " … ".join(dict.fromkeys([errors[0], errors[-1]])) if errors else fallback
        return said + next_step(said)

    def out_of_memory(self) -> bool:
        """Return whether an error line speaks of memory that could not be had."""
        return any(level == ERROR and speaks_of_memory(text) for level, text in self.lines)


def in_host_memory(buffer: str) -> bool:
    """Return whether a buffer of that name, by llama.cpp's log, is host memory and not VRAM."""
    return _HOST.match(buffer) is not None


def speaks_of_memory(text: str) -> bool:
    """Return whether a line says that memory could not be had."""
    return _OUT_OF_MEMORY.search(text) is not None and not _NOT_IN_THE_WAY.search(text)


def no_room(text: str) -> str | None:
    """Return which words say that a disk is full; ``None`` where none do."""
    found = re.search(_NO_ROOM, text)
    return found[0] if found else None


def next_step(reason: str) -> str:
    """Return what to do about a reason, to be put behind it; empty where nobody knows."""
    if speaks_of_memory(reason):
        return "; give a smaller n_ctx or n_ubatch, or a smaller model"
    steps = (f"; {step}" for pattern, step in _STEPS.items() if re.search(pattern, reason))
    return next(steps, "")


def last_words(text: str) -> str:
    """Return what the end of a log says of why its process died; empty where it says nothing.

    Lines that tell of memory are preferred to all others. A line that tells no reason, as llama.cpp
    writes them while all is well, differs from process to process and explains nothing.
    """
    lines = [_sentence(_FOLDERS.sub("", line)) for line in text.splitlines()[-_LAST_LINES:]]
    lines = [line for line in lines if line]
    short = [line for line in lines if speaks_of_memory(line)]
    telling = short[-1:] or [line for line in lines if _TELLING.search(line)][-2:]
    return " … ".join(dict.fromkeys(telling))[:400]


def _sentence(text: str) -> str:
    return " ".join(text.split())[:400]
