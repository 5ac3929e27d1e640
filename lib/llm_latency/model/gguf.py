"""A GGUF file's header, read only where what it says of its own size can be true.

A header is walked over from length to length: all must lie in the file, and be no more than any
model has. Numbers, short texts and short lists are kept; of a vocabulary of 150,000 words only
that there are so many, so that a header is read in a fraction of a second.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple


class Format(NamedTuple):
    """A number format of ggml: its number, in files and in calls, and the blocks it stores."""

    number: int
    block_values: int
    block_bytes: int

    @property
    def value_bytes(self) -> float:
        """Bytes of one value; a block's scale is shared out among its values."""
        return self.block_bytes / self.block_values


FORMATS = {
    "f32": Format(0, 1, 4), "f16": Format(1, 1, 2), "bf16": Format(30, 1, 2),
    "q4_0": Format(2, 32, 18), "q4_1": Format(3, 32, 20), "q5_0": Format(6, 32, 22),
    "q5_1": Format(7, 32, 24), "q8_0": Format(8, 32, 34),
}  # fmt: skip
"""Those that a KV cache can have, and that synthetic models are written in."""

END_OF_FORMATS = 43
"""ggml's first number that stands for no format yet; a file of a newer llama.cpp may have it."""

MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 17
MOST_ITEMS = 1 << 21
"""Items of all lists together: the largest vocabularies have half a million words and merges."""
MOST_DIMS = 4
NAME_BYTES = 1 << 16
"""Longest name; llama.cpp takes 63 bytes of a tensor's."""

WORD_BYTES = 256
"""Longest text that is kept of a walk: a name, and no template."""
LIST_ITEMS = 1 << 12
"""Longest list of numbers that is kept of a walk: one per layer, and no vocabulary."""
ALIGNMENT = 32
"""Bytes that tensors lie at a multiple of, where a file says nothing else."""

_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""How the numbers that a value can be are packed, by GGUF's number for the kind."""
_STRING, _ARRAY = 8, 9


class Entry(NamedTuple):
    """One tensor in a header's table; ``offset`` counts from the first tensor's byte."""

    name: str
    dims: tuple[int, ...]
    format: int
    offset: int


class Outline(NamedTuple):
    """What a walk keeps of a header.

    Attributes
    ----------
    values : dict
        By key: a number, a short text, or a short list of numbers.
    lengths : dict
        By key: how many items a list has.
    tensors : list of Entry
        The table of tensors.
    data_offset : int
        Where the first tensor lies.
    """

    values: dict[str, Any]
    lengths: dict[str, int]
    tensors: list[Entry]
    data_offset: int

    @property
    def formats(self) -> set[int]:
        """The number formats of its tensors, by ggml's numbers."""
        return {tensor.format for tensor in self.tensors}


def outline(path: Path, known_bytes: int | None = None) -> Outline:
    """Return the outline of a file's header.

    Parameters
    ----------
    path
        The file.
    known_bytes
        How many of its bytes are there, from the head; the rest is a hole. All by default.

    Raises
    ------
    Exception
        Of any kind, if the file is no GGUF or is damaged.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return _Walk(content, len(content) if known_bytes is None else known_bytes).header()


class _Walk:
    """A way through a header that only adds lengths up."""

    def __init__(self, content: mmap.mmap, end: int) -> None:
        self._content, self._end, self._at = content, end, 0
        self._order = "<"
        self._items = 0

    def header(self) -> Outline:
        """Go from the first byte to the end of the tensors' table."""
        values: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        table: list[Entry] = []
        if self._content[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self._skip(4)
        version = self._number("I")
        if not version & 0xFFFF:  # written for machines of the other byte order
            self._order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ValueError(f"version {version} of GGUF is not known")
        tensors, keys = self._number("Q"), self._number("Q")
        if tensors > MOST_TENSORS or keys > MOST_KEYS:
            raise ValueError(f"it says that it holds {tensors} tensors and {keys} keys")
        for _ in range(keys):
            key = self._name()
            value, length = self._value(self._number("I"))
            if value is not None:
                values[key] = value
            if length is not None:
                lengths[key] = length
        for _ in range(tensors):
            name, count = self._name(), self._number("I")
            if count > MOST_DIMS:
                raise ValueError(f"it says that a tensor has {count} dimensions")
            dims = self._numbers("Q", count)
            table.append(Entry(name, dims, self._number("I"), self._number("Q")))
            if table[-1].offset > len(self._content):
                raise ValueError("it says that a tensor lies behind its end")
        grid = values.get("general.alignment", ALIGNMENT)
        return Outline(values, lengths, table, math.ceil(self._at / grid) * grid)

    def _skip(self, count: int) -> None:
        if count > self._end - self._at:
            raise ValueError("the header is longer than what is there of the file")
        self._at += count

    def _number(self, form: str) -> Any:
        return self._numbers(form, 1)[0]

    def _numbers(self, form: str, count: int) -> tuple[Any, ...]:
        at, packed = self._at, f"{self._order}{count}{form}"
        self._skip(struct.calcsize(packed))
        return struct.unpack_from(packed, self._content, at)

    def _text(self, length: int) -> str:
        at = self._at
        self._skip(length)
        return self._content[at : self._at].decode("utf-8", "replace")

    def _name(self) -> str:
        length = self._number("Q")
        if length > NAME_BYTES:
            raise ValueError(f"it says that a name has {length} bytes")
        return self._text(length)

    def _value(self, kind: int) -> tuple[Any, int | None]:
        """Go over a value; return it where it is to be kept, and its length if it is a list."""
        if kind in _SCALARS:
            return self._number(_SCALARS[kind]), None
        if kind == _STRING:
            length = self._number("Q")
            if length <= WORD_BYTES:
                return self._text(length), None
            self._skip(length)
            return None, None
        if kind != _ARRAY:
            raise ValueError(f"it holds a value of kind {kind}")
        kind, count = self._number("I"), self._number("Q")
        self._items += count
        if self._items > MOST_ITEMS:
            raise ValueError(f"it says that a list has {count} items")
        if kind in _SCALARS and count <= LIST_ITEMS:
            return list(self._numbers(_SCALARS[kind], count)), count
        if kind in _SCALARS:
            self._skip(struct.calcsize("<" + _SCALARS[kind]) * count)
        elif kind == _STRING:
            for _ in range(count):
                self._skip(self._number("Q"))
        else:
            raise ValueError(f"it holds a list of kind {kind}")
        return None, count
