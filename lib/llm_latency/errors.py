"""The two errors that users of the lab meet, each one sentence that ends in what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """Something that stops the lab; its text is one sentence that says what to do next."""

    def _render_traceback_(self) -> list[str]:
        # IPython shows what this returns in place of a traceback: in a notebook the
        # sentence is what helps, forty lines of library code are not.
        return [f"{type(self).__name__}: {self}"]


class ParameterError(LabError, ValueError):
    """A parameter that the lab refuses before any model is loaded."""


def did_you_mean(name: str, allowed: Iterable[str], otherwise: str = ".") -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest allowed name, or how a sentence ends."""
    by_lower = {other.lower(): other for other in allowed if other != name}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else otherwise


class EngineError(LabError):
    """llama.cpp would not load or run it; the text is llama.cpp's own reason.

    ``out_of_memory`` tells that the reason was memory.
    """

    def __init__(self, text: str, *, out_of_memory: bool = False) -> None:
        super().__init__(text)
        self.out_of_memory = out_of_memory
