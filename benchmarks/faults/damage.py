"""One piece of damage to a model's file, by a seeded choice: a lie, a spoilt byte, a cut.

The map of a whole file says where each length, name, kind, number and weight of it lies; then
one of them is replaced by what should not be there.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COUNTS = (0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)
"""What lying counts say."""
ENTRY = ("length of the name", "name", "number of dimensions", "dimensions", "kind", "place")
"""What an entry of the table of tensors is made of."""


class Piece(NamedTuple):
    """A run of bytes of the file that means one thing."""

    name: str
    at: int
    size: int


class Map(NamedTuple):
    """Where everything lies in a file."""

    content: bytes
    header: list[Piece]
    values: list[list[Piece]]
    tensors: list[list[Piece]]
    data: list[Piece]


Damage = Callable[[bytearray, Map, random.Random], str]
"""Damages the content in one place, and says how."""


def survey(path: Path) -> Map:
    """Return where everything lies, by the gguf package's own reading of a whole file."""
    from gguf import GGUFReader

    reader = GGUFReader(path)

    def pieces(name: str, at: int, parts: list[tuple[str, int]]) -> list[Piece]:
        found = []
        for part, size in parts:
            found.append(Piece(f"{part} of {name}", at, size))
            at += size
        return found

    values = []
    for field in list(reader.fields.values())[3:]:
        sizes = [int(part.nbytes) for part in field.parts]
        names = ["length of the name", "name", "kind"]
        names += {8: ["length", "text"], 9: ["kind of items", "count"]}.get(field.types[0], [])
        names += ["item"] * (len(sizes) - len(names))
        values.append(pieces(field.name, field.offset, list(zip(names, sizes, strict=True))))
    table, data = [], []
    for tensor in reader.tensors:
        sizes = [int(part.nbytes) for part in tensor.field.parts]
        names = [
            "length of the name",
            "name",
            "number of dimensions",
            "dimensions",
            "kind",
            "place",
        ]
        parts = list(zip(names, sizes, strict=True))
        table.append(pieces(tensor.name, tensor.field.offset, parts))
        data.append(Piece(tensor.name, int(tensor.data_offset), int(tensor.n_bytes)))
    head = [("magic", 4), ("version", 4), ("count of tensors", 8), ("count of values", 8)]
    return Map(path.read_bytes(), pieces("the file", 0, head), values, table, data)


def _set(content: bytearray, piece: Piece, value: int | float) -> None:
    form = {1: "B", 2: "H", 4: "I", 8: "Q"}[min(piece.size, 8)]
    packed = (
        struct.pack("<f" if piece.size == 4 else "<d", value)
        if isinstance(value, float)
        else struct.pack(f"<{form}", value % 2 ** (8 * struct.calcsize(form)))
    )
    content[piece.at : piece.at + len(packed)] = packed


def _scramble(content: bytearray, piece: Piece, rng: random.Random) -> None:
    at = piece.at + rng.randrange(max(1, piece.size))
    content[at : at + 1] = bytes([rng.randrange(256)])


def _lie(content: bytearray, piece: Piece, rng: random.Random) -> str:
    """Put another number, or other bytes, in a piece."""
    if piece.size in (1, 2, 4, 8):
        near = int.from_bytes(content[piece.at : piece.at + piece.size], "little")
        choices: list[int | float] = [*COUNTS, near + 1, near - 1, near * 2, rng.getrandbits(63)]
        if piece.size >= 4 and piece.name.startswith("item"):
            choices += [float("nan"), float("inf"), -1.0, 0.0, 1e30]
        value = rng.choice(choices)
        _set(content, piece, value)
        return f"{piece.name} = {value}"
    _scramble(content, piece, rng)
    return f"a byte in the {piece.name}"


def damage_header(content: bytearray, where: Map, rng: random.Random) -> str:
    """Lie in the first 24 bytes."""
    return _lie(content, rng.choice(where.header), rng)


def damage_value(content: bytearray, where: Map, rng: random.Random) -> str:
    """Lie in what the header says of the model: sizes, words, kinds and lengths."""
    field = rng.choice(where.values)
    if rng.random() < 0.1:  # a whole value gone, or twice there
        start, end = field[0].at, field[-1].at + field[-1].size
        twice = rng.random() < 0.5
        content[start:end] = content[start:end] * 2 if twice else b""
        return f"{field[0].name.rpartition(' of ')[2]} is {'twice there' if twice else 'gone'}"
    # Mostly what it says, else how it is written.
    piece = rng.choice(field[3:] if rng.random() < 0.6 else field[:5])
    return _lie(content, piece, rng)


def damage_table(content: bytearray, where: Map, rng: random.Random) -> str:
    """Lie in the table of tensors: names, dimensions, kinds and places."""
    entry = rng.choice(where.tensors)
    piece = rng.choice(entry)
    if piece.name.startswith("dimensions"):
        number = rng.randrange(piece.size // 8)
        one = Piece(piece.name, piece.at + 8 * number, 8)
        return _lie(content, one, rng)
    if piece.name.startswith("kind") and rng.random() < 0.7:
        kind = rng.randrange(45)
        _set(content, piece, kind)
        return f"{piece.name} = {kind}"
    return _lie(content, piece, rng)


def damage_data(content: bytearray, where: Map, rng: random.Random) -> str:
    """Spoil weights: random bytes, or one number all over (NaN, infinity, nothing)."""
    piece = rng.choice(where.data)
    start, end = piece.at, piece.at + piece.size
    how = rng.choice(["random", "nan", "infinity", "zero", "one byte"])
    if how == "random":
        content[start:end] = rng.randbytes(piece.size)
    elif how == "one byte":
        _scramble(content, piece, rng)
    else:
        number = {"nan": b"\x00\x7e", "infinity": b"\x00\x7c", "zero": b"\x00\x00"}[how]
        content[start:end] = (number * piece.size)[: piece.size]
    return f"{how} in {piece.name}"


def damage_end(content: bytearray, where: Map, rng: random.Random) -> str:
    """Cut the file off, in any region, or let something follow."""
    table_at, data_at = where.tensors[0][0].at, where.data[0].at
    bounds = [0, 24, table_at, data_at, len(content)]
    region = rng.randrange(len(bounds))
    if region == len(bounds) - 1:
        content += rng.randbytes(rng.randrange(1, 4096))
        return "something follows"
    cut = rng.randrange(bounds[region], bounds[region + 1])
    del content[cut:]
    return f"cut off at {cut}"


KINDS: dict[str, Damage] = {
    "header": damage_header,
    "value": damage_value,
    "table": damage_table,
    "data": damage_data,
    "end": damage_end,
}


def damaged(where: Map, seed: int, number: int) -> tuple[str, bytearray]:
    """Return what was damaged in a file, and the file; the kinds of damage take turns."""
    kind = list(KINDS)[number % len(KINDS)]
    content = bytearray(where.content)
    how = KINDS[kind](content, where, random.Random(f"{seed}/{number}"))
    return f"{kind}: {how}", content
