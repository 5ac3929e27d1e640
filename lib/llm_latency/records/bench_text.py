"""llama-bench's output as people have it: decoded, its results found, other lines set aside.

PowerShell's ``>`` writes UTF-16, editors add a byte order mark, and what the engine's backends
say goes to the same file where a shell joins both streams. ``-o jsonl`` writes a result a line,
``-o json`` all of them as one array.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from llm_latency.errors import ParameterError


def read(file: Path) -> str:
    """Return a file's text, by the mark of its encoding.

    Raises
    ------
    ParameterError
        If it cannot be read.
    """
    try:
        content = file.expanduser().read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(
            f"{file} cannot be read ({error}); give the file that "
            "'llama-bench -o jsonl > FILE' wrote."
        ) from None


_BEGINNING = re.compile(r"[^\s,\[\]]")
"""What begins a result or another line: not what stands between the results of an array."""


def results(text: str, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the results in a text, however many lines each takes, and the lines beside them.

    Raises
    ------
    ParameterError
        If something that begins as a result is none: says where in ``name``.
    """
    found: list[dict[str, Any]] = []
    stray: list[str] = []
    decoder, number, seen, at = json.JSONDecoder(), 1, 0, 0
    while beginning := _BEGINNING.search(text, at):
        at = beginning.start()
        number, seen = number + text.count("\n", seen, at), at
        if text[at] == "{":
            place = f"line {number} of {name}"
            try:
                result, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                raise _refused(place, f"is not JSON ({error.msg})") from None
            found.append(_checked(result, place))
        else:
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            stray.append(text[text.rfind("\n", 0, at) + 1 : end].strip())
            at = end
    return found, stray


def parse(text: str, place: str = "the line") -> dict[str, Any]:
    """Return one line as llama-bench wrote it.

    Raises
    ------
    ParameterError
        If it is not JSON, or no result of llama-bench.
    """
    try:
        return _checked(json.loads(text), place)
    except json.JSONDecodeError as error:
        raise _refused(place, f"is not JSON ({error.msg} at column {error.colno})") from None


def _refused(place: str, why: str) -> ParameterError:
    return ParameterError(
        f"{place} {why}; remove it, or write the file again with 'llama-bench -o jsonl'."
    )


def _checked(line: Any, place: str) -> dict[str, Any]:
    """Return what was read, if it is a result of llama-bench."""
    if not isinstance(line, dict):
        raise _refused(place, "is not one JSON object")
    for key in ("n_prompt", "n_gen"):
        if type(line.get(key)) is not int or line[key] < 0:
            raise _refused(place, f"has no number of tokens in {key}")
    if line["n_prompt"] + line["n_gen"] == 0:
        raise _refused(place, "tests no token: n_prompt and n_gen are 0")
    samples = line.get("samples_ns") or [line.get("avg_ns")]
    if not isinstance(samples, list) or not all(_positive(value) for value in samples):
        raise _refused(place, "has no times above 0 in samples_ns or avg_ns")
    return line


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
