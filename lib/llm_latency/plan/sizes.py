"""How much memory a process may have: ``none``, ``64 MiB``, ``110 %`` of the file, ``+20 MiB``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.model import synthetic
from llm_latency.model.weights import check_quantisation, stored_bytes, tensors
from llm_latency.plan.parameters import shown

UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
LEAST = 2**24
"""Smallest limit, in bytes: below it not even the engine's library can be loaded."""
WORDS = re.compile(r"(\+?)\s*(\d{1,12}(?:[.,]\d{1,12})?)\s*(%|[kmg]i?b)", re.IGNORECASE)


def limit_bytes(value: Any, model: str) -> int | None:
    """Return a limit in bytes; ``None`` for ``none``.

    Parameters
    ----------
    value
        ``none``, an amount with its unit (KiB, MiB, GiB, kB, MB, GB), a share of the model's
        file such as ``110 %``, or ``+20 MiB``: so much beyond the model's file.
    model
        The model's name.

    Raises
    ------
    ParameterError
        One sentence that names the value and what to write instead.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    if value is None or text == "none":
        return None
    found = WORDS.fullmatch(text)
    if not found:
        raise ParameterError(
            f"memory_limit={shown(value)} is refused: give none, an amount with its unit such as "
            "'64 MiB', a share of the model's file such as '110 %', or '+20 MiB' beyond the file."
        )
    beyond, amount, unit = found[1], float(found[2].replace(",", ".")), found[3]
    share = amount / 100 * _file_bytes(value, model) if unit == "%" else amount * UNITS[unit]
    size = round(share + (_file_bytes(value, model) if beyond else 0))
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
