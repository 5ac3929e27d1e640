"""What benchmarks print, as people have it: decoded, its results found, other lines set aside.

PowerShell's ``>`` writes UTF-16, editors add a byte order mark, and what the engine's backends
say goes to the same file where a shell joins both streams. ``-o jsonl`` writes a result a line,
``-o json`` all of them as one array.

ik_llama.cpp's sweep-bench walks through a context: at each depth (``N_KV``) it decodes some tokens,
then evaluates a batch there. Each of its rows, of a table or as JSON, is two results: what
llama-bench calls ``tg`` and ``pp`` at that depth.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
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
    except (OSError, ValueError, RuntimeError) as error:  # no such home, a NUL in its name
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
            swept = list(_of_sweep(result)) if isinstance(result, dict) else []
            found += [_checked(one, place) for one in swept or [result]]
        else:
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            stray.append(text[text.rfind("\n", 0, at) + 1 : end].strip())
            at = end
    table, stray = _table(stray)
    return found + table, stray


SWEEP = {"PP": "pp", "TG": "tg", "N_KV": "n_kv", "T_PP s": "t_pp", "T_TG s": "t_tg"}
"""Columns of sweep-bench's table, and what they are called in its JSON."""
_SETTING = re.compile(r"(n_batch|n_ubatch|flash_attn|n_gpu_layers|n_threads) = (-?\d+)")


def _table(lines: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the results in the lines of sweep-bench's table, and the lines beside them."""
    found: list[dict[str, Any]] = []
    stray, settings = [], dict[str, int]()
    names: list[str] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "n_kv_max = " in line:
            settings = {name: int(value) for name, value in _SETTING.findall(line)}
        elif set(SWEEP) <= set(cells) and "B" not in cells:  # of batched-bench: many at once
            names = cells
        elif names and len(cells) == len(names) and set(line) <= set("|-"):
            continue
        elif names and len(cells) == len(names) and all(map(_is_number, cells[:7])):
            row = dict(zip(names, map(float, cells[:7]), strict=False))
            found += _of_sweep(settings | {SWEEP[name]: row[name] for name in SWEEP})
        else:
            stray.append(line)
    return (found, stray) if found else ([], lines)


def _of_sweep(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a row of sweep-bench as two results of llama-bench; none where it is none."""
    numbers = [row.get(name) for name in SWEEP.values()]
    if "pl" in row or not all(isinstance(number, int | float) for number in numbers):
        return
    common = {name: value for name, value in row.items() if _SETTING.match(f"{name} = 0")}
    for count, name in (("pp", "n_prompt"), ("tg", "n_gen")):
        yield common | {
            "experiment": "sweep-bench",
            "n_prompt": 0,
            "n_gen": 0,
            "n_depth": int(row["n_kv"]),
            name: int(row[count]),
            "avg_ns": float(row[f"t_{count}"]) * 1e9,
        }


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


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
