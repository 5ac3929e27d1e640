"""llama.cpp's own count of what it evaluated: the proof of what a generation did."""

from __future__ import annotations

from typing import NamedTuple


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
