"""A model that was split into several files: named by the first, and all of them together.

llama.cpp finds the parts by their names, ``x-00001-of-00003.gguf`` and on, in one folder. What is
said of a model's file, its size, checksum and pages, is said of all parts together.
"""

from __future__ import annotations

import re
from pathlib import Path

from llm_latency.errors import ParameterError

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
"""Name of one part."""


def part_name(stem: str, number: int, count: int) -> str:
    """Return the name that llama.cpp looks for."""
    return f"{stem}-{number:05d}-of-{count:05d}.gguf"


def of(path: Path) -> list[Path]:
    """Return all files of the model that a file belongs to, in order; most models have one."""
    found = PART.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found[3])
    return [path.with_name(part_name(found[1], number, count)) for number in range(1, count + 1)]


def size_bytes(path: Path) -> int:
    """Return the bytes of all files of a model."""
    return sum(part.stat().st_size for part in of(path))


def check_first(name: str, path: Path) -> list[Path]:
    """Refuse a model that is named by a later part; return all of its files.

    Raises
    ------
    ParameterError
        One sentence that names the first part.
    """
    every = of(path)
    if path.name != every[0].name:
        raise ParameterError(
            f"model={name!r} is a part of a model in {len(every)} files; give the first, "
            f"{every[0].name!r}."
        )
    return every


def check(name: str, path: Path) -> None:
    """Refuse a model of which a part is missing, and one that is named by a later part.

    Raises
    ------
    ParameterError
        One sentence that names the part.
    """
    for part in check_first(name, path)[1:]:
        if not part.is_file():
            raise ParameterError(
                f"model={name!r} lacks its part {part.name!r} (looked in {path.parent.resolve()}); "
                "put it beside the others."
            )
