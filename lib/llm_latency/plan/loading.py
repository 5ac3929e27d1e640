"""Ways to bring a model's file into memory: their names, and llama-cpp-python's settings for them.

``mmap`` maps the file: its pages are the page cache's own, and the system may take them away.
``read`` copies it into memory of the process. ``mlock`` maps it and asks the system to keep it in
RAM.
"""

from __future__ import annotations

from collections.abc import Iterable

READING: dict[str, dict[str, bool]] = {
    "mmap": {"use_mmap": True, "use_mlock": False},
    "read": {"use_mmap": False, "use_mlock": False},
    "mlock": {"use_mmap": True, "use_mlock": True},
}
"""By name: the settings that make it."""
REPLACED = {"use_mmap": "reading", "use_mlock": "reading"}
"""Settings that a question which varies ``reading`` sets itself, for its request."""
LOAD_MODES: dict[str, tuple[bool, bool]] = {
    "none": (False, False),
    "mmap": (True, False),
    "mlock": (False, True),
    "mmap+mlock": (True, True),
    "dio": (False, False),
}
"""llama.cpp's one word for ``use_mmap`` and ``use_mlock``; its ``auto`` says nothing of them."""
STATES = {
    "resident": "file in RAM",
    "evicted": "file on the disk",
    "as_is": "page cache as it was",
}
"""States of the model's file when a process starts, in words."""


def reading_of(use_mmap: bool, use_mlock: bool) -> str:
    """Return the name of the way that two settings make."""
    if use_mlock:
        return "mlock" if use_mmap else "read and lock"
    return "mmap" if use_mmap else "read"


def load_mode(use_mmap: bool, use_mlock: bool) -> str:
    """Return llama.cpp's word for what two settings make."""
    return next(mode for mode, flags in LOAD_MODES.items() if flags == (use_mmap, use_mlock))


def ranked(names: Iterable[str]) -> list[str]:
    """Return names of ways, each once, in the order of :data:`READING`."""
    order = list(READING)
    return sorted(
        set(names), key=lambda name: (order.index(name) if name in order else len(order), name)
    )
