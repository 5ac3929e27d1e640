"""How much memory a process may have, in words: ``none``, ``64 MiB``, ``110 %`` of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llm_latency import synthetic
from llm_latency.errors import ParameterError
from llm_latency.random_weights import check_quantisation, stored_bytes, tensors

UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
LEAST = 2**24
"""Smallest limit, in bytes: below it not even the engine's library can be loaded."""
WORDS = re.compile(r"(\d+(?:[.,]\d+)?)\s*(%|[kmg]i?b)", re.IGNORECASE)


def limit_bytes(value: Any, model: str) -> int | None:
    """Return a limit in bytes; ``None`` for ``none``.

    Parameters
    ----------
    value
        ``none``, an amount with its unit (KiB, MiB, GiB, kB, MB, GB), or a share of the model's
        file such as ``110 %``.
    model
        The model's name.

    Raises
    ------
    ParameterError
        One sentence that names the value and what to write instead.
    """
    text = str(value).strip().lower()
    if value is None or text == "none":
        return None
    found = WORDS.fullmatch(text)
    if not found:
        raise ParameterError(
            f"memory_limit={value!r} is refused: give none, an amount with its unit such as "
            "'64 MiB', or a share of the model's file such as '110 %'."
        )
    amount, unit = float(found[1].replace(",", ".")), found[2]
    size = round(amount / 100 * _file_bytes(value, model) if unit == "%" else amount * UNITS[unit])
    if size < LEAST:
        raise ParameterError(
            f"memory_limit={value!r} is refused: it comes to {size / 2**20:.1f} MiB, and a "
            f"process needs {LEAST // 2**20} MiB at least; give more."
        )
    return size


def _file_bytes(value: Any, model: str) -> int:
    """Return the size of the model's file, which need not be there yet if it is synthetic."""
    if synthetic.is_synthetic(model):
        named = synthetic.parse_name(model)
        kind = check_quantisation(named.quantisation)
        return sum(stored_bytes(tensor, kind) for tensor in tensors(named.shape))
    if model.startswith("hf:"):
        raise ParameterError(
            f"memory_limit={value!r} is refused: the size of a file on the Hub is not known before "
            "it is fetched; give an amount such as '4 GiB'."
        )
    return Path(model).expanduser().stat().st_size
