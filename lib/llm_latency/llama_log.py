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

from llm_latency.record import Buffers

DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5
MIB = 1024 * 1024

_BUFFER = re.compile(
    r"([\w.]+(?:\[\w+\])?)\s+(model|KV|compute|output|RS)\s+buffer size\s*=\s*([\d.]+) MiB"
)
_KV_TYPES = re.compile(r"\bK \((\w+)\):.*\bV \((\w+)\):")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_FLASH = re.compile(r"flash_attn\s*=\s*(\w+)")
_LOAD_MODE = re.compile(r"load_mode = (\w+)")
_OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate|unable to allocate|cannot allocate|bad_alloc"
    r"|alloc\w* .*failed|MemoryError",
    re.IGNORECASE,
)
_ORDINARY = re.compile(r"model default pooling_type|not marked as EOG")


class LlamaLog:
    """The lines that llama.cpp logged, from INFO up, and what can be read out of them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.lines: list[tuple[int, str]] = []
        self._stream = stream
        self._level = INFO

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
        if self._stream is not None and self._level >= INFO:
            self._stream.write(text)
            if self._level >= WARN:
                # A crash may follow; what explains it must already be in the file.
                self._stream.flush()

    def _search(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = (pattern.search(text) for _, text in reversed(self.lines))
        return next((match for match in found if match), None)

    def buffers(self) -> Buffers:
        """Return the allocated bytes by purpose, in total and by device."""
        by_device: dict[str, dict[str, int]] = {}
        for _, text in self.lines:
            for device, kind, mib in _BUFFER.findall(text):
                part = {"model": "weights", "RS": "kv"}.get(kind, kind.lower()) + "_bytes"
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

    def kv_types(self) -> tuple[str, str] | None:
        """Return the number formats of the K and the V cache."""
        match = self._search(_KV_TYPES)
        return (match[1], match[2]) if match else None

    def offloaded_layers(self) -> int:
        """Return how many layers are on a GPU; llama.cpp says nothing where there are none."""
        match = self._search(_OFFLOADED)
        return int(match[1]) if match else 0

    def flash_attn(self) -> bool | None:
        """Return whether flash attention is in force; ``None`` where the log does not say."""
        match = self._search(_FLASH)
        return {"enabled": True, "disabled": False}.get(match[1]) if match else None

    def load_mode(self) -> str | None:
        """Return llama.cpp's name of how the file is loaded, such as ``mmap``."""
        match = self._search(_LOAD_MODE)
        return match[1] if match else None

    def kv_on_gpu(self) -> bool | None:
        """Return whether some of the KV cache is outside host memory."""
        devices = [d for d, held in self.buffers().by_device.items() if "kv_bytes" in held]
        return any(not d.startswith("CPU") for d in devices) if devices else None

    def backend(self) -> str | None:
        """Return the devices that hold weights, by llama.cpp's names, such as ``CPU + CUDA0``."""
        names = [
            device.partition("_")[0]
            for device, held in self.buffers().by_device.items()
            if "weights_bytes" in held
        ]
        return " + ".join(dict.fromkeys(names)) or None

    def warnings(self) -> list[str]:
        """Return llama.cpp's warnings, without those that every ordinary load gives."""
        lines = (_sentence(text) for level, text in self.lines if level == WARN)
        return list(dict.fromkeys(line for line in lines if line and not _ORDINARY.search(line)))

    def reason(self, fallback: str = "llama.cpp gave no reason") -> str:
        """Return why llama.cpp gave up: its first error line and, if it differs, its last."""
        errors = [_sentence(text) for level, text in self.lines if level == ERROR]
        errors = [line for line in errors if line]
        if not errors:
            return fallback
        return errors[0] if len(errors) == 1 else f"{errors[0]} … {errors[-1]}"

    def out_of_memory(self) -> bool:
        """Return whether an error line speaks of memory that could not be had."""
        return any(level == ERROR and _OUT_OF_MEMORY.search(text) for level, text in self.lines)


def _sentence(text: str) -> str:
    return " ".join(text.split())[:400]
