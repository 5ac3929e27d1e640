"""Stands in for CUDA's driver library: a card's memory that is only counted.

``python tests/support/cuda_library.py KEY=VALUE... LEAVE`` is a ballast on such a card.
"""

from __future__ import annotations

import sys
from typing import Any

from llm_latency.machine import vram_ballast

CONTEXT = 300 << 20
"""What a context takes on this card."""


class Library:
    """Calls of cuda.h with its result codes; references are those of ctypes.

    Parameters
    ----------
    total
        The card's memory, in bytes.
    taken
        What others have of it.
    piece
        The largest piece that lies together.
    blind
        Allocations are not counted, as where a driver moves them into RAM.
    code
        What cuInit answers.
    cards
        How many there are.
    """

    def __init__(
        self,
        total: int = 24 << 30,
        taken: int = 0,
        piece: int = 1 << 62,
        blind: int = 0,
        code: int = 0,
        cards: int = 1,
    ) -> None:
        self.total, self.free, self.piece = total, total - taken, piece
        self.blind, self.code, self.cards = blind, code, cards
        self.allocated: list[int] = []

    def cuInit(self, flags: Any) -> int:
        return self.code

    def cuGetErrorName(self, code: Any, word: Any) -> int:
        word._obj.value = {100: b"CUDA_ERROR_NO_DEVICE"}.get(code.value)
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.cards
        return 0

    def cuDeviceGet(self, device: Any, number: Any) -> int:
        device._obj.value = 7
        return 0 if number.value < self.cards else 101

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        context._obj.value = 1
        self.free -= CONTEXT
        return 0 if device.value == 7 else 101

    def cuCtxSetCurrent(self, context: Any) -> int:
        return 0 if context.value == 1 else 201

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = self.free, self.total
        return 0

    def cuMemAlloc_v2(self, place: Any, size: Any) -> int:
        if size.value > min(self.free, self.piece):
            return 2
        place._obj.value = 1
        self.allocated.append(size.value)
        self.free -= 0 if self.blind else size.value
        return 0


if __name__ == "__main__":
    *values, leave = sys.argv[1:]
    given = {name: int(value) for name, value in (item.split("=") for item in values)}
    vram_ballast.serve(int(leave), Library(**given))
