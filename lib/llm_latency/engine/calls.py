"""How long a module's functions take while another piece of code calls them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


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
