"""Sizes of memory as users write them: ``6 GiB``, ``512M``, ``110 %``, ``+20 MiB``, bytes.

``GiB`` and ``G`` are powers of 1024, ``GB`` of 1000, as memory and disks are labelled. A share and
a ``+`` are of the model's file, whose size the caller knows. A share of something else is one from
0 to 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from llm_latency.errors import ParameterError
from llm_latency.plan.parameters import plain, shown

POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
LEAST_LIMIT = 2**24
"""Smallest limit of a process, in bytes: below it not even the engine's library can be loaded."""
SIZE = re.compile(r"(\+?)\s*(\d{1,15}(?:[.,]\d{1,15})?)\s*(?:([KMGT]?)(iB|B|)|(%))", re.IGNORECASE)

SHARE = re.compile(r"(\d{1,3}(?:[.,]\d{1,9})?)\s*%")


def size_bytes(name: str, value: Any, file_bytes: Callable[[], int] | None = None) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    name
        The parameter, for the error.
    value
        A number of bytes, text with a unit (``6 GiB``, ``512MB``, ``1.5G``), and where the
        model's file is known a share of it (``110 %``) or so much beyond it (``+20 MiB``).
    file_bytes
        Tells the size of the model's file; asked only where the value needs it.

    Raises
    ------
    ParameterError
        One sentence that names the value and what to write instead.
    """
    value = plain(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**62:
        return int(value)
    match = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or (file_bytes is None and (match[1] or match[5])):
        of_file = ", '110 %' of the model's file or '+20 MiB' beyond it" if file_bytes else ""
        raise ParameterError(
            f"{name}={shown(value)} is not a size; give bytes, or text such as '6 GiB' or "
            f"'512 MiB'{of_file}."
        )
    beyond, amount, percent = match[1], float(match[2].replace(",", ".")), match[5]
    if percent:
        size = amount / 100 * file_bytes() if file_bytes else 0.0
    else:
        power = POWERS[match[3].upper()]
        decimal = match[4].upper() == "B" and power
        size = amount * (1000**power if decimal else 1024**power)
    return round(size + (file_bytes() if beyond and file_bytes else 0))


def limit_bytes(name: str, value: Any, file_bytes: Callable[[], int] | None = None) -> int | None:
    """Return the most memory that a process may use, in bytes; ``None``: all there is.

    ``none`` and an empty text are no limit; else see :func:`size_bytes`.

    Raises
    ------
    ParameterError
        If it is no size, or too small for any process.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none")):
        return None
    size = size_bytes(name, value, file_bytes)
    if size < LEAST_LIMIT:
        raise ParameterError(
            f"{name}={shown(value)} is refused: it comes to {size:,} bytes, and a process "
            f"needs {LEAST_LIMIT // 2**20} MiB at least; give more, with its unit, such as "
            "'512 MiB', or none."
        )
    return size


def share(name: str, value: Any) -> float:
    """Return a share from 0 to 1, given as such or as text with a percent sign.

    Raises
    ------
    ParameterError
        If it is none.
    """
    value = plain(value)
    percent = SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    found = float(percent[1].replace(",", ".")) / 100 if percent else value
    if type(found) not in (int, float) or not 0 <= found <= 1:
        raise ParameterError(
            f"{name}={shown(value)} is refused: give a share, such as '99 %' or 0.99."
        )
    return float(found)
